"""Asks the other nodes, each on its beat, and keeps what they say."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Mapping

import aiohttp
import structlog
from yarl import URL

from anycast import mutual_tls, secrets
from anycast.core.fleet import codec
from anycast.core.fleet.believe import PATIENCE
from anycast.core.fleet.codec import BrokenError, Heard, Row
from anycast.core.fleet.values import Source
from anycast.core.values.fleet import Certificates, Fleet, PeerAt
from anycast.fleet.frames import Told
from anycast.fleet.memory import Memory

TIMEOUT = 1.0  # seconds for an answer, whole
AGAIN = 0.5  # seconds until one that has not answered is asked again, as long as it is not gone
CONNECTION_LASTS = 60.0  # seconds: each new one looks at the certificates again
SECRETS_LAST = 5.0  # seconds for which a token and certificates are good that were read
_MOST_TAG = 64

log = structlog.get_logger()

Hear = Callable[[Told], None]
Alive = Callable[[str, float], None]


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
        async with asyncio.TaskGroup() as tasks:
            for place, peer in enumerate(self._fleet.peers):
                if peer.host:
                    tasks.create_task(self._follow(peer, place / len(self._fleet.peers)))

    async def fetch(self, name: str, path: str) -> bytes:
        """A small answer of one node. Raises OSError, TimeoutError, BrokenError, SecretError, ClientError."""
        peer = next((one for one in self._fleet.peers if one.name == name and one.host), None)
        if peer is None:
            raise BrokenError("it is not asked itself")
        line = _Line(self._secrets, peer)
        try:
            async with asyncio.timeout(TIMEOUT):
                return await line.fetch(path)
        finally:
            await line.close()

    async def answers(self, peer: PeerAt) -> str:
        """Asked once: why it cannot be; empty: it can."""
        line = _Line(self._secrets, peer)
        try:
            await line.ask({})
        except (_SaysNoError, BrokenError, secrets.SecretError) as error:
            return str(error)
        except (TimeoutError, OSError, aiohttp.ClientError) as error:
            return _spelt(error, peer, self._fleet.tls)[0]
        finally:
            await line.close()
        return ""

    async def _follow(self, peer: PeerAt, share: float) -> None:
        """`share`: of the interval, at which its beat is."""
        loop, interval = asyncio.get_running_loop(), self._fleet.interval
        memory = Memory(Told(name=peer.name))
        due = loop.time() + share * min(interval, TIMEOUT)
        line = _Line(self._secrets, peer)
        try:
            while True:
                await asyncio.sleep(due - loop.time())
                answered = await self._ask(line, memory)
                now = loop.time()
                heard = memory.told.heard
                hurry = (
                    not answered
                    and not memory.told.answers
                    and heard is not None
                    and now - heard < PATIENCE[Source.PEERS]
                )
                due = now + AGAIN if hurry else due + interval
                while due <= now:
                    due += interval
        finally:
            await line.close()

    async def _ask(self, line: _Line, memory: Memory) -> bool:
        """Whether it has said something that can be used."""
        try:
            heard = await line.ask(memory.pieces)
            now = asyncio.get_running_loop().time()
            if heard is not None:
                self._news(memory, heard, now)
            elif memory.same(now):
                self._hear(memory.told)
            else:
                self._alive(memory.told.name, now)
        except _SaysNoError as error:
            self._failed(memory, str(error), answers=True)
        except (BrokenError, secrets.SecretError) as error:
            why = f"what it says cannot be read: {error}" if isinstance(error, BrokenError) else str(error)
            self._failed(memory, why, answers=True)
        except (TimeoutError, OSError, aiohttp.ClientError) as error:
            why, answers = _spelt(error, line.peer, self._fleet.tls)
            self._failed(memory, why, answers=answers)
        except Exception:  # the others are asked all the same
            log.exception("fleet.unexpected", peer=line.peer.name)
            self._failed(memory, "a defect of this program: see the log", answers=True)
        else:
            return True
        await line.close()
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


def _spelt(error: BaseException, peer: PeerAt, tls: Certificates | None) -> tuple[str, bool]:
    """Why, in words, and whether it answers all the same."""
    where = str(peer).partition(" at ")[2]
    if isinstance(error, TimeoutError):
        return f"no answer from {where} within {TIMEOUT:g} s", False
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, aiohttp.ClientError):
            told = getattr(cause, "verify_message", "") or getattr(cause, "reason", "") or str(cause)
            if "ALERT" in str(told):
                return (
                    f"{where} does not take this node's certificate: {str(told).lower().replace('_', ' ')}",
                    True,
                )
            return f"{where}: its certificate is not good: {told}", True
        cause = cause.__cause__ or cause.__context__
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, ConnectionRefusedError) or number == 111:
        return f"{where} refuses the connection: no agent runs there, or one without `fleet`", False
    if tls is not None and isinstance(error, aiohttp.ServerDisconnectedError):
        # With TLS 1.3 it looks at our certificate when the handshake is over for us, and the library keeps its alert.
        look = f"openssl x509 -noout -dates -ext subjectAltName -in {tls.certificate}"
        return (
            f"{where} ends the connection: probably it does not take this node's certificate ({look})",
            True,
        )
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError):
        return f"{where} has ended the connection: {error}", False
    if isinstance(error, aiohttp.ClientPayloadError | aiohttp.ClientResponseError):
        return f"what {where} says is no HTTP: {error}", True
    return f"{where} cannot be asked: {error}", False


class _Secrets:
    """The token and the certificates, read again now and then."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._read_at = float("-inf")
        self._token: str | None = None
        self._ages: tuple[int, ...] = ()
        self.version = 0  # another one once certificates have been replaced

    def token(self) -> str | None:
        """Raises SecretError."""
        now = asyncio.get_running_loop().time()
        if now > self._read_at + SECRETS_LAST:
            self._token = None if self._fleet.token is None else secrets.token(self._fleet.token)
            ages = mutual_tls.ages(self._fleet.tls)
            self.version += ages != self._ages
            self._ages, self._read_at = ages, now
        return self._token

    def context(self, peer: PeerAt) -> ssl.SSLContext | None:
        """Raises OSError."""
        tls = self._fleet.tls
        return None if tls is None else mutual_tls.client(tls, (peer.name, peer.host))


