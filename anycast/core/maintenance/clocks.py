"""The end of a maintenance, by two clocks.

Instants are monotonic; wall-clock time is for what survives a reboot. A maintenance ends when both clocks have reached
its end. They come apart when somebody sets the clock: `stepped` says what happens to the end then.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

STEP = 1.0  # seconds by which the clocks differ at once when somebody sets one; slewing is far slower
SLEWED = 0.25  # seconds by which they may drift apart before an end is adjusted
ROUNDING = 1e-3  # seconds: seconds since the epoch are not exact


class Expiry(StrEnum):
    RESUME = "resume"  # back into service
    HOLD = "hold"  # it stays in maintenance, and is overdue


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """When a maintenance ends by itself."""

    at: float  # wall clock, seconds since the epoch
    then: Expiry = Expiry.RESUME
    lasts: bool = False  # it was given as a duration: the time left stays the same when the clock is set
    due: float | None = None  # the same instant by the monotonic clock of this boot; None: not worked out yet


def anchored(end: End, *, said: float, wall: float, now: float) -> End:
    """The end with its monotonic instant, for a process that has just begun. `said`: the wall clock when it was set.

    An end from before the boot has only its wall-clock time, which decides from then on. While the clock shows a time
    before `said`, the clock is wrong and the end stays without an instant. For an end from this boot, the clock may
    have been set while no agent was running.
    """
    if end.due is not None:
        return stepped(end, wall=wall, now=now)
    if wall < min(said, end.at):
        return end
    return replace(end, lasts=False, due=now + end.at - wall)


def stepped(end: End, *, wall: float, now: float) -> End:
    """The end after somebody has set the wall clock: nothing ends for that alone.

    A duration keeps the time it had left. A time stays; when the clock jumps past it, the maintenance ends no sooner
    than it would have without the jump.
    """
    if end.due is None:
        return end
    if end.lasts:
        return replace(end, at=wall + end.due - now)
    return replace(end, due=now + end.at - wall) if end.at > wall else end


def has_passed(end: End, *, wall: float, now: float) -> bool:
    """By both clocks, for one of them may have been set."""
    return end.due is not None and now >= end.due and wall >= end.at - ROUNDING
