from __future__ import annotations

import pytest

from anycast.agent.effort import Effort
from anycast.analysis.capacity import LEAST


def test_before_anything_was_measured_nothing_is_slow() -> None:
    effort = Effort()
    assert (effort.slowdown, effort.check) == (1.0, LEAST)


def test_the_slowdown_is_of_all_work_and_forgets() -> None:
    effort = Effort()
    for _ in range(100):
        effort.worked(0.5, 0.1)
    assert effort.slowdown == pytest.approx(5.0)
    for _ in range(1000):
        effort.worked(0.1, 0.1)
    assert effort.slowdown < 1.01


def test_clocks_that_disagree_do_not_make_the_machine_fast() -> None:
    effort = Effort()
    effort.worked(0.1, 0.2)
    assert effort.slowdown == 1.0


def test_a_check_takes_what_the_process_took_while_there_were_many() -> None:
    effort = Effort()
    assert effort.is_due(100.0)
    effort.checked(1000, 5.0, 100.0)
    assert not effort.is_due(110.0)
    assert effort.is_due(130.0)
    effort.checked(31000, 8.0, 130.0)
    assert effort.check == pytest.approx(100e-6)


def test_few_checks_say_nothing_of_what_many_take() -> None:
    effort = Effort()
    effort.checked(0, 0.0, 100.0)
    effort.checked(100, 1.0, 130.0)
    assert effort.check == LEAST
