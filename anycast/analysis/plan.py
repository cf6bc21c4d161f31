"""What a fleet has to carry, and whether it does when balancers are missing: from a configuration and a few figures.

Every figure has the words of its formula and where it comes from. What nobody has said is not guessed: it is asked for.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from anycast.analysis.budget import WORDS, Kind, budget
from anycast.analysis.connections import (
    BUCKET_SIZE,
    CHAIN,
    CONNECTION_SIZE,
    DEFAULT_BITS,
    MOST_BITS_SINCE_6_5,
    bits_for,
)
from anycast.analysis.maglev import unevenness as slots_unevenness
from anycast.core.amounts import bits
from anycast.core.dataplane.ipvs import MAGLEV_SLOTS
from anycast.core.dataplane.kernel import SYNC_SYSCTLS
from anycast.core.dataplane.members import usual_weight
from anycast.core.fleet.values import Capacity
from anycast.core.index import wanted_sysctls
from anycast.core.values.configuration import Config, Forwarding, Scheduler, Service

LIMIT = 0.7  # of what a node carries: above, packets begin to wait
MOST_MISSING = 2
MOST_NODES = 64
_LEAST_PACKET, _LARGEST_PACKET = 28, 9216  # bytes: IP and UDP with nothing in it, a jumbo frame
_ANNOUNCED_EVERY = float(SYNC_SYSCTLS["net.ipv4.vs.sync_refresh_period"])  # seconds
_ANNOUNCEMENT = {4: 37, 6: 73}  # bytes on the wire, with its part of the datagram, by family
# Changes of a TCP connection's state that are announced at once: it is established, it ends. Where answers come back
# through the node the kernel sees both ends (TCP's states and `ip_vs_sync_conn_needed` in its source).
_CHANGES, _CHANGES_WITH_ANSWERS = 2, 3
_TRIALS = 1_000
_ONE_BY_ONE = 500  # flows up to which each is thrown by itself
_BOUNDS = (Kind.SERVER_HANGS, Kind.AGENT_DIES, Kind.NODE_DIES, Kind.LINK_DOWN)


class Resource(StrEnum):
    """What a node can run out of. Stable words, those of `fleet.capacity`."""

    PACKETS = "packets"
    BITS = "bits"
    NEW_CONNECTIONS = "new_connections"
    CONNECTIONS = "connections"
    BUSY = "busy"  # the share of a node that is in use, where no more is known


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is to be carried: of all nodes together, but for `busy`. Rates are for a second; None: nobody has said.

    `clients`: source addresses. `bits`, `packets`: what comes to the balancers. `busy`: the share of each node that is in
    use while all of them serve. `server_connections`: what one real server carries at once. `by_ports`: the routers hash
    ports too. `statuses`: of how many running nodes the figures are the sum; 0: they are not of their status.
    """

    nodes: int
    clients: int | None = None
    packets: float | None = None
    bits: float | None = None
    new_connections: float | None = None
    connections: float | None = None
    busy: float | None = None
    server_connections: float | None = None
    capacity: Capacity = field(default_factory=Capacity)
    by_ports: bool = True
    statuses: int = 0


class Verdict(StrEnum):
    """Stable words."""

    OK = "ok"
    ABOVE = "above"  # the limit
    UNKNOWN = "unknown"  # against what, nobody has said


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One resource with so many nodes missing. `mean`, `busiest`: of a node, in the resource's unit.

    `share`: of the busiest node's capacity; None: nobody has said what it carries.
    """

    resource: Resource
    missing: int
    nodes: int
    mean: float
    busiest: float
    share: float | None
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """`code`: stable. `value` in words, `number` as it is; `formula` and `source` in words."""

    code: str
    what: str
    value: str
    number: float
    formula: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`needed`: nodes with which the load stays below the limit, by how many are missing; None: it never does.

    `lacking`: which figure would tell what. `contradictions`: figures that cannot all be right. `warnings`: what the
    figures do not show.
    """

    asked: Asked
    loads: tuple[Load, ...]
    needed: Mapping[int, int | None]
    figures: tuple[Figure, ...]
    lacking: tuple[str, ...]
    contradictions: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """With one node less there is one that serves, and nothing is above its limit, as far as that is known."""
        known = [one for one in self.loads if one.missing <= 1]
        return (
            self.asked.nodes > 1
            and not self.contradictions
            and all(one.verdict is not Verdict.ABOVE for one in known)
        )


