"""Instants that recur, on the loop's clock and in step with the wall clock: with those of all nodes whose clocks agree. Pure."""

from __future__ import annotations

import math


def beat_before(now: float, wall: float, period: float) -> float:
    """The last instant, by the loop's clock, at which the wall clock showed a multiple of `period`. All in seconds."""
    return now - wall % period


def beat_after(beat: float, period: float, now: float) -> float:
    """The first instant after `now` that is whole periods from `beat`, which may be to come."""
    return beat + period * (math.floor((now - beat) / period) + 1)
