"""The agent's facts as received so far, from which every page is made."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from anycast.core.index import Index
from anycast.core.values.configuration import Config, Target
from anycast.core.values.standing import MAX_TEXT, Condition, Standing
from anycast.ops import delta, feed
from anycast.ops.headroom import Headroom
from anycast.ops.hub import Hub, event_of
from anycast.ops.load import Meter
from anycast.ops.source import Facts
from anycast.ops.traffic import Traffic

KEPT = 30  # runs of a target whose durations are kept


class Mirror:
    """A `Source`, once there has been a message."""

    def __init__(self) -> None:
        self.pid = 0
        self.revision = 0
        self.events = Hub()
        self.traffic = Traffic()
        self.meter = Meter()
        self.headroom = Headroom(self)
        self._coming: Any = None  # of which the rest may be on its way
        self._facts: Facts | None = None
        self._config: Config | None = None
        self._index = Index()
        self._numbers: Mapping[int, Target] = {}
        self._durations: dict[Target, array[float]] = {}
        self._changed = asyncio.Event()
        self._own: dict[tuple[Condition, str], Standing] = {}  # of this process

    def stands(self, where: str, why: str) -> None:
        """Nobody is served there, and why; with an empty text: they are."""
        self._own.pop((Condition.OPS_UNAVAILABLE, where), None)
        if why:
            one = Standing(
                kind=Condition.OPS_UNAVAILABLE, since=time.monotonic(), text=why[:MAX_TEXT], about=where
            )
            self._own[Condition.OPS_UNAVAILABLE, where] = one
        if self._coming is not None and self._facts is not None:
            self._facts = self._with_own(feed.whole(self._coming, self._index))

    def _with_own(self, facts: Facts) -> Facts:
        if not self._own:
            return facts
        return replace(facts, state=replace(facts.state, standing={**facts.state.standing, **self._own}))

    def take(self, message: feed.Message) -> None:
        coming = self._coming if message.facts is None else message.facts
        coming = self._coming = delta.apply(coming, message.changes)
        if message.more:
            return
        config = coming.state.config
        if config is not self._config:
            self._config, self._index = config, feed.derived(config, self._index)
        facts = self._facts = self._with_own(feed.whole(coming, self._index))
        self.traffic.take(facts.state)
        if config.fleet is not None:
            self.meter.interfaces.take(time.monotonic())
        if facts.numbers is not self._numbers:
            self._numbers = facts.numbers
            targets = set(facts.numbers.values())
            self._durations = {one: took for one, took in self._durations.items() if one in targets}
        self._remember(message.ran, message.took)
        self.events.take([event for line in message.events if (event := event_of(line)) is not None])
        self.pid, self.revision = message.pid, message.revision
        self._changed.set()
        self._changed = asyncio.Event()

    def _remember(self, ran: bytes, took: bytes) -> None:
        for number, seconds in zip(array("I", ran), array("f", took), strict=True):
            target = self._numbers.get(number)
            if target is None:
                continue
            known = self._durations.setdefault(target, array("f"))
            if len(known) >= KEPT:
                del known[0]
            known.append(seconds)

    async def reached(self, revision: int, patience: float) -> bool:
        """Whether that much has come, within `patience` seconds."""
        try:
            async with asyncio.timeout(patience):
                while self.revision < revision:
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    @property
    def facts(self) -> Facts:
        if self._facts is None:
            raise LookupError("nothing has come from the agent")
        return self._facts

    def durations(self, target: Target) -> Sequence[float]:
        return self._durations.get(target, ())
