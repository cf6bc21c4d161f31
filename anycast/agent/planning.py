"""The plan of a reload: read as a reload reads, asked the same questions, worked out a part at a time; nothing is changed.

A part costs the event loop what a part of the reload costs it, and between two of them it has its turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from anycast.agent.answers import PlanAnswer, PlanWish, TooLateError
from anycast.config.apart import Reading
from anycast.config.changes import changes
from anycast.config.loaded import Loaded
from anycast.config.needed import missing_hooks
from anycast.config.problem import ConfigError
from anycast.core.planned import GOING, Plan, ServerChange, ahead, plan, routes, services
from anycast.core.reload import in_slices
from anycast.core.state import State
from anycast.core.values.configuration import Config
from anycast.core.values.fates import Fate

T = TypeVar("T")

PART = 400  # real servers of VIPs, about, that are worked out in one turn: as many as a reload changes in one
SLICE = 0.003  # seconds of processor time for what is told, until others have a turn
BREATH = 0.001  # seconds that they have at least
TRIES = 3  # readings, where another reload comes in between
TEXTS = 9 * 1024 * 1024  # bytes of a configuration that is sent: more than one may have
LISTED, SERVERS = (
    1000,
    2000,
)  # routes or services that are named, and real servers in all; the rest is counted

_AGAIN = "the configuration in force has changed again and again meanwhile (repeat it)"
_UNPACKED = "what was sent is no configuration as `anycast check` sends it"


class Subject(Protocol):
    """What a plan is for."""

    @property
    def state(self) -> State: ...

    @property
    def loaded(self) -> Loaded: ...

    def to_come(self, config: Config) -> Config:
        """What would be in force with this configuration."""
        ...

    async def not_meant(self, loaded: Loaded) -> tuple[str, ...]:
        """What it removes that nobody may mean."""
        ...

    async def not_carried(self, loaded: Loaded) -> tuple[str, ...]:
        """Why this machine cannot carry it."""
        ...


class Plans:
    """One at a time. `lock`: whoever has it changes nothing of what is in force."""

    def __init__(
        self,
        path: Path,
        subject: Subject,
        lock: asyncio.Lock,
        told: Callable[[Sequence[object], str], tuple[str, ...]],
        clock: Callable[[], float],
    ) -> None:
        self._path, self._subject, self._lock = path, subject, lock
        self._told, self._clock = told, clock
        self._turn = asyncio.Lock()
        self._reading: Reading | None = None
        self._ended = False

    def give_up(self) -> None:
        """The agent ends."""
        self._ended = True
        if (reading := self._reading) is not None:
            reading.give_up()

    async def plan(self, wish: PlanWish, *, deadline: float) -> PlanAnswer:
        """Raises TooLateError."""
        mine = self._subject.state.config.node.name
        if wish.node not in (None, mine):
            what = f"this agent is {mine}, not {wish.node}: ask on that node"
            return PlanAnswer(ok=False, problems=(what,))
        async with self._turn:
            for _ in range(TRIES):
                if self._clock() > deadline:
                    raise TooLateError
                before = self._subject.loaded
                try:
                    loaded = await asyncio.to_thread(self._read, before, wish.texts)
                    if absent := await asyncio.to_thread(missing_hooks, loaded.paths):
                        raise ConfigError(absent)
                except ConfigError as error:
                    problems = self._told(error.problems, "`anycast check` shows more")
                    return PlanAnswer(ok=False, problems=problems)
                except RuntimeError as error:
                    return PlanAnswer(ok=False, problems=(str(error),))
                async with self._lock:
                    if self._subject.loaded is before:
                        return await self._answer(loaded, wish)
            return PlanAnswer(ok=False, problems=(_AGAIN,))

    def _read(self, before: Loaded, texts: bytes | None) -> Loaded:
        """In a thread. Raises ConfigError, RuntimeError."""
        if texts is None:
            return self._result(Reading(self._path, before))
        # A file that only this user reads: whoever sent it need not be able to write one here.
        path = Path(self._subject.state.config.node.runtime_dir) / f".plan-{os.getpid()}"
        data = _unpacked(texts)
        try:
            path.unlink(missing_ok=True)
            with open(
                os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb"
            ) as file:
                file.write(data)
            return self._result(Reading(path, before, kept=True))
        except OSError as error:
            raise RuntimeError(f"{path}: {error.strerror or error}") from None
        finally:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def _result(self, reading: Reading) -> Loaded:
        self._reading = reading
        try:
            if self._ended:
                reading.give_up()
            return reading.result()
        finally:
            self._reading = None

    async def _answer(self, loaded: Loaded, wish: PlanWish) -> PlanAnswer:
        warnings = tuple(map(str, loaded.warnings))
        if problems := await self._subject.not_carried(loaded):
            return PlanAnswer(ok=False, problems=problems, warnings=warnings)
        problems = () if wish.allow_removal else await self._subject.not_meant(loaded)
        before = self._subject.state
        # Threads: both look at all real servers of what has changed.
        words = await asyncio.to_thread(changes, before.config, loaded.config)
        config = self._subject.to_come(loaded.config)
        parts = await asyncio.to_thread(in_slices, before.config, config, PART)
        after = before
        for part in parts:
            after = ahead(after, part, self._clock())
            await asyncio.sleep(BREATH)
        return PlanAnswer(
            ok=not problems,
            changes=self._told(words, "not shown"),
            warnings=warnings,
            problems=problems,
            plan=plan(
                before,
                after,
                await self._in_turns(routes(before, after)),
                await self._in_turns(services(before, after)),
            ),
        )

    async def _in_turns(self, steps: Iterator[T | None]) -> list[T]:
        found: list[T] = []
        since = time.thread_time()
        for one in steps:
            if one is not None:
                found.append(one)
            if time.thread_time() - since > SLICE:
                await asyncio.sleep(BREATH)
                since = time.thread_time()
        return found


def _unpacked(texts: bytes) -> bytes:
    """Raises RuntimeError."""
    unpacking = zlib.decompressobj()
    try:
        data = unpacking.decompress(texts, TEXTS)
    except zlib.error as error:
        raise RuntimeError(f"{_UNPACKED}: {error}") from None
    if not unpacking.eof:
        raise RuntimeError(f"{_UNPACKED}: it is cut off, or larger than {TEXTS} bytes")
    return data


def body(found: Plan) -> dict[str, Any]:
    """As JSON. What goes is named first where there is more than is named."""
    left = SERVERS
    listed: list[dict[str, Any]] = []
    for service in found.services[:LISTED]:
        servers = sorted(service.servers, key=lambda one: one.fate is Fate.ADDED)[:left]
        left -= len(servers)
        listed.append(
            {
                "service": str(service.key),
                "vip": service.vip,
                "name": service.service,
                "change": service.change,
                "connections": service.connections,
                "servers": list(map(_server, servers)),
                "more_servers": len(service.servers) - len(servers),
            }
        )
    return {
        "counts": found.counts(),
        "routes": [
            {"prefix": str(one.prefix), "vip": one.vip, "way": str(one.way), "what": list(one.what)}
            for one in found.routes[:LISTED]
        ],
        "more_routes": max(0, len(found.routes) - LISTED),
        "services": listed,
        "more_services": max(0, len(found.services) - LISTED),
        "sessions": [
            {"neighbor": one.neighbor, "change": one.change, "what": list(one.what)} for one in found.sessions
        ],
        "waits": None if found.waits is None else {"who": found.waits.who, "how": found.waits.how},
    }


def _server(one: ServerChange) -> dict[str, Any]:
    address, port = one.at
    return {
        "server": one.server,
        "address": str(address),
        "port": port,
        "fate": str(one.fate),
        "goes": one.fate in GOING,
        "connections": one.connections,
        "what": list(one.what),
    }
