"""What every measurement does: takes its options, gets a processor and its turn, says how far it is, leaves its figures."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lab import configs

DESCRIPTORS = 20_000

STARTED = time.monotonic()

_TCP = re.compile(r"^Tcp: (.*)$", re.MULTILINE)


def say(text: str) -> None:
    """One line of progress, with the seconds since the start."""
    print(f"[{time.monotonic() - STARTED:5.1f}] {text}", flush=True)


def options(module: str, about: str | None, file: str) -> argparse.ArgumentParser:
    """Of `python -m module`. `file`: where the figures are left, in the directory build."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=about)
    parser.add_argument("--json", type=Path, default=configs.checkout() / "build" / file)
    return parser


def ready(program: str, *, root: bool = False) -> None:
    """What was begun is ended on the way out, and there are descriptors for all that is opened."""
    if root and os.geteuid() != 0:
        raise SystemExit(f"{program}: needs root, for a network namespace (sudo make bench-checks)")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    hard = max(DESCRIPTORS, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    with contextlib.suppress(ValueError, PermissionError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, hard))


def apart(program: str, *, needed: bool = True) -> tuple[str, ...]:
    """This process leaves the last processor to what is started with the words that are returned."""
    processors = sorted(os.sched_getaffinity(0))
    if len(processors) > 1:
        os.sched_setaffinity(0, processors[:-1])
        return "taskset", "-c", str(processors[-1])
    if needed:
        raise SystemExit(f"{program}: needs two processors: one for what is measured, one for its targets")
    return ()


def first_in_line() -> None:
    """This process and what it starts have a real-time priority: niceness counts within a session only."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        say("no real-time priority here: what else is done on the machine counts too")


@contextlib.contextmanager
def ahead() -> Iterator[None]:
    """As `first_in_line`, for the block; what was started in it keeps its priority."""
    first_in_line()
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@contextlib.contextmanager
def running(argv: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """The program for the block, which kills it."""
    with subprocess.Popen(argv, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def cpu_time(pid: int) -> float:
    """Seconds of CPU time a process has had, exact to the microsecond: /proc knows hundredths."""
    return time.clock_gettime((~pid << 3) | 2)  # its CPUCLOCK_SCHED, see clock_getcpuclockid(3)


class Group:
    """A control group of its own: what its processes use, those that have ended included."""

    def __init__(self, directory: Path, usage: Callable[[Path], float]) -> None:
        self._directory = directory
        self._usage = usage

    def take(self, pid: int) -> None:
        """The process, and all that it starts from now on."""
        (self._directory / "cgroup.procs").write_text(str(pid))

    def cpu(self) -> float:
        """Seconds of CPU time."""
        return self._usage(self._directory)


def _usage_of_v2(directory: Path) -> float:
    return int((directory / "cpu.stat").read_text().split()[1]) / 1e6


def _usage_of_v1(directory: Path) -> float:
    return int((directory / "cpuacct.usage").read_text()) / 1e9


@contextlib.contextmanager
def group(name: str) -> Iterator[Group]:
    """Raises OSError: there can be none here."""
    mount = Path("/sys/fs/cgroup")
    is_v2 = (mount / "cgroup.controllers").exists()
    directory = mount / name if is_v2 else mount / "cpuacct" / name
    directory.mkdir(exist_ok=True)
    try:
        yield Group(directory, _usage_of_v2 if is_v2 else _usage_of_v1)
    finally:
        for _ in range(50):  # until its last process is gone
            with contextlib.suppress(OSError):
                directory.rmdir()
                break
            time.sleep(0.1)


def opens(snmp: str | None = None) -> int:
    """Connections begun in this namespace so far, out of its /proc/net/snmp."""
    text = Path("/proc/thread-self/net/snmp").read_text() if snmp is None else snmp
    names, values = (found.split() for found in _TCP.findall(text))
    return int(values[names.index("ActiveOpens")])


def leave(path: Path, found: Mapping[str, Any], tables: str, *, anew: bool = False) -> None:
    """Prints the tables, and puts `found` beside what other measurements have left in the file, or `anew`."""
    present: dict[str, Any] = {}
    if not anew:
        with contextlib.suppress(FileNotFoundError):
            present = json.loads(path.read_text())
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    beside.write_text(json.dumps({**present, **found}, indent=1) + "\n")
    beside.replace(path)
    print(f"\n{tables}\nthe same as JSON: {path}", flush=True)
