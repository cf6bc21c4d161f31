"""What follows from the configuration alone, worked out once for each, and what rests on what.

A new configuration shares with the one before what belongs to VIPs that are the same objects: a reload costs what it
changes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import chain

from anycast.core.dataplane import ipvs
from anycast.core.dataplane.kernel import (
    IPVS_SYSCTLS,
    NAT_SYSCTLS,
    PERSISTENCE_SYSCTLS,
    SCTP_SYSCTLS,
    SYNC_SYSCTLS,
)
from anycast.core.dataplane.members import (
    Member,
    Membership,
    Memo,
    TargetName,
    first_addresses,
    keys_of,
    membership,
    service_key,
    versions,
)
from anycast.core.health.aim import sessions_of, targets_of
from anycast.core.preference import needs
from anycast.core.prefixes import host_route, is_host_route, prefix_of
from anycast.core.shared import Shared, shared_by
from anycast.core.values.configuration import (
    Address,
    Config,
    Forwarding,
    Protocol,
    Rule,
    Service,
    Target,
    Vip,
)
from anycast.core.values.persistent import PersistentMap, changed
from anycast.core.values.route import Prefix
from anycast.core.vip.requirements import Requirement, node_requirements, vip_requirements

SIBLINGS = (
    8  # targets that are probed at once when one begins to change; each of those that changes adds as many
)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedService:
    """One service of one address of a VIP: an IPVS service."""

    vip: str
    service: Service
    membership: Membership
    facts: ipvs.Key  # the service of its family whose facts are its own, too: they have the same real servers
    alike: tuple[ipvs.Key, ...]  # all services of its family
    servers: Mapping[ipvs.DestinationKey, str]  # `POOL/SERVER` by what names it in IPVS


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedVip:
    vip: Vip
    services: Mapping[ipvs.Key, IndexedService]
    facts: tuple[ipvs.Key, ...]  # of each service in each family
    keys: Mapping[Address, tuple[ipvs.Key, ...]]
    prefixes: Mapping[Address, Prefix]
    requirements: tuple[Requirement, ...]
    sysctls: Mapping[str, str]  # that it needs


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """`users`: what rests on a target: the services, by their keys for facts, whose real servers it is of.

    `required`: the VIPs with a requirement that rests on a target; an empty name: the node has. `requiring`: those
    requirements. `at_vips`: those targets that are addresses of VIPs. `needs_ipvs`: whether the kernel must have it.
    `wide`: addresses that are announced by more than their host route. `shared`: those prefixes.
    """

    vips: Mapping[str, IndexedVip] = field(default_factory=dict)  # in the order of the configuration
    place: Mapping[str, int] = field(default_factory=dict)  # of a VIP in that order
    services: PersistentMap[ipvs.Key, IndexedService] = PersistentMap()
    servers: PersistentMap[ipvs.Key, Mapping[ipvs.DestinationKey, str]] = PersistentMap()
    vip_at: PersistentMap[Address, str] = PersistentMap()
    users: PersistentMap[Target, tuple[ipvs.Key, ...]] = PersistentMap()
    required: Mapping[Target, frozenset[str]] = field(default_factory=dict)
    requiring: Mapping[Target, tuple[Requirement, ...]] = field(default_factory=dict)
    at_vips: Mapping[Address, frozenset[Target]] = field(default_factory=dict)
    node_requirements: tuple[Requirement, ...] = ()
    requirements: tuple[Requirement, ...] = ()  # all, the node's first
    on_sessions: frozenset[ipvs.Key] = (
        frozenset()
    )  # services with real servers that BGP sessions decide about
    vips_on_sessions: frozenset[str] = frozenset()  # VIPs with requirements on BGP sessions; as `required`
    sysctls: Mapping[str, str] = field(default_factory=dict)  # that the configuration needs
    addresses: frozenset[Address] = frozenset()
    wide: Mapping[Address, Prefix] = field(default_factory=dict)
    shared: Mapping[Prefix, Shared] = field(default_factory=dict)
    needs_ipvs: bool = True
    attributes: int = 1  # what a plugin must be able to send with routes: `report.ATTRIBUTES` of its release

    def is_target(self, target: Target) -> bool:
        return target in self.users or target in self.required

    @property
    def targets(self) -> Targets:
        """Everything that is probed."""
        return Targets(self)

    def prefix_of(self, address: Address) -> Prefix:
        """That an address of a VIP is announced by."""
        return self.wide.get(address) or host_route(address)

    def announcing(self, prefix: Prefix) -> tuple[str, ...]:
        """The VIPs that the prefix is announced for."""
        if not is_host_route(prefix):
            one = self.shared.get(prefix)
            return () if one is None else one.vips
        address = prefix.network_address
        name = None if address in self.wide else self.vip_at.get(address)
        return () if name is None else (name,)

    def names_of(self, targets: Iterable[Target]) -> dict[Target, TargetName]:
        """What to call them in messages. Looks at the real servers of each service once."""
        asked = dict.fromkeys(targets)
        users: dict[Target, dict[str, None]] = {target: {} for target in asked}
        servers: dict[Target, tuple[str, bool]] = {}
        for key, wanted in self._by_service(asked).items():
            one = self.services[key]
            for target in wanted:
                users[target][f"{one.vip} {one.service.name}"] = None
            for member, target in members_on(one.membership, wanted):
                server, decides = servers.get(target, (member.server, False))
                servers[target] = server, decides or not isinstance(member.check, Rule)
        for target in asked:
            users[target] |= dict.fromkeys(one.scope for one in self.requiring.get(target, ()))
        return {
            target: TargetName(server=server, users=tuple(users[target]), decides=decides)
            for target in asked
            for server, decides in (servers.get(target, ("", False)),)
        }

    def composed(self, targets: Iterable[Target]) -> Iterator[tuple[ipvs.Key, Member]]:
        """The real servers whose check is a rule that rests on one of the targets, as the services use them."""
        for key, wanted in self._by_service(targets).items():
            one = self.services[key]
            members = one.membership.members
            # Of one pool all checks are of one kind.
            some = members[:1] if one.service.sorry is None else members
            if any(isinstance(member.check, Rule) for member in some):
                yield from dict.fromkeys(
                    (key, member)
                    for member, _ in members_on(self.services[key].membership, wanted)
                    if isinstance(member.check, Rule)
                )

    def _by_service(self, targets: Iterable[Target]) -> dict[ipvs.Key, dict[Target, None]]:
        found: dict[ipvs.Key, dict[Target, None]] = {}
        for target in targets:
            for key in self.users.get(target, ()):
                found.setdefault(key, {})[target] = None
        return found

    def beside(self, target: Target) -> Iterable[Target]:
        """The targets of the first service that the target is of."""
        users = self.users.get(target, ())
        return _targets(self.services[users[0]].membership.members) if users else ()

    def siblings(self, targets: Iterable[Target]) -> Iterator[tuple[Target, tuple[Target, ...]]]:
        """Of each the next targets of its VIP, in a ring. What ends one often ends the others.

        Costs each VIP once, however many of its targets are asked for.
        """
        of_vips: dict[str, list[Target]] = {}
        for target in targets:
            if users := self.users.get(target, ()):
                of_vips.setdefault(self.services[users[0]].vip, []).append(target)
        for name, asked in of_vips.items():
            vip = self.vips[name]
            members = (vip.services[key].membership.members for key in vip.facts)
            ring = tuple(_targets(chain.from_iterable(members)))
            places = {target: place for place, target in enumerate(ring)}
            for target in asked:
                place = places[target]
                after = ring[place + 1 : place + 1 + SIBLINGS]
                yield target, (*after, *ring[: min(place, SIBLINGS - len(after))])

    def in_order(self, names: Iterable[str]) -> list[str]:
        """Those that are VIPs, in the order of the configuration."""
        return sorted((name for name in names if name in self.place), key=self.place.__getitem__)

    def drained_by(self, scope: str) -> Iterator[ipvs.Key]:
        """The services, by their keys for facts, that have the real server `POOL/SERVER`."""
        pool, _, _ = scope.partition("/")
        for vip in self.vips.values():
            for key in vip.facts:
                if any(one.name == pool for one in vip.services[key].service.pools):
                    yield key


class Targets(AbstractSet[Target]):
    """All targets of an index, and those in `more`, but for those in `less`, without a copy. `less`: that are required."""

    __slots__ = ("_index", "_less", "_more")

    def __init__(
        self,
        index: Index,
        more: Mapping[Target, object] | None = None,
        less: frozenset[Target] = frozenset(),
    ) -> None:
        self._index = index
        self._more: Mapping[Target, object] = more or {}
        self._less = less

    @classmethod
    def _from_iterable(cls, targets: Iterable[Target]) -> frozenset[Target]:  # type: ignore[override]
        return frozenset(targets)

    def __contains__(self, target: object) -> bool:
        if target in self._less:
            return False
        return target in self._index.users or target in self._index.required or target in self._more

    def __iter__(self) -> Iterator[Target]:
        users, required = self._index.users, self._index.required
        less = self._less
        yield from (target for target in users if target not in less) if less else users
        yield from (target for target in required if target not in users and target not in less)
        yield from (target for target in self._more if target not in users and target not in required)

    def __len__(self) -> int:
        users, required = self._index.users, self._index.required
        more = sum(target not in users and target not in required for target in self._more)
        return len(users) + sum(target not in users for target in required) + more - len(self._less)


def members_on(membership: Membership, targets: Collection[Target]) -> Iterator[tuple[Member, Target]]:
    """The real servers whose check rests on one of the targets, with that."""
    for member in membership.members:
        for target in targets_of(member.check):
            if target in targets:
                yield member, target


def indexed(config: Config, before: Index | None = None) -> Index:
    """The index of a configuration. `before`: of the one before; VIPs that are the same object cost nothing."""
    before = Index() if before is None else before
    memo = Memo()
    vips: dict[str, IndexedVip] = {}
    for vip in config.vips:
        known = before.vips.get(vip.name)
        vips[vip.name] = known if known is not None and known.vip is vip else _indexed(vip, memo)
    old = [before.vips[name] for name in changed(before.vips, vips) if name in before.vips]
    new = [vips[name] for name in changed(before.vips, vips) if name in vips]
    of_node = tuple(node_requirements(config))
    if of_node == before.node_requirements:
        of_node = before.node_requirements
    requirements = (
        *of_node,
        *chain.from_iterable(vip.requirements for vip in vips.values() if vip.requirements),
    )
    requiring = _requiring(requirements)
    services = {key: one for vip in new for key, one in vip.services.items()}
    gone = [key for vip in old for key in vip.services if key not in services]
    addresses = frozenset(chain.from_iterable(vip.addresses for vip in config.vips))
    shared = shared_by(config.vips)
    wide = {member.address: prefix for prefix, one in shared.items() for member in one.members}
    return Index(
        vips=vips,
        place={name: place for place, name in enumerate(vips)},
        services=before.services.updated(services, gone),
        servers=before.servers.updated({key: one.servers for key, one in services.items()}, gone),
        vip_at=before.vip_at.updated(
            {at: vip.vip.name for vip in new for at in vip.keys},
            [at for vip in old for at in vip.keys if at not in addresses],
        ),
        users=_users(before, old, new),
        required={target: frozenset(one.vip for one in each) for target, each in requiring.items()},
        requiring=requiring,
        at_vips=_at_vips(requiring, addresses),
        node_requirements=of_node,
        requirements=requirements,
        on_sessions=(before.on_sessions - {key for vip in old for key in vip.facts})
        | {key for vip in new for key in vip.facts if _rests_on_sessions(vip.services[key].membership)},
        vips_on_sessions=frozenset(one.vip for one in requirements if sessions_of(one.check)),
        sysctls=_sysctls(config, (vip.sysctls for vip in vips.values())),
        addresses=before.addresses if addresses == before.addresses else addresses,
        wide=before.wide if wide == before.wide else wide,
        shared=before.shared if shared == before.shared else shared,
        needs_ipvs=config.needs_ipvs,
        attributes=needs(config),
    )


def _indexed(vip: Vip, memo: Memo) -> IndexedVip:
    services: dict[ipvs.Key, IndexedService] = {}
    facts: list[ipvs.Key] = []
    for service in vip.services:
        for version in versions(vip):
            alike = tuple(
                dict.fromkeys(service_key(a, service) for a in vip.addresses if a.version == version)
            )
            members = membership(vip, service, version, memo)
            one = IndexedService(
                vip=vip.name,
                service=service,
                membership=members,
                facts=alike[0],
                alike=alike,
                servers=memo.servers(members),
            )
            services.update(dict.fromkeys(alike, one))
            facts.append(alike[0])
    return IndexedVip(
        vip=vip,
        services=services,
        facts=tuple(facts),
        keys={address: keys_of(vip, address) for address in vip.addresses},
        prefixes={address: prefix_of(vip, address) for address in vip.addresses},
        requirements=tuple(vip_requirements(vip)),
        sysctls=_of_vip(vip),
    )


def _users(
    before: Index, old: Sequence[IndexedVip], new: Sequence[IndexedVip]
) -> PersistentMap[Target, tuple[ipvs.Key, ...]]:
    left = {key for vip in old for key in vip.facts}
    kept: dict[Target, tuple[ipvs.Key, ...]] = {}  # of the users before: those whose VIPs have not changed
    for members, _ in _alike(old):
        for target in _targets(members):
            if target not in kept:
                kept[target] = tuple([key for key in before.users[target] if key not in left])
    found: dict[Target, tuple[ipvs.Key, ...]] = {}
    further: dict[Target, list[tuple[ipvs.Key, ...]]] = {}
    for members, keys in _alike(new):
        for target in _targets(members):
            if found.setdefault(target, keys) is not keys:
                further.setdefault(target, []).append(keys)
    # Most targets of a service have the same users: one tuple for all of them.
    shared: dict[tuple[ipvs.Key, ...], tuple[ipvs.Key, ...]] = {}
    place = {key: place for place, key in enumerate(key for vip in new for key in vip.facts)}
    for target, parts in further.items():
        each = tuple(sorted(chain(found[target], *parts), key=place.__getitem__))
        found[target] = shared.setdefault(each, each)
    for target, keys in found.items() if before.users else ():
        stays = kept[target] if target in kept else before.users.get(target)
        if stays:
            each = (*stays, *keys)
            found[target] = shared.setdefault(each, each)
    found |= {target: keys for target, keys in kept.items() if keys and target not in found}
    return before.users.updated(found, [target for target in kept if target not in found])


def _alike(vips: Iterable[IndexedVip]) -> Iterator[tuple[tuple[Member, ...], tuple[ipvs.Key, ...]]]:
    """The real servers of services, and the services, by their keys for facts, that have these."""
    found: dict[int, tuple[tuple[Member, ...], list[ipvs.Key]]] = {}
    for vip in vips:
        for key in vip.facts:
            members = vip.services[key].membership.members
            found.setdefault(id(members), (members, []))[1].append(key)
    for members, keys in found.values():
        yield members, tuple(keys)


def _targets(members: Iterable[Member]) -> dict[Target, None]:
    return {target: None for member in members for target in targets_of(member.check)}


def _requiring(requirements: Iterable[Requirement]) -> dict[Target, tuple[Requirement, ...]]:
    found: dict[Target, dict[Requirement, None]] = {}
    for requirement in requirements:
        for target in targets_of(requirement.check):
            found.setdefault(target, {})[requirement] = None
    return {target: tuple(each) for target, each in found.items()}


def _at_vips(targets: Iterable[Target], addresses: AbstractSet[Address]) -> dict[Address, frozenset[Target]]:
    found: dict[Address, set[Target]] = {}
    for target in targets:
        if target.address in addresses:
            found.setdefault(target.address, set()).add(target)
    return {address: frozenset(each) for address, each in found.items()}


def _rests_on_sessions(membership: Membership) -> bool:
    return any(isinstance(member.check, Rule) and sessions_of(member.check) for member in membership.members)


def _of_vip(vip: Vip) -> Mapping[str, str]:
    wanted: dict[str, str] = {}
    for service in vip.services:
        if service.protocol is Protocol.SCTP:
            wanted |= SCTP_SYSCTLS
        if service.persistence is not None:
            wanted |= PERSISTENCE_SYSCTLS
        if service.forwarding is Forwarding.NAT:
            for address in first_addresses(vip):
                wanted |= NAT_SYSCTLS[address.version]
    return wanted


def wanted_sysctls(config: Config) -> dict[str, str]:
    """Those that the node needs, with their values."""
    return _sysctls(config, map(_of_vip, config.vips))


def _sysctls(config: Config, of_vips: Iterable[Mapping[str, str]]) -> dict[str, str]:
    wanted = dict(IPVS_SYSCTLS) if config.needs_ipvs else {}
    if config.connection_sync is not None:
        wanted |= SYNC_SYSCTLS
    for needed in of_vips:
        wanted |= needed
    return wanted
