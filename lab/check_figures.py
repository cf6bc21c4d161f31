"""What `lab.bench_checks` makes of its readings: CPU time of a thousand checks, ratios, rates. No I/O."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median

from anycast.cli.table import table
from lab.figures import COMPARED, REACHED, Comparison

ENOUGH = 0.95  # of the wanted rate: with less done, what it cost says nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one side did within one window. `cpu` and `seconds` in seconds, `grown` in bytes."""

    checks: int
    failed: int
    cpu: float
    seconds: float
    grown: int = 0

    @property
    def rate(self) -> float:
        """Checks per second."""
        return self.checks / self.seconds

    @property
    def per_thousand(self) -> float:
        """CPU seconds of a thousand checks."""
        return self.cpu / self.checks * 1000 if self.checks else math.inf

    def void(self, wanted: float) -> str:
        """Why it does not count; empty: it does."""
        if self.rate < ENOUGH * wanted:
            return f"{self.rate:.1f} checks/s instead of {wanted:g}"
        if self.failed:
            return f"{self.failed} checks failed"
        return ""


@dataclass(slots=True, kw_only=True)
class Side:
    """The readings of one side that count, one a round, and how many did not."""

    readings: list[Reading] = field(default_factory=list)
    void: int = 0

    @property
    def costs(self) -> list[float]:
        return [one.per_thousand for one in self.readings]

    @property
    def rate(self) -> float:
        return median(one.rate for one in self.readings) if self.readings else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Duel:
    """One work done by us and by a peer, which may be doing another work."""

    work: str
    peer: str
    goal: float
    ours: Side = field(default_factory=Side)
    theirs: Side = field(default_factory=Side)

    @property
    def comparison(self) -> Comparison | None:
        """None: a side never did its work."""
        if not self.ours.readings or not self.theirs.readings:
            return None
        return Comparison(
            work=self.work, peer=self.peer, goal=self.goal, ours=self.ours.costs, theirs=self.theirs.costs
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A figure of ours alone that must not be above `goal`."""

    work: str
    unit: str
    goal: float
    side: Side
    values: list[float]

    @property
    def reached(self) -> bool:
        return bool(self.values) and median(self.values) <= self.goal


def summary(duels: Sequence[Duel], bounds: Sequence[Bound]) -> str:
    """Both tables for people."""
    head = ("CPU of 1,000 checks", *COMPARED, "checks/s", "peer's", "rounds")
    first = [_row(one) for one in duels]
    second = [
        (
            one.work,
            f"{median(one.values):.2f} {one.unit}" if one.values else "void",
            f"<= {one.goal:g} {one.unit}",
            REACHED[one.reached],
            f"{one.side.rate:,.0f}",
            str(len(one.values)),
        )
        for one in bounds
    ]
    return (
        table(head, first, colour=False)
        + "\n"
        + table(("ours alone", "median", "goal", "reached", "checks/s", "rounds"), second, colour=False)
    )


def _row(duel: Duel) -> tuple[str, ...]:
    found = duel.comparison
    goal = f"<= {duel.goal:g}"
    rates = (
        f"{duel.ours.rate:,.0f}",
        f"{duel.theirs.rate:,.0f}",
        f"{len(duel.ours.readings)} : {len(duel.theirs.readings)}",  # that count
    )
    if found is None:
        return (duel.work, duel.peer, "void", "void", "-", goal, "NO", *rates)
    return (*found.cells(), *rates)


def document(duels: Sequence[Duel], bounds: Sequence[Bound]) -> dict[str, object]:
    """The same with every single reading, for JSON."""
    return {
        "comparisons": [
            {
                **asdict(one),
                "ratio": None if found is None else round(found.ratio, 4),
                "reached": found is not None and found.reached,
            }
            for one in duels
            for found in [one.comparison]
        ],
        "bounds": [
            {name: getattr(one, name) for name in ("work", "unit", "goal", "values", "reached")}
            for one in bounds
        ],
    }
