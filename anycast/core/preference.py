"""What makes one node's route of a VIP worth more to routers than another's: roles, and the attributes beside them.

Routers compare local preference, then the length of the AS path, then origin, then MED. Between two AS the path
decides, for local preference is not sent there; within one AS local preference does, and there the path has nothing of
the node in it: its own AS number would be a loop.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from anycast.core.values.configuration import Export, Origin, Role, WhenUnhealthy
from anycast.core.values.route import Route, Variant, drained, link_bandwidth

if TYPE_CHECKING:
    from anycast.core.values.configuration import Address, Bgp, Config, Neighbor, Vip
    from anycast.core.values.route import Prefix

BACKUP_PREPEND = 3  # one would do; routers on the way that prepend by themselves must not make up for it
BACKUP_MED = 1000
BACKUP_LOCAL_PREFERENCE = 50
LAST_RESORT_PREPEND = (
    BACKUP_PREPEND + 1
)  # more than usual: a primary's last resort is behind any healthy backup
USUAL_LOCAL_PREFERENCE = 100  # what ExaBGP sends, and what a router takes where nothing is said


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """How a VIP of this node stands against the same VIP of others. What the VIP says itself counts before its role."""

    prepend: int  # how often the node's AS stands in the path once more
    med: int | None
    local_preference: int | None


def preference(vip: Vip, export: Export | None = None) -> Preference:
    """`export`: what a router gets otherwise."""
    backup = vip.role is Role.BACKUP

    def said(own: int | None, value: int | None, of_backup: int) -> int | None:
        if own is not None:
            return own
        return value if value is not None else of_backup if backup else None

    own = export or ALL
    return Preference(
        prepend=said(own.as_path_prepend, vip.as_path_prepend, BACKUP_PREPEND) or 0,
        med=said(own.med, vip.med, BACKUP_MED),
        local_preference=said(own.local_preference, vip.local_preference, BACKUP_LOCAL_PREFERENCE),
    )


def rank(vip: Vip, bgp: Bgp) -> tuple[int, ...]:
    """What routers compare of the VIP of this node and of others, in that order: the smallest is the best.

    Local preference counts where a router of the node's own AS is among them, prepends where another is. `export` is not
    looked at.
    """
    own = preference(vip)
    kinds = {is_internal(bgp, one) for one in bgp.neighbors}
    local = USUAL_LOCAL_PREFERENCE if own.local_preference is None else own.local_preference
    origin = list(Origin).index(vip.origin or Origin.IGP)
    return -local if True in kinds else 0, own.prepend if False in kinds else 0, origin, own.med or 0


def needs(config: Config) -> int:
    """What a plugin must be able to send: `report.ATTRIBUTES` of its release."""
    bgp = config.bgp
    if any(one.extended_next_hop for one in bgp.neighbors):
        return 4
    kinds = {is_internal(bgp, one) for one in bgp.neighbors}
    limits = config.fleet is not None and config.fleet.limits  # then any VIP may become the last resort
    mixed = len(kinds) > 1 and any(
        limits or preference(vip).prepend or _may_stay_on(vip) for vip in config.vips
    )
    if mixed or any(one.export is not None for one in bgp.neighbors):
        return 3
    return 2 if limits or bgp.weight is not None or any(map(needs_attributes, config.vips)) else 1


def needs_attributes(vip: Vip) -> bool:
    """It asks for what a plugin of before there were roles does not send."""
    return bool(
        vip.role is Role.BACKUP
        or _may_stay_on(vip)
        or vip.as_path_prepend
        or vip.local_preference is not None
        or vip.extended_communities
        or vip.origin is not None
    )


def _may_stay_on(vip: Vip) -> bool:
    return vip.when_unhealthy is WhenUnhealthy.LAST_RESORT or any(
        one.sorry is not None for one in vip.services
    )


def spelt(route: Route) -> str:
    """What routers compare, in words."""
    told = (
        route.local_preference is not None and f"local preference {route.local_preference}",
        route.as_path and f"AS path {' '.join(map(str, route.as_path))}",
        route.origin is not None and f"origin {route.origin}",
        route.med is not None and f"MED {route.med}",
    )
    return ", ".join(word for word in told if word)


def is_internal(bgp: Bgp, neighbor: Neighbor) -> bool:
    """A session within one AS (iBGP)."""
    return neighbor.remote_as == bgp.local_as


def next_hop(bgp: Bgp, neighbor: Neighbor, version: int) -> Address | None:
    """Of the routes of a family that it is sent; None: the node's address in the session."""
    if version == 6:
        return bgp.next_hop_v6
    if (
        neighbor.extended_next_hop and bgp.hears
    ):  # a routing daemon that learns the kernel's table sees to it itself
        # ExaBGP's `next-hop self` of an IPv4 route is an IPv4 address, also in a session over IPv6.
        return neighbor.local_address if bgp.next_hop_v6 is None else bgp.next_hop_v6
    return bgp.next_hop_v4


ALL = Export(vips=("*",))


def names(export: Export, name: str) -> bool:
    """Whether a line names the VIP of this name."""
    return any(fnmatchcase(name, pattern) for pattern in export.vips)


