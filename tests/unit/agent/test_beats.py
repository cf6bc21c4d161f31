from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.agent.beats import BATCH, OFTEN, Host, lag, next_beat, offset, on_beat

SECONDS = st.floats(0.01, 100)


@given(beat=SECONDS, after=SECONDS, late=st.floats(0, 1000))
def test_the_next_beat_is_a_whole_number_of_steps_away_and_the_first_that_is_not_missed(
    beat: float, after: float, late: float
) -> None:
    now = beat + late
    at = next_beat(beat, after, now)
    steps = (at - beat) / after
    assert round(steps) >= 1
    assert steps == pytest.approx(round(steps), abs=1e-6)
    assert at >= now - lag(after) - 1e-6
    assert round(steps) == 1 or at - after < now - lag(after) + 1e-6


@given(base=SECONDS, interval=SECONDS, steps=st.integers(0, 10_000), late=st.floats(0, 1000))
def test_a_target_keeps_to_the_beat_it_has(base: float, interval: float, steps: int, late: float) -> None:
    beat = base + steps * interval
    now = beat + late
    at = on_beat(base, interval, beat, now)
    assert (at - base) / interval == pytest.approx(round((at - base) / interval), abs=1e-5)
    assert at > max(beat, now - lag(interval))
    assert at - interval <= max(beat, now - lag(interval)) + 1e-5 * interval


@given(first=st.integers(0, 100_000), count=st.integers(2, 50))
def test_neighbors_lie_far_apart_in_their_interval(first: int, count: int) -> None:
    places = sorted(offset(first + n, 1.0) for n in range(count))
    gaps = [after - before for before, after in itertools.pairwise([*places, places[0] + 1.0])]
    assert max(gaps) <= (2.1 if count <= 10 else 3.7) / count
    assert len(set(places)) >= count / 2


def test_a_few_targets_share_five_wakes() -> None:
    assert len({offset(place, 1.0) for place in range(10)}) == 5


def test_a_run_that_took_as_long_as_its_interval_keeps_its_pace() -> None:
    assert next_beat(10.0, 1.0, 11.0 + 8 * BATCH) == 11.0
    assert next_beat(10.0, OFTEN / 2, 10.5 + BATCH / 2) == 10.5


def test_without_a_pause_the_next_run_is_at_once() -> None:
    assert next_beat(10.0, 0.0, 12.0) == 12.0


@given(st.lists(st.tuples(st.floats(0, 2), st.integers(0, 3)), min_size=1, max_size=60))
def test_no_two_runs_against_an_address_begin_within_a_gap_of_each_other(
    steps: list[tuple[float, int]],
) -> None:
    host = Host()
    for _ in range(4):
        host.join(1.0)
    now, reserved = 0.0, []
    for step, early in steps:
        now += step
        reserved.append(host.reserve(now - early * BATCH / 4, now))
    assert reserved == sorted(reserved)
    assert all(b - a >= 0.001 - 1e-9 for a, b in itertools.pairwise(reserved))


@given(targets=st.integers(1, 5000), interval=st.floats(0.1, 10))
def test_however_many_checks_an_address_has_there_is_room_for_all_of_them(
    targets: int, interval: float
) -> None:
    host = Host()
    for _ in range(targets):
        host.join(interval)
    last = max(host.reserve(0.0, 0.0) for _ in range(targets))
    assert last <= interval / 2 + 1e-6


def test_a_run_that_is_alone_is_not_put_off() -> None:
    host = Host()
    host.join(1.0)
    assert host.reserve(5.0, 5.01) == 5.0
    assert host.reserve(6.0, 6.01) == 6.0


def test_a_pause_is_not_made_up_for_by_a_burst() -> None:
    host = Host()
    for _ in range(100):
        host.join(1.0)
    now = 1000.0
    reserved = [host.reserve(500.0 + number, now) for number in range(100)]
    assert sum(at <= now for at in reserved) <= BATCH / 0.001 + 1


def test_an_address_whose_targets_have_gone_is_as_new() -> None:
    host = Host()
    for _ in range(3000):
        host.join(0.1)
    for _ in range(3000):
        host.leave(0.1)
    host.join(1.0)
    assert host.targets == 1
    assert host.reserve(0.0, 0.0) + 0.001 == pytest.approx(host.reserve(0.0, 0.0))
    assert math.isfinite(host.reserve(0.0, 0.0))
