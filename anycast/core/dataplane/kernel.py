"""What the kernel should hold besides IPVS services (VIP addresses, sysctls, timeouts, connection sync), and the whole
diff.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import groupby
from typing import NamedTuple, TypeAlias, assert_never

from anycast.core.dataplane import ipvs
from anycast.core.dataplane.traffic import Received
from anycast.core.values.configuration import Address, ConnectionSync, Forwarding, Timeouts
from anycast.core.values.persistent import PersistentMap
from anycast.core.values.route import Prefix

# facts: IPVS creates connections from packets in mid-flow (sloppy_tcp), finds the flow an ICMP error belongs
# to on a node that never saw the flow (schedule_icmp), and schedules a client anew whose SYN is sent again while its
# real server has weight 0 (expire_nodest_conn; with 0 it stays with the dead one until it gives up).
IPVS_SYSCTLS: Mapping[str, str] = {
    "net.ipv4.vs.sloppy_tcp": "1",
    "net.ipv4.vs.schedule_icmp": "1",
    "net.ipv4.vs.expire_nodest_conn": "1",
    # A client that uses a port again is scheduled anew: 1 after TIME_WAIT (masquerading), 2 after FIN_WAIT, the last state
    # that is seen where answers do not come back through this node.
    "net.ipv4.vs.conn_reuse_mode": "3",
}
# As sloppy_tcp.
SCTP_SYSCTLS: Mapping[str, str] = {"net.ipv4.vs.sloppy_sctp": "1"}
# A client of a server with weight 0 is sent elsewhere, instead of staying there for as long as it keeps sending.
PERSISTENCE_SYSCTLS: Mapping[str, str] = {"net.ipv4.vs.expire_quiescent_template": "1"}
# A connection is announced when it is established, and with the first packet that comes a minute or more after the last
# announcement. With announcements by the number of packets (the kernel's default: 3 50) the others forget a connection
# with a packet every two minutes, and a busy one is announced many times a second.
SYNC_SYSCTLS: Mapping[str, str] = {
    "net.ipv4.vs.sync_threshold": "3 0",
    "net.ipv4.vs.sync_refresh_period": "60",
}
# The answers of masqueraded connections are routed back through this node.
NAT_SYSCTLS: Mapping[int, Mapping[str, str]] = {
    4: {"net.ipv4.ip_forward": "1"},
    6: {"net.ipv6.conf.all.forwarding": "1"},
}


# While it is 1 the connections of a real server that is removed are ended; while it is 0 they wait for its return.
EXPIRE_NODEST = "net.ipv4.vs.expire_nodest_conn"
# Once a real server is removed the kernel walks over all connections there are and ends those of it. A server that is back
# before the walk has come by keeps the rest. So it stays away for this many seconds, and for each connection of it.
WALK = 0.1
ENDED_IN = 5e-6
MOST_ENDED = 180_000  # by one operation: others wait for it


def seconds_to_end(connections: int) -> float:
    """How long a real server with so many connections stays away so that all of them, or the most, are ended."""
    return WALK + ENDED_IN * min(connections, MOST_ENDED)


class IpvsNeed(StrEnum):
    """Whether a reading looks at IPVS. Asking for it loads its module."""

    NEEDED = "needed"  # the reading fails without it
    LEFT = "left"  # nothing that is configured needs it; what this node had in it before is to go, if the kernel has it
    NONE = "none"


class SyncRole(StrEnum):
    """The kernel's two daemons. A node of an active fleet runs both."""

    MASTER = "master"  # sends its own connections
    BACKUP = "backup"  # receives those of others


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What was read from the kernel. `sysctls` has every name that was asked for, and no other.

    `table` has the records alone: a service that nobody changed is the same object as in the reading before, however
    many connections came and went. `connections` has their counts, packed, of each service that has any: of its
    destinations, in their order. `traffic` has the counters of each service that has had any, as `ipvs.COUNTED`.
    `arrived`: packets for what the node itself serves, of each maintenance that waits for the last, where they can be
    counted. `sync_lost`: the daemons run, but their interface is gone or was made anew: they neither send nor hear.
    """

    table: ipvs.Table
    addresses: frozenset[Address]  # on the VIP interface
    sysctls: Mapping[str, str | None]  # None: could not be read
    plain: frozenset[Address] = frozenset()  # of the addresses: may be a source address, or end by themselves
    discards: frozenset[Prefix] | None = None  # those of ours that are there; None: not looked for
    timeouts: Timeouts | None = None  # None: not read
    sync: Mapping[SyncRole, ConnectionSync] | None = None  # the daemons that run; None: not read
    sync_lost: bool = False
    packets: Mapping[ipvs.Key, int] = field(default_factory=dict, compare=False)  # received by each service
    received: Received | None = field(default=None, compare=False)  # by all together; None: could not be read
    arrived: Mapping[str, int] = field(default_factory=dict, compare=False)
    connections: Mapping[ipvs.Key, bytes] = field(default_factory=dict, compare=False)
    traffic: Mapping[ipvs.Key, bytes] = field(default_factory=dict, compare=False)

    def connections_of(self, key: ipvs.Key) -> Mapping[ipvs.DestinationKey, ipvs.Connections]:
        """Of the real servers of a service that have any. One that is not there has none."""
        counts = self.connections.get(key)
        if counts is None or key not in self.table:
            return {}
        pairs = zip(self.table[key].destinations, ipvs.unpacked(counts), strict=True)
        return {one.key: each for one, each in pairs if any(each)}

    def all_connections(self) -> ipvs.Connections:
        """Of all services together."""
        active = inactive = 0
        for counts in self.connections.values():
            for one in ipvs.unpacked(counts):
                active += one.active
                inactive += one.inactive
        return ipvs.Connections(active, inactive)

    def masqueraded(self) -> int:
        """Those of all connections whose real servers are reached by NAT."""
        number = 0
        for key, counts in self.connections.items():
            if key in self.table:
                pairs = zip(self.table[key].destinations, ipvs.unpacked(counts), strict=True)
                number += sum(sum(each) for one, each in pairs if one.forwarding is Forwarding.NAT)
        return number


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """What the kernel should hold.

    `owned`, `owned_marks`: what we may remove, with its services, when it is not desired.
    `exclusive`: every IPVS service that is not desired goes.
    """

    table: ipvs.Table
    addresses: frozenset[Address]
    sysctls: Mapping[str, str]
    owned: frozenset[Address] = frozenset()
    owned_marks: frozenset[ipvs.MarkKey] = frozenset()
    exclusive: bool = False
    timeouts: Timeouts | None = None  # None: whatever they are
    sync: ConnectionSync | None = None
    sync_owned: bool = False  # we may stop daemons that are not desired
    discards: frozenset[Prefix] = frozenset()

    def may_remove(self, key: ipvs.Key) -> bool:
        return self.exclusive or self.is_ours(key)

    def is_ours(self, key: ipvs.Key) -> bool:
        return key in self.owned_marks if isinstance(key, ipvs.MarkKey) else key.address in self.owned


@dataclass(frozen=True, slots=True, kw_only=True)
class SetSysctl:
    name: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AddAddress:
    """As /32 or /128 on the VIP interface."""

    address: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectAddress:
    """One that is there and plain: as `AddAddress` makes it, without a moment of absence."""

    address: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveAddress:
    address: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class AddDiscard:
    """An unreachable route: what comes for the prefix, and for no VIP in it, ends here.

    By the default route it would go back to the router, and come again until its time to live ends.
    """

    prefix: Prefix


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveDiscard:
    prefix: Prefix


@dataclass(frozen=True, slots=True, kw_only=True)
class SetTimeouts:
    timeouts: Timeouts


@dataclass(frozen=True, slots=True, kw_only=True)
class StartSync:
    role: SyncRole
    sync: ConnectionSync


@dataclass(frozen=True, slots=True, kw_only=True)
class StopSync:
    role: SyncRole


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpireDestinations:
    """Remove real servers and end their connections: the next packet of each finds another server, which resets it.

    Otherwise (expire_nodest_conn=0) the kernel would silently drop their packets until they time out.
    `write_sysctl`: that one may be made 1 before. Without it, it is as somebody else wants it. `seconds`: that the kernel
    has for it, before what follows may add them again.
    """

    removals: tuple[ipvs.RemoveDestination, ...]
    write_sysctl: bool = True
    seconds: float = WALK


@dataclass(frozen=True, slots=True, kw_only=True)
class ReorderDestinations:
    """Move real servers, each to the end of the order, without ending a connection: expire_nodest_conn is 0 meanwhile.

    `write_sysctl`: it may be. An agent that is killed in between leaves 0, which the next one finds and sets right.
    """

    moves: tuple[ipvs.MoveDestination, ...]
    write_sysctl: bool = True


KernelOp: TypeAlias = (
    SetSysctl
    | AddAddress
    | CorrectAddress
    | RemoveAddress
    | AddDiscard
    | RemoveDiscard
    | SetTimeouts
    | StartSync
    | StopSync
    | ExpireDestinations
    | ReorderDestinations
    | ipvs.IpvsOp
)


def touched(ops: Iterable[KernelOp]) -> frozenset[ipvs.Key]:
    """The services that the operations change."""
    found: set[ipvs.Key] = set()
    for op in ops:
        match op:
            case ExpireDestinations(removals=parts) | ReorderDestinations(moves=parts):
                found.update(one.service for one in parts)
            case AddAddress() | CorrectAddress() | RemoveAddress():
                pass
            case SetSysctl() | SetTimeouts() | StartSync() | StopSync() | AddDiscard() | RemoveDiscard():
                pass
            case _:
                found.add(op.service)
    return frozenset(found)


def kind_of(op: KernelOp) -> str:
    """What an operation changes, in one stable word for metric labels."""
    match op:
        case SetSysctl():
            return "sysctl"
        case AddAddress() | CorrectAddress() | RemoveAddress():
            return "address"
        case AddDiscard() | RemoveDiscard():
            return "route"
        case SetTimeouts():
            return "timeouts"
        case StartSync() | StopSync():
            return "sync"
        case ipvs.AddService() | ipvs.SetService() | ipvs.RemoveService():
            return "service"
        case ipvs.MoveDestination() | ReorderDestinations():
            return "order"
        case ipvs.AddDestination() | ipvs.SetDestination() | ipvs.RemoveDestination() | ExpireDestinations():
            return "server"
        case _:
            assert_never(op)


def keys_of(op: KernelOp) -> tuple[ipvs.Key, ...]:
    """The services that the operation changes."""
    match op:
        case AddAddress() | CorrectAddress() | RemoveAddress():
            return ()
        case SetSysctl() | SetTimeouts() | StartSync() | StopSync() | AddDiscard() | RemoveDiscard():
            return ()
        case ExpireDestinations(removals=parts) | ReorderDestinations(moves=parts):
            return tuple(one.service for one in parts)
        case _:
            return (op.service,)


KINDS = ("address", "order", "route", "server", "service", "sync", "sysctl", "timeouts")


class Failure(NamedTuple):
    """Operations that were not carried out, and why in words."""

    ops: tuple[KernelOp, ...]
    text: str


def diff(actual: Snapshot, desired: Desired) -> tuple[KernelOp, ...]:
    """Operations that turn `actual` into `desired`, in an order that is safe to stop at."""
    return diff_of(
        actual,
        desired,
        keys={**dict.fromkeys(desired.table), **dict.fromkeys(actual.table)},
        addresses=desired.addresses | actual.addresses,
    )


def diff_of(
    actual: Snapshot,
    desired: Desired,
    *,
    keys: Iterable[ipvs.Key] = (),
    addresses: Iterable[Address] = (),
    rest: bool = True,
    sync: bool = True,
    discards: bool = True,
) -> tuple[KernelOp, ...]:
    """The same for these services and addresses alone. `rest`: and for sysctls and timeouts; `sync`: and for connection sync;
    `discards`: and for the routes of wide prefixes.

    Sysctls and services first, then the addresses that make packets reach them; an address goes before its
    services do.
    """
    order = sorted(addresses, key=_address_order)
    looked = list(keys)
    ours = [key for key in looked if desired.may_remove(key)]
    table_ops = ipvs.diff(actual.table, desired.table, ours=ours, only=looked)
    services = tuple(op for op in table_ops if isinstance(op, ipvs.RemoveService))
    servers = tuple(op for op in table_ops if isinstance(op, ipvs.RemoveDestination))
    return (
        *(first_of_rest(actual, desired) if rest else ()),
        *_with_moves_together(
            (op for op in table_ops if not isinstance(op, ipvs.RemoveService | ipvs.RemoveDestination)),
            desired,
        ),
        *_removals(servers, desired),
        *(_sync(actual, desired) if sync else ()),
        *(_discards(actual, desired) if discards else ()),
        *(AddAddress(address=at) for at in order if at in desired.addresses and at not in actual.addresses),
        *(CorrectAddress(address=at) for at in order if at in desired.addresses and at in actual.plain),
        *(
            RemoveAddress(address=at)
            for at in order
            if at in actual.addresses and at in desired.owned and at not in desired.addresses
        ),
        *services,
    )


def first_of_rest(actual: Snapshot, desired: Desired) -> Iterator[KernelOp]:
    for name, value in desired.sysctls.items():
        if actual.sysctls.get(name) != value:
            yield SetSysctl(name=name, value=value)
    yield from _timeouts(actual, desired)


def rest_is_held(actual: Snapshot, desired: Desired) -> bool:
    """Whether sysctls and timeouts are as wanted."""
    return not any(True for _ in first_of_rest(actual, desired))


def sync_is_held(actual: Snapshot, desired: Desired) -> bool:
    return not any(True for _ in _sync(actual, desired))


def discards_are_held(actual: Snapshot, desired: Desired) -> bool:
    return not any(True for _ in _discards(actual, desired))


def is_held(actual: Snapshot, desired: Desired, key: ipvs.Key) -> bool:
    """Whether the service is as wanted: somebody else's is."""
    wanted = desired.table.get(key)
    if wanted is None:
        return key not in actual.table or not desired.may_remove(key)
    return ipvs.same(actual.table.get(key), wanted)


