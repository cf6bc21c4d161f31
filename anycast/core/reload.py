"""From what is owned to what is configured: what leaves, what retires, and what merely has a new name.

A start and a reload take the same path. A start reads what the previous agent left on disk; a reload takes what the
agent itself knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from anycast.core.dataplane import ipvs
from anycast.core.dataplane.members import (
    Memberships,
    composed_uses,
    memberships,
    siblings,
    target_names,
)
from anycast.core.lease import withdrawal
from anycast.core.maintenance.stages import NODE_SCOPES, is_server
from anycast.core.owned import Owned, joined, owned_by
from anycast.core.state import Leaving, Retiring, ServerKey, State, VipState, kernel_table, prefix_of
from anycast.core.values.configuration import Address, Config, Scheduler
from anycast.core.vip.requirements import requirements


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """What a configuration no longer has. `servers` are those that retire, with their services where these go too."""

    addresses: frozenset[Address]
    servers: frozenset[ServerKey]
    keys: Mapping[Address, frozenset[ipvs.Key]]  # services that leave with their address


def departures(owned: Owned, config: Owned) -> Departure:
    """What leaves when `config` takes the place of `owned`.

    An address leaves once its route is withdrawn, and its services with it. Where the address stays, the real servers
    of a dropped service retire, as a dropped real server does: its connections end by themselves or by a limit.
    """
    gone = owned.addresses - config.addresses
    keys: dict[Address, set[ipvs.Key]] = {address: set() for address in gone}
    servers: set[ServerKey] = set()
    for key, members in owned.services.items():
        ways = owned.marks.get(key, frozenset()) if isinstance(key, ipvs.MarkKey) else {key.address}
        if key not in config.services and ways and gone.issuperset(ways):
            for address in ways:
                keys[address].add(key)
            continue
        servers.update((key, at) for at in members if at not in config.services.get(key, {}))
    return Departure(
        addresses=gone,
        servers=frozenset(servers),
        keys={address: frozenset(each) for address, each in keys.items()},
    )


def successors(owned: Owned, config: Owned) -> dict[str, str]:
    """Each new name of a VIP, and the name under which its address was known before.

    A name that stays is itself. Where a name is new, the VIP is the one that had its address, first of all one whose
    name is gone.
    """
    found: dict[str, str] = {}
    for name, addresses in config.vips.items():
        if name in owned.vips:
            continue
        before = [old for old, had in owned.vips.items() if not set(addresses).isdisjoint(had)]
        before.sort(key=lambda old: old in config.vips)
        if before:
            found[name] = before[0]
    return found


def server_names(owned: Owned) -> frozenset[str]:
    return frozenset(scope for members in owned.services.values() for scope in members.values())


def server_successors(owned: Owned, config: Owned) -> dict[str, frozenset[str]]:
    """Each `POOL/SERVER` that is gone, with the new names under which its addresses are known now."""
    before: dict[ipvs.DestinationKey, set[str]] = {}
    for members in owned.services.values():
        for at, scope in members.items():
            before.setdefault(at, set()).add(scope)
    known = {scope for scopes in before.values() for scope in scopes}
    names = server_names(config)
    found: dict[str, set[str]] = {}
    for members in config.services.values():
        for at, scope in members.items():
            for old in before.get(at, set()) - names if scope not in known else ():
                found.setdefault(old, set()).add(scope)
    return {old: frozenset(scopes) for old, scopes in found.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """Scopes of maintenance under their new names, and those that nothing is configured for any more."""

    scopes: Mapping[str, frozenset[str]]  # old scope to the new ones it goes on under
    orphans: frozenset[str]


def carried(scopes: frozenset[str], owned: Owned, config: Owned) -> Carried:
    """Where the maintenance of each scope goes when `config` takes the place of `owned`."""
    vips: dict[str, set[str]] = {}
    for name, before in successors(owned, config).items():
        vips.setdefault(before, set()).add(name)
    servers = server_successors(owned, config)
    names = server_names(config)
    moves: dict[str, frozenset[str]] = {}
    orphans: set[str] = set()
    for scope in scopes - frozenset(NODE_SCOPES):
        new = servers.get(scope, frozenset()) if is_server(scope) else frozenset(vips.get(scope, ()))
        if new:
            moves[scope] = new
        elif scope not in names and scope not in config.vips:
            orphans.add(scope)
    return Carried(scopes=moves, orphans=frozenset(orphans))


def renamed(state: State, config: Config, configured: Owned) -> tuple[State, Carried]:
    """The state with what is known of each VIP and its maintenance under the names of `config`."""
    moves = carried(frozenset(state.maintenance), state.owned, configured)
    maintenance, progress = dict(state.maintenance), dict(state.progress)
    names = server_names(configured)
    for old, new in moves.scopes.items():
        for scope in new:
            maintenance.setdefault(scope, state.maintenance[old])
            if old in state.progress:
                progress.setdefault(scope, state.progress[old])
        if old not in configured.vips and old not in names:
            del maintenance[old]
            progress.pop(old, None)
    before = successors(state.owned, configured)
    vips = {}
    for vip in config.vips:
        known = state.vips.get(vip.name) or state.vips.get(before.get(vip.name, ""))
        vips[vip.name] = known or VipState(since=state.seen)
    if moves.scopes:
        state = replace(state, maintenance=maintenance, progress=progress)
    return replace(
        state,
        vips=vips,
        differences={
            name: state.differences[old]
            for name, old in ((name, before.get(name, name)) for name in vips)
            if old in state.differences
        },
        proofs={
            name: state.proofs[old]
            for name, old in ((name, before.get(name, name)) for name in vips)
            if old in state.proofs
        },
    ), moves


def adopted(state: State, config: Config, now: float) -> tuple[State, Carried]:
    """The state with `config` in force: what it drops leaves or retires, what it renames continues."""
    members = memberships(config)
    configured = owned_by(config, members)
    departure = departures(state.owned, configured)
    leaving = {at: each for at, each in state.leaving.items() if at not in configured.addresses}
    for address in departure.addresses - leaving.keys():
        leaving[address] = Leaving(
            withdrawal=withdrawal(state, [prefix_of(address)], now),
            keys=departure.keys.get(address, frozenset()),
        )
    retiring = _retiring(state, members, departure, now + config.timing.server_drain)
    both = joined(state.owned, configured)
    owned = configured if both == configured else both
    state, moves = renamed(state, config, configured)
    names = target_names(config)
    return replace(
        state,
        config=config,
        members=members,
        requirements=requirements(config),
        composed=composed_uses(config),
        names=names,
        siblings=siblings(config),
        health={target: health for target, health in state.health.items() if target in names},
        leaving=leaving,
        retiring=retiring,
        configured=configured,
        owned=owned,
    ), moves


def _retiring(
    state: State, members: Memberships, departure: Departure, until: float
) -> dict[ServerKey, Retiring]:
    """What is not in the kernel has no connections to finish, where that is known."""
    if not departure.servers:
        return {}
    table = kernel_table(state)
    read = state.kernel.is_read
    mh = {
        key: len(membership.members)
        for key, membership in members.items()
        if membership.empty.scheduler == Scheduler.MH
    }
    present = {(key, each.key) for key, entry in table.items() for each in entry.destinations}
    retiring: dict[ServerKey, Retiring] = {}
    for server in sorted(departure.servers, key=str):
        if read and server not in present:
            continue
        key, _ = server
        if key in mh:
            mh[key] += 1
            if mh[key] > ipvs.MAGLEV_SLOTS:
                continue  # the kernel would leave some of them out of its table
        retiring[server] = state.retiring.get(server) or Retiring(until=until)
    return retiring
