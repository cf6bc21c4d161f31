"""Which events hooks get.

`Hooks` follows the events inside the agent's event loop and does nothing there but choose. Each hook has a thread of
its own (`runner`), so that no hook waits for another and nothing of the agent waits for any of them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from anycast.core.hooks import VERDICT, Hook, Tally
from anycast.core.state import State, VipState
from anycast.core.vip.decide import Verdict
from anycast.notify.notice import Notice, Words
from anycast.notify.runner import Runner
from anycast.ops.hub import Event, Hub, LaggedError

LEAVE_PATIENCE = 2.0  # seconds what waits has when the agent ends
REMOVED_PATIENCE = 30.0  # seconds what waits has when its hook was taken out of the configuration
AT_ONCE = 50  # events that are dealt with before the event loop has another turn
QUIET = 60.0  # seconds without an event until the configuration is looked at again


class Source(Protocol):
    @property
    def state(self) -> State: ...

    @property
    def events(self) -> Hub: ...


class Hooks:
    """Chooses what is told, and to whom."""

    def __init__(self, source: Source, after: int | None = None) -> None:
        """`after`: the number of the last event that is none of their business; by default the newest."""
        self._source = source
        self._runners: dict[str, Runner] = {}
        self._told: dict[str, Words] = {}  # the verdicts that hooks have heard of
        self._configured: tuple[Hook, ...] = ()
        self._seen = source.events.newest if after is None else after
        self._stream = source.events.follow(self._seen)
        self._configure()

    @property
    def tallies(self) -> Mapping[str, Tally]:
        return {name: runner.tally for name, runner in self._runners.items()}

    async def follow(self) -> None:
        """For ever."""
        while True:
            with self._stream as stream:
                try:
                    while True:
                        self._configure()
                        events = await stream.next(QUIET)
                        self._configure()
                        for first in range(0, len(events), AT_ONCE):
                            self._put_all(events[first : first + AT_ONCE])
                            await asyncio.sleep(0)
                except LaggedError:
                    self._catch_up()

    async def close(self, patience: float = LEAVE_PATIENCE) -> None:
        """Tell what there is, for `patience` seconds at most. `follow` has ended."""
        self._catch_up()
        runners = tuple(self._runners.values())
        for runner in runners:
            runner.leave(patience)

        def join() -> None:
            ends = time.monotonic() + patience + 1
            for runner in runners:
                runner.join(max(0.0, ends - time.monotonic()))

        await asyncio.to_thread(join)

    def _configure(self) -> None:
        hooks = self._source.state.config.hooks
        if hooks is self._configured:
            return
        self._configured = hooks
        wanted = {hook.name: hook for hook in hooks}
        for name in [name for name in self._runners if name not in wanted]:
            self._runners.pop(name).leave(REMOVED_PATIENCE)
        for name, hook in wanted.items():
            runner = self._runners.get(name)
            if runner is None:
                self._runners[name] = Runner(hook, self._source.state.config.node.name)
            else:
                runner.configure(hook)

    def _put_all(self, events: Iterable[Event]) -> None:
        for event in events:
            self._seen = event.id
            self._put(event)

    def _put(self, event: Event) -> None:
        if event.name == VERDICT:
            self._put_verdict(event)
            return
        if any(event.name in hook.events for hook in self._configured):
            self._offer(_notice(event.body()))

    def _put_verdict(self, event: Event) -> None:
        body = event.body()
        fields = body["fields"]
        name = str(fields["vip"])
        words = Words(
            advertise=str(fields["advertise"]), reason=str(fields["reason"]), detail=str(fields["detail"])
        )
        before = self._told.get(name, _words(VipState().verdict))
        self._told[name] = words
        self._offer(replace(_notice(body), vip=name, before=before, verdict=words))

    def _catch_up(self) -> None:
        """Tell what is in memory and was not seen. Where some is forgotten, verdicts are told as they are now."""
        hub, state = self._source.events, self._source.state
        left = hub.after(self._seen)
        complete = not left or left[0].id == self._seen + 1
        self._put_all(left)
        self._stream = hub.follow(self._seen)
        if complete:
            return
        for vip in state.config.vips:
            words = _words(state.vips.get(vip.name, VipState()).verdict)
            before = self._told.get(vip.name, _words(VipState().verdict))
            if (words.advertise, words.reason) == (before.advertise, before.reason):
                continue
            self._told[vip.name] = words
            fields = {"vip": vip.name, **words.body()}
            level = "info" if words.advertise == "yes" else "warning"
            event = Event(id=hub.newest, time=time.time(), name=VERDICT, level=level, fields=fields)
            self._offer(replace(_notice(event.body()), vip=vip.name, before=before, verdict=words))

    def _offer(self, notice: Notice) -> None:
        for runner in self._runners.values():
            runner.put(notice)


def _notice(body: Mapping[str, Any]) -> Notice:
    """Of an event's document."""
    return Notice(
        id=body["id"], time=body["time"], event=body["event"], level=body["level"], fields=body["fields"]
    )


def _words(verdict: Verdict) -> Words:
    return Words(advertise=verdict.advertise, reason=verdict.reason, detail=verdict.detail)
