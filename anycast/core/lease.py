"""Which routes the lease has, when it is renewed, and how routes leave it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from anycast.core.dataplane.desired import address_difference
from anycast.core.events import Effect, SendLease
from anycast.core.preference import Routers
from anycast.core.state import LeaseState, State, health_of, prefix_of, services_of
from anycast.core.values.configuration import Address, Vip
from anycast.core.values.lease import full_lease, next_lease
from anycast.core.values.persistent import PersistentMap
from anycast.core.values.route import Prefix, Route
from anycast.core.vip.decide import Advertise, Reason
from anycast.core.withdrawal import Withdrawal

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


def desired_routes(before: State, state: State, names: Iterable[str]) -> PersistentMap[Prefix, Route]:
    """What the verdicts say should be announced. `names`: the VIPs for which that can have changed.

    An address that a standing VIP has just been given waits until the kernel serves it, with as many usable
    servers as it takes a VIP to come up, or, where it is the last resort, any server that checks alone are against.
    """
    standing = state.lease.routes
    index = state.index
    if (
        standing is None
        or state.config.bgp != before.config.bgp
        or state.config.speaker != before.config.speaker
        or (state.kernel.error is None) != (before.kernel.error is None)
    ):
        names = index.vips
    if standing is None:
        standing = PersistentMap()
    routes: dict[Prefix, Route] = {}
    gone: list[Prefix] = []
    routers: Routers | None = None
    for name in names:
        if name not in index.vips:
            continue
        vip, prefixes = index.vips[name].vip, index.vips[name].prefixes
        verdict = state.vips[name].verdict
        advertise, unwell = verdict.advertise, verdict.is_last_resort
        for address, prefix in prefixes.items():
            known = standing.get(prefix)
            drain = advertise is Advertise.DRAIN
            if advertise is Advertise.NO or (
                known is None and ((drain and not unwell) or not _may_come_up(state, vip, address))
            ):
                gone.append(prefix)
                continue
            routers = routers or Routers(state.config.bgp)
            # A metric of the table tells that it is a last resort, and of which kind it is not.
            told = unwell and not state.config.speaker.is_table
            route = routers.route(vip, prefix, drain=drain, unwell=told)
            if route is None:
                gone.append(prefix)
                continue
            routes[prefix] = known if known == route and known is not None else route
    if index is not before.index:
        gone += [prefix for prefix in standing if prefix.network_address not in index.addresses]
    return standing.updated(routes, gone)


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
    routes = desired_routes(before, state, names)
    changed = routes is not lease.routes
    ttl = state.config.timing.lease_ttl
    # With a longer TTL the next renewal would come after the lease with the shorter one has run out.
    if not (changed or greet or ttl != lease.ttl or now >= due(state)):
        return state, []
    seq, mark = lease.seq + 1, state.config.bgp.mark
    addresses = state.owned.addresses
    known = addresses is lease.owned_from or addresses == lease.owned_from
    owned = lease.owned if known else frozenset(map(prefix_of, addresses))
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
