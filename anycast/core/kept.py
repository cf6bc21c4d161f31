"""Real servers that were replaced: they serve on, by their own checks, until enough of the new ones are proven.

Without them a service whose real servers are all replaced would have none that takes clients until the first good
check, or for ever if the new ones fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import NamedTuple, TypeVar

from anycast.core.dataplane import ipvs
from anycast.core.dataplane.members import Member, TargetName, aimer_of
from anycast.core.events import Log
from anycast.core.health.aim import targets_of
from anycast.core.health.phase import Health, Phase
from anycast.core.index import Index, IndexedService
from anycast.core.owned import Owned
from anycast.core.state import (
    Kept,
    Retiring,
    ServerKey,
    State,
    drained_scopes,
    health_of,
    in_use,
    kernel_table,
    retiring,
)
from anycast.core.values.configuration import Rule, Scheduler, Target
from anycast.core.values.persistent import changed

K = TypeVar("K")


class Counts(NamedTuple):
    """Of the kept real servers of one service that have weight: how many are up, and how many have no result yet."""

    up: int = 0
    unheard: int = 0
    untested: int = 0


def with_kept(state: State, changes: Mapping[ipvs.Key, Kept], gone: Iterable[ipvs.Key] = ()) -> State:
    """The state with these kept real servers, and without those of the services in `gone`."""
    gone = [key for key in gone if key in state.kept]
    if not changes and not gone:
        return state
    users: dict[Target, set[ipvs.Key]] = {}
    waiting: dict[ipvs.Key, set[ipvs.Key]] = {}

    def using(target: Target) -> set[ipvs.Key]:
        return users.setdefault(target, set(state.kept_users.get(target, ())))

    def awaited(facts: ipvs.Key) -> set[ipvs.Key]:
        return waiting.setdefault(facts, set(state.awaiting.get(facts, ())))

    for key in (*changes, *gone):
        if (old := state.kept.get(key)) is not None:
            for target in _targets(old):
                using(target).discard(key)
            for facts in old.waits_for:
                awaited(facts).discard(key)
    for key, new in changes.items():
        for target in _targets(new):
            using(target).add(key)
        for facts in new.waits_for:
            awaited(facts).add(key)
    return replace(
        state,
        kept=state.kept.updated(changes, gone),
        kept_users=state.kept_users.updated(*_split(users)),
        awaiting=state.awaiting.updated(*_split(waiting)),
    )


def _split(sets: Mapping[K, set[ipvs.Key]]) -> tuple[dict[K, frozenset[ipvs.Key]], list[K]]:
    return (
        {one: frozenset(keys) for one, keys in sets.items() if keys},
        [one for one, keys in sets.items() if not keys],
    )


def _targets(kept: Kept) -> Iterator[Target]:
    for member in kept.members:
        yield from targets_of(member.check)


def destinations(state: State, key: ipvs.Key) -> dict[ipvs.DestinationKey, ipvs.Destination]:
    """The kept real servers of the service as the kernel should have them."""
    return {member.up.key: member.up if usable else member.down for member, _, usable in standing(state, key)}


def standing(state: State, key: ipvs.Key) -> Iterator[tuple[Member, Health, bool]]:
    """The kept real servers of the service with their health, and whether they take clients.

    A check that they did not have is believed once it was good for one of them: until then a failure may say no more
    than that it was not written for them.
    """
    kept = state.kept.get(key)
    if kept is None:
        return
    each = [(member, health_of(state, member.check)) for member in kept.members]
    believed = kept.known or any(health.is_up or health.changes for _, health in each)
    drained = drained_scopes(state)
    found = state.kernel.adopted.get(key)
    idle = {one.key for one in found.destinations if not one.weight} if found is not None else ()
    taken = _proven_at(state, key, kept)
    for member, health in each:
        if member.scope in drained or member.up.key in taken:
            usable = False
        elif health.phase is Phase.UNDECIDED:
            usable = member.up.key not in idle
        else:
            usable = health.is_up or not believed
        yield member, health, usable


def _proven_at(state: State, key: ipvs.Key, kept: Kept) -> set[ipvs.DestinationKey]:
    """Where a real server that is configured is up already: two records of one address and port there cannot be."""
    servers = state.index.servers.get(key, {})
    both = {member.up.key for member in kept.members if member.up.key in servers}
    return {
        member.up.key
        for member in (state.index.services[key].membership.members if both else ())
        if member.up.key in both and health_of(state, member.check).is_up
    }


def places(state: State, key: ipvs.Key) -> set[ipvs.DestinationKey]:
    """The addresses and ports of the kept real servers of the service."""
    return {member.up.key for member in state.kept[key].members} if key in state.kept else set()


def counts(state: State, service: IndexedService) -> Counts:
    """Of the address of the service that has the fewest."""
    return min((_counts(state, key) for key in service.alike), key=sum)


def _counts(state: State, key: ipvs.Key) -> Counts:
    serving = [health for _, health, usable in standing(state, key) if usable]
    return Counts(
        up=sum(health.is_up for health in serving),
        unheard=sum(health.unheard for health in serving),
        untested=sum(health.phase is Phase.UNDECIDED and health.unknown for health in serving),
    )


def is_replaced(state: State, service: IndexedService) -> bool:
    """Whether enough of its real servers are proven, as the kernel was last read, and each has been checked once."""
    table = kernel_table(state)
    entries = [table.get(key) for key in service.alike]
    if state.kernel.error is not None or None in entries:
        return False
    weights = [{one.key: one for one in entry.destinations if one.weight} for entry in entries if entry]
    drained = drained_scopes(state)
    held = {at for key in service.alike for at in places(state, key)}  # what serves there may be the old one
    proven = 0
    for member in service.membership.serving:
        if not member.in_use or member.scope in drained:
            continue
        serves = all(_is_same(member.up, weighed.get(member.up.key)) for weighed in weights)
        health = health_of(state, member.check)
        goes_on = serves and member.up.key not in held
        if health.is_up:
            proven += serves
        elif health.phase is Phase.UNDECIDED:
            proven += goes_on
        if health.unheard and not goes_on:
            return False
    return proven >= service.service.quorum.low


def _is_same(wanted: ipvs.Destination, there: ipvs.Destination | None) -> bool:
    """Whether clients reach the real server in the same way."""
    return there is not None and (there.forwarding, there.tunnel) == (wanted.forwarding, wanted.tunnel)


def untouched(state: State, index: Index) -> set[ipvs.Key]:
    """The services whose kept real servers another configuration has no part in: nothing of theirs is another object."""
    services = state.index.services
    return {
        key
        for key, one in state.kept.items()
        if all(
            each in services and index.services.get(each) is services[each] for each in {key, *one.waits_for}
        )
    }


def adopted(before: State, state: State, untouched: AbstractSet[ipvs.Key]) -> State:
    """The state after a change of the configuration, with what is kept of what retires.

    `state`: with the new configuration in force and all that it drops on its way out, but for what is `untouched`.
    """
    unread = before.kernel.snapshot is None and not before.kernel.adopted
    found: dict[ipvs.Key, Kept] = {}
    replaced = _replaced(before, state, untouched)
    for key, places in replaced.items():
        waits_for = _waits_for(before, state, key, replaced if unread else {})
        if not waits_for or (
            not unread and all(is_replaced(state, state.index.services[one]) for one in waits_for)
        ):
            continue
        known = _known(before, key)
        unknown = _unknown(before, state, key, waits_for[0])
        new = _members_at(state, key, places)
        used = places if unread else in_use(before.desired.table, key)
        members = [known.get(at) or unknown(at) for at in dict.fromkeys(places) if at in used]
        # What stood in for real servers is replaced by nobody.
        members = [one for one in members if not one.sorry]
        old = before.kept.get(key)
        waiting = old.members if old is not None else ()
        members = [one for one in members if not _goes_on(one, new.get(one.up.key), waits=one in waiting)]
        if members:
            found[key] = Kept(
                members=tuple(sorted(members, key=lambda member: ipvs.canonical(member.up))),
                waits_for=waits_for,
                since=state.seen if old is None else old.since,
                known=(old is None or old.known) and all(one.up.key in known for one in members),
                unread=unread,
            )
    if not unread:
        # What is kept of an untouched service stays as it is, whoever waits for it too.
        found |= {key: one for key, one in _carried(state, found).items() if key not in untouched}
    state = with_kept(state, found, [key for key in before.kept if key not in found and key not in untouched])
    state = forgotten(
        state, (each for key, one in before.kept.items() if key not in untouched for each in _targets(one))
    )
    return _not_retiring(state, found)


def _not_retiring(state: State, kept: Mapping[ipvs.Key, Kept]) -> State:
    staying = {(key, member.up.key) for key, one in kept.items() for member in one.members}
    left = {server: each for server, each in state.retiring.items() if server not in staying}
    return state if len(left) == len(state.retiring) else retiring(state, left)


def _known(before: State, key: ipvs.Key) -> dict[ipvs.DestinationKey, Member]:
    """The real servers of the service until now, as the configuration before, or one before that, had them."""
    kept, one = before.kept.get(key), before.index.services.get(key)
    members = {member.up.key: member for member in one.membership.members} if one is not None else {}
    if kept is None:
        return members
    entry = before.desired.table.get(key)
    used = {each.key: each for each in entry.destinations} if entry is not None else {}
    for member in kept.members:
        if member.up.key not in members or _is_same(member.up, used.get(member.up.key)):
            members[member.up.key] = member
    return members


def _replaced(
    before: State, state: State, untouched: AbstractSet[ipvs.Key]
) -> dict[ipvs.Key, list[ipvs.DestinationKey]]:
    """By service, the real servers that the configuration has no more, or that are reached in another way now."""
    gone: dict[ipvs.Key, list[ipvs.DestinationKey]] = {}
    for key, at in state.retiring:
        # Of one that retires already it was said before that nobody needs it: it may have been of a sorry pool.
        if key not in untouched and (key, at) not in before.retiring:
            gone.setdefault(key, []).append(at)
    for key in _reached_otherwise(before, state):
        gone.setdefault(key, []).extend(state.index.servers[key])
    for key, one in before.kept.items():
        if key not in untouched:
            gone.setdefault(key, []).extend(member.up.key for member in one.members)
    return gone


def _members_at(
    state: State, key: ipvs.Key, places: Iterable[ipvs.DestinationKey]
) -> dict[ipvs.DestinationKey, Member]:
    """The real servers of the service that are configured at these addresses and ports."""
    one = state.index.services.get(key)
    wanted = set(places)
    members = one.membership.members if one is not None else ()
    return {member.up.key: member for member in members if member.up.key in wanted}


def _reached_otherwise(before: State, state: State) -> Iterator[ipvs.Key]:
    """The services with another forwarding."""
    for name in changed(before.index.vips, state.index.vips):
        for key, one in state.index.vips[name].services.items() if name in state.index.vips else ():
            old = before.index.services.get(key)
            way = one.service.forwarding, one.service.tunnel
            if old is not None and (old.service.forwarding, old.service.tunnel) != way:
                yield key


def _goes_on(old: Member, new: Member | None, *, waits: bool) -> bool:
    """Whether what is known of the one is known of the other: the same check, or the same way.

    `waits`: the old one is kept already, until another check is good.
    """
    return new is not None and (new.check == old.check or (not waits and _is_same(new.up, old.up)))


def _unknown(
    before: State, state: State, key: ipvs.Key, facts: ipvs.Key
) -> Callable[[ipvs.DestinationKey], Member]:
    """Makes real servers of an agent before: how they were checked is not known, so by the check of those that follow."""
    one, scopes = state.index.services[facts], before.owned.services.get(key, {})
    addresses = state.index.vips[one.vip].vip.addresses
    port, forwarding = one.service.port, one.service.forwarding
    aim = aimer_of(addresses, one.service, ipvs.version_of(facts))

    def made(at: ipvs.DestinationKey) -> Member:
        up = ipvs.Destination(address=at[0], port=at[1], weight=1, forwarding=forwarding)
        return Member(aim(at[0], at[1] or port), scopes.get(at, ""), True, up)

    return made


def _waits_for(
    before: State,
    state: State,
    key: ipvs.Key,
    unread: Mapping[ipvs.Key, list[ipvs.DestinationKey]],
) -> tuple[ipvs.Key, ...]:
    """By their keys for facts, the services whose real servers take the place of those of this one. None: nothing does.

    `unread`: what an agent before has left to each service beside what is configured, at a start.
    """
    index = state.index
    if (one := index.services.get(key)) is not None:
        return (one.facts,) if _can_be_enough(one) else ()
    ways = before.owned.marks.get(key, frozenset()) if isinstance(key, ipvs.MarkKey) else {key.address}
    kept = before.kept.get(key)
    waited = (
        {index.services[each].facts for each in kept.waits_for if each in index.services} if kept else set()
    )
    found: dict[ipvs.Key, None] = {}
    for name in dict.fromkeys(index.vip_at[address] for address in ways if address in index.vip_at):
        for facts in index.vips[name].facts:
            other = index.services[facts]
            # A client knows a port: a service at another one is none in its place. A mark is between us and the firewall.
            marked = isinstance(key, ipvs.MarkKey) or isinstance(facts, ipvs.MarkKey)
            if ipvs.version_of(facts) == ipvs.version_of(key) and (
                facts in waited or (marked and _comes_now(before, other, key, unread))
            ):
                found |= {facts: None} if _can_be_enough(other) else {}
    return tuple(found)


def _comes_now(
    before: State,
    service: IndexedService,
    key: ipvs.Key,
    unread: Mapping[ipvs.Key, list[ipvs.DestinationKey]],
) -> bool:
    """Whether the service was not there before, or had real servers of the other, which so waits for it already."""
    if all(each not in before.owned.services for each in service.alike):
        return True
    return any(
        not {_place(at, key, each) for at in unread.get(key, ())}.isdisjoint(unread.get(each, ()))
        for each in service.alike
    )


def _can_be_enough(service: IndexedService) -> bool:
    """Whether it has as many real servers with a weight as it needs: if not, nobody waits for them."""
    return sum(member.in_use for member in service.membership.members) >= service.service.quorum.low


def _carried(state: State, kept: Mapping[ipvs.Key, Kept]) -> dict[ipvs.Key, Kept]:
    """The kept real servers of services that are configured no more, in the services that take their place."""
    found: dict[ipvs.Key, Kept] = {}
    for key, one in kept.items():
        if key in state.index.services:
            continue
        for facts in one.waits_for:
            service = state.index.services[facts]
            for other in service.alike:
                if (
                    isinstance(key, ipvs.MarkKey)
                    or isinstance(other, ipvs.MarkKey)
                    or other.address == key.address
                ):
                    there = (
                        found.get(other) or kept.get(other) or replace(one, members=(), waits_for=(facts,))
                    )
                    found[other] = _joined(there, service, [_moved(each, key, other) for each in one.members])
    return {key: one for key, one in found.items() if one.members}


def _moved(member: Member, key: ipvs.Key, other: ipvs.Key) -> Member:
    """The real server as another service names it."""
    return replace(member, up=replace(member.up, port=_place(member.up.key, key, other)[1]))


def _place(at: ipvs.DestinationKey, key: ipvs.Key, other: ipvs.Key) -> ipvs.DestinationKey:
    """Address and port of a real server as another service names it: that of a mark has no port of its own."""
    address, port = at
    if isinstance(other, ipvs.MarkKey) and isinstance(key, ipvs.ServiceKey) and port == key.port:
        port = 0
    if isinstance(other, ipvs.ServiceKey) and not port:
        port = other.port
    return address, port


def _joined(kept: Kept, service: IndexedService, members: Iterable[Member]) -> Kept:
    """With these real servers too, as far as they have a place of their own in the scheduler's table."""
    new = {member.up.key: member for member in service.membership.members}
    held = {member.up.key for member in kept.members}
    more = {member.up.key: member for member in members if member.up.key not in held}
    # One that is configured there too, by another check, goes on by its own until that one is good.
    same = [one for at, one in more.items() if at in new and new[at].check != one.check]
    others = [one for at, one in more.items() if at not in new]
    taken = len(held | new.keys())
    room = max(0, ipvs.MAGLEV_SLOTS - taken) if service.service.scheduler is Scheduler.MH else len(others)
    fitting = [*same, *others[:room]]
    return replace(
        kept, members=tuple(sorted((*kept.members, *fitting), key=lambda member: ipvs.canonical(member.up)))
    )