def plan(config: Config | None, asked: Asked) -> Plan:
    """`config`: of one node; None: what hangs on it is left out."""
    loads = tuple(_loads(asked))
    return Plan(
        asked=asked,
        loads=loads,
        needed=_needed(asked),
        figures=tuple(_figures(config, asked)),
        lacking=tuple(_lacking(config, asked)),
        contradictions=tuple(_contradictions(asked)),
        warnings=tuple(_warnings(asked)),
    )


def _totals(asked: Asked) -> Iterator[tuple[Resource, float, float | None]]:
    """What there is of each resource in all, and what one node carries."""
    capacity = asked.capacity
    for resource, total, carries in (
        (Resource.PACKETS, asked.packets, capacity.packets),
        (Resource.BITS, asked.bits, capacity.bits),
        (Resource.NEW_CONNECTIONS, asked.new_connections, capacity.new_connections),
        (Resource.CONNECTIONS, asked.connections, capacity.connections),
        (Resource.BUSY, None if asked.busy is None else asked.busy * asked.nodes, 1.0),
    ):
        if total is not None:
            yield resource, total, carries


def _loads(asked: Asked) -> Iterator[Load]:
    for resource, total, carries in _totals(asked):
        for missing in range(min(MOST_MISSING, asked.nodes - 1) + 1):
            nodes = asked.nodes - missing
            mean = total / nodes
            busiest = mean * spread(_flows(asked), nodes)
            share = None if carries is None else busiest / carries
            above = share is not None and share > asked.capacity.limit * (1 + 1e-9)
            verdict = Verdict.UNKNOWN if share is None else Verdict.ABOVE if above else Verdict.OK
            yield Load(
                resource=resource,
                missing=missing,
                nodes=nodes,
                mean=mean,
                busiest=busiest,
                share=share,
                verdict=verdict,
            )


def _flows(asked: Asked) -> int | None:
    """What the routers spread: addresses, or connections where they hash ports; None: nobody has said how many.

    At once no more addresses are in use than there are connections.
    """
    connections = None if asked.connections is None else math.ceil(asked.connections)
    if connections is None or (not asked.by_ports and asked.clients is None):
        return asked.clients
    return connections if asked.by_ports or asked.clients is None else min(connections, asked.clients)


def _needed(asked: Asked) -> dict[int, int | None]:
    shares = [total / (carries * asked.capacity.limit) for _, total, carries in _totals(asked) if carries]
    if not shares:
        return {}
    least = max(1, math.ceil(max(shares) - 1e-9))  # if the routers spread them evenly
    found: dict[int, int | None] = {}
    for missing in range(MOST_MISSING + 1):
        tried = range(least + missing, MOST_NODES + 1)
        found[missing] = next((nodes for nodes in tried if _carries(asked, nodes - missing)), None)
    return found


def _carries(asked: Asked, nodes: int) -> bool:
    uneven = spread(_flows(asked), nodes)
    return all(
        total / nodes * uneven <= carries * asked.capacity.limit * (1 + 1e-9)
        for _, total, carries in _totals(asked)
        if carries is not None
    )


_spreads: dict[tuple[int, int], float] = {}


def spread(flows: int | None, nodes: int) -> float:
    """The load of the busiest node as a multiple of the mean, which in 95 of 100 cases is not exceeded.

    Each flow comes to each node with equal chance. `flows` None: so many that it does not matter.
    """
    if flows is None or nodes == 1:
        return 1.0
    if flows < 1:
        return float(nodes)
    if (known := _spreads.get((flows, nodes))) is None:
        chance = random.Random(f"{flows}/{nodes}")  # noqa: S311 - the same answer at each call
        trials = sorted(_busiest(flows, nodes, chance) for _ in range(_TRIALS))
        known = _spreads[flows, nodes] = trials[math.ceil(0.95 * _TRIALS) - 1]
    return known


def _busiest(flows: int, nodes: int, chance: random.Random) -> float:
    if flows <= _ONE_BY_ONE:
        counts = [0] * nodes
        for place in chance.choices(range(nodes), k=flows):
            counts[place] += 1
        return max(counts) * nodes / flows
    # The counts of many flows are normal; their sum is given.
    each = [chance.gauss(0.0, 1.0) for _ in range(nodes)]
    mean = math.fsum(each) / nodes
    return 1.0 + (max(each) - mean) * math.sqrt(nodes / flows)


