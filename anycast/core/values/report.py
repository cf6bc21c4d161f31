"""What the plugin reports: routes, acknowledgements, BGP sessions. Light to import, for the plugin imports it too."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from anycast.core.values.route import Prefix

OLDEST = (5, 0, 13)
"""The oldest ExaBGP that no peer can make say things of its own to the plugin."""
_OLDEST = ".".join(map(str, OLDEST))


ATTRIBUTES = 4
"""What a plugin of this release can send of a route: 2 has AS path, local preference, extended communities, origin; 3
sends each neighbor its own; 4 IPv4 routes with an IPv6 next hop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedRoute:
    """A wanted prefix that is not announced, and why in words."""

    prefix: Prefix
    why: str


CEASE_PREFIXES = "notification received (6,1)"
"""ExaBGP's words for a router that ends the session because of its `maximum-prefix` (RFC 4486)."""
TOO_MANY = (
    "the router has had more prefixes than it takes, and keeps the session down: raise its maximum-prefix, then clear "
    "the session there"
)

CEASE_COLLISION = "notification received (6,7)"
"""ExaBGP's words for a router that has a session with this node already (RFC 4271, 6.8)."""
HELD = (
    "the router still holds a session of before this node was reset: it ends that when its next keepalive is refused, after a "
    "third of the hold time at the most, and takes this one at the next try"
)

CEASE_BFD = "notification received (6,10)"
"""ExaBGP's words for a router that ends the session because its BFD is down (RFC 9384)."""
BFD_DOWN = (
    "the router has ended the session because BFD is down: see that bfdd runs on this node (`vtysh -c 'show bfd peers brief'`); "
    "a router with `bfd strict` takes no session before BFD is up again"
)
EXPLAINED = {CEASE_PREFIXES: TOO_MANY, CEASE_COLLISION: HELD, CEASE_BFD: BFD_DOWN}
"""What a router means, where its NOTIFICATION has no words of its own."""


SILENT = 1.5
"""Seconds without an answer after which nothing that ExaBGP said before counts."""


def too_old(version: str | None) -> str | None:
    """Why no route is announced through this ExaBGP, in words; None: it is supported, or not known."""
    return (
        f"ExaBGP {version} is not supported: install {_OLDEST} or newer"
        if version is not None and _numbers(version)[:1] < OLDEST[:1]
        else None
    )


def vulnerable(version: str | None) -> str | None:
    """What to do about an ExaBGP whose BGP peers can write events of their own to its processes; None: nothing is known."""
    return (
        f"install {_OLDEST} or newer"
        if version is not None and OLDEST[:1] <= _numbers(version) < OLDEST
        else None
    )


def _numbers(version: str) -> tuple[int, ...]:
    """`5.0.15` as numbers; what has none counts as new."""
    found = re.match(r"\d{1,9}(?:\.\d{1,9})*", version, re.ASCII)
    return tuple(map(int, found[0].split("."))) if found else OLDEST


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighborState:
    """A BGP session as ExaBGP reports it. `state` is ExaBGP's word: up, down, connected."""

    address: str
    state: str
    changed: float  # instant; of the first time it was heard of, when the change itself was not seen
    reason: str = ""


SETUP = ("neighbor", "remote_as", "local_as", "router_id", "local_address", "hold_time", "families", "view")
"""What ExaBGP tells of how a session is set up, in one text, in this order; the last one only where it is on (VIEW)."""
VIEW = "on"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the plugin made of the leases.

    `seq` is the newest lease of this connection that the plugin follows; 0: none yet. `announced` are the prefixes
    that are, or may be, announced: from the moment the announce is written until ExaBGP has acknowledged a withdraw,
    and after the plugin's start until its first withdraws are proven. So ExaBGP has withdrawn a prefix as of
    lease S if `seq >= S` and the prefix is not in `announced`, whatever becomes of other prefixes.
    `pending` are the prefixes with a command written or queued, and those whose state is not known. `touched` are the
    prefixes of which it says something else than the report before it, and perhaps others; None: that is not known.
    """

    seq: int
    announced: frozenset[Prefix] = frozenset()
    pending: frozenset[Prefix] = frozenset()
    failed: tuple[FailedRoute, ...] = ()
    neighbors: tuple[NeighborState, ...] = ()
    exabgp_version: str | None = None
    exabgp_pid: int = 0
    pid: int = 0
    errors: int = 0  # commands ExaBGP refused, since the start of the plugin
    acks: int = 0  # commands ExaBGP took, since the start of the plugin
    silent_since: float | None = None  # instant since which ExaBGP has owed an answer; None: it answers
    mute: bool = False  # the agent's word: since then it is the plugin that owes one, so nothing is known of its ExaBGP
    lease_expired: bool = False
    late_leases: int = (
        0  # leases that were over when they came and were not followed, since the start of the plugin
    )
    followed: float | None = (
        None  # instant at which the lease was issued that it follows, or followed last; None: not known
    )
    attributes: int = (
        1  # which attributes of a route it sends: ATTRIBUTES of its release; 1: of one without roles
    )
    rendered: str = ""  # digest of the configuration that ExaBGP was started with; empty: not known
    setups: tuple[str, ...] = ()  # of all sessions, as ExaBGP has them now (SETUP); empty: not known
    loaded: float | None = (
        None  # instant at which it was last seen to have read another file, in the life of the plugin
    )
    journal_error: str = ""  # why the plugin's journal cannot be written
    speaker: str = ""  # `table 1179`: of the announcer; empty: of ExaBGP's plugin
    daemon: str = ""  # that learns the table, with its version; empty: not known
    unseen: str = (
        ""  # why it is not known what the daemon has learned and which sessions are up; empty: it is
    )
    trouble: str = ""  # of the table: it cannot be read, or has routes of others
    touched: frozenset[Prefix] | None = field(default=None, compare=False)


def silent_for(report: Report, now: float) -> float | None:
    """Seconds for which ExaBGP has not answered; None: it answers, or has time for it yet.

    Routers may drop its routes three seconds after it stood still, the shortest hold time: by then it is known.
    """
    silence = 0.0 if report.silent_since is None else now - report.silent_since
    return silence if silence >= SILENT else None
