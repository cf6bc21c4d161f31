"""A node whose BIRD learns the announcer's table, and a router: what `anycast render bird` writes, the real programs, one link.

The agent is played by the test, the service manager by `lab.announcer`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from anycast.config.load import loads
from anycast.core.values.configuration import Config
from anycast.core.values.route import Prefix
from anycast.render.bird import bird_conf
from anycast.render.router import router
from anycast.render.routers import ROUTERS
from lab import suites
from lab.announcer import Unit
from lab.processes import Process, spawn
from lab.routewatch import RouteTable, RouteWatch
from tests.contract import bgp
from tests.contract.bgp import (
    CHECKOUT,
    NODE4,
    NODE6,
    PATIENCE,
    ROUTER4,
    ROUTER6,
    Agent,
    Places,
    of,
    start_frr,
    vtysh,
)
from tests.contract.pair import V4, V6
from tests.contract.routers import Frr, Software, until

TABLE = 1179


DEBIANS: list[Path | None] = [None]  # whose BIRD is tried; None: this machine's
if os.environ.get("ANYCAST_ROUTERS") == "all":
    DEBIANS += [suites.root(suite) for suite in suites.SUITES if suites.there(suite)]


def name(debian: Path | None) -> str:
    """Of its BIRD, as a parameter of a test; as `routers.Software.id` says it."""
    return "bird" if debian is None else f"bird@{debian.name}"


def missing() -> str | None:
    """Why these tests cannot run here; None: they can."""
    return bgp.missing() or ("no BIRD here: apt install bird2" if shutil.which("bird") is None else None)


def config(folder: Path, *, speaker: str = "", ospf: bool = False, vip: str = "", bgp: str = "") -> Config:
    """A node with a session of each family, or with OSPF alone. `vip`, `bgp`: more lines of these."""
    by_bgp = f"""
bgp:
  local_as: 65001
  router_id: {NODE4}
  hold_time: 3
{bgp}
  neighbors:
    - {{address: {ROUTER4}, remote_as: 65000}}
    - {{address: "{ROUTER6}", remote_as: 65000, local_address: "{NODE6}"}}
"""
    by_ospf = f", ospf: {{interfaces: n0, router_id: {NODE4}, hello: 1s, dead: 4s}}"
    text = f"""
node: {{name: lb1, runtime_dir: {folder}, exabgp_user: root}}
speaker: {{type: kernel-table, table: {TABLE}, socket: {folder}/bird.ctl, user: root{by_ospf if ospf else ""}{speaker}}}
{"" if ospf else by_bgp}
vips:
  web:
    addresses: [{V4.network_address}, "{V6.network_address}"]
    port: 80
    servers: [{{name: a, addresses: [10.9.2.1, "fd00:9::1"]}}]
{vip}
"""
    return loads(text, hostname="lb1").config


def environment(folder: Path) -> dict[str, str]:
    """Of the announcer."""
    return {
        **os.environ,
        "PYTHONPATH": str(CHECKOUT),
        "ANYCAST_TABLE": str(TABLE),
        "ANYCAST_LEASE": str(folder / "lease.sock"),
        "ANYCAST_BIRD": str(folder / "bird.ctl"),
    }


@dataclass
class Bird:
    """BIRD on the node."""

    place: str
    folder: Path
    debian: Path | None = None
    process: Process | None = None

    def start(self, text: str) -> None:
        conf, main = self.folder / "anycast.conf", self.folder / "bird.conf"
        conf.write_text(text)
        main.write_text(f'router id {NODE4};\nprotocol device {{}}\ninclude "{conf}";\n')
        argv = [
            "bird",
            "-f",
            "-c",
            str(main),
            "-s",
            str(self.folder / "bird.ctl"),
            "-P",
            str(self.folder / "bird.pid"),
        ]
        self.process = spawn(
            of(self.debian, argv),
            netns=self.place,
            env=os.environ,
            log=self.folder / "bird.log",
            record=self.folder / "bird.record",
        )

    def load(self, text: str) -> None:
        """As an operator does it."""
        (self.folder / "anycast.conf").write_text(text)
        said = self.ask("configure")
        assert "Reconfigured" in said, said

    def ask(self, words: str) -> str:
        """What `birdc` says."""
        argv = of(self.debian, ["birdc", "-s", str(self.folder / "bird.ctl"), words])
        return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout

    def send(self, number: int) -> None:
        assert self.process is not None
        pid = int((self.folder / "bird.pid").read_text())
        os.kill(pid, number)

    def stop(self) -> None:
        if self.process is not None:
            self.process.end(grace=2.0)
        print((self.folder / "bird.log").read_text())


@dataclass
class Site:
    """`lease`: grants routes; `table`: the router's kernel."""

    agent: Agent
    unit: Unit
    bird: Bird
    table: RouteWatch
    places: Places
    folder: Path
    config: Config
    router: Software | None = None
    frr: Path = field(default_factory=Path)

    def running(self) -> Process:
        """The announcer that runs, once it does."""
        return until(
            lambda: one if (one := self.unit.process) is not None and one.alive() else None, "an announcer"
        )

    def forwarded(self, *prefixes: Prefix) -> None:
        """Until the router's kernel sends them to the node."""
        for prefix in prefixes:
            until(lambda prefix=prefix: self.table.routes()[str(prefix)], f"{prefix} at the router")  # type: ignore[misc]

    def gone(self, *prefixes: Prefix) -> float:
        """When the router's kernel had none of them any more, by the monotonic clock."""
        return max(self.table.wait(str(prefix), [], PATIENCE).monotonic for prefix in prefixes)

    def was_away(self, prefix: Prefix, since: float) -> bool:
        """Whether the router's kernel had no route to it at any time since then."""
        events = [one for one in self.table.events if one.prefix == str(prefix) and one.monotonic >= since]
        return any(not one.next_hops for one in events)

    def rows(self, *words: str) -> list[str]:
        """What the table of the node has."""
        found: list[str] = []
        for family in ("-4", "-6"):
            argv = ["ip", "-n", self.places.node, family, "route", "show", "table", str(TABLE), *words]
            found += subprocess.run(argv, capture_output=True, text=True, check=False).stdout.splitlines()
        return [" ".join(one.split()) for one in found]

    def ip(self, *words: str) -> None:
        subprocess.run(["ip", "-n", self.places.node, *words], check=True, capture_output=True)


