"""The VIPs that the fleet's limit keeps announced as the last resort (`fleet.velocity`), and the reason of each in words.

What others say comes often, and touches no VIP. The reasons are looked at in a rhythm of their own, and only those.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from heapq import nsmallest

from anycast.core.fleet.believe import believe
from anycast.core.fleet.velocity import WAITS, Own, left, why_it_stays
from anycast.core.state import Limited, State
from anycast.core.values.configuration import Config

LOOK = 2.0  # seconds
NAMED = 5  # VIPs


def is_set(config: Config) -> bool:
    """Whether there is a limit, and anybody who is asked."""
    return config.fleet is not None and config.fleet.limits


def reason(state: State, name: str) -> str:
    """Why a route of the VIP that stands would stay; empty: nothing speaks against taking it back."""
    if not is_set(state.config):
        return ""
    known = state.limited.get(name)
    return WAITS if known is None else known.why


def looked(state: State, now: float) -> State:
    """With the reasons as they are now, where it is time for that."""
    fleet = state.config.fleet
    if now < state.limited_at or fleet is None:
        return state
    others, gone, node = believe(state.fleet, fleet, now), left(state.fleet, now), state.config.node.name
    changed: dict[str, Limited] = {}
    for name, known in state.limited.items():
        why = why_it_stays(Own(node=node, vip=name, since=known.since), others, gone, fleet, now)
        if why != known.why:
            changed[name] = replace(known, why=why)
    return replace(state, limited=state.limited.updated(changed), limited_at=now + LOOK)


def followed(before: State, state: State, judged: Iterable[str], now: float) -> State:
    """With those that the limit keeps by the verdicts of now. `judged`: the VIPs that have new ones."""
    kept = {name for name in judged if name in state.vips and state.vips[name].verdict.limited}
    new = {name: Limited(since=now, why=WAITS) for name in kept if name not in state.limited}
    gone = [name for name in judged if name in state.limited and name not in kept]
    if state.limited and state.index is not before.index:
        gone += [name for name in state.limited if name not in state.vips]
    if not new and not gone:
        return state
    limited = state.limited.updated(new, gone)
    at = min(state.limited_at, now + LOOK) if limited else math.inf
    return replace(state, limited=limited, limited_at=at)


def alarm(state: State) -> str:
    """What is kept, and why; empty: nothing, or not for long enough to know."""
    told = {name: one.why for name, one in state.limited.items() if one.why not in ("", WAITS)}
    if not told:
        return ""
    first = nsmallest(NAMED, told, key=lambda name: state.index.place.get(name, -1))
    more = f" and {len(told) - NAMED} more" if len(told) > NAMED else ""
    return (
        f"{', '.join(first)}{more} would be taken back, and stay announced as the last resort: {told[first[0]]} (`anycast why "
        "--vip NAME` says what fails here; do other nodes see the same?)"
    )


def wakes(state: State) -> Iterator[float]:
    yield state.limited_at
