"""What a reload does with a route, and with a real server."""

from __future__ import annotations

from enum import StrEnum


class Way(StrEnum):
    """What becomes of a route."""

    WITHDRAWN = "withdrawn"
    COMING = "coming"  # its address is new: it is announced once the VIP is proven
    CHANGED = "changed"  # announced over itself, with other attributes
    ANNOUNCED = "announced"  # at once


class Fate(StrEnum):
    """What becomes of a real server of a service."""

    ADDED = "added"  # has clients once its check is good
    DRAINS = "drains"  # no new clients; removed once its connections have ended, or after timing.server_drain
    LEAVES = "leaves"  # with its address, once the route is gone
    REMOVED = "removed"  # it has no connections to wait for
    KEPT = "kept"  # serves on until enough of those that replace it are proven, and drains then
    IDLE = "idle"  # stays, without new clients
    RESUMES = "resumes"  # has new clients again
    CHANGED = "changed"  # its weight, thresholds or forwarding
