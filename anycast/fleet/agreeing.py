"""Whether the other nodes have this node's tables: compared whenever one of them says something, and told once it counts.

Of the first VIP that differs the tables are asked for, of the other node and of this one, for the difference in words.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from urllib.parse import quote

import aiohttp
import structlog

from anycast.core.fleet import agreement, codec, tables
from anycast.core.fleet.agreement import Agreement
from anycast.core.fleet.believe import PATIENCE
from anycast.core.fleet.codec import BrokenError, Row
from anycast.core.fleet.values import Disagreement, Source
from anycast.fleet.frames import Told
from anycast.fleet.own import SOCKET
from anycast.secrets import SecretError

OWN = 1.0  # seconds between two looks at this node's own document
TIMEOUT = 1.0  # seconds for an answer, whole
ANEW = 10.0  # seconds after which the words of a difference that lasts are looked for again

log = structlog.get_logger()

Ask = Callable[[str, str], Awaitable[bytes]]
"""The answer of a node to a path. Raises OSError, TimeoutError, BrokenError, ClientError."""

Tell = Callable[[str, Disagreement | None], None]

_Failed = (OSError, TimeoutError, BrokenError, SecretError, aiohttp.ClientError)


class Agreeing:
    """`ask`: another node. `tell`: takes what has changed, by node."""

    def __init__(self, runtime_dir: str, ask: Ask, tell: Tell) -> None:
        self._own = _Own(Path(runtime_dir) / SOCKET)
        self._ask = ask
        self._tell = tell
        self._now = Agreement()
        self._prints: Mapping[str, str] | None = None  # of this node, as they were compared last
        self._rows: dict[str, Mapping[str, Row]] = {}
        self._sources: dict[str, Source] = {}
        self._told: dict[str, Disagreement] = {}
        self._words: dict[
            str, tuple[str, float, str]
        ] = {}  # by node: the VIP, when it was asked for, the words
        self._changed = asyncio.Event()

    def hear(self, told: Told) -> None:
        """Of one that does not answer its age decides."""
        if told.problem or told.heard is None:
            return
        self._sources[told.name] = told.source
        if self._rows.get(told.name) is told.rows:
            self.alive(told.name, told.heard)
            return
        self._rows[told.name] = told.rows
        self._became(agreement.heard(self._now, told.name, _prints(told.rows), told.heard))

    def alive(self, name: str, at: float) -> None:
        self._became(agreement.alive(self._now, name, at))

    def _became(self, after: Agreement) -> None:
        if after.differing is not self._now.differing:
            self._changed.set()
        self._now = after

    async def run(self) -> None:
        """Until it is cancelled."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(due):
                        await self._changed.wait()
                self._changed.clear()
                if loop.time() >= due:
                    due = loop.time() + OWN
                    await self._safely(self._look())
                    self._forget(loop.time())
                for node in {*self._told, *self._now.differing}:
                    await self._safely(self._say(node))
        finally:
            await self._own.close()

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
            if now - known.at > PATIENCE[self._sources[name]]:
                self._rows.pop(name, None)
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
                there, here = await asyncio.gather(self._ask(node, path), self._own.get(path))
            words = agreement.first_difference(node, tables.read(here), tables.read(there))
        self._words[node] = vip, now, words
        return words


def _prints(rows: Mapping[str, Row]) -> dict[str, str]:
    return {name: row[3] for name, row in rows.items()}


class _Own:
    """This node's ops process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._session: aiohttp.ClientSession | None = None
        self._tag = ""
        self._pieces: Mapping[str, Mapping[str, Row]] = {}
        self._prints: dict[str, str] = {}

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def prints(self) -> dict[str, str]:
        """By VIP; the same object as before where none has changed. Raises OSError, TimeoutError, BrokenError, ClientError."""
        headers = {codec.PIECES: ",".join(self._pieces), "If-None-Match": f'"{self._tag}"'}
        async with (
            asyncio.timeout(TIMEOUT),
            self._open().get(f"http://own{codec.PATH}", headers=headers) as answer,
        ):
            if answer.status == 304:
                return self._prints
            if answer.status != 200:
                raise BrokenError(f"this node's own ops process answers with status {answer.status}")
            heard = codec.read(await answer.read(), self._pieces)
            self._tag = answer.headers.get("ETag", "").strip('"')
            if self._pieces and heard.pieces.keys() == self._pieces.keys():
                return self._prints  # figures alone are others
            self._pieces = heard.pieces
            self._prints = {
                name: print_ for rows in heard.pieces.values() for name, print_ in _prints(rows).items()
            }
        return self._prints

    async def get(self, path: str) -> bytes:
        """Raises OSError, TimeoutError, BrokenError, ClientError."""
        async with self._open().get(f"http://own{path}") as answer:
            if answer.status != 200:
                raise BrokenError(f"status {answer.status}")
            return await answer.read()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(str(self._path), limit=2), cookie_jar=aiohttp.DummyCookieJar()
            )
        return self._session
