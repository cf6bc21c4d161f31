"""The end of a maintenance, by two clocks.

Instants are monotonic; what outlives a boot is wall-clock time. A maintenance with an end ends when both say so. They
come apart when somebody sets the clock: `stepped` says what becomes of the end then.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

STEP = 1.0  # seconds by which the clocks come apart at once when somebody sets one; slewing is far slower
SLEWED = 0.25  # seconds by which they may come apart by and by until an end follows
ROUNDING = 1e-3  # seconds: seconds since the epoch are not exact


class Expiry(StrEnum):
    RESUME = "resume"  # back into service
    HOLD = "hold"  # it stays in maintenance, and is overdue


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """When a maintenance ends by itself."""

    at: float  # wall clock, seconds since the epoch
    then: Expiry = Expiry.RESUME
    lasts: bool = False  # it was said as a duration: what is left stays when the clock is set
    due: float | None = None  # the same instant by the monotonic clock of this boot; None: not worked out yet


def anchored(end: End, *, said: float, wall: float, now: float) -> End:
    """The end with its monotonic instant, for a process that has just begun. `said`: the wall clock when it was set.

    One from before the boot has only its wall-clock time, and goes by it from then on; while the clock shows a time
    before it was even said, the clock is wrong and the end stays without an instant. Of one of this boot the clock
    may have been set while nobody looked.
    """
    if end.due is not None:
        return stepped(end, wall=wall, now=now)
    if wall < min(said, end.at):
        return end
    return replace(end, lasts=False, due=now + end.at - wall)


def stepped(end: End, *, wall: float, now: float) -> End:
    """The end after somebody has set the wall clock: nothing ends for that alone.

    What was said as a duration keeps what is left of it. What was said as a time keeps the time; when the clock
    jumps over it, it ends no sooner than it would have.
    """
    if end.due is None:
        return end
    if end.lasts:
        return replace(end, at=wall + end.due - now)
    return replace(end, due=now + end.at - wall) if end.at > wall else end


def has_passed(end: End, *, wall: float, now: float) -> bool:
    """By both clocks: the one alone may have been set."""
    return end.due is not None and now >= end.due and wall >= end.at - ROUNDING
