"""Whether the other nodes have this node's tables: compared whenever one of them says something, and told once it counts.

Of the first VIP that differs the tables are asked for, of the other node and of this one, for the difference in words.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import structlog

from anycast.core.fleet import agreement, codec, tables
from anycast.core.fleet.agreement import Agreement
from anycast.core.fleet.believe import PATIENCE
from anycast.core.fleet.codec import BrokenError
from anycast.core.fleet.values import Disagreement
from anycast.fleet.beats import beat_after, beat_before
from anycast.fleet.frames import Told, changed_rows
from anycast.fleet.line import Answer, Line, NoHttpError, TooLargeError
from anycast.fleet.own import SOCKET
from anycast.secrets import SecretError

OWN = 1.0  # seconds between two looks at this node's own document
TIMEOUT = 1.0  # seconds for an answer, whole
ANEW = 10.0  # seconds after which the words of a difference that lasts are looked for again

log = structlog.get_logger()

Ask = Callable[[str, str], Awaitable[bytes]]
"""The answer of a node to a path. Raises OSError, TimeoutError, BrokenError."""

Tell = Callable[[str, Disagreement | None], None]

_Failed = (OSError, TimeoutError, BrokenError, SecretError)


class Agreeing:
    """`ask`: another node. `tell`: takes what has changed, by node."""

    def __init__(self, runtime_dir: str, ask: Ask, tell: Tell) -> None:
        self._own = _Own(Path(runtime_dir) / SOCKET)
        self._ask = ask
        self._tell = tell
        self._now = Agreement()
        self._prints: Mapping[str, str] | None = None  # of this node, as they were compared last
        self._heard: dict[str, Told] = {}
        self._told: dict[str, Disagreement] = {}
        self._words: dict[
            str, tuple[str, float, str]
        ] = {}  # by node: the VIP, when it was asked for, the words
        self._changed = asyncio.Event()

    def hear(self, told: Told) -> None:
        """Of one that does not answer its age decides."""
        if told.problem or told.heard is None:
            return
        before = self._heard.get(told.name)
        self._heard[told.name] = told
        if before is not None and not self._is_news(before, told):
            self.alive(told.name, told.heard)
        else:
            self._became(agreement.heard(self._now, told.name, _prints(told), told.heard))

    def _is_news(self, before: Told, told: Told) -> bool:
        known = self._now.others.get(told.name)
        fresh, gone = changed_rows(before, told)
        return (
            known is None
            or bool(gone)
            or any(known.prints.get(name, "") != row[3] for name, row in fresh.items())
        )

    def alive(self, name: str, at: float) -> None:
        """What it said last is still so, also after it was not heard for a while: it does not say it again."""
        told = self._heard.get(name)
        if told is not None and name not in self._now.others:
            self._became(agreement.heard(self._now, name, _prints(told), at))
        else:
            self._became(agreement.alive(self._now, name, at))

    def _became(self, after: Agreement) -> None:
        if after.differing is not self._now.differing:
            self._changed.set()
        self._now = after

    async def run(self) -> None:
        """Until it is cancelled."""
        loop = asyncio.get_running_loop()
        due = beat_before(loop.time(), time.time(), OWN)  # as the other nodes are asked: one wake-up for both
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(due):
                        await self._changed.wait()
                self._changed.clear()
                if loop.time() >= due:
                    due = beat_after(due, OWN, loop.time())
                    await self._safely(self._look())
                    self._forget(loop.time())
                for node in {*self._told, *self._now.differing}:
                    await self._safely(self._say(node))
        finally:
            self._own.close()

    async def _safely(self, part: Awaitable[None]) -> None:
        """What is known of the others does not hang on a defect here."""
        try:
            await part
        except Exception:
            log.exception("fleet.unexpected", peer="the tables")

    async def _look(self) -> None:
        """What this node says of itself. An ops process that has just ended is asked the next time."""
        with contextlib.suppress(*_Failed):
            prints = await self._own.prints()
            now = asyncio.get_running_loop().time()
            if prints is self._prints:
                self._became(agreement.own_alive(self._now, now))
            else:
                self._prints = prints
                self._became(agreement.of_own(self._now, prints, now))

    def _forget(self, now: float) -> None:
        for name, known in list(self._now.others.items()):
            if now - known.at > PATIENCE[self._heard[name].source]:
                self._became(agreement.forgotten(self._now, name))

    async def _say(self, node: str) -> None:
        found = agreement.disagreement(self._now, node)
        if found is not None:
            words = await self._first(node, found.vips[0])
            found = agreement.disagreement(self._now, node, words)  # it may be over by now
        if found == self._told.get(node):
            return
        if found is None:
            del self._told[node]
        else:
            self._told[node] = found
        self._tell(node, found)

    async def _first(self, node: str, vip: str) -> str:
        """The first difference in words; empty: it cannot be told."""
        now = asyncio.get_running_loop().time()
        known = self._words.get(node)
        if known is not None and known[0] == vip and now < known[1] + ANEW:
            return known[2]
        words = ""
        with contextlib.suppress(*_Failed):
            path = f"{tables.PATH}{quote(vip, safe='')}"
            async with asyncio.timeout(TIMEOUT):
                # One after the other: a question that is given up is not left on the line of the next one.
                here = await self._own.get(path)
                there = await self._ask(node, path)
            words = agreement.first_difference(node, tables.read(here), tables.read(there))
        self._words[node] = vip, now, words
        return words


def _prints(told: Told) -> dict[str, str]:
    return {name: row[3] for rows in told.pieces.values() for name, row in rows.items()}


class _Own:
    """This node's ops process."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._line = Line(self._connect, most=codec.MOST_BYTES)
        self._tag = ""
        self._told = Told(name="")
        self._prints: dict[str, str] = {}

    def close(self) -> None:
        self._line.close()

    async def prints(self) -> dict[str, str]:
        """By VIP; the same object as before where none has changed. Raises OSError, TimeoutError, BrokenError."""
        known = self._told.pieces
        answer = await self._asked(
            codec.PATH, (codec.PIECES, ",".join(known)), ("If-None-Match", self._tag or '""')
        )
        if answer.status == 304:
            return self._prints
        if answer.status != 200:
            raise BrokenError(f"this node's own ops process answers with status {answer.status}")
        heard = codec.read(answer.body, known)
        self._tag = answer.headers.get(b"etag", b"").decode("latin-1")
        if not known or heard.pieces.keys() != known.keys():  # else figures alone are others
            self._told = replace(self._told, pieces=heard.pieces)
            prints = _prints(self._told)
            self._prints = self._prints if prints == self._prints else prints
        return self._prints

    async def get(self, path: str) -> bytes:
        """Raises OSError, TimeoutError, BrokenError."""
        answer = await self._asked(path)
        if answer.status != 200:
            raise BrokenError(f"status {answer.status}")
        return answer.body

    async def _asked(self, path: str, *headers: tuple[str, str]) -> Answer:
        try:
            async with asyncio.timeout(TIMEOUT):
                return await self._line.get(path, [("Host", "own"), *headers])
        except (NoHttpError, TooLargeError) as error:
            raise BrokenError(f"this node's own ops process: {error}") from None

    async def _connect(
        self, protocol: Callable[[], asyncio.Protocol]
    ) -> tuple[asyncio.BaseTransport, asyncio.Protocol]:
        return await asyncio.get_running_loop().create_unix_connection(protocol, self._path)
