"""Sessions of every kind, both ends from one file: what a site has that is not one router on one link with port 179."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from anycast.config.load import loads
from anycast.core.preference import Routers
from anycast.core.values.configuration import Config
from anycast.core.values.route import Prefix, Route
from anycast.render.exabgp import exabgp_conf
from anycast.render.passwords import with_passwords
from anycast.render.router import router
from anycast.render.routers import ROUTERS
from tests.contract import bgp
from tests.contract.bgp import NODE4, NODE6, ROUTER4, ROUTER6, Speaker
from tests.contract.routers import SOFTWARE, Bird, Frr, Software, until
from tests.contract.test_routers import installed

pytestmark = [pytest.mark.bgp, pytest.mark.skipif(bool(bgp.missing()), reason=bgp.missing() or "")]

PORT, NODE_PORT = 1790, 1179
FAR_ROUTER, FAR_NODE = ("10.92.0.1", "10.92.1.1"), ("10.92.0.6", "10.92.1.6")
LINK_ROUTER, LINK_NODE = "fe80::90:1", "fe80::90:2"
VIPS = {
    name: ip_network(f"10.99.0.{n}/32") for n, name in enumerate(("near", "far", "farther", "six", "link"), 1)
}
LINK6 = ip_network("fd00:99::5/128")

each = pytest.mark.parametrize("software", SOFTWARE, ids=lambda one: one.id())


def run(place: str, *words: str, stdin: str | None = None) -> str:
    argv = ["ip", "netns", "exec", place, *words]
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def started(there: Software, conf: Path, port: int = 179) -> None:
    """It listens: ExaBGP, which is refused, would try again more and more rarely."""
    there.start(conf)
    until(lambda: run(there.place, "ss", "-Hltn", f"sport = :{port}"), f"a router at port {port}")


def far_away(places: bgp.Places, undo: contextlib.ExitStack) -> None:
    """A second way between both, over a third machine, with two addresses at each end."""
    between = f"{bgp.MARK}-between"
    ip = ["ip", "-batch", "-"]
    lines = f"""
netns add {between}
link add f0 netns {places.router} type veth peer name f1 netns {between}
link add f2 netns {between} type veth peer name f3 netns {places.node}
"""
    subprocess.run(ip, input=lines, text=True, check=True)
    undo.callback(subprocess.run, ["ip", "netns", "del", between], check=True)
    ends = (
        (places.router, "f0", FAR_ROUTER, "10.92.{}.4", "10.92.{}.2"),
        (places.node, "f3", FAR_NODE, "10.92.{}.0", "10.92.{}.5"),
    )
    for place, link, addresses, there, via in ends:
        lines = f"link set {link} up\n" + "".join(
            f"addr add {address}/30 dev {link}\nroute add {there.format(n)}/30 via {via.format(n)}\n"
            for n, address in enumerate(addresses)
        )
        run(place, *ip, stdin=lines)
    lines = "".join(f"addr add 10.92.{n}.2/30 dev f1\naddr add 10.92.{n}.5/30 dev f2\n" for n in (0, 1))
    run(between, *ip, stdin=f"link set f1 up\nlink set f2 up\n{lines}")
    run(between, "sysctl", "-qw", "net.ipv4.ip_forward=1")


# BIRD takes no address for reachable that is not in a table of its own.
BIRD_WAYS = """
protocol direct { ipv4; ipv6; }
protocol static { ipv4; route 10.92.0.4/30 via 10.92.0.2; route 10.92.1.4/30 via 10.92.1.2; }
"""


def session(name: str, **settings: object) -> str:
    """One line of `neighbors`, for the VIP of this name alone."""
    told = {"remote_as": 65000, "port": PORT, "export": f"[{name}]", **settings}
    return "    - {" + ", ".join(f"{key}: {value}" for key, value in told.items()) + "}\n"


def every_kind(folder: Path, software: type[Software]) -> Config:
    """A VIP for each kind of session, which goes to the router over no other one."""
    secret = folder / "bgp.password"
    secret.write_text("#a/password:1\n")
    secret.chmod(0o600)
    runs = installed(software)
    # OpenBGPD (7.7) takes no connection with a password: it must dial, and then gets an answer with a TTL of 64.
    mine = {} if software.name == "openbgpd" else {"password_file": secret}
    lines = [
        session("near", address=ROUTER4, ttl_security="true", **mine),
        session("far", address=FAR_ROUTER[0], local_address=FAR_NODE[0], multihop=4, password_file=secret),
    ]
    names = ["near", "far"]
    if software.name != "openbgpd":
        lines += [session("farther", address=FAR_ROUTER[1], local_address=FAR_NODE[1], ttl_security=2)]
        names += ["farther"]
    if software.name != "openbgpd" or runs.since(8, 8):
        both = {"families": "[ipv4, ipv6]", "extended_next_hop": "true"}
        lines += [session("six", address=f'"{ROUTER6}"', local_address=f'"{NODE6}"', **both)]
        lines += [
            session(
                "link",
                address=f'"{LINK_ROUTER}"',
                local_address=f'"{LINK_NODE}"',
                interface="n0",
                remote_interface="r0",
                **both,
            )
        ]
        names += ["six", "link"]
    vips = "".join(
        f"  {name}: {{addresses: [{VIPS[name].network_address}"
        + (f', "{LINK6.network_address}"' if name == "link" else "")
        + '], port: 80, as_path_prepend: 1, servers: [{name: a, addresses: [10.9.2.1, "fd00:9::1"]}]}\n'
        for name in names
    )
    text = f"""
