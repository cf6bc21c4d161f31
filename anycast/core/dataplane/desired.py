"""What the kernel should hold, how it differs from that for each VIP, and which connections are to be ended."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from anycast.core.dataplane import ipvs
from anycast.core.dataplane.kernel import (
    IPVS_SYSCTLS,
    NAT_SYSCTLS,
    PERSISTENCE_SYSCTLS,
    SCTP_SYSCTLS,
    SYNC_SYSCTLS,
    Desired,
    ExpireDestinations,
    Snapshot,
)
from anycast.core.dataplane.members import service_key, versions
from anycast.core.dataplane.proof import NEXT, Proof, Reading
from anycast.core.health.phase import Phase
from anycast.core.state import (
    CHANGING,
    NOT_READ,
    Difference,
    ServerKey,
    State,
    drained_scopes,
    health_of,
    kernel_table,
)
from anycast.core.values.configuration import Address, Config, Forwarding, Protocol, Service, Vip
from anycast.core.vip.facts import all_service_facts

EXPIRE_AGAIN = 60.0  # seconds until the connections of one real server are ended once more


def wanted_sysctls(config: Config) -> dict[str, str]:
    wanted = dict(IPVS_SYSCTLS)
    services = [service for vip in config.vips for service in vip.services]
    if any(service.protocol is Protocol.SCTP for service in services):
        wanted |= SCTP_SYSCTLS
    if any(service.persistence is not None for service in services):
        wanted |= PERSISTENCE_SYSCTLS
    if config.connection_sync is not None:
        wanted |= SYNC_SYSCTLS
    for vip in config.vips:
        if any(service.forwarding is Forwarding.NAT for service in vip.services):
            for version in versions(vip):
                wanted |= NAT_SYSCTLS[version]
    return wanted


def desired_kernel(state: State) -> Desired:
    """The configuration with weights by health, and what is still leaving, as the kernel has it."""
    table = {
        service_key(address, service): _entry(state, service_key(address, service))
        for vip in state.config.vips
        for address in vip.addresses
        for service in vip.services
    }
    actual = kernel_table(state)
    retiring: dict[ipvs.Key, set[ipvs.DestinationKey]] = {}
    for key, at in state.retiring:
        retiring.setdefault(key, set()).add(at)
    for key, servers in retiring.items():
        if key in actual:
            table[key] = _with_retiring(table.get(key), actual[key], servers)
    for leaving in state.leaving.values():
        for key in leaving.keys & actual.keys():
            table.setdefault(key, actual[key])
    config, snapshot = state.config, state.kernel.snapshot
    staying = frozenset(state.leaving) & snapshot.addresses if snapshot is not None else frozenset()
    return Desired(
        table=table,
        addresses=state.configured.addresses | staying,
        sysctls=wanted_sysctls(config) if config.manage_sysctls else {},
        owned=state.owned.addresses,
        owned_marks=frozenset(state.owned.marks),
        exclusive=config.ipvs_exclusive,
        timeouts=config.timeouts,
        sync=config.connection_sync,
        sync_owned=state.owned.sync,
    )


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


def _entry(state: State, key: ipvs.Key) -> ipvs.ServiceEntry:
    membership = state.members[key]
    drained = drained_scopes(state)
    adopted = state.kernel.adopted
    destinations: list[ipvs.Destination] = []
    for member in membership.members:
        health = health_of(state, member.check)
        usable = health.is_up or (health.phase is Phase.UNDECIDED and (key, member.up.key) in adopted)
        destinations.append(member.up if usable and member.scope not in drained else member.down)
    return replace(membership.empty, destinations=tuple(destinations))


def want(before: State, state: State) -> State:
    """What the kernel should hold, and whether it is proven to, when either can have changed."""
    fresh = state.kernel.reported is not before.kernel.reported
    same = _same_inputs(before, state)
    if not same:
        state = replace(state, services=all_service_facts(state))
    elif not fresh and state.kernel.snapshot is before.kernel.snapshot:
        return state
    if not same or state.retiring or state.leaving:
        desired = desired_kernel(state)
        if desired != state.desired:
            state = replace(state, desired=desired)
    # Read after a program that aimed at exactly this: what differs now could not be repaired.
    tried = fresh and state.kernel.attempted == state.desired
    differences = {vip.name: difference(state, vip) for vip in state.config.vips}
    proofs = {
        name: NEXT[
            state.proofs.get(name, Proof.UNREAD),
            _reading(each, tried=tried, read=state.kernel.snapshot is not None),
        ]
        for name, each in differences.items()
    }
    return replace(state, differences=differences, proofs=proofs)


def _reading(difference: Difference, *, tried: bool, read: bool) -> Reading:
    if not read:
        return Reading.NONE
    if difference.proven:
        return Reading.SAME
    if not difference.ours:
        return Reading.NOT_OURS
    return Reading.DIFFERS_AFTER if tried else Reading.DIFFERS


def _same_inputs(before: State, state: State) -> bool:
    return (
        state.config is before.config
        and state.health is before.health
        and state.maintenance is before.maintenance
        and state.leaving is before.leaving
        and state.retiring is before.retiring
        and state.owned is before.owned
        and state.kernel.adopted is before.kernel.adopted
        and (state.plugins is before.plugins or not state.rests_on_sessions)
        and len(state.differences) == len(state.config.vips)
    )


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
    for service in vip.services:
        key = service_key(address, service)
        actual = snapshot.table.get(key)
        if actual is None:
            return Difference(text=f"{key} is not in IPVS")
        if apart := ipvs.apart(actual, state.desired.table[key]):
            return Difference(text=f"{key}: {apart}")
    for name, value in wanted_sysctls(state.config).items():
        if name not in snapshot.sysctls:
            return Difference(text=f"{name} has not been read yet")
        found = snapshot.sysctls[name]
        if found != value:
            ours = state.config.manage_sysctls
            return Difference(text=f"{name} is {found or 'not there'}, {value} is needed", ours=ours)
    if address not in snapshot.addresses:
        where = f"{address} on {state.config.node.interface}"
        return Difference(text=f"{where} is missing", missing_address=where)
    return Difference()


def expiries(state: State, snapshot: Snapshot, now: float) -> ExpireDestinations | None:
    """The operation that ends connections to failed or drained real servers; None: there are none to end.

    A server counts once it has failed for `expire_failed`, or once it is drained if its protocol has no connections
    that end by themselves. With weight 0 alone the kernel keeps the connections for as long as the client keeps
    sending.
    """
    found: dict[ServerKey, None] = {}
    for vip in state.config.vips:
        for address in vip.addresses:
            for service in vip.services:
                key = service_key(address, service)
                counts = {} if service.one_packet else snapshot.connections_of(key)
                if not counts:
                    continue
                held = {
                    each.key
                    for each in snapshot.table[key].destinations
                    if not each.weight and each.key in counts
                }
                found.update(dict.fromkeys(_lost(state, key, service, held, now)) if held else {})
    removals = tuple(ipvs.RemoveDestination(service=key, key=at) for key, at in found)
    if not removals:
        return None
    return ExpireDestinations(removals=removals, write_sysctl=state.config.manage_sysctls)


def _lost(
    state: State, key: ipvs.Key, service: Service, held: set[ipvs.DestinationKey], now: float
) -> Iterator[ServerKey]:
    drained = drained_scopes(state)
    for member in state.members[key].members:
        at = member.up.key
        rested = now >= state.expired.get((key, at), -math.inf) + EXPIRE_AGAIN
        if at not in held or not rested:
            continue
        taken_out = not member.in_use or member.scope in drained
        health = health_of(state, member.check)
        failed = health.phase in {Phase.DOWN, Phase.RISING}
        if (taken_out and service.protocol is Protocol.UDP) or (
            failed and service.expire_failed is not None and now >= health.since + service.expire_failed
        ):
            yield key, at
