"""The lease: what the agent asks the plugin to announce, and for how long. Light to import, for the plugin reads it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b

from anycast.core.values.persistent import changed as differing
from anycast.core.values.route import Mark, Prefix, Route

MAX_TTL = 300.0  # seconds; a lease that hardly ends would defeat its purpose
_MODULUS = 2**64


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """What the node wants announced, good for `ttl` seconds from `issued` (the sender's monotonic clock).

    `routes` is the full set. `owned` is every prefix the node may ever announce. `changed` and `gone` are what
    differs in `routes` since the lease with the number `base`; None: there is none to differ from. `digest` commits
    to `routes` and `owned` (`digest_of_all`). `mark`: the large community on the node's paths, where routers send back
    what they have; None: none does.
    """

    seq: int
    issued: float
    ttl: float
    routes: Mapping[Prefix, Route]
    owned: frozenset[Prefix] = frozenset()
    digest: int
    base: int | None = None
    changed: tuple[Route, ...] = ()
    gone: tuple[Prefix, ...] = ()
    mark: Mark | None = None

    def __post_init__(self) -> None:
        check_terms(self.seq, self.issued, self.ttl)
        if self.base is None:
            if any(prefix != route.prefix for prefix, route in self.routes.items()):
                raise ValueError("lease: routes: a route stands under another prefix")
            if self.changed or self.gone:
                raise ValueError("lease: changed, gone: expected none without a base")
            return
        if not 0 <= self.base < self.seq:
            raise ValueError(f"lease: base: expected less than {self.seq}, found {self.base}")
        if any(self.routes.get(route.prefix) != route for route in self.changed):
            raise ValueError("lease: changed: a route is not in the full set")
        if any(prefix in self.routes for prefix in self.gone):
            raise ValueError("lease: gone: a prefix is in the full set")

    def expires(self, now: float) -> float:
        """The instant it ends. A lease cannot be from the future, and one that lay in a buffer is old."""
        return min(self.issued, now) + self.ttl


def check_terms(seq: int, issued: float, ttl: float) -> None:
    """Raises ValueError where they cannot be those of a lease."""
    if seq < 0:
        raise ValueError(f"lease: seq: expected 0 or more, found {seq}")
    if not math.isfinite(issued):
        raise ValueError(f"lease: issued: expected an instant in seconds, found {issued}")
    if not 0 < ttl <= MAX_TTL:
        raise ValueError(f"lease: ttl: expected 0 < seconds <= {MAX_TTL:g}, found {ttl}")


def by_prefix(routes: Iterable[Route]) -> dict[Prefix, Route]:
    """Raises ValueError where a prefix has two routes."""
    found: dict[Prefix, Route] = {}
    for route in routes:
        if route.prefix in found:
            raise ValueError(f"lease: routes: {route.prefix} stands in it twice")
        found[route.prefix] = route
    return found


def full_lease(
    *,
    seq: int,
    issued: float,
    ttl: float,
    routes: Iterable[Route],
    owned: Iterable[Prefix] = (),
    mark: Mark | None = None,
) -> Lease:
    """A lease that stands on no other. Costs what the full set costs."""
    found, prefixes = by_prefix(routes), frozenset(owned)
    return Lease(
        seq=seq,
        issued=issued,
        ttl=ttl,
        routes=found,
        owned=prefixes,
        digest=digest_of_all(found.values(), prefixes),
        mark=mark,
    )


def next_lease(
    *,
    base: int,
    digest: int,
    before: Mapping[Prefix, Route],
    owned_before: frozenset[Prefix],
    seq: int,
    issued: float,
    ttl: float,
    routes: Mapping[Prefix, Route],
    owned: frozenset[Prefix],
    mark: Mark | None = None,
) -> Lease:
    """The lease after the one with the number `base`, which had `before`, `owned_before` and `digest`.

    Costs what has changed, and a look at each shard of a `PersistentMap`.
    """
    changed: list[Route] = []
    gone: list[Prefix] = []
    for prefix in differing(before, routes):
        old, new = before.get(prefix), routes.get(prefix)
        if new is None:
            gone.append(prefix)
        elif new != old:
            changed.append(new)
    return Lease(
        seq=seq,
        issued=issued,
        ttl=ttl,
        routes=routes,
        owned=owned,
        digest=digest_after(
            digest, before, changed, gone, owned=owned - owned_before, disowned=owned_before - owned
        )
        if changed or gone or owned is not owned_before
        else digest,
        base=base,
        changed=tuple(changed),
        gone=tuple(gone),
        mark=mark,
    )


# Agents and plugins of different releases compare these: the texts never change. A release with another attribute
# of a route adds it at the end, and only where it is set.


def digest_of(route: Route) -> int:
    """64 bits of one route with its attributes."""
    text = _text(route)
    for variant in route.variants:
        text += f" to {','.join(variant.neighbors)} {_text(variant.route)}"
    return _digest(text)


def _text(route: Route) -> str:
    text = (
        f"{route.prefix} {route.next_hop} {route.med}"
        f" {','.join(route.communities)} {','.join(route.large_communities)}"
    )
    if route.as_path:
        text += f" as_path {','.join(map(str, route.as_path))}"
    if route.local_preference is not None:
        text += f" local_preference {route.local_preference}"
    if route.extended_communities:
        text += f" extended {','.join(route.extended_communities)}"
    if route.origin is not None:
        text += f" origin {route.origin}"
    return text


def digest_of_owned(prefix: Prefix) -> int:
    """64 bits of a prefix that the node may announce."""
    return _digest(f"owned {prefix}")


def digest_of_all(routes: Iterable[Route], owned: Iterable[Prefix]) -> int:
    """Of a full set: the sum of all, so that each can be added and taken away, in any order."""
    return (sum(map(digest_of, routes)) + sum(map(digest_of_owned, owned))) % _MODULUS


def digest_after(
    digest: int,
    before: Mapping[Prefix, Route],
    changed: Iterable[Route],
    gone: Iterable[Prefix],
    *,
    owned: Iterable[Prefix] = (),
    disowned: Iterable[Prefix] = (),
) -> int:
    """The digest of a set that had `digest` and the routes `before`, with this difference. Costs the difference.

    Raises KeyError where a prefix of `gone` is not in `before`.
    """
    for route in changed:
        old = before.get(route.prefix)
        digest += digest_of(route) - (0 if old is None else digest_of(old))
    digest -= sum(digest_of(before[prefix]) for prefix in gone)
    digest += sum(map(digest_of_owned, owned)) - sum(map(digest_of_owned, disowned))
    return digest % _MODULUS


def _digest(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
