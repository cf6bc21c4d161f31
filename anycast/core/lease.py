"""Which routes the lease has, when it is renewed, and how routes leave it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from anycast.core.dataplane.desired import address_difference
from anycast.core.dataplane.proof import Proof
from anycast.core.events import Effect, SendLease
from anycast.core.preference import Routers
from anycast.core.prefixes import is_host_route
from anycast.core.shared import NOBODY, Holding, Tally, holding, tally_of
from anycast.core.state import LeaseState, State, health_of, services_of
from anycast.core.values.configuration import Address, Vip
from anycast.core.values.lease import full_lease, next_lease
from anycast.core.values.persistent import PersistentMap
from anycast.core.values.route import Prefix, Route
from anycast.core.vip.decide import Advertise, Reason
from anycast.core.withdrawal import Phase, Withdrawal, followed

# What a VIP that was not proven yet in this run may still leave by waiting.
_UNDETERMINED = frozenset({Reason.STARTING, Reason.KERNEL_UNAVAILABLE, Reason.UNPROVEN})


def withdrawal(state: State, prefixes: Iterable[Prefix], now: float) -> Withdrawal:
    """The way out of prefixes that the next lease does not have."""
    lease = state.lease
    left = frozenset(prefixes)
    standing = lease.routes is None or any(prefix in lease.routes for prefix in left)
    return Withdrawal(
        left=left,
        seq=lease.seq + 1 if standing else lease.changed_seq,
        runs_out=max(lease.runs_out, now),
        since=now,
    )


def held_to(state: State, name: str) -> Holding:
    """What becomes at worst of the prefixes that the VIP shares, by what all that share them say. YES: of none anything worse."""
    known, routes, shared = state.index.vips[name], state.lease.routes, state.index.shared
    if routes is None or not known.vip.announce:
        return Holding.YES
    said = (
        holding(shared[one].needs, state.lease.tallies.get(one, NOBODY), stands=True)
        if one in routes
        else Holding.NO
        for one in known.prefixes.values()
        if one in shared
    )
    return min(said, default=Holding.YES)


def stayed(before: State, state: State, now: float) -> State:
    """With no withdrawal of prefixes that other VIPs hold: the lease that was to be without them has them yet."""
    if state.lease.seq == before.lease.seq or not state.index.shared:
        return state
    leaving = {
        at: replace(one, withdrawal=_without_staying(state, one.withdrawal, now))
        for at, one in state.leaving.items()
    }
    if leaving != state.leaving:
        settle = state.config.timing.settle
        wakes = (one.withdrawal.wakes_at(settle) for one in leaving.values())
        leave_at = min(state.leave_at, *(at for at in wakes if at is not None))
        state = replace(state, leaving=leaving, leave_at=leave_at)
    progress = {
        scope: one
        if one.withdrawal is None
        else replace(one, withdrawal=_without_staying(state, one.withdrawal, now))
        for scope, one in state.progress.items()
    }
    return state if progress == state.progress else replace(state, progress=progress)


def _without_staying(state: State, withdrawal: Withdrawal, now: float) -> Withdrawal:
    routes = state.lease.routes
    if withdrawal.phase is not Phase.ASKED or routes is None or state.lease.seq < withdrawal.seq:
        return withdrawal
    staying = frozenset(one for one in withdrawal.left if not is_host_route(one) and one in routes)
    if not staying:
        return withdrawal
    left = replace(withdrawal, left=withdrawal.left - staying)
    return followed(left, state.known_plugins, settle=state.config.timing.settle, now=now)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What should be announced. `held`, `tallies`: what the members of shared prefixes say of them."""

    routes: PersistentMap[Prefix, Route]
    held: PersistentMap[Address, Holding] = PersistentMap()
    tallies: PersistentMap[Prefix, Tally] = PersistentMap()


