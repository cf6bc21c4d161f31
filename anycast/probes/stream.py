"""A connection to read from and write to within a bound: plain, or with TLS over memory buffers."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Protocol

from anycast.core.values.checks import Tls
from anycast.core.values.configuration import Address
from anycast.probes.finding import (
    OK,
    Finding,
    PeerError,
    Progress,
    fail,
    place,
    reading,
    unusable,
)
from anycast.probes.tcp import connect
from anycast.probes.tls import OVERHEAD, Channel, UnusableError, tls_detail

__all__ = ["Plain", "Secure", "Stream", "TooMuchError", "judged", "literal", "opened"]

_CHUNK = 16 * 1024


class TooMuchError(PeerError):
    """The peer sent more than the check reads."""


class Stream(Protocol):
    async def send(self, data: bytes) -> None: ...

    async def receive(self) -> bytes:
        """Some bytes; none at the end of the stream. Raises TooMuchError."""
        ...

    async def finish(self) -> None:
        """Tell the peer that nothing more comes. Reading goes on."""
        ...

    @property
    def warning(self) -> Finding:
        """OK, or OK with a warning about the peer's certificate."""
        ...


@asynccontextmanager
async def opened(
    address: Address,
    port: int,
    progress: Progress,
    *,
    tls: Tls | None,
    name: str | None = None,
    limit: int,
    alpn: tuple[str, ...] = (),
) -> AsyncIterator[Stream]:
    """A connected stream from which at most `limit` bytes are read. `name`: what the certificate must be for.

    Raises OSError, ssl.SSLError, UnusableError; PeerError for whatever else the use of it raises once the peer has
    said something.
    """
    channel = Channel(tls, tls.sni or name or literal(address), *alpn) if tls is not None else None
    progress.missing = "answer"
    with await connect(address, port) as sock:
        progress.say("connected from %s", place(sock.getsockname()))
        wire = Plain(sock, limit if channel is None else limit + OVERHEAD)
        try:
            if channel is None:
                yield wire
                return
            progress.missing = "TLS handshake"
            secure = Secure(wire, channel)
            await secure.handshake()
            progress.say("TLS handshake done: %s", channel.described)
            yield secure
        except Exception:
            if not wire.heard:
                raise
            with reading("its answer cannot be read"):
                raise


def literal(address: Address) -> str:
    """The address without a zone, which is this node's own affair."""
    return str(address).partition("%")[0]


class Plain:
    def __init__(self, sock: socket.socket, limit: int) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._left = limit
        self.heard = False  # the peer has said something

    @property
    def warning(self) -> Finding:
        return OK

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._sock, data)

    async def receive(self) -> bytes:
        # sock_recv does not suspend while bytes are there: without the limit a peer that never stops sending
        # would hold the event loop, and no timeout could fire.
        if self._left <= 0:
            raise TooMuchError("it sends more than the check reads")
        data = await self._loop.sock_recv(self._sock, _CHUNK)
        self._left -= len(data)
        self.heard = self.heard or bool(data)
        return data

    async def finish(self) -> None:
        self._sock.shutdown(socket.SHUT_WR)


class Secure:
    """A stream within TLS."""

    def __init__(self, wire: Plain, channel: Channel) -> None:
        self._wire = wire
        self._channel = channel

    async def handshake(self) -> None:
        """Raises ssl.SSLError."""
        while not self._channel.handshake():
            await self._exchange()
        await self._flush()

    @property
    def protocol(self) -> str | None:
        return self._channel.protocol

    @property
    def warning(self) -> Finding:
        return self._channel.warning

    async def send(self, data: bytes) -> None:
        self._channel.seal(data)
        await self._flush()

    async def receive(self) -> bytes:
        while (data := self._channel.read()) is None:
            await self._exchange()
        return data

    async def finish(self) -> None:
        self._channel.finish()
        await self._flush()
        await self._wire.finish()

    async def _exchange(self) -> None:
        await self._flush()
        self._channel.feed(await self._wire.receive())

    async def _flush(self) -> None:
        if data := self._channel.outgoing():
            await self._wire.send(data)


async def judged(talk: Awaitable[Finding]) -> Finding:
    """The finding of a conversation, whatever its stream raises. OSError of the kernel passes through."""
    try:
        return await talk
    except ssl.SSLError as error:
        return fail(tls_detail(error))
    except UnusableError as error:
        return unusable(error, error.fault)
    except PeerError as error:
        return fail(str(error))
