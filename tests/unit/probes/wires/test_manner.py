from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from anycast.probes.wires.manner import LONG, REST, Manner

HOUR = 3600.0


def learned(age: float, now: float = 0.0) -> Manner:
    """Of a server that closes at that age."""
    manner = Manner()
    for n in range(3):
        assert manner.ended(age, now)
        assert manner.harmless(age, now) == (n == 2)
    assert manner.learned
    return manner


def test_three_harmless_ends_in_a_row_are_the_servers_way() -> None:
    manner = learned(60.0)
    assert manner.usual == 60.0
    assert manner.stands(1.0) == 48.0  # renewed before the server closes it


def test_an_end_that_was_a_death_begins_the_count_anew() -> None:
    manner = Manner()
    for _ in range(2):
        assert manner.ended(60.0, 0.0)
        manner.harmless(60.0, 0.0)
    assert manner.ended(60.0, 0.0)
    manner.deadly()
    for _ in range(2):
        assert not manner.harmless(60.0, 0.0)
    assert not manner.learned


def test_a_death_unlearns_nothing() -> None:
    manner = learned(60.0)
    manner.deadly()
    assert manner.learned


def test_an_end_before_the_usual_time_is_asked_about_though_the_server_is_known() -> None:
    manner = learned(60.0)
    manner.stands(1.0)
    assert manner.ended(20.0, 21.0)


def test_the_usual_end_is_not_asked_about() -> None:
    manner = learned(60.0)
    manner.stands(1.0)
    assert not manner.ended(60.0, 61.0)


def test_a_server_that_leaves_nothing_open_is_tried_every_ten_minutes() -> None:
    manner = learned(0.2)
    assert manner.hopeless
    assert manner.pause == REST
    manner.stands(REST)
    assert not manner.ended(0.2, REST)  # and costs no check


def test_a_server_that_was_configured_anew_is_learned_anew() -> None:
    manner = learned(60.0)
    assert manner.stands(HOUR + 1) == LONG  # left to live for as long as it may
    assert manner.overlived()
    assert not manner.learned
    assert manner.stands(2 * HOUR) == math.inf


def test_after_the_trial_of_an_hour_the_life_is_what_it_was_then() -> None:
    manner = learned(60.0)
    manner.stands(HOUR + 1)
    assert not manner.ended(120.0, HOUR + 121)
    assert manner.stands(HOUR + 122) == 96.0


def test_what_lived_for_long_is_no_nuisance() -> None:
    manner = Manner()
    for _ in range(9):
        assert manner.ended(LONG, 0.0)
        assert not manner.harmless(LONG, 0.0)
    assert not manner.learned


def test_a_server_that_takes_no_connection_is_tried_less_and_less() -> None:
    manner = Manner()
    pauses = []
    for _ in range(20):
        manner.refused()
        pauses.append(manner.pause)
    assert pauses == sorted(pauses)
    assert pauses[0] == 2.0
    assert pauses[-1] == 300.0
    assert manner.refuses
    manner.stands(0.0)
    assert manner.pause == 1.0
    assert not manner.refuses


@given(st.lists(st.tuples(st.floats(0.0, 2000.0), st.booleans()), max_size=300))
def test_a_server_that_always_ends_them_soon_costs_a_bounded_number_of_checks(
    story: list[tuple[float, bool]],
) -> None:
    """However it does it: ten minutes of life, of rest or of a pause lie between, in the long run."""
    manner = Manner()
    clock = 0.0
    asked = 0
    for age, ok in story:
        life = manner.stands(clock)
        assert life > 10.0
        if age >= life:  # it is renewed, or left alone from then on
            clock += life
            manner.overlived()
            continue
        clock += age
        if manner.ended(age, clock):
            asked += 1
            if ok:
                manner.harmless(age, clock)
            else:
                manner.deadly()
        clock += manner.pause
    assert asked <= 10 + clock / 1.0
    if all(ok for _, ok in story) and story and max(age for age, _ in story) < 10.0:
        # It ends each soon: three are asked about, then none but earlier ones, and each of those is tried after ten minutes.
        assert asked <= 3 + clock / REST + 1
