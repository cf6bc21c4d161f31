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
    """Why this node could not run a check: a fault of the node, which says nothing about the target."""

    LINK = "link"  # the interface towards the target is down
    DESCRIPTORS = "descriptors"  # no file descriptor or buffer is left
    PORTS = "ports"  # no local port is left, or no local address
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
    UNDECIDED = "undecided"  # no result yet
    UP = "up"
    FALLING = "falling"  # still up, failures are being counted
    DOWN = "down"
    RISING = "rising"  # still down, successes are being counted
    UNPROVEN = "unproven"  # not down, but the check could not be run for too long: it is not usable

    @property
    def is_up(self) -> bool:
        return self is Phase.UP or self is Phase.FALLING


class Proof(StrEnum):
    """What one run of a check proves."""

    OK = "ok"
    FAIL = "fail"
    EXPIRED = "expired"  # nothing, and the last result is too old to count


# (phase, proof) -> (phase while counting, phase once rise or fall is reached)
TRANSITIONS: dict[tuple[Phase, Proof], tuple[Phase, Phase]] = {
    (Phase.UNDECIDED, Proof.OK): (Phase.UP, Phase.UP),  # the first result decides: there is no state to damp
    (Phase.UNDECIDED, Proof.FAIL): (Phase.DOWN, Phase.DOWN),
    (Phase.UNDECIDED, Proof.EXPIRED): (Phase.UNPROVEN, Phase.UNPROVEN),
    (Phase.UP, Proof.OK): (Phase.UP, Phase.UP),
    (Phase.UP, Proof.FAIL): (Phase.FALLING, Phase.DOWN),
    (Phase.UP, Proof.EXPIRED): (Phase.UNPROVEN, Phase.UNPROVEN),
    (Phase.FALLING, Proof.OK): (Phase.UP, Phase.UP),
    (Phase.FALLING, Proof.FAIL): (Phase.FALLING, Phase.DOWN),
    (Phase.FALLING, Proof.EXPIRED): (Phase.UNPROVEN, Phase.UNPROVEN),
    (Phase.DOWN, Proof.OK): (Phase.RISING, Phase.UP),
    (Phase.DOWN, Proof.FAIL): (Phase.DOWN, Phase.DOWN),
    (Phase.DOWN, Proof.EXPIRED): (Phase.DOWN, Phase.DOWN),
    (Phase.RISING, Proof.OK): (Phase.RISING, Phase.UP),
    (Phase.RISING, Proof.FAIL): (Phase.DOWN, Phase.DOWN),
    (Phase.RISING, Proof.EXPIRED): (Phase.DOWN, Phase.DOWN),  # successes in a row must be in a row
    (Phase.UNPROVEN, Proof.OK): (Phase.UP, Phase.UP),
    (Phase.UNPROVEN, Proof.FAIL): (Phase.DOWN, Phase.DOWN),
    (Phase.UNPROVEN, Proof.EXPIRED): (Phase.UNPROVEN, Phase.UNPROVEN),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """`streak`: results in a row that contradict the settled phase. `since`: of `phase.is_up`, or of UNPROVEN."""

    phase: Phase = Phase.UNDECIDED
    streak: int = 0
    since: float = 0.0
    detail: str = ""  # of the last run that was not plain success
    unknown_since: float | None = (
        None  # of the first run in a row that proved nothing; None: the last one proved
    )
    fault: Fault | None = None  # why the last run proved nothing
    flaps: Flaps = CALM
    changes: int = 0  # how often it turned, the first result not counted; of a rule: its parts together

    @property
    def is_up(self) -> bool:
        return self.phase.is_up

    @property
    def is_spare(self) -> bool:
        """Not usable, and by checks alone: nothing is known that keeps packets from it."""
        decided = self.phase in (Phase.DOWN, Phase.RISING, Phase.UNPROVEN)
        return decided and self.fault is not Fault.LINK

    @property
    def unknown(self) -> bool:
        """Whether the last run proved nothing."""
        return self.unknown_since is not None

    @property
    def unheard(self) -> bool:
        """Whether no run has ended yet."""
        return self.phase is Phase.UNDECIDED and not self.unknown

    @property
    def warned(self) -> bool:
        """The target works, but `detail` says what needs attention."""
        return self.phase is Phase.UP and bool(self.detail) and not self.unknown


def advance(health: Health, result: Result, check: Check, now: float) -> Health:
    """The health after one more result. Returns the same object when nothing changed."""
    if result.outcome is Outcome.UNKNOWN:
        return _unknown(health, result, check, now)
    good = result.outcome is Outcome.OK
    counting, settled = TRANSITIONS[health.phase, Proof.OK if good else Proof.FAIL]
    against = counting in (Phase.FALLING, Phase.RISING)
    streak = health.streak + 1 if against else 0
    if against and streak < (check.rise if good else check.fall):
        phase = counting
    elif good and not health.is_up and health.flaps.held_for(now):
        # It has risen, and comes up with the first success after the hold.
        phase, streak = Phase.RISING, check.rise
    else:
        phase, streak = settled, 0
    if (phase, streak, result.detail) == (health.phase, health.streak, health.detail) and not health.unknown:
        return health
    flaps = health.flaps
    if check.hold_down is not None and health.is_up and not phase.is_up:
        flaps = fallen(flaps, now, check.hold_down)
    return _turned(health, Health(phase=phase, streak=streak, detail=result.detail, flaps=flaps), now)


def _unknown(health: Health, result: Result, check: Check, now: float) -> Health:
    """Nothing was proven: the last result counts until `check.proof_lasts` has passed since the first such run."""
    since = now if health.unknown_since is None else health.unknown_since
    phase, streak = health.phase, health.streak
    if now - since >= check.proof_lasts:
        phase, _ = TRANSITIONS[phase, Proof.EXPIRED]
        streak = 0 if phase is not health.phase else streak
    after = replace(
        health, phase=phase, streak=streak, unknown_since=since, detail=result.detail, fault=result.fault
    )
    return health if after == health else _turned(health, after, now)


def _turned(before: Health, after: Health, now: float) -> Health:
    """`after` with its `since` and `changes`."""
    first = before.phase is Phase.UNDECIDED and after.phase is not Phase.UNDECIDED
    turned = before.phase is not Phase.UNDECIDED and _settled_as(before) != _settled_as(after)
    return replace(after, since=now if first or turned else before.since, changes=before.changes + turned)


def _settled_as(health: Health) -> Phase:
    if health.phase is Phase.UNPROVEN:
        return Phase.UNPROVEN
    return Phase.UP if health.is_up else Phase.DOWN


def suspended(health: Health) -> Health:
    """The health after a time without checks: undecided again, with its record of flapping."""
    return Health(flaps=health.flaps, changes=health.changes)


def began_to_turn(before: Health, after: Health) -> bool:
    """Whether an outcome contradicted a settled state."""
    return before.phase in (Phase.UP, Phase.DOWN) and after.phase is not before.phase


def settled(health: Health) -> bool:
    """Whether another plain ok would change nothing, so that it need not be reported."""
    return health.phase is Phase.UP and not health.detail and not health.unknown


def pause(health: Health, check: Check) -> float:
    """Seconds until the next run."""
    risen = health.phase is Phase.RISING and health.streak >= check.rise  # held down: no haste
    undecided = health.phase in (Phase.FALLING, Phase.RISING, Phase.UNDECIDED) and not risen
    return min(check.fast_interval, check.interval) if undecided else check.interval
