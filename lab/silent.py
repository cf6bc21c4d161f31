"""Clients that meet a real server as it goes silent: how long they wait, beside those of keepalived. Part of `make chaos`.

Runs inside the lab's kernel: `python -m lab run -- python -m lab.silent`. One of four real servers loses its link, or its
process stands still, or the whole machine does, under 200 new connections a second. Prints progress, then one table; the
same as JSON in `build/silent.json`. Exit status 1: a promise was not kept.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import yaml

from anycast.cli.table import table
from lab import netns, places
from lab.chaos import BUILD, site
from lab.chaos_plan import Options
from lab.control import Lab
from lab.faults import Site, set_link
from lab.measuring import say
from lab.topology import HTTP_PORT, LAN, VIP4, VIP6, Node
from lab.trial import PATIENCE

LOGS = BUILD / "lab" / "silent"
RATE = 200  # clients a second
BEFORE, AFTER = 2.0, 13.0  # seconds of them, before and after the fault
GIVES_UP = 75.0  # seconds of a client's patience
SILENT = "rs2"
WAYS = {
    "link cut": "the real server's link loses its carrier",
    "process stopped": "SIGSTOP to its program: the kernel goes on accepting",
    "machine frozen": "the same, and it hears nothing any more",
}
# The checks of the row, and seconds for which a client waits at most. A client that comes in the last moment before the
# fault is found sends its SYN again after 1, 3 and 7 seconds.
CHECKS = {
    "fast": ({"interval": "200ms", "timeout": "200ms", "rise": 2, "fall": 2}, 1.5),
    "1 s, fall 3": ({"interval": "1s", "timeout": "1s", "rise": 2, "fall": 3}, 7.5),
}
KEEPALIVED = "keepalived, 1 s, 3 tries"
_KERNELS_OWN = {"expire_nodest_conn": "0", "conn_reuse_mode": "1", "sloppy_tcp": "0", "schedule_icmp": "0"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One fault under one balancer's checks. Seconds; quantiles of those that connected.

    `never`: clients that did not connect. `unanswered`: that connected, and to whom nobody spoke: those whom the kernel
    of a stopped program has accepted.
    """

    who: str
    way: str
    clients: int
    p50: float
    p99: float
    longest: float
    never: int
    unanswered: int
    bound: float | None
    errors: dict[str, int]

    @property
    def held(self) -> bool | None:
        """None: nothing is promised."""
        return None if self.bound is None else not self.never and self.longest <= self.bound


