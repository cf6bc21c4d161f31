"""Our check engine against HAProxy's checks: the CPU time each takes for the same checks at the same rate.

`make bench-checks`. Needs root, two processors and no lab: it runs on this machine's kernel, in a network namespace
of its own. The side that is measured has one processor to itself, the servers it checks have another. Prints
progress, then two tables; the same as JSON in `build/bench-checks.json`. Only the ratios of one run say anything.

Within a window all is in its usual run, so what comes once a minute is not in it: connections that are kept are
renewed, and TLS sessions that are resumed are proven anew, each 1/60 of a fresh check on top. HAProxy never does.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from lab import check_load, measuring, netns
from lab import check_peers as peers
from lab.check_figures import Bound, Duel, Reading, Side, document, summary
from lab.figures import milliseconds
from lab.locks import alone
from lab.measuring import cpu_time, running, say
from lab.waiting import until

ROUNDS = 5
WINDOW = 4.0  # seconds, a whole number of intervals
TRIES = 3  # for one reading that counts
PATIENCE = 360.0  # seconds: from then on what does not count is not repeated
SETTLE = 1.2  # seconds after every target has had its first check
_MANY, _SOME, _FEW, _PROGRAMS = 5000, 1000, 10, 100  # targets, each checked once a second
_SECURE = 200  # a thousand of them fill a whole processor, and HAProxy falls behind
_PORTS = {
    "tcp": peers.TCP_PORT,
    "apart": peers.TCP_PORT,
    "http": peers.HTTP_PORT,
    "kept": peers.HTTP_PORT,
    "https": peers.HTTPS_PORT,
}
_PATIENCE = 10.0  # seconds until every target has had its first check
_LOCK = Path("/run/lock/anycast-bench-checks")
_GROUP = "anycast-bench-checks"  # control group
_NICE = -10  # for both sides and the targets: other programs of this machine get in the way less
_STATUS = b"GET / HTTP/1.0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Work:
    """So many targets, each checked once a second."""

    name: str
    count: int
    window: float = WINDOW


class Bench:
    """Where the measurements run: processors, the directory with all the files."""

    def __init__(self, directory: Path, *, loud: bool) -> None:
        """`loud`: our engine reports every result, instead of those that say something."""
        self._directory = directory
        self._loud = loud
        self._alone = measuring.apart("bench-checks")

    @property
    def processors(self) -> tuple[int, int]:
        """Masks: of that of the side that is measured, and of all others."""
        others = sum(1 << number for number in os.sched_getaffinity(0))
        return 1 << int(self._alone[-1]), others

    def our_reading(self, work: Work) -> Reading:
        with self._ours(work) as (pid, answer):
            _wait(lambda: answer()["seen"] >= work.count)
            before = answer()
            counter = self._counter(work) or (lambda: int(answer()["reports"]))
            found = self._window(work, partial(cpu_time, pid), counter)
            after = answer()
            if failed := after["failed"] - before["failed"]:
                say(f"    {after['detail']}")
            return replace(found, failed=failed, grown=after["grown"])

    def our_programs(self, work: Work) -> Reading:
        """With all that is started for it."""
        with measuring.group(_GROUP) as group, self._ours(work) as (pid, answer):
            group.take(pid)
            _wait(lambda: answer()["seen"] >= work.count)
            before = answer()
            found = self._window(work, group.cpu, lambda: int(answer()["reports"]))
            return replace(found, failed=answer()["failed"] - before["failed"])

    def bare_programs(self, work: Work) -> Reading:
        """The same programs as often, started and waited for."""
        starter = Path(__file__).with_name("spawn_load.py")
        argv = [*self._alone, sys.executable, "-I", "-S", str(starter), check_load.PROGRAM, str(work.count)]
        with measuring.group(_GROUP) as group, running(argv) as process:
            group.take(process.pid)
            began = time.monotonic()
            return self._window(work, group.cpu, lambda: round((time.monotonic() - began) * work.count))

    def their_reading(self, work: Work) -> Reading:
        with self._haproxy(work) as (pid, failing):
            _wait(lambda: not failing())
            counter = self._counter(work)
            assert counter is not None
            found = self._window(work, partial(cpu_time, pid), counter)
            return replace(found, failed=failing())

    def _window(self, work: Work, used: Callable[[], float], count: Callable[[], int]) -> Reading:
        time.sleep(SETTLE)
        checks, began, cpu = count(), time.monotonic(), used()
        time.sleep(work.window)
        cpu, ended = used() - cpu, time.monotonic()
        return Reading(checks=count() - checks, failed=0, cpu=cpu, seconds=ended - began)

    def _counter(self, work: Work) -> Callable[[], int] | None:
        """What the targets have seen so far: connections for TCP, requests for HTTP. None: there are none."""
        if work.name in {"tcp", "apart"}:
            # Of the namespace's kernel: whoever resets at once is never seen by accept(2).
            return measuring.opens
        if work.name == "command":
            return None
        asked = 0

        def requests() -> int:
            nonlocal asked
            asked += 1
            return peers.requests(peers.ask(self._directory / "nginx.sock", _STATUS)) - asked

        return requests

    @contextlib.contextmanager
    def _ours(self, work: Work) -> Iterator[tuple[int, Callable[[], dict[str, Any]]]]:
        kind, first = _seen(work)
        argv = [*self._alone, sys.executable, "-m", "lab.check_load", kind, str(work.count)]
        argv += [str(_PORTS.get(work.name, peers.TCP_PORT)), "--host", peers.HOST, f"--first={first}"]
        argv += ["--ca", str(self._directory / "ca.pem")]
        if self._loud or work.name == "command":  # else nobody could count them
            argv.append("--loud")
        with running(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            asking, answering = process.stdin, process.stdout

            def answer() -> dict[str, Any]:
                asking.write("\n")
                asking.flush()
                found: dict[str, Any] = json.loads(answering.readline())
                return found

            yield process.pid, answer

    @contextlib.contextmanager
    def _haproxy(self, work: Work) -> Iterator[tuple[int, Callable[[], int]]]:
        conf = self._directory / "haproxy.cfg"
        kind, first = _seen(work)
        conf.write_text(peers.haproxy_conf(kind, work.count, self._directory, first))
        stats = self._directory / "haproxy.sock"
        stats.unlink(missing_ok=True)

        with running([*self._alone, "haproxy", "-db", "-q", "-f", str(conf)]) as process:

            def failing() -> int:
                if process.poll() is not None:
                    raise RuntimeError(f"HAProxy has ended with status {process.returncode}")
                try:
                    return work.count - peers.well(peers.ask(stats, b"show stat\n"))
                except (FileNotFoundError, ConnectionRefusedError):
                    return work.count

            yield process.pid, failing


def _seen(work: Work) -> tuple[str, IPv4Address]:
    """The kind of check, and the address of the first target."""
    return ("tcp", peers.APART) if work.name == "apart" else (work.name, check_load.FIRST)


def _wait(done: Callable[[], bool]) -> None:
    """For some time. Whoever is not done then fails or is slow, which the reading shows."""
    with contextlib.suppress(TimeoutError):
        until(done, "a first check of every target", _PATIENCE)


def measure(label: str, side: Side, work: Work, read: Callable[[], Reading], ends: float) -> None:
    """One reading more for `side`, or none if none of the tries counts; one try is all after `ends`."""
    for _ in range(TRIES):
        found = read()
        why = found.void(work.count)
        line = f"{label}: {milliseconds(found.per_thousand)} CPU for 1,000 checks, {found.rate:,.1f}/s"
        say(f"{line}, void: {why}" if why else line)
        if not why:
            side.readings.append(found)
            return
        side.void += 1
        if time.monotonic() > ends:
            return


class Works:
    """Everything that is measured, and what it amounts to."""

    def __init__(self, window: float) -> None:
        many, fresh, kept = (Work(*it, window) for it in (("tcp", _MANY), ("http", _SOME), ("kept", _SOME)))
        secure, programs = Work("https", _SECURE, window), Work("command", _PROGRAMS, window)
        few, apart = Work("tcp", _FEW, 2 * window), Work("apart", _MANY, window)
        self.all = (many, apart, fresh, kept, secure, few, programs)
        self.ours, self.theirs = ({work: Side() for work in self.all} for _ in range(2))
        self._memory = self.ours[many]
        self.rivals = {many, apart, fresh, secure, few}  # HAProxy keeps no connection for the next check
        self.duels = [
            self._duel("5,000 TCP/s", 0.8, many),
            self._duel("the same, server apart", 0.8, apart),
            self._duel("1,000 HTTP/s, fresh", 0.65, fresh),
            self._duel("1,000 HTTP/s, kept", 0.25, kept, fresh),
            self._duel(f"{_SECURE} HTTPS/s, resumed", 1.5, secure),
            self._duel("10 TCP/s", 1.5, few),
            Duel(
                work=f"{_PROGRAMS} commands/s",
                peer="starting them",
                goal=1.05,
                ours=self.ours[programs],
                theirs=self.theirs[programs],
            ),
        ]

    def _duel(self, name: str, goal: float, work: Work, against: Work | None = None) -> Duel:
        peer = "haproxy" if against is None else f"haproxy, {against.name} fresh"
        return Duel(
            work=name, peer=peer, goal=goal, ours=self.ours[work], theirs=self.theirs[against or work]
        )

    def bounds(self) -> list[Bound]:
        grown = [one.grown / 2**20 for one in self._memory.readings]
        return [
            Bound(work="memory, 5,000 TCP/s", unit="MiB", goal=25, side=self._memory, values=grown),
        ]


def main(argv: list[str] | None = None) -> int:
    parser = measuring.options("lab.bench_checks", __doc__, "bench-checks.json")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--window", type=float, default=WINDOW, help="seconds of each reading")
    parser.add_argument(
        "--only", action="append", help="a work that is measured, by name and count: tcp-5000"
    )
    parser.add_argument("--loud", action="store_true", help="our engine reports every single result")
    options = parser.parse_args(argv)
    measuring.ready("bench-checks", root=True)
    os.nice(_NICE)
    works = Works(options.window)
    # Two at once would measure each other.
    turn = alone(_LOCK, lambda: say("waiting for another run of bench-checks on this machine"))
    with turn, tempfile.TemporaryDirectory(prefix="bench-checks-") as name, netns.fresh():
        ends = time.monotonic() + PATIENCE
        bench = Bench(Path(name), loud=options.loud)
        with peers.targets(Path(name)), peers.apart(*bench.processors):
            for number in range(options.rounds):
                for work in works.all:
                    if options.only and f"{work.name}-{work.count}" not in options.only:
                        continue
                    read = bench.our_programs if work.name == "command" else bench.our_reading
                    sides = [("ours", works.ours[work], partial(read, work))]
                    if work in works.rivals:
                        sides.append(("haproxy", works.theirs[work], partial(bench.their_reading, work)))
                    elif work.name == "command":
                        sides.append(("alone", works.theirs[work], partial(bench.bare_programs, work)))
                    # Who begins changes with the round.
                    for who, side, read in sides if number % 2 == 0 else reversed(sides):
                        label = f"round {number + 1}: {work.name} {work.count:,}/s: {who}"
                        measure(label, side, work, read, ends)
    bounds = works.bounds()
    told = {"haproxy": version("haproxy", "-v"), "nginx": version("nginx", "-v"), "python": sys.version}
    found = {**document(works.duels, bounds), **told}
    measuring.leave(options.json, found, summary(works.duels, bounds), anew=True)
    return 0


def version(*argv: str) -> str:
    found = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
    return found.stdout.splitlines()[0]


if __name__ == "__main__":
    sys.exit(main())
