"""What `lab.bench_agent` and `lab.bench_failover` make of what they saw: percentiles, goals, one file of all. No I/O
but that file.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from anycast.cli.table import table

REACHED = {True: "yes", False: "NO", None: "-"}
LATE_GOAL = 0.050  # seconds, p99
RSS_GOAL, CHECKS_GOAL = 80.0, 25.0  # MiB
_MIB = 2**20


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Delay:
    """How long something took, each time, in seconds. A goal None: there is none."""

    work: str
    median_goal: float | None = None
    p95_goal: float | None = None
    values: list[float] = field(default_factory=list)

    @property
    def reached(self) -> bool | None:
        goals = ((self.median_goal, 0.5), (self.p95_goal, 0.95))
        kept = [percentile(self.values, share) <= goal for goal, share in goals if goal is not None]
        return all(kept) if kept else None


def delays_table(delays: Sequence[Delay]) -> str:
    head = ("seconds", "times", "median", "p95", "max", "goal", "reached")
    rows = [
        (
            one.work,
            str(len(one.values)),
            f"{median(one.values):.3f}",
            f"{percentile(one.values, 0.95):.3f}",
            f"{max(one.values):.3f}",
            " ".join(
                f"{name} <= {goal:g}"
                for name, goal in (("median", one.median_goal), ("p95", one.p95_goal))
                if goal is not None
            )
            or "-",
            REACHED[one.reached],
        )
        for one in delays
    ]
    return table(head, rows, colour=False)


def delays_document(delays: Sequence[Delay]) -> list[dict[str, object]]:
    return [
        {
            "work": one.work,
            "median": round(median(one.values), 4),
            "p95": round(percentile(one.values, 0.95), 4),
            "max": round(max(one.values), 4),
            "median_goal": one.median_goal,
            "p95_goal": one.p95_goal,
            "reached": one.reached,
            "values": [round(value, 4) for value in one.values],
        }
        for one in delays
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Of a process, in bytes."""

    rss: int
    pss: int  # pages that others have too count in part


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRun:
    """What an agent did within a window. `cpu`: of one processor; `lateness` in seconds."""

    name: str
    servers: int
    checks_per_second: float
    cpu: float
    lateness: list[float]
    memory: Memory
    ops: Memory  # of its ops process, once that has answered for its status and its metrics
    asked: Mapping[str, float]  # CPU seconds of each answer


def lateness(leases: Sequence[tuple[float, float, float]]) -> list[float]:
    """How much later than due each lease came but the first. Each is (arrived, issued, ttl).

    One is due a third of the TTL after the one before it was issued; one that a change has brought on is early.
    """
    found = [arrived - (issued + ttl / 3) for (_, issued, ttl), (arrived, _, _) in itertools.pairwise(leases)]
    return [late for late in found if late >= 0]


def rollup(text: str) -> Memory:
    """Out of /proc/PID/smaps_rollup."""
    sizes = {
        name.rstrip(":"): int(size) * 1024
        for name, size, *unit in (line.split() for line in text.splitlines()[1:])
        if unit == ["kB"]
    }
    return Memory(rss=sizes["Rss"], pss=sizes["Pss"])


def agent_table(runs: Sequence[AgentRun]) -> str:
    """The first run is the one with checks, the second the same without."""
    checked, bare = runs
    lates = [
        (
            f"leases, {one.name}",
            f"{len(one.lateness)}",
            *(f"{value * 1e3:.1f} ms" for value in (_p50(one), _p99(one), max(one.lateness))),
            f"<= {LATE_GOAL * 1e3:g} ms",
            REACHED[_p99(one) <= LATE_GOAL],
            f"{one.checks_per_second:,.0f}",
            f"{one.cpu:.0%}",
        )
        for one in runs
    ]
    grown = checked.memory.rss - bare.memory.rss
    sizes = [
        ("RSS, with checks", checked.memory.rss, RSS_GOAL),
        ("RSS of the ops process, status and metrics asked for", checked.ops.rss, None),
        ("PSS, with checks", checked.memory.pss, None),
        ("RSS, without checks", bare.memory.rss, None),
        ("RSS, the checks' part", grown, CHECKS_GOAL),
    ]
    head = ("later than due", "leases", "p50", "p99", "max", "goal: p99", "reached", "checks/s", "CPU")
    first = table(head, lates, colour=False)
    rows = [
        (
            name,
            f"{size / _MIB:.1f} MiB",
            "-" if goal is None else f"<= {goal:g} MiB",
            REACHED[None if goal is None else size / _MIB <= goal],
        )
        for name, size, goal in sizes
    ]
    memory = table(
        (f"memory, {checked.servers:,} real servers", "size", "goal", "reached"), rows, colour=False
    )
    answers = [(path, f"{seconds * 1e3:.0f} ms") for path, seconds in checked.asked.items()]
    return f"{first}\n{memory}\n{table(('one answer', 'CPU'), answers, colour=False)}"


def _p50(run: AgentRun) -> float:
    return percentile(run.lateness, 0.5)


def _p99(run: AgentRun) -> float:
    return percentile(run.lateness, 0.99)


def agent_document(runs: Sequence[AgentRun]) -> list[dict[str, object]]:
    return [
        {**asdict(one), "p50": _p50(one), "p99": _p99(one), "max": max(one.lateness), "goal_p99": LATE_GOAL}
        for one in runs
    ]


def merge(path: Path, found: Mapping[str, Any]) -> None:
    """Puts `found` beside what other measurements have left in the file; replaces its own keys."""
    try:
        present = json.loads(path.read_text())
    except FileNotFoundError:
        present = {}
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    beside.write_text(json.dumps({**present, **found}, indent=1) + "\n")
    beside.replace(path)