def _figures(config: Config | None, asked: Asked) -> Iterator[Figure]:
    if (flows := _flows(asked)) is not None and asked.nodes > 1:
        yield _evenness(asked, flows)
    if asked.connections is not None and (config is None or config.needs_ipvs):
        yield from _table(config, asked, asked.connections)
        if asked.server_connections is not None:
            yield _servers(asked.connections, asked.server_connections, asked.capacity.limit)
    if asked.connections is not None and asked.new_connections:
        life = asked.connections / asked.new_connections
        yield Figure(
            code="life",
            what="a connection lasts",
            value=f"{life:.3g} s in the mean",
            number=life,
            formula=f"{asked.connections:,.0f} connections / {asked.new_connections:,.0f} new ones a second",
            source="Little's law",
        )
    if config is not None:
        yield from _slots(config)
        yield from _ways(config)
        yield from _sysctls(config)
        yield from _bounds(config)


def _evenness(asked: Asked, flows: int) -> Figure:
    most = spread(flows, asked.nodes)
    mean = 1 / asked.nodes
    by_connection = asked.by_ports and asked.connections is not None
    one, many = ("connection", "connections") if by_connection else ("client address", "client addresses")
    return Figure(
        code="evenness",
        what="the busiest node has",
        value=f"{most * mean:.1%} of the flows, where {mean:.1%} were even (in 95 of 100 cases not more)",
        number=most * mean,
        formula=f"{flows:,} {one if flows == 1 else many} thrown to {asked.nodes} nodes with equal chances, {_TRIALS:,} times",
        source="the router's hash, as any good one spreads (docs/routers.md)",
    )


def _table(config: Config | None, asked: Asked, connections: float) -> Iterator[Figure]:
    synced = config is not None and config.connection_sync is not None
    there = connections if synced else connections / max(1, asked.nodes - 1)
    whose = "all connections, which connection_sync brings to each node" if synced else "with one node less"
    memory = there * CONNECTION_SIZE
    yield Figure(
        code="memory",
        what="connections take, on each node,",
        value=_size(memory),
        number=memory,
        formula=f"{there:,.0f} connections ({whose}) × {CONNECTION_SIZE} B",
        source="measured with 100,000 connections (docs/measurements.md)",
    )
    wide = max(DEFAULT_BITS, bits_for(there, MOST_BITS_SINCE_6_5))
    usual = there / 2**DEFAULT_BITS
    value = (
        f"conn_tab_bits={wide}" if wide > DEFAULT_BITS else f"no more than the default, conn_tab_bits={wide}"
    )
    yield Figure(
        code="table",
        what="the table of connections needs",
        value=f"{value} ({_size(2**wide * BUCKET_SIZE)})",
        number=wide,
        formula=f"{there:,.0f} connections / 2^{wide}: {there / 2**wide:.2g} in a chain, and {CHAIN} are good; with 2^"
        f"{DEFAULT_BITS} {usual:,.2g}",
        source="`anycast doctor --connections` writes it; from Linux 7.1 on the table grows by itself",
    )
    if config is not None and synced:
        yield _sync(config, connections, asked.new_connections)


def _sync(config: Config, connections: float, new: float | None) -> Figure:
    """At the most: UDP has no end that is announced, and a node of both families counts as IPv6."""
    balanced = (vip for vip in config.vips if vip.services)
    family = max((address.version for vip in balanced for address in vip.addresses), default=4)
    answers = any(service.forwarding is Forwarding.NAT for _, service in _services(config))
    size, changes = _ANNOUNCEMENT[family], _CHANGES_WITH_ANSWERS if answers else _CHANGES
    sent = (connections / _ANNOUNCED_EVERY + changes * (new or 0.0)) * size * 8
    begun = (
        ""
        if new is None
        else f" + {new:,.0f} new ones a second, {changes} times (established, {'and the end of each side' if answers else 'ended'})"
    )
    return Figure(
        code="sync",
        what="connection sync sends",
        value=f"up to {bits(sent)} in all" + (" for connections that stay" if new is None else ""),
        number=sent,
        formula=f"({connections:,.0f} busy connections, each once in {_ANNOUNCED_EVERY:g} s{begun}) × {size} B of IPv{family}",
        source="measured with 5,000 connections (docs/measurements.md)",
    )


