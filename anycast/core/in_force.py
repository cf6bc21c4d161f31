"""How the configuration in force stands to the file, and what of that an operator must know until it is over. Pure.

Instants are monotonic seconds, except where they say otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from anycast.core.confirmation import Stage
from anycast.core.values.standing import Condition, Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A reload that was refused. `first` of so many `problems`."""

    since: float
    problems: int
    first: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LastGood:
    """The file could not be used at the start of the agent. `saved`: when what runs instead was, seconds since the epoch."""

    since: float
    saved: float
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InForce:
    """`since`, `ends`: of the stage. `unsaved`: why what is in force is not on disk; empty: it is.

    `fingerprint`: of what the files said. `nodes`: the names of the fleet that they are of; empty: they are of one node.
    """

    stage: Stage = Stage.CONFIRMED
    since: float = 0.0
    ends: float = math.inf  # of a trial
    refused: Refused | None = None
    last_good: LastGood | None = None
    unsaved: str = ""
    unsaved_since: float = 0.0
    fingerprint: str = ""
    nodes: tuple[str, ...] = ()

    @property
    def reload_ok(self) -> bool:
        """Whether what was read last is what is in force."""
        return self.refused is None and self.last_good is None and self.stage is not Stage.GONE_BACK


AS_WRITTEN = InForce()
"""It is what the file says."""


def trial_left(force: InForce, now: float) -> float | None:
    """Seconds until what is on trial goes back; None: nothing is."""
    return max(0.0, force.ends - now) if force.stage is Stage.ON_TRIAL else None


def conditions(force: InForce, now: float) -> tuple[Standing, ...]:
    """What stands, the worst first."""
    return tuple(_conditions(force, now))


def _conditions(force: InForce, now: float) -> Iterator[Standing]:
    if (kept := force.last_good) is not None:
        yield Standing(
            kind=Condition.LAST_GOOD,
            since=kept.since,
            text=f"started with the last good configuration, of {_time(kept.saved)}, because {kept.why} (`anycast check`, "
            "then `anycast reload`)",
        )
    if (refused := force.refused) is not None:
        more = f", and {refused.problems - 1} more problems" if refused.problems > 1 else ""
        yield Standing(
            kind=Condition.RELOAD_REFUSED,
            since=refused.since,
            text=f"the changed configuration was refused, the previous one is in force: {refused.first}{more}",
        )
    if (left := trial_left(force, now)) is not None:
        yield Standing(
            kind=Condition.CONFIRMATION_AWAITED,
            since=force.since,
            text=f"the configuration is on trial: in {left:.0f} s the one before it comes back (`anycast reload --confirm` "
            "keeps it, `--undo` ends it now)",
        )
    if force.stage is Stage.GONE_BACK:
        yield Standing(
            kind=Condition.GONE_BACK,
            since=force.since,
            text="the node has gone back to the configuration before; the file still has the other (correct it, then "
            "`anycast reload`)",
        )
    if force.unsaved:
        yield Standing(
            kind=Condition.CONFIG_NOT_SAVED,
            since=force.unsaved_since,
            text=f"the configuration in force is not saved as the last good one: {force.unsaved}",
        )


def _time(wall: float) -> str:
    try:
        return f"{datetime.fromtimestamp(wall, UTC):%Y-%m-%d %H:%M:%SZ}"
    except (OverflowError, ValueError, OSError):
        return "an unknown time"
