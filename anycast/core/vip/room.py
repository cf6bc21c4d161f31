"""Whether the real servers that stay take what one carries that is drained.

A real server with `upper_threshold` gets no client while it has so many connections, established or not; IPVS then sends
the client to another that has room. Once none of them has any, clients are refused: there the room of all counts. With
`server_capacity` each one counts: what is moved comes to the others by their weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from anycast.core.dataplane import ipvs
from anycast.core.dataplane.kernel import Snapshot
from anycast.core.dataplane.traffic import WINDOW
from anycast.core.fleet.headroom import Figure, Resource, told
from anycast.core.fleet.values import Capacity, Load
from anycast.core.index import IndexedService
from anycast.core.state import Reading, State


def too_full(state: State, scope: str) -> tuple[str, ...]:
    """Why the real server `POOL/SERVER` should not be drained: each service whose others would not have the room.

    By what was read of the kernel last. A real server without a limit takes all there is.
    """
    snapshot = state.kernel.snapshot
    if snapshot is None:
        return ()
    return tuple(_too_full(state, snapshot, scope))


def _too_full(state: State, snapshot: Snapshot, scope: str) -> Iterator[str]:
    for facts in state.index.drained_by(scope):
        service = state.index.services[facts]
        for key in service.alike:
            if found := _no_room(snapshot, key, state.index.services[key], scope):
                yield found
        capacity = service.service.server_capacity
        if capacity is not None and (over := _over(state, snapshot, service, capacity, scope)):
            yield over


def _no_room(snapshot: Snapshot, key: ipvs.Key, service: IndexedService, scope: str) -> str:
    """Empty: they have."""
    serving = _serving(snapshot, key)
    rest = [one for one in serving if service.servers.get(one.key) != scope]
    if len(rest) == len(serving) or not rest or not all(one.upper for one in rest):
        return ""
    held = snapshot.connections_of(key)
    there = sum(sum(held.get(one.key, ipvs.NO_CONNECTIONS)) for one in serving)
    room = sum(one.upper for one in rest)
    if there <= room:
        return ""
    many = "real server takes" if len(rest) == 1 else f"{len(rest)} real servers take"
    return f"{service.vip} {key} has {there:,} connections, and its other {many} {room:,} (upper_threshold)"


def _serving(snapshot: Snapshot, key: ipvs.Key) -> list[ipvs.Destination]:
    entry = snapshot.table.get(key)
    return [] if entry is None else [one for one in entry.destinations if one.weight]


def _over(state: State, snapshot: Snapshot, service: IndexedService, capacity: Capacity, scope: str) -> str:
    """The real server that would be the furthest over its limit; empty: none would be.

    Of all addresses of one family together. What is moved is shared by the weights that the kernel has.
    """
    loads: dict[str, list[float]] = {}
    weights: dict[str, int] = {}
    for key in service.alike:
        servers = state.index.services[key].servers
        of_key = _loads(state.kernel.readings, snapshot, key)
        for one in _serving(snapshot, key):
            if (name := servers.get(one.key)) is None:
                continue
            weights[name] = one.weight
            if of_key is None:
                return (
                    f"what the real servers of {service.vip} {key} carry is not known yet (server_capacity)"
                )
            found = of_key.get(one.key, Load())
            known = loads.setdefault(name, [0.0] * len(Resource))
            for at, each in enumerate(Resource):
                known[at] += getattr(found, each)
    moved = loads.pop(scope, None)
    weights.pop(scope, None)
    if moved is None:
        return ""
    worst: tuple[str, Figure] | None = None
    for name, load in loads.items():
        part = weights[name] / sum(weights.values())
        figures = _figures([own + part * more for own, more in zip(load, moved, strict=True)], capacity)
        for figure in figures:
            if figure.is_over and (worst is None or figure.share > worst[1].share):
                worst = name, figure
    if worst is None:
        return ""
    return f"{worst[0]} would stand at {told(worst[1])}, as a server of {service.vip} {service.service.name}"


def _figures(load: Iterable[float], capacity: Capacity) -> Iterator[Figure]:
    for each, carried in zip(Resource, load, strict=True):
        if most := getattr(capacity, each):
            yield Figure(each, carried, most, capacity.limit)


def _loads(
    readings: tuple[Reading, ...], snapshot: Snapshot, key: ipvs.Key
) -> Mapping[ipvs.DestinationKey, Load] | None:
    """What each real server of a service carries. None: not known."""
    newest = readings[-1] if readings else None
    base = next((one for one in reversed(readings) if newest and one.at <= newest.at - WINDOW), None)
    if newest is None or base is None:
        return None
    before, after = _counters(base, key), _counters(newest, key)
    held, seconds = snapshot.connections_of(key), newest.at - base.at
    found = {}
    for at, now in after.items():
        then = before.get(at, now)
        if any(one < other for one, other in zip(now, then, strict=True)):
            then = ipvs.Counters()  # they have begun anew
        rates = [(one - other) / seconds for one, other in zip(now, then, strict=True)]
        new, packets_in, packets_out, bytes_in, bytes_out = rates
        found[at] = Load(
            packets=packets_in + packets_out,
            bits=8 * (bytes_in + bytes_out),
            new_connections=new,
            connections=sum(held.get(at, ipvs.NO_CONNECTIONS)),
        )
    return found


def _counters(reading: Reading, key: ipvs.Key) -> dict[ipvs.DestinationKey, ipvs.Counters]:
    """A service that has had no traffic has no counters."""
    entry, data = reading.table.get(key), reading.traffic.get(key, b"")
    if entry is None:
        return {}
    rows = [ipvs.Counters._make(one) for one in ipvs.COUNTED.iter_unpack(data)][1:]
    rows += [ipvs.Counters()] * (len(entry.destinations) - len(rows))
    return {one.key: row for one, row in zip(entry.destinations, rows, strict=False)}
