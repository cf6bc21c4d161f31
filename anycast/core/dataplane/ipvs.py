"""The desired IPVS table, and the difference to the one in the kernel.

The promise that a connection moved to another balancer goes on to the same real server rests on every node
building the same Maglev table. The kernel's table depends on the order in which real servers were inserted
and on the weights they were inserted with, so both are part of what is compared and repaired here.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeAlias

from anycast.core.values.configuration import Address, Forwarding, Protocol, Scheduler, SchedulerFlag, Tunnel
from anycast.core.values.light import light_dataclass
from anycast.core.values.persistent import PersistentMap

# Their tables are built by walking the list of real servers: another order is another table.
ORDER_SENSITIVE = frozenset({Scheduler.MH, Scheduler.SH, Scheduler.DH})
MAGLEV_SLOTS = 4093  # of the kernel's table: what is beyond gets nothing, and what is deleted stays in it
SOURCE_SLOTS = (
    256  # of its table for source hashing, filled in order: each server as many as its weight, at least one
)
FINGERPRINT_DIGITS = 12  # hexadecimal: 48 bits, which a metric's float holds exactly

_PLACE = {protocol: place for place, protocol in enumerate(Protocol)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceKey:
    """What names a service in IPVS: a protocol, an address and a port."""

    protocol: Protocol
    address: Address
    port: int
    # A key is looked up at every turn: its hash is worked out once. Of numbers alone, so that it is the same in
    # every process.
    _hash: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        numbers = (_PLACE[self.protocol], self.address.version, int(self.address), self.port)
        object.__setattr__(self, "_hash", hash(numbers))

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{self.protocol} {host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkKey:
    """What names a service of packets with a firewall mark; `version` is 4 or 6."""

    mark: int
    version: int
    _hash: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.mark, self.version)))

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        return f"mark {self.mark} IPv{self.version}"


Key: TypeAlias = ServiceKey | MarkKey


def order_of(key: Key) -> tuple[int, ...]:
    """Puts keys in one order."""
    if isinstance(key, MarkKey):
        return 1, key.version, key.mark
    return 0, key.address.version, int(key.address), key.port, _PLACE[key.protocol]


def version_of(key: Key) -> int:
    """4 or 6: of the packets of the service. Its real servers may be of the other family, with tunnels."""
    return key.version if isinstance(key, MarkKey) else key.address.version


@light_dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """One real server of one service. Weight 0 means: drain, keep flows."""

    address: Address
    port: int
    weight: int
    forwarding: Forwarding
    # The last weight that was not 0: what Maglev's table is built with. A server that is down is inserted with
    # this weight and then set to 0. The kernel keeps it but does not report it; 0: not known.
    table_weight: int = 1
    tunnel: Tunnel = Tunnel()
    upper: int = 0  # connections; 0: no limit
    lower: int = 0
    # What a destination in the kernel has beyond the fields above. It is never wanted, so it counts as a
    # difference, and writing the whole record removes it.
    foreign: str = ""

    @property
    def key(self) -> DestinationKey:
        return self.address, self.port


DestinationKey: TypeAlias = tuple[Address, int]


class Connections(NamedTuple):
    """Of one real server of one service, through this node."""

    active: int = 0
    inactive: int = 0


NO_CONNECTIONS = Connections()
_COUNTS = struct.Struct("<II")


def packed(counts: Iterable[Connections]) -> bytes:
    """Of the real servers of one service, in their order: eight bytes each. Empty: none of them has any."""
    data = b"".join(_COUNTS.pack(*one) for one in counts)
    return data if any(data) else b""


def unpacked(data: bytes) -> Iterator[Connections]:
    return map(Connections._make, _COUNTS.iter_unpack(data))


class Counters(NamedTuple):
    """What a service, or a real server of it, has carried since it was added.

    `packets_out`, `bytes_out`: answers that came back through this node, so 0 unless the real server is reached by NAT.
    """

    connections: int = 0  # new ones
    packets_in: int = 0
    packets_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


COUNTERS = len(Counters._fields)
COUNTED = struct.Struct(f"={COUNTERS}Q")
"""Counters as they are packed: of a service, then of each of its real servers in their order."""


def canonical(destination: Destination) -> tuple[int, int, int]:
    """Sort key of the one order every node inserts in: family, address, port."""
    return destination.address.version, int(destination.address), destination.port


@dataclass(frozen=True, slots=True, kw_only=True)
class Persistent:
    """Persistence as a service has it: seconds, and the prefix length that makes a client."""

    timeout: int
    prefix: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a service balances."""

    scheduler: str  # the kernel's name: a foreign service may use one we do not offer
    flags: frozenset[SchedulerFlag] = frozenset()
    one_packet: bool = False
    persistent: Persistent | None = None
    foreign: str = ""  # as of a destination: a persistence engine, unknown flags


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceEntry(Settings):
    """A service as the kernel holds it; `destinations` in the order of insertion."""

    destinations: tuple[Destination, ...] = ()

    @property
    def settings(self) -> Settings:
        return Settings(
            scheduler=self.scheduler,
            flags=self.flags,
            one_packet=self.one_packet,
            persistent=self.persistent,
            foreign=self.foreign,
        )


