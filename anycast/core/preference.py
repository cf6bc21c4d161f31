"""What makes one node's route of a VIP worth more to routers than another's: roles, and the attributes beside them.

Routers compare local preference, then the length of the AS path, then origin, then MED. Between two AS the path
decides, for local preference is not sent there; within one AS local preference does, and there the path has nothing of
the node in it: its own AS number would be a loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from anycast.core.values.configuration import Role
from anycast.core.values.route import Route, drained

if TYPE_CHECKING:
    from anycast.core.values.configuration import Address, Bgp, Neighbor, Vip
    from anycast.core.values.route import Prefix

BACKUP_PREPEND = 3  # one would do; routers on the way that prepend by themselves must not make up for it
BACKUP_MED = 1000
BACKUP_LOCAL_PREFERENCE = 50
USUAL_LOCAL_PREFERENCE = 100  # what ExaBGP sends, and what a router takes where nothing is said


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """How a VIP of this node stands against the same VIP of others. What the VIP says itself counts before its role."""

    prepend: int  # how often the node's AS stands in the path once more
    med: int | None
    local_preference: int | None


def preference(vip: Vip) -> Preference:
    backup = vip.role is Role.BACKUP

    def said(value: int | None, of_backup: int, otherwise: int | None = None) -> int | None:
        return value if value is not None else of_backup if backup else otherwise

    return Preference(
        prepend=said(vip.as_path_prepend, BACKUP_PREPEND) or 0,
        med=said(vip.med, BACKUP_MED),
        local_preference=said(vip.local_preference, BACKUP_LOCAL_PREFERENCE),
    )


def needs_attributes(vip: Vip) -> bool:
    """It asks for what a plugin of before there were roles does not send."""
    return bool(
        vip.role is Role.BACKUP
        or vip.as_path_prepend
        or vip.local_preference is not None
        or vip.extended_communities
        or vip.origin is not None
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


def route_of(bgp: Bgp, vip: Vip, address: Address, prefix: Prefix, *, drain: bool) -> Route:
    """What routers are sent for an address of a VIP. `drain`: as the last resort."""
    kinds = {is_internal(bgp, neighbor) for neighbor in bgp.neighbors}
    wanted = preference(vip)
    internal = True in kinds
    route = Route(
        prefix=prefix,
        next_hop=bgp.next_hop_v4 if address.version == 4 else bgp.next_hop_v6,
        med=wanted.med,
        communities=vip.communities,
        large_communities=vip.large_communities,
        as_path=(bgp.local_as,) * (1 + wanted.prepend) if wanted.prepend and not internal else (),
        local_preference=wanted.local_preference if internal else None,
        extended_communities=vip.extended_communities,
        origin=vip.origin,
    )
    return drained(route, internal=internal) if drain else route