def read(state: State, now: float) -> State:
    """After the first reading of an agent that starts: what is in use is kept as the kernel has it, the rest retires."""
    unread = {key: one for key, one in state.kept.items() if one.unread}
    if not unread:
        return state
    table = kernel_table(state)
    found: dict[ipvs.Key, Kept] = {}
    for key, one in unread.items():
        there = {each.key: each for each in table[key].destinations if each.weight} if key in table else {}
        members = tuple(
            replace(member, up=replace(there[member.up.key], foreign=""))
            for member in one.members
            if member.up.key in there and not _is_new(state.index, key, there[member.up.key])
        )
        if members:
            found[key] = replace(one, members=members, unread=False)
    found |= _carried(state, found)
    after = with_kept(state, found, [key for key in unread if key not in found])
    return _retired(after, unread, now)


def _is_new(index: Index, key: ipvs.Key, there: ipvs.Destination) -> bool:
    """Whether the kernel has the real server as it is configured already."""
    one = index.services.get(key)
    members = one.membership.members if one is not None else ()
    return any(member.up.key == there.key and _is_same(member.up, there) for member in members)


def released(state: State, keys: Iterable[ipvs.Key]) -> State:
    """Those that are replaced by now are on their way out. `keys`: of the services where that may be."""
    index = state.index
    gone = {
        key: state.kept[key]
        for key in keys
        if not state.kept[key].unread
        and all(is_replaced(state, index.services[one]) for one in state.kept[key].waits_for)
    }
    return _retired(with_kept(state, {}, gone), gone, state.seen)


