"""The part `fleet` of the status document: what this node knows of the others, how old it is and where it comes from. Pure."""

from __future__ import annotations

from collections import Counter
from typing import Any, Protocol

from anycast.core.fleet.believe import Believed, believe
from anycast.core.fleet.values import Holder, Peer, Register
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
        "turns": None if state.fleet.register is None else turns(state.fleet.register, clock),
    }


def turns(found: Register, clock: Clock) -> dict[str, Any]:
    """Who has a turn in etcd, and who waits there."""
    return {
        "problem": found.problem,
        "age_s": None if found.heard is None else round(max(0.0, clock.now - found.heard), 3),
        "holders": [holder(one) for one in found.holders],
        "queue": [holder(one) for one in found.queue],
    }


def holder(one: Holder) -> dict[str, Any]:
    return {
        "node": one.node,
        "by": one.by,
        "reason": one.reason,
        "ago_s": round(one.ago, 1),
        "ends_in_s": one.ends_in,
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
