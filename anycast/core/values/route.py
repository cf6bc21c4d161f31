"""Routes: what the node wants announced. Light to import, for the plugin reads it too."""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Prefix: TypeAlias = IPv4Network | IPv6Network

GRACEFUL_SHUTDOWN = "65535:0"  # RFC 8326
WORST_MED = 2**32 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One prefix with the attributes it is announced with. A withdraw repeats them exactly."""

    prefix: Prefix
    next_hop: Address | None = None  # None: self
    med: int | None = None
    communities: tuple[str, ...] = ()  # "asn:value"
    large_communities: tuple[str, ...] = ()  # "asn:value:value"


def drained(route: Route) -> Route:
    """The same prefix, last resort: routers that honour RFC 8326 move away while the path still works."""
    communities = (*(c for c in route.communities if c != GRACEFUL_SHUTDOWN), GRACEFUL_SHUTDOWN)
    return replace(route, med=WORST_MED, communities=communities)