node: {{name: lb1, runtime_dir: {folder}, exabgp_user: root}}
bgp:
  local_as: "64086.59905"
  router_id: {NODE4}
  hold_time: 3
  listen_port: {NODE_PORT}
  neighbors:
{"".join(lines)}vips:
{vips}"""
    return with_passwords(loads(text, hostname="lb1").config)


def leased(config: Config) -> list[Route]:
    routers = Routers(config.bgp)
    found = (
        routers.route(vip, ip_network(f"{address}/{address.max_prefixlen}"), drain=False)
        for vip in config.vips
        for address in vip.addresses
    )
    return [one for one in found if one is not None]


@dataclass(frozen=True, slots=True)
class Ends:
    router: Software
    node: Speaker
    places: bgp.Places
    config: Config


@contextlib.contextmanager
def both_ends(software: type[Software]) -> Iterator[Ends]:
    with contextlib.ExitStack() as undo:
        folder = undo.enter_context(bgp.open_folder())
        places = undo.enter_context(bgp.places())
        far_away(places, undo)
        for place, link, address in ((places.router, "r0", LINK_ROUTER), (places.node, "n0", LINK_NODE)):
            run(place, "ip", "addr", "add", f"{address}/64", "dev", link, "nodad")
        config = every_kind(folder, software)
        files = folder / "router"
        files.mkdir()
        conf = folder / "rendered.conf"
        conf.write_text(ROUTERS[software.name](router([config], software=installed(software))))
        conf.chmod(0o600)
        there = software(places.router, files, port=PORT, more=BIRD_WAYS)
        undo.callback(there.stop)
        started(there, conf, PORT)
        text = exabgp_conf(config, command=f"{sys.executable} -m anycast")
        ends = [str(one.local_address or NODE4) for one in config.bgp.neighbors]
        here = [one for one in ends if one != LINK_NODE]
        node = Speaker(places.node, folder, text, here, env={"exabgp_tcp_port": str(NODE_PORT)})
        undo.callback(node.stop)
        yield Ends(there, node, places, config)


@each
def test_a_session_of_every_kind_carries_its_routes(software: type[Software]) -> None:
    if software.missing():
        pytest.skip(f"no {software.program} here")
    with both_ends(software) as one:
        routes = leased(one.config)
        report = one.node.want(*routes)
        assert not report.failed
        for route in routes:
            until(lambda at=route.prefix: one.router.paths(at), f"{route.prefix} at the router")  # type: ignore[misc]
            if isinstance(one.router, Frr):
                told = one.router.told(route.prefix)
                assert told["aspath"]["string"] == "4200000001 4200000001"
        if isinstance(one.router, Frr | Bird):
            runs = installed(software)
            unused = software.name == "frr" and runs.since(10, 3) and not runs.since(10, 7)
            for name in ("six",) if unused else ("six", "link"):
                reached(one, VIPS[name])
        held_apart(one, one.places.node, ROUTER4)


def reached(one: Ends, vip: Prefix) -> None:
    """The router's kernel sends to the node, for a VIP that has no IPv4 on the way."""
    run(one.places.node, "ip", "addr", "add", str(vip), "dev", "lo")
    until(lambda: " via inet6 " in run(one.places.router, "ip", "route", "show", str(vip)), f"{vip} by IPv6")
    run(one.places.router, "ping", "-q", "-c", "1", "-W", "5", str(vip.network_address))


