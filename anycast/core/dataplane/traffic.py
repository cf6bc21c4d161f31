"""The packets that services receive: from counters to a rate.

The kernel adds the counters of a service up every two seconds. So two readings a second apart prove nothing, and a
rate is taken over more than that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from anycast.core.dataplane.ipvs import Key

WINDOW = 3.0  # seconds between two readings that make a rate
APART = 0.5  # seconds between two that are worth keeping


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """Packets received by each service so far, as read at the instant `at`."""

    at: float
    packets: Mapping[Key, int]


def counted(counts: tuple[Count, ...], new: Count) -> tuple[Count, ...]:
    """The readings with a new one, and without those too old to be needed for a rate."""
    if counts and new.at < counts[-1].at + APART:
        return counts
    old = [count for count in counts if count.at <= new.at - WINDOW]
    return (*old[-1:], *counts[len(old) :], new)


def rate(counts: tuple[Count, ...], keys: Iterable[Key], *, since: float = float("-inf")) -> float | None:
    """Packets a second of all these services, from the last readings that are far enough apart.

    Readings before `since` do not count. None: the rate is not known yet, or a counter went back.
    """
    newest = counts[-1] if counts else None
    bases = [count for count in counts if newest and since <= count.at <= newest.at - WINDOW]
    if newest is None or not bases:
        return None
    base = bases[-1]
    total = 0
    for key in keys:
        now = newest.packets.get(key)
        if now is None:
            continue  # the kernel no longer serves it
        before = base.packets.get(key)
        if before is None or now < before:
            return None
        total += now - before
    return total / (newest.at - base.at)
