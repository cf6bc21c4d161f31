"""A load over the limit is said once it lasts, and is over once it is well below, or not known any more."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from anycast.core.fleet.strained import ENDS, LASTS, Mark, Used, looked

LIMIT = 0.7
SAID = Mark(is_said=True)


def after(mark: Mark, shares: Iterable[float | None], every: float) -> bool:
    """Whether it is said after looks so far apart."""
    for place, share in enumerate(shares):
        used = None if share is None else Used(share=share, limit=LIMIT, text="")
        mark = looked(mark, used, 1000.0 + place * every)
    return mark.is_said


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ([0.9, 0.9], False),
        ([0.9, 0.9, 0.9], True),
        ([0.71, 0.99, 0.72], True),
        ([0.9, 0.9, 0.6, 0.9, 0.9], False),  # a peak
        ([0.9, 0.9, None, 0.9, 0.9], False),
        ([LIMIT] * 9, False),  # at it is not over it
        ([None] * 9, False),
    ],
)
def test_it_is_said_once_every_look_has_found_it_for_a_while(
    shares: list[float | None], *, said: bool
) -> None:
    assert after(Mark(), shares, LASTS / 2) is said


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ([0.5, 0.5], True),
        ([0.5, 0.5, 0.5], False),
        ([None, None, None], False),
        ([0.5, None, 0.5], False),
        ([0.5, 0.5, 0.9, 0.5, 0.5], True),
        ([ENDS * LIMIT + 0.001] * 9, True),  # just below the limit it would begin again with the next peak
        ([ENDS * LIMIT] * 3, False),
    ],
)
def test_it_is_over_once_every_look_has_found_it_well_below(
    shares: list[float | None], *, said: bool
) -> None:
    assert after(SAID, shares, LASTS / 2) is said
