"""What is allowed but probably not intended. Checked only in a configuration without problems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeAlias

from anycast.analysis import maglev
from anycast.analysis.maglev import Entry
from anycast.config.problem import Path, dotted
from anycast.core.dataplane.ipvs import MAGLEV_SLOTS, SOURCE_SLOTS
from anycast.core.dataplane.members import usual_weight
from anycast.core.values.configuration import (
    Address,
    Bgp,
    Config,
    Forwarding,
    Neighbor,
    Persistence,
    Protocol,
    RealServer,
    Scheduler,
    SchedulerFlag,
    Service,
    Timeouts,
    TunnelChecksum,
)

MANY = 400  # real servers: with more, a table of 4,093 slots gives shares that differ by a tenth
BY_PORT = {Scheduler.MH: SchedulerFlag.MH_PORT, Scheduler.SH: SchedulerFlag.SH_PORT}  # what hashes the client
UNFOUND = 0.001  # share of the clients
FIGURES = 16  # pools the moved flows are worked out for: one can take a twentieth of a second

Warned: TypeAlias = tuple[Path, str, str]
"""Place, what it is, what to do."""


_SameServers: TypeAlias = tuple[
    Path, frozenset[Address]
]  # a VIP, and the addresses of all real servers of a service


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A service, and where it, its pool and the pool's servers stand: in the files, if nothing is wrong with them."""

    vip: Path
    place: Path
    pool: Path
    servers: tuple[Path, ...]
    service: Service
    versions: tuple[int, ...]  # families of the VIP


def warnings(served: Iterable[Served], config: Config) -> Iterator[Warned]:
    """A service or pool is spoken of once, however many ports and services there are of it."""
    places: set[Path] = set()
    pools: set[Path] = set()
    synced = config.connection_sync is not None
    figures = FIGURES
    ports: dict[_SameServers, int | None] = {}
    marks: dict[int, Served] = {}
    full: set[Path] = set()
    limited: set[Path] = set()
    hashed: set[Path] = set()
    for one in served:
        yield from _apart(one, ports)
        if one.place not in places:
            places.add(one.place)
            yield from _sticky(one, config.timeouts or Timeouts())
            yield from _folded(one)
            yield from _offloaded(one)
            yield from _unlike(one, marks)
            yield from _unfound(one)
            if not synced:
                yield from _remembered(one)
        if one.pool not in full:
            full.add(one.pool)
            yield from _single(one)
        if not synced and one.service.scheduler in BY_PORT and one.pool not in limited:
            limited.add(one.pool)
            yield from _limited(one)
        if one.service.scheduler is Scheduler.SH and one.pool not in hashed:
            hashed.add(one.pool)
            yield from _starved(one)
        if one.service.scheduler is not Scheduler.MH or one.pool in pools:
            continue
        pools.add(one.pool)
        if _is_plain(one.service.pool.servers):
            continue
        tables = {version: maglev.entries(one.service, version) for version in one.versions}
        found = [*_many(one, tables), *_weights(one, tables, figures=figures > 0), *_alike(one, tables)]
        figures -= bool(found)
        yield from found


def _is_plain(servers: tuple[RealServer, ...]) -> bool:
    """Nothing can be said of their table: few of them, alike, and each hashed by the whole of its address."""
    usual = servers[0].weight
    return len(servers) <= MANY and all(
        server.weight == usual and server.addresses[0].version == 4 for server in servers
    )


def next_hops(bgp: Bgp) -> Iterator[Warned]:
    """A next hop holds for every session, also for those whose own address would have served."""
    for version, hop in ((4, bgp.next_hop_v4), (6, bgp.next_hop_v6)):
        others = [
            neighbor
            for neighbor in bgp.neighbors
            if hop is not None and version == neighbor.address.version and version in neighbor.families
            if neighbor.local_address not in (None, hop)
        ]
        if others:
            known = ", ".join(f"{one.local_address} with {one.address}" for one in others)
            what = f"{hop} is not this node's address in the session ({known}): a router refuses a next hop outside"
            do = "remove it, or make sure that it is in that network (`anycast doctor` checks that)"
            yield ("bgp", "next_hop", f"ipv{version}"), f"{what} the network it shares with the node", do