def altered(place: str, table: str, rule: str) -> None:
    """What leaves `place` passes this rule."""
    chain = f"chain out {{\ntype filter hook output priority 0\n{rule}\n}}"
    run(place, "nft", "-f", "-", stdin=f"table ip {table} {{\n{chain}\n}}\n")


def held_apart(one: Ends, place: str, other: str) -> None:
    """What `place` sends to `other` is as if it came over one router more: the session ends, and another stays."""
    altered(place, "far", f"ip daddr {other} ip ttl set 254")
    until(lambda: not one.router.paths(VIPS["near"]), "no session with packets from further away")
    assert one.router.paths(VIPS["far"])
    run(place, "nft", "delete", "table", "ip", "far")


@pytest.mark.skipif(Bird.missing(), reason="no BIRD here")
def test_exabgp_takes_nothing_from_further_away_however_the_session_came_about() -> None:
    """Also one that the router has opened: while ExaBGP cannot reach it. What answers for ExaBGP then is the kernel."""
    with both_ends(Bird) as one:
        way = f"{ROUTER4.rpartition('.')[0]}.0/30 dev n0 src {NODE4} hoplimit 255"
        run(one.places.node, "ip", "route", "replace", *way.split())
        near = next(route for route in leased(one.config) if route.prefix == VIPS["near"])
        far = next(route for route in leased(one.config) if route.prefix == VIPS["far"])
        altered(one.places.node, "silent", f"ip daddr {ROUTER4} tcp dport {PORT} drop")
        one.node.exabgp.end(grace=0.0)
        until(lambda: not one.router.paths(VIPS["near"]), "no session any more")
        one.node.start()
        one.node.want(near, far)
        for route in (near, far):
            until(lambda at=route.prefix: one.router.paths(at), f"{route.prefix} at the router")  # type: ignore[misc]
        held_apart(one, one.places.router, NODE4)


OTHER_ROUTERS = {  # what an operator writes for a router of the same AS that is no client
    "frr": ("router bgp 65000\n", "router bgp 65000\n neighbor 10.92.0.6 remote-as 65000\n"),
    "bird": (
        "filter 'anycast_lb1_ipv4'",
        """protocol bgp second { local 10.92.0.1 as 65000; neighbor 10.92.0.6 as 65000; multihop;
  ipv4 { import none; export all; next hop keep; }; }
filter 'anycast_lb1_ipv4'""",
    ),
    "gobgp": (
        'default-export-policy = "reject-route"',
        'default-export-policy = "accept-route"',
    ),
    "openbgpd": (
        "deny to any\n",
        "deny to any\nneighbor 10.92.0.6 {\n\tremote-as 65000\n\tlocal-address 10.92.0.1\n}\nallow to 10.92.0.6\n",
    ),
}
GOBGP_OTHER = """
[[neighbors]]
  [neighbors.config]
    neighbor-address = "10.92.0.6"
    peer-as = 65000
  [neighbors.transport.config]
    local-address = "10.92.0.1"
"""


