"""What `lab.bench_agent` makes of what it saw: how late leases were, and what memory the checks take. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from anycast.cli.table import table
from lab.figures import REACHED, percentile

LATE_GOAL = 0.050  # seconds, p99
RSS_GOAL, CHECKS_GOAL = 80.0, 25.0  # MiB
_MIB = 2**20


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