def address_is_held(actual: Snapshot, desired: Desired, address: Address) -> bool:
    if address in actual.addresses:
        wanted = address in desired.addresses
        return address not in actual.plain if wanted else address not in desired.owned
    return address not in desired.addresses


def _with_moves_together(ops: Iterable[ipvs.IpvsOp], desired: Desired) -> Iterator[KernelOp]:
    for moving, some in groupby(ops, lambda op: isinstance(op, ipvs.MoveDestination)):
        if not moving:
            yield from some
            continue
        moves = tuple(op for op in some if isinstance(op, ipvs.MoveDestination))
        yield ReorderDestinations(moves=moves, write_sysctl=EXPIRE_NODEST in desired.sysctls)


def _removals(servers: tuple[ipvs.RemoveDestination, ...], desired: Desired) -> Iterator[KernelOp]:
    if servers:
        yield ExpireDestinations(removals=servers, write_sysctl=EXPIRE_NODEST in desired.sysctls)


def _timeouts(actual: Snapshot, desired: Desired) -> Iterator[KernelOp]:
    if desired.timeouts is not None and actual.timeouts != desired.timeouts:
        yield SetTimeouts(timeouts=desired.timeouts)


def _sync(actual: Snapshot, desired: Desired) -> Iterator[KernelOp]:
    running = actual.sync or {}
    for role in SyncRole:
        present = running.get(role)
        if desired.sync is None and not desired.sync_owned:
            continue
        if present == desired.sync and not (present and actual.sync_lost):
            continue
        if present is not None:
            yield StopSync(role=role)  # a daemon cannot be changed
        if desired.sync is not None:
            yield StartSync(role=role, sync=desired.sync)


