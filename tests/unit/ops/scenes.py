"""Nodes as an operator meets them, for what is looked at."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, ip_address

from anycast.core import events as ev
from anycast.core.dataplane.ipvs import Connections
from anycast.core.fleet.values import Peer
from anycast.core.maintenance.clocks import End, Expiry
from anycast.core.maintenance.stages import NODE, Maintenance
from anycast.core.values.configuration import (
    Check,
    Config,
    Pool,
    Protocol,
    Quorum,
    RealServer,
    Service,
    TcpCheck,
    Vip,
)
from anycast.ops.traffic import SLOTS
from tests.property.worlds import busied
from tests.unit import fleets
from tests.unit.ops import flows
from tests.unit.ops.node import CONFIG, REFUSED, ROUTER6, Node

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


def _pool(name: str, net: int, count: int) -> Pool:
    servers = tuple(
        RealServer(
            name=f"{name}{n}", addresses=(ip_address(f"10.9.{net}.{n}"), ip_address(f"fd00:9:{net}::{n}"))
        )
        for n in range(1, count + 1)
    )
    return Pool(name=name, servers=servers, check=Check(kind=TcpCheck(), rise=2, fall=2))


def _service(protocol: Protocol, port: int, pool: Pool, low: int = 2) -> Service:
    return Service(protocol=protocol, port=port, pool=pool, quorum=Quorum(low=low, high=low + 1))


def _vip(name: str, number: int, *services: Service) -> Vip:
    addresses = (ip_address(f"192.0.2.{number}"), ip_address(f"2001:db8:99::{number}"))
    return Vip(name=name, addresses=addresses, services=services)


_WEB, _DNS, _MAIL = _pool("web", 2, 4), _pool("dns", 3, 3), _pool("mail", 4, 3)
SITE = replace(
    CONFIG,
    vips=(
        _vip("web", 1, _service(Protocol.TCP, 80, _WEB), _service(Protocol.TCP, 443, _WEB)),
        _vip("resolver", 53, _service(Protocol.UDP, 53, _DNS), _service(Protocol.TCP, 53, _DNS)),
        _vip("mail", 25, _service(Protocol.TCP, 25, _MAIL)),
    ),
)


def running(config: Config = SITE, *, ago: float = 4000.0, load: flows.Load | None = None) -> Node:
    """A healthy node by the clocks of this process, up for `ago` seconds, with something measured.

    `load`: what it has carried for five minutes.
    """
    node = Node(config, now=time.monotonic() - ago)
    node.probe()
    node.report()
    steps = 0 if load is None else SLOTS + 2
    node.jump(time.monotonic() - node.now - flows.STEP * steps)
    node.send(ev.Tick())
    if load is not None:
        node.kernel = busied(
            node.kernel, lambda one, _: Connections(7 + int(one.address) % 40, int(one.address) % 17)
        )
        flows.carry(node, load, steps=steps)
    node.last_step = time.monotonic()
    chance = random.Random(5)  # noqa: S311 - the same picture each time
    for target in node.state.index.targets:
        usual = chance.uniform(0.0004, 0.003)
        node.took[target] = [usual * chance.choice((1, 1, 1.1, 1.3, 1.6, 3)) for _ in range(30)]
    node.report()
    return node


def healthy() -> Node:
    return running(load=flows.lively(12.0))


def draining() -> Node:
    node = running(replace(SITE, timing=replace(SITE.timing, drain=30.0)), load=flows.lively(12.0))
    entry = Maintenance(reason="new kernel", by="ada", since=time.time() - 4)
    end = End(at=time.time() + 1800, then=Expiry.RESUME)
    node.now -= 4
    node.send(ev.MaintenanceSet(scope="resolver", entry=replace(entry, end=end)))
    node.send(ev.MaintenanceSet(scope="web/web2", entry=replace(entry, reason="disk is being replaced")))
    node.jump(4)
    node.send(ev.Tick())
    node.report()
    return node


def failing() -> Node:
    both = tuple(replace(one, families=frozenset({4, 6})) for one in SITE.bgp.neighbors)
    node = running(replace(SITE, bgp=replace(SITE.bgp, neighbors=both)), load=flows.lively(12.0))
    gone = [f"10.9.3.{n}" for n in (1, 2, 3)] + [f"fd00:9:3::{n}" for n in (1, 2, 3)] + ["10.9.2.4"]
    node.now -= 75
    node.probe(*gone)
    node.probe(*gone)
    node.jump(70)
    node.probe(*gone, "10.9.4.1")
    for target in node.state.index.targets:
        if str(target.address) in gone:
            node.took[target] = node.took[target][:18] + [-0.0005, -0.0006, -1.0] * 4
    node.report()
    state = node.state.plugins[1]
    assert state is not None
    sessions = tuple(
        replace(one, state="down", reason="the peer has closed the session: hold timer expired")
        if one.address == ROUTER6
        else one
        for one in state.neighbors
    )
    node.report(neighbors=sessions)
    node.force = REFUSED
    return node


def empty() -> Node:
    return running(replace(CONFIG, vips=()))


def maintenance() -> Node:
    """The whole node is out."""
    node = running()
    node.now -= 600
    entry = Maintenance(reason="new power supply", by="grace", since=time.time() - 600)
    node.send(ev.MaintenanceSet(scope=NODE, entry=entry, skip_drain=True))
    for seconds in (1.0, 3.0, 3.0, 60.0, 60.0):
        node.send(ev.Tick(), after=seconds)
        node.report()
    node.jump(time.monotonic() - node.now)
    node.send(ev.Tick())
    return node


def hostile() -> Node:
    """Everything that others name or say is markup."""
    pool = replace(_pool("p", 2, 2), name=HOSTILE)
    pool = replace(
        pool, servers=tuple(replace(one, name=f"{HOSTILE}{n}") for n, one in enumerate(pool.servers))
    )
    node = running(
        replace(
            SITE,
            node=replace(SITE.node, name=HOSTILE),
            vips=(replace(_vip("v", 1, _service(Protocol.TCP, 80, pool)), name=HOSTILE),),
        )
    )
    node.said = HOSTILE
    node.probe("10.9.2.1", "fd00:9:2::1")
    node.probe("10.9.2.1", "fd00:9:2::1")
    entry = Maintenance(reason=HOSTILE, by=HOSTILE, since=time.time())
    node.send(ev.MaintenanceSet(scope=HOSTILE, entry=entry))
    node.kernel_error = HOSTILE
    node.send(ev.KernelFailed(reason=HOSTILE))
    node.report(neighbors=(), exabgp_version=HOSTILE)
    node.events.publish(HOSTILE, "error", {HOSTILE: HOSTILE, "list": [HOSTILE]})
    return node


def large(servers: int = 5000, *, pool: int = 100, down: int = 0, load: flows.Load | None = None) -> Node:
    first = int(IPv4Address("10.16.0.0"))
    vips: list[Vip] = []
    for number in range(0, servers, pool):
        members = tuple(
            RealServer(name=f"s{one}", addresses=(IPv4Address(first + one),))
            for one in range(number, number + pool)
        )
        found = Pool(name=f"p{number // pool}", servers=members, check=Check(kind=TcpCheck(), rise=1, fall=1))
        service = Service(protocol=Protocol.TCP, port=8000, pool=found, quorum=Quorum(low=1, high=1))
        vips.append(
            Vip(
                name=f"v{number // pool}",
                addresses=(IPv4Address(int(IPv4Address("192.0.2.0")) + len(vips)),),
                services=(service,),
            )
        )
    node = running(replace(CONFIG, vips=tuple(vips)), load=load)
    if down:
        node.probe(*(str(IPv4Address(first + one)) for one in range(down)))
        node.report()
    return node


def fleet() -> Node:
    """lb1 of a fleet, of which the others are out, differ, are gone or were never heard."""
    node = healthy()
    node.send(ev.Reconfigured(config=replace(node.state.config, fleet=fleets.FIVE)))
    later = node.now - fleets.NOW
    peers = {name: shifted(one, later) for name, one in fleets.ill()[1].peers.items()}
    node.send(ev.FleetHeard(peers=peers))
    return node


def shifted(one: Peer, later: float) -> Peer:
    """As it would be so much later."""
    at = (None if each is None else each + later for each in (one.heard, one.told, one.problem_since))
    heard, told, since = at
    return replace(one, heard=heard, told=told, problem_since=since)


SCENES: dict[str, Callable[[], Node]] = {
    one.__name__: one for one in (healthy, draining, failing, empty, maintenance, hostile, large, fleet)
}
