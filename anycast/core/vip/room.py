"""Whether the real servers that stay take the connections of one that is drained.

A real server with `upper_threshold` gets no client while it has so many connections, established or not; IPVS then sends
the client to another that has room. Once none of them has any, clients are refused. So what counts is the room of all.
"""

from __future__ import annotations

from anycast.core.dataplane import ipvs
from anycast.core.dataplane.kernel import Snapshot
from anycast.core.index import IndexedService
from anycast.core.state import State


def too_full(state: State, scope: str) -> tuple[str, ...]:
    """Why the real server `POOL/SERVER` should not be drained: each service whose others would not have the room.

    By what was read of the kernel last. A real server without a limit takes all there is.
    """
    snapshot = state.kernel.snapshot
    if snapshot is None:
        return ()
    keys = (key for facts in state.index.drained_by(scope) for key in state.index.services[facts].alike)
    found = (_too_full(snapshot, key, state.index.services[key], scope) for key in keys)
    return tuple(one for one in found if one)


def _too_full(snapshot: Snapshot, key: ipvs.Key, service: IndexedService, scope: str) -> str:
    """Empty: they have."""
    entry = snapshot.table.get(key)
    serving = [] if entry is None else [one for one in entry.destinations if one.weight]
    rest = [one for one in serving if service.servers.get(one.key) != scope]
    if len(rest) == len(serving) or not rest or not all(one.upper for one in rest):
        return ""
    held = snapshot.connections_of(key)
    there = sum(sum(held.get(one.key, ipvs.NO_CONNECTIONS)) for one in serving)
    room = sum(one.upper for one in rest)
    if there <= room:
        return ""
    many = "real server" if len(rest) == 1 else f"{len(rest)} real servers"
    return f"{service.vip} {key} has {there:,} connections, and its other {many} {_take(rest)} {room:,} (upper_threshold)"


def _take(rest: list[ipvs.Destination]) -> str:
    return "takes" if len(rest) == 1 else "take"
