"""The lease: what the agent asks the plugin to announce, and for how long. Light to import, for the plugin reads it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from anycast.core.values.route import Prefix, Route

MAX_TTL = 300.0  # seconds; a lease that hardly ends would defeat its purpose


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """What the node wants announced, good for `ttl` seconds from `issued` (the sender's monotonic clock).

    `routes` is the full set, each prefix once. `owned` is every prefix the node may ever announce.
    """

    seq: int
    issued: float
    ttl: float
    routes: tuple[Route, ...]
    owned: tuple[Prefix, ...] = ()

    def __post_init__(self) -> None:
        if self.seq < 0:
            raise ValueError(f"lease: seq: expected 0 or more, found {self.seq}")
        if not math.isfinite(self.issued):
            raise ValueError(f"lease: issued: expected an instant in seconds, found {self.issued}")
        if not 0 < self.ttl <= MAX_TTL:
            raise ValueError(f"lease: ttl: expected 0 < seconds <= {MAX_TTL:g}, found {self.ttl}")
        if len({route.prefix for route in self.routes}) != len(self.routes):
            raise ValueError("lease: routes: a prefix stands in it twice")

    def expires(self, now: float) -> float:
        """The instant it ends. A lease cannot be from the future, and one that lay in a buffer is old."""
        return min(self.issued, now) + self.ttl
