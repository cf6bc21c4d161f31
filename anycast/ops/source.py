"""What the ops surface asks of the agent: facts to read, commands to carry out."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from anycast.core.health.phase import Outcome
from anycast.core.hooks import Tally as HookTally
from anycast.core.maintenance.clocks import End
from anycast.core.state import State
from anycast.core.values.configuration import Target
from anycast.ops.events import Hub


@dataclass(slots=True)
class Tally:
    """How often a target's check failed since the agent's start, and how often in a row now.

    Failures alone: a success that says nothing new need not be told.
    """

    failures: int = 0
    in_a_row: int = 0

    def count(self, outcome: Outcome) -> None:
        if outcome is Outcome.FAIL:
            self.failures += 1
            self.in_a_row += 1
        elif outcome is Outcome.OK:
            self.in_a_row = 0


BUCKETS = (0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0)
"""Upper ends, in seconds, of what the runs of checks are sorted into by how long they took."""
_LOT = 512


class Probes:
    """The runs of one kind of check since the start of the agent."""

    __slots__ = ("_buckets", "_fresh", "_seconds", "outcomes")

    def __init__(self) -> None:
        self.outcomes = dict.fromkeys(Outcome, 0)
        self._buckets = [0] * (len(BUCKETS) + 1)
        self._seconds = 0.0
        self._fresh: list[float] = []  # durations to be sorted in: all of a lot cost little more than one

    def count(self, outcome: Outcome, took: float) -> None:
        self.outcomes[outcome] += 1
        self._fresh.append(took)
        if len(self._fresh) >= _LOT:
            self._sort_in()

    def _sort_in(self) -> None:
        fresh = sorted(self._fresh)
        self._fresh.clear()
        self._seconds += sum(fresh)
        begin = 0
        for place, bound in enumerate(BUCKETS):
            end = bisect_right(fresh, bound, begin)
            self._buckets[place] += end - begin
            begin = end
        self._buckets[-1] += len(fresh) - begin

    @property
    def buckets(self) -> list[int]:
        """Runs by duration: up to each of BUCKETS and over the one before, the last over all of them."""
        self._sort_in()
        return self._buckets

    @property
    def seconds(self) -> float:
        self._sort_in()
        return self._seconds


@dataclass(slots=True)
class Work:
    """What the agent did since its start. `routes`: how often a prefix was announced, withdrawn or refused."""

    kernel_jobs: int = 0
    kernel_seconds: float = 0.0
    routes: dict[tuple[str, str], int] = field(default_factory=dict)

    def count_route(self, prefix: str, action: str) -> None:
        self.routes[prefix, action] = self.routes.get((prefix, action), 0) + 1


class Source(Protocol):
    """Where the facts come from. Each may change between two readings."""

    @property
    def state(self) -> State: ...

    @property
    def last_step(self) -> float:
        """Monotonic instant of the engine's last step."""
        ...

    @property
    def reload_ok(self) -> bool:
        """Whether the last (re)load of the configuration was applied."""
        ...

    @property
    def reloaded_at(self) -> float:
        """Wall-clock time of the last successful (re)load."""
        ...

    @property
    def tallies(self) -> Mapping[Target, Tally]:
        """Of the targets whose checks have failed."""
        ...

    def durations(self, target: Target) -> Sequence[float]:
        """Seconds that the newest runs of the target's check took, the oldest first; negative where it failed."""
        ...

    @property
    def probes(self) -> Mapping[str, Probes]:
        """By kind of check."""
        ...

    @property
    def work(self) -> Work: ...

    @property
    def events(self) -> Hub: ...

    @property
    def hooks(self) -> Mapping[str, HookTally]:
        """Of the hooks, by name, what became of their runs."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintenanceAnswer:
    """In force either way; not `saved`, it does not outlive the agent. `error` says why, where it should have been."""

    saved: bool
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadAnswer:
    """`changes` when it was applied, `problems` when it was not: then the old configuration stays in force.

    `warnings`: of what was applied, allowed and rarely meant.
    """

    ok: bool
    changes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


class Commands(Protocol):
    """What an operator may tell the agent. Answered once it is in force."""

    async def set_maintenance(
        self,
        scope: str,
        *,
        on: bool,
        reason: str,
        by: str,
        end: End | None = None,
        skip_drain: bool = False,
    ) -> MaintenanceAnswer:
        """`scope`: `maintenance.NODE`, `maintenance.STOP`, the name of a VIP, or `POOL/SERVER`.

        Said again, the last word counts, and the drain does not start over.
        """
        ...

    async def reload(self) -> ReloadAnswer: ...
