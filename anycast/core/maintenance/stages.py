"""Maintenance of a node, of one VIP or of one real server: its entry, and the stages it takes routes through."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from anycast.core.maintenance.clocks import End
from anycast.core.values.configuration import Timing
from anycast.core.withdrawal import Phase, Withdrawal

NODE = ""  # the scope of the whole node; another scope is the name of a VIP, or POOL/SERVER
FILE = "@file"  # the whole node, while the file `maintenance` is in the runtime directory
STOP = "@stop"  # the whole node, until the agent ends
NODE_SCOPES = (NODE, FILE, STOP)


def server_scope(pool: str, server: str) -> str:
    return f"{pool}/{server}"


def is_server(scope: str) -> bool:
    return "/" in scope


def is_saved(scope: str) -> bool:
    """Whether it is saved for the next agent. Maintenance by file is not: the file is still there."""
    return scope not in {FILE, STOP}


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintenance:
    """Why, who and when, for people. `since` is wall-clock time (seconds since the epoch): it outlives boots.

    `began` is monotonic, None when it was found on disk.
    """

    reason: str
    by: str
    since: float
    end: End | None = None
    began: float | None = None


class Stage(StrEnum):
    """In order. Everything but DRAINING keeps the routes out."""

    ACTIVE = "active"
    DRAINING = "draining"  # announced with GRACEFUL_SHUTDOWN and the worst MED
    WITHDRAWN = "withdrawn"  # until the plugin has acknowledged it and routers had time to follow
    QUIET = "quiet"  # until no more packets arrive
    DOWN = "down"  # it may be rebooted; IPVS and the VIP are still there


class Signal(StrEnum):
    """What moves a scope on."""

    BEGIN = "begin"  # maintenance, by way of a drain
    SKIP = "skip"  # maintenance, without one
    DONE = "done"  # what the stage waits for has come
    END = "end"  # of the maintenance


_FORWARD = {
    Stage.ACTIVE: Stage.ACTIVE,
    Stage.DRAINING: Stage.WITHDRAWN,
    Stage.WITHDRAWN: Stage.QUIET,
    Stage.QUIET: Stage.DOWN,
    Stage.DOWN: Stage.DOWN,
}
# A repeated command neither restarts a drain nor moves it back.
NEXT: dict[tuple[Stage, Signal], Stage] = {
    (Stage.ACTIVE, Signal.BEGIN): Stage.DRAINING,
    (Stage.ACTIVE, Signal.SKIP): Stage.WITHDRAWN,
    (Stage.DRAINING, Signal.BEGIN): Stage.DRAINING,
    (Stage.DRAINING, Signal.SKIP): Stage.WITHDRAWN,
    (Stage.WITHDRAWN, Signal.BEGIN): Stage.WITHDRAWN,
    (Stage.WITHDRAWN, Signal.SKIP): Stage.WITHDRAWN,
    (Stage.QUIET, Signal.BEGIN): Stage.QUIET,
    (Stage.QUIET, Signal.SKIP): Stage.QUIET,
    (Stage.DOWN, Signal.BEGIN): Stage.DOWN,
    (Stage.DOWN, Signal.SKIP): Stage.DOWN,
    **{(stage, Signal.DONE): after for stage, after in _FORWARD.items()},
    **{(stage, Signal.END): Stage.ACTIVE for stage in Stage},
}

ORDER = tuple(Stage)
OUT = frozenset({Stage.WITHDRAWN, Stage.QUIET, Stage.DOWN})  # no route


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a scope in maintenance has come. `since`: of the stage, monotonic."""

    stage: Stage = Stage.ACTIVE
    since: float = 0.0
    withdrawal: Withdrawal | None = None  # WITHDRAWN: of its routes
    overdue: bool = False  # its end has passed, and the maintenance goes on

    @property
    def waits_for_plugins(self) -> bool:
        """Whether a plugin has yet to acknowledge that the routes are gone."""
        return self.withdrawal is not None and self.withdrawal.phase is Phase.ASKED

    def ends_at(self, timing: Timing) -> float | None:
        """The instant at which the stage is over, whatever happens; None: it stays."""
        match self.stage:
            case Stage.DRAINING:
                return self.since + timing.drain
            case Stage.WITHDRAWN:
                assert self.withdrawal is not None  # noqa: S101 - entered with it
                at = self.withdrawal.wakes_at(timing.settle)
                waits = self.withdrawal.phase is Phase.ASKED
                return at if at is None or not waits else at + timing.settle
            case Stage.QUIET:
                return self.since + timing.quiet_limit
            case Stage.ACTIVE | Stage.DOWN:
                return None
