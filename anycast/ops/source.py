"""What the ops surface asks of the agent: facts to read, commands to carry out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from anycast.core.maintenance import End
from anycast.core.state import State


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
