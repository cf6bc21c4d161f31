"""Whether the engine keeps up with its lease: how late each one went out, and when something took too long. Pure.

A lease is due after a third of its time to live. What takes longer than another third is told while the lease still
holds: nothing has expired by then.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace

LATENESS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
"""Upper ends, in seconds, of what leases are sorted into by how late they were."""

SHARE = 1 / 3  # of the time to live
CALM = 60.0  # seconds with nothing that took too long, after which an overload is over


@dataclass(frozen=True, slots=True, kw_only=True)
class Overload:
    """A time in which `times` things took longer than `limit`; `doing` took the longest, `seconds`."""

    doing: str
    seconds: float
    limit: float
    since: float  # monotonic
    last: float
    times: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Strain:
    """Since the start of the agent. `buckets`: up to each of LATENESS and over the one before, the last over them all."""

    buckets: tuple[int, ...] = (0,) * (len(LATENESS) + 1)
    late: float = 0.0  # seconds, of all leases together
    overload: Overload | None = None  # while it lasts
    overloads: int = 0

    def sent(self, late: float) -> Strain:
        """After a lease that went out `late` seconds after it was due."""
        buckets = list(self.buckets)
        buckets[bisect_left(LATENESS, late)] += 1
        return replace(self, buckets=tuple(buckets), late=self.late + late)

    def took(self, doing: str, seconds: float, *, ttl: float, now: float) -> Strain:
        """After `doing` has taken so many seconds, until `now`. The same object: that was not too long."""
        limit = ttl * SHARE
        if seconds <= limit:
            return self
        known = self.overload
        if known is None:
            begun = Overload(doing=doing, seconds=seconds, limit=limit, since=now - seconds, last=now)
            return replace(self, overload=begun, overloads=self.overloads + 1)
        worse = replace(known, doing=doing, seconds=seconds) if seconds > known.seconds else known
        return replace(self, overload=replace(worse, last=now, times=known.times + 1))

    def calmed(self, now: float) -> Strain:
        """Without an overload that is over. The same object: there is none."""
        over = self.overload is not None and now - self.overload.last > CALM
        return replace(self, overload=None) if over else self
