"""A router and a node that know each other from one file: what `anycast render` writes, the real programs, one link."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

from anycast.config.load import loads
from anycast.core.values.configuration import Config
from anycast.core.values.route import Prefix, Route
from anycast.core.values.software import Software as Runs
from anycast.render.exabgp import exabgp_conf
from anycast.render.frr_bfd import frr_bfd_conf
from anycast.render.router import router
from anycast.render.routers import ROUTERS
from lab.processes import Process
from lab.routewatch import RouteTable, RouteWatch
from tests.contract import bgp
from tests.contract.bgp import NODE4, NODE6, PATIENCE, ROUTER4, ROUTER6, Speaker, start_frr
from tests.contract.routers import Software, load_frr, until

V4, V6 = ip_network("10.99.0.1/32"), ip_network("fd00:99::1/128")
VIPS = f"{V4.network_address}, {V6.network_address}"
NEXT_HOP = {4: NODE4, 6: NODE6}
COMMUNITY = "65000:100"
PASSWORD = "#{[1,2]}!$%&()*+-./:<=>?@^_`|~".ljust(
    79, "x"
)  # every kind of character, as long as all routers take


def config(
    folder: Path,
    *,
    ibgp: bool = False,
    bfd: str = "false",
    name: str = "lb1.x-y_z",
    vips: str = VIPS,
    announce: str = "",
    view: str = "",
    neighbor: str = "",
) -> Config:
    """A node with a session of each family, the one with a password. `announce`: prefixes around the VIPs. `view`: the software of a router that sends back. `neighbor`: what both neighbors say besides."""
    more = f", {neighbor}" if neighbor else ""

    def quoted(some: str) -> str:
        return ", ".join(f'"{one}"' for one in some.split(", "))

    text = f"""
node: {{name: {name}, runtime_dir: {folder}, exabgp_user: root}}
bgp:
  local_as: {65000 if ibgp else 65001}
  router_id: {NODE4}
  hold_time: 3
  bfd: {bfd}
{_view(view)}
  neighbors:
    - {{address: {ROUTER4}, remote_as: 65000, password: "{PASSWORD}"{more}}}
    - {{address: "{ROUTER6}", remote_as: 65000, local_address: "{NODE6}"{more}}}
vips:
  web:
    addresses: [{quoted(vips)}]
{f"    announce: [{quoted(announce)}]" if announce else ""}
    communities: ["{COMMUNITY}"]
    port: 80
    servers: [{{name: a, addresses: [10.9.2.1, "fd00:9::1"]}}]
"""
    return loads(text, hostname="lb1").config


def _view(software: str) -> str:
    return f"  view: true\n  software: {software}" if software else "  view: false"


@dataclass(frozen=True, slots=True)
class Pair:
    router: Software
    node: Speaker
    folder: Path
    places: bgp.Places
    bfd: tuple[Process, ...]  # zebra and bfdd of the node
    table: RouteWatch  # the router's kernel
    config: Config

    def accepted(self, *routes: Route) -> None:
        """Announces the routes; returns when the VIPs are at the router, and so all before them."""
        self.node.want(*routes)
        for prefix in (V4, V6):
            until(lambda prefix=prefix: self.router.path(prefix), f"{prefix} at the router")  # type: ignore[misc]

    def forwarded(self, prefix: Prefix) -> None:
        """Until the router's kernel sends to the node."""
        self.table.wait(str(prefix), [NEXT_HOP[prefix.version]], PATIENCE)

    def gone(self, prefix: Prefix) -> float:
        """When the router's kernel had no route any more, by the monotonic clock."""
        return self.table.wait(str(prefix), [], PATIENCE).monotonic

    def processes(self) -> list[int]:
        """Everything of the node that runs, the plugin's guardian first: it ends ExaBGP when only the plugin stands still."""
        plugin = self.node.agent.wait(lambda report: report.pid != 0).pid
        children = Path(f"/proc/{plugin}/task/{plugin}/children").read_text().split()
        return [*map(int, children), plugin, self.node.exabgp.pid, *(one.pid for one in self.bfd)]


