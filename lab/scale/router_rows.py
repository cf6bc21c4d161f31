"""The rows that need a router: ExaBGP and FRR in namespaces, and BIRD in the node's place in the same run."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from anycast.cli import client
from lab.measuring import cpu_time, say
from lab.processes import Process
from lab.scale import fabric as fabrics
from lab.scale.bench import Bench
from lab.scale.builds import Build
from lab.scale.fabric import NODE, OTHER, OTHER_ROUTER, ROUTER, Fabric
from lab.scale.figures import NEVER, Figure, Goal, shown
from lab.scale.node_rows import CALM, Found
from lab.scale.nodes import NeverError, Tap, asked
from lab.scale.sites import LOCAL_AS, Node, Size, server, site

EACH = 5
PATIENCE = 180.0
FOLLOWED = 60.0  # seconds until the router has followed
WINDOW = 20.0  # seconds at rest


@dataclass
class Stand:
    """A node of one build beside the router. `started`: the instant of its agent's exec."""

    directory: Path
    agent: Process
    exabgp: Process
    tap: Tap
    started: float

    def ask(self, line: str) -> float:
        """The instant at which it was said."""
        return float(asked(self.directory / "watch.sock", line).get("at", 0.0))

    def maintenance(self, *, on: bool) -> float:
        """The instant before it was asked for."""
        at = time.monotonic()
        body = {"scope": "", "on": on, **({"reason": "bench"} if on else {})}
        answer = client.ask(self.directory / "control.sock", "POST", "/maintenance", body, timeout=60.0)
        if not answer.ok:
            raise RuntimeError(f"maintenance: {answer.error}")
        return at


@contextlib.contextmanager
def stand(bench: Bench, fabric: Fabric, build: Build, size: Size) -> Iterator[Stand]:
    """ExaBGP has its session before the agent starts: what is counted from there is ours alone."""
    directory = fabric.folder / bench.folder(build.name).name
    directory.mkdir()
    config = directory / "anycast.yaml"
    config.write_text(site(size, Node(str(directory)), strict=True))
    with contextlib.ExitStack() as stack:
        tap = Tap(directory / "lease.sock", directory / "tap.sock")
        stack.callback(tap.close)
        exabgp = stack.enter_context(fabric.exabgp(build, config, tap.place))
        fabric.session_up()
        started = time.monotonic()
        argv = build.program(
            "watched_agent.py", str(directory / "watch.sock"), "agent", "--config", str(config)
        )
        agent = fabric.spawn(f"agent-{directory.name}", argv, fabric.node, build.environment())
        stack.callback(agent.end)
        yield Stand(directory=directory, agent=agent, exabgp=exabgp, tap=tap, started=started)
    fabric.table.wait(lambda: not fabric.table.count(NODE), FOLLOWED)


def _wait(fabric: Fabric, count: int, since: float) -> float:
    """Seconds until the router's kernel has so many routes to the node; NEVER."""
    try:
        return fabric.table.wait(lambda: fabric.table.count(NODE) == count, FOLLOWED) - since
    except NeverError as error:
        say(str(error))
        return NEVER


