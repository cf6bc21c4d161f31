"""Maintenance of a node, of one VIP or of one real server: what was said, and the stages it takes routes through.

Two clocks: instants are monotonic, what outlives a boot is wall-clock time. A maintenance with an end ends when
both say so. They come apart when somebody sets the clock: `stepped` says what becomes of the end then.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

NODE = ""  # the scope of the whole node; another scope is the name of a VIP, or POOL/SERVER
FILE = "@file"  # the whole node, while the file `maintenance` is in the runtime directory
STOP = "@stop"  # the whole node, until the agent ends
NODE_SCOPES = (NODE, FILE, STOP)
STEP = 1.0  # seconds by which the clocks come apart at once when somebody sets one; slewing is far slower
SLEWED = 0.25  # seconds by which they may come apart by and by until an end follows
ROUNDING = 1e-3  # seconds: seconds since the epoch are not exact


def server_scope(pool: str, server: str) -> str:
    return f"{pool}/{server}"


def is_server(scope: str) -> bool:
    return "/" in scope


def is_saved(scope: str) -> bool:
    """Whether it outlives the agent. The file speaks for itself."""
    return scope not in {FILE, STOP}


class Expiry(StrEnum):
    RESUME = "resume"  # back into service
    HOLD = "hold"  # it stays in maintenance, and is overdue


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """When a maintenance ends by itself."""

    at: float  # wall clock, seconds since the epoch
    then: Expiry = Expiry.RESUME
    lasts: bool = False  # it was said as a duration: what is left stays when the clock is set
    due: float | None = None  # the same instant by the monotonic clock of this boot; None: not worked out yet


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
# Said again, a drain neither starts over nor goes back.
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
    runs_out: float = 0.0  # WITHDRAWN: the instant from which no lease with its routes is good any more
    seq: int = 0  # WITHDRAWN: of the first lease without them
    withdrawn_at: float | None = None  # WITHDRAWN: when that was acknowledged
    overdue: bool = False  # its end has passed, and it goes on


def anchored(end: End, *, wall: float, now: float) -> End:
    """The end with its monotonic instant, for a process that has just begun.

    One from before the boot has only its wall-clock time, and goes by it from then on. Of one of this boot the
    clock may have been set while nobody looked.
    """
    if end.due is None:
        return replace(end, lasts=False, due=now + end.at - wall)
    return stepped(end, wall=wall, now=now)


def stepped(end: End, *, wall: float, now: float) -> End:
    """The end after somebody has set the wall clock: nothing ends for that alone.

    What was said as a duration keeps what is left of it. What was said as a time keeps the time; when the clock
    jumps over it, it ends no sooner than it would have.
    """
    if end.due is None:
        return end
    if end.lasts:
        return replace(end, at=wall + end.due - now)
    return replace(end, due=now + end.at - wall) if end.at > wall else end


def has_passed(end: End, *, wall: float, now: float) -> bool:
    """By both clocks: the one alone may have been set."""
    return end.due is not None and now >= end.due and wall >= end.at - ROUNDING
