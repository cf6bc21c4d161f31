"""The desired IPVS table, and the difference to the one in the kernel.

The promise that a connection moved to another balancer goes on to the same real server rests on every node
building the same Maglev table. The kernel's table depends on the order in which real servers were inserted
and on the weights they were inserted with, so both are part of what is compared and repaired here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from anycast.core.model import Address, Forwarding, Protocol, Scheduler, SchedulerFlag

# Their tables are built by walking the list of real servers: another order is another table.
ORDER_SENSITIVE = frozenset({Scheduler.MH, Scheduler.SH, Scheduler.DH})


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceKey:
    """What names a service in IPVS."""

    protocol: Protocol
    address: Address
    port: int

    def __str__(self) -> str:
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{self.protocol} {host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """One real server of one service. Weight 0 means: drain, keep flows."""

    address: Address
    port: int
    weight: int
    forwarding: Forwarding
    # The weight the scheduler's table is built with. The kernel keeps it and does not tell, hence no part of
    # a comparison: a server that is down is inserted with this weight and then set to 0.
    table_weight: int = field(default=1, compare=False)
    # What a destination of the kernel has that the fields above cannot say (thresholds, another tunnel). Never
    # wanted, so it is a difference, and writing the whole record ends it.
    foreign: str = ""

    @property
    def key(self) -> DestinationKey:
        return self.address, self.port


DestinationKey: TypeAlias = tuple[Address, int]


def canonical(destination: Destination) -> tuple[int, int, int]:
    """Sort key of the one order every node inserts in: family, address, port."""
    return destination.address.version, int(destination.address), destination.port


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceEntry:
    """A service as the kernel holds it; `destinations` in the order of insertion."""

    scheduler: str  # the kernel's name: a foreign service may use one we do not offer
    flags: frozenset[SchedulerFlag] = frozenset()
    destinations: tuple[Destination, ...] = ()


Table: TypeAlias = Mapping[ServiceKey, ServiceEntry]


@dataclass(frozen=True, slots=True, kw_only=True)
class AddService:
    service: ServiceKey
    scheduler: str
    flags: frozenset[SchedulerFlag]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetService:
    service: ServiceKey
    scheduler: str
    flags: frozenset[SchedulerFlag]


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveService:
    service: ServiceKey


@dataclass(frozen=True, slots=True, kw_only=True)
class AddDestination:
    """Insert at the end of the order, with `table_weight`, then set to `weight`."""

    service: ServiceKey
    destination: Destination


@dataclass(frozen=True, slots=True, kw_only=True)
class SetDestination:
    service: ServiceKey
    destination: Destination


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveDestination:
    """Remove and insert again, at the end of the order, in one batch: live connections stay (measured)."""

    service: ServiceKey
    destination: Destination


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveDestination:
    service: ServiceKey
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


def diff(actual: Table, desired: Table, *, ours: Iterable[ServiceKey] = ()) -> tuple[IpvsOp, ...]:
    """Operations that turn `actual` into `desired`, in an order that is safe to stop at.

    Services of `actual` that are neither desired nor named by `ours` are somebody else's and stay.
    Additions come before removals, so no service ever has fewer destinations than in the smaller of the two
    tables, but for the one that an order repair has in its hand.
    """
    removable = frozenset(ours)
    return (
        *_additions(actual, desired),
        *(RemoveService(service=key) for key in actual if key not in desired and key in removable),
    )


def _additions(actual: Table, desired: Table) -> Iterator[IpvsOp]:
    for key, wanted in desired.items():
        present = actual.get(key)
        if present is None:
            yield from _creation(key, wanted)
            continue
        if (present.scheduler, present.flags) != (wanted.scheduler, wanted.flags):
            yield SetService(service=key, scheduler=wanted.scheduler, flags=wanted.flags)
        yield from _destinations(key, present, wanted)


def _creation(key: ServiceKey, wanted: ServiceEntry) -> Iterator[IpvsOp]:
    # mh rebuilds its table at every insertion (120-180 µs each): fill under rr, switch once. Nothing uses
    # the service yet, for its route comes after the kernel.
    fill = Scheduler.RR if wanted.scheduler == Scheduler.MH else wanted.scheduler
    yield AddService(
        service=key, scheduler=fill, flags=frozenset() if fill != wanted.scheduler else wanted.flags
    )
    late = fill != wanted.scheduler
    for destination in wanted.destinations:
        # Under rr the table does not exist yet: insert with the table's weight, lower it after the switch.
        lower = late and destination.weight != destination.table_weight
        first = replace(destination, weight=destination.table_weight) if lower else destination
        yield AddDestination(service=key, destination=first)
    if late:
        yield SetService(service=key, scheduler=wanted.scheduler, flags=wanted.flags)
        for destination in wanted.destinations:
            if destination.weight != destination.table_weight:
                yield SetDestination(service=key, destination=destination)


def _destinations(key: ServiceKey, present: ServiceEntry, wanted: ServiceEntry) -> Iterator[IpvsOp]:
    # In tables of thousands nearly all stand where they should: only what comes after is looked up by key.
    alike = 0
    for there, destination in zip(present.destinations, wanted.destinations, strict=False):
        if there != destination:
            if there.key != destination.key:
                break
            yield SetDestination(service=key, destination=destination)
        alike += 1
    have = {destination.key: destination for destination in present.destinations[alike:]}
    want = {destination.key: destination for destination in wanted.destinations[alike:]}
    for place, destination in want.items():
        old = have.get(place)
        if old is not None and old != destination:
            yield SetDestination(service=key, destination=destination)
    moved: set[DestinationKey] = set()
    if wanted.scheduler in ORDER_SENSITIVE:
        staying = [k for k in have if k in want]
        order = list(want)
        keep = _common_prefix(staying, order)
        moved = {k for k in order[keep:] if k in have}
    for place, destination in want.items():
        if place in moved:
            yield MoveDestination(service=key, destination=destination)
        elif place not in have:
            yield AddDestination(service=key, destination=destination)
    for gone in have:
        if gone not in want:
            yield RemoveDestination(service=key, key=gone)


def _common_prefix(left: list[DestinationKey], right: list[DestinationKey]) -> int:
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))


def same(actual: ServiceEntry | None, desired: ServiceEntry) -> bool:
    """Whether the kernel holds what is wanted, order included where the scheduler looks at it."""
    return actual is not None and next(_difference(actual, desired), None) is None


def _difference(actual: ServiceEntry, desired: ServiceEntry) -> Iterator[object]:
    if (actual.scheduler, actual.flags) != (desired.scheduler, desired.flags):
        yield desired
    if actual.destinations == desired.destinations:
        return
    if desired.scheduler in ORDER_SENSITIVE or frozenset(actual.destinations) != frozenset(
        desired.destinations
    ):
        yield desired


def play(table: Table, ops: Iterable[IpvsOp]) -> dict[ServiceKey, ServiceEntry]:
    """The table after `ops`, as the kernel would have it. The model that tests and dry runs share."""
    result = dict(table)
    for op in ops:
        match op:
            case AddService(service=key, scheduler=scheduler, flags=flags):
                result[key] = ServiceEntry(scheduler=scheduler, flags=flags)
            case SetService(service=key, scheduler=scheduler, flags=flags):
                result[key] = replace(result[key], scheduler=scheduler, flags=flags)
            case RemoveService(service=key):
                del result[key]
            case AddDestination(service=key, destination=destination):
                entry = result[key]
                result[key] = replace(entry, destinations=(*entry.destinations, destination))
            case SetDestination(service=key, destination=destination):
                entry = result[key]
                result[key] = replace(
                    entry,
                    destinations=tuple(
                        destination if d.key == destination.key else d for d in entry.destinations
                    ),
                )
            case MoveDestination(service=key, destination=destination):
                entry = result[key]
                rest = tuple(d for d in entry.destinations if d.key != destination.key)
                result[key] = replace(entry, destinations=(*rest, destination))
            case RemoveDestination(service=key, key=gone):
                entry = result[key]
                result[key] = replace(
                    entry, destinations=tuple(d for d in entry.destinations if d.key != gone)
                )
    return result
