"""What `lab.bench` makes of the times it took: medians, ratios, whether the goal is reached. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median

from anycast.cli.table import table

STALL_GOAL = 0.020  # seconds

_REACHED = {True: "yes", False: "NO", None: "-"}


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Stall:
    """The longest time between two turns of the event loop during one work, of each round. Seconds."""

    work: str
    longest: list[float] = field(default_factory=list)

    @property
    def reached(self) -> bool:
        """In every round: a lease that comes late once is late."""
        return max(self.longest) <= STALL_GOAL


def summary(comparisons: Sequence[Comparison], stalls: Sequence[Stall]) -> str:
    """Both tables for people."""
    compared = [
        (
            one.work,
            one.peer,
            milliseconds(median(one.ours)),
            milliseconds(median(one.theirs)),
            f"{one.ratio:.3f}",
            "-" if one.goal is None else f"<= {one.goal:g}",
            _REACHED[one.reached],
        )
        for one in comparisons
    ]
    stood = [
        (
            one.work,
            milliseconds(median(one.longest)),
            milliseconds(max(one.longest)),
            f"<= {milliseconds(STALL_GOAL)}",
            _REACHED[one.reached],
        )
        for one in stalls
    ]
    first = table(("work", "peer", "ours", "peer's", "ratio", "goal", "reached"), compared, colour=False)
    head = ("event loop stood still during", "median", "longest", "goal", "reached")
    return f"{first}\n{table(head, stood, colour=False)}"


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"


def document(comparisons: Sequence[Comparison], stalls: Sequence[Stall]) -> dict[str, object]:
    """The same with every single time, for JSON."""
    return {
        "comparisons": [
            {**asdict(one), "ratio": round(one.ratio, 4), "reached": one.reached} for one in comparisons
        ],
        "stalls": [{**asdict(one), "goal": STALL_GOAL, "reached": one.reached} for one in stalls],
    }
