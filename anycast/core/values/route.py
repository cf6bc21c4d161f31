"""Routes: what the node wants announced. Light to import, for the plugin reads it too."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Prefix: TypeAlias = IPv4Network | IPv6Network
Mark: TypeAlias = tuple[int, int, int]
"""The large community that tells whose path it is."""

GRACEFUL_SHUTDOWN = "65535:0"  # RFC 8326
WORST_MED = 2**32 - 1


class Origin(StrEnum):
    """Where a route comes from, in BGP's words. Routers prefer the first of these."""

    IGP = "igp"
    EGP = "egp"
    INCOMPLETE = "incomplete"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """What some of the routers are sent in the place of a route: another one for the same prefix, without variants.

    Neighbors are addresses as text: thousands of routes have hundreds of them, and text is cheap to compare.
    """

    neighbors: tuple[str, ...]
    route: Route


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One prefix with the attributes it is announced with. A withdraw repeats them exactly.

    With `variants` it goes to the neighbors that stand in them and to no other, each as its variant says. No neighbor
    stands in two. The attributes beside them are for plugins that know no variants.
    """

    prefix: Prefix
    next_hop: Address | None = None  # None: self; of an IPv4 route also an IPv6 address (RFC 8950)
    med: int | None = None
    communities: tuple[str, ...] = ()  # "asn:value"
    large_communities: tuple[str, ...] = ()  # "asn:value:value"
    as_path: tuple[int, ...] = ()  # sent as it stands; empty: the node's own AS, and within it none
    local_preference: int | None = None  # sent to routers of the node's own AS alone
    extended_communities: tuple[str, ...] = ()  # "target:asn:value", "origin:asn:value", 0x and 16 digits
    origin: Origin | None = None  # None: igp
    variants: tuple[Variant, ...] = ()  # empty: to every neighbor alike

    def __post_init__(self) -> None:
        if not self.variants:
            return
        neighbors = [one for variant in self.variants for one in variant.neighbors]
        if len(set(neighbors)) != len(neighbors) or not all(one.neighbors for one in self.variants):
            raise ValueError(f"{self.prefix}: variants: expected neighbors, each of them once")
        if any(one.route.variants or one.route.prefix != self.prefix for one in self.variants):
            raise ValueError(f"{self.prefix}: variants: expected routes for this prefix without variants")


def drained(route: Route, *, internal: bool = False) -> Route:
    """The same prefix, last resort: routers that honour RFC 8326 move away while the path still works.

    `internal`: a router of the node's own AS gets it. Such a router honours the preference whatever it knows of RFCs.
    """
    communities = (*(c for c in route.communities if c != GRACEFUL_SHUTDOWN), GRACEFUL_SHUTDOWN)
    preference = 0 if internal else route.local_preference
    return replace(route, med=WORST_MED, communities=communities, local_preference=preference)


_EXTENDED = re.compile(r"(target|origin):([0-9]{1,10}|[0-9]{1,3}(?:\.[0-9]{1,3}){3}):([0-9]{1,10})", re.ASCII)
_SUBTYPES = {"target": 2, "origin": 3}


def extended_community(text: str) -> bytes | None:
    """Its eight bytes (RFC 4360, RFC 5668): `target` or `origin`, a number or IPv4 address, a number; or 0x and 16 digits.

    None: it is none, or a part is too large.
    """
    if re.fullmatch("0x[0-9A-Fa-f]{16}", text, re.ASCII):
        return bytes.fromhex(text[2:])
    if (match := _EXTENDED.fullmatch(text)) is None:
        return None
    word, first, second = match.groups()
    try:
        if "." in first:
            kind, whose, rest = 1, IPv4Address(first).packed, 2
        elif int(first) < 2**16:
            kind, whose, rest = 0, int(first).to_bytes(2, "big"), 4
        else:
            kind, whose, rest = 2, int(first).to_bytes(4, "big"), 2
        return bytes((kind, _SUBTYPES[word])) + whose + int(second).to_bytes(rest, "big")
    except (ValueError, OverflowError):
        return None


TRANSITIVE_BANDWIDTH, BANDWIDTH = b"\x00\x04", b"\x40\x04"
"""How an extended community with the link bandwidth begins (draft-ietf-idr-link-bandwidth). FRR 10.3 counts the first alone."""
_OF_WEIGHT = 1_000_000.0  # bytes a second; FRR up to 10.3 has no room for 2**32 of them
_AS_TRANS = 23456


def is_bandwidth(text: str) -> bool:
    return (extended_community(text) or b"").startswith((TRANSITIVE_BANDWIDTH, BANDWIDTH))


def link_bandwidth(local_as: int, weight: int) -> str:
    """The extended community by which routers weigh a path against others."""
    number = local_as if local_as < 2**16 else _AS_TRANS
    return f"0x{(TRANSITIVE_BANDWIDTH + number.to_bytes(2, 'big') + struct.pack('!f', weight * _OF_WEIGHT)).hex()}"


def attributes(route: Route) -> tuple[object, ...]:
    """All that is announced with the prefix, variants aside: routes with the same can go into one message."""
    return (
        route.next_hop,
        route.med,
        route.communities,
        route.large_communities,
        route.as_path,
        route.local_preference,
        route.extended_communities,
        route.origin,
    )


def shape(route: Route) -> tuple[object, ...]:
    """All that differs between routes but the prefix."""
    variants = tuple((one.neighbors, attributes(one.route)) for one in route.variants)
    return attributes(route), variants
