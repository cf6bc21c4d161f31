"""Asks the other nodes, each on its beat, and keeps what they say."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import ssl
import time
from collections.abc import Callable, Mapping
from zlib import crc32

import structlog

from anycast import mutual_tls, secrets
from anycast.core.fleet import codec
from anycast.core.fleet.believe import PATIENCE
from anycast.core.fleet.codec import BrokenError, Heard, Row
from anycast.core.fleet.values import Source
from anycast.core.values.fleet import Certificates, Fleet, PeerAt
from anycast.fleet.beats import beat_after, beat_before
from anycast.fleet.frames import Told
from anycast.fleet.line import Answer, EndedError, Line, NoHttpError, TooLargeError
from anycast.fleet.memory import Memory

TIMEOUT = 1.0  # seconds for an answer, whole
TOGETHER = 1.0  # seconds from one group of nodes that are asked together to the next: most of a question is waking up for it
BACK = 0.25  # seconds until one that has ended its connection is asked: its socket may only be bound anew
AGAIN = 0.5  # seconds until one that has not answered is asked again, as long as it is not gone
CONNECTION_LASTS = 600.0  # seconds, at most as long as the other node's certificate: a new one looks at it
_SHORTER = 0.5  # of that, at most: nodes that have started together do not all make new ones at one instant
SECRETS_LAST = 5.0  # seconds for which a token and certificates are good that were read
_MOST_TAG = 64

log = structlog.get_logger()

Hear = Callable[[Told], None]
Alive = Callable[[str, float], None]


def first_beats(fleet: Fleet, now: float, wall: float) -> Mapping[str, float]:
    """An instant, past or to come, at which each node is to be asked, and then once in each interval.

    By the wall clock: all nodes whose clocks agree ask a node at the same instant, so that it wakes up once for all of them.
    """
    interval = fleet.interval
    groups = max(1, round(interval / TOGETHER))
    base = beat_before(now, wall, interval)
    return {one.name: base + crc32(one.name.encode()) % groups / groups * interval for one in fleet.peers}


class _SaysNoError(Exception):
    """It answers, and what it says cannot be used. `args[0]`: why."""


class Peers:
    """`hear` is told of each change, `alive` of each answer without one."""

    def __init__(self, fleet: Fleet, hear: Hear, alive: Alive) -> None:
        self._fleet = fleet
        self._hear = hear
        self._alive = alive
        self._secrets = _Secrets(fleet)

    async def run(self) -> None:
        """Until it is cancelled."""
        beats = first_beats(self._fleet, asyncio.get_running_loop().time(), time.time())
        async with asyncio.TaskGroup() as tasks:
            for peer in self._fleet.peers:
                if peer.host:
                    tasks.create_task(self._follow(peer, beats[peer.name]))

    async def fetch(self, name: str, path: str) -> bytes:
        """A small answer of one node. Raises OSError, TimeoutError, BrokenError, SecretError."""
        peer = next((one for one in self._fleet.peers if one.name == name and one.host), None)
        if peer is None:
            raise BrokenError("it is not asked itself")
        line = _Asked(self._secrets, peer)
        try:
            async with asyncio.timeout(TIMEOUT):
                return await line.fetch(path)
        except (NoHttpError, TooLargeError) as error:
            raise BrokenError(_unusable(error, peer)) from None
        finally:
            line.close()

    async def answers(self, peer: PeerAt) -> str:
        """Asked once: why it cannot be; empty: it can."""
        asked = _Asked(self._secrets, peer)
        try:
            await asked.ask({})
        except _SAYS_NO as error:
            return _unusable(error, peer)
        except _SILENT as error:
            return _spelt(error, peer, self._fleet.tls)[0]
        finally:
            asked.close()
        return ""

    async def _follow(self, peer: PeerAt, beat: float) -> None:
        loop, interval = asyncio.get_running_loop(), self._fleet.interval
        memory, wake = Memory(Told(name=peer.name)), _Wake(loop)
        asked = _Asked(self._secrets, peer, wake.early)
        due = loop.time()
        try:
            while True:
                await wake.at(due)
                answered = await self._ask(asked, memory)
                now = loop.time()
                wake.not_before(now + AGAIN)
                if not answered and _may_be_back(memory.told, now):
                    due = now + AGAIN
                else:
                    due = beat_after(beat, interval, now)
        finally:
            asked.close()

    async def _ask(self, asked: _Asked, memory: Memory) -> bool:
        """Whether it has said something that can be used."""
        try:
            heard = await asked.ask(memory.pieces)
            now = asyncio.get_running_loop().time()
            if heard is not None:
                self._news(memory, heard, now)
            elif memory.same(now):
                self._hear(memory.told)
            else:
                self._alive(memory.told.name, now)
        except _SAYS_NO as error:
            self._failed(memory, _unusable(error, asked.peer), answers=True)
        except _SILENT as error:
            why, answers = _spelt(error, asked.peer, self._fleet.tls)
            self._failed(memory, why, answers=answers)
        except Exception:  # the others are asked all the same
            log.exception("fleet.unexpected", peer=asked.peer.name)
            self._failed(memory, "a defect of this program: see the log", answers=True)
        else:
            return True
        asked.close()
        return False

    def _news(self, memory: Memory, heard: Heard, now: float) -> None:
        if heard.document.node != memory.told.name:
            raise _SaysNoError(f"{heard.document.node[:64]} answers where {memory.told.name} is asked")
        memory.news(heard, now)
        self._hear(memory.told)

    def _failed(self, memory: Memory, why: str, *, answers: bool) -> None:
        if memory.failed(why, asyncio.get_running_loop().time(), answers=answers):
            log.warning("fleet.peer_failed", peer=memory.told.name, why=memory.told.problem)
            self._hear(memory.told)


class _Wake:
    """When a node is asked next: on its beat, or at once where its connection ends meanwhile."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._not_before = -math.inf
        self._waits: asyncio.Future[None] | None = None

    async def at(self, due: float) -> None:
        waits = self._waits = self._loop.create_future()
        timer = self._loop.call_at(due, _set, waits)
        try:
            await waits
        finally:
            timer.cancel()

    def not_before(self, instant: float) -> None:
        """However often it ends its connections."""
        self._not_before = instant

    def early(self) -> None:
        if self._waits is not None:
            self._loop.call_at(max(self._not_before, self._loop.time() + BACK), _set, self._waits)


