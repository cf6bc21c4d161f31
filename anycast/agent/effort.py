"""What the agent's work takes on this machine, in this run. Readings of clocks go in."""

from __future__ import annotations

from anycast.analysis.capacity import LEAST

__all__ = ["Effort"]

_REMEMBERED = 5.0  # seconds of work by which the slowdown is known; older work counts half as much
_WINDOW = 30.0  # seconds over which checks are counted
_MANY = 500  # checks a second: with fewer, what else the agent does would count for much of what they take


class Effort:
    """`slowdown`: seconds that pass while the engine works for one. `check`: processor time of one check."""

    def __init__(self) -> None:
        self.check = LEAST
        self._passed = self._worked = 0.0
        self._mark: tuple[int, float, float] | None = None

    @property
    def slowdown(self) -> float:
        return max(1.0, self._passed / self._worked) if self._worked > 0 else 1.0

    def worked(self, passed: float, seconds: float) -> None:
        """For `seconds` of processor time, while so many passed."""
        self._passed += passed
        self._worked += seconds
        if self._worked > _REMEMBERED:
            self._passed /= 2
            self._worked /= 2

    def is_due(self, now: float) -> bool:
        """Whether `checked` should be told."""
        return self._mark is None or now >= self._mark[2] + _WINDOW

    def checked(self, runs: int, seconds: float, now: float) -> None:
        """So many runs of checks until now, and so much processor time of the whole process."""
        if self._mark is not None:
            more, took, passed = runs - self._mark[0], seconds - self._mark[1], now - self._mark[2]
            if more >= _MANY * passed > 0:
                self.check = max(LEAST, took / more)
        self._mark = runs, seconds, now