Table: TypeAlias = Mapping[Key, ServiceEntry]


@dataclass(frozen=True, slots=True, kw_only=True)
class AddService:
    service: Key
    settings: Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class SetService:
    service: Key
    settings: Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveService:
    service: Key


@dataclass(frozen=True, slots=True, kw_only=True)
class AddDestination:
    """Insert at the end of the order, with `table_weight`, then set to `weight`."""

    service: Key
    destination: Destination


@dataclass(frozen=True, slots=True, kw_only=True)
class SetDestination:
    """Write the whole record. `rebuild`: by way of its table weight, which the kernel does not have yet."""

    service: Key
    destination: Destination
    rebuild: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveDestination:
    """Remove and insert again, at the end of the order, in one batch: live connections stay (measured)."""

    service: Key
    destination: Destination


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveDestination:
    service: Key
    key: DestinationKey


IpvsOp: TypeAlias = (
    AddService
    | SetService
    | RemoveService
    | AddDestination
    | SetDestination
    | MoveDestination
    | RemoveDestination
)


def diff(
    actual: Table, desired: Table, *, ours: Iterable[Key] = (), only: Iterable[Key] | None = None
) -> tuple[IpvsOp, ...]:
    """Operations that turn `actual` into `desired`, in an order that is safe to stop at.

    Services of `actual` that are neither desired nor named by `ours` are somebody else's and stay.
    Additions come before removals, so no service ever has fewer destinations than in the smaller of the two
    tables, but for the one that an order repair has in its hand.
    `only`: these services are looked at and no others, in this order.
    """
    removable = frozenset(ours)
    looked = None if only is None else tuple(dict.fromkeys(only))
    return (
        *_additions(actual, desired, desired if looked is None else looked),
        *(
            RemoveService(service=key)
            for key in (actual if looked is None else looked)
            if key in removable and key in actual and key not in desired
        ),
    )


def _additions(actual: Table, desired: Table, keys: Iterable[Key]) -> Iterator[IpvsOp]:
    for key in keys:
        wanted, present = desired.get(key), actual.get(key)
        if wanted is None or present is wanted:
            continue
        if present is None:
            yield from _creation(key, wanted)
            continue
        if present.settings != wanted.settings:
            yield SetService(service=key, settings=wanted.settings)
        yield from _destinations(key, present, wanted)


def _creation(key: Key, wanted: ServiceEntry) -> Iterator[IpvsOp]:
    # mh rebuilds its table at every insertion (120-180 µs each): fill under rr, switch once. Nothing uses
    # the service yet, for its route comes after the kernel.
    late = wanted.scheduler == Scheduler.MH
    fill = replace(wanted.settings, scheduler=Scheduler.RR, flags=frozenset()) if late else wanted.settings
    yield AddService(service=key, settings=fill)
    for destination in wanted.destinations:
        # Under rr the table does not exist yet: insert with the table's weight, lower it after the switch.
        lowered = destination.weight != destination.table_weight
        first = replace(destination, weight=destination.table_weight) if late and lowered else destination
        yield AddDestination(service=key, destination=first)
    if late:
        yield SetService(service=key, settings=wanted.settings)
        for destination in wanted.destinations:
            if destination.weight != destination.table_weight:
                yield SetDestination(service=key, destination=destination)


def _destinations(key: Key, present: ServiceEntry, wanted: ServiceEntry) -> Iterator[IpvsOp]:
    # In tables of thousands nearly all are in place: only those after the first that is not are looked up by key.
    alike = 0
    for there, destination in zip(present.destinations, wanted.destinations, strict=False):
        if there != destination:
            if there.key != destination.key:
                break
            yield from _change(key, wanted, there, destination)
        alike += 1
    have = {destination.key: destination for destination in present.destinations[alike:]}
    want = {destination.key: destination for destination in wanted.destinations[alike:]}
    moved: set[DestinationKey] = set()
    if wanted.scheduler in ORDER_SENSITIVE:
        staying = [k for k in have if k in want]
        order = list(want)
        keep = _common_prefix(staying, order)
        moved = {k for k in order[keep:] if k in have}
    for place, destination in want.items():
        old = have.get(place)
        if old is not None and old != destination and place not in moved:
            yield from _change(key, wanted, old, destination)
    for place, destination in want.items():
        if place in moved:
            yield MoveDestination(service=key, destination=destination)
        elif place not in have:
            yield AddDestination(service=key, destination=destination)
    for gone in have:
        if gone not in want:
            yield RemoveDestination(service=key, key=gone)