def _set(waits: asyncio.Future[None]) -> None:
    if not waits.done():
        waits.set_result(None)


def _may_be_back(told: Told, now: float) -> bool:
    """Whether one that does not answer is asked again soon: as long as it is not gone."""
    return not told.answers and told.heard is not None and now - told.heard < PATIENCE[Source.PEERS]


_SAYS_NO = (_SaysNoError, BrokenError, secrets.SecretError, NoHttpError, TooLargeError)
_SILENT = (TimeoutError, OSError)


def _unusable(error: Exception, peer: PeerAt) -> str:
    match error:
        case NoHttpError():
            return f"what {_where(peer)} says is no HTTP: {error}"
        case TooLargeError():
            return f"what it says cannot be read: it is larger than {codec.MOST_BYTES >> 20} MiB"
        case BrokenError():
            return f"what it says cannot be read: {error}"
    return str(error)


def _where(peer: PeerAt) -> str:
    return str(peer).partition(" at ")[2]


def _spelt(error: BaseException, peer: PeerAt, tls: Certificates | None) -> tuple[str, bool]:
    """Why, in words, and whether it answers all the same."""
    where = _where(peer)
    match error:
        case ssl.SSLError():
            told = getattr(error, "verify_message", "") or getattr(error, "reason", "") or str(error)
            if "ALERT" in told:
                alert = told.lower().replace("_", " ")
                return f"{where} does not take this node's certificate: {alert}", True
            return f"{where}: its certificate is not good: {told}", True
        case ConnectionRefusedError():
            return f"{where} refuses the connection: no agent runs there, or one without `fleet`", False
        case EndedError(fresh=True) if tls is not None:
            # With TLS 1.3 it looks at our certificate when the handshake is over for us, and may go without a word.
            look = f"openssl x509 -noout -dates -ext subjectAltName -in {tls.certificate}"
            return (
                f"{where} ends the connection: probably it does not take this node's certificate ({look})",
                True,
            )
        case ConnectionError():
            return f"{where} has ended the connection: {error}", False
        case TimeoutError():  # of the kernel's, too
            return f"no answer from {where} within {TIMEOUT:g} s", False
    return f"{where} cannot be asked: {error}", False