def desired_routes(before: State, state: State, names: Iterable[str]) -> Wanted:
    """What the verdicts say should be announced. `names`: the VIPs for which that can have changed.

    An address that a standing VIP has just been given waits until the kernel serves it, with as many usable
    servers as it takes a VIP to come up, or, where it is the last resort, any server that checks alone are against.
    """
    standing, held = state.lease.routes, state.lease.held
    index = state.index
    if (
        standing is None
        or state.config.bgp != before.config.bgp
        or state.config.speaker != before.config.speaker
        or (state.kernel.error is None) != (before.kernel.error is None)
    ):
        names = index.vips
    if standing is None:
        standing, held = PersistentMap(), PersistentMap()
    says: dict[Address, Holding] = {}  # members of shared prefixes
    found: dict[Prefix, tuple[Vip, Holding]] = {}
    for name in names:
        if name not in index.vips:
            continue
        vip, prefixes = index.vips[name].vip, index.vips[name].prefixes
        for address, prefix in prefixes.items():
            if is_host_route(prefix):
                found[prefix] = vip, _holding(state, vip, address, stands=prefix in standing)
            else:
                says[address] = _said(state, vip, address, held.get(address, Holding.NO))
    wanted = _shared(before, state, held, says)
    for prefix in _looked_at(before, state, says):
        shared = index.shared[prefix]
        # All members have the same attributes.
        vip = index.vips[shared.members[0].vip].vip
        tally = wanted.tallies.get(prefix, NOBODY)
        found[prefix] = vip, holding(shared.needs, tally, stands=prefix in standing)
    return replace(wanted, routes=_routes(before, state, standing, found))


def _holding(state: State, vip: Vip, address: Address, *, stands: bool) -> Holding:
    """What a VIP says of the route of one of its addresses. `stands`: it has said that it should be announced."""
    verdict = state.vips[vip.name].verdict
    if verdict.advertise is Advertise.NO:
        return Holding.NO
    drain, unwell = verdict.advertise is Advertise.DRAIN, verdict.is_last_resort
    if not stands and ((drain and not unwell) or not _may_come_up(state, vip, address)):
        return Holding.NO
    if not drain:
        return Holding.YES
    return Holding.LAST_RESORT if unwell else Holding.DRAIN


def _said(state: State, vip: Vip, address: Address, before: Holding) -> Holding:
    """What a member says of the prefix that it shares. `before`: what it has said."""
    found = _holding(state, vip, address, stands=before.is_for)
    return (
        Holding.WAITS if found is Holding.NO and not before.is_for and _waits(state, vip, address) else found
    )


def _waits(state: State, vip: Vip, address: Address) -> bool:
    """Whether the VIP, or its address, is new, and nothing is known that is against it."""
    verdict = state.vips[vip.name].verdict
    if state.kernel.error is not None or state.proofs.get(vip.name) is Proof.FAILED:
        return False
    if verdict.advertise is Advertise.NO:
        return verdict.reason is Reason.STARTING
    return not address_difference(state, vip, address).proven


def _routes(
    before: State,
    state: State,
    standing: PersistentMap[Prefix, Route],
    found: Mapping[Prefix, tuple[Vip, Holding]],
) -> PersistentMap[Prefix, Route]:
    routes: dict[Prefix, Route] = {}
    gone: list[Prefix] = []
    routers: Routers | None = None
    for prefix, (vip, held) in found.items():
        route = None
        if held is not Holding.NO:
            routers = routers or Routers(state.config.bgp)
            # A metric of the table tells that it is a last resort, and of which kind it is not.
            told = held is Holding.LAST_RESORT and not state.config.speaker.is_table
            route = routers.route(vip, prefix, drain=held is not Holding.YES, unwell=told)
        if route is None:
            gone.append(prefix)
            continue
        known = standing.get(prefix)
        routes[prefix] = known if known == route and known is not None else route
    if state.index is not before.index:
        gone += [prefix for prefix in standing if not state.index.announcing(prefix)]
    return standing.updated(routes, gone)


def _looked_at(before: State, state: State, says: Iterable[Address]) -> Iterable[Prefix]:
    """The shared prefixes of which something may be other than before."""
    index = state.index
    if index.shared is not before.index.shared:
        return index.shared
    return dict.fromkeys(index.wide[address] for address in says)