def _change(key: Key, wanted: ServiceEntry, old: Destination, new: Destination) -> Iterator[IpvsOp]:
    rebuild = wanted.scheduler == Scheduler.MH and new.weight == 0 and old.table_weight != new.table_weight
    if rebuild or not _like(old, new):
        yield SetDestination(service=key, destination=new, rebuild=rebuild)


def _like(old: Destination, new: Destination) -> bool:
    """Equal, whatever the table's weight."""
    return old == new or (old.weight == new.weight and replace(old, table_weight=new.table_weight) == new)


def _common_prefix(left: list[DestinationKey], right: list[DestinationKey]) -> int:
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))


def apart(actual: ServiceEntry, desired: ServiceEntry) -> str:
    """The first thing that is not as wanted, in words; empty: nothing.

    Order and table weights count if the scheduler depends on them.
    """
    if actual.settings != desired.settings:
        return f"balances by {_spelt(actual.settings)}, not by {_spelt(desired.settings)}"
    if len(actual.destinations) == len(desired.destinations):
        # Nearly always the same real servers in the same order: then nothing is looked up.
        for there, one in zip(actual.destinations, desired.destinations, strict=True):
            if there is one or there == one:
                continue
            if there.port != one.port or there.address != one.address:
                break
            if text := _apart(there, one, desired):
                return text
        else:
            return ""
    have = {one.key: one for one in actual.destinations}
    for one in desired.destinations:
        old = have.get(one.key)
        if old is None:
            return f"real server {spelt(one.key)} is missing"
        if text := _apart(old, one, desired):
            return text
    if len(have) != len(desired.destinations):
        want = {one.key for one in desired.destinations}
        return f"real server {spelt(next(key for key in have if key not in want))} should not be there"
    if desired.scheduler in ORDER_SENSITIVE:
        order = [one.key for one in desired.destinations]
        return "" if list(have) == order else "the real servers are in another order"
    return ""


def _apart(old: Destination, one: Destination, desired: ServiceEntry) -> str:
    if not _like(old, one):
        return f"real server {spelt(one.key)} has {_differing(old, one)}"
    if desired.scheduler == Scheduler.MH and old.table_weight != one.table_weight:
        return f"real server {spelt(one.key)} may have another weight in the scheduler's table"
    return ""


def same(actual: ServiceEntry | None, desired: ServiceEntry) -> bool:
    """Whether the kernel holds what is wanted."""
    return actual is not None and not apart(actual, desired)


def spelt(key: DestinationKey) -> str:
    address, port = key
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def _spelt(settings: Settings) -> str:
    words = [settings.scheduler, *sorted(settings.flags)]
    if settings.one_packet:
        words.append("one-packet")
    if settings.persistent is not None:
        words.append(f"persistent {settings.persistent.timeout} s /{settings.persistent.prefix}")
    return " ".join([*words, settings.foreign]).strip()


def _differing(old: Destination, new: Destination) -> str:
    """`weight 0 instead of 1`: the first field that differs."""
    if old.foreign:
        return old.foreign
    for name in ("weight", "forwarding", "tunnel", "upper", "lower"):
        before, after = getattr(old, name), getattr(new, name)
        if before != after:
            return f"{name} {_text(before)} instead of {_text(after)}"
    return "another record"


def _text(value: object) -> str:
    if isinstance(value, Tunnel):
        port = f" port {value.port}" if value.port else ""
        return f"{value.type}{port} {value.checksum}"
    return str(value)


def known(table: Table, before: Table, only: Iterable[Key] | None = None) -> PersistentMap[Key, ServiceEntry]:
    """`table` as read, with the table weights of servers at weight 0 as `before` has them.

    `only`: the services at which the two may differ otherwise; of all others `before` is the answer.
    """
    read = persistent(table)
    if only is None:
        return read.updated({key: _informed(entry, before.get(key)) for key, entry in table.items()})
    keys = frozenset(only)
    changes = {key: _informed(read[key], before.get(key)) for key in keys if key in read}
    return persistent(before).updated(changes, keys - changes.keys())


def _informed(entry: ServiceEntry, before: ServiceEntry | None) -> ServiceEntry:
    if before is None or all(one.table_weight for one in entry.destinations):
        return entry
    weights = {one.key: one.table_weight for one in before.destinations}
    informed = replace(
        entry,
        destinations=tuple(
            one if one.table_weight else replace(one, table_weight=weights.get(one.key, 0))
            for one in entry.destinations
        ),
    )
    return before if informed == before else informed


