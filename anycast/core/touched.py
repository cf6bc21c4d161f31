"""What can be other than in the state before: where conclusions are drawn anew, and nowhere else.

It is read from the two states themselves, which share whatever has not changed. So nothing that changes a state has to
say what it has changed. Each function may name too much, and never too little: `tests/property/test_step.py` compares
with a core that draws every conclusion anew at every event.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from anycast.core import limited, resort, sorry
from anycast.core.dataplane import ipvs
from anycast.core.dataplane.kernel import Desired, Snapshot
from anycast.core.maintenance.stages import NODE_SCOPES, Stage
from anycast.core.state import DISCARDS, REST, SYNC, Piece, State, drained_scopes, pieces_of
from anycast.core.values.persistent import changed
from anycast.core.values.route import Prefix
from anycast.core.vip.facts import shared_facts


def services(before: State, state: State) -> set[ipvs.Key]:
    """The services, by their keys for facts, with anything that their facts or their weights rest on changed."""
    index = state.index
    keys: set[ipvs.Key] = set()
    if index is not before.index:
        for vip in changed(before.index.vips, index.vips):
            for each in (before.index, index):
                keys.update(each.vips[vip].facts if vip in each.vips else ())
    for target in changed(before.health, state.health):
        keys.update(index.users.get(target, ()))
    if state.maintenance is not before.maintenance:
        for scope in drained_scopes(before) ^ drained_scopes(state):
            keys.update(index.drained_by(scope))
    if index.on_sessions and state.sessions != before.sessions:
        keys |= index.on_sessions
    keys.update(index.services[key].facts for key in kept(before, state) if key in index.services)
    for key in changed(before.kernel.adopted, state.kernel.adopted):
        one = index.services.get(key)
        facts = None if one is None else state.services.get(one.facts)
        if one is not None and (facts is None or facts.undecided or facts.sorry is not None):
            keys.add(one.facts)
    if limited.is_set(state.config) != limited.is_set(before.config):
        keys.update(key for vip in index.vips.values() for key in vip.facts)
    keys.update(resort.due(before, state))
    keys.update(key for key in sorry.due(before, state) if key in index.services)
    return keys


def kept(before: State, state: State) -> set[ipvs.Key]:
    """The services whose kept real servers can be others, or weigh otherwise."""
    if not before.kept and not state.kept:
        return set()
    if drained_scopes(before) != drained_scopes(state) or before.sessions != state.sessions:
        return {*before.kept, *state.kept}
    keys = set(changed(before.kept, state.kept))
    keys.update(key for key in changed(before.kernel.adopted, state.kernel.adopted) if key in state.kept)
    for target in changed(before.health, state.health):
        keys |= state.kept_users.get(target, frozenset())
    return keys


def awaiting(before: State, state: State, facts: Iterable[ipvs.Key]) -> set[ipvs.Key]:
    """The services whose kept real servers may have been replaced. `facts`: those, by their keys for them, that changed."""
    if not state.kept:
        return set()
    if before.kernel.error != state.kernel.error:
        return set(state.kept)
    services, looks = state.index.services, set(facts)
    if (new := state.kernel.snapshot) is not None:
        old = before.kernel.snapshot
        keys = new.table if old is None else changed(old.table, new.table)
        looks |= {services[key].facts for key in keys if key in services}
    waiting = (state.awaiting.get(key, frozenset()) for key in looks)
    found = {key for key in changed(before.kept, state.kept) if key in state.kept}
    return found.union(*waiting)


def pieces(before: State, state: State) -> set[Piece]:
    """The parts of what the kernel should hold that are another object, on either side, than before."""
    old, new = before.kernel.snapshot, state.kernel.snapshot
    if new is None:
        return set()
    was, now = before.desired, state.desired
    if old is None:
        return {*now.table, *new.table, *now.addresses, *new.addresses, *_discards(now, new), REST, SYNC}
    if before.kernel.error is not None and state.kernel.error is None:
        tables = (was.table, now.table, old.table, new.table)
        addresses = (was.addresses, now.addresses, old.addresses, new.addresses)
        return {*chain(*tables, *addresses), *_discards(now, new), REST, SYNC}
    found: set[Piece] = {REST, SYNC} if new is not old or now is not was else set()
    if old.discards != new.discards or was.discards != now.discards:
        found.add(DISCARDS)
    found.update(key for key in changed(was.table, now.table))
    found.update(key for key in changed(old.table, new.table))
    for one, two in (
        (was.addresses, now.addresses),
        (old.addresses, new.addresses),
        (old.plain, new.plain),
        (was.owned, now.owned),
    ):
        if one is not two:
            found |= one ^ two
    if (was.owned, was.owned_marks, was.exclusive) != (now.owned, now.owned_marks, now.exclusive):
        found.update(key for key in new.table if key not in now.table)
    if state.kernel.reported is not before.kernel.reported:
        found.update(state.kernel.attempted)
        found.update(pieces_of(before.kernel.under_way))
    return found


def _discards(wanted: Desired, there: Snapshot) -> tuple[Piece, ...]:
    return (DISCARDS,) if wanted.discards or there.discards else ()


def _apart(state: State, one: Snapshot, two: Snapshot) -> Iterable[Prefix]:
    """The shared prefixes whose routes are in one of them; all, where one was not asked for them."""
    if one.discards is None or two.discards is None:
        return state.index.shared
    return one.discards ^ two.discards


def vips_by_kernel(before: State, state: State, pieces: Iterable[Piece]) -> set[str]:
    """The VIPs for which the kernel may differ otherwise than before."""
    index = state.index
    old, new = before.kernel.snapshot, state.kernel.snapshot
    if (
        (old is None) != (new is None)
        or index.sysctls != before.index.sysctls
        or state.config.manage_sysctls != before.config.manage_sysctls
        or state.config.node != before.config.node
        or (old is not None and new is not None and old.sysctls != new.sysctls)
    ):
        return set(index.vips)
    names = {name for name in changed(before.index.vips, index.vips) if name in index.vips}
    names |= (
        {name for name in index.vips if name not in state.differences} if index is not before.index else set()
    )
    looks: list[Piece] = list(pieces)
    was, now = before.kernel.coming or old, state.kernel.coming or new
    if was is not now and was is not None and now is not None:
        if was.sysctls != now.sysctls:
            return set(index.vips)
        looks.extend(key for key in changed(was.table, now.table))
        looks += was.addresses ^ now.addresses
    for one, two in ((old, new), (was, now)):
        if one is not None and two is not None and one.discards != two.discards:
            names.update(chain.from_iterable(map(index.announcing, _apart(state, one, two))))
    if state.kernel.read_at != before.kernel.read_at:
        looks += state.kernel.contests  # one that was fought over may have been left alone for long enough
    for piece in looks:
        if isinstance(piece, ipvs.ServiceKey | ipvs.MarkKey):
            if (one := index.services.get(piece)) is not None:
                names.add(one.vip)
        elif not isinstance(piece, str) and (name := index.vip_at.get(piece)) is not None:
            names.add(name)
    return names


def vips(before: State, state: State, now: float) -> set[str]:
    """The VIPs whose verdict rests on something that is another than in `before`, besides the kernel and its services."""
    index = state.index
    if shared_facts(before, before.seen) != shared_facts(state, now):
        return set(index.vips)
    names: set[str] = set()
    if index is not before.index or state.vips is not before.vips:
        names.update(name for name in changed(before.vips, state.vips) if name in index.vips)
        names.update(name for name in changed(before.index.vips, index.vips) if name in index.vips)
    for target in changed(before.health, state.health) if index.required else ():
        names |= index.required.get(target, frozenset())
    if index.vips_on_sessions and state.sessions != before.sessions:
        names |= index.vips_on_sessions
    if state.unstarted and state.kernel.read_at != before.kernel.read_at:
        names.update(state.unstarted)  # they may have been proven for long enough
    names |= in_maintenance(before, state)
    names.update(changed(before.limited, state.limited))
    if state.config.fleet is not before.config.fleet:
        names.update(state.limited)
    return names & index.vips.keys()


def in_maintenance(before: State, state: State) -> set[str]:
    """The VIPs that a maintenance of another stage covers."""
    if state.progress is before.progress:
        return set()
    scopes = set(changed(before.progress, state.progress))
    if scopes.isdisjoint(NODE_SCOPES):
        return scopes & state.index.vips.keys()
    return set(state.index.vips)


def retiring(before: State, state: State, now: float) -> bool:
    """Whether a real server on its way out may go."""
    kernel, known = state.kernel, before.kernel
    return (
        kernel.snapshot is not known.snapshot
        or kernel.coming is not known.coming
        or kernel.error != known.error
        or state.retiring_is_new
        or now >= state.retire_at
    )


def leaving(before: State, state: State, now: float) -> bool:
    """Whether an address on its way out may go."""
    return (
        state.leaving is not before.leaving
        or state.config is not before.config
        or _plugins(before, state, now)
        or now >= state.leave_at
    )


def stage(before: State, state: State, scope: str, now: float) -> bool:
    """Whether the stage of a maintenance may be over."""
    progress = state.progress[scope]
    if before.progress.get(scope) is not progress or state.config is not before.config:
        return True
    ends = progress.ends_at(state.config.timing)
    if ends is not None and now >= ends:
        return True
    match progress.stage:
        case Stage.DRAINING:
            return state.vips is not before.vips
        case Stage.WITHDRAWN:
            assert progress.withdrawal is not None  # noqa: S101 - entered with it
            wakes = progress.withdrawal.wakes_at(state.config.timing.settle)
            return _plugins(before, state, now) or (wakes is not None and now >= wakes)
        case Stage.QUIET:
            return state.kernel.counts is not before.kernel.counts
        case Stage.ACTIVE | Stage.DOWN:
            return False


def _plugins(before: State, state: State, now: float) -> bool:
    """Whether more may be known of what plugins have announced."""
    return (
        state.plugins is not before.plugins
        or state.standing is not before.standing
        or state.lost_until != before.lost_until
        or before.seen < state.lost_until <= now
    )
