from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.core.health.flapping import CALM, Flaps, fallen
from anycast.core.health.phase import Health, Outcome, Phase, Result, advance, pause
from anycast.core.values.configuration import Check, HoldDown, TcpCheck

RULE = HoldDown(half_life=60.0, suppress=3.0, reuse=1.5, max_hold=240.0)
CHECK = Check(kind=TcpCheck(), rise=2, fall=1, interval=2.0, fast_interval=0.5, hold_down=RULE)
OK, FAIL = Result(outcome=Outcome.OK), Result(outcome=Outcome.FAIL, detail="no")
UNKNOWN = Result(outcome=Outcome.UNKNOWN, detail="?")


@st.composite
def rules(draw: st.DrawFn) -> HoldDown:
    half_life = draw(st.floats(0.1, 1000))
    reuse = draw(st.floats(0.1, 10))
    suppress = reuse + draw(st.floats(0.1, 10))
    least = half_life * math.log2(suppress / reuse)
    return HoldDown(
        half_life=half_life, suppress=suppress, reuse=reuse, max_hold=least * draw(st.floats(1.01, 8))
    )


@given(rule=rules(), pauses=st.lists(st.floats(0, 2000), min_size=1, max_size=40))
def test_a_hold_ends_when_the_penalty_has_decayed_to_reuse_and_lasts_max_hold_at_most(
    rule: HoldDown, pauses: list[float]
) -> None:
    flaps, now = CALM, 0.0
    for pause_ in pauses:
        now += pause_
        before = flaps.decayed(now, rule.half_life)
        flaps = fallen(flaps, now, rule)
        assert before < flaps.penalty <= rule.ceiling or flaps.penalty == rule.ceiling
        assert (flaps.held_for(now) > 0) == (flaps.penalty >= rule.suppress)
        assert flaps.held_for(now) <= rule.max_hold + 1e-6
        if flaps.held_for(now):
            assert flaps.decayed(flaps.held_until, rule.half_life) == pytest.approx(rule.reuse)


@given(penalty=st.floats(0, 100), a=st.floats(0, 1000), b=st.floats(0, 1000), half_life=st.floats(1, 1000))
def test_a_penalty_halves_in_a_half_life_however_often_it_is_looked_at(
    penalty: float, a: float, b: float, half_life: float
) -> None:
    flaps = Flaps(penalty=penalty, at=0.0)
    assert flaps.decayed(half_life, half_life) == pytest.approx(penalty / 2)
    later = Flaps(penalty=flaps.decayed(a, half_life), at=a)
    assert later.decayed(a + b, half_life) == pytest.approx(flaps.decayed(a + b, half_life))


def test_falls_far_apart_never_add_up() -> None:
    flaps = CALM
    for number in range(100):
        flaps = fallen(flaps, number * 10 * RULE.half_life, RULE)
        assert not flaps.held_for(flaps.at)


HISTORY = st.lists(st.tuples(st.sampled_from([OK, FAIL, UNKNOWN]), st.floats(0.1, 50)), max_size=80)


@given(HISTORY)
def test_a_hold_delays_coming_up_only_and_never_longer_than_max_hold(
    history: list[tuple[Result, float]],
) -> None:
    held, free = Health(), Health()
    bare = replace(CHECK, hold_down=None)
    now, fell_at = 0.0, -math.inf
    for result, step in history:
        now += step
        old = held
        held, free = advance(held, result, CHECK, now), advance(free, result, bare, now)
        if held.is_up:
            assert free.is_up
        if old.is_up and not held.is_up:
            fell_at = now
        if free.phase is Phase.UP and result is OK and now - fell_at > RULE.max_hold:
            assert held.phase is Phase.UP
        if old.phase is not Phase.UNDECIDED and held.is_up and not old.is_up:
            assert not old.flaps.held_for(now)


def flapping(falls: int, gap: float) -> tuple[Health, float]:
    """Down after so many falls, each `gap` after the one before."""
    health, now = advance(Health(), OK, CHECK, 0.0), 0.0
    for number in range(falls):
        now = (number + 1) * gap
        health = advance(health, FAIL, CHECK, now)
        if number + 1 < falls:
            for tick in (0.2, 0.4):
                health = advance(health, OK, CHECK, now + tick * gap)
            assert health.phase is Phase.UP
    return health, now


def test_the_fourth_fall_within_a_short_time_is_held_and_the_first_success_after_the_hold_brings_it_up() -> (
    None
):
    health, now = flapping(4, 1.0)
    until = health.flaps.held_until
    assert 55 < until - now < RULE.max_hold
    for tick in range(1, 6):
        health = advance(health, OK, CHECK, now + tick)
    assert (health.phase, health.is_up) == (Phase.RISING, False)
    assert advance(health, OK, CHECK, until - 0.01) is health
    assert advance(health, OK, CHECK, until).phase is Phase.UP


def test_three_falls_are_not_held() -> None:
    health, now = flapping(3, 1.0)
    for tick in (1, 2):
        health = advance(health, OK, CHECK, now + tick)
    assert health.phase is Phase.UP


def test_a_failure_while_it_is_held_starts_the_count_of_successes_anew_and_adds_no_penalty() -> None:
    health, now = flapping(4, 1.0)
    flaps = health.flaps
    for result in (OK, OK, OK, FAIL):
        health = advance(health, result, CHECK, now + 1)
    assert health.phase is Phase.DOWN
    assert health.flaps == flaps
    health = advance(health, OK, CHECK, flaps.held_until + 1)
    assert health.phase is Phase.RISING


def test_what_is_held_down_is_checked_at_the_ordinary_pace() -> None:
    health, now = flapping(4, 1.0)
    health = advance(health, OK, CHECK, now + 1)
    assert pause(health, CHECK) == CHECK.fast_interval
    health = advance(health, OK, CHECK, now + 2)
    assert pause(health, CHECK) == CHECK.interval


def test_an_outcome_that_proves_nothing_keeps_the_hold() -> None:
    health, now = flapping(4, 1.0)
    assert advance(health, UNKNOWN, CHECK, now + 1).flaps == health.flaps
