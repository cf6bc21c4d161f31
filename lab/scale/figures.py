"""What `lab.bench_scale` makes of what it measured: ratios, whether a goal is reached, the table. No I/O."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from anycast.cli.table import table
from lab.figures import REACHED

NEVER = math.inf  # what was waited for did not come about


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What is asked of a figure; None: not that. `ratio`: ours as a part of the base's; `most`: in the figure's unit."""

    ratio: float | None = None
    most: float | None = None

    def __str__(self) -> str:
        ratio = [f"≤ {self.ratio:g} ×"] if self.ratio is not None else []
        return ", ".join([*ratio, *([f"≤ {self.most:g}"] if self.most is not None else [])])


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One work in one unit, as often as it was measured. Of times that must not be exceeded `worst` counts.

    `note`: what the reader must know, or why there is nothing.
    """

    row: str
    work: str
    unit: str
    base: tuple[float, ...] = ()
    ours: tuple[float, ...] = ()
    goal: Goal | None = None
    worst: bool = False
    note: str = ""

    def value(self, values: Sequence[float]) -> float | None:
        if not values:
            return None
        return max(values) if self.worst else median(values)

    @property
    def ratio(self) -> float | None:
        base, ours = self.value(self.base), self.value(self.ours)
        if base is None or ours is None or not base or math.isinf(base) or math.isinf(ours):
            return None
        return ours / base

    @property
    def reached(self) -> bool | None:
        """None: there is no goal, or nothing to judge it by."""
        ours = self.value(self.ours)
        if self.goal is None or ours is None:
            return None
        held = []
        if self.goal.most is not None:
            held.append(ours <= self.goal.most)
        if self.goal.ratio is not None and self.ratio is not None:
            held.append(self.ratio <= self.goal.ratio)
        return all(held) if held else None

    def cells(self) -> tuple[str, ...]:
        base, ours = self.value(self.base), self.value(self.ours)
        unit = f", {self.unit}" if self.unit else ""
        return (
            self.row,
            f"{self.work}{unit}",
            shown(base),
            shown(ours),
            "-" if self.ratio is None else f"{self.ratio:.2g}",
            "-" if self.goal is None else str(self.goal),
            REACHED[self.reached],
        )

    def document(self) -> dict[str, object]:
        goal = None if self.goal is None else {"ratio": self.goal.ratio, "most": self.goal.most}
        return {
            "row": self.row,
            "work": self.work,
            "unit": self.unit,
            "base": _plain(self.value(self.base)),
            "ours": _plain(self.value(self.ours)),
            "ratio": None if self.ratio is None else float(f"{self.ratio:.4g}"),
            "goal": goal,
            "reached": self.reached,
            "note": self.note,
            "values": {
                "base": [_plain(one) for one in self.base],
                "ours": [_plain(one) for one in self.ours],
            },
        }


def shown(value: float | None) -> str:
    if value is None:
        return "-"
    if math.isinf(value):
        return "never"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _plain(value: float | None) -> float | str | None:
    """JSON has no infinity."""
    if value is None:
        return None
    return "never" if math.isinf(value) else float(f"{value:.6g}")


def figures_table(figures: Sequence[Figure]) -> str:
    head = ("row", "work", "base", "ours", "ratio", "goal", "reached")
    lines = table(head, [one.cells() for one in figures], colour=False)
    notes = [f"{one.row}, {one.work}: {one.note}" for one in figures if one.note]
    return "\n".join([lines, *notes])


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """The cost of one work at one size, for the picture. `cost` in seconds of CPU time."""

    work: str
    build: str
    vips: int
    cost: float


def slope(points: Sequence[Point], build: str, work: str, since: int = 10) -> float | None:
    """The exponent with which the cost grows from `since` VIPs on, by least squares; None: too few points."""
    found = [
        (math.log(one.vips), math.log(one.cost))
        for one in points
        if (one.build, one.work) == (build, work) and one.vips >= since and one.cost > 0
    ]
    if len(found) < 2:
        return None
    mean_x, mean_y = (sum(axis) / len(found) for axis in zip(*found, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in found)
    return sum((x - mean_x) * (y - mean_y) for x, y in found) / spread if spread else None
