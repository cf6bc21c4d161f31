"""Strategies and a small configuration for the properties of the core."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from typing import Any, TypeVar

from hypothesis import strategies as st

from anycast.core.dataplane import ipvs
from anycast.core.dataplane import kernel as kernels
from anycast.core.dataplane.ipvs import Connections, Destination, ServiceEntry, ServiceKey, Table
from anycast.core.dataplane.traffic import Received
from anycast.core.values.checks import CarrierCheck, HttpCheck, LoadCheck
from anycast.core.values.configuration import (
    Address,
    Bgp,
    Check,
    Config,
    ConnectionSync,
    Forwarding,
    Leaf,
    Local,
    Neighbor,
    Node,
    Part,
    Persistence,
    Pool,
    Protocol,
    Quorum,
    RealServer,
    Rule,
    Scheduler,
    SchedulerFlag,
    Service,
    TcpCheck,
    Vip,
    WhenUnhealthy,
)

T = TypeVar("T")

CHECK = Check(kind=TcpCheck(), rise=2, fall=2)
BGP = Bgp(
    local_as=65001,
    router_id=IPv4Address("10.2.1.1"),
    neighbors=(
        Neighbor(address=ip_address("10.2.1.254"), remote_as=65000, families=frozenset({4})),
        Neighbor(address=ip_address("fd00:2:1::fe"), remote_as=65000, families=frozenset({6})),
    ),
)


def server(number: int, weight: int = 1) -> RealServer:
    return RealServer(
        name=f"rs{number}",
        weight=weight,
        addresses=(ip_address(f"10.9.2.{number}"), ip_address(f"fd00:9::2:{number}")),
    )


def vip(
    name: str,
    number: int,
    servers: tuple[int, ...],
    *,
    drained: tuple[int, ...] = (),
    ports: tuple[int, ...] = (80,),
    low: int = 1,
    high: int = 2,
    weight: int = 1,
    mark: int = 0,
    also: tuple[int, ...] = (),
    **service: Any,
) -> Vip:
    members = (*(server(n, weight) for n in servers), *(server(n, weight=0) for n in drained))
    pool = Pool(name=name, servers=members, check=CHECK)
    quorum = Quorum(low=low, high=high)
    return Vip(
        name=name,
        addresses=(
            ip_address(f"192.0.2.{number}"),
            ip_address(f"2001:db8:99::{number}"),
            *(ip_address(f"192.0.2.{more}") for more in also),
        ),
        services=(
            *(
                Service(protocol=Protocol.TCP, port=port, pool=pool, quorum=quorum, **service)
                for port in ports
            ),
            *((Service(mark=mark, pool=pool, quorum=quorum, **service),) if mark else ()),
        ),
        med=100,
    )


def here(name: str, number: int, *, ports: tuple[int, ...] = (80,)) -> Vip:
    """One that the node itself serves."""
    local = tuple(Local(port=port, check=CHECK) for port in ports)
    return replace(vip(name, number, ()), services=(), local=local)


def config(*vips: Vip, exclusive: bool = False, **settings: Any) -> Config:
    return Config(node=Node(name="lb1"), bgp=BGP, vips=vips, ipvs_exclusive=exclusive, **settings)


LINK = Check(kind=CarrierCheck(interface="eth0"), rise=2, fall=2)
LOAD = Check(kind=LoadCheck(max=2.0), rise=1, fall=1)
_PARTS = (Part(name="link", check=LINK), Part(name="load", check=LOAD))
EITHER, BOTH = Rule(needed=1, parts=_PARTS), Rule(needed=2, parts=_PARTS)


def requiring(one: Vip, rule: Rule[Leaf]) -> Vip:
    """The VIP requires it, and so do its real servers, along with their own check."""
    parts: tuple[Part[Leaf], ...] = (Part(name="tcp", check=CHECK), Part(name="node", check=rule))
    check = Rule(needed=2, parts=parts)
    services = tuple(
        replace(service, pool=replace(service.pool, check=check), require=rule) for service in one.services
    )
    return replace(one, services=services, require=rule)


def otherwise(one: Vip, *, check: Check = CHECK, port: int | None = None, **service: Any) -> Vip:
    """The VIP with real servers that are checked, or reached, in another way."""
    return replace(
        one,
        services=tuple(
            replace(
                each,
                pool=replace(
                    each.pool,
                    check=check,
                    servers=tuple(replace(server, port=port) for server in each.pool.servers),
                ),
                **service,
            )
            for each in one.services
        ),
    )


def staying(one: Vip) -> Vip:
    return replace(one, when_unhealthy=WhenUnhealthy.LAST_RESORT)


HTTP = Check(kind=HttpCheck(tls=False), rise=1, fall=2)
SORRY = Pool(name="sorry", servers=(server(6), server(7, weight=2)), check=CHECK)

CONFIGS = (
    config(vip("web", 1, (1, 2, 3))),
    config(vip("web", 1, (1, 2, 3, 4))),
    config(vip("web", 1, (2, 3))),
    config(vip("web", 1, (1, 2, 3)), vip("log", 2, (1, 2))),
    config(vip("log", 2, (1, 2, 3))),
    config(vip("web", 2, (1, 2, 3)), exclusive=True),
    config(vip("www", 1, (1, 2, 3))),
    config(vip("web", 2, (5, 6)), vip("log", 1, (1, 2), drained=(3,))),
    config(vip("web", 1, (1, 2), drained=(3,), ports=(80, 443))),
    config(vip("web", 1, (1, 2, 3), weight=2), connection_sync=ConnectionSync(interface="lan0")),
    config(vip("web", 1, (1, 2, 3), mark=7), vip("log", 2, (1, 2), mark=8, ports=())),
    replace(config(requiring(vip("web", 1, (1, 2, 3)), BOTH), vip("log", 2, (1, 2))), require=EITHER),
    # A mark that is shared by addresses of one family, one of them dropped, and the whole VIP dropped.
    config(vip("web", 1, (1, 2, 3), mark=7, also=(3,)), vip("log", 2, (1, 2))),
    config(vip("web", 1, (1, 2, 4), mark=7), vip("log", 2, (1, 2))),
    # Addresses that go to another VIP, and ports that go.
    config(vip("web", 3, (1, 2, 3)), vip("shop", 1, (1, 2, 3), ports=(443,)), vip("log", 2, (1, 2))),
    # All real servers replaced: others, another port, another way with another check, a mark in the place of a port.
    config(vip("web", 1, (4, 5)), vip("log", 2, (3, 4))),
    config(otherwise(vip("web", 1, (1, 2, 3)), port=8080), vip("log", 2, (4, 5, 6), low=2)),
    config(otherwise(vip("web", 1, (1, 2, 3)), check=HTTP, forwarding=Forwarding.TUNNEL)),
    config(vip("web", 1, (5, 6), mark=9, ports=()), otherwise(vip("log", 2, (1, 2)), check=HTTP)),
    config(vip("web", 1, (1, 2, 3)), manage_sysctls=False),
    # The node itself serves: all of it, a VIP of several, a port of a VIP that IPVS has the others of.
    config(here("web", 1), here("log", 2, ports=(80, 443))),
    config(here("web", 1), vip("log", 2, (1, 2))),
    config(replace(vip("web", 1, (1, 2, 3)), local=(Local(port=443, check=CHECK),)), here("log", 3)),
    config(vip("web", 1, (1, 2, 3), persistence=Persistence()), vip("log", 2, (1, 2)), manage_sysctls=False),
    # Sorry pools: one that others have real servers of, and one whose servers are checked in another way.
    config(
        vip("web", 1, (1, 2, 3), sorry=SORRY),
        vip("log", 2, (1, 6), sorry=replace(SORRY, servers=(server(5),))),
    ),
    config(staying(vip("web", 1, (1, 2), sorry=replace(SORRY, check=HTTP))), vip("log", 2, (1, 2))),
)

_SERVER_ADDRESSES = [ip_address(f"10.9.2.{n}") for n in range(1, 7)]


def told(kernel: kernels.Snapshot, asked: Iterable[str], *, discards: bool = False) -> kernels.Snapshot:
    """What a kernel that holds this says, when it is asked for these sysctls and no others. `discards`: and for those.

    It keeps the table weight of a server at weight 0 to itself.
    """
    sysctls = {name: kernel.sysctls.get(name) for name in asked}
    there = (kernel.discards or frozenset()) if discards else None
    table = ipvs.forgotten(kernel.table)
    return counting(replace(kernel, table=table, sysctls=sysctls, discards=there), kernel.packets)


def counting(snapshot: kernels.Snapshot, packets: Mapping[ipvs.Key, int]) -> kernels.Snapshot:
    """With these packets received, all of them added up already."""
    total = sum(packets.values())
    return replace(snapshot, packets=packets, received=Received(live=total, counted=total))


def after(
    last: kernels.Snapshot, found: kernels.Snapshot, written: Iterable[ipvs.Key] | None
) -> kernels.Snapshot:
    """A reading as the agent has it: what is as it was in the `last` one is the same object.

    `written`: of the services only these were read, and the others are as in the last reading.
    """
    keys = {*last.table, *found.table} if written is None else set(written)
    table = {key: entry for key, entry in found.table.items() if key in keys and last.table.get(key) != entry}
    return replace(
        found,
        table=ipvs.persistent(last.table).updated(table, keys - found.table.keys()),
        addresses=last.addresses if last.addresses == found.addresses else found.addresses,
        packets=_some(last.packets, found.packets, keys),
        received=found.received if written is None else None,
        connections=_some(last.connections, found.connections, keys),
    )


def _some(last: Mapping[ipvs.Key, T], found: Mapping[ipvs.Key, T], keys: set[ipvs.Key]) -> dict[ipvs.Key, T]:
    left = {key: one for key, one in last.items() if key not in keys}
    return {**left, **{key: one for key, one in found.items() if key in keys}}


def busied(
    kernel: kernels.Snapshot, change: Callable[[Destination, Connections], Connections]
) -> kernels.Snapshot:
    """With other connections of each real server: what `change` makes of those it has."""
    found = {}
    for key, entry in kernel.table.items():
        held = kernel.connections_of(key)
        found[key] = ipvs.packed(
            change(one, held.get(one.key, ipvs.NO_CONNECTIONS)) for one in entry.destinations
        )
    return replace(kernel, connections={key: counts for key, counts in found.items() if counts})


def tampered(kernel: kernels.Snapshot, table: Table) -> kernels.Snapshot:
    """With another table, in which the real servers that stay keep their connections."""
    held = {key: kernel.connections_of(key) for key in table}
    counts = {key: kernels.counted(entry, held[key]) for key, entry in table.items()}
    return replace(kernel, table=table, connections={key: one for key, one in counts.items() if one})


@st.composite
def entries(draw: st.DrawFn) -> ServiceEntry:
    chosen = draw(st.lists(st.sampled_from(_SERVER_ADDRESSES), unique=True, max_size=6))
    return ServiceEntry(
        scheduler=draw(st.sampled_from(list(Scheduler))),
        flags=draw(st.frozensets(st.sampled_from(list(SchedulerFlag)), max_size=2)),
        destinations=tuple(_destination(draw, address) for address in chosen),
    )


def _destination(draw: st.DrawFn, address: Address) -> Destination:
    table_weight = draw(st.integers(1, 3))
    return Destination(
        address=address,
        port=80,
        weight=draw(st.sampled_from([0, table_weight])),
        forwarding=draw(st.sampled_from(list(Forwarding))),
        table_weight=table_weight,
        upper=draw(st.sampled_from([0, 100])),
    )


KEYS = [
    ServiceKey(protocol=protocol, address=ip_address(address), port=port)
    for protocol in Protocol
    for address in ("192.0.2.1", "192.0.2.2", "2001:db8:99::1")
    for port in (80, 443)
]


def tables() -> st.SearchStrategy[Table]:
    return st.dictionaries(st.sampled_from(KEYS), entries(), max_size=4)