def _retired(state: State, kept: Mapping[ipvs.Key, Kept], now: float) -> State:
    """Those of `kept` that are kept no more retire, as far as the kernel has them and the configuration has not."""
    if not kept:
        return state
    table, until = kernel_table(state), now + state.config.timing.server_drain
    left: dict[ServerKey, Retiring] = {}
    for key in sorted(kept, key=ipvs.order_of):
        one = kept[key]
        there = {each.key for each in table[key].destinations} if key in table else set()
        there -= state.index.servers.get(key, {}).keys()
        if key in state.kept:
            there -= {member.up.key for member in state.kept[key].members}
        left |= {
            (key, member.up.key): Retiring(until=until) for member in one.members if member.up.key in there
        }
    state = retiring(state, {**left, **state.retiring}) if left else state
    return forgotten(state, (target for one in kept.values() for target in _targets(one)))


def forgotten(state: State, targets: Iterable[Target]) -> State:
    """Without the health of those that are probed no more."""
    gone = [target for target in targets if target in state.health and not state.is_target(target)]
    return replace(state, health=state.health.updated({}, gone)) if gone else state


def with_unreplaced(state: State, facts: Iterable[ipvs.Key]) -> State:
    """With what is known of these services: whether all new real servers have been checked, and too few can be used."""
    failing: dict[ipvs.Key, None] = {}
    others: list[ipvs.Key] = []
    for key in facts:
        known = state.services.get(key)
        if (
            known is not None
            and key in state.awaiting
            and not known.unheard
            and known.usable + known.undecided - known.idle < known.quorum.low
        ):
            failing[key] = None
        else:
            others.append(key)
    unreplaced = state.unreplaced.updated(failing, others)
    return state if unreplaced is state.unreplaced else replace(state, unreplaced=unreplaced)


