"""What the kernel should hold, how it differs from that for each VIP, and which connections are to be ended.

Every part is concluded anew only where what it rests on is another object than in the state before: what has changed
is read from the two states themselves, so no sub-step can forget to say it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from anycast.core import kept, resort, sorry, touched
from anycast.core.dataplane import ipvs
from anycast.core.dataplane import kernel as kernels
from anycast.core.dataplane.kernel import Desired, Snapshot
from anycast.core.dataplane.proof import NEXT, Proof, Reading
from anycast.core.health.phase import Phase
from anycast.core.state import (
    CHANGING,
    CONTESTED,
    DISCARDS,
    IN_A_ROW,
    IN_VAIN,
    LEFT_ALONE,
    NOT_READ,
    ORDINARY,
    REST,
    SYNC,
    UNDECIDED,
    URGENT,
    Difference,
    Order,
    Piece,
    ServerKey,
    State,
    drained_scopes,
    health_of,
    is_sorry,
    kernel_table,
    pieces_of,
    services_of,
)
from anycast.core.values.configuration import Address, Protocol, Service, Target, Vip
from anycast.core.values.persistent import PersistentMap, changed
from anycast.core.values.route import Prefix
from anycast.core.vip.decide import ServiceFacts
from anycast.core.vip.facts import service_facts

GONE = "gone"  # what is ours, and not wanted
THEIRS = "theirs"  # what is none of ours: it stays as it is
NEW = 2  # rank of what is not there yet
EXPIRE_AGAIN = 60.0  # seconds until the connections of one real server are ended once more


def want(before: State, state: State) -> tuple[State, set[str]]:
    """What the kernel should hold and how it differs from that; and the VIPs that this can have changed for."""
    keys = touched.services(before, state)
    state = _with_services(state, keys)
    after = kept.released(state, touched.awaiting(before, state, keys))
    if after is not state:
        more = touched.services(state, after)
        state, keys = _with_services(after, more), keys | more
    state = kept.with_unreplaced(state, keys)
    state = _with_desired(before, state, keys)
    pieces = touched.pieces(before, state)
    state = _with_apart(before, state, pieces)
    names = {state.index.services[key].vip for key in keys if key in state.index.services}
    names |= touched.vips_by_kernel(before, state, pieces)
    return _with_differences(state, names), names


def _with_services(state: State, keys: Iterable[ipvs.Key]) -> State:
    index = state.index
    facts: dict[ipvs.Key, ServiceFacts] = {}
    gone: list[ipvs.Key] = []
    for key in keys:
        one = index.services.get(key)
        if one is None or one.facts != key:
            gone.append(key)
            continue
        new = sorry.remembered(state, key, service_facts(state, key, one))
        facts[key] = new if (old := state.services.get(key)) != new or old is None else old
    services = state.services.updated(facts, gone)
    state = sorry.left(state, facts, gone)
    return state if services is state.services else replace(state, services=services)


def _with_desired(before: State, state: State, keys: Iterable[ipvs.Key]) -> State:
    """The configuration with weights by health, and what is still leaving, as the kernel has it."""
    known, actual = state.desired, kernel_table(state)
    look = set(_alike(before, state, keys)) | touched.kept(before, state)
    if state.kept:  # of services that are not configured
        look |= {key for key in changed(kernel_table(before), actual) if key in state.kept}
    if state.retiring or state.leaving or before.retiring or before.leaving:
        staying = {key for one in (before, state) for key in _staying(one)}
        look |= {key for key in changed(kernel_table(before), actual) if key in staying}
        look |= {key for key, _ in changed(before.retiring, state.retiring)}
        for address in changed(before.leaving, state.leaving):
            for one in (before, state):
                look |= one.leaving[address].keys if address in one.leaving else frozenset()
    table = known.table if isinstance(known.table, PersistentMap) else PersistentMap(known.table)
    usual = {key: _usual(state, key) for key in look if key in state.index.services}
    state = resort.moved(before, state, usual)
    if look:
        retiring: dict[ipvs.Key, set[ipvs.DestinationKey]] = {}
        for key, at in state.retiring:
            if key in look:
                retiring.setdefault(key, set()).add(at)
        leaving = {key for one in state.leaving.values() for key in one.keys}
        wanted = {key: _wanted(state, key, usual.get(key), retiring.get(key), leaving) for key in look}
        entries = {
            key: entry if (old := table.get(key)) != entry or old is None else old
            for key, entry in wanted.items()
            if entry is not None
        }
        table = table.updated(entries, [key for key, entry in wanted.items() if entry is None])
    addresses = _addresses(state)
    desired = Desired(
        table=table,
        addresses=known.addresses
        if addresses is not known.addresses and addresses == known.addresses
        else addresses,
        sysctls=state.index.sysctls if state.config.manage_sysctls else {},
        owned=state.owned.addresses,
        owned_marks=known.owned_marks
        if state.owned is before.owned and known.owned is state.owned.addresses
        else frozenset(state.owned.marks),
        exclusive=state.config.ipvs_exclusive,
        timeouts=state.config.timeouts,
        sync=state.config.connection_sync,
        sync_owned=state.owned.sync,
        discards=_wanted_discards(state, known.discards),
    )
    same = table is known.table and replace(desired, table=known.table) == known
    return state if same else replace(state, desired=desired)


def _alike(before: State, state: State, keys: Iterable[ipvs.Key]) -> Iterator[ipvs.Key]:
    """Of services by their keys for facts: all with the same facts, those that are no longer configured, too."""
    for key in keys:
        for index in (before.index, state.index):
            if key in index.services:
                yield from index.services[key].alike


def _staying(state: State) -> set[ipvs.Key]:
    """The services that stay in the kernel for a while though they, or some of their real servers, are not configured."""
    return {key for key, _ in state.retiring} | {key for one in state.leaving.values() for key in one.keys}


def _addresses(state: State) -> frozenset[Address]:
    snapshot = state.kernel.snapshot
    if not state.leaving or snapshot is None:
        return state.index.addresses
    return state.index.addresses | (frozenset(state.leaving) & snapshot.addresses)


def _wanted_discards(state: State, known: frozenset[Prefix]) -> frozenset[Prefix]:
    """Of wide prefixes that are configured, and of those that routers may have yet."""
    leaving = {state.owned.wide[at] for at in state.leaving if at in state.owned.wide}
    wanted = state.index.shared.keys() | leaving
    return known if wanted == known else frozenset(wanted)


def _wanted(
    state: State,
    key: ipvs.Key,
    usual: list[ipvs.Destination] | None,
    retiring: set[ipvs.DestinationKey] | None,
    leaving: set[ipvs.Key],
) -> ipvs.ServiceEntry | None:
    actual = kernel_table(state).get(key)
    wanted = None if usual is None else _entry(state, key, usual)
    if wanted is None and actual is not None and key in state.kept:
        wanted = ipvs.entry(actual.settings, kept.destinations(state, key).values())
    if retiring is not None and actual is not None:
        wanted = _with_retiring(wanted, actual, retiring)
    return actual if wanted is None and key in leaving else wanted


def _with_retiring(
    wanted: ipvs.ServiceEntry | None, actual: ipvs.ServiceEntry, servers: set[ipvs.DestinationKey]
) -> ipvs.ServiceEntry:
    """The service with what retires from it, as the kernel has it, at weight 0."""
    wanted = ipvs.entry(actual.settings, ()) if wanted is None else wanted
    staying = {each.key for each in wanted.destinations}
    leaving = [
        replace(each, weight=0)
        for each in actual.destinations
        if each.key in servers and each.key not in staying
    ]
    destinations = tuple(sorted((*wanted.destinations, *leaving), key=ipvs.canonical))
    return replace(wanted, destinations=destinations)


def _entry(state: State, key: ipvs.Key, usual: list[ipvs.Destination]) -> ipvs.ServiceEntry:
    destinations = resort.with_spare(state, key, usual) if resort.stays_on(state, key) else usual
    return replace(state.index.services[key].membership.empty, destinations=tuple(destinations))


def _usual(state: State, key: ipvs.Key) -> list[ipvs.Destination]:
    """The real servers of the service, with weights by their health."""
    membership = state.index.services[key].membership
    drained = drained_scopes(state)
    adopted: Mapping[ipvs.DestinationKey, ipvs.Destination] | None = None
    destinations: list[ipvs.Destination] = []
    staying = kept.destinations(state, key) if key in state.kept else {}
    known = state.health.get
    to_sorry = is_sorry(state, key)
    for member in membership.members:
        check = member.check
        health = known(check, UNDECIDED) if type(check) is Target else health_of(state, check)
        phase = health.phase
        usable = phase is Phase.UP or phase.is_up
        up = member.up
        if phase is Phase.UNDECIDED:
            adopted = _weighed(state.kernel.adopted, key) if adopted is None else adopted
            there = adopted.get(up.key) if adopted else None
            usable = sorry.has_clients(state, key, member) if member.sorry else there is not None
            # There is one way to a real server at a time: the one that was proven stays until this one is.
            up = up if there is None else _by_the_way_of(up, there)
        if staying and (old := staying.pop(up.key, None)) is not None and not phase.is_up:
            destinations.append(replace(old, weight=0) if to_sorry else old)
            continue
        usable = usable and not (drained and member.scope in drained) and member.sorry is to_sorry
        destinations.append(up if usable else member.down)
    if staying:
        if to_sorry:
            staying = {at: replace(each, weight=0) for at, each in staying.items()}
        destinations = sorted((*destinations, *staying.values()), key=ipvs.canonical)
    return destinations


def _weighed(table: ipvs.Table, key: ipvs.Key) -> dict[ipvs.DestinationKey, ipvs.Destination]:
    """The real servers of the service that have weight there."""
    entry = table.get(key)
    return {} if entry is None else {each.key: each for each in entry.destinations if each.weight > 0}


def _by_the_way_of(up: ipvs.Destination, there: ipvs.Destination) -> ipvs.Destination:
    if (up.forwarding, up.tunnel) == (there.forwarding, there.tunnel):
        return up
    return replace(up, forwarding=there.forwarding, tunnel=there.tunnel)


def aim(state: State, piece: Piece) -> object:
    """What the piece should be: two of them are equal where nothing has to be written anew."""
    desired = state.desired
    if piece == SYNC:
        return (desired.sync, desired.sync_owned)
    if piece == DISCARDS:
        return desired.discards
    if isinstance(piece, str):
        return (desired.sysctls, desired.timeouts)
    if isinstance(piece, ipvs.ServiceKey | ipvs.MarkKey):
        return desired.table.get(piece) or (GONE if desired.may_remove(piece) else THEIRS)
    if piece in desired.addresses:
        return True
    return GONE if piece in desired.owned else THEIRS


def _is_there(snapshot: Snapshot, piece: Piece) -> bool:
    if piece == DISCARDS:
        return bool(snapshot.discards)
    if isinstance(piece, str):
        return True
    if isinstance(piece, ipvs.ServiceKey | ipvs.MarkKey):
        return piece in snapshot.table
    return piece in snapshot.addresses


def _is_held(state: State, snapshot: Snapshot, piece: Piece) -> bool:
    if piece == SYNC:
        return kernels.sync_is_held(snapshot, state.desired)
    if piece == DISCARDS:
        return kernels.discards_are_held(snapshot, state.desired)
    if isinstance(piece, str):
        return kernels.rest_is_held(snapshot, state.desired)
    if isinstance(piece, ipvs.ServiceKey | ipvs.MarkKey):
        return kernels.is_held(snapshot, state.desired, piece)
    return kernels.address_is_held(snapshot, state.desired, piece)


def _with_apart(before: State, state: State, pieces: set[Piece]) -> State:
    """Which pieces the kernel does not hold as wanted, and which it does now."""
    kernel, snapshot = state.kernel, state.kernel.snapshot
    if snapshot is None:
        return replace(state, apart=PersistentMap()) if state.apart else state
    held = {piece for piece in pieces if _is_held(state, snapshot, piece)}
    there = [piece for piece in held if _is_there(snapshot, piece)]
    reached = {piece: aim(state, piece) for piece in there}
    apart = _in_order(before, state, held, pieces)
    fresh = kernel.reported is not before.kernel.reported
    attempted = kernel.attempted
    if fresh and attempted:
        attempted = {piece: wanted for piece, wanted in attempted.items() if piece in apart}
    stuck, vain = kernel.stuck, _in_vain(state, attempted, apart) if fresh else kernel.vain
    if fresh or (stuck and state.desired is not before.desired):
        tried = attempted if fresh else stuck
        stuck = frozenset(
            each
            for each in tried
            if each in apart
            and attempted.get(each) == aim(state, each)
            and (each not in vain or vain[each] > IN_A_ROW)
        )
    # What is being written is no longer as the snapshot has it; after a failure nobody knows what is.
    writing = pieces_of(kernel.under_way).keys() if held else ()
    if kernel.error is None:
        reached = {piece: wanted for piece, wanted in reached.items() if piece not in writing}
        left = [piece for piece in held.difference(there) if piece not in writing]
        kernel = replace(kernel, reached=kernel.reached.updated(reached, left))
    kernel = replace(
        kernel,
        attempted=attempted,
        stuck=stuck,
        vain=vain,
        settled=kernel.settled or (fresh and not apart),
    )
    kernel = state.kernel if kernel == state.kernel else kernel
    if kernel is state.kernel and apart is state.apart:
        return state
    return replace(state, kernel=kernel, apart=apart)


def _in_vain(
    state: State, attempted: Mapping[Piece, object], apart: Mapping[Piece, Order]
) -> Mapping[Piece, int]:
    """Addresses that the kernel has taken, and that somebody took away before they were read back.

    They could be put back: so they are, a few times in a row, before that counts as a failure and costs the route.
    """
    kernel = state.kernel
    if kernel.refused or not attempted:
        return kernel.vain if not kernel.vain else {}
    return {
        piece: kernel.vain.get(piece, 0) + 1
        for piece, wanted in attempted.items()
        if piece in apart
        and not isinstance(piece, str | ipvs.ServiceKey | ipvs.MarkKey)
        and wanted == aim(state, piece)
    }


def _in_order(
    before: State, state: State, held: set[Piece], pieces: set[Piece]
) -> PersistentMap[Piece, Order]:
    """The pieces that are apart, each with its place in the order in which they are written.

    What there is, and what a standing route needs, goes before all that is new, however much of that waits. What was
    written in vain goes last: it keeps nothing else waiting when it is tried again.
    """
    known = state.apart
    order: dict[Piece, Order] = {}
    for piece in pieces:
        if piece not in held and piece not in known:
            order[piece] = (URGENT if _is_urgent(state, piece) else ORDINARY, 0, _rank(state, piece))
    fresh = state.kernel.reported is not before.kernel.reported
    for piece in pieces_of(before.kernel.under_way) if fresh else ():
        if piece in known and piece not in held:
            order[piece] = (IN_VAIN, state.kernel.programs, _rank(state, piece))
    return known.updated(order, held)


def _is_urgent(state: State, piece: Piece) -> bool:
    """What there is, and what a VIP needs whose route stands."""
    if _rank(state, piece)[0] < NEW:
        return True
    index = state.index
    if isinstance(piece, ipvs.ServiceKey | ipvs.MarkKey):
        name = index.services[piece].vip if piece in index.services else ""
    else:
        name = "" if isinstance(piece, str) else index.vip_at.get(piece, "")
    return name in state.vips and state.vips[name].life.is_advertised


def _rank(state: State, piece: Piece) -> tuple[int, int, tuple[int, ...]]:
    """The order in which pieces are written: what there is before what is new, VIPs as they are configured.

    The daemons of connection sync come last: behind a tunnel, a connection that they are told of before its real server
    is there is dropped for good.
    """
    index = state.index
    match piece:
        case str():
            return (4 if piece == SYNC else 0), 0, ()
        case ipvs.ServiceKey() | ipvs.MarkKey():
            one = index.services.get(piece)
            name = "" if one is None else one.vip
            present = piece in kernel_table(state) and one is not None
            return 1 if present else NEW, index.place.get(name, -1), ipvs.order_of(piece)
        case _:
            return 3, index.place.get(index.vip_at.get(piece, ""), -1), (piece.version, int(piece))


def _with_differences(state: State, names: Iterable[str]) -> State:
    index, kernel = state.index, state.kernel
    differences: dict[str, Difference] = {}
    proofs: dict[str, Proof] = {}
    for name in names:
        vip = index.vips[name].vip
        each = difference(state, vip)
        if each.proven and kernel.contests and state.proofs.get(name) is Proof.FAILED:
            each = _unsettled(state, vip)
        if each == (old := state.differences.get(name)):
            each = old
        differences[name] = each
        tried = each.piece is not None and each.piece in kernel.stuck
        reading = _reading(each, tried=tried, read=kernel.snapshot is not None)
        proofs[name] = NEXT[state.proofs.get(name, Proof.UNREAD), reading]
    gone = (
        [name for name in state.differences if name not in index.vips]
        if len(state.differences) > len(index.vips)
        else ()
    )
    after = state.differences.updated(differences, gone), state.proofs.updated(proofs, gone)
    if after[0] is state.differences and after[1] is state.proofs:
        return state
    return replace(state, differences=after[0], proofs=after[1])


def _unsettled(state: State, vip: Vip) -> Difference:
    """An address that another program takes away again and again: a route that came and went with it would be worse.

    So the VIP's proof, once failed, needs the address to have stayed for a while.
    """
    kernel = state.kernel
    for address in vip.addresses:
        contest = kernel.contests.get(address)
        if contest is None or contest.times < CONTESTED or kernel.read_at >= contest.last + LEFT_ALONE:
            continue
        text = (
            f"{address} on {state.config.node.interface} (changed by another program {contest.times} times: it must stay "
            f"for {LEFT_ALONE:g} s)"
        )
        return Difference(text=text, missing_address=text, piece=address)
    return Difference()


def _reading(difference: Difference, *, tried: bool, read: bool) -> Reading:
    if not read:
        return Reading.NONE
    if difference.proven:
        return Reading.SAME
    if not difference.ours:
        return Reading.NOT_OURS
    return Reading.DIFFERS_AFTER if tried else Reading.DIFFERS


def difference(state: State, vip: Vip) -> Difference:
    """How the kernel, as last read, differs from what `vip` needs: the first thing found."""
    differences = (address_difference(state, vip, address) for address in vip.addresses)
    return next((difference for difference in differences if not difference.proven), Difference())


def address_difference(state: State, vip: Vip, address: Address) -> Difference:
    snapshot, coming = state.kernel.snapshot, state.kernel.coming
    if snapshot is None:
        return NOT_READ
    found = _difference(state, snapshot, vip, address)
    # What a program under way aimed at may be wanted no more: then a reading from before it proves nothing.
    if coming is not None and found.proven and not _difference(state, coming, vip, address).proven:
        return CHANGING
    return found


def _difference(state: State, snapshot: Snapshot, vip: Vip, address: Address) -> Difference:
    for key in state.index.vips[vip.name].keys[address]:
        actual = snapshot.table.get(key)
        if actual is None:
            return Difference(text=f"{key} is not in IPVS", piece=key)
        if apart := ipvs.apart(actual, state.desired.table[key]):
            return Difference(text=f"{key}: {apart}", piece=key)
    for name, value in state.index.sysctls.items() if vip.services else ():
        if name not in snapshot.sysctls:
            return Difference(text=f"{name} has not been read yet", piece=REST)
        found = snapshot.sysctls[name]
        if found != value:
            ours = state.config.manage_sysctls
            text = f"{name} is {found or 'not there'}, {value} is needed"
            if not ours and name in kernels.NAT_SYSCTLS[6]:
                text += (
                    " (first accept_ra=2 on every interface with a default route from router advertisements, or it is gone: "
                    "`anycast doctor` names them)"
                )
            return Difference(text=text, ours=ours, piece=REST)
    if address not in snapshot.addresses:
        where = f"{address} on {state.config.node.interface}"
        return Difference(text=f"{where} is missing", missing_address=where, piece=address)
    if (prefix := state.index.wide.get(address)) is not None:
        return _without_discard(snapshot, prefix)
    return Difference()


def _without_discard(snapshot: Snapshot, prefix: Prefix) -> Difference:
    if snapshot.discards is None:
        return Difference(text=f"the route that ends {prefix} has not been read yet", piece=DISCARDS)
    if prefix not in snapshot.discards:
        text = f"the unreachable route of {prefix} is missing: what comes for the rest of it would go round in a loop"
        return Difference(text=text, piece=DISCARDS)
    return Difference()


def expiries(state: State, snapshot: Snapshot, now: float) -> tuple[ipvs.RemoveDestination, ...]:
    """The failed or drained real servers whose connections are to be ended.

    A server counts once it has failed for `expire_failed`, or once it is drained if its protocol has no connections
    that end by themselves; one of a sorry pool that serves no more after `server_drain` at the latest. With weight 0 alone the kernel keeps the connections for as long as the client keeps
    sending.
    """
    found: dict[ServerKey, None] = {}
    for vip in state.index.vips.values():
        for first in vip.facts:
            facts = state.services[first]
            left = facts.sorry is not None and sorry.may_linger(state, facts.sorry, now)
            if facts.usable == facts.total and first not in state.awaiting and not left:
                continue
            one = vip.services[first]
            for key in one.alike if not one.service.one_packet else ():
                if key in state.apart:
                    continue  # it is not as wanted, and that comes first
                counts = snapshot.connections_of(key)
                if not counts:
                    continue
                held = {
                    each.key
                    for each in snapshot.table[key].destinations
                    if not each.weight and each.key in counts
                }
                found.update(dict.fromkeys(_lost(state, key, one.service, held, now)) if held else {})
    return tuple(ipvs.RemoveDestination(service=key, key=at) for key, at in found)


def _is_left(state: State, key: ipvs.Key, service: Service, now: float) -> bool:
    """Whether the sorry pool of the service serves no more, and has had time to end its connections."""
    facts = services_of(state, key).sorry
    return facts is not None and not facts.serves and not sorry.lingers(state, facts, service.protocol, now)


def _lost(
    state: State, key: ipvs.Key, service: Service, held: set[ipvs.DestinationKey], now: float
) -> Iterator[ServerKey]:
    drained = drained_scopes(state)
    for member in state.index.services[key].membership.members:
        at = member.up.key
        rested = now >= state.expired.get((key, at), -math.inf) + EXPIRE_AGAIN
        if at not in held or not rested:
            continue
        taken_out = not member.in_use or member.scope in drained
        if member.sorry and _is_left(state, key, service, now):
            yield key, at
            continue
        health = health_of(state, member.check)
        failed = health.phase in {Phase.DOWN, Phase.RISING}
        if (taken_out and service.protocol is Protocol.UDP) or (
            failed and service.expire_failed is not None and now >= health.since + service.expire_failed
        ):
            yield key, at
    for member, health, usable in kept.standing(state, key):
        at = member.up.key
        if usable or at not in held or now < state.expired.get((key, at), -math.inf) + EXPIRE_AGAIN:
            continue
        if service.expire_failed is not None and now >= health.since + service.expire_failed:
            yield key, at
