"""From the health of single targets to that of what is made of them: all, any, n of m, by weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate

from anycast.core.health import Health, Phase
from anycast.core.kinds import BgpSession
from anycast.core.model import Check, Rule

Look = Callable[[Check | BgpSession], Health]
"""The health of a leaf."""

_TOLD = 5  # parts whose detail is told


def leaves(tree: Check | Rule) -> Iterator[Check | BgpSession]:
    """Every check of the tree, in order; one that stands there twice comes twice."""
    if isinstance(tree, Check):
        yield tree
        return
    for member in tree.members:
        if isinstance(member.part, BgpSession):
            yield member.part
        else:
            yield from leaves(member.part)


def compose(tree: Check | Rule | BgpSession, look: Look) -> Health:
    """UP, DOWN or UNDECIDED for a rule: undecided parts count as neither, and only if they can turn it.

    `detail` tells of the parts that are not well, of a rule that holds too: then it is a warning. `since` is when
    the rule came to hold, or ceased to, by what its parts are now.
    """
    if not isinstance(tree, Rule):
        return look(tree)
    parts = [(member, compose(member.part, look)) for member in tree.members]
    up = [(health.since, member.weight) for member, health in parts if health.phase.is_up]
    undecided = sum(member.weight for member, health in parts if health.phase is Phase.UNDECIDED)
    told = [
        f"{member.name}: {health.detail or health.phase}"
        for member, health in parts
        if health.detail or not health.phase.is_up
    ]
    if len(told) > _TOLD:
        told[_TOLD:] = [f"and {len(told) - _TOLD} more"]
    detail = "; ".join(told)
    unknown = any(health.unknown for _, health in parts)
    have = sum(weight for _, weight in up)
    if have >= tree.needed:
        since = _reached(up, tree.needed)
        return Health(phase=Phase.UP, since=since, detail=detail, unknown=unknown)
    if have + undecided >= tree.needed:
        return Health(detail=detail, unknown=unknown)
    down = [(h.since, m.weight) for m, h in parts if not h.phase.is_up and h.phase is not Phase.UNDECIDED]
    too_many = sum(member.weight for member in tree.members) - tree.needed + 1
    return Health(phase=Phase.DOWN, since=_reached(down, too_many), detail=detail, unknown=unknown)


def _reached(parts: list[tuple[float, int]], weight: int) -> float:
    """When the weights, in the order of their instants, came to `weight`."""
    parts = sorted(parts)
    sums = accumulate(part for _, part in parts)
    return next(since for (since, _), total in zip(parts, sums, strict=True) if total >= weight)
