"""One timer for many instants: it rings for the first, and never for what is not due."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import pytest

from anycast.probes.sweep.agenda import Agenda
from anycast.probes.sweep.alarm import Alarm
from tests.unit.clock import now, run_with_clock


class Stage:
    """An agenda with an alarm."""

    def __init__(self, then: Callable[[str], None] = lambda _: None) -> None:
        self.agenda: Agenda[str] = Agenda()
        self.alarm = Alarm(self.ring, self.agenda.soonest)
        self.rung: list[tuple[float, str]] = []
        self.rings = 0
        self.then = then

    def add(self, at: float, item: str) -> None:
        self.agenda.add(at, item)
        self.alarm.set(at)

    def ring(self) -> None:
        self.rings += 1
        while (item := self.agenda.take(now())) is not None:
            self.rung.append((now(), item))
            self.then(item)


def test_it_rings_once_for_each_instant_in_their_order() -> None:
    async def story() -> None:
        stage = Stage()
        for at, item in ((3.0, "c"), (1.0, "a"), (2.0, "b"), (1.0, "also a")):
            stage.add(at, item)
        assert stage.alarm.at == 1.0
        await asyncio.sleep(10)
        assert [at for at, _ in stage.rung] == [1.0, 1.0, 2.0, 3.0]
        assert stage.rings == 3
        assert stage.alarm.at == math.inf

    run_with_clock(story())


def test_what_is_added_while_it_rings_is_not_forgotten() -> None:
    async def story() -> None:
        stage = Stage(lambda item: stage.add(now() + 1, "b") if item == "a" else None)
        stage.add(1.0, "a")
        await asyncio.sleep(10)
        assert stage.rung == [(1.0, "a"), (2.0, "b")]

    run_with_clock(story())


def test_a_defect_in_what_it_calls_does_not_silence_it() -> None:
    def then(item: str) -> None:
        if item == "a":
            raise ZeroDivisionError

    async def story() -> None:
        told: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: told.append(what["exception"]))
        stage = Stage(then)
        stage.add(1.0, "a")
        stage.add(2.0, "b")
        await asyncio.sleep(10)
        assert [item for _, item in stage.rung] == ["a", "b"]
        assert [type(one) for one in told] == [ZeroDivisionError]

    run_with_clock(story())


@pytest.mark.parametrize("while_it_rings", [False, True])
def test_once_it_is_cancelled_it_rings_no_more(while_it_rings: bool) -> None:  # noqa: FBT001
    async def story() -> None:
        stage = Stage(lambda _: stage.alarm.cancel())
        stage.add(1.0, "a")
        stage.add(2.0, "b")
        if not while_it_rings:
            stage.alarm.cancel()
        await asyncio.sleep(10)
        assert [item for _, item in stage.rung] == (["a"] if while_it_rings else [])

    run_with_clock(story())
