from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.core.health.phase import TRANSITIONS, Health, Outcome, Phase, Proof, Result, advance, pause
from anycast.core.values.configuration import Check, TcpCheck

CHECK = Check(kind=TcpCheck(), rise=2, fall=3, interval=2.0, fast_interval=0.5)


def run(outcomes: str, health: Health = Health()) -> Health:  # noqa: B008 - frozen
    words = {"o": Outcome.OK, "x": Outcome.FAIL, "?": Outcome.UNKNOWN}
    for now, letter in enumerate(outcomes):
        health = advance(
            health, Result(outcome=words[letter], detail="" if letter == "o" else letter), CHECK, float(now)
        )
    return health


def test_the_health_table_is_total() -> None:
    assert set(TRANSITIONS) == set(itertools.product(Phase, Proof))


@pytest.mark.parametrize(
    ("outcomes", "phase"),
    [
        ("", Phase.UNDECIDED),
        ("o", Phase.UP),
        ("x", Phase.DOWN),
        ("ox", Phase.FALLING),
        ("oxx", Phase.FALLING),
        ("oxxx", Phase.DOWN),
        ("oxxoxx", Phase.FALLING),
        ("xo", Phase.RISING),
        ("xoo", Phase.UP),
        ("xoxo", Phase.RISING),
        ("?", Phase.UNDECIDED),
        ("o?", Phase.UP),
        ("ox?x?x", Phase.DOWN),
    ],
)
def test_outcomes_lead_to_the_phase(outcomes: str, phase: Phase) -> None:
    assert run(outcomes).phase is phase


def test_an_unknown_outcome_is_remembered_until_the_next_real_one() -> None:
    assert run("o?").unknown
    assert not run("o?o").unknown


def test_nothing_new_is_the_same_object() -> None:
    up = run("o")
    assert advance(up, Result(outcome=Outcome.OK), CHECK, 9.0) is up


def test_since_moves_only_when_usable_turns() -> None:
    assert run("oxx").since == 0.0
    assert run("oxxx").since == 3.0


@given(st.text("ox?", max_size=30))
def test_while_a_state_is_changing_the_check_runs_faster(outcomes: str) -> None:
    health = run(outcomes)
    counting = health.phase in (Phase.FALLING, Phase.RISING, Phase.UNDECIDED)
    assert pause(health, CHECK) == (0.5 if counting else 2.0)


@given(st.text("ox?", max_size=40))
def test_a_server_turns_only_after_fall_or_rise_outcomes_in_a_row(outcomes: str) -> None:
    definite = [letter for letter in outcomes if letter != "?"]
    health = run(outcomes)
    if definite[-3:] == ["x"] * 3:
        assert not health.phase.is_up
    if definite[-2:] == ["o"] * 2:
        assert health.phase.is_up