def _servers(connections: float, each: float, limit: float) -> Figure:
    needed = math.ceil(connections / (each * limit)) + 1
    return Figure(
        code="servers",
        what="real servers needed, with one to spare,",
        value=f"{needed:,}",
        number=needed,
        formula=f"⌈{connections:,.0f} connections / ({each:,.0f} of one × {limit:.0%})⌉ + 1",
        source="as said",
    )


def _slots(config: Config) -> Iterator[Figure]:
    """How unevenly the scheduler gives the real servers their flows, where that is worst."""
    hashed = {
        name: [one.weight or usual_weight(service.pool.servers) for one in service.pool.servers]
        for name, service in _services(config)
        if service.scheduler is Scheduler.MH and len(service.pool.servers) > 1
    }
    if not hashed:
        return
    name = max(hashed, key=lambda each: slots_unevenness(hashed[each]))
    most = slots_unevenness(hashed[name])
    yield Figure(
        code="slots",
        what=f"the busiest real server of {name} has",
        value=f"{most:.3g} × what its weight asks for",
        number=most,
        formula=f"{len(hashed[name])} real servers in {MAGLEV_SLOTS:,} slots of scheduler mh, the worst of {len(hashed):,} such services",
        source="the kernel's table, computed",
    )


_NEEDS = {
    Forwarding.DR: "each real server on a link of every balancer, with the VIP on lo; answers do not come back",
    Forwarding.NAT: "answers to come back through the balancer that has the connection; they count there too",
    Forwarding.TUNNEL: "20 to 60 bytes of MTU for the header on the way to the real servers; answers do not come back",
}


def _ways(config: Config) -> Iterator[Figure]:
    for way in Forwarding:
        names = [name for name, service in _services(config) if service.forwarding is way]
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            yield Figure(
                code=f"forwarding_{way}",
                what=f"forwarding {way} needs",
                value=_NEEDS[way],
                number=len(names),
                formula=f"{', '.join(names[:3])}{more}",
                source="`anycast doctor` on each node looks at it",
            )


def _sysctls(config: Config) -> Iterator[Figure]:
    if wanted := wanted_sysctls(config):
        who = "the agent sets them" if config.manage_sysctls else "somebody has to set them (sysctls: check)"
        yield Figure(
            code="sysctls",
            what="the kernel of each node is set to",
            value=f"{len(wanted)} values",
            number=len(wanted),
            formula=", ".join(f"{name}={value}" for name, value in sorted(wanted.items())),
            source=f"{who}; `anycast doctor` looks at them",
        )


def _bounds(config: Config) -> Iterator[Figure]:
    outages = budget(config).outages
    for kind in _BOUNDS:
        found = [one for one in outages if one.kind is kind]
        if found:
            worst = max(found, key=lambda one: one.seconds)
            yield Figure(
                code=f"bound_{kind}",
                what=f"{WORDS[kind]}: noticed and out within",
                value=f"{worst.seconds:.2f} s",
                number=worst.seconds,
                formula=" + ".join(map(str, worst.terms)),
                source="`anycast budget`",
            )


def _services(config: Config) -> Iterator[tuple[str, Service]]:
    for vip in config.vips:
        for service in vip.services:
            yield f"{vip.name} {service.name}", service


def _lacking(config: Config | None, asked: Asked) -> Iterator[str]:
    capacity = asked.capacity
    if not any(True for _ in _totals(asked)):
        yield "how much there is to carry: --busy (the share of each node in use now), or --packets, --bits, --connections"
    for total, carries, name, what in (
        (asked.packets, capacity.packets, "packets", "packets a second"),
        (asked.bits, capacity.bits, "bits", "bits a second"),
        (
            asked.new_connections,
            capacity.new_connections,
            "new-connections",
            "new connections a second",
        ),
        (asked.connections, capacity.connections, "connections", "connections"),
    ):
        if total is not None and carries is None:
            yield f"what one node carries in {what}: --capacity-{name}"
    if asked.connections is None:
        yield "how many connections there are at once, for memory and the size of the table: --connections"
    elif asked.new_connections is None and config is not None and config.connection_sync is not None:
        yield "how many connections begin each second, for what connection sync sends of them: --new-connections"
    if _flows(asked) is None:
        yield "how many clients there are, for how unevenly they are spread: --clients"
    if config is None:
        yield "a configuration, for forwarding, the real servers and the bounds of an outage: --config"


