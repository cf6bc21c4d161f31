"""When runs are due: a beat of its own for every target, and a pace for every address. Instants in, instants out."""

from __future__ import annotations

import math
from functools import cache

__all__ = ["BATCH", "OFTEN", "Host", "lag", "next_beat", "offset", "on_beat", "together"]

BATCH = 0.02  # seconds: runs that are due closer together than that begin together, for a wake costs as much as ten
OFTEN = 1.0  # seconds: runs with a shorter pause do not wait for a larger lot
_LAG = 0.2  # seconds that others begin later than due, at most: in a lot of many, or in a step of programs
_STEP = 0.1  # seconds: programs that are due within the same begin together, at its end
_GAP = 0.001  # seconds between two runs against one address, however many checks it has
_NEVER = -math.inf
_GOLDEN = (math.sqrt(5) - 1) / 2
_PARTS = 5
_ROUNDING = 1e-6  # of an interval


def lag(after: float) -> float:
    """How many seconds later than due a run may begin that comes `after` seconds from the one before."""
    return BATCH if after < OFTEN else _LAG


def next_beat(beat: float, after: float, now: float) -> float:
    """When the next run is due, `after` seconds from the last that was due at `beat`, or whole steps of it later.

    A run that took longer than its interval, or an agent that was stopped, misses beats. To make up for them would
    let all targets run at once, and to count from now would move the beats together. A beat just gone by is not
    missed: else a timeout as long as the interval would halve the pace.
    """
    at = beat + after
    since = now - lag(after)
    if at >= since:
        return at
    return at + math.ceil((since - at) / after) * after if after > 0 else now


def offset(place: int, interval: float) -> float:
    """Where in its interval a target has its beat: neighbors in the order lie far apart, however many there are.

    When several of them die together, the first that is looked at tells, and the core asks the others at once. For a
    fifth of an interval at most nobody is looked at; a few more targets share the wakes of these five.
    """
    fifth = place * 2 % _PARTS
    within = place // _PARTS // 2 * _GOLDEN % 1.0
    return (fifth + within) / _PARTS * interval


def on_beat(base: float, interval: float, beat: float, now: float) -> float:
    """The first instant after `beat` that is whole intervals from `base` and not missed yet."""
    since = (max(beat, now - lag(interval)) - base) / interval
    return base + (math.floor(since + _ROUNDING) + 1) * interval


def together(at: float) -> float:
    """When a program begins that is due `at` by its interval: what a wake costs is shared by all of its step."""
    return math.ceil(at / _STEP) * _STEP


@cache
def _rate(interval: float) -> float:
    return 1 / interval


class Host:
    """An address, and when it may be bothered again."""

    __slots__ = ("_demand", "_free_at", "_gap", "targets")

    def __init__(self) -> None:
        self.targets = 0
        self._demand = 0.0  # runs a second that its targets may ask for
        self._gap = _GAP
        self._free_at = _NEVER

    def join(self, interval: float) -> None:
        """A target more, with the shortest of its intervals."""
        self._count(1, interval)

    def leave(self, interval: float) -> None:
        self._count(-1, interval)

    def _count(self, targets: int, interval: float) -> None:
        self.targets += targets
        rate = _rate(interval)
        # Most addresses have one target: thousands of them share one number.
        self._demand = 0.0 if not self.targets else self._demand + targets * rate if self._demand else rate
        # So short that all that is asked for finds its place: runs are spread, not left out.
        self._gap = min(_GAP, 0.5 / self._demand) if self._demand > 0 else _GAP

    def reserve(self, due: float, now: float) -> float:
        """The instant for one run that is due; nobody else gets it. It may be in the past: then begin at once."""
        at = max(self._free_at, due, now - BATCH)
        self._free_at = at + self._gap
        return at
