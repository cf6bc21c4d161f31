"""The core that concludes anew what an event can have changed, against one that concludes everything at every event."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, ClassVar
from unittest.mock import patch

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from anycast.core import events as ev
from anycast.core import touched
from anycast.core.dataplane import ipvs, loop
from anycast.core.state import DISCARDS, REST, SYNC, Piece, State
from anycast.core.step import begin, step
from tests.examples import dear
from tests.property import test_step as worlds


def everything(*_: object) -> bool:
    return True


def all_services(before: State, state: State) -> set[ipvs.Key]:
    return {key for index in (before.index, state.index) for vip in index.vips.values() for key in vip.facts}


def all_pieces(before: State, state: State) -> set[Piece]:
    new = state.kernel.snapshot
    if new is None:
        return set()
    tables = (before.desired.table, state.desired.table, new.table)
    addresses = (before.desired.addresses, state.desired.addresses, state.desired.owned, new.addresses)
    old = before.kernel.snapshot
    return {
        *(key for table in tables for key in table),
        *(address for some in addresses for address in some),
        *(() if old is None else (*old.table, *old.addresses, *old.plain)),
        *state.kernel.attempted,
        DISCARDS,
        REST,
        SYNC,
    }


def all_vips(_: State, state: State, __: object) -> set[str]:
    return set(state.index.vips)


def all_kept(before: State, state: State) -> set[ipvs.Key]:
    return {*before.kept, *state.kept}


SIMPLE = {
    "services": all_services,
    "pieces": all_pieces,
    "vips_by_kernel": all_vips,
    "vips": all_vips,
    "retiring": everything,
    "leaving": everything,
    "kept": all_kept,
    "awaiting": lambda _, state, __: set(state.kept),
    "stage": everything,
}


def simple() -> ExitStack:
    """In it nothing is taken over from the state before."""
    stack = ExitStack()
    for name, function in SIMPLE.items():
        stack.enter_context(patch.object(touched, name, function))
    return stack


def test_every_question_about_what_is_touched_is_answered_with_everything() -> None:
    asked = {
        name
        for name, found in vars(touched).items()
        if callable(found) and found.__module__ == touched.__name__ and not name.startswith("_")
    }
    assert asked - SIMPLE.keys() == {"in_maintenance"}  # a part of `vips`


class Both(worlds.World):
    """The world of the other properties; every event goes to both cores."""

    simple: ClassVar[State]
    effects: tuple[ev.Effect, ...] = ()

    def send(self, event: ev.Event) -> None:
        with simple():
            wanted, effects = step(Both.simple, event, self.now)
        super().send(event)
        compare(self.state, wanted)
        assert told(self.effects) == told(effects)
        Both.simple = wanted

    def perform(self, effects: tuple[ev.Effect, ...]) -> None:
        self.effects = effects
        super().perform(effects)

    def teardown(self) -> None:
        """That all is announced once everything is good is said of the world itself, where it takes hundreds of events."""
        if hasattr(self, "state") and not self.stopping:
            self.all_goes_well(rounds=8)


class BothLimited(Both, worlds.Limited):
    """With VIPs that stay on as the last resort, by themselves or by a limit of the fleet."""


def told(effects: Iterable[ev.Effect]) -> list[Any]:
    """Effects but for the order in which a lease names what has changed."""
    found: list[Any] = []
    for effect in effects:
        if isinstance(effect, ev.SendLease):
            lease = effect.lease
            found.append(
                (replace(lease, changed=(), gone=()), frozenset(lease.changed), frozenset(lease.gone))
            )
        else:
            found.append(effect)
    return found


def compare(found: State, wanted: State) -> None:
    for name in State.__dataclass_fields__:
        assert getattr(found, name) == getattr(wanted, name), name


def _begin(*args: Any, **more: Any) -> tuple[State, tuple[ev.Effect, ...]]:
    state, effects = begin(*args, **more)
    Both.simple = state
    return state, effects


@pytest.mark.parametrize("world", [Both, BothLimited])
@pytest.mark.parametrize("program", [1, 300])
def test_what_is_concluded_of_a_part_is_what_is_concluded_of_the_whole(
    program: int, world: type[Both]
) -> None:
    with patch.object(worlds, "begin", _begin), patch.object(loop, "PROGRAM", program):
        run_state_machine_as_test(
            world, settings=settings(max_examples=dear(25), stateful_step_count=40, deadline=None)
        )