def _contradictions(asked: Asked) -> Iterator[str]:
    if asked.packets and asked.bits is not None:
        size = asked.bits / 8 / asked.packets
        if not _LEAST_PACKET <= size <= _LARGEST_PACKET:
            yield (
                f"{bits(asked.bits)} in {asked.packets:,.0f} packets a second are {size:,.0f} bytes in each, and a packet "
                f"has {_LEAST_PACKET} to {_LARGEST_PACKET:,}"
            )
    if asked.bits is not None and asked.packets == 0:
        yield f"{bits(asked.bits)} need packets, and there are none"
    if asked.new_connections and asked.packets is not None and asked.new_connections > asked.packets:
        yield (
            f"{asked.new_connections:,.0f} new connections a second need as many packets at least, and there are "
            f"{asked.packets:,.0f}"
        )


def _warnings(asked: Asked) -> Iterator[str]:
    if asked.nodes == 1:
        yield "with one node less nothing serves: there is one"
    if asked.clients is not None and asked.connections is not None and asked.clients > asked.connections:
        yield (
            f"{asked.clients:,} clients have {asked.connections:,.0f} connections: some are idle, or send UDP that is "
            "scheduled packet by packet (one_packet); what is spread is the connections (without --connections: the clients)"
        )
    if 0 < asked.statuses < asked.nodes:
        yield (
            f"the status of {asked.statuses} {'node' if asked.statuses == 1 else 'nodes'} is taken for what all "
            f"{asked.nodes} have to carry (if more of them run, write --status for each)"
        )


def _size(count: float) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"


def of_messages(rate: float, size: float) -> tuple[float, float]:
    """Packets and bits a second that so many messages of so many bytes are at least: without acknowledgements."""
    packets = max(1, math.ceil(size / 1448))  # the payload of a full packet
    return rate * packets, rate * (size + packets * 52) * 8


def added(statuses: Sequence[tuple[str, Mapping[str, object]]]) -> Mapping[str, float]:
    """What running nodes carry together, of their status documents, each with a name to tell of it.

    Without `connections` where they do not tell the flows: a node serves by itself or UDP packet by packet. Raises
    ValueError: one does not count, or is of the same node as another.
    """
    found: dict[str, float] = {"packets": 0.0, "bits": 0.0, "new_connections": 0.0}
    connections: list[float | None] = []
    synced, seen = False, dict[str, str]()
    for name, status in statuses:
        node = _part(status, "node").get("name")
        if isinstance(node, str):
            if node in seen:
                raise ValueError(f"{name}: this is {node}'s status, as {seen[node]} is (name each node once)")
            seen[node] = name
        rates = _part(status, "traffic").get("rates")
        if not isinstance(rates, dict):
            raise ValueError(  # noqa: TRY004 - of what was read
                f"{name}: this status has no rates: the node has just started, or its kernel does not count (ask it again)"
            )
        for what, keys in (
            ("packets", ("packets_in_per_s", "packets_out_per_s")),  # out: with NAT, answers pass as well
            ("bits", ("bits_in_per_s", "bits_out_per_s")),
            ("new_connections", ("connections_per_s",)),
        ):
            found[what] += math.fsum(_numbers(rates.get(key) for key in keys))
        connections.append(_connections(status))
        synced = synced or bool(_part(status, "kernel").get("connection_sync"))
    known = [one for one in connections if one is not None]
    if any(known) and len(known) == len(connections):
        # With connection sync each node has those of all.
        found["connections"] = max(known) if synced else math.fsum(known)
    return found


def _connections(status: Mapping[str, object]) -> float | None:
    """In the node's table; None: they do not tell how many flows there are."""
    services = [service for vip in _rows(status, "vips") for service in _rows(vip, "services")]
    if not services or any(service.get("one_packet") for service in services):
        return None
    servers = (
        server
        for service in services
        for kind in ("servers", "kept", "removing")
        for server in _rows(service, kind)
    )
    return math.fsum(_numbers(server.get(key) for server in servers for key in ("active", "inactive")))


def _part(document: Mapping[str, object], key: str) -> Mapping[str, object]:
    found = document.get(key)
    return found if isinstance(found, dict) else {}


def _rows(document: Mapping[str, object], key: str) -> Iterator[Mapping[str, object]]:
    found = document.get(key)
    yield from (one for one in found if isinstance(one, dict)) if isinstance(found, list) else ()


def _numbers(values: Iterable[object]) -> Iterator[float]:
    for value in values:
        if isinstance(value, int | float):
            yield float(value)