def row(who: str, way: str, clients: Sequence[Sequence[Any]], bound: float | None) -> Row:
    waits = sorted(connected for _, connected, _, _ in clients if connected is not None)
    errors: dict[str, int] = {}
    for _, connected, _, error in clients:
        if connected is None:
            errors[error] = errors.get(error, 0) + 1
    return Row(
        who=who,
        way=way,
        clients=len(clients),
        p50=waits[len(waits) // 2],
        p99=waits[len(waits) * 99 // 100],
        longest=waits[-1],
        never=len(clients) - len(waits),
        unanswered=sum(connected is not None and answered is None for _, connected, answered, _ in clients),
        bound=bound,
        errors=errors,
    )


class Rush:
    """`lab.newcomers` at work in the client's namespace. Use as a context manager."""

    def __init__(self) -> None:
        program = str(Path(__file__).with_name("newcomers.py"))
        self._process = subprocess.Popen(
            [
                *places.entry("cl"), sys.executable, "-I", "-S", program, f"--rate={RATE}",
                f"--seconds={BEFORE + AFTER}", f"--patience={GIVES_UP}", "--vip", VIP4, "--vip", VIP6,
            ],
            stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdout is not None
        self._lines: IO[bytes] = self._process.stdout

    def begun(self) -> None:
        self._lines.readline()

    def clients(self) -> list[list[Any]]:
        found: list[list[Any]] = json.loads(self._lines.readline())["clients"]
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._lines.close()


@contextlib.contextmanager
def silent(lab: Lab, way: str) -> Iterator[None]:
    process = lab.process(SILENT, "server")
    assert process is not None
    try:
        if way == "link cut":
            set_link(LAN, SILENT, up=False)
        else:
            process.send(signal.SIGSTOP)
        if way == "machine frozen":
            _port(forwards=False)
        yield
    finally:
        process.send(signal.SIGCONT)
        if way == "link cut":
            set_link(LAN, SILENT, up=True)
        if way == "machine frozen":
            _port(forwards=True)


def _port(*, forwards: bool) -> None:
    """Of the bridge: the server's carrier stays, and no packet passes."""
    argv = [
        "ip",
        "netns",
        "exec",
        LAN,
        "bridge",
        "link",
        "set",
        "dev",
        SILENT,
        "state",
        "3" if forwards else "0",
    ]
    subprocess.run(argv, check=True)


def measured(lab: Lab, built: Site, who: str, way: str, bound: float | None) -> Row:
    say(f"{who}: {WAYS[way]}")
    with Rush() as rush:
        rush.begun()
        time.sleep(BEFORE)
        with silent(lab, way):
            found = row(who, way, rush.clients(), bound)
    built.weight(SILENT, {1})
    say(f"  {found.never} of {found.clients} never connected, the longest wait was {found.longest:.2f} s")
    return found


def ours(lab: Lab, built: Site) -> Iterator[Row]:
    for who, (check, bound) in CHECKS.items():
        for node in built.nodes:
            file = lab.config(node)
            config = yaml.safe_load(file.read_text())
            config["pools"]["web"]["check"] = {"type": "http", "path": "/health", **check}
            file.write_text(yaml.safe_dump(config, sort_keys=False))
            built.ask(node, "POST", "/reload")
        built.weight(SILENT, {1})
        for way in WAYS:
            yield measured(lab, built, f"anycast, {who}", way, bound)


def keepalived_conf(servers: Sequence[Node]) -> str:
    """Both VIPs, with the same scheduler and as many failures in a row as ours."""
    lines = ["global_defs {", "    router_id lab", "}"]
    for vip in (VIP4, VIP6):
        lines += [
            f"virtual_server {vip} {HTTP_PORT} {{",
            "    delay_loop 1", "    lvs_sched mh", "    mh-port", "    mh-fallback", "    lvs_method DR", "    protocol TCP",
        ]  # fmt: skip
        for server in servers:
            (address,) = [
                one.partition("/")[0] for one in server.interfaces["lan0"] if (":" in one) == (":" in vip)
            ]
            lines += [
                f"    real_server {address} {HTTP_PORT} {{",
                "        weight 1", "        TCP_CHECK {", "            connect_timeout 1",
                "            retry 2", "            delay_before_retry 1", "        }", "    }",
            ]  # fmt: skip
        lines.append("}")
    return "\n".join([*lines, ""])


class Keepalived:
    """In the place of agents and ExaBGP, with the kernel's own settings; routes to all balancers stand. A context manager."""

    def __init__(self, lab: Lab, built: Site) -> None:
        self._lab = lab
        self._built = built
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        say("keepalived takes the place of agents and ExaBGP")
        self._built.daemons = ()
        for node in self._built.nodes:
            self._lab.stop(node, "agent", 20.0)
            self._lab.stop(node, "exabgp")
        for prefix in (f"{VIP4}/32", f"{VIP6}/128"):
            self._lab.wait_route(prefix, [], PATIENCE)
        for node in self._built.nodes:
            self._start(node)
        try:
            self._lab.set_routes(self._built.nodes)
            self._built.weight(SILENT, {1})
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _start(self, node: str) -> None:
        folder = self._lab.run / node
        with netns.inside(node):
            for name, value in _KERNELS_OWN.items():
                Path("/proc/sys/net/ipv4/vs", name).write_text(value)
        self._lab.exec(node, "ipvsadm", "-C")
        for vip in (f"{VIP4}/32", f"{VIP6}/128"):
            self._lab.exec(node, "ip", "address", "add", vip, "dev", "lo", check=False)
        conf = folder / "keepalived.conf"
        conf.write_text(keepalived_conf(self._lab.topology.servers[: self._built.servers]))
        argv = [
            *places.entry(node), "keepalived", "--dont-fork", "--log-console", "--check", "--use-file", str(conf),
            "--pid", str(folder / "keepalived.pid"), "--checkers_pid", str(folder / "checkers.pid"),
        ]  # fmt: skip
        LOGS.mkdir(parents=True, exist_ok=True)
        with (LOGS / f"keepalived-{node}.log").open("wb") as log:
            self._running.append(subprocess.Popen(argv, stdout=log, stderr=log, env=_environment()))

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        for process in self._running:
            process.terminate()
        for process in self._running:
            process.wait()


def _environment() -> Mapping[str, str]:
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


def silent_table(rows: Sequence[Row]) -> str:
    """For people."""
    head = (
        "checks",
        "silent",
        "clients",
        "p50",
        "p99",
        "longest",
        "never connected",
        "no answer",
        "promised",
        "held",
    )
    return table(
        head,
        [
            (
                one.who,
                one.way,
                f"{one.clients:,}",
                f"{one.p50 * 1000:.0f} ms",
                f"{one.p99:.2f} s",
                f"{one.longest:.2f} s",
                f"{one.never} {one.errors or ''}".strip(),
                str(one.unanswered),
                "-" if one.bound is None else f"all, <= {one.bound:g} s",
                {None: "-", True: "yes", False: "NO"}[one.held],
            )
            for one in rows
        ],
        colour=False,
    )


def main() -> int:
    rows: list[Row] = []
    with site(Options(faults=(), peer_faults=())) as (lab, built):
        rows += ours(lab, built)
        with Keepalived(lab, built):
            rows += [measured(lab, built, KEEPALIVED, way, None) for way in WAYS]
    place = BUILD / "silent.json"
    place.parent.mkdir(exist_ok=True)
    place.write_text(json.dumps([asdict(one) | {"held": one.held} for one in rows], indent=1) + "\n")
    print(f"\n{silent_table(rows)}\nthe same as JSON: {place}", flush=True)
    return 0 if all(one.held is not False for one in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
