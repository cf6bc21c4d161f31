from __future__ import annotations

import threading

from anycast.agent.pulse import Pulse


def beaten(*instants: float) -> Pulse:
    """One whose clock was looked at at these."""
    readings, done = iter(instants), threading.Event()
    left = len(instants)

    def sleep(_: float) -> None:
        nonlocal left
        left -= 1
        if not left:
            done.set()
            threading.Event().wait()

    pulse = Pulse(0.5, clock=lambda: next(readings), sleep=sleep)
    assert done.wait(60)
    return pulse


def test_the_longest_time_without_a_look_is_known() -> None:
    assert beaten(1.0, 1.5, 2.0, 4.5, 5.0).longest(1.2, 5.2) == 2.5


def test_looks_before_and_after_do_not_count() -> None:
    assert beaten(1.0, 1.5, 2.0, 9.5).longest(1.2, 5.0) == 3.0


def test_without_a_look_it_is_the_whole_time() -> None:
    assert beaten(1.0).longest(2.0, 5.0) == 3.0
