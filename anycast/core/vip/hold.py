"""The hold after a start: how long the data plane must be proven before anything is announced, longer after crashes.

An agent that ended without a clean stop crashed. One crash costs nothing: the agent that starts within the lease's TTL
causes no BGP message. From the second within a window on, the hold doubles with each.

Instants are monotonic and valid within one boot only; those of an earlier boot count as the beginning of this one. So
setting the clock ends no hold.
"""

from __future__ import annotations

from dataclasses import dataclass

from anycast.core.values.configuration import Timing

WINDOW = 600.0  # seconds; crashes further back do not count
FREE = 1  # crashes in it that cost nothing
FIRST = 2.0  # seconds after the first that does, where `start_hold` is no longer
KEPT = 20  # crashes that are remembered; the limit is reached long before
DAMAGED = 3  # crashes that a record which cannot be read counts for


@dataclass(frozen=True, slots=True, kw_only=True)
class Starts:
    """What an agent leaves for the next. `running`: it has not ended cleanly."""

    boot: str  # of the instants; empty: nobody knows
    running: bool
    crashes: tuple[float, ...] = ()  # when each was noticed, by the start after it

    @property
    def count(self) -> int:
        return len(self.crashes)


def started(before: Starts | None, *, boot: str, now: float) -> Starts:
    """The record of an agent that starts. `before`: what it found; None: nothing."""
    if before is None:
        return Starts(boot=boot, running=True)
    same = bool(boot) and before.boot == boot
    # An instant of this boot that is still to come is none.
    crashes = [min(at, now) if same else 0.0 for at in before.crashes]
    if before.running:
        crashes.append(now)
    recent = [at for at in crashes if now - at < WINDOW]
    return Starts(boot=boot, running=True, crashes=tuple(recent[-KEPT:]))


def after_damage(*, boot: str, now: float) -> Starts:
    """The record for an unknown number of crashes: enough for a hold."""
    return Starts(boot=boot, running=True, crashes=(now,) * DAMAGED)


def stopped(starts: Starts) -> Starts:
    """The record of a clean stop: earlier crashes no longer count."""
    return Starts(boot=starts.boot, running=False)


def hold(timing: Timing, crashes: int) -> float:
    """Seconds the data plane must have been proven."""
    paid = crashes - FREE
    if paid < 1:
        return timing.start_hold
    longer = max(timing.start_hold, FIRST) * 2.0 ** (min(paid, KEPT) - 1)
    return max(timing.start_hold, min(longer, timing.start_hold_limit))
