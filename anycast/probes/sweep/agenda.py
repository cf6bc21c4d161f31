"""What is to be done when: instants in, what is due out. Cheap for those that come in order, as most do."""

from __future__ import annotations

import heapq
import math
from collections import deque
from itertools import count
from typing import Generic, TypeVar

__all__ = ["Agenda"]

T = TypeVar("T")


class Agenda(Generic[T]):
    """Items with the instant they are due, taken out in the order of their instants.

    Nothing is taken back: whoever takes an item out asks it whether it is still due.
    """

    __slots__ = ("_heap", "_number", "_row")

    def __init__(self) -> None:
        self._row: deque[tuple[float, T]] = deque()  # in order by itself: a heap costs ten times as much
        self._heap: list[tuple[float, int, T]] = []
        self._number = count()  # items need not be comparable

    def __len__(self) -> int:
        return len(self._row) + len(self._heap)

    def add(self, at: float, item: T) -> None:
        row = self._row
        if not row or at >= row[-1][0]:
            row.append((at, item))
        else:
            heapq.heappush(self._heap, (at, next(self._number), item))

    def first(self) -> tuple[float, T] | None:
        """The first, left where it is."""
        row, heap = self._row, self._heap
        if heap and (not row or heap[0][0] < row[0][0]):
            return heap[0][0], heap[0][2]
        return row[0] if row else None

    def soonest(self) -> float:
        """The instant of the first; infinity: there is none."""
        row, heap = self._row, self._heap
        at = row[0][0] if row else math.inf
        return heap[0][0] if heap and heap[0][0] < at else at

    def due(self, until: float, most: int) -> list[T]:
        """The first, in their order, that are due by then, but so many at most. They are taken out."""
        row, heap = self._row, self._heap
        found: list[T] = []
        while len(found) < most:
            if heap and (not row or heap[0][0] < row[0][0]):
                if heap[0][0] > until:
                    break
                found.append(heapq.heappop(heap)[2])
            elif row and row[0][0] <= until:
                found.append(row.popleft()[1])
            else:
                break
        return found

    def take(self, until: float) -> T | None:
        """The first, if it is due by then."""
        row, heap = self._row, self._heap
        if heap and (not row or heap[0][0] < row[0][0]):
            return heapq.heappop(heap)[2] if heap[0][0] <= until else None
        return row.popleft()[1] if row and row[0][0] <= until else None