@contextlib.contextmanager
def pair(
    software: type[Software],
    *,
    ibgp: bool = False,
    bfd: str = "false",
    switch: bool = False,
    vips: str = VIPS,
    announce: str = "",
    change: tuple[str, str] = ("", ""),
    runs: Runs | None = None,
    view: bool = False,
    neighbor: str = "",
) -> Iterator[Pair]:
    """Sessions are up. `bfd` as the configuration writes it; `switch`: the link can be cut.

    `change`: what an operator has written otherwise in the router's configuration. `runs`: what is rendered for.
    `view`: the router sends back what it has. `neighbor`: what both neighbors say besides.
    """
    with contextlib.ExitStack() as undo:
        folder = undo.enter_context(bgp.open_folder())
        places = undo.enter_context(bgp.places(switch=switch))
        one = config(
            folder,
            ibgp=ibgp,
            bfd=bfd,
            vips=vips,
            announce=announce,
            view=software.name if view else "",
            neighbor=neighbor,
        )
        table = RouteWatch(RouteTable([str(V4), str(V6)], {}, places.router))
        undo.callback(table.close)
        files = folder / "router"
        files.mkdir()
        conf = folder / "rendered.conf"
        rendered = ROUTERS[software.name](router([one], software=runs))
        assert change[0] in rendered
        conf.write_text(rendered.replace(*change) if change[0] else rendered)
        conf.chmod(0o600)
        other = software(places.router, files)
        undo.callback(other.stop)
        other.start(conf)
        daemons = (
            _bfd(one, places.node, folder, software, undo) if one.bgp.neighbors[0].bfd is not None else []
        )
        text = exabgp_conf(one, command=f"{sys.executable} -m anycast")
        node = Speaker(places.node, folder, text, [NODE4, NODE6], env={})
        node.agent.mark = one.bgp.mark
        undo.callback(node.stop)
        until(other.up, "both sessions up at the router")
        yield Pair(other, node, folder, places, tuple(daemons), table, one)


def _bfd(
    config: Config, place: str, folder: Path, software: type[Software], undo: contextlib.ExitStack
) -> list[Process]:
    """Of the same Debian as the router."""
    own = folder / "bfd"
    own.mkdir()
    conf = folder / "bfd.conf"
    conf.write_text(frr_bfd_conf(config))
    daemons = start_frr(place, own, ("zebra", "bfdd"), software.debian)
    for daemon in daemons:
        undo.callback(daemon.end)
    load_frr(own, conf, software.debian)
    return daemons


ROUTER_B, NODE_B = "10.90.1.1", "10.90.1.2"  # the link to a second node


def second_network(places: bgp.Places) -> None:
    """On the same link."""
    for place, link, address in ((places.router, "r0", ROUTER_B), (places.node, "n0", NODE_B)):
        subprocess.run(
            ["ip", "-n", place, "addr", "add", f"{address}/30", "dev", link], check=True, capture_output=True
        )


@contextlib.contextmanager
def second_node(
    one: Pair, *, local_as: int = 65002, vips: str = str(V4.network_address)
) -> Iterator[Speaker]:
    """A node with a higher router id and address. The running router is given the file for both."""
    second_network(one.places)
    folder = one.folder / "second"
    folder.mkdir()
    other = loads(
        f"""
node: {{name: lb2, runtime_dir: {folder}, exabgp_user: root}}
bgp:
  local_as: {local_as}
  router_id: {NODE_B}
  hold_time: 3
{_view(one.router.name if one.config.bgp.mark else "")}
  neighbors: [{{address: {ROUTER_B}, remote_as: 65000}}]
vips: {{web: {{addresses: [{vips}], port: 80, servers: [10.9.2.1]}}}}
""",
        hostname="lb2",
    ).config
    conf = one.folder / "rendered.conf"
    conf.write_text(ROUTERS[one.router.name](router([one.config, other])))
    one.router.load(conf)
    speaker = Speaker(
        one.places.node, folder, exabgp_conf(other, command=f"{sys.executable} -m anycast"), [NODE_B], env={}
    )
    speaker.agent.mark = other.bgp.mark
    try:
        yield speaker
    finally:
        speaker.stop()