def owned(before: State, state: State, known: Owned) -> Owned:
    """What is owned, with the kept real servers: some may be in services that never had them."""
    more: dict[ipvs.Key, Mapping[ipvs.DestinationKey, str]] = {}
    for key in changed(before.kept, state.kept):
        if (one := state.kept.get(key)) is None:
            continue
        servers = known.services.get(key, {})
        missing = {member.up.key: member.scope for member in one.members if member.up.key not in servers}
        if missing:
            more[key] = {**servers, **missing}
    return replace(known, services=known.services.updated(more)) if more else known


def names(state: State, targets: Iterable[Target]) -> dict[Target, TargetName]:
    """What to call the targets of kept real servers in messages."""
    found: dict[Target, TargetName] = {}
    for target in targets:
        users: dict[str, None] = {}
        for key in sorted(state.kept_users.get(target, ()), key=ipvs.order_of):
            for facts in state.kept[key].waits_for:
                one = state.index.services[facts]
                users[f"{one.vip} {one.service.name}"] = None
            server = next(each for each in state.kept[key].members if target in targets_of(each.check))
            found[target] = TargetName(
                server=server.server, users=tuple(users), decides=not isinstance(server.check, Rule)
            )
    return found


def news(before: State, state: State) -> Iterator[Log]:
    """Of services whose real servers are being replaced, or have been."""
    for key in sorted(changed(before.kept, state.kept), key=ipvs.order_of):
        old, new = before.kept.get(key), state.kept.get(key)
        if new is not None and not new.unread and (old is None or old.unread):
            yield Log(event="servers.kept", fields={"service": str(key), "servers": len(new.members)})
        if old is not None and not old.unread and new is None:
            yield Log(event="servers.released", fields={"service": str(key), "servers": len(old.members)})