def unchecked(bgp: Bgp) -> Iterator[Warned]:
    """What a router opens comes to ExaBGP's listening socket, one for a local address: it checks for all neighbors or none.

    And its answer is the kernel's, with the TTL that everything has.
    """
    by_address: dict[Address | None, list[tuple[int, Neighbor]]] = {}
    for n, neighbor in enumerate(bgp.neighbors):
        local = neighbor.local_address or (bgp.router_id if neighbor.address.version == 4 else None)
        by_address.setdefault(local, []).append((n, neighbor))
    for local, there in by_address.items():
        plain = [str(one.address) for _, one in there if not one.ttl_security]
        for n, neighbor in there:
            if neighbor.ttl_security and neighbor.passive:
                what = "a router with ttl_security drops the answer to its connection, which has the kernel's TTL of 64"
                do = f"remove it: this node opens the session (or `ip route change` the route to {neighbor.address}, `hoplimit 255`)"
                yield ("bgp", "neighbors", n, "passive"), what, do
            if neighbor.ttl_security and plain and not neighbor.address.is_link_local:
                others = ", ".join(plain[:3]) + (f" and {len(plain) - 3} more" if len(plain) > 3 else "")
                what = f"a session that the router opens is taken from any distance, for {others} has none and comes to {local} too"
                do = "write it for all neighbors of this local address, or have another local_address here"
                yield ("bgp", "neighbors", n, "ttl_security"), what, do


def _sticky(one: Served, timeouts: Timeouts) -> Iterator[Warned]:
    service = one.service
    udp = service.protocol is Protocol.UDP and not service.mark
    if not udp or service.one_packet or service.persistence is not None:
        return
    what = (
        "a client that always sends from the same port stays with its real server until it pauses for "
        f"{timeouts.udp}s (timeouts.udp), or expire_failed ends that"
    )
    if service.forwarding is Forwarding.NAT:
        yield (*one.place, "forwarding"), what, "write forwarding: dr or tunnel, or a shorter timeouts.udp"
    else:
        yield (*one.place, "one_packet"), what, "remove this, or write a shorter timeouts.udp"


def _remembered(one: Served) -> Iterator[Warned]:
    """Persistence under mh: what another balancer chooses without having seen the client. docs/behaviours.md, Q26."""
    service = one.service
    if service.persistence is None or service.scheduler is not Scheduler.MH:
        return
    if SchedulerFlag.MH_PORT in service.flags:
        what = (
            "with mh-port another balancer chooses by the client's port too, and persistence went by the address alone: "
            "after the loss of a balancer 29 of 300 established connections came to their real server, without mh-port "
            "300 of 300 (Linux 6.1, 10 real servers)"
        )
        yield (*one.place, "flags"), what, "write flags: [mh-fallback], or remove the line"
    elif wide := [name for version, name in _wide(service.persistence) if version in one.versions]:
        what = (
            "the client that comes first decides for its whole network, and on another balancer that may be another one: "
            "when a balancer is lost, all connections of a network can end at the wrong real server"
        )
        yield (*one.place, "persistence", wide[0]), what, "remove it, or write connection_sync"


def _wide(persistence: Persistence) -> Iterator[tuple[int, str]]:
    """The families in which more than one address is a client, and the setting that says so."""
    if persistence.ipv4_prefix < 32:
        yield 4, "ipv4_prefix"
    if persistence.ipv6_prefix < 128:
        yield 6, "ipv6_prefix"


def _folded(one: Served) -> Iterator[Warned]:
    """Without the port the kernel hashes 32 bits of an IPv6 client: the XOR of its four words."""
    by_port = BY_PORT.get(one.service.scheduler)
    if by_port is None or by_port in one.service.flags or 6 not in one.versions:
        return
    what = (
        f"{one.service.scheduler} without {by_port} tells IPv6 clients apart by the XOR of the four words of their "
        "address: where they are numbered alike in two words, as 2001:db8:0:N::N, all of them come to one real server"
    )
    field = "persistence" if one.service.persistence is not None else "flags"
    do = f"look at the shares in `anycast status`; {by_port} without persistence spreads them by their ports"
    yield (*one.place, field), what, do


