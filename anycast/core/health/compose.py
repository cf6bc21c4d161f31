"""From the health of single targets to that of what is made of them: all, any, n of m, by weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import TypeVar

from anycast.core.health.phase import Health, Phase
from anycast.core.values.configuration import Rule

L = TypeVar("L")

_TOLD = 5  # parts whose detail is told


def leaves(rule: Rule[L]) -> Iterator[L]:
    """Every leaf of the tree, in order; one that stands there twice comes twice."""
    for part in rule.parts:
        if isinstance(part.check, Rule):
            yield from leaves(part.check)
        else:
            yield part.check


def compose(rule: Rule[L], look: Callable[[L], Health]) -> Health:
    """UP, DOWN or UNDECIDED for a rule: undecided parts count as neither, and only if they can turn it.

    `detail` tells of the parts that are not well, of a rule that holds too: then it is a warning. `since` is when
    the rule came to hold, or ceased to, by what its parts are now.
    """
    parts = [
        (part, compose(part.check, look) if isinstance(part.check, Rule) else look(part.check))
        for part in rule.parts
    ]
    up = [(health.since, part.weight) for part, health in parts if health.phase.is_up]
    undecided = sum(part.weight for part, health in parts if health.phase is Phase.UNDECIDED)
    told = [
        f"{part.name}: {health.detail or health.phase}"
        for part, health in parts
        if health.detail or not health.phase.is_up
    ]
    if len(told) > _TOLD:
        told[_TOLD:] = [f"and {len(told) - _TOLD} more"]
    detail = "; ".join(told)
    unknown = any(health.unknown for _, health in parts)
    changes = sum(health.changes for _, health in parts)
    have = sum(weight for _, weight in up)
    if have >= rule.needed:
        since = _reached(up, rule.needed)
        return Health(phase=Phase.UP, since=since, detail=detail, unknown=unknown, changes=changes)
    if have + undecided >= rule.needed:
        return Health(detail=detail, unknown=unknown, changes=changes)
    down = [(h.since, p.weight) for p, h in parts if not h.phase.is_up and h.phase is not Phase.UNDECIDED]
    too_many = sum(part.weight for part in rule.parts) - rule.needed + 1
    return Health(
        phase=Phase.DOWN, since=_reached(down, too_many), detail=detail, unknown=unknown, changes=changes
    )


def _reached(parts: list[tuple[float, int]], weight: int) -> float:
    """When the weights, in the order of their instants, came to `weight`."""
    parts = sorted(parts)
    sums = accumulate(part for _, part in parts)
    return next(since for (since, _), total in zip(parts, sums, strict=True) if total >= weight)
