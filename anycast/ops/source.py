"""What the ops surface asks of the agent: facts to read, commands to carry out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from anycast.core.health import Outcome
from anycast.core.maintenance import End
from anycast.core.model import Target
from anycast.core.state import State
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
    def events(self) -> Hub: ...


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
