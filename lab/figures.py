"""What measurements make of the times they took: medians, percentiles, ratios, whether a goal is reached. No I/O."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median

from anycast.cli.table import table

STALL_GOAL = 0.020  # seconds

REACHED = {True: "yes", False: "NO", None: "-"}
_NAMES = {0.5: "median", 1.0: "max"}


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """How long one work took, each time, in seconds. `goals`: what a share of the times must not exceed."""

    work: str
    goals: Mapping[float, float] = field(default_factory=dict)
    values: list[float] = field(default_factory=list)

    def at(self, share: float) -> float:
        return median(self.values) if share == 0.5 else percentile(self.values, share)

    @property
    def reached(self) -> bool | None:
        """Every goal; None: there is none."""
        return all(self.at(share) <= goal for share, goal in self.goals.items()) if self.goals else None

    def document(self, *shares: float, digits: int) -> dict[str, object]:
        figures = {_name(share): round(self.at(share), digits) for share in shares}
        return {**figures, "reached": self.reached, "values": [round(value, digits) for value in self.values]}


def stall(work: str, *longest: float) -> Times:
    """The longest time between two turns of the event loop, of each round: a lease that comes late once is late."""
    return Times(work=work, goals={1.0: STALL_GOAL}, values=[*longest])


def delay(work: str, values: list[float], **goals: float) -> Times:
    """`median`, `p95`: the goals."""
    shares = {"median": 0.5, "p95": 0.95}
    return Times(work=work, values=values, goals={shares[name]: goal for name, goal in goals.items()})


def times_table(
    what: str, found: Sequence[Times], *shares: float, show: Callable[[float], str] = milliseconds
) -> str:
    rows = [
        (
            one.work,
            str(len(one.values)),
            *(show(one.at(share)) for share in shares),
            " ".join(f"{_name(share)} <= {show(goal)}" for share, goal in one.goals.items()) or "-",
            REACHED[one.reached],
        )
        for one in found
    ]
    return table((what, "times", *map(_name, shares), "goal", "reached"), rows, colour=False)


def _name(share: float) -> str:
    return _NAMES.get(share) or f"p{share * 100:g}"


def delays_table(delays: Sequence[Times]) -> str:
    return times_table("seconds", delays, 0.5, 0.95, 1.0, show=lambda seconds: f"{seconds:.3f}")


def delays_document(delays: Sequence[Times]) -> list[dict[str, object]]:
    return [
        {
            "work": one.work,
            "median_goal": one.goals.get(0.5),
            "p95_goal": one.goals.get(0.95),
            **one.document(0.5, 0.95, 1.0, digits=4),
        }
        for one in delays
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One work done by us and by a peer, in turns. Seconds.

    `goal`: our time as a part of the peer's. None: the peer is no rival, but what our time is made of.
    """

    work: str
    peer: str
    goal: float | None
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Of the medians."""
        return median(self.ours) / median(self.theirs)

    @property
    def reached(self) -> bool | None:
        return None if self.goal is None else self.ratio <= self.goal

    def cells(self) -> tuple[str, ...]:
        return (
            self.work,
            self.peer,
            milliseconds(median(self.ours)),
            milliseconds(median(self.theirs)),
            f"{self.ratio:.3f}",
            "-" if self.goal is None else f"<= {self.goal:g}",
            REACHED[self.reached],
        )


COMPARED = ("peer", "ours", "peer's", "ratio", "goal", "reached")


def summary(comparisons: Sequence[Comparison], stalls: Sequence[Times]) -> str:
    """Both tables for people."""
    first = table(("work", *COMPARED), [one.cells() for one in comparisons], colour=False)
    return f"{first}\n{times_table('event loop stood still during', stalls, 0.5, 1.0)}"


def document(comparisons: Sequence[Comparison], stalls: Sequence[Times]) -> dict[str, object]:
    """The same with every single time, for JSON."""
    return {
        "comparisons": [
            {**asdict(one), "ratio": round(one.ratio, 4), "reached": one.reached} for one in comparisons
        ],
        "stalls": [
            {"work": one.work, "longest": one.values, "goal": STALL_GOAL, "reached": one.reached}
            for one in stalls
        ],
    }
