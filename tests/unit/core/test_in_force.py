from __future__ import annotations

from anycast.core.confirmation import Stage
from anycast.core.in_force import AS_WRITTEN, InForce, LastGood, Refused, conditions, trial_left
from anycast.core.values.standing import Condition

REFUSED = Refused(since=5.0, problems=3, first="a.yaml:1:1: wrong")


def test_what_the_file_says_needs_no_word() -> None:
    assert conditions(AS_WRITTEN, 10.0) == ()
    assert AS_WRITTEN.reload_ok
    assert trial_left(AS_WRITTEN, 10.0) is None


def test_a_refused_reload_is_told_with_its_first_problem() -> None:
    (one,) = conditions(InForce(refused=REFUSED), 10.0)
    assert (one.kind, one.since) == (Condition.RELOAD_REFUSED, 5.0)
    assert one.text.endswith("the previous one is in force: a.yaml:1:1: wrong, and 2 more problems")


def test_a_trial_is_told_with_the_time_that_is_left() -> None:
    force = InForce(stage=Stage.ON_TRIAL, since=5.0, ends=310.0)
    (one,) = conditions(force, 10.0)
    assert (one.kind, one.since) == (Condition.CONFIRMATION_AWAITED, 5.0)
    assert "in 300 s the one before it comes back" in one.text
    assert (trial_left(force, 10.0), trial_left(force, 999.0)) == (300.0, 0.0)
    assert force.reload_ok


def test_all_that_stands_is_told_the_worst_first() -> None:
    force = InForce(
        stage=Stage.GONE_BACK,
        since=7.0,
        refused=REFUSED,
        last_good=LastGood(since=1.0, saved=1_800_000_000.0, why="a.yaml: it is empty"),
        unsaved="last-good.conf: No space left on device",
        unsaved_since=8.0,
    )
    found = conditions(force, 10.0)
    assert [one.kind for one in found] == [
        Condition.LAST_GOOD,
        Condition.RELOAD_REFUSED,
        Condition.GONE_BACK,
        Condition.CONFIG_NOT_SAVED,
    ]
    assert "of 2027-01-15 08:00:00Z, because a.yaml: it is empty (" in found[0].text
    assert not force.reload_ok
