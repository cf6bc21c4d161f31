"""The events of the node as others read them: numbered, the newest in memory, for streams to follow.

`Hub.publish` is the one place where an event comes in: whatever stands in the log as an event, from any thread. It
never waits and never fails. Everything that reads, this file's streams and the journal on disk, fetches from here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from types import TracebackType
from typing import Any, Self

from anycast.core.dataplane.members import keys_of, server_scopes
from anycast.core.prefixes import prefixes_of
from anycast.core.values.configuration import Config, Vip

KEPT = 1000  # events in memory
MAX_TEXT = 1000  # characters of one text in an event
MAX_ITEMS = 20  # of one list in an event


@dataclass(frozen=True, kw_only=True)
class Event:
    """`name` as in docs/log-events.md. `time`: seconds since the epoch."""

    id: int
    time: float
    name: str
    level: str
    fields: Mapping[str, object]

    @cached_property
    def text(self) -> str:
        """As one line of JSON."""
        return json.dumps(self.body())

    def body(self) -> dict[str, Any]:
        moment = datetime.fromtimestamp(self.time, UTC)
        return {
            "id": self.id,
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "event": self.name,
            "level": self.level,
            "fields": {str(name): _plain(value) for name, value in self.fields.items()},
        }


def event_of(line: str) -> Event | None:
    """An event out of its line; None: that is no event, or not a whole one."""
    try:
        match json.loads(line):
            case {
                "id": int(number),
                "time": str(moment),
                "event": str(name),
                "level": str(level),
                "fields": dict(fields),
            } if 0 < number < 2**53:
                time = datetime.fromisoformat(moment).timestamp()
                return Event(id=number, time=time, name=name, level=level, fields=fields)
    except (ValueError, OverflowError, RecursionError):
        pass
    return None


def _plain(value: object) -> Any:
    """JSON of a bounded size."""
    match value:
        case None | bool() | int():
            return value
        case float():
            return value if abs(value) < float("inf") else str(value)
        case str():
            return (
                value if len(value) <= MAX_TEXT else f"{value[:MAX_TEXT]}… and {len(value) - MAX_TEXT} more"
            )
        case Mapping():
            return {str(name): _plain(one) for name, one in list(value.items())[:MAX_ITEMS]}
        case Sequence() | frozenset() | set():
            items = list(value)
            left = len(items) - MAX_ITEMS
            return [_plain(one) for one in items[:MAX_ITEMS]] + ([f"… and {left} more"] if left > 0 else [])
        case _:
            return _plain(str(value))


class LaggedError(Exception):
    """Events were forgotten before this reader had them."""


class Hub:
    """The newest events, and who follows them."""

    def __init__(self, *, kept: int = KEPT, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._lock = threading.Lock()
        self._events: deque[Event] = deque(maxlen=kept)
        self._newest = 0
        self._forgotten = 0  # the newest that is not in memory any more
        self._streams: set[Stream] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waking = False
        self._keep: Callable[[Event], None] | None = None

    @property
    def newest(self) -> int:
        """The number of the newest event; 0: there was none."""
        return self._newest

    def publish(self, name: str, level: str, fields: Mapping[str, object]) -> None:
        """One more event. Callable from any thread; what `fields` holds must not change any more."""
        with self._lock:
            event = Event(id=self._newest + 1, time=self._wall(), name=name, level=level, fields=fields)
            self._append(event)
            if self._keep is not None:
                self._keep(event)
            wake = bool(self._streams) and not self._waking
            self._waking = self._waking or wake
        if wake and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody follows any more
                self._loop.call_soon_threadsafe(self._wake)

    def take(self, events: Iterable[Event]) -> None:
        """Events that have their numbers already. Where some between are missing, those before are forgotten."""
        with self._lock:
            for event in events:
                if event.id != self._newest + 1:
                    self._events.clear()
                    self._forgotten = event.id - 1
                self._append(event)
        self._wake()

    def _append(self, event: Event) -> None:
        if len(self._events) == self._events.maxlen:
            self._forgotten = self._events[0].id
        self._events.append(event)
        self._newest = event.id

    def adopt(self, past: Iterable[Event], keep: Callable[[Event], None]) -> None:
        """Go on from `past`, the events of the agent before this one; hand every new one to `keep`, which must not wait.

        What was published already comes after them.
        """
        with self._lock:
            mine = list(self._events)
            self._events.clear()
            for event in past:
                self._append(event)
            for event in mine:
                later = Event(
                    id=self._newest + 1,
                    time=event.time,
                    name=event.name,
                    level=event.level,
                    fields=event.fields,
                )
                self._append(later)
                keep(later)
            self._keep = keep

    def after(self, number: int) -> tuple[Event, ...]:
        """The events in memory with higher numbers, the oldest first. A number that was not given yet is of another
        history: then all of them.
        """
        with self._lock:
            if number > self._newest:
                number = 0
            found = []
            for event in reversed(self._events):
                if event.id <= number:
                    break
                found.append(event)
        return tuple(reversed(found))

    def follow(self, after: int | None = None) -> Stream:
        """A stream of what comes after the event `after` (None: from now on). Inside the event loop."""
        self._loop = asyncio.get_running_loop()
        return Stream(self, after)

    def _wake(self) -> None:
        with self._lock:
            self._waking = False
            streams = tuple(self._streams)
        for stream in streams:
            stream.woken.set()


class Stream:
    """One reader's place among the events. It holds no events of its own: a reader costs the same however slow it is."""

    def __init__(self, hub: Hub, after: int | None) -> None:
        self._hub = hub
        newest = hub._newest  # noqa: SLF001 - the two are one
        # A number that was not given yet is of another history.
        at = newest if after is None else 0 if after > newest else after
        self._at = max(at, hub._forgotten)  # noqa: SLF001
        self.woken = asyncio.Event()

    def __enter__(self) -> Self:
        with self._hub._lock:  # noqa: SLF001
            self._hub._streams.add(self)  # noqa: SLF001
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._hub._lock:  # noqa: SLF001
            self._hub._streams.discard(self)  # noqa: SLF001

    async def next(self, patience: float) -> tuple[Event, ...]:
        """What has happened since the last call, at once or when it does; empty when nothing has for `patience` seconds.

        Raises LaggedError.
        """
        self.woken.clear()
        found = self._fetch()
        if not found:
            try:
                async with asyncio.timeout(patience):
                    await self.woken.wait()
            except TimeoutError:
                return ()
            found = self._fetch()
        return found

    def _fetch(self) -> tuple[Event, ...]:
        if self._hub._forgotten > self._at:  # noqa: SLF001
            raise LaggedError
        found = self._hub.after(self._at)
        if found:
            self._at = found[-1].id
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Interest:
    """By what an event is known to be about a VIP."""

    name: str
    words: frozenset[
        str
    ]  # its prefixes, its services as the kernel has them, its real servers as POOL/SERVER

    def takes(self, event: Event) -> bool:
        fields = event.fields
        if fields.get("vip") == self.name:
            return True
        scope = fields.get("scope")
        if isinstance(scope, str) and self._takes_user(scope.removeprefix("vip ")):
            return True
        services = fields.get("services")
        if isinstance(services, list | tuple) and any(
            isinstance(one, str) and self._takes_user(one.removeprefix("vip ")) for one in services
        ):
            return True
        return any(fields.get(name) in self.words for name in ("prefix", "service"))

    def _takes_user(self, text: str) -> bool:
        """`web`, `web tcp/80`, `node`, `web/rs1`, or a service as the kernel has it."""
        return text in (self.name, "node") or text.startswith(f"{self.name} ") or text in self.words


def interest(config: Config, vip: Vip) -> Interest:
    keys = {str(key) for address in vip.addresses for key in keys_of(vip, address)}
    prefixes = set(map(str, prefixes_of(vip)))
    servers = server_scopes(replace(config, vips=(vip,)))
    return Interest(name=vip.name, words=frozenset(keys | prefixes | servers))
