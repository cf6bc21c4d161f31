"""Connections that stay open: what 5,000 of them cost at rest, and how late the lease gets when all end in one instant.

`python -m lab.bench_wires`, as root and with two processors; part of `make bench-checks`. At rest: the agent's check engine
alone, with a check every ten minutes, so that nothing but the connections is there; with idle checks; and without both, which
is taken off. Then the whole agent, a TCP check a second with a tripwire for each of 5,000 real servers: the process that has
the other ends is killed, once while another takes over its listening socket, and once while nobody does. The node's kernel
alone is a stand-in (`lab.memory_agent`). Prints a table; the same in `build/bench-checks.json`.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from anycast.cli.table import table
from lab import measuring, netns
from lab.figures import REACHED
from lab.loaded_agent import Plugin, agent, agent_yaml, lateness, vips
from lab.measuring import cpu_time, running, say
from lab.waiting import until

COUNT = 5000
WINDOW = 30.0  # seconds
SETTLE = 10.0
PORT = 8080
OPS_PORT = 9644
NETWORK, FIRST = "10.16.0.0/16", "10.16.1.0"
PATIENCE = 120.0
REST, SOON = 600.0, 10.0  # intervals
BACKLOG = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    what: str
    value: float
    unit: str
    goal: float | None = None

    @property
    def reached(self) -> bool | None:
        return None if self.goal is None else self.value <= self.goal


@contextlib.contextmanager
def holder(listener: socket.socket) -> Iterator[subprocess.Popen[Any]]:
    program = str(Path(__file__).with_name("holder.py"))
    argv = [sys.executable, "-I", "-S", program, str(listener.fileno())]
    with running(argv, stdout=subprocess.PIPE, pass_fds=(listener.fileno(),)) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process


def listening() -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("", PORT))
    listener.listen(BACKLOG)
    return listener


def established() -> int:
    """Connections of this namespace; of each both ends are here."""
    text = Path("/proc/thread-self/net/sockstat").read_text()
    return int(text.partition("TCP: inuse ")[2].split()[0])


@dataclass(frozen=True, slots=True)
class Rest:
    grown: float  # bytes
    cpu: float  # of a processor


class Bench:
    def __init__(self, directory: Path, count: int, window: float) -> None:
        self._directory = directory
        self._count = count
        self._window = window
        self._alone = measuring.apart("bench_wires")

    def at_rest(self, work: str, interval: float) -> Rest:
        argv = [*self._alone, sys.executable, "-m", "lab.check_load", work, str(self._count), str(PORT)]
        argv += ["--interval", str(interval)]
        with (
            contextlib.closing(listening()) as listener,
            holder(listener),
            running(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process,
        ):
            asking, answering = process.stdin, process.stdout
            assert asking is not None
            assert answering is not None

            def answer() -> dict[str, Any]:
                asking.write("\n")
                asking.flush()
                found: dict[str, Any] = json.loads(answering.readline())
                return found

            until(lambda: answer()["seen"] >= self._count, "a first check of all", PATIENCE, pause=0.5)
            if work != "tcp":
                until(lambda: answer()["standing"] >= self._count, "all connections", PATIENCE, pause=0.5)
            time.sleep(SETTLE)
            began, cpu = time.monotonic(), cpu_time(process.pid)
            time.sleep(self._window)
            cpu, took = cpu_time(process.pid) - cpu, time.monotonic() - began
            found = answer()
            say(
                f"{work}: {found['grown'] / 2**20:.2f} MiB, {cpu / took:.3%} of a processor, {found['standing']} stand"
            )
            return Rest(grown=found["grown"], cpu=cpu / took)

    def ends(self, *, taken_over: bool) -> tuple[float, float]:
        """The latest lease after all have ended, and the latest before that."""
        name = "taken-over" if taken_over else "dead"
        runtime = self._directory / name
        config = yaml.safe_load(
            agent_yaml(self._count, runtime, first=FIRST, checked=PORT, listen=f"127.0.0.1:{OPS_PORT}")
        )
        for pool in config["pools"].values():
            pool["check"]["tripwire"] = True
        with contextlib.closing(listening()) as listener, contextlib.ExitStack() as servers:
            first = servers.enter_context(holder(listener))
            with (
                agent(yaml.safe_dump(config), runtime, self._alone) as _,
                contextlib.closing(Plugin(runtime)) as plugin,
            ):
                plugin.until_announced(vips(self._count))
                ends = time.monotonic() + PATIENCE
                while established() < 2 * self._count and time.monotonic() < ends:
                    _watched(plugin, 1.0)
                before = _watched(plugin, SETTLE)
                if taken_over:
                    servers.enter_context(holder(listener))
                else:
                    listener.close()
                say(f"{name}: {established() // 2} connections end")
                after = _watched(plugin, SETTLE, first.kill)
        return after, before


def _watched(plugin: Plugin, seconds: float, act: Callable[[], None] = lambda: None) -> float:
    act()
    found = [(arrived, lease.issued, lease.ttl) for arrived, lease in plugin.leases(seconds)]
    return max(lateness(found), default=0.0)


def main(argv: list[str] | None = None) -> int:
    parser = measuring.options("lab.bench_wires", __doc__, "bench-checks.json")
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--window", type=float, default=WINDOW)
    options = parser.parse_args(argv)
    measuring.ready("bench_wires", root=True)
    with tempfile.TemporaryDirectory(prefix="bench-wires-") as name, netns.fresh():
        subprocess.run(["ip", "route", "add", "local", NETWORK, "dev", "lo"], check=True)
        bench = Bench(Path(name), options.count, options.window)
        bare, wired, idle = (
            bench.at_rest(*one) for one in (("tcp", REST), ("tripwire", REST), ("idle", SOON))
        )
        measuring.first_in_line()
        (stays, calm), (dies, _) = bench.ends(taken_over=True), bench.ends(taken_over=False)
    each = f"{options.count:,}"
    rows = [
        Row(what=f"{each} tripwires at rest: CPU", value=wired.cpu * 100, unit="% of a core", goal=0.5),
        Row(what=f"{each} tripwires: memory", value=(wired.grown - bare.grown) / 2**20, unit="MiB", goal=6.0),
        Row(what=f"{each} idle checks at rest: CPU", value=idle.cpu * 100, unit="% of a core", goal=0.5),
        Row(
            what=f"{each} idle checks: memory, beside tcp's",
            value=(idle.grown - bare.grown) / 2**20,
            unit="MiB",
        ),
        Row(what="the latest lease before", value=calm * 1000, unit="ms"),
        Row(what="all end, the service stays: the latest lease", value=stays * 1000, unit="ms", goal=50.0),
        Row(what="all end, the service is dead: the latest lease", value=dies * 1000, unit="ms", goal=50.0),
    ]
    shown = table(
        ("tripwires", "value", "goal", "reached"),
        [
            (
                one.what,
                f"{one.value:.2f} {one.unit}",
                "-" if one.goal is None else f"<= {one.goal:g} {one.unit}",
                "-" if one.reached is None else REACHED[one.reached],
            )
            for one in rows
        ],
        colour=False,
    )
    measuring.leave(options.json, {"tripwires": [asdict(one) for one in rows]}, shown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