@contextlib.contextmanager
def site(
    *, ospf: bool = False, debian: Path | None = None, one: Config | None = None, before: Sequence[str] = ()
) -> Iterator[Site]:
    """All runs; nothing is leased. `before`: what `ip route add` puts into the table first. `debian`: whose BIRD."""
    with contextlib.ExitStack() as undo:
        folder = undo.enter_context(bgp.open_folder())
        places = undo.enter_context(bgp.places())
        one = config(folder, ospf=ospf) if one is None else one
        table = RouteWatch(RouteTable([str(V4), str(V6)], {}, places.router))
        undo.callback(table.close)
        files = folder / "router"
        files.mkdir()
        software = None
        if ospf:
            for daemon in _ospf_router(places.router, files):
                undo.callback(daemon.end)
        else:
            conf = folder / "rendered.conf"
            conf.write_text(ROUTERS["frr"](router([one])))
            software = Frr(places.router, files)
            undo.callback(software.stop)
            software.start(conf)
        agent = Agent(folder / "lease.sock")
        undo.callback(agent.close)
        bird = Bird(places.node, folder, debian)
        undo.callback(bird.stop)
        bird.start(bird_conf(one))
        found = Site(agent, None, bird, table, places, folder, one, software, files)  # type: ignore[arg-type]
        for words in before:
            found.ip(*words.split())
        found.unit = Unit(places.node, folder, environment(folder))
        undo.callback(lambda: print(found.unit.log.read_text()))  # pytest shows it of a test that failed
        undo.callback(found.unit.stop)
        agent.wait(lambda report: len([n for n in report.neighbors if n.state == "up"]) == 2)
        yield found


def _ospf_router(place: str, folder: Path) -> list[Process]:
    interface = "interface r0\n ip ospf area 0\n ip ospf hello-interval 1\n ip ospf dead-interval 4\n"
    (folder / "ospfd.conf").write_text(
        f"{interface}router ospf\n ospf router-id {ROUTER4}\n timers throttle spf 0 50 500\n"
    )
    interface = (
        "interface r0\n ipv6 ospf6 area 0.0.0.0\n ipv6 ospf6 hello-interval 1\n ipv6 ospf6 dead-interval 4\n"
    )
    (folder / "ospf6d.conf").write_text(
        f"{interface}router ospf6\n ospf6 router-id {ROUTER4}\n timers throttle spf 0 50 500\n"
    )
    return start_frr(place, folder, ("zebra", "ospfd", "ospf6d"))


def ospf_routes(one: Site) -> str:
    """What the router says of the VIP by OSPF."""
    return vtysh(one.frr, f"show ip route {V4}", f"show ipv6 route {V6}")