def _offloaded(one: Served) -> Iterator[Warned]:
    if one.service.tunnel.checksum is TunnelChecksum.REMOTE:
        what = (
            "with remote checksum offload 69 to 84 segments of an upload of 200 kB came with a wrong checksum and were "
            "sent again (Linux 6.1 to 7.2, packets merged by GRO): checks pass and uploads crawl"
        )
        yield (*one.place, "tunnel", "checksum"), what, "write csum or nocsum"


def _apart(one: Served, ports: dict[_SameServers, int | None]) -> Iterator[Warned]:
    """A client was meant to have one real server, and has one for each port: docs/behaviours.md, I4.

    `ports`: of a VIP and the addresses of real servers, the first port at which the client's address alone decides;
    None: it has been told.
    """
    service = one.service
    servers = service.pool.servers
    if service.scheduler is not Scheduler.MH or SchedulerFlag.MH_PORT in service.flags or service.mark:
        return
    if len(servers) < 2 or all(server.port is not None for server in servers):
        return  # the table is made of the real servers' own ports
    same = one.vip, frozenset(address for server in servers for address in server.addresses)
    first = ports.setdefault(same, service.port)
    if first in {service.port, None}:
        return
    ports[same] = None
    there = "the persistence" if service.persistence is not None else "flags: [mh-fallback]"
    what = (
        f"mh chooses for each port by itself, also without mh-port: a client that uses {first} and {service.port} has "
        "two real servers, which are the same one only by chance"
    )
    do = (
        f"write one service with a mark for all of these ports, and {there} there: a client then has one (`mark` in "
        "`anycast schema` has the rule for nftables); or write flags: [mh-port, mh-fallback] if it may have several"
    )
    yield (*one.place, "persistence" if service.persistence is not None else "flags"), what, do


def _unlike(one: Served, marks: dict[int, Served]) -> Iterator[Warned]:
    """A mark is a service of its own for each address family."""
    service = one.service
    by_port = BY_PORT.get(service.scheduler)
    if not service.mark or by_port is None:
        return
    first = marks.setdefault(service.mark, one)
    other = BY_PORT[first.service.scheduler]
    if (by_port in service.flags) != (other in first.service.flags):
        here, there = (
            (f"with {by_port}", "without it")
            if by_port in service.flags
            else (f"without {by_port}", f"with {other}")
        )
        what = (
            f"mark {service.mark} is {here} here and {there} at {dotted(first.place)}: in one address family a "
            "client has one real server for all of the mark, in the other one for each connection"
        )
        yield (*one.place, "flags"), what, "write the same flags at both, or another mark"


def _single(one: Served) -> Iterator[Warned]:
    servers = one.service.pool.servers
    first = next((n for n, server in enumerate(servers) if server.upper == 1), None)
    if first is None:
        return
    what = (
        "a limit of one connection: a closed one counts for two minutes (timeouts.tcp_fin), so the real server takes "
        "one client in that time, and packets without a server are dropped"
    )
    yield (*one.servers[first], "upper_threshold"), what, "write a larger limit"


def _limited(one: Served) -> Iterator[Warned]:
    """Another balancer counts other connections, and would choose the same real server but for that."""
    servers = one.service.pool.servers
    first = next((n for n, server in enumerate(servers) if server.upper), None)
    if first is None:
        return
    what = (
        "each balancer counts by itself, and closed connections for two minutes (timeouts.tcp_fin): when a balancer is "
        "lost, connections to a real server that is full on the next one go to another and are reset"
    )
    do = "leave room for the connections of a lost balancer, or write connection_sync, with which all count together"
    yield (*one.servers[first], "upper_threshold"), what, do


def _starved(one: Served) -> Iterator[Warned]:
    """The table of `sh` is filled by the servers in order, and whoever comes once it is full has no client."""
    order = sorted(
        one.service.pool.servers, key=lambda server: (server.addresses[0].version, server.addresses[0])
    )
    ends = list(accumulate(max(1, server.weight) for server in order))
    without = sum(end >= SOURCE_SLOTS for end in ends[:-1])
    if without:
        what = (
            f"with sh a real server has as many of {SOURCE_SLOTS} slots as its weight, and the weights are {ends[-1]} "
            f"in all: {without} real servers get no client"
        )
        yield (*one.pool, "servers"), what, "write smaller weights, or scheduler: mh"


