"""`anycast agent` of one build with a kernel in memory, watched from within: how long its event loop stands.

`PYTHONPATH=ROOT python -P watched_agent.py SOCKET agent --config FILE`, with `--checked` before `agent` where the
checks are real; without it every target is well until somebody says otherwise at SOCKET. Runs with the build of
commit 3b5e590 and with every later one.

SOCKET takes one line and answers with one of JSON: `mark` begins to watch anew, `read` tells what was seen since,
`fail FIRST STEP COUNT` and `heal ...` report an outcome of the checks of COUNT addresses at once.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import socket
import sys
import threading
import time
from asyncio import base_events
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

sys.modules.setdefault("rich", None)  # type: ignore[arg-type]  # for development: an installed build has none

from lab import memory_agent  # noqa: E402

# In the order of the page, for a target is found by its address.
Outcome: Any = getattr(memory_agent, "Outcome")  # noqa: B009
Result: Any = getattr(memory_agent, "Result")  # noqa: B009


BATCH = 500  # results


class Watch:
    """CPU time of the loop's thread in each turn: what others on the machine take is not in it."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.first_turn: Callable[[], None] | None = None  # what is done in it
        self.mark()

    def mark(self) -> None:
        self.longest, self.turns, self.began = 0.0, 0, time.monotonic()

    def turn(self, took: float) -> None:
        self.turns += 1
        self.longest = max(self.longest, took)

    def read(self) -> dict[str, float]:
        return {"longest": self.longest, "turns": self.turns, "seconds": time.monotonic() - self.began}


def watch_turns(watch: Watch) -> None:
    """From now on every turn of any event loop of the main thread is told to `watch`."""
    original: Any = getattr(base_events.BaseEventLoop, "_run_once")  # noqa: B009

    def run_once(loop: asyncio.AbstractEventLoop) -> None:
        watch.loop = loop
        if watch.first_turn is not None:
            begin, watch.first_turn = watch.first_turn, None
            begin()
        began = time.thread_time()
        original(loop)
        watch.turn(time.thread_time() - began)

    setattr(base_events.BaseEventLoop, "_run_once", run_once)  # noqa: B010


class ScriptedChecks(memory_agent.NoChecks):
    """Each target is reported well when it is new; from then on as it is said at the socket."""

    made: ScriptedChecks | None = None

    def __init__(self, report: Any, *more: Any, **named: Any) -> None:
        super().__init__(report, *more, **named)
        self._tell = report
        self._targets: dict[Any, list[Any]] = {}
        self._known: set[Any] = set()
        self._adoption: Iterator[int] = iter(())
        ScriptedChecks.made = self

    def set_targets(self, targets: Any, *_: Any) -> None:
        """In turns of the event loop, as the checker does."""
        self._adoption = self._adopt(targets)
        self._go_on()

    def _go_on(self) -> None:
        if next(self._adoption, None) is not None:
            asyncio.get_running_loop().call_soon(self._go_on)

    def _adopt(self, targets: Any) -> Iterator[int]:
        known = list(self._known)
        for at in range(0, len(known), BATCH):
            for target in known[at : at + BATCH]:
                if target not in targets:
                    self._known.remove(target)
                    self._targets[target.address].remove(target)
            yield at
        coming = iter(targets)
        while some := list(itertools.islice(coming, BATCH)):
            for target in some:
                if target not in self._known:
                    self._known.add(target)
                    self._targets.setdefault(target.address, []).append(target)
                    self._tell(target, Result(outcome=Outcome.OK))
            yield len(some)

    def probe_anew(self) -> None:
        """Spread, as the checker's: all at once they could take so long that the agent asks again."""
        loop = asyncio.get_running_loop()
        targets = [target for found in self._targets.values() for target in found]
        for at in range(0, len(targets), BATCH):
            loop.call_later(at / len(targets), self._well, targets[at : at + BATCH])

    def _well(self, targets: list[Any]) -> None:
        for target in targets:
            self._tell(target, Result(outcome=Outcome.OK))

    def say(self, outcome: str, first: str, step: int, count: int) -> None:
        start = ip_address(first)
        for number in range(count):
            for target in self._targets[start + number * step]:
                self._tell(target, Result(outcome=Outcome[outcome]))


def answer(watch: Watch, line: str) -> dict[str, object]:
    word, *rest = line.split()
    match word:
        case "mark":
            watch.mark()
        case "read":
            return {**watch.read()}
        case "fail" | "heal":
            checks, loop = ScriptedChecks.made, watch.loop
            assert checks is not None
            assert loop is not None
            first, step, count = rest
            outcome = "FAIL" if word == "fail" else "OK"
            at = time.monotonic()
            loop.call_soon_threadsafe(checks.say, outcome, first, int(step), int(count))
            return {"at": at}
    return {}


def serve(watch: Watch, listener: socket.socket) -> None:
    while True:
        line, _ = listener.accept()
        with line, line.makefile("rw") as file:
            for text in file:
                file.write(json.dumps(answer(watch, text)) + "\n")
                file.flush()


def run(argv: list[str]) -> int:
    from anycast.agent import engine
    from anycast.cli.main import main as anycast

    place, *arguments = argv
    checked = arguments[:1] == ["--checked"]
    watch = Watch()
    watch_turns(watch)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(place)
    listener.listen()
    # Not before the loop turns: an agent that starts has one thread.
    watch.first_turn = threading.Thread(target=serve, args=(watch, listener), daemon=True).start
    use_memory_kernel()
    if not checked:
        setattr(engine, "Checker", ScriptedChecks)  # noqa: B010
    return anycast(arguments[checked:])


def use_memory_kernel() -> None:
    from anycast.agent import main

    setattr(main, "Kernel", memory_agent.MemoryKernel)  # noqa: B010


if __name__ == "__main__":
    Path(sys.argv[1]).unlink(missing_ok=True)
    os.umask(0o077)
    sys.exit(run(sys.argv[1:]))
