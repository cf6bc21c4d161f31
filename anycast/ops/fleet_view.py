"""The part `fleet` of the status document: what this node knows of the others, how old it is and where it comes from. Pure."""

from __future__ import annotations

from collections import Counter
from typing import Any, Protocol

from anycast.core.fleet.believe import Believed, believe
from anycast.core.fleet.values import Peer
from anycast.core.state import State


class Clock(Protocol):
    @property
    def now(self) -> float: ...

    def since(self, instant: float | None) -> dict[str, Any]: ...


def fleet_status(state: State, clock: Clock) -> dict[str, Any] | None:
    """None: the node takes no part in a fleet."""
    fleet = state.config.fleet
    if fleet is None:
        return None
    found = believe(state.fleet, fleet, clock.now)
    return {
        "view": str(fleet.view),
        "problem": state.fleet.problem,
        "nodes": [node(one, state.fleet.peers.get(one.name), clock) for one in found.values()],
    }


def node(one: Believed, peer: Peer | None, clock: Clock) -> dict[str, Any]:
    """One other node. What it said last stands there whatever is believed of it."""
    age = None if peer is None else peer.age(clock.now)
    told = one.document
    standings = (
        Counter(str(vip.standing) for vip in told.vips.values()) if told is not None else Counter[str]()
    )
    return {
        "name": one.name,
        "belief": str(one.belief),
        "why": one.why,
        **clock.since(one.since),
        "source": None if peer is None else str(peer.source),
        "age_s": None if age is None else round(age, 3),
        "version": None if told is None else told.version,
        "format": None if told is None else told.format,
        "configuration": None if told is None else told.configuration,
        "ready": None if told is None else told.ready,
        "maintenance": None if told is None else told.maintenance,
        "hears": None if told is None else list(told.hears),
        "vips": dict(sorted(standings.items())),
    }