class _Secrets:
    """The token and the certificates, read again now and then."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._read_at = float("-inf")
        self._token: str | None = None
        self._ages: tuple[int, ...] = ()
        self._contexts: dict[str, ssl.SSLContext] = {}
        self.version = 0  # another one once certificates have been replaced

    def token(self) -> str | None:
        """Raises SecretError."""
        now = asyncio.get_running_loop().time()
        if now > self._read_at + SECRETS_LAST:
            self._token = None if self._fleet.token is None else secrets.token(self._fleet.token)
            ages = mutual_tls.ages(self._fleet.tls)
            if ages != self._ages:
                self.version += 1
                self._contexts.clear()
            self._ages, self._read_at = ages, now
        return self._token

    def context(self, peer: PeerAt) -> ssl.SSLContext | None:
        """Raises OSError."""
        tls = self._fleet.tls
        if tls is None:
            return None
        made = self._contexts.get(peer.name)
        if made is None:
            made = self._contexts[peer.name] = mutual_tls.client(tls, (peer.name, peer.host))
        return made


class _Asked:
    """One node: its connection is kept, and made anew now and then. `ended`: it has ended it between two questions."""

    def __init__(self, kept: _Secrets, peer: PeerAt, ended: Callable[[], None] = lambda: None) -> None:
        self.peer = peer
        self._secrets = kept
        self._line = Line(self._connect, most=codec.MOST_BYTES, ended=ended)
        self._until = 0.0
        self._version = 0
        self._tag = ""  # of the answer that came last

    def close(self) -> None:
        """Nothing is known of what comes next."""
        self._tag = ""
        self._line.close()

    async def ask(self, pieces: Mapping[str, Mapping[str, Row]]) -> Heard | None:
        """None: it is as it was. Raises _SAYS_NO, _SILENT."""
        async with asyncio.timeout(TIMEOUT):
            return await self._answer(pieces)

    async def fetch(self, path: str) -> bytes:
        """The answer to another path. Raises as `ask`, and TooLargeError."""
        answer = await self._line.get(path, self._headers())
        if answer.status != 200:
            raise BrokenError(_refusal(answer))
        return answer.body

    def _headers(self) -> list[tuple[str, str]]:
        """Raises SecretError."""
        host = f"[{self.peer.host}]" if ":" in self.peer.host else self.peer.host
        token = self._secrets.token()
        found = [("Host", f"{host}:{self.peer.port}")]
        return found if token is None else [*found, ("Authorization", f"Bearer {token}")]

    async def _answer(self, pieces: Mapping[str, Mapping[str, Row]]) -> Heard | None:
        headers = [*self._headers(), (codec.PIECES, ",".join(pieces))]
        if self._tag:
            headers.append(("If-None-Match", self._tag))
        if asyncio.get_running_loop().time() > self._until or self._version != self._secrets.version:
            self._line.close()
        answer = await self._line.get(codec.PATH, headers)
        if answer.status == 304 and self._tag:
            return None
        if answer.status != 200:
            raise _SaysNoError(_refusal(answer))
        heard = codec.read(answer.body, pieces)
        self._tag = answer.headers.get(b"etag", b"").decode("latin-1")[:_MOST_TAG]
        return heard

    async def _connect(
        self, protocol: Callable[[], asyncio.Protocol]
    ) -> tuple[asyncio.BaseTransport, asyncio.Protocol]:
        loop, version = asyncio.get_running_loop(), self._secrets.version
        made = await loop.create_connection(
            protocol, self.peer.host, self.peer.port, ssl=self._secrets.context(self.peer)
        )
        lasts = CONNECTION_LASTS * random.uniform(1 - _SHORTER, 1)  # noqa: S311 - to spread them
        self._until = loop.time() + min(lasts, _good_for(made[0], time.time()))
        self._version = version
        return made


def _good_for(transport: asyncio.BaseTransport, wall: float) -> float:
    """Seconds for which the certificate of the other end is good still."""
    certificate = transport.get_extra_info("peercert")
    return ssl.cert_time_to_seconds(certificate["notAfter"]) - wall if certificate else math.inf


def _refusal(answer: Answer) -> str:
    if answer.status == 401:
        return "it does not take this node's token (`fleet.token_file` must be the same on all nodes)"
    told = ""
    if answer.status == 503:  # it says why
        with contextlib.suppress(ValueError, RecursionError):
            told = codec.said(answer.body)
    return told or f"it answers with status {answer.status}"
