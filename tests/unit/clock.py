"""An event loop that does not wait: its clock stands still while there is anything to do, and jumps to the next timer."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any


class _Selector(selectors.DefaultSelector):
    """Does not wait: the time until the next timer is skipped."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            return super().select(None)
        self.now += timeout
        return super().select(0)


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still while anything is to be done."""

    def __init__(self) -> None:
        self._clock = _Selector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


def run_with_clock(story: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(story)


def now() -> float:
    return round(asyncio.get_running_loop().time(), 6)


async def until(done: Callable[[], bool], pause: float = 0.01) -> None:
    """Looks again and again, `pause` seconds of the clock apart; 0: with every turn."""
    while not done():  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(pause)
