"""What a route in the kernel's table tells the daemon that learns it. Light to import, for the announcer reads it."""

from __future__ import annotations

from enum import IntEnum

from anycast.core.values.route import GRACEFUL_SHUTDOWN, Route

PROTOCOL = 179
"""The kernel's number for routes that are ours. BIRD calls it `krt_source`; iproute2 has no name for it."""

DISCARD_PROTOCOL = 178
"""The same of the routes in the main table that end what comes for the rest of a wide prefix."""
DISCARD_METRIC = 4_000_000_000
"""Of these: any other route of the same prefix goes before them."""

ANNOUNCED, LAST_RESORT = 10, 20


class Metric(IntEnum):
    """The metric of a route. What `anycast render bird` writes goes by it.

    LISTED: it has attributes of its own, which only the daemon's configuration can have: where that does not list the
    prefix, the daemon does not announce it.
    """

    PLAIN = ANNOUNCED
    LISTED = ANNOUNCED + 1
    LAST_RESORT = LAST_RESORT
    LISTED_LAST_RESORT = LAST_RESORT + 1


def metric(route: Route) -> Metric:
    """What all VIPs of a last resort have alike counts for nothing."""
    last = GRACEFUL_SHUTDOWN in route.communities
    listed = (
        any(one != GRACEFUL_SHUTDOWN for one in route.communities)
        or route.large_communities
        or route.extended_communities
        or route.as_path
        or route.origin is not None
        or route.variants
        or (not last and (route.med is not None or route.local_preference is not None))
    )
    if last:
        return Metric.LISTED_LAST_RESORT if listed else Metric.LAST_RESORT
    return Metric.LISTED if listed else Metric.PLAIN
