"""From the health of single targets to that of what is made of them: all, any, n of m, by weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import TypeVar

from anycast.core.health.phase import Health, Phase
from anycast.core.values.configuration import Part, Rule

L = TypeVar("L")

_TOLD = 5  # parts whose detail is shown
_LONGEST = 500  # characters of a detail: that of a rule of rules has those of all of them


def leaves(rule: Rule[L]) -> Iterator[L]:
    """Every leaf of the tree, in order; a leaf that is in it twice comes twice."""
    for part in rule.parts:
        if isinstance(part.check, Rule):
            yield from leaves(part.check)
        else:
            yield part.check


def compose(rule: Rule[L], look: Callable[[L], Health]) -> Health:
    """UP, DOWN, UNPROVEN or UNDECIDED for a rule. Parts without a result, and unproven ones, count for nothing; where
    only they keep the rule from holding, the rule is what they are.

    `detail` names the parts that are not well, also while the rule holds: then it is a warning. `since` is when the
    rule came to hold, or ceased to, by what its parts are now.

    A rule that is in it many times is looked at once.
    """
    return _compose(rule, look, {})


def _compose(rule: Rule[L], look: Callable[[L], Health], known: dict[int, Health]) -> Health:
    """`known`: of the rules that have been looked at, by identity."""
    health = known.get(id(rule))
    if health is None:
        parts = [
            (part, _compose(part.check, look, known) if isinstance(part.check, Rule) else look(part.check))
            for part in rule.parts
        ]
        health = known[id(rule)] = _composed(rule, parts)
    return health


def _composed(rule: Rule[L], parts: list[tuple[Part[L], Health]]) -> Health:
    def weight(phase: Phase) -> int:
        return sum(part.weight for part, health in parts if health.phase is phase)

    up = [(health.since, part.weight) for part, health in parts if health.phase.is_up]
    have = sum(each for _, each in up)
    phase, since = Phase.DOWN, 0.0
    if have >= rule.needed:
        phase, since = Phase.UP, _reached(up, rule.needed)
    elif have + weight(Phase.UNDECIDED) >= rule.needed:
        phase = Phase.UNDECIDED
    else:
        if have + weight(Phase.UNDECIDED) + weight(Phase.UNPROVEN) >= rule.needed:
            phase = Phase.UNPROVEN
        lost = [
            (health.since, part.weight)
            for part, health in parts
            if not health.phase.is_up and health.phase is not Phase.UNDECIDED
            if phase is Phase.UNPROVEN or health.phase is not Phase.UNPROVEN
        ]
        since = _reached(lost, sum(part.weight for part in rule.parts) - rule.needed + 1)
    return Health(
        phase=phase,
        since=since,
        detail=_details(parts),
        unknown_since=min((h.unknown_since for _, h in parts if h.unknown_since is not None), default=None),
        fault=next((health.fault for _, health in parts if health.fault is not None), None),
        changes=sum(health.changes for _, health in parts),
    )


def _details(parts: list[tuple[Part[L], Health]]) -> str:
    texts = [
        f"{part.name}: {health.detail or health.phase}"
        for part, health in parts
        if health.detail or not health.phase.is_up
    ]
    if len(texts) > _TOLD:
        texts[_TOLD:] = [f"and {len(texts) - _TOLD} more"]
    text = "; ".join(texts)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def _reached(parts: list[tuple[float, int]], weight: int) -> float:
    """When the weights, in the order of their instants, came to `weight`."""
    parts = sorted(parts)
    sums = accumulate(part for _, part in parts)
    return next(since for (since, _), total in zip(parts, sums, strict=True) if total >= weight)
