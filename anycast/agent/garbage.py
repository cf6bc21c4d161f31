"""What the collector of cyclic garbage walks over: nothing that has come to stay.

A full collection takes 64 ns for each object: over the state of 50,000 real servers 50 ms in which the event loop
stands. Where one takes longer than a moment, nearly all that it found is the state and the configuration; they are
set aside, so that each object is walked over once. They are freed as ever when nobody refers to them any more; only a
cycle that is set aside while it is in use, as of a connection that is open just then, stays for good when its use
ends: some kilobytes with each reload of a large configuration.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping

MOMENT = 0.005  # seconds
YOUNG = 10_000  # objects until the young ones are looked through; a thousand checks that fail at once make 100,000
_OLDEST = 2


class Aside:
    """Follows the collections of this process."""

    def __init__(
        self, *, clock: Callable[[], float] = time.perf_counter, freeze: Callable[[], None] = gc.freeze
    ) -> None:
        self._clock = clock
        self._freeze = freeze
        self._began = 0.0

    def __call__(self, phase: str, about: Mapping[str, int]) -> None:
        """For `gc.callbacks`."""
        if about["generation"] != _OLDEST:
            return
        if phase == "start":
            self._began = self._clock()
        elif self._clock() - self._began > MOMENT:
            self._freeze()


def pause() -> None:
    """No collection until `set_aside`: while a configuration is taken in, nearly all that is made stays.

    Of 50,000 real servers the collections of that time would take a second, and find nothing.
    """
    gc.collect()  # what the imports have left
    gc.disable()


def resume() -> None:
    gc.enable()


def set_aside() -> None:
    """All that is there by now, and from now on what a collection takes too long over."""
    gc.freeze()
    gc.callbacks.append(Aside())
    gc.set_threshold(YOUNG, *gc.get_threshold()[1:])
    resume()
