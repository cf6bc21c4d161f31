"""What the plugin tells of: routes, acknowledgements, BGP sessions. Light to import, for it reads this too."""

from __future__ import annotations

from dataclasses import dataclass

from anycast.core.values.route import Prefix


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedRoute:
    """A wanted prefix that is not announced, and why in words."""

    prefix: Prefix
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighborState:
    """A BGP session as ExaBGP tells of it. `state` is its word: up, down, connected."""

    address: str
    state: str
    changed: float  # instant; of the first time it was heard of, when the change itself was not seen
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the plugin made of the leases.

    `seq` is the newest lease of this connection whose set of routes ExaBGP has acknowledged whole; 0: none yet.
    `announced` are the prefixes that are, or may be, announced: from the moment the announce is written
    until a withdraw is acknowledged. `pending` are those with a command written or queued.
    """

    seq: int
    announced: tuple[Prefix, ...] = ()
    pending: tuple[Prefix, ...] = ()
    failed: tuple[FailedRoute, ...] = ()
    neighbors: tuple[NeighborState, ...] = ()
    exabgp_version: str | None = None
    exabgp_pid: int = 0
    pid: int = 0
    errors: int = 0  # commands ExaBGP refused, since the start of the plugin
    acks: int = 0  # commands ExaBGP took, since the start of the plugin
    oldest_ack_age: float | None = (
        None  # seconds the oldest unanswered command has waited; None: nothing waits
    )
    lease_expired: bool = False
