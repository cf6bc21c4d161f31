"""What every row has at hand: the builds in turns, the sizes, room for files."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lab.scale.builds import Build
from lab.scale.figures import Figure, Goal, Point
from lab.scale.sites import Size


@dataclass
class Bench:
    """One run. `seconds`: of each of the long rows; `wanted`: names of rows."""

    directory: Path
    base: Build | None
    ours: Build
    wanted: frozenset[str]
    quick: bool
    seconds: float
    most: int | None = None  # rounds
    points: list[Point] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def builds(self) -> tuple[Build, ...]:
        """In the order of their turns."""
        return (self.ours,) if self.base is None else (self.base, self.ours)

    def turns(self, rounds: int) -> Iterator[Build]:
        for _ in range(self.rounds(rounds)):
            yield from self.builds

    def rounds(self, full: int) -> int:
        return 1 if self.quick else min(full, self.most or full)

    def size(self, full: Size, quick: Size) -> Size:
        return quick if self.quick else full

    def folder(self, name: str) -> Path:
        """One that is not there yet. Its path is short enough for a socket."""
        return self.directory / f"{name}{next(self._numbers)}"

    def figure(
        self,
        row: str,
        work: str,
        unit: str,
        found: dict[str, list[float]],
        goal: Goal | None = None,
        *,
        worst: bool = False,
        note: str = "",
    ) -> list[Figure]:
        """Of the values by build; nothing where the row is not wanted."""
        if row not in self.wanted:
            return []
        base, ours = (tuple(found.get(name, ())) for name in ("base", "ours"))
        return [
            Figure(row=row, work=work, unit=unit, base=base, ours=ours, goal=goal, worst=worst, note=note)
        ]
