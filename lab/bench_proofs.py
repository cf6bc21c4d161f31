"""What each kind of check proves: when it notices a server that is ill, beside the same kinds of HAProxy and keepalived.

Runs inside the lab's kernel, for keepalived needs IPVS: `python -m lab run -- python -m lab.bench_proofs`; without IPVS it leaves
keepalived out. Every check, of each of the three, has a small HTTP server of its own, whose accept queue holds 8 (`lab/sick_server.py`).
All servers are made ill at once: the process is stopped; or lives and accepts no more; or has no descriptor left; or is killed. A check
a second, a timeout of one, three failures in a row. Prints a table; the same in `build/bench-checks.json`.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import IO

from anycast.agent.checker import Checker
from anycast.cli.table import table
from anycast.core.health.phase import Health, Result, advance, pause, settled
from anycast.core.values.checks import IdleCheck, TcpQuietCheck
from anycast.core.values.configuration import Check, CheckKind, HttpCheck, Target, TcpCheck
from lab import measuring, netns
from lab.check_peers import ask
from lab.measuring import running, say
from lab.waiting import until

BACKLOG = 8
FIRST_PORT = 7001
WATCHED = 30.0  # seconds
WAYS = ("stopped", "deaf", "poor", "killed")
_HTTP = HttpCheck(tls=False, expect=frozenset({200}))
OURS: Mapping[str, tuple[CheckKind, bool]] = {
    "anycast tcp": (TcpCheck(), False),
    "anycast tcp, quiet": (TcpQuietCheck(quiet=0.2), False),
    "anycast tcp, tripwire": (TcpCheck(), True),
    "anycast idle": (IdleCheck(), False),
    "anycast http": (_HTTP, False),
    "anycast http, keep_alive": (HttpCheck(tls=False, expect=frozenset({200}), keep_alive=True), False),
    "anycast http, tripwire": (_HTTP, True),
}
HAPROXY = ("haproxy check", "haproxy option httpchk")
KEEPALIVED = ("keepalived TCP_CHECK", "keepalived HTTP_GET")
CHECKED = (*OURS, *HAPROXY, *KEEPALIVED)
PORTS = {name: FIRST_PORT + n for n, name in enumerate(CHECKED)}
_PATIENCE = 30.0
_REMOVING = re.compile(r"Removing service \[127\.0\.0\.1\]:(?:tcp:)?(\d+)")


@dataclass(slots=True)
class Downs:
    """When each check had its server down: CLOCK_MONOTONIC."""

    at: dict[str, float] = field(default_factory=dict)

    def down(self, name: str) -> None:
        self.at.setdefault(name, time.monotonic())


class Servers:
    """One for each check."""

    def __init__(self, names: tuple[str, ...]) -> None:
        program = str(Path(__file__).with_name("sick_server.py"))
        self._running = {
            name: subprocess.Popen(
                [sys.executable, "-I", "-S", program, str(PORTS[name]), str(BACKLOG)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for name in names
        }
        for process in self._running.values():
            _said(process.stdout)

    def make(self, way: str) -> None:
        for process in self._running.values():
            match way:
                case "stopped":
                    process.send_signal(signal.SIGSTOP)
                case "killed":
                    process.kill()
                case _:
                    assert process.stdin is not None
                    process.stdin.write(f"{way}\n")
                    process.stdin.flush()
                    _said(process.stdout)

    def close(self) -> None:
        for process in self._running.values():
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()


def _said(pipe: IO[str] | None) -> None:
    assert pipe is not None
    pipe.readline()


class Ours:
    """The agent's engine in a thread, with the core's counting."""

    def __init__(self, downs: Downs) -> None:
        self._downs = downs
        self._names = {_target(name): name for name in OURS}
        self._health: dict[Target, Health] = {}
        self._ended: asyncio.Event | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))
        self._thread.start()

    async def _run(self) -> None:
        self._ended = asyncio.Event()
        self._checker = Checker(self._report)
        self._checker.set_targets(frozenset(self._names))
        await self._ended.wait()
        await self._checker.close()

    def _report(self, target: Target, result: Result) -> None:
        before = self._health.get(target, Health())
        after = self._health[target] = advance(before, result, target.check, self._loop.time())
        if before.is_up and not after.is_up:
            self._downs.down(self._names[target])
        self._loop.call_soon(self._schedule, target, pause(after, target.check), settled(after))

    def _schedule(self, target: Target, after: float, quiet: bool) -> None:  # noqa: FBT001 - a callback
        self._checker.schedule(target, after, quiet=quiet)

    def ready(self) -> bool:
        wires = self._checker.tripwires
        return sum(one.is_up for one in self._health.values()) == len(OURS) and wires.counts["standing"] == 3

    def close(self) -> None:
        assert self._ended is not None
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()
        self._loop.close()


def _target(name: str) -> Target:
    kind, tripwire = OURS[name]
    check = Check(kind=kind, interval=1.0, fast_interval=0.1, timeout=1.0, rise=2, fall=3, tripwire=tripwire)
    return Target(address=ip_address("127.0.0.1"), port=PORTS[name], check=check)


def haproxy_conf(directory: Path) -> str:
    lines = [
        "global", f"    stats socket {directory}/haproxy.sock", "defaults",
        *(f"    timeout {what} 1s" for what in ("connect", "check", "client", "server", "queue")),
    ]  # fmt: skip
    for n, name in enumerate(HAPROXY):
        lines += [f"backend b{n}"]
        if "httpchk" in name:
            lines += ["    mode http", "    option httpchk GET /", "    http-check expect status 200"]
        lines += [f"    server {n} 127.0.0.1:{PORTS[name]} check inter 1s fastinter 100ms rise 2 fall 3"]
    return "\n".join([*lines, ""])


@contextlib.contextmanager
def haproxy(directory: Path, downs: Downs) -> Iterator[None]:
    conf, stats = directory / "haproxy.cfg", directory / "haproxy.sock"
    conf.write_text(haproxy_conf(directory))

    def states() -> dict[str, str]:
        try:
            rows = csv.DictReader(ask(stats, b"show stat\n").removeprefix("# ").splitlines())
        except (FileNotFoundError, ConnectionRefusedError):
            return {}
        return {HAPROXY[int(row["svname"])]: row["status"] for row in rows if row["svname"].isdigit()}

    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            for name, state in states().items():
                if state.startswith("DOWN"):
                    downs.down(name)

    with running(["haproxy", "-db", "-q", "-f", str(conf)]):
        until(lambda: len([s for s in states().values() if s.startswith("UP")]) == 2, "HAProxy", _PATIENCE)
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()


def keepalived_conf() -> str:
    lines = ["global_defs {", "    router_id proofs", "}"]
    for name in KEEPALIVED:
        port = PORTS[name]
        lines += [
            f"virtual_server 192.0.2.77 {port} {{", "    delay_loop 1", "    lvs_sched rr", "    lvs_method NAT",
            "    protocol TCP", f"    real_server 127.0.0.1 {port} {{", f"        {name.split()[1]} {{",
            *(["            url {", "                path /", "                status_code 200", "            }"] if "HTTP" in name else []),
            "            connect_timeout 1", "            retry 2", "            delay_before_retry 1",
            "        }", "    }", "}",
        ]  # fmt: skip
    return "\n".join([*lines, ""])


@contextlib.contextmanager
def keepalived(directory: Path, downs: Downs) -> Iterator[None]:
    conf = directory / "keepalived.conf"
    conf.write_text(keepalived_conf())
    argv = ["keepalived", "--dont-fork", "--log-console", "--log-detail", "--check", f"--use-file={conf}"]
    argv += [f"--pid={directory}/keepalived.pid", f"--checkers_pid={directory}/checkers.pid"]
    ready = threading.Event()
    ports = {str(PORTS[name]): name for name in KEEPALIVED}
    began: set[str] = set()

    def watch(pipe: IO[str]) -> None:
        for line in pipe:
            if found := _REMOVING.search(line):
                downs.down(ports[found[1]])
            began.update(port for port in ports if f":{port}" in line and "success" in line)
            if "Activating healthchecker" in line:
                ready.set()

    daemon = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    assert daemon.stdout is not None
    watcher = threading.Thread(target=watch, args=(daemon.stdout,))
    watcher.start()
    try:
        if not ready.wait(_PATIENCE):
            raise RuntimeError("keepalived has not begun to check")
        yield
    finally:
        os.killpg(daemon.pid, signal.SIGKILL)
        daemon.wait()
        watcher.join()
        daemon.stdout.close()


def observed(way: str, directory: Path, names: tuple[str, ...]) -> dict[str, float | None]:
    """Seconds until each check had its server down; None: it has not noticed."""
    downs = Downs()
    with contextlib.ExitStack() as stack:
        servers = Servers(names)
        stack.callback(servers.close)
        ours = Ours(downs)
        stack.callback(ours.close)
        stack.enter_context(haproxy(directory, downs))
        if KEEPALIVED[0] in names:
            stack.enter_context(keepalived(directory, downs))
        until(ours.ready, "our checks", _PATIENCE)
        time.sleep(3.0)  # of the peers too
        if downs.at:
            raise RuntimeError(f"down before anything was ill: {downs.at}")
        began = time.monotonic()
        servers.make(way)
        time.sleep(WATCHED)
        found = {name: downs.at[name] - began if name in downs.at else None for name in names}
    say(f"{way}: " + ", ".join(f"{name} {_shown(took)}" for name, took in found.items()))
    return found


def _shown(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.1f} s"


@dataclass(frozen=True, slots=True)
class Row:
    check: str
    down_after: dict[str, float | None]


def main(argv: list[str] | None = None) -> int:
    parser = measuring.options("lab.bench_proofs", __doc__, "bench-checks.json")
    parser.add_argument("--ways", nargs="*", default=WAYS)
    options = parser.parse_args(argv)
    measuring.ready("bench_proofs", root=True)
    has_ipvs = Path("/proc/net/ip_vs").exists()
    if not has_ipvs:
        say("this kernel has no IPVS: without keepalived")
    names = CHECKED if has_ipvs else tuple(name for name in CHECKED if name not in KEEPALIVED)
    with tempfile.TemporaryDirectory(prefix="proofs-") as name, netns.fresh():
        found = {way: observed(way, Path(name), names) for way in options.ways}
    rows = [Row(name, {way: found[way][name] for way in found}) for name in names]
    shown = table(
        ("down after", *found),
        [(row.check, *(_shown(took) for took in row.down_after.values())) for row in rows],
        colour=False,
    )
    measuring.leave(options.json, {"proofs": [asdict(row) for row in rows]}, shown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
