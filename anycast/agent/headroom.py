"""Says what stands about the load of this node: over its limit, or over it with one node less.

The figures are worked out by the ops process, which is asked for those of this node. They are never worked out here.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from anycast.agent.conditions import Conditions
from anycast.core.fleet.codec import BrokenError
from anycast.core.fleet.headroom import Resource
from anycast.core.fleet.strained import Mark, Used, looked
from anycast.core.values.configuration import Config
from anycast.core.values.fleet import Fleet
from anycast.core.values.standing import Condition
from anycast.fleet.own import asked

PATH = "/fleet/headroom"
LOOK = 30.0  # seconds between two: the figures of a large fleet are work for the ops process
MOST = 16 * 1024  # bytes of an answer
_MOST_TEXT = 300  # characters
_MOST_SHARE = 1e9

_NODE, _FLEET = Condition.NODE_OVER_LIMIT, Condition.FLEET_HEADROOM_LOW
_TO_DO = {
    _NODE: "over it packets wait and are lost: `anycast fleet` says whether another node is out or failing, `anycast status "
    "--all` what of the traffic is no client's",
    _FLEET: "take no node out now, bring back one that is out, and give the fleet more capacity: `anycast fleet` has all nodes",
}


class Headroom:
    """`config`: the one in force now. `now`: monotonic."""

    def __init__(
        self, config: Callable[[], Config], conditions: Conditions, now: Callable[[], float]
    ) -> None:
        self._config = config
        self._conditions = conditions
        self._now = now
        self._marks: dict[Condition, Mark] = {}

    async def keep(self) -> None:
        """For ever."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK)

    async def look(self) -> None:
        config = self._config()
        if not _is_bounded(config.fleet):
            for kind in self._marks:
                self._conditions.end(kind)
            self._marks.clear()
            return
        told = await _told(Path(config.node.runtime_dir))
        used = {_NODE: _today(config.node.name, told), _FLEET: _one_less(told)}
        for kind, one in used.items():
            mark = self._marks[kind] = looked(self._marks.get(kind, Mark()), one, self._now())
            if not mark.is_said:
                self._conditions.end(kind)
            elif one is not None:
                self._conditions.begin(kind, f"{one.text} ({_TO_DO[kind]})")


def _is_bounded(fleet: Fleet | None) -> bool:
    """Whether there are figures at all: others are asked, and a capacity is known."""
    return fleet is not None and fleet.asks and any(getattr(fleet.capacity, each) for each in Resource)


async def _told(runtime: Path) -> Mapping[str, Any]:
    """Empty: it is not known."""
    try:
        found = json.loads(await asked(runtime, PATH, MOST))
    except (OSError, TimeoutError, BrokenError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _today(node: str, told: Mapping[str, Any]) -> Used | None:
    """It is measured here, so it counts whatever is known of others."""
    found = _used(told.get("today"))
    return found and Used(share=found.share, limit=found.limit, text=f"{node} stands at {found.text}")


def _one_less(told: Mapping[str, Any]) -> Used | None:
    less = told.get("less")
    first = less[0] if isinstance(less, list) and less else None
    if told.get("complete") is not True or not isinstance(first, dict):
        return None
    found = _used(first.get("figure"))
    return found and Used(share=found.share, limit=found.limit, text=_words(first.get("text")))


def _used(figure: object) -> Used | None:
    if not isinstance(figure, dict):
        return None
    share, limit = figure.get("share"), figure.get("limit")
    if not (_is_share(share) and _is_share(limit)):
        return None
    return Used(share=float(share), limit=float(limit), text=_words(figure.get("text")))


def _is_share(found: object) -> TypeGuard[int | float]:
    return isinstance(found, int | float) and 0 <= found < _MOST_SHARE


def _words(text: object) -> str:
    return "".join(c for c in str(text)[:_MOST_TEXT] if c.isprintable())
