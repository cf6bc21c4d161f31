"""What comes of a command."""

from __future__ import annotations

from dataclasses import dataclass

from anycast.core.fleet.turn import Seat
from anycast.core.planned import Plan


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
class TurnWish:
    """How the other nodes are asked. `number`, `ago`: of the turn that was asked for, None: it is asked for now.

    `waits`: in the queue.
    """

    number: int | None = None
    ago: float = 0.0
    waits: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnAnswer:
    """Not yet, or not. `seat`: the turn as it is. `refused`: and why, in words; empty: it is to be asked again."""

    seat: Seat
    refused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadWish:
    """How a reload is meant. `confirm_within`: seconds until it goes back unless it is confirmed; None: it stays."""

    allow_removal: bool = False
    confirm_within: float | None = None


PLAIN = ReloadWish()


class NothingThereError(Exception):
    """There is nothing to confirm, or nothing to go back to. The text says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadAnswer:
    """`changes` when it was applied, `problems` when it was not: then the old configuration stays in force.

    `warnings`: of what was applied, allowed and rarely meant. `confirm_s`: seconds until it goes back, if it is on trial.
    """

    ok: bool
    changes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    confirm_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanWish:
    """`texts`: a configuration as `config.kept` keeps it, packed; None: the agent's own file, as it is now.

    `node`: the node that is meant; None: whichever this is.
    """

    allow_removal: bool = False
    texts: bytes | None = None
    node: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanAnswer:
    """What a reload would say, and do. `plan` None: there are problems with which there is none."""

    ok: bool
    changes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    plan: Plan | None = None
