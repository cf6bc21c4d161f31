"""What the ops process shows: the agent's facts at one instant, and what they are made of."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from anycast.core.health.phase import Outcome
from anycast.core.hooks import Tally as HookTally
from anycast.core.in_force import AS_WRITTEN, InForce
from anycast.core.state import State
from anycast.core.values.configuration import Target
from anycast.core.values.persistent import PersistentMap
from anycast.ops.hub import Hub
from anycast.ops.load import Meter
from anycast.ops.strain import Strain
from anycast.ops.traffic import Traffic

if TYPE_CHECKING:
    from anycast.ops.headroom import Headroom  # which shows what is here


@dataclass(frozen=True, slots=True)
class Tally:
    """How often a target's check failed since the agent's start, and how often in a row now.

    Failures alone: a success that says nothing new need not be told.
    """

    failures: int = 0
    in_a_row: int = 0

    def count(self, outcome: Outcome) -> Tally:
        """With one outcome more."""
        match outcome:
            case Outcome.FAIL:
                return Tally(self.failures + 1, self.in_a_row + 1)
            case Outcome.OK:
                return replace(self, in_a_row=0)
            case Outcome.UNKNOWN:
                return self


TOUCH_FILE = "maintenance"  # in the runtime directory
BUCKETS = (0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0)
"""Upper ends, in seconds, of what the runs of checks are sorted into by how long they took."""
_LOT = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """The runs of one kind of check since the start of the agent.

    `buckets`: runs by duration, up to each of BUCKETS and over the one before, the last over all of them.
    """

    outcomes: Mapping[Outcome, int]
    buckets: tuple[int, ...]
    seconds: float


class Probes:
    """Counts the runs of one kind of check."""

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

    def count_all(self, outcome: Outcome, took: list[float]) -> None:
        """The same for many."""
        self.outcomes[outcome] += len(took)
        self._fresh += took
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
    def runs(self) -> Runs:
        """As they are now."""
        self._sort_in()
        return Runs(outcomes=dict(self.outcomes), buckets=tuple(self._buckets), seconds=self._seconds)


def place_of(target: Target) -> str:
    """Its address and port, as people write them."""
    port = getattr(target.check.kind, "port", None) or target.port
    return f"[{target.address}]:{port}" if target.address.version == 6 else f"{target.address}:{port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tripwires:
    """The connections that stay open, and what came of their ends.

    `counts`: by state, an entry for each real server and port. `ends`: since the start of the agent, by what followed.
    `notes`: servers that are not as others, by address and port.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    ends: Mapping[str, int] = field(default_factory=dict)
    notes: PersistentMap[str, str] = field(default_factory=PersistentMap)

    @property
    def wanted(self) -> int:
        return sum(self.counts.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What the agent did since its start. `routes`: how often a prefix was announced, withdrawn or refused."""

    kernel_jobs: int = 0
    kernel_seconds: float = 0.0
    routes: PersistentMap[tuple[str, str], int] = field(default_factory=PersistentMap)
    strain: Strain = Strain()

    def job(self, seconds: float) -> Work:
        """With one reading of the kernel more."""
        return replace(self, kernel_jobs=self.kernel_jobs + 1, kernel_seconds=self.kernel_seconds + seconds)

    def route(self, prefix: str, action: str) -> Work:
        """With one prefix more that was announced, withdrawn or refused."""
        count = self.routes.get((prefix, action), 0) + 1
        return replace(self, routes=self.routes.updated({(prefix, action): count}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that changes, as it is at one instant. Nothing in it is changed afterwards."""

    state: State
    last_step: float  # monotonic instant of the engine's last step
    reloaded_at: float  # wall-clock time of the last successful one
    tallies: Mapping[Target, Tally]  # of the targets whose checks have failed
    probes: Mapping[str, Runs]  # by kind of check
    work: Work
    hooks: Mapping[str, HookTally]  # what became of their runs, by name
    numbers: Mapping[int, Target]  # the targets by their number in the log of runs
    force: InForce = AS_WRITTEN  # how the configuration in force stands to the file
    tripwires: Tripwires = Tripwires()

    @property
    def reload_ok(self) -> bool:
        """Whether the last (re)load of the configuration was applied."""
        return self.force.reload_ok


class Source(Protocol):
    """Where documents come from. Each may be another at the next reading."""

    @property
    def facts(self) -> Facts: ...

    @property
    def events(self) -> Hub: ...

    @property
    def traffic(self) -> Traffic: ...

    @property
    def meter(self) -> Meter: ...

    @property
    def headroom(self) -> Headroom: ...

    @property
    def pid(self) -> int:
        """Of the agent."""
        ...

    def durations(self, target: Target) -> Sequence[float]:
        """Seconds that the newest runs of the target's check took, the oldest first; negative where it failed."""
        ...