def _shared(
    before: State, state: State, held: PersistentMap[Address, Holding], says: Mapping[Address, Holding]
) -> Wanted:
    """What the members say by now, and the sums of it. `routes` are to come."""
    index, tallies = state.index, state.lease.tallies
    moved = {at: one for at, one in says.items() if held.get(at, Holding.NO) is not one}
    whole = index.shared is not before.index.shared or state.lease.routes is None
    gone = [at for at, one in moved.items() if one is Holding.NO]
    if whole:
        gone += [at for at in held if at not in index.wide]
    after = held.updated({at: one for at, one in moved.items() if one is not Holding.NO}, gone)
    if whole:
        tallies = PersistentMap({prefix: tally_of(one, after) for prefix, one in index.shared.items()})
    else:
        changed: dict[Prefix, Tally] = {}
        for at, one in moved.items():
            prefix = index.wide[at]
            tally = changed.get(prefix) or tallies[prefix]
            changed[prefix] = tally.moved(held.get(at, Holding.NO), one)
        tallies = tallies.updated(changed)
    return Wanted(PersistentMap(), after, tallies)


def _may_come_up(state: State, vip: Vip, address: Address) -> bool:
    known = state.index.vips[vip.name]
    facts = (services_of(state, key) for key in known.keys[address])
    if state.vips[vip.name].verdict.is_last_resort:
        enough = all(each.serving + each.spare or each.by_sorry for each in facts)
    else:
        enough = all(each.serving >= each.needs(whole=False) for each in facts)
    enough = enough and all(
        health_of(state, one.check).is_up for one in known.requirements if one.address == address
    )
    return enough and state.kernel.error is None and address_difference(state, vip, address).proven


def renewed(
    before: State, state: State, names: Iterable[str], now: float, *, greet: bool
) -> tuple[State, list[Effect]]:
    """The lease: the full set of routes, on every change and well within its time to live.

    `names`: the VIPs whose routes can have changed.
    """
    if not _is_open(state, now):
        return state, []
    lease = state.lease
    wanted = desired_routes(before, state, names)
    routes = wanted.routes
    changed = routes is not lease.routes
    ttl = state.config.timing.lease_ttl
    # With a longer TTL the next renewal would come after the lease with the shorter one has run out.
    if not (changed or greet or ttl != lease.ttl or now >= due(state)):
        # What the members of a shared prefix say is remembered, whether or not its route is another one by that.
        if wanted.held is lease.held and wanted.tallies is lease.tallies:
            return state, []
        return replace(state, lease=replace(lease, held=wanted.held, tallies=wanted.tallies)), []
    seq, mark = lease.seq + 1, state.config.bgp.mark
    addresses, wide = state.owned.addresses, state.owned.wide
    known = (addresses is lease.owned_from or addresses == lease.owned_from) and wide == lease.owned_wide
    owned = lease.owned if known else frozenset(map(state.owned.prefix_of, addresses))
    if lease.routes is None:
        sent = full_lease(seq=seq, issued=now, ttl=ttl, routes=routes.values(), owned=owned, mark=mark)
        sent = replace(sent, routes=routes)
    else:
        sent = next_lease(
            base=lease.seq,
            digest=lease.digest,
            before=lease.routes,
            owned_before=lease.owned,
            seq=seq,
            issued=now,
            ttl=ttl,
            routes=routes,
            owned=owned,
            mark=mark,
        )
    lease = LeaseState(
        seq=seq,
        sent_at=now,
        ttl=ttl,
        runs_out=max(lease.runs_out, now + ttl),
        routes=routes,
        owned=owned,
        owned_from=addresses,
        owned_wide=wide,
        held=wanted.held,
        tallies=wanted.tallies,
        digest=sent.digest,
        changed_seq=seq if changed else lease.changed_seq,
    )
    return replace(state, lease=lease), [SendLease(lease=sent)]


def _is_open(state: State, now: float) -> bool:
    """Whether leases are sent at all.

    An agent that has just started sends none while a VIP may still come up: the previous agent's lease may still be
    in force, and then a quick restart causes no BGP message. After a TTL that lease has run out.
    """
    return (
        state.lease.routes is not None
        or state.stopping_since is not None
        or now >= due(state)
        or not any(state.vips[name].verdict.reason in _UNDETERMINED for name in state.unstarted)
    )


def due(state: State) -> float:
    """The instant by which the next lease must be sent."""
    lease = state.lease
    return lease.opens_at if lease.routes is None else lease.sent_at + lease.ttl / 3
