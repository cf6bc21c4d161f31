from __future__ import annotations

import itertools

from anycast.core.confirmation import NEXT, Signal, Stage


def test_the_table_is_total() -> None:
    assert set(NEXT) == set(itertools.product(Stage, Signal))


def test_only_a_confirmation_or_going_back_ends_a_trial() -> None:
    ends = {signal for signal in Signal if NEXT[Stage.ON_TRIAL, signal] is not Stage.ON_TRIAL}
    assert ends == {Signal.CONFIRM, Signal.UNDO}


def test_only_a_reload_that_is_to_be_confirmed_begins_one() -> None:
    begins = {key for key, stage in NEXT.items() if stage is Stage.ON_TRIAL and key[0] is not Stage.ON_TRIAL}
    assert {signal for _, signal in begins} == {Signal.TRIED}
