"""Maintenance of a node, of one VIP or of one real server, and the stages it takes a route through."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

NODE = ""  # the scope of the whole node; another scope is the name of a VIP, or POOL/SERVER


def server_scope(pool: str, server: str) -> str:
    return f"{pool}/{server}"


def is_server(scope: str) -> bool:
    return "/" in scope


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintenance:
    """Why, who and when, for people. `since` is wall-clock time (seconds since the epoch): it outlives boots.

    `began` is monotonic, None when it was found on disk: then its drain is long over.
    """

    reason: str
    by: str
    since: float
    began: float | None = None


class Stage(StrEnum):
    ACTIVE = "active"
    DRAINING = "draining"  # announced with GRACEFUL_SHUTDOWN
    WITHDRAWN = "withdrawn"


def drain_ends(entry: Maintenance, drain: float) -> float | None:
    """The instant the route goes away, or None when it has gone before this process began."""
    return None if entry.began is None else entry.began + drain


def stage(entry: Maintenance | None, *, drain: float, now: float) -> Stage:
    if entry is None:
        return Stage.ACTIVE
    ends = drain_ends(entry, drain)
    return Stage.DRAINING if ends is not None and now < ends else Stage.WITHDRAWN