@each
def test_a_reflected_route_reaches_the_other_routers(software: type[Software]) -> None:
    """Without `route_reflector` a router hands no route of its own AS to another router of it."""
    if software.missing() or Bird.missing():
        pytest.skip(f"no {software.program} or no BIRD here")
    with contextlib.ExitStack() as undo:
        folder = undo.enter_context(bgp.open_folder())
        places = undo.enter_context(bgp.places())
        far_away(places, undo)
        config = loads(
            f"""
node: {{name: lb1, runtime_dir: {folder}, exabgp_user: root}}
bgp:
  local_as: 65000
  router_id: {NODE4}
  hold_time: 3
  listen_port: {NODE_PORT}
  neighbors: [{{address: {ROUTER4}, remote_as: 65000, route_reflector: true}}]
vips: {{near: {{address: {VIPS["near"].network_address}, port: 80, servers: [10.9.2.1]}}}}
""",
            hostname="lb1",
        ).config
        files = {name: folder / name for name in ("router", "other")}
        for one in files.values():
            one.mkdir()
        conf = folder / "rendered.conf"
        rendered = ROUTERS[software.name](router([config]))
        before, after = OTHER_ROUTERS[software.name]
        assert before in rendered
        conf.write_text(
            rendered.replace(before, after, 1) + (GOBGP_OTHER if software.name == "gobgp" else "")
        )
        conf.chmod(0o600)
        there = software(places.router, files["router"], more=BIRD_WAYS)
        undo.callback(there.stop)
        started(there, conf)
        second = folder / "second.conf"
        second.write_text(
            "protocol bgp r { local 10.92.0.6 as 65000; neighbor 10.92.0.1 as 65000; multihop; connect delay time 1;\n"
            "  ipv4 { import all; export none; }; }\n"
        )
        other = Bird(places.node, files["other"], router_id="10.92.0.6")
        undo.callback(other.stop)
        other.start(second)
        text = exabgp_conf(config, command=f"{sys.executable} -m anycast")
        # The other router has 179.
        node = Speaker(places.node, folder, text, [NODE4], env={"exabgp_tcp_port": str(NODE_PORT)})
        undo.callback(node.stop)
        node.want(*leased(config))
        until(lambda: str(VIPS["near"]) in other.ask("show route all"), "the VIP at the other router")
        assert NODE4 in other.ask("show route all"), "the next hop is the node's"


RANGE = "10.92.0.0/29"


@each
def test_a_node_that_the_router_does_not_know_by_its_address_is_taken(software: type[Software]) -> None:
    """Two nodes in a range, of which the router's file was rendered from one; a password for both."""
    if software.missing():
        pytest.skip(f"no {software.program} here")
    with contextlib.ExitStack() as undo:
        folder = undo.enter_context(bgp.open_folder())
        places = undo.enter_context(bgp.places())
        run(places.router, "ip", "addr", "add", "10.92.0.1/29", "dev", "r0")
        configs, folders = [], []
        for name, address, vip in (("lb1", "10.92.0.2", "near"), ("lb2", "10.92.0.3", "far")):
            run(places.node, "ip", "addr", "add", f"{address}/29", "dev", "n0")
            folders.append(folder / name)
            folders[-1].mkdir()
            configs.append(
                loads(
                    f"""
node: {{name: {name}, runtime_dir: {folders[-1]}, exabgp_user: root}}
bgp:
  local_as: 65001
  router_id: {address}
  hold_time: 3
  neighbors: [{{address: 10.92.0.1, remote_as: 65000{PASSWORD.get(software.name, ', password: "a/password"')}}}]
vips: {{{vip}: {{address: {VIPS[vip].network_address}, port: 80, servers: [10.9.2.1]}}}}
""",
                    hostname=name,
                ).config
            )
        files = folder / "router"
        files.mkdir()
        conf = folder / "rendered.conf"
        # The second node's VIP, and not its address.
        first = replace(configs[0], vips=(*configs[0].vips, *configs[1].vips))
        one = router([first], software=installed(software), ranges=[ip_network(RANGE)])
        conf.write_text(ROUTERS[software.name](one))
        conf.chmod(0o600)
        there = software(places.router, files)
        undo.callback(there.stop)
        started(there, conf)
        for config, where in zip(configs, folders, strict=True):
            text = exabgp_conf(config, command=f"{sys.executable} -m anycast")
            node = Speaker(places.node, where, text, [str(config.bgp.router_id)], env={})
            undo.callback(node.stop)
            node.want(*leased(config))
        for name in ("near", "far"):
            until(lambda at=VIPS[name]: there.paths(at), f"{VIPS[name]} at the router")  # type: ignore[misc]


PASSWORD = {
    "openbgpd": "",
    "gobgp": "",
}  # it takes no connection with a password (7.7), and dials nobody in a range