def thousand(bench: Bench) -> list[Figure]:
    """One VIP down, maintenance, and at rest; BIRD does the same before each pair."""
    size = bench.size(Size(1000, 5), Size(50, 5))
    down: Found = {}
    moved: Found = {}
    rest: dict[str, Found] = {"agent": {}, "plugin": {}, "ExaBGP": {}}
    lease: Found = {}
    with fabrics.fabric() as fabric, fabric.bird(fabric.other, OTHER, OTHER_ROUTER, LOCAL_AS + 1, size.vips):
        fabric.table.wait(lambda: fabric.table.count(OTHER) == size.vips, FOLLOWED)
        peer_down, peer_moved = _bird(bench, fabric, size)
        floors = {build.name: _floor(bench, fabric, build) for build in bench.builds}
        for build in bench.turns(2):
            with stand(bench, fabric, build, size) as node:
                if _wait(fabric, size.vips, node.started) == NEVER:
                    continue
                time.sleep(CALM)
                _at_rest(build, node, rest, lease)
                for number in range(1 if bench.quick else 3):
                    at = node.ask(f"fail {server(size, number)} 1 1")
                    down.setdefault(build.name, []).append(_wait(fabric, size.vips - 1, at))
                    _wait(fabric, size.vips, node.ask(f"heal {server(size, number)} 1 1"))
                    time.sleep(1.0)
                at = node.maintenance(on=True)
                moved.setdefault(build.name, []).append(_wait(fabric, 0, at))
                _wait(fabric, size.vips, node.maintenance(on=False))
            say(
                f"router, {size}, {build.name}: down {shown(median(down[build.name]))} s, moved {shown(moved[build.name][-1])} s"
            )
    above = {name: [max(0.0, one - floors[name]) for one in found] for name, found in lease.items()}
    words = f"the plugin, each lease of {size.vips:,} routes unchanged"
    return [
        *bench.figure("router", f"one VIP down → gone, {size}", "s", down, Goal(most=0.15), note=peer_down),
        *bench.figure("router", f"maintenance → all moved, {size}", "s", moved, Goal(most=0.6), note=peer_moved),
        *bench.figure("router-rest", f"agent at rest, {size}", "% CPU", rest["agent"], Goal(most=2)),
        *bench.figure("router-rest", f"plugin at rest, {size.vips:,} routes", "% CPU", rest["plugin"], Goal(most=0.3)),
        *bench.figure("router-rest", f"ExaBGP at rest, {size.vips:,} routes", "% CPU", rest["ExaBGP"], Goal(most=1.5)),
        *bench.figure("plugin-lease", f"{words}, above what one of one route takes", "CPU ms", above, Goal(ratio=0.02)),
        *bench.figure("plugin-lease", f"{words}, with all that it does in that time", "CPU ms", lease),
    ]  # fmt: skip


def _at_rest(build: Build, node: Stand, rest: dict[str, Found], lease: Found) -> None:
    pids = {"agent": node.agent.pid, "plugin": fabrics.plugin_of(node.exabgp), "ExaBGP": node.exabgp.pid}
    begun, sent = {name: cpu_time(pid) for name, pid in pids.items()}, len(node.tap.leases)
    time.sleep(WINDOW)
    used = {name: cpu_time(pid) - begun[name] for name, pid in pids.items()}
    for name, seconds in used.items():
        rest[name].setdefault(build.name, []).append(seconds / WINDOW * 100)
    count = max(1, len(node.tap.leases) - sent)
    lease.setdefault(build.name, []).append(used["plugin"] / count * 1e3)


def _floor(bench: Bench, fabric: Fabric, build: Build) -> float:
    """What a lease of one route takes the plugin, with all else that it does in that time: CPU milliseconds."""
    lease: Found = {}
    with stand(bench, fabric, build, Size(1, EACH)) as node:
        _wait(fabric, 1, node.started)
        time.sleep(CALM)
        _at_rest(build, node, {"agent": {}, "plugin": {}, "ExaBGP": {}}, lease)
    return lease[build.name][0]


def _bird(bench: Bench, fabric: Fabric, size: Size) -> tuple[str, str]:
    """What is said of BIRD in the node's place: one route withdrawn, all of them withdrawn."""
    down, moved = [], []
    with fabric.bird(fabric.node, NODE, ROUTER, LOCAL_AS, size.vips) as control:
        _wait(fabric, size.vips, 0.0)
        for _ in range(1 if bench.quick else 3):
            at = time.monotonic()
            fabrics.birdc(control, "disable", "one")
            down.append(_wait(fabric, size.vips - 1, at))
            at = time.monotonic()
            fabrics.birdc(control, "disable", "rest")
            moved.append(_wait(fabric, 0, at))
            fabrics.birdc(control, "enable", "all")
            _wait(fabric, size.vips, 0.0)
    _wait(fabric, 0, 0.0)
    return f"BIRD {median(down):.2f} s", f"BIRD {median(moved):.2f} s"


def many(bench: Bench) -> list[Figure]:
    """From the exec of an agent with 5,000 VIPs until the router's kernel has them all."""
    size = bench.size(Size(5000, 1), Size(100, 1))
    found: Found = {}
    with fabrics.fabric() as fabric:
        for build in bench.builds:
            try:
                with stand(bench, fabric, build, size) as node:
                    count = lambda: fabric.table.count(NODE) == size.vips  # noqa: E731
                    at = fabric.table.wait(count, PATIENCE) - node.started
            except NeverError as error:
                say(f"{build.name}: {error}")
                at = NEVER
            found.setdefault(build.name, []).append(at)
            say(f"start, {size}, {build.name}: all in the router's table after {shown(at)} s")
    work = f"exec of the agent → all in the router's table, {size}"
    return bench.figure("router-start", work, "s", found, Goal(most=5), worst=True)