def export_of(export: tuple[Export, ...] | None, name: str) -> Export | None:
    """What a router gets of a VIP; None: nothing."""
    if export is None:
        return ALL
    return next((one for one in export if names(one, name)), None)


@dataclass(frozen=True, slots=True)
class _Kind:
    """Neighbors that are alike in all that decides what they are sent."""

    internal: bool
    export: tuple[Export, ...] | None
    next_hop: Address | None
    neighbors: tuple[str, ...]


class Routers:
    """What the neighbors of a node are sent. Worked out once for a configuration, and asked for each address of a VIP."""

    def __init__(self, bgp: Bgp) -> None:
        self._bgp = bgp
        self._internal = any(is_internal(bgp, one) for one in bgp.neighbors)
        self._mark = () if bgp.mark is None else (":".join(map(str, bgp.mark)),)
        # A routing daemon that learns the kernel's table adds it itself, as it does the mark.
        own = bgp.weight is not None and bgp.hears
        self._weight = (link_bandwidth(bgp.local_as, bgp.weight or 0),) if own else ()
        self._kinds = {version: self._of_family(version) for version in (4, 6)}

    def _of_family(self, version: int) -> tuple[_Kind, ...]:
        kinds: dict[tuple[bool, tuple[Export, ...] | None, Address | None], list[str]] = {}
        for one in self._bgp.neighbors:
            if version in (one.families or {one.address.version}):
                of = is_internal(self._bgp, one), one.export, next_hop(self._bgp, one, version)
                kinds.setdefault(of, []).append(str(one.address))
        return tuple(_Kind(*of, tuple(addresses)) for of, addresses in kinds.items())

    def reach(self, name: str, version: int) -> bool:
        """Whether some router gets a VIP of this name, of those that carry the family; True: none carries it."""
        kinds = self._kinds[version]
        return not kinds or any(export_of(one.export, name) is not None for one in kinds)

    def route(self, vip: Vip, prefix: Prefix, *, drain: bool, unwell: bool = False) -> Route | None:
        """For an address of a VIP; None: no router gets it. `drain`: as the last resort.

        `unwell`: as the last resort because it cannot be served: worse than one that drains.
        """
        kinds = self._kinds[prefix.version]
        found: dict[Route, list[str]] = {}
        for kind in kinds:
            if (export := export_of(kind.export, vip.name)) is not None:
                one = self._route(
                    vip, prefix, export, kind.next_hop, internal=kind.internal, drain=drain, unwell=unwell
                )
                found.setdefault(one, []).extend(kind.neighbors)
        if kinds and not found:
            return None
        if len(found) == 1 and sum(len(one.neighbors) for one in kinds) == len(next(iter(found.values()))):
            return next(iter(found))
        inside = bool(kinds) and all(kind.internal for kind in kinds)
        hop = self._bgp.next_hop_v4 if prefix.version == 4 else self._bgp.next_hop_v6
        usual = self._route(vip, prefix, ALL, hop, internal=inside, drain=drain, unwell=unwell)
        variants = tuple(
            Variant(neighbors=tuple(addresses), route=route) for route, addresses in found.items()
        )
        return replace(usual, variants=variants)

    def _route(
        self,
        vip: Vip,
        prefix: Prefix,
        export: Export,
        hop: Address | None,
        *,
        internal: bool,
        drain: bool,
        unwell: bool,
    ) -> Route:
        """Where routers of the node's own AS are among the others, all have the preference: ExaBGP sends it to the former."""
        wanted, bgp = preference(vip, export), self._bgp
        origin = export.origin or vip.origin
        if unwell:
            wanted, origin = _unwell(wanted), _origin_of_unwell(vip, origin)
        route = Route(
            prefix=prefix,
            next_hop=hop,
            med=wanted.med,
            communities=_first(export.communities, vip.communities),
            large_communities=(
                *_first(export.large_communities, vip.large_communities),
                *self._mark,
            ),
            as_path=(bgp.local_as,) * (1 + wanted.prepend) if self._prepends(wanted) and not internal else (),
            local_preference=wanted.local_preference if self._internal else None,
            extended_communities=(
                *_first(export.extended_communities, vip.extended_communities),
                *self._weight,
            ),
            origin=origin,
        )
        return drained(route, internal=self._internal) if drain else route

    def _prepends(self, wanted: Preference) -> bool:
        """Where OSPF alone carries the routes there is no AS."""
        return bool(wanted.prepend and self._bgp.local_as)


def _unwell(wanted: Preference) -> Preference:
    return replace(wanted, prepend=wanted.prepend + LAST_RESORT_PREPEND)


def _origin_of_unwell(vip: Vip, origin: Origin | None) -> Origin:
    """What puts backups behind primaries, and both behind who drains, where no path does: within one AS it is empty."""
    order = list(Origin)
    worse = Origin.INCOMPLETE if vip.role is Role.BACKUP else Origin.EGP
    return max(origin or Origin.IGP, worse, key=order.index)


def _first(one: tuple[str, ...] | None, otherwise: tuple[str, ...]) -> tuple[str, ...]:
    return otherwise if one is None else one


def sent(route: Route, neighbor: str) -> Route | None:
    """What the neighbor with this address is sent of it; None: nothing."""
    if not route.variants:
        return route
    return next((one.route for one in route.variants if neighbor in one.neighbors), None)
