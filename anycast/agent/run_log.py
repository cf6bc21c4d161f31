"""How long checks took, until the ops process is told."""

from __future__ import annotations

from array import array
from collections.abc import Mapping

from anycast.core.values.configuration import Target

MAX_RUNS = 20_000  # durations that wait to be told; more are forgotten


class RunLog:
    """How long checks took, since the last message. Targets have numbers: it is one entry for each run of a check."""

    def __init__(self) -> None:
        self.numbers: Mapping[int, Target] = {}  # another with every change
        self._ran = array("I")
        self._took = array("f")

    def add(self, number: int, took: float) -> None:
        if len(self._ran) >= MAX_RUNS:
            self.take()
        self._ran.append(number)
        self._took.append(took)

    def extend(self, numbers: list[int], took: list[float]) -> None:
        """The same for many."""
        if len(self._ran) + len(numbers) > MAX_RUNS:
            self.take()
        self._ran.extend(array("I", numbers))
        self._took.extend(array("f", took))

    def take(self) -> tuple[bytes, bytes]:
        """The numbers and the seconds, which are forgotten here."""
        taken = self._ran.tobytes(), self._took.tobytes()
        del self._ran[:], self._took[:]
        return taken
