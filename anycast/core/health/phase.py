"""The health of one target: outcomes go in, a phase comes out. The automaton is the table below."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from anycast.core.health.flapping import CALM, Flaps, fallen
from anycast.core.values.configuration import Check


class Outcome(StrEnum):
    OK = "ok"
    FAIL = "fail"
    UNKNOWN = "unknown"  # the check itself could not run: it proves nothing about the target


class Fault(StrEnum):
    """What this node lacks to run a check: the fault is its own, and says nothing about the target."""

    LINK = "link"  # the interface towards the target is down
    DESCRIPTORS = "descriptors"  # no file descriptor, port or buffer is left
    RESOLVER = "resolver"  # no name can be resolved
    FORK = "fork"  # no process can be started
    PERMISSION = "permission"  # a capability or a file of the check's own is missing
    CONFIGURATION = "configuration"  # the check cannot run as it is written or installed
    STALLED = "stalled"  # the agent or its kernel took too long: no processor time, or a suspension
    INTERNAL = "internal"  # a defect of ours, or a process of ours that does not answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One run of a check. `took` in seconds; `detail` is one short line for people, a warning if it went well.

    `fault`: only with UNKNOWN.
    """

    outcome: Outcome
    detail: str = ""
    took: float = 0.0
    fault: Fault | None = None


class Phase(StrEnum):
    UNDECIDED = "undecided"  # no outcome yet
    UP = "up"
    FALLING = "falling"  # still up, failures are being counted
    DOWN = "down"
    RISING = "rising"  # still down, successes are being counted

    @property
    def is_up(self) -> bool:
        return self is Phase.UP or self is Phase.FALLING


# (phase, outcome is ok) -> (phase while counting, phase once rise or fall is reached)
TRANSITIONS: dict[tuple[Phase, bool], tuple[Phase, Phase]] = {
    (Phase.UNDECIDED, True): (Phase.UP, Phase.UP),  # the first outcome decides: there is no state to damp
    (Phase.UNDECIDED, False): (Phase.DOWN, Phase.DOWN),
    (Phase.UP, True): (Phase.UP, Phase.UP),
    (Phase.UP, False): (Phase.FALLING, Phase.DOWN),
    (Phase.FALLING, True): (Phase.UP, Phase.UP),
    (Phase.FALLING, False): (Phase.FALLING, Phase.DOWN),
    (Phase.DOWN, True): (Phase.RISING, Phase.UP),
    (Phase.DOWN, False): (Phase.DOWN, Phase.DOWN),
    (Phase.RISING, True): (Phase.RISING, Phase.UP),
    (Phase.RISING, False): (Phase.DOWN, Phase.DOWN),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """`streak`: outcomes in a row that speak against the settled phase. `since`: of `phase.is_up`."""

    phase: Phase = Phase.UNDECIDED
    streak: int = 0
    since: float = 0.0
    detail: str = ""  # of the last outcome that was not plain success
    unknown: bool = False  # the last run proved nothing
    flaps: Flaps = CALM
    changes: int = 0  # how often it turned, the first outcome not counted; of a rule: its parts together

    @property
    def is_up(self) -> bool:
        return self.phase.is_up

    @property
    def warned(self) -> bool:
        """Well, and `detail` says what wants looking after."""
        return self.phase is Phase.UP and bool(self.detail) and not self.unknown


def advance(health: Health, result: Result, check: Check, now: float) -> Health:
    """The health after one more result. Returns the same object when nothing changed."""
    if result.outcome is Outcome.UNKNOWN:
        if health.unknown and health.detail == result.detail:
            return health
        return replace(health, unknown=True, detail=result.detail)
    good = result.outcome is Outcome.OK
    counting, settled = TRANSITIONS[health.phase, good]
    against = counting in (Phase.FALLING, Phase.RISING)
    streak = health.streak + 1 if against else 0
    if not against or streak < (check.rise if good else check.fall):
        phase = counting
    elif good and health.flaps.held_for(now):
        phase, streak = (
            Phase.RISING,
            check.rise,
        )  # it has risen, and comes up with the first success after the hold
    else:
        phase, streak = settled, 0
    if (phase, streak, result.detail) == (health.phase, health.streak, health.detail) and not health.unknown:
        return health
    first = health.phase is Phase.UNDECIDED
    turned = not first and phase.is_up != health.phase.is_up
    flaps = health.flaps
    if check.hold_down is not None and health.is_up and not phase.is_up:
        flaps = fallen(flaps, now, check.hold_down)
    return Health(
        phase=phase,
        streak=streak,
        since=now if first or turned else health.since,
        detail=result.detail,
        flaps=flaps,
        changes=health.changes + turned,
    )


def began_to_turn(before: Health, after: Health) -> bool:
    """Whether an outcome spoke against a state that was settled."""
    return before.phase in (Phase.UP, Phase.DOWN) and after.phase is not before.phase


def settled(health: Health) -> bool:
    """Whether another plain ok would change nothing: nobody needs to hear of it."""
    return health.phase is Phase.UP and not health.detail and not health.unknown


def pause(health: Health, check: Check) -> float:
    """Seconds until the next run."""
    risen = health.phase is Phase.RISING and health.streak >= check.rise  # held down: no haste
    undecided = health.phase in (Phase.FALLING, Phase.RISING, Phase.UNDECIDED) and not risen
    return min(check.fast_interval, check.interval) if undecided else check.interval