def _unfound(one: Served) -> Iterator[Warned]:
    """While its sorry pool serves, a client finds it by as many draws from the table as that has slots, and no more."""
    service = one.service
    slots = {Scheduler.MH: MAGLEV_SLOTS, Scheduler.SH: SOURCE_SLOTS}.get(service.scheduler)
    if service.sorry is None or slots is None:
        return
    pools = [sum(server.weight for server in pool.servers) for pool in service.pools]
    lost = (1 - pools[1] / sum(pools)) ** slots
    if lost > UNFOUND:
        what = (
            f"its servers have {pools[1]} of {sum(pools)} in weights, so few places in the kernel's {service.scheduler} table "
            f"that {maglev.spelt(lost)} of the clients find none of them while they serve"
        )
        yield (*one.place, "sorry"), what, f"write larger weights for the servers of {service.sorry.name}"


def _many(one: Served, tables: dict[int, tuple[Entry, ...]]) -> Iterator[Warned]:
    servers = max(tables.values(), key=len)
    if len(servers) > MANY:
        times = maglev.unevenness([server.weight for server in servers])
        what = (
            f"{len(servers)} real servers share the {MAGLEV_SLOTS} slots of the kernel's mh table: "
            f"the flows of one are {times:.2f} times its share"
        )
        yield (*one.pool, "servers"), what, f"use {MANY} or fewer, or another scheduler"


def _weights(one: Served, tables: dict[int, tuple[Entry, ...]], *, figures: bool) -> Iterator[Warned]:
    uneven = {version: found for version, found in tables.items() if len({e.weight for e in found}) > 1}
    servers = one.service.pool.servers
    if not uneven or len({server.weight for server in servers if server.weight}) < 2:
        return  # those of a sorry pool may weigh otherwise
    words = _spelt(servers)
    effects: list[str] = []
    if starved := max(maglev.slots([e.weight for e in found]).count(0) for found in uneven.values()):
        effects.append(f"{starved} real servers get no new clients at all")
    if not figures or any(len(found) > maglev.LARGE for found in uneven.values()):
        effects.append("a step of one in one weight moves flows between all real servers")
    elif share := max(maglev.step(found, version) for version, found in uneven.items()):
        effects.append(
            f"a step of one in one weight moves {maglev.spelt(share)} of all flows to other real servers"
        )
    place = (*one.servers[_odd(servers)], "weight")
    do = "use equal weights, or small ones with a large common divisor"
    if effects:
        yield place, f"{words}: {' and '.join(effects)}", do


def _odd(servers: tuple[RealServer, ...]) -> int:
    """The first whose weight is not the usual one."""
    usual = usual_weight(servers)
    return next(n for n, server in enumerate(servers) if server.weight not in {0, usual})


def _spelt(servers: tuple[RealServer, ...]) -> str:
    weights = sorted({server.weight for server in servers if server.weight})
    *most, last = map(str, weights)
    words = f"{', '.join(most)} and {last}" if len(weights) < 5 else f"from {weights[0]} to {last}"
    return f"weights {words}"


def _alike(one: Served, tables: dict[int, tuple[Entry, ...]]) -> Iterator[Warned]:
    """The kernel hashes an address by the family of the service: 32 bits of an IPv6 address behind IPv4."""
    servers = tables.get(4, ())
    seen = Counter((e.address.packed[:4], e.port) for e in servers if e.address.version == 6)
    number = max(seen.values(), default=0)
    if number < 3:
        return
    alike = next(
        n
        for n, e in enumerate(servers)
        if e.address.version == 6 and seen[e.address.packed[:4], e.port] == number
    )
    share = "most"
    if len(servers) <= maglev.LARGE:
        share = maglev.spelt(maglev.moved(servers, (*servers[:alike], *servers[alike + 1 :]), 4))
    what = (
        f"IPv4 packets are given to real servers by the first 32 bits of their IPv6 addresses, and {number} have "
        f"the same: without one of them {share} of the flows of the others move"
    )
    yield (*one.pool, "servers"), what, "give them IPv4 addresses, or addresses that differ there"