class _Line:
    """The connection to one node: kept, and made anew now and then."""

    def __init__(self, kept: _Secrets, peer: PeerAt) -> None:
        self.peer = peer
        self._secrets = kept
        self._session: aiohttp.ClientSession | None = None
        self._until = 0.0
        self._version = 0
        self._url = ""
        self._tag = ""  # of the answer that came last

    async def close(self) -> None:
        """Nothing is known of what comes next."""
        self._tag = ""
        await self._closed()

    async def _closed(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def ask(self, pieces: Mapping[str, Mapping[str, Row]]) -> Heard | None:
        """None: it is as it was. Raises _SaysNoError, BrokenError, SecretError, TimeoutError, OSError, ClientError."""
        async with asyncio.timeout(TIMEOUT):
            return await self._answer(pieces)

    async def fetch(self, path: str) -> bytes:
        """The answer to another path. Raises as `ask`."""
        session = await self._open()
        where = URL(self._url.removesuffix(codec.PATH) + path, encoded=True)
        async with session.get(where, headers=self._token(), allow_redirects=False) as response:
            if response.status != 200:
                raise BrokenError(await _refusal(response))
            return await _body(response)

    def _token(self) -> dict[str, str]:
        """Raises SecretError."""
        token = self._secrets.token()
        return {} if token is None else {"Authorization": f"Bearer {token}"}

    async def _answer(self, pieces: Mapping[str, Mapping[str, Row]]) -> Heard | None:
        headers = {codec.PIECES: ",".join(pieces), **self._token()}
        if self._tag:
            headers["If-None-Match"] = self._tag
        session = await self._open()
        async with session.get(self._url, headers=headers, allow_redirects=False) as response:
            if response.status == 304 and self._tag:
                return None
            if response.status != 200:
                raise _SaysNoError(await _refusal(response))
            heard = codec.read(await _body(response), pieces)
            self._tag = response.headers.get("ETag", "")[:_MOST_TAG]
            return heard

    async def _open(self) -> aiohttp.ClientSession:
        now = asyncio.get_running_loop().time()
        if self._session is None or now > self._until or self._version != self._secrets.version:
            await self._closed()
            context = self._secrets.context(self.peer)
            host = f"[{self.peer.host}]" if ":" in self.peer.host else self.peer.host
            self._url = f"{'http' if context is None else 'https'}://{host}:{self.peer.port}{codec.PATH}"
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=1, ssl=context or False, keepalive_timeout=CONNECTION_LASTS
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # `ask` has one of its own
                auto_decompress=False,
                skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
            )
            self._until, self._version = now + CONNECTION_LASTS, self._secrets.version
        return self._session


async def _body(response: aiohttp.ClientResponse) -> bytes:
    """Raises BrokenError."""
    parts, size = [], 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > codec.MOST_BYTES:
            raise BrokenError(f"it is larger than {codec.MOST_BYTES >> 20} MiB")
    return b"".join(parts)


async def _refusal(response: aiohttp.ClientResponse) -> str:
    if response.status == 401:
        return "it does not take this node's token (`fleet.token_file` must be the same on all nodes)"
    told = ""
    if response.status == 503:  # it says why
        with contextlib.suppress(BrokenError, ValueError, RecursionError):
            told = codec.said(await _body(response))
    return told or f"it answers with status {response.status}"