def _discards(actual: Snapshot, desired: Desired) -> Iterator[KernelOp]:
    """What is there and not desired is ours all the same: a protocol number tells."""
    there = actual.discards
    if there is None or there == desired.discards:
        return
    yield from (AddDiscard(prefix=one) for one in _in_order(desired.discards - there))
    yield from (RemoveDiscard(prefix=one) for one in _in_order(there - desired.discards))


def _in_order(prefixes: Iterable[Prefix]) -> list[Prefix]:
    return sorted(prefixes, key=lambda one: (one.version, int(one.network_address), one.prefixlen))


def _address_order(address: Address) -> tuple[int, int]:
    return address.version, int(address)


def play(actual: Snapshot, ops: Iterable[KernelOp]) -> Snapshot:
    """The kernel after `ops`. The model that tests and dry runs share.

    Raises KeyError for an operation on what is not there.
    """
    sysctls = dict(actual.sysctls)
    came: set[Address] = set()
    went: set[Address] = set()
    plain = set(actual.plain)
    timeouts = actual.timeouts
    sync = None if actual.sync is None else dict(actual.sync)
    sync_lost = actual.sync_lost
    discards = actual.discards
    table_ops: list[ipvs.IpvsOp] = []
    for op in ops:
        match op:
            case SetSysctl(name=name, value=value):
                sysctls[name] = value
            case AddAddress(address=address):
                came.add(address)
                went.discard(address)
            case CorrectAddress(address=address):
                plain.discard(address)
            case RemoveAddress(address=address):
                plain.discard(address)
                went.add(address)
                came.discard(address)
            case AddDiscard(prefix=prefix):
                discards = (discards or frozenset()) | {prefix}
            case RemoveDiscard(prefix=prefix):
                discards = (discards or frozenset()) - {prefix}
            case SetTimeouts():
                timeouts = op.timeouts
            case StartSync():
                sync = {**(sync or {}), op.role: op.sync}
                sync_lost = False
            case StopSync():
                sync = {role: one for role, one in (sync or {}).items() if role != op.role}
            case ExpireDestinations(removals=parts) | ReorderDestinations(moves=parts):
                table_ops += parts
            case _:
                table_ops.append(op)
    table = ipvs.play(actual.table, table_ops)
    return Snapshot(
        table=table,
        addresses=(actual.addresses | came) - went if came or went else actual.addresses,
        plain=actual.plain if len(plain) == len(actual.plain) else frozenset(plain),
        discards=discards,
        sysctls=sysctls,
        timeouts=timeouts,
        sync=sync,
        sync_lost=sync_lost,
        packets=actual.packets,
        connections=_connections(actual, table, table_ops),
        traffic=_traffic(actual, table_ops),
    )


