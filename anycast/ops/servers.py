"""Real servers as they are shown: the configuration of each, and its state. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from anycast.core.dataplane import ipvs
from anycast.core.dataplane.members import check_of, every_server_of, server_port, service_key, versions
from anycast.core.health.phase import Health
from anycast.core.maintenance.stages import server_scope
from anycast.core.state import State, drained_scopes, health_of, kernel_table
from anycast.core.values.configuration import Address, Aimed, Forwarding, RealServer, Service, Vip


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A real server as one service of a VIP uses it: all that the configuration says."""

    server: RealServer
    address: Address
    port: int
    check: Aimed
    scope: str  # POOL/SERVER
    services: tuple[ipvs.Key, ...]  # behind the VIP's addresses of the family
    place: int  # among the destinations of each, in the canonical order
    sees_answers: bool  # whether they come back through this node
    sorry: bool = False  # it has clients while the quorum of the others is lost


class Seen(NamedTuple):
    """What is seen of it. Weights None: behind an address of the VIP it is missing."""

    health: Health
    drained: bool
    weight: int | None  # as wanted; the lowest behind the VIP's addresses
    kernel_weight: int | None
    active: int
    inactive: int
    drained_since: float | None = None  # seconds since the epoch; None: not by command


def rows(vip: Vip, service: Service) -> tuple[Row, ...]:
    """In the order of the configuration, each address of a server once; those of the sorry pool last."""
    found: dict[tuple[bool, str, Address], Row] = {}
    for version in versions(vip):
        keys = tuple(
            dict.fromkeys(
                service_key(address, service) for address in vip.addresses if address.version == version
            )
        )
        members = [
            (pool, server, address, server_port(service, server))
            for pool, server, address in every_server_of(service, version)
        ]
        order = sorted(range(len(members)), key=lambda at: _canonical(*members[at][2:]))
        places = {number: place for place, number in enumerate(order)}
        for number, (pool, server, address, port) in enumerate(members):
            sorry = pool is service.sorry
            row = Row(
                server=server,
                address=address,
                port=port,
                check=check_of(vip, service, server, address, version, pool),
                scope=server_scope(pool.name, server.name),
                services=keys,
                place=places[number],
                sees_answers=sees_answers(service),
                sorry=sorry,
            )
            found.setdefault((sorry, server.name, address), row)
    return tuple(sorted(found.values(), key=lambda row: row.sorry))


def sees_answers(service: Service) -> bool:
    """Whether they come back through this node: with NAT alone."""
    return service.forwarding is Forwarding.NAT


def _canonical(address: Address, port: int) -> tuple[int, int, int]:
    """As `ipvs.canonical`."""
    return address.version, int(address), port


_Counts: TypeAlias = Mapping[ipvs.DestinationKey, ipvs.Connections]
_Entries: TypeAlias = tuple[ipvs.ServiceEntry | None, ipvs.ServiceEntry | None, _Counts]


class Held(NamedTuple):
    """A real server behind one address of the VIP. None: it is not wanted there; it is not there."""

    wanted: ipvs.Destination | None
    held: ipvs.Destination | None
    connections: ipvs.Connections


def counts_of(state: State) -> Mapping[ipvs.Key, bytes]:
    """The connections of each service as they were read; what is the same object has not changed."""
    return {} if state.kernel.snapshot is None else state.kernel.snapshot.connections


class Look:
    """Where the destinations of a state are found."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.drained = drained_scopes(state)
        # By id() of a row's services, all servers of a service in a family share them: a key is dear to look up.
        # They are kept beside, or another tuple could come by the same id().
        self._entries: dict[int, tuple[tuple[ipvs.Key, ...], list[_Entries]]] = {}
        # By id() of the entry, which the state keeps.
        self._indices: dict[int, dict[ipvs.DestinationKey, ipvs.Destination]] = {}

    def at(self, row: Row) -> list[Held]:
        """As it is wanted and as the kernel has it, behind each address of the VIP."""
        known = self._entries.get(id(row.services))
        if known is None:
            wanted, held = self.state.desired.table, kernel_table(self.state)
            known = (
                row.services,
                [(wanted.get(key), held.get(key), self._counts(key)) for key in row.services],
            )
            self._entries[id(row.services)] = known
        return [
            Held(
                self._find(one, row),
                self._find(other, row),
                counts.get((row.address, row.port), ipvs.NO_CONNECTIONS) if counts else ipvs.NO_CONNECTIONS,
            )
            for one, other, counts in known[1]
        ]

    def _counts(self, key: ipvs.Key) -> _Counts:
        snapshot = self.state.kernel.snapshot
        return {} if snapshot is None else snapshot.connections_of(key)

    def _find(self, entry: ipvs.ServiceEntry | None, row: Row) -> ipvs.Destination | None:
        if entry is None:
            return None
        destinations, place = entry.destinations, row.place
        if place < len(destinations):
            one = destinations[place]
            if one.port == row.port and (one.address is row.address or one.address == row.address):
                return one
        # Another program is at work, or a server is being added or removed: no order to rely on.
        index = self._indices.get(id(entry))
        if index is None:
            index = self._indices[id(entry)] = {one.key: one for one in destinations}
        return index.get((row.address, row.port))


def seen(row: Row, look: Look) -> Seen:
    weight: int | None = None
    kernel_weight: int | None = None
    missing = absent = False
    active = inactive = 0
    for wanted, held, connections in look.at(row):
        if wanted is None:
            missing = True
        elif weight is None or wanted.weight < weight:
            weight = wanted.weight
        if held is None:
            absent = True
            continue
        if kernel_weight is None or held.weight < kernel_weight:
            kernel_weight = held.weight
        active += connections.active
        inactive += connections.inactive
    entry = look.state.maintenance.get(row.scope) if row.scope in look.drained else None
    return Seen(
        health_of(look.state, row.check),
        row.server.weight == 0 or row.scope in look.drained,
        None if missing else weight,
        None if absent else kernel_weight,
        active,
        inactive,
        None if entry is None else entry.since,
    )
