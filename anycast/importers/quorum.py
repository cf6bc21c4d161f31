"""A sum of weights as a number of real servers. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True, slots=True)
class Needed:
    """`number` is written. `least` heavy ones have the sum, and any `most` of them."""

    number: int
    least: int
    most: int


def servers_for(total: int, weights: Sequence[int]) -> Needed:
    """How many real servers have `total` between them; by their mean weight."""
    heavy, light = sorted(weights, reverse=True), sorted(weights)
    number = -(-max(total, 1) * len(weights) // sum(weights))
    return Needed(
        _reach(total, None, len(weights), number),
        _reach(total, heavy, len(weights)),
        _reach(total, light, len(weights)),
    )


def _reach(total: int, weights: Sequence[int] | None, most: int, number: int = 0) -> int:
    if weights is None:
        return min(max(number, 1), most)
    return next((n for n, there in enumerate(accumulate(weights), 1) if there >= total), most)