def _traffic(actual: Snapshot, ops: Iterable[ipvs.IpvsOp]) -> Mapping[ipvs.Key, bytes]:
    """Without what belongs to the real servers of before."""
    touched = {op.service for op in ops} & actual.traffic.keys()
    if not touched:
        return actual.traffic
    return {key: counters for key, counters in actual.traffic.items() if key not in touched}


def _connections(actual: Snapshot, table: ipvs.Table, ops: Iterable[ipvs.IpvsOp]) -> Mapping[ipvs.Key, bytes]:
    """They belong to a real server for as long as it stays, whatever its record says."""
    touched: dict[ipvs.Key, dict[ipvs.DestinationKey, ipvs.Connections]] = {}
    for op in ops:
        key = op.service
        if key not in actual.connections:
            continue
        if key not in touched:
            touched[key] = dict(actual.connections_of(key))
        if isinstance(op, ipvs.RemoveDestination):
            touched[key].pop(op.key, None)
        elif isinstance(op, ipvs.RemoveService):
            touched[key].clear()
    if not touched:
        return actual.connections
    left = {key: counted(table.get(key), held) for key, held in touched.items()}
    before = actual.connections
    before = before if isinstance(before, PersistentMap) else PersistentMap(before)
    return before.updated(
        {key: counts for key, counts in left.items() if counts}, [key for key in left if not left[key]]
    )


def counted(entry: ipvs.ServiceEntry | None, held: Mapping[ipvs.DestinationKey, ipvs.Connections]) -> bytes:
    """The counts of a service as a snapshot has them; empty: there are none."""
    if entry is None or not held:
        return b""
    return ipvs.packed(held.get(one.key, ipvs.NO_CONNECTIONS) for one in entry.destinations)
