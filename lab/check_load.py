"""The process whose CPU time `lab.bench_checks` measures: the agent's check engine with real targets, nothing else.

Asks nothing of the core: what a probe of a healthy target leads to there, to be scheduled anew, is done here at
once. Answers every line on its standard input with one line of JSON, and ends with its standard input.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import resource
import sys
from ipaddress import IPv4Address
from pathlib import Path

from anycast.agent.checker import Checker
from anycast.core.health.phase import Outcome, Result
from anycast.core.values.checks import IdleCheck
from anycast.core.values.configuration import Check, CheckKind, CommandCheck, HttpCheck, Target, TcpCheck
from anycast.probes.wires.wires import State

PROGRAM = "/bin/true"
FIRST = IPv4Address("127.1.0.1")
_PAGE = resource.getpagesize()


def address(number: int, first: IPv4Address = FIRST) -> IPv4Address:
    """Of target `number`: all of 127.0.0.0/8 is the loopback, so one listening socket is many targets."""
    return first + number


def kind(name: str, host: str, ca: str | None) -> CheckKind:
    """The check of a work; `host` and `ca` for those that want them."""
    match name:
        case "tcp" | "tripwire":
            return TcpCheck()
        case "idle":
            return IdleCheck()
        case "http" | "kept":
            return HttpCheck(tls=False, host=host, expect=frozenset({200}), keep_alive=name == "kept")
        case "https":
            return HttpCheck(tls=True, host=host, expect=frozenset({200}), ca=ca)
        case "command":
            return CommandCheck(argv=(PROGRAM,))
    raise ValueError(name)


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


class Load:
    """The engine, and what it has reported."""

    def __init__(self, *, interval: float, quiet: bool, before: int) -> None:
        """`before`: resident bytes when nothing was made yet."""
        self._interval = interval
        self._quiet = quiet
        self._before = before
        self._checker = Checker(self._report)
        self._seen: set[Target] = set()
        self._reports = self._failed = 0
        self._detail = ""

    def begin(self, targets: frozenset[Target]) -> None:
        self._checker.set_targets(targets)

    def _report(self, target: Target, result: Result) -> None:
        self._reports += 1
        self._seen.add(target)
        if result.outcome is not Outcome.OK:
            self._failed += 1
            self._detail = result.detail
        self._checker.schedule(target, self._interval, quiet=self._quiet)

    def answer(self) -> str:
        return json.dumps(
            {
                "seen": len(self._seen),  # targets with at least one result
                "reports": self._reports,
                "failed": self._failed,
                "detail": self._detail,
                "grown": resident() - self._before,
                "standing": self._checker.tripwires.counts[State.STANDING],
            }
        )


async def serve(options: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    gc.collect()
    load = Load(interval=options.interval, quiet=not options.loud, before=resident())
    check = Check(
        kind=kind(options.work, options.host, options.ca),
        interval=options.interval,
        timeout=min(1.0, options.interval),
        tripwire=options.work == "tripwire",
    )
    # One check for all of them, as the configuration of one pool gives.
    load.begin(
        frozenset(
            Target(address=address(number, options.first), port=options.port, check=check)
            for number in range(options.count)
        )
    )
    ended = asyncio.Event()

    def asked() -> None:
        if lines := os.read(sys.stdin.fileno(), 4096):
            for _ in range(lines.count(b"\n")):
                print(load.answer(), flush=True)
        else:
            loop.remove_reader(sys.stdin.fileno())
            ended.set()

    loop.add_reader(sys.stdin.fileno(), asked)
    await ended.wait()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.check_load", description=__doc__)
    parser.add_argument("work", choices=("tcp", "http", "kept", "https", "command", "tripwire", "idle"))
    parser.add_argument("count", type=int)
    parser.add_argument("port", type=int)
    parser.add_argument("--interval", type=float, default=1.0)
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--first", type=IPv4Address, default=FIRST, help="the address of the first target")
    parser.add_argument("--ca")
    parser.add_argument("--loud", action="store_true", help="every single result is reported")
    asyncio.run(serve(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
