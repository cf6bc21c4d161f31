"""Which routes the lease has, when it is renewed, and how routes leave it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from anycast.core.dataplane.desired import address_difference
from anycast.core.dataplane.members import service_key
from anycast.core.events import Effect, SendLease
from anycast.core.state import LeaseState, State, prefix_of
from anycast.core.values.configuration import Address, Config, Vip
from anycast.core.values.lease import Lease, by_prefix, full_lease, next_lease
from anycast.core.values.route import Prefix, Route, drained
from anycast.core.vip.decide import Advertise, Reason
from anycast.core.vip.lifecycle import Life
from anycast.core.withdrawal import Withdrawal

# What a VIP that was not proven yet in this run may still leave by waiting.
_UNDETERMINED = frozenset({Reason.STARTING, Reason.KERNEL_UNAVAILABLE, Reason.UNPROVEN})


def withdrawal(state: State, prefixes: Iterable[Prefix], now: float) -> Withdrawal:
    """The way out of prefixes that the next lease does not have."""
    lease = state.lease
    left = frozenset(prefixes)
    standing = lease.routes is None or any(route.prefix in left for route in lease.routes)
    return Withdrawal(
        left=left,
        seq=lease.seq + 1 if standing else lease.changed_seq,
        runs_out=max(lease.runs_out, now),
        since=now,
    )


def desired_routes(state: State) -> tuple[Route, ...]:
    """What the verdicts say should be announced, in the order of the configuration.

    An address that a standing VIP has just been given waits until the kernel serves it, with as many usable
    servers as it takes a VIP to come up.
    """
    standing = {route.prefix for route in state.lease.routes or ()}
    routes = []
    for vip in state.config.vips:
        advertise = state.vips[vip.name].verdict.advertise
        if advertise is Advertise.NO:
            continue
        for address in vip.addresses:
            route = _route(state.config, vip, address)
            drain = advertise is Advertise.DRAIN
            if route.prefix not in standing and (drain or not _may_come_up(state, vip, address)):
                continue
            routes.append(drained(route) if drain else route)
    return tuple(routes)


def _may_come_up(state: State, vip: Vip, address: Address) -> bool:
    enough = all(
        state.services[service_key(address, service)].usable >= service.quorum.high
        for service in vip.services
    )
    return enough and state.kernel.error is None and address_difference(state, vip, address).proven


def _route(config: Config, vip: Vip, address: Address) -> Route:
    return Route(
        prefix=prefix_of(address),
        next_hop=config.bgp.next_hop_v4 if address.version == 4 else config.bgp.next_hop_v6,
        med=vip.med,
        communities=vip.communities,
        large_communities=vip.large_communities,
    )


def renewed(state: State, now: float, *, greet: bool) -> tuple[State, list[Effect]]:
    """The lease: the full set of routes, on every change and well within its time to live."""
    if not _is_open(state, now):
        return state, []
    lease = state.lease
    routes = desired_routes(state)
    changed = routes != lease.routes
    ttl = state.config.timing.lease_ttl
    # With a longer TTL the next renewal would come after the lease with the shorter one has run out.
    if not (changed or greet or ttl != lease.ttl or now >= due(state)):
        return state, []
    seq = lease.seq + 1
    lease = LeaseState(
        seq=seq,
        sent_at=now,
        ttl=ttl,
        runs_out=max(lease.runs_out, now + ttl),
        routes=routes,
        changed_seq=seq if changed else lease.changed_seq,
    )
    sent = _sent(state.lease, lease, frozenset(map(prefix_of, state.owned.addresses)))
    lease = replace(lease, owned=sent.owned, digest=sent.digest)
    return replace(state, lease=lease), [SendLease(lease=sent)]


def _sent(before: LeaseState, now: LeaseState, owned: frozenset[Prefix]) -> Lease:
    routes = now.routes or ()
    if before.routes is None:
        return full_lease(seq=now.seq, issued=now.sent_at, ttl=now.ttl, routes=routes, owned=owned)
    return next_lease(
        base=before.seq,
        digest=before.digest,
        before=by_prefix(before.routes),
        owned_before=before.owned,
        seq=now.seq,
        issued=now.sent_at,
        ttl=now.ttl,
        routes=by_prefix(routes),
        owned=owned,
    )


def _is_open(state: State, now: float) -> bool:
    """Whether leases are sent at all.

    An agent that has just started sends none while a VIP may still come up: the previous agent's lease may still be
    in force, and then a quick restart causes no BGP message. After a TTL that lease has run out.
    """
    return (
        state.lease.routes is not None
        or state.stopping_since is not None
        or now >= due(state)
        or not any(
            vip.life in {Life.NEW, Life.HOLDING} and vip.verdict.reason in _UNDETERMINED
            for vip in state.vips.values()
        )
    )


def due(state: State) -> float:
    """The instant by which the next lease must be sent."""
    lease = state.lease
    return lease.opens_at if lease.routes is None else lease.sent_at + lease.ttl / 3
