"""From what is owned to what is configured: what leaves, what retires, and what merely has a new name.

A start and a reload take the same path. A start reads what the previous agent left on disk; a reload takes what the
agent itself knows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

from anycast.core import kept
from anycast.core.dataplane import ipvs
from anycast.core.dataplane.proof import Proof
from anycast.core.index import Index, indexed
from anycast.core.lease import withdrawal
from anycast.core.maintenance.stages import NODE_SCOPES, is_server
from anycast.core.owned import Owned, joined, owned_by
from anycast.core.shared import shared_by
from anycast.core.state import (
    Difference,
    Leaving,
    Retiring,
    ServerKey,
    State,
    VipState,
    kernel_table,
    lived,
    retiring,
)
from anycast.core.values.configuration import Address, Config, Scheduler, Vip
from anycast.core.values.persistent import changed


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """What a configuration no longer has. `servers` are those that retire, with their services where these go too."""

    addresses: frozenset[Address]
    servers: frozenset[ServerKey]
    keys: Mapping[Address, frozenset[ipvs.Key]]  # services that leave with their address


def departures(owned: Owned, config: Owned, untouched: AbstractSet[ipvs.Key] = frozenset()) -> Departure:
    """What leaves when `config` takes the place of `owned`.

    An address leaves once its route is withdrawn, and its services with it. Where the address stays, the real servers
    of a dropped service retire, as a dropped real server does: its connections end by themselves or by a limit.
    `untouched`: services whose real servers need not be looked at.
    """
    gone = owned.addresses - config.addresses
    keys: dict[Address, set[ipvs.Key]] = {address: set() for address in gone}
    servers: set[ServerKey] = set()
    for key in changed(config.services, owned.services):
        if key in untouched:
            continue
        members = owned.services.get(key, {})
        ways = owned.marks.get(key, frozenset()) if isinstance(key, ipvs.MarkKey) else {key.address}
        if key in owned.services and key not in config.services and ways and gone.issuperset(ways):
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
    new = [name for name in config.vips if name not in owned.vips]
    if owned.addresses.isdisjoint(address for name in new for address in config.vips[name]):
        return found
    had: dict[Address, list[str]] = {}
    for old, addresses in owned.vips.items():
        for address in addresses:
            had.setdefault(address, []).append(old)
    place = {old: number for number, old in enumerate(owned.vips)}
    for name in new:
        before = {old for address in config.vips[name] for old in had.get(address, ())}
        if before:
            found[name] = min(before, key=lambda old: (old in config.vips, place[old]))
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
    of_servers = any(map(is_server, scopes))
    servers = server_successors(owned, config) if of_servers else {}
    names = server_names(config) if of_servers else frozenset[str]()
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
    for old, new in moves.scopes.items():
        for scope in new:
            maintenance.setdefault(scope, state.maintenance[old])
            if old in state.progress:
                progress.setdefault(scope, state.progress[old])
        if old not in configured.vips and old not in server_names(configured):
            del maintenance[old]
            progress.pop(old, None)
    if moves.scopes:
        state = replace(state, maintenance=maintenance, progress=progress)
    before = successors(state.owned, configured)
    vips: dict[str, VipState] = {}
    differences: dict[str, Difference] = {}
    proofs: dict[str, Proof] = {}
    for vip in config.vips:
        if vip.name in state.vips:
            continue
        old = before.get(vip.name, "")
        vips[vip.name] = state.vips.get(old, VipState(since=state.seen))
        if old in state.differences:
            differences[vip.name] = state.differences[old]
        if old in state.proofs:
            proofs[vip.name] = state.proofs[old]
    gone = [name for name in state.vips if name not in configured.vips]
    return replace(
        lived(state, vips, gone),
        differences=state.differences.updated(differences, gone),
        proofs=state.proofs.updated(proofs, gone),
    ), moves


def in_slices(old: Config, new: Config, most: int) -> list[Config]:
    """Configurations that lead from `old` to `new`, which is the last of them.

    Each changes VIPs with about `most` real servers, so that a large reload is worked off in parts: what is dropped or
    changed first, then what is new. VIPs between which an address, a mark or a prefix moves are changed together.
    """
    before = {vip.name: vip for vip in old.vips}
    after = {vip.name: vip for vip in new.vips}
    differing = [name for name in (*before, *after) if before.get(name) is not after.get(name)]
    order = [name for name in differing if name in before]
    order += [name for name in differing if name not in before]
    together = _entangled(before, after, order)
    slices: list[set[str]] = [together] if together else []
    left = 0
    for name in dict.fromkeys(order):
        if name in together:
            continue
        if left <= 0:
            slices.append(set())
            left = most
        slices[-1].add(name)
        left -= sum(_size(vips[name]) for vips in (before, after) if name in vips)
    configs: list[Config] = []
    for names in slices[:-1]:
        before = {name: vip for name, vip in before.items() if name not in names or name in after}
        before.update({name: after[name] for name in names if name in after})
        configs.append(replace(new, vips=tuple(before.values())))
    return [*configs, new]


def _size(vip: Vip) -> int:
    served = sum(1 + len(service.pool.servers) for service in vip.services) + len(vip.local)
    return served * len(vip.addresses)


def _entangled(before: Mapping[str, Vip], after: Mapping[str, Vip], names: Iterable[str]) -> set[str]:
    """The VIPs between which an address, a mark or a prefix moves."""
    owners = {place: vip.name for vip in before.values() for place in _places(vip)}
    found: set[str] = set()
    for name in names:
        for place in _places(after[name]) if name in after else ():
            if owners.get(place, name) != name:
                found |= {name, owners[place]}
    old, new = (shared_by(vips.values()) for vips in (before, after))
    for prefix in old.keys() & new.keys():
        members = set(old[prefix].vips), set(new[prefix].vips)
        if members[0].isdisjoint(members[1]):
            found |= members[0] | members[1]
    return found


def _places(vip: Vip) -> Iterator[Address | int]:
    yield from vip.addresses
    yield from (service.mark for service in vip.services if service.mark)


def adopted(state: State, config: Config, now: float, index: Index | None = None) -> tuple[State, Carried]:
    """The state with `config` in force: what it drops leaves or retires, what it renames continues.

    `index`: of the configuration, where it is there already.
    """
    index = indexed(config, state.index) if index is None else index
    configured = owned_by(config, index)
    untouched = kept.untouched(state, index)
    departure = departures(state.owned, configured, untouched)
    leaving = {at: each for at, each in state.leaving.items() if at not in configured.addresses}
    for address in departure.addresses - leaving.keys():
        leaving[address] = Leaving(
            withdrawal=withdrawal(state, [state.owned.prefix_of(address)], now),
            keys=departure.keys.get(address, frozenset()),
        )
    servers = {server: each for server, each in state.retiring.items() if server[0] in untouched}
    servers |= _retiring(state, index, departure, now, config.timing.server_drain)
    both = joined(state.owned, configured)
    owned = configured if both == configured else both
    before = state
    state, moves = renamed(state, config, configured)
    gone = [
        target
        for target in (changed(state.index.users, index.users) if state.health else ())
        if target in state.health and not index.is_target(target)
    ]
    gone += [each for each in state.index.required if each in state.health and not index.is_target(each)]
    after = replace(
        retiring(state, servers),
        config=config,
        index=index,
        leaving=state.leaving if leaving == state.leaving else leaving,
        leave_at=-math.inf if leaving else math.inf,  # to be looked at
        configured=configured,
        owned=owned,
    )
    after = kept.adopted(before, after, untouched)
    return kept.forgotten(replace(after, owned=kept.owned(before, after, owned)), gone), moves


def _retiring(
    state: State, index: Index, departure: Departure, now: float, drain: float
) -> dict[ServerKey, Retiring]:
    """What is not in the kernel has no connections to finish, where that is known.

    Where the node itself serves from now on, IPVS goes at once: until then it would take the packets, and drop them.
    """
    if not departure.servers:
        return {}
    table = kernel_table(state)
    read = state.kernel.is_read
    after, at_once = Retiring(until=now + drain), Retiring(until=now)
    beside: dict[ipvs.Key, int] = {}
    retiring: dict[ServerKey, Retiring] = {}
    for server in sorted(departure.servers, key=str):
        key, at = server
        waits = key in state.kept and any(member.up.key == at for member in state.kept[key].members)
        if (
            read
            and not waits
            and not (key in table and any(each.key == at for each in table[key].destinations))
        ):
            continue
        one = index.services.get(key)
        if one is not None and one.membership.empty.scheduler == Scheduler.MH:
            beside[key] = beside.get(key, 0) + 1
            if len(one.membership.members) + beside[key] > ipvs.MAGLEV_SLOTS:
                continue  # the kernel would leave some of them out of its table
        retiring[server] = at_once if serves_itself(index, key) else state.retiring.get(server) or after
    return retiring


def serves_itself(index: Index, key: ipvs.Key) -> bool:
    """Whether the node itself serves what this IPVS service is of."""
    if not isinstance(key, ipvs.ServiceKey) or (name := index.vip_at.get(key.address)) is None:
        return False
    return any((one.protocol, one.port) == (key.protocol, key.port) for one in index.vips[name].vip.local)
