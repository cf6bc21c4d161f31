from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping

import pytest

from lab import coming_up
from lab.coming_up import LOOPS, START, STEP, STILL, Look

STUCK = Look(rank=(1,), lack="its agent does not listen")
GOOD = Look(rank=(9,))


class Clock:
    """Time that passes by sleeping only, `slow` times as fast."""

    def __init__(self, slow: float = 1.0) -> None:
        self.now = 0.0
        self._slow = slow

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds * self._slow


def waited(looks: Iterable[Mapping[str, Look]], slow: float = 1.0) -> tuple[dict[str, Look], float]:
    clock = Clock(slow)
    source: Iterator[Mapping[str, Look]] = iter(looks)
    return coming_up.wait(lambda: next(source), clock=clock, sleep=clock.sleep), clock.now


def test_the_wait_ends_when_all_are_there() -> None:
    assert waited([{"lb1": STUCK}, {"lb1": GOOD}])[0] == {}


def test_what_has_not_come_up_when_nothing_moves_is_told() -> None:
    lacking, took = waited(itertools.repeat({"lb1": STUCK, "lb2": GOOD}))
    assert lacking == {"lb1": STUCK}
    assert STILL <= took <= STILL + 2


def test_a_machine_on_which_each_step_takes_long_is_waited_for() -> None:
    steps = [Look(rank=(3, number), lack="sessions") for number in range(20)]
    lacking, took = waited(({"lb1": look} for look in [*steps, GOOD]), slow=100)
    assert lacking == {}
    assert took > 10 * STILL


def test_going_back_and_forth_is_no_move() -> None:
    looks = itertools.cycle([{"lb1": Look(rank=(1,), lack="x")}, {"lb1": Look(rank=(0,), lack="y")}])
    assert waited(looks)[1] <= STILL + 2


def test_a_start_that_works_is_waited_for_until_it_has_had_enough() -> None:
    looks = ({"lb1": Look(rank=(0,), lack="it starts", worked=number * STEP)} for number in itertools.count())
    lacking, took = waited(looks, slow=20)
    assert lacking
    assert START / STEP * 10 <= took <= START / STEP * 10 + STILL + 20


def test_a_program_that_ends_again_and_again_gets_no_credit_for_its_work() -> None:
    class Process:
        def ticks(self) -> int:
            return 100

    class Lab:
        def process(self, *_: str) -> Process:
            return Process()

    wards = {("lb1", "agent"): {"starts": LOOPS + 1}}
    assert coming_up._worked(Lab(), "lb1", wards) == 0.0  # type: ignore[arg-type]
    assert coming_up._worked(Lab(), "lb1", {("lb1", "agent"): {"starts": 1}}) > 0.0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "lack"),
    [
        ({"vips": [{"name": "web", "announced": True}], "neighbors": [{"state": "down"}]}, None),
        (
            {"vips": [{"name": "web", "announced": False}], "neighbors": [{"state": "up"}, {"state": "down"}]},
            "1 of its 2 BGP sessions are up",
        ),
        (
            {"vips": [{"name": "web", "announced": False, "reason": "starting"}], "neighbors": [{"state": "up"}]},
            "it does not announce web: starting",
        ),
    ],
)  # fmt: skip
def test_the_first_thing_that_lacks_is_named(status: dict[str, object], lack: str | None) -> None:
    assert coming_up._announced(status)[1] == lack


def test_more_of_anything_is_further() -> None:
    down = coming_up._announced({"vips": [], "neighbors": [{"state": "down"}]})[0]
    assert coming_up._announced({"vips": [], "neighbors": [{"state": "up"}]})[0] > down
