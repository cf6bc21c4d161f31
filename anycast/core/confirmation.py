"""Whether the configuration in force is to stay. One that is on trial goes back by itself unless somebody confirms it.

A reload in a trial belongs to the trial: it ends together with it, by the same word or at the same time.
"""

from __future__ import annotations

from enum import StrEnum


class Stage(StrEnum):
    CONFIRMED = "confirmed"
    ON_TRIAL = "on_trial"  # the one before comes back unless it is confirmed in time
    GONE_BACK = "gone_back"  # the one before is in force again, and the file still has the other


class Signal(StrEnum):
    APPLIED = "applied"  # by a plain reload
    TRIED = "tried"  # by a reload that is to be confirmed
    CONFIRM = "confirm"
    UNDO = "undo"  # by command, because the time is over, or by a restart


NEXT: dict[tuple[Stage, Signal], Stage] = {
    (Stage.CONFIRMED, Signal.APPLIED): Stage.CONFIRMED,
    (Stage.CONFIRMED, Signal.TRIED): Stage.ON_TRIAL,
    (Stage.CONFIRMED, Signal.CONFIRM): Stage.CONFIRMED,
    (Stage.CONFIRMED, Signal.UNDO): Stage.GONE_BACK,
    # A script that reloads meanwhile does not confirm what a person is trying.
    (Stage.ON_TRIAL, Signal.APPLIED): Stage.ON_TRIAL,
    (Stage.ON_TRIAL, Signal.TRIED): Stage.ON_TRIAL,
    (Stage.ON_TRIAL, Signal.CONFIRM): Stage.CONFIRMED,
    (Stage.ON_TRIAL, Signal.UNDO): Stage.GONE_BACK,
    (Stage.GONE_BACK, Signal.APPLIED): Stage.CONFIRMED,
    (Stage.GONE_BACK, Signal.TRIED): Stage.ON_TRIAL,
    (Stage.GONE_BACK, Signal.CONFIRM): Stage.GONE_BACK,
    (Stage.GONE_BACK, Signal.UNDO): Stage.GONE_BACK,
}
