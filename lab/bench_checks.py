"""Our check engine against HAProxy's checks: the CPU time each takes for the same checks at the same rate.

`make bench-checks`. Needs root, two processors and no lab: it runs on this machine's kernel, in a network namespace
of its own. The side that is measured has one processor to itself, the servers it checks have another. Prints
progress, then two tables; the same as JSON in `build/bench-checks.json`. Only the ratios of one run say anything.

Within a window all is in its usual run, so what comes once a minute is not in it: connections that are kept are
renewed, and TLS sessions that are resumed are proven anew, each 1/60 of a fresh check on top. HAProxy never does.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import check_peers as peers
from lab import configs, netns
from lab.check_figures import Bound, Duel, Reading, Side, document, summary
from lab.figures import milliseconds

ROUNDS = 5
WINDOW = 5.0  # seconds, a whole number of intervals
TRIES = 3  # for one reading that counts
SETTLE = 1.2  # seconds after every target has had its first check
DESCRIPTORS = 20000
_MANY, _SOME, _FEW, _PROGRAMS = 5000, 1000, 10, 100  # targets, each checked once a second
_SECURE = 500  # more of them than that fill a whole processor, and HAProxy falls behind
_PORTS = {"tcp": peers.TCP_PORT, "http": peers.HTTP_PORT, "kept": peers.HTTP_PORT, "https": peers.HTTPS_PORT}
_PATIENCE = 30.0  # seconds until every target has had its first check
_POLL = 0.1
_STATUS = b"GET / HTTP/1.0\r\n\r\n"

STARTED = time.monotonic()


def say(text: str) -> None:
    """One line of progress, with the seconds since the start."""
    print(f"[{time.monotonic() - STARTED:5.1f}] {text}", flush=True)


def cpu_time(pid: int) -> float:
    """Seconds of CPU time a process has had, exact to the microsecond: /proc knows hundredths."""
    return time.clock_gettime((~pid << 3) | 2)  # its CPUCLOCK_SCHED, see clock_getcpuclockid(3)


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
        processors = sorted(os.sched_getaffinity(0))
        if len(processors) < 2:
            raise SystemExit(
                "bench-checks: needs two processors: one for the side measured, one for its targets"
            )
        self._directory = directory
        self._loud = loud
        self.aside = ("taskset", "-c", str(processors[0]))
        self._alone = ("taskset", "-c", str(processors[-1]))
        os.sched_setaffinity(0, processors[:-1])

    def our_reading(self, work: Work) -> Reading:
        with self._ours(work) as (pid, answer):
            wait(lambda: answer()["seen"] >= work.count)
            before = answer()
            reading = self._window(work, pid, lambda: answer()["reports"])
            after = answer()
            cpu = reading.cpu
            if work.name == "command":
                cpu += after["children"] - before["children"]
            if failed := after["failed"] - before["failed"]:
                say(f"    {after['detail']}")
            return Reading(
                checks=reading.checks, failed=failed, cpu=cpu, seconds=reading.seconds, grown=after["grown"]
            )

    def their_reading(self, work: Work) -> Reading:
        with self._haproxy(work) as (pid, failing):
            wait(lambda: not failing())
            reading = self._window(work, pid, None)
            return Reading(checks=reading.checks, failed=failing(), cpu=reading.cpu, seconds=reading.seconds)

    def _window(self, work: Work, pid: int, reports: Callable[[], int] | None) -> Reading:
        time.sleep(SETTLE)
        count = self._count(work)
        if count is None:
            assert reports is not None
            count = reports
        checks, began, cpu = count(), time.monotonic(), cpu_time(pid)
        time.sleep(work.window)
        cpu, ended = cpu_time(pid) - cpu, time.monotonic()
        return Reading(checks=count() - checks, failed=0, cpu=cpu, seconds=ended - began)

    def _count(self, work: Work) -> Callable[[], int] | None:
        """What the targets have seen so far: connections for TCP, requests for HTTP. None: nobody saw anything."""
        if work.name == "tcp":
            # Of the namespace's kernel: whoever resets at once is never seen by accept(2).
            return lambda: peers.opens(Path("/proc/thread-self/net/snmp").read_text())
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
        argv = [*self._alone, sys.executable, "-m", "lab.check_load", work.name, str(work.count)]
        argv += [str(_PORTS.get(work.name, peers.TCP_PORT)), "--host", peers.HOST]
        argv += ["--ca", str(self._directory / "ca.pem")]
        if self._loud or work.name == "command":  # else nobody could count them
            argv.append("--loud")
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            asking, answering = process.stdin, process.stdout

            def answer() -> dict[str, Any]:
                asking.write("\n")
                asking.flush()
                found: dict[str, Any] = json.loads(answering.readline())
                return found

            try:
                yield process.pid, answer
            finally:
                process.kill()

    @contextlib.contextmanager
    def _haproxy(self, work: Work) -> Iterator[tuple[int, Callable[[], int]]]:
        conf = self._directory / "haproxy.cfg"
        conf.write_text(peers.haproxy_conf(work.name, work.count, self._directory))
        stats = self._directory / "haproxy.sock"
        stats.unlink(missing_ok=True)

        def failing() -> int:
            try:
                return work.count - peers.well(peers.ask(stats, b"show stat\n"))
            except (FileNotFoundError, ConnectionRefusedError):
                return work.count

        with subprocess.Popen([*self._alone, "haproxy", "-db", "-q", "-f", str(conf)]) as process:
            try:
                yield process.pid, failing
            finally:
                process.kill()


def wait(done: Callable[[], bool]) -> None:
    until = time.monotonic() + _PATIENCE
    while not done():
        if time.monotonic() > until:
            raise RuntimeError("the targets' first checks did not come to an end")
        time.sleep(_POLL)


def measure(label: str, side: Side, wanted: float, read: Callable[[], Reading]) -> Reading | None:
    """One reading more for `side`. None: none of the tries counts."""
    for _ in range(TRIES):
        found = read()
        why = found.void(wanted)
        line = f"{label}: {milliseconds(found.per_thousand)} CPU for 1,000 checks, {found.rate:,.1f}/s"
        say(f"{line}, void: {why}" if why else line)
        if not why:
            side.readings.append(found)
            return found
        side.void += 1
    return None


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.bench_checks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--window", type=float, default=WINDOW, help="seconds of each reading")
    parser.add_argument(
        "--only", action="append", help="works that are measured, by name and count: tcp-5000"
    )
    parser.add_argument("--loud", action="store_true", help="our engine reports every single result")
    parser.add_argument("--json", type=Path, default=configs.checkout() / "build" / "bench-checks.json")
    options = parser.parse_args(argv)
    window = options.window
    works = [
        Work("tcp", _MANY, window),
        Work("http", _SOME, window),
        Work("kept", _SOME, window),
        Work("https", _SECURE, window),
        Work("tcp", _FEW, 2 * window),
        Work("command", _PROGRAMS, window),
    ]
    ours, theirs = {work: Side() for work in works}, {work: Side() for work in works}
    many, fresh, kept, secure, few, programs = works
    duels = [
        Duel(work="5,000 TCP/s", peer="haproxy", goal=1.0, ours=ours[many], theirs=theirs[many]),
        Duel(work="1,000 HTTP/s, fresh", peer="haproxy", goal=1.1, ours=ours[fresh], theirs=theirs[fresh]),
        Duel(
            work="1,000 HTTP/s, kept", peer="haproxy, fresh", goal=0.4, ours=ours[kept], theirs=theirs[fresh]
        ),
        Duel(work="500 HTTPS/s, resumed", peer="haproxy", goal=1.5, ours=ours[secure], theirs=theirs[secure]),
        Duel(work="10 TCP/s", peer="haproxy", goal=1.5, ours=ours[few], theirs=theirs[few]),
    ]
    cost = Bound(work="1,000 commands", unit="CPU-s", goal=1.4, side=ours[programs])
    memory = Bound(work="memory, 5,000 TCP/s", unit="MiB", goal=25, side=ours[many])
    wanted = [work for work in works if options.only is None or f"{work.name}-{work.count}" in options.only]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was begun is ended on the way out
    soft, hard = DESCRIPTORS, max(DESCRIPTORS, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with tempfile.TemporaryDirectory(prefix="bench-checks-") as name, netns.fresh():
        directory = Path(name)
        bench = Bench(directory, loud=options.loud)
        with peers.targets(directory, bench.aside):
            for number in range(options.rounds):
                for work in wanted:
                    label = f"round {number + 1}: {work.name} {work.count:,}/s"

                    def us(work: Work = work, label: str = label) -> None:
                        found = measure(
                            f"{label}: ours", ours[work], work.count, lambda: bench.our_reading(work)
                        )
                        if found is not None and work == many:
                            memory.values.append(found.grown / 2**20)
                        if found is not None and work == programs:
                            cost.values.append(found.per_thousand)

                    def them(work: Work = work, label: str = label) -> None:
                        if work not in (kept, programs):
                            measure(
                                f"{label}: haproxy",
                                theirs[work],
                                work.count,
                                lambda: bench.their_reading(work),
                            )

                    # Who begins changes with the round.
                    for side in (us, them) if number % 2 == 0 else (them, us):
                        side()
    told = {"haproxy": version("haproxy", "-v"), "nginx": version("nginx", "-v"), "python": sys.version}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({**document(duels, [cost, memory]), **told}, indent=1) + "\n")
    print(f"\n{summary(duels, [cost, memory])}\nthe same as JSON: {options.json}", flush=True)
    return 0


def version(*argv: str) -> str:
    found = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
    return found.stdout.splitlines()[0]


if __name__ == "__main__":
    sys.exit(main())
