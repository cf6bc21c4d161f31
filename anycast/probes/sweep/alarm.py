"""One timer of the event loop for many instants: it stands for the earliest, and is moved as little as can be."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

__all__ = ["Alarm"]


class Alarm:
    """Calls `ring` when something is due, and is then set for what `due` says is next: an instant, or infinity.

    Inside one event loop. What is set while `ring` runs is left to `due`.
    """

    __slots__ = ("_due", "_loop", "_ring", "_timer", "at")

    def __init__(self, ring: Callable[[], object], due: Callable[[], float]) -> None:
        self._ring = ring
        self._due = due
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self.at = math.inf
        """When it rings; whoever adds something that is due earlier sets it. Minus infinity while it does."""

    def set(self, at: float) -> None:
        """Ring then, if not earlier."""
        if at < self.at:
            if self._timer is not None:
                self._timer.cancel()
            self.at = at
            self._timer = self._loop.call_at(at, self._rung)

    def renew(self) -> None:
        """Ring for what is next by now, if not earlier."""
        self.set(self._due())

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self.at = None, math.inf

    def _rung(self) -> None:
        self._timer, self.at = None, -math.inf
        try:
            self._ring()
        finally:
            if self.at == -math.inf:  # else it was cancelled meanwhile
                self.at = math.inf
                self.renew()
