"""Whether it is to be said that a node is over the limit of its capacity, or would be with one node less.

A peak is none of that, and a load at the edge is said once.
"""

from __future__ import annotations

from dataclasses import dataclass

LASTS = 60.0  # seconds for which it is so at every look before it is said, and no more so before that is over
ENDS = 0.95  # of the limit: below it it is no more so


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """The tightest of a node's resources: the share of it that is in use, its limit, and both in words."""

    share: float
    limit: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """`since`: the instant since which each look has found it otherwise than it is said (monotonic); None: it is as said."""

    is_said: bool = False
    since: float | None = None


def looked(mark: Mark, used: Used | None, now: float) -> Mark:
    """`used`: None: it is not known, by which nothing begins."""
    if mark.is_said:
        otherwise = used is None or used.share <= ENDS * used.limit
    else:
        otherwise = used is not None and used.share > used.limit
    if not otherwise:
        return Mark(is_said=mark.is_said)
    since = now if mark.since is None else mark.since
    return Mark(is_said=not mark.is_said) if now - since >= LASTS else Mark(is_said=mark.is_said, since=since)
