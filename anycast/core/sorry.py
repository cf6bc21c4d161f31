"""When the sorry pool of a service has its clients: while the quorum of the real servers is lost.

Then the real servers have weight 0, and the servers of the sorry pool have theirs. Nobody enters or leaves the
scheduler's table for that: the sorry pool has its places there all the time, at weight 0, on every node. So the flows of
the real servers have the same places before, after and on every other node, and who has a connection keeps it.

The route is the last resort meanwhile: a node that has real servers is better. It stays that for a while once the real
servers are back, until the connections to the sorry pool have ended. Nodes do not see that in the same moment, and the
first one with a better route would get, and break, what the others serve by their sorry pools.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from anycast.core.dataplane import ipvs
from anycast.core.dataplane.members import Member
from anycast.core.health.phase import Health, Phase
from anycast.core.state import State, drained_scopes, health_of, in_use, services_of
from anycast.core.values.configuration import Protocol
from anycast.core.vip.decide import ServiceFacts, SorryFacts

ENDED_IN = 150.0  # seconds, in which connections are ended twice


def remembered(state: State, key: ipvs.Key, facts: ServiceFacts) -> ServiceFacts:
    """The facts, with what follows from those of before: whether the sorry pool serves, and since when."""
    if facts.sorry is None:
        return facts
    known = state.services.get(key)
    before = known.sorry if known is not None and known.sorry is not None else SorryFacts(usable=0, total=0)
    served = before.serves or (before.since is None and not before.held and _was_found(state, key))
    held = facts.serving >= facts.quorum.high or (before.held and facts.possible >= facts.quorum.low)
    lost = not held and (served or facts.possible < (facts.quorum.low if before.held else facts.quorum.high))
    # One that was only just configured goes on where the pool serves, for nobody else does.
    serves = lost and (facts.sorry.usable > 0 or (before.serves and facts.sorry.unheard > 0))
    since = before.since if serves is before.serves else state.seen
    after = replace(facts.sorry, serves=serves, since=since, held=held, found=key in state.kernel.adopted)
    # Checks may be through before the kernel is read for the first time.
    asks = not (before.held and before.found)
    leaving = before.leaving or before.serves or (asks and _was_left(state, key, known))
    leaving = leaving and held and _may_have_clients(state, key, after)
    return replace(facts, sorry=replace(after, leaving=leaving))


def _may_have_clients(state: State, key: ipvs.Key, facts: SorryFacts) -> bool:
    """Whether connections to it may be left, which another node would break: as far as is known, and not for ever."""
    one = state.index.services[key]
    kernel, ended = state.kernel, _ended(state, facts)
    # What an agent before has left is in every reading of this run.
    if kernel.snapshot is None or (facts.since is not None and kernel.read_at <= ended):
        return one.service.protocol is not Protocol.UDP
    if not lingers(state, facts, one.service.protocol, kernel.read_at):
        return False
    places = [member.up.key for member in _members(state, key)]
    held = [kernel.snapshot.connections_of(each) for each in one.alike]
    return any(at in counts and counts[at].active for counts in held for at in places)


def left(state: State, facts: Mapping[ipvs.Key, ServiceFacts], gone: Iterable[ipvs.Key]) -> State:
    """With the services that connections to their sorry pools may be left of, by these facts."""
    leaving = {key: None for key, one in facts.items() if one.sorry is not None and one.sorry.leaving}
    others = [key for key in facts if key not in leaving]
    sorry = state.sorry.updated(leaving, [*others, *gone])
    return state if sorry is state.sorry else replace(state, sorry=sorry)


def due(before: State, state: State) -> Iterable[ipvs.Key]:
    """The services of those, where the kernel was read anew or connections may last for another time."""
    same = state.kernel.read_at == before.kernel.read_at and state.kernel.snapshot is before.kernel.snapshot
    return () if same and state.config.timing == before.config.timing else state.sorry


def facts_of(state: State, key: ipvs.Key) -> SorryFacts:
    """Of the sorry pool of a service, without what follows from before."""
    healths = [(member, _health(state, member)) for member in _members(state, key)]
    return SorryFacts(
        usable=sum(_is_usable(state, key, member, health) for member, health in healths if health),
        unheard=sum(health.unheard for _, health in healths if health),
        total=len(healths),
    )


def _health(state: State, member: Member) -> Health | None:
    """None: nobody wants it to have clients."""
    out = not member.in_use or member.scope in drained_scopes(state)
    return None if out else health_of(state, member.check)


def _is_usable(state: State, key: ipvs.Key, member: Member, health: Health) -> bool:
    """While it is not known, one goes on that an agent before has left serving."""
    if health.phase is Phase.UNDECIDED:
        return member.up.key in in_use(state.kernel.adopted, key)
    return health.is_up


def has_clients(state: State, key: ipvs.Key, member: Member) -> bool:
    """Whether a server of the sorry pool, which serves, gets its share."""
    health, facts = _health(state, member), services_of(state, key).sorry
    if health is None or facts is None:
        return False
    return _is_usable(state, key, member, health) or (not facts.usable and health.unheard)


def _was_found(state: State, key: ipvs.Key) -> bool:
    """Whether an agent before has left it serving."""
    if key not in state.kernel.adopted:
        return False
    used = in_use(state.kernel.adopted, key)
    return any(one.up.key in used for one in _members(state, key))


def _was_left(state: State, key: ipvs.Key, known: ServiceFacts | None) -> bool:
    """Whether an agent before may have left connections to it, and nobody has had clients since. Then they are looked for."""
    unused = known is not None and known.sorry is not None and known.sorry.since is None
    return unused and state.kernel.snapshot is not None and key in state.kernel.adopted


def _members(state: State, key: ipvs.Key) -> Iterator[Member]:
    return (one for one in state.index.services[key].membership.members if one.sorry)


def lingers(state: State, facts: SorryFacts, protocol: Protocol, now: float) -> bool:
    """Whether connections to the sorry pool may go on though it serves no more.

    As with a real server that was taken out: for `server_drain`; and where a connection has no end not at all, for a
    client that keeps sending would never leave.
    """
    drain = state.config.timing.server_drain
    return protocol is not Protocol.UDP and now < _ended(state, facts) + drain


def may_linger(state: State, facts: SorryFacts, now: float) -> bool:
    """Whether any may be left: they are looked for while it is time to end them, and not for ever."""
    until = _ended(state, facts) + state.config.timing.server_drain + ENDED_IN
    return not facts.serves and now < until


def _ended(state: State, facts: SorryFacts) -> float:
    """Since when it serves no more. What an agent before has left may be of a moment ago."""
    return state.started_at if facts.since is None else facts.since
