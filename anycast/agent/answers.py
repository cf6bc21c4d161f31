"""What comes of a command."""

from __future__ import annotations

from dataclasses import dataclass


class TooLateError(Exception):
    """The deadline of a command had passed before it was carried out: nothing was changed, and nothing will be."""

    def __init__(self) -> None:
        super().__init__("the command came too late; nothing was changed (repeat it)")


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