def forgotten(table: Table, only: Iterable[Key] | None = None) -> PersistentMap[Key, ServiceEntry]:
    """`table` with the table weights that the kernel does not report marked as unknown. `only`: of these services."""
    looked = table.keys() if only is None else frozenset(only) & table.keys()
    return persistent(table).updated({key: _forgetting(table[key]) for key in looked})


def _forgetting(entry: ServiceEntry) -> ServiceEntry:
    if all(one.weight or not one.table_weight for one in entry.destinations):
        return entry
    return replace(
        entry,
        destinations=tuple(one if one.weight else replace(one, table_weight=0) for one in entry.destinations),
    )


def persistent(table: Table) -> PersistentMap[Key, ServiceEntry]:
    return table if isinstance(table, PersistentMap) else PersistentMap(table)


class Counted(NamedTuple):
    """What of a table chooses real servers. `servers`: address, port and weight of each, in order where it counts."""

    scheduler: str
    flags: tuple[str, ...]
    one_packet: bool
    foreign: str
    servers: tuple[tuple[Address, int, int], ...]


def counted(actual: ServiceEntry, desired: ServiceEntry) -> Counted:
    """Of what the kernel holds: scheduler and flags, and of each real server in order its address, port and table weight.

    A weight of 0 for the time being changes nothing. Where the scheduler does not look at the order it does not count, and
    where it builds no table, `desired` stands in for the weight of a server at 0.
    """
    wanted = {one.key: one.table_weight for one in desired.destinations}
    servers = actual.destinations
    if actual.scheduler not in ORDER_SENSITIVE:
        servers = tuple(sorted(servers, key=canonical))
    guess = actual.scheduler != Scheduler.MH
    return Counted(
        scheduler=actual.scheduler,
        flags=tuple(sorted(actual.flags)),
        one_packet=actual.one_packet,
        foreign=actual.foreign,
        servers=tuple(
            (one.address, one.port, wanted.get(one.key, 0) if guess and not one.weight else one.table_weight)
            for one in servers
        ),
    )


def fingerprint(actual: ServiceEntry, desired: ServiceEntry) -> str:
    """Hexadecimal digits that are equal on nodes whose tables choose the same real servers: of what `counted` says."""
    found = counted(actual, desired)
    lines = [f"{found.scheduler} {' '.join(found.flags)} {found.one_packet} {found.foreign}"]
    lines += [f"{address} {port} {weight}" for address, port, weight in found.servers]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:FINGERPRINT_DIGITS]


def play(table: Table, ops: Iterable[IpvsOp]) -> PersistentMap[Key, ServiceEntry]:
    """The table after `ops`, as the kernel would have it. The model that tests and dry runs share.

    Costs what the operations touch. Raises KeyError for an operation on what is not there.
    """
    settings: dict[Key, Settings] = {}
    held: dict[Key, dict[DestinationKey, Destination]] = {}
    gone: set[Key] = set()

    def there(key: Key) -> None:
        if key in gone or (key not in settings and key not in table):
            raise KeyError(key)

    def servers(key: Key) -> dict[DestinationKey, Destination]:
        there(key)
        if key not in held:
            held[key] = {one.key: one for one in table[key].destinations}
        return held[key]

    for op in ops:
        key = op.service
        match op:
            case AddService():
                settings[key] = op.settings
                held[key] = {}
                gone.discard(key)
            case SetService():
                there(key)
                settings[key] = op.settings
            case RemoveService():
                there(key)
                settings.pop(key, None)
                held.pop(key, None)
                gone.add(key)
            case AddDestination(destination=destination):
                servers(key)[destination.key] = _written(destination)
            case SetDestination(destination=destination):
                old = servers(key)[destination.key]
                servers(key)[destination.key] = (
                    _written(destination)
                    if destination.weight or op.rebuild
                    else replace(destination, table_weight=old.table_weight)
                )
            case MoveDestination(destination=destination):
                servers(key).pop(destination.key, None)
                servers(key)[destination.key] = _written(destination)
            case RemoveDestination(key=at):
                servers(key).pop(at, None)
    changes = {
        key: entry(
            settings[key] if key in settings else table[key].settings,
            held[key].values() if key in held else table[key].destinations,
        )
        for key in dict.fromkeys((*settings, *held))
    }
    return persistent(table).updated(changes, gone)


def _written(destination: Destination) -> Destination:
    """As the kernel holds it: the last weight that was not 0 is the one the table is built with."""
    weight = destination.weight or destination.table_weight
    return destination if destination.table_weight == weight else replace(destination, table_weight=weight)


def entry(settings: Settings, destinations: Iterable[Destination]) -> ServiceEntry:
    """A service with these settings and destinations, in this order."""
    return ServiceEntry(
        scheduler=settings.scheduler,
        flags=settings.flags,
        one_packet=settings.one_packet,
        persistent=settings.persistent,
        foreign=settings.foreign,
        destinations=tuple(destinations),
    )
