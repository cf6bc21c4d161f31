"""A connection to read from and write to within a bound: plain, or with TLS over memory buffers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from anycast.core.values.checks import Tls
from anycast.core.values.configuration import Address
from anycast.probes.finding import OK, Finding, PeerError, Progress, place
from anycast.probes.tcp import connect
from anycast.probes.tls import OVERHEAD, Channel
from anycast.probes.wire.waiting import Wired, wired

__all__ = ["Plain", "Secure", "Stream", "TooMuchError", "literal", "opened"]

_CHUNK = 4 * 1024
"""Bytes of one turn of the event loop: of some protocols a byte takes a microsecond to read."""


class TooMuchError(PeerError):
    """The peer sent more than the check reads."""

    def __init__(self) -> None:
        super().__init__("it sends more than the check reads")


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

    With `progress.to_vip` it takes the way of clients' packets.

    Raises OSError, ssl.SSLError, UnusableError, PeerError.
    """
    channel = Channel(tls, tls.sni or name or literal(address), *alpn) if tls is not None else None
    progress.missing = "answer"
    bound = limit if channel is None else limit + OVERHEAD
    async with _connected(address, port, progress, bound) as wire:
        if channel is None:
            yield wire
            return
        progress.missing = "TLS handshake"
        secure = Secure(wire, channel, limit)
        await secure.handshake()
        progress.say("TLS handshake done: %s", channel.described)
        yield secure


@asynccontextmanager
async def _connected(
    address: Address, port: int, progress: Progress, limit: int
) -> AsyncIterator[Plain | _ToVip]:
    if progress.to_vip is not None:
        async with wired(progress.to_vip, port, progress) as connection:
            progress.say("connected from %s", place(connection.connection.getsockname()))
            yield _ToVip(connection, limit, progress)
        return
    with await connect(address, port) as sock:
        progress.say("connected from %s", place(sock.getsockname()))
        yield Plain(sock, limit, progress)


def literal(address: Address) -> str:
    """The address without a zone, which is this node's own affair."""
    return str(address).partition("%")[0]


class Plain:
    def __init__(self, sock: socket.socket, limit: int, progress: Progress) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._left = limit
        self._progress = progress

    @property
    def warning(self) -> Finding:
        return OK

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._sock, data)

    async def receive(self) -> bytes:
        # sock_recv does not suspend while bytes are there: a peer that never stops sending would hold the event
        # loop, and no timeout could fire.
        await asyncio.sleep(0)
        if self._left <= 0:
            raise TooMuchError
        data = await self._loop.sock_recv(self._sock, _CHUNK)
        self._left -= len(data)
        if data:
            self._progress.heard = True
        return data

    async def finish(self) -> None:
        self._sock.shutdown(socket.SHUT_WR)


class _ToVip:
    """As Plain, over a connection that takes the way of clients' packets."""

    def __init__(self, connection: Wired, limit: int, progress: Progress) -> None:
        self._connection = connection
        self._left = limit
        self._progress = progress

    @property
    def warning(self) -> Finding:
        return OK

    async def send(self, data: bytes) -> None:
        await self._connection.send(data)

    async def receive(self) -> bytes:
        await asyncio.sleep(0)
        if self._left <= 0:
            raise TooMuchError
        data = await self._connection.receive(_CHUNK)
        self._left -= len(data)
        if data:
            self._progress.heard = True
        return data

    async def finish(self) -> None:
        self._connection.finish()


class Secure:
    """A stream within TLS."""

    def __init__(self, wire: Plain | _ToVip, channel: Channel, limit: int) -> None:
        """`limit`: bytes that are read of what TLS carries."""
        self._wire = wire
        self._channel = channel
        self._left = limit

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
        await asyncio.sleep(0)  # as above: what was decrypted together is here at once
        if self._left <= 0:
            raise TooMuchError
        while (data := self._channel.read(_CHUNK)) is None:
            await self._exchange()
        self._left -= len(data)
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
