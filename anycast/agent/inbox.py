"""What waits for `step`, in the order of its importance. No clock, no loop: events go in and come out.

Down before up: results that can take something out of service go first, then commands, then what brings back into
service, then what was read or reported. But nothing waits for ever: a line that was passed over often enough is next.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Protocol, TypeAlias

from anycast.core import events as ev
from anycast.core.health.phase import Outcome, Result
from anycast.core.values.configuration import Target

__all__ = ["SLICE", "Inbox"]

SLICE = 0.005  # seconds of processor time, for results that are worked off together
_FIRST = 16  # results of a slice before any was measured
# Of a slice: what follows for a service is concluded once for all of its results, so that many small slices of one with
# a thousand real servers take far longer in all.
_LEAST = 16
_MOST = 64  # of a slice: one result may cost thirty times what those before it did, for it turns a VIP
_FORGETS = 0.9  # of what was measured, with each slice

_COMMAND = ev.MaintenanceSet | ev.LeaveAsked | ev.LeaveDropped | ev.Reconfigured | ev.StopRequested


Beside: TypeAlias = Callable[[Target], Iterable[Target]]
"""The targets of the service that the target is of."""


class _Line(Protocol):
    patience: float  # turns of other lines that it waits for
    passed: int  # turns of others since it had its own, while something waited

    def __bool__(self) -> bool: ...

    def take(self) -> ev.Event: ...


class _Events:
    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.passed = 0
        self._events: deque[ev.Event] = deque()
        self.put = self._events.append
        self.take = self._events.popleft

    def __bool__(self) -> bool:
        return bool(self._events)


class _Results:
    """Of each target in order. A slice has as many targets as the cost of the last ones allows.

    Targets of one service go together: what follows from them is concluded once.
    """

    def __init__(self, patience: float, beside: Beside) -> None:
        self.patience = patience
        self._beside = beside
        self.passed = 0
        self.waiting: dict[Target, list[Result]] = {}
        self._most = _FIRST
        self._each = 0.0  # seconds of processor time

    def __bool__(self) -> bool:
        return bool(self.waiting)

    def take(self) -> ev.Probed:
        waiting = self.waiting
        targets: Iterable[Target] = list(waiting) if len(waiting) <= self._most else self._some()
        return ev.Probed(results=tuple((each, result) for each in targets for result in waiting.pop(each)))

    def _some(self) -> Iterable[Target]:
        found: dict[Target, None] = {}
        for target in self.waiting:
            if len(found) >= self._most:
                break
            if target not in found:
                found[target] = None
                found.update((each, None) for each in self._beside(target) if each in self.waiting)
        return islice(found, self._most)

    def took(self, results: int, seconds: float) -> None:
        """What the dearest of the last slices took decides. A few tell of many only if they took too long."""
        if results < self._most and seconds <= SLICE:
            return
        self._each = max(seconds / results, self._each * _FORGETS)
        room = int(SLICE / self._each) if self._each > 0 else _MOST
        self._most = max(_LEAST, min(room, 2 * self._most, _MOST))


class Inbox:
    """Takes events and results; hands them out one after the other, results in slices.

    Events of one sort keep their order (the commands; those of the kernel and of a plugin), and so do the results of one target.
    """

    def __init__(self, can_fall: Callable[[Target], bool], beside: Beside = lambda _: ()) -> None:
        """`can_fall`: whether a failure of the target may take something out of service."""
        self._can_fall = can_fall
        self._down, self._up = _Results(math.inf, beside), _Results(6, beside)
        self._commands, self._readings = _Events(2), _Events(8)
        self._lines: tuple[_Line, ...] = (self._down, self._commands, self._up, self._readings)
        self._turn = self._down  # whose results were taken last

    def __bool__(self) -> bool:
        return any(self._lines)

    def put(self, event: ev.Event) -> None:
        (self._commands if isinstance(event, _COMMAND) else self._readings).put(event)

    def report(self, target: Target, result: Result) -> None:
        """With a failure, what its target said before goes ahead too."""
        down, up = self._down.waiting, self._up.waiting
        if target in down:
            down[target].append(result)
        elif result.outcome is Outcome.FAIL and self._can_fall(target):
            down[target] = [*up.pop(target, ()), result]
        else:
            up.setdefault(target, []).append(result)

    def forget_results(self) -> None:
        self._down.waiting.clear()
        self._up.waiting.clear()

    def take(self) -> ev.Event | None:
        """The next; None: nothing waits."""
        waiting = [line for line in self._lines if line]
        if not waiting:
            return None
        turn = next((line for line in waiting if line.passed >= line.patience), waiting[0])
        for line in waiting:
            line.passed += 1
        turn.passed = 0
        if isinstance(turn, _Results):
            self._turn = turn
        return turn.take()

    def took(self, event: ev.Event, seconds: float) -> None:
        """The event took so long, processor time, with all that followed from it. Another than results has no slices."""
        if isinstance(event, ev.Probed):
            self._turn.took(len(event.results), seconds)
