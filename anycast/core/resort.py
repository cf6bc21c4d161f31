"""Who gets the clients of a VIP that stays on as the last resort.

While no real server of a service is usable, all that checks alone are against have clients: checks may be wrong about
all of them at once. Their places in the scheduler's table are the same as ever, so each client reaches the server of
before. What fails together does not do so in the same moment, nor does it come back in one, neither on a node nor on all
of them; and where one node has taken clients from a real server, connections that come to it from another one break. So
whoever has clients keeps them:
- while no real server is well without doubt: the others may fail as well;
- while it rises;
- after a last resort, until each has been asked again since the first was well.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from anycast.core import kept, limited
from anycast.core.dataplane import ipvs
from anycast.core.dataplane.members import Member
from anycast.core.health.aim import targets_of
from anycast.core.health.phase import Health, Phase
from anycast.core.state import State, drained_scopes, health_of, in_use, is_sorry
from anycast.core.values.configuration import WhenUnhealthy


def stays_on(state: State, key: ipvs.Key) -> bool:
    """Whether the service is one of a VIP that may stay on as the last resort.

    With a limit of the fleet (`fleet.velocity`) each may. One that is taken back gets no clients, whatever has weight.
    """
    one = state.index.services.get(key)
    if one is None:
        return False
    last = state.index.vips[one.vip].vip.when_unhealthy is WhenUnhealthy.LAST_RESORT
    return last or limited.is_set(state.config)


def moved(before: State, state: State, usual: Mapping[ipvs.Key, list[ipvs.Destination]]) -> State:
    """With what is known of last resorts. `usual`: of services, their real servers with weights by health alone."""
    now = state.seen
    found: dict[ipvs.Key, float] = {}
    gone: list[ipvs.Key] = []
    for key, destinations in usual.items():
        until = _until(state, key, destinations) if stays_on(state, key) else None
        if until is not None:
            found[key] = until
        elif key in state.resorts:
            gone.append(key)
    if state.resorts and state.index is not before.index:
        gone += [key for key in state.resorts if key not in state.index.services]
    resorts = state.resorts.updated(found, gone)
    if state.resort_at <= now:
        soonest = min(resorts.values(), default=math.inf)
    else:
        soonest = min((state.resort_at, *found.values()))
    if resorts is state.resorts and soonest == state.resort_at:
        return state
    return replace(state, resorts=resorts, resort_at=soonest)


def _until(state: State, key: ipvs.Key, destinations: Iterable[ipvs.Destination]) -> float | None:
    """Until when those with clients keep them. None: this is no last resort; infinity: it has not ended yet."""
    until: float | None = state.resorts.get(key)
    if is_sorry(state, key):
        return None
    if not any(each.weight for each in destinations):
        # An agent that starts hears of one after the other: the first that is down tells nothing of all.
        heard = all(health.phase is not Phase.UNDECIDED for _, health in _members(state, key))
        return math.inf if heard or until is not None else None
    if until is None or until <= state.seen:
        return None
    if until < math.inf:
        return until
    members = _members(state, key)
    return state.seen + _asked_again(members) if _is_known_well(members) else math.inf


def _asked_again(members: Iterable[tuple[Member, Health]]) -> float:
    """Seconds in which each has been asked anew, and has answered: the run that is under way may hang to its end."""
    checks = (target.check for member, _ in members for target in targets_of(member.check))
    return max((check.interval + 2 * check.timeout for check in checks), default=0.0)


def _is_known_well(members: Iterable[tuple[Member, Health]]) -> bool:
    """Whether one is well without doubt."""
    return any(health.phase is Phase.UP and not health.unknown for _, health in members)


def _members(state: State, key: ipvs.Key) -> list[tuple[Member, Health]]:
    """Those that may have clients. Of two at one address and port the latter goes on, which was replaced."""
    drained = drained_scopes(state)
    configured = state.index.services[key].membership.serving
    found = [(member, health_of(state, member.check)) for member in configured if member.in_use]
    found += [(member, health) for member, health, _ in kept.standing(state, key)]
    return [(member, health) for member, health in found if member.scope not in drained]


def with_spare(state: State, key: ipvs.Key, destinations: list[ipvs.Destination]) -> list[ipvs.Destination]:
    """The real servers of the service, and clients for those that checks alone are against, as far as they get any."""
    if all(each.weight for each in destinations):
        return destinations
    if is_sorry(state, key):
        return destinations
    members = _members(state, key)
    nobody = not any(each.weight for each in destinations)
    doubt = key in state.resorts or not _is_known_well(members)
    had = in_use(state.desired.table, key)
    spare = {
        member.up.key: member.up
        for member, health in members
        if health.is_spare and (nobody or (member.up.key in had and (doubt or health.phase is Phase.RISING)))
    }
    return [each if each.weight else spare.get(each.key, each) for each in destinations]


def due(before: State, state: State) -> Iterator[ipvs.Key]:
    """The services, by their keys for facts, whose last resort ends by time."""
    if before.seen < state.resort_at <= state.seen:
        for key, until in state.resorts.items():
            if until <= state.seen and key in state.index.services:
                yield state.index.services[key].facts


def wakes(state: State, now: float) -> Iterator[float]:
    if state.resort_at > now:
        yield state.resort_at
