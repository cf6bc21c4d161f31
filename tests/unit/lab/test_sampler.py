from __future__ import annotations

import pytest

from lab.sampler import Sample, rates, shares


def test_shares_are_of_what_was_taken_in_between() -> None:
    first = Sample(0.0, {"lb1": 1000, "lb2": 50}, 0, 0)
    assert shares(first, Sample(2.0, {"lb1": 1030, "lb2": 60}, 0, 0)) == {"lb1": 0.75, "lb2": 0.25}
    assert shares(first, first) == {"lb1": 0.0, "lb2": 0.0}


def test_rates_are_per_second_over_spans_that_are_long_enough() -> None:
    history = [Sample(t, {"lb1": int(t * 100)}, 0, 0) for t in (0.0, 0.25, 0.5, 0.75, 1.0, 1.2)]
    found = rates(history, 0.5)
    assert [round(t, 3) for t, _ in found] == [0.25, 0.75]
    assert [values["lb1"] for _, values in found] == [pytest.approx(100), pytest.approx(100)]
    assert rates([], 1.0) == []
