"""Who may connect, and for how long: limits that protect the ops process itself from its clients.

What the HTTP library refuses by itself is answered here too: as JSON, and without a word about the library.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from typing import Any

from aiohttp import http_exceptions, web

from anycast.listening import BACKLOG

# The library names the limit that was exceeded, and nothing else: so the two differ.
MAX_LINE = 4 * 1024  # bytes of a request line
MAX_FIELD = 8 * 1024  # bytes of a header
MAX_FIELDS = 64
MAX_WHY = 200  # characters of an error
LINGER = 1.0  # seconds after a refusal in which what is still coming is read: else the client would lose the answer
LINGERING = 1024 * 1024  # bytes that are read then
_ADMITTED = 8
_GRACE = 0.1  # seconds
HANDSHAKE = 5.0  # seconds
LOOKS = 15  # within the time that a client may be idle, for those that have been so for longer


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of one listening socket."""

    connections: int = 256
    reserved: int = (
        64  # of these, for clients on this node: its own probes get in when strangers have the rest
    )
    idle_time: float = 15.0  # seconds from the connection, or the last answer, to a whole request


_quiet = logging.getLogger("anycast.http")
_quiet.setLevel(logging.CRITICAL)  # what is no HTTP is answered; it is nothing that the log should tell


class _Connection(web.RequestHandler):
    """One client. What the library itself refuses is told as everything else is."""

    __slots__ = (
        "_answering",
        "_blocked",
        "_left",
        "_listening",
        "_said_all",
        "has_ended",
        "is_local",
        "streaming",
    )

    def __init__(self, listening: Listening, server: web.Server) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=_quiet,
            logger=_quiet,
            keepalive_timeout=listening.limits.idle_time,
            lingering_time=1.0,
            max_line_size=MAX_LINE,
            max_field_size=MAX_FIELD,
            max_headers=MAX_FIELDS,
        )
        self._listening = listening
        self._answering = False
        self._blocked = False  # it does not read what it has asked for
        self._left: int | None = None  # once it is refused: how many bytes are still read, and thrown away
        self._said_all = asyncio.Event()
        self.has_ended = False  # no other request will come
        self.streaming = False  # what it gets has no end: it is gone once it says no more
        self.is_local = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.is_local = _is_local(transport.get_extra_info("peername"))
        super().connection_made(transport)
        if not self._listening.admit(self):
            assert isinstance(transport, asyncio.Transport)  # noqa: S101 - of a stream socket it is
            transport.write(_BUSY)
            transport.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._listening.forget(self)
        self._said_all.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._left is not None:
            self._throw_away(data)
            return
        try:
            super().data_received(data)
        except Exception:  # noqa: BLE001 - whatever its bytes do to the library, it is the client's mistake
            if isinstance(self.transport, asyncio.Transport):
                self.transport.write(_BROKEN)
            self.force_close()

    def _throw_away(self, data: bytes) -> None:
        assert self._left is not None  # noqa: S101 - the caller has looked
        self._left -= len(data)
        if self._left < 0 and self.transport is not None:
            self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._blocked = True
        self._tell()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._blocked = False
        self._tell()

    def is_answering(self, *, answering: bool) -> None:
        self._answering = answering
        self._tell()

    def _tell(self) -> None:
        self._listening.is_idle(self, idle=self._blocked or not self._answering)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Half closed, a client still gets the answer to what it has asked. Returns whether to stay open."""
        super().eof_received()
        self.has_ended = True
        self._said_all.set()
        # What has just come whole may not have been begun yet.
        asyncio.get_running_loop().call_later(_GRACE, self._listening.end_if_idle, self)
        return not self.streaming and not self._listening.is_encrypted

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun")
        self._left = LINGERING
        return refusal(*_told(status, exc, message or "it cannot be answered"))

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """What the library raises beside the application, such as of an expectation, is told as all else is."""
        if isinstance(resp, web.HTTPException):
            resp = refusal(resp.status, resp.text or resp.reason)
        finished = await super().finish_response(request, resp, start_time)
        if self._left is not None:
            await self._linger()
        return finished

    async def _linger(self) -> None:
        """Until it has said all it has to say, for a moment."""
        if isinstance(self.transport, asyncio.Transport) and not self.has_ended:
            if self.transport.can_write_eof():  # not with TLS
                self.transport.write_eof()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LINGER):
                    await self._said_all.wait()


def _told(status: int, error: BaseException | None, message: str) -> tuple[int, str]:
    """The HTTP status for what the library could not take, and why."""
    if isinstance(error, http_exceptions.LineTooLong):
        if error.args[1] == MAX_LINE:
            return 414, f"the request line is longer than {MAX_LINE} bytes"
        return 431, f"a header is longer than {MAX_FIELD} bytes"
    if isinstance(error, http_exceptions.InvalidURLError):
        return status, "the request line has no address that can be read"
    if "Too many headers" in message:
        return 431, f"more than {MAX_FIELDS} headers"
    return status, message


def refusal(status: int, why: str) -> web.Response:
    """The last answer on its connection."""
    told = (why.splitlines() or [""])[0].rstrip(": ")[:MAX_WHY]
    response = web.Response(
        status=status,
        text=json.dumps({"error": told}) + "\n",
        content_type="application/json",
        headers={"Server": "anycast"},
    )
    response.force_close()
    return response


def _raw(line: bytes, why: str) -> bytes:
    """An answer to what is no request, or has not been read."""
    body = json.dumps({"error": why}).encode() + b"\n"
    return (
        b"HTTP/1.1 %s\r\nContent-Type: application/json; charset=utf-8\r\n"
        b"Content-Length: %d\r\nServer: anycast\r\nConnection: close\r\n\r\n%s"
    ) % (line, len(body), body)


_BUSY = _raw(b"503 Service Unavailable\r\nRetry-After: 1", "too many connections")
_BROKEN = _raw(b"400 Bad Request", "this is no HTTP")


def _is_local(peer: object) -> bool:
    """Whether it is on this node. A peer at a unix socket has no address."""
    if not isinstance(peer, tuple):
        return True
    address = ip_address(str(peer[0]).partition("%")[0])
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


class Listening:
    """One listening socket and its clients. When there are too many, the one that has been idle longest makes room.

    Who does not read what it has asked for is idle too.
    """

    def __init__(
        self, server: web.Server, limits: Limits | None = None, *, tls: ssl.SSLContext | None = None
    ) -> None:
        self.limits = limits or Limits()
        self._tls = tls
        self._patience: dict[str, Any] = {} if tls is None else {"ssl_handshake_timeout": HANDSHAKE}
        self._server = server
        self._idle: dict[_Connection, float] = {}  # since when, the longest first
        self._connections: set[_Connection] = set()
        self._listener: asyncio.Server | None = None
        self._sweeping: asyncio.Task[None] | None = None

    @property
    def is_encrypted(self) -> bool:
        return self._tls is not None

    async def listen(self, listener: socket.socket) -> None:
        """Accept on `listener` instead of the one before; connections that stand stay."""
        if self._listener is not None:
            self._listener.close()
        # So few are let in in one turn of the loop that each can be heard before it has to make room for others.
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(
            partial(_Connection, self, self._server),
            sock=listener,
            backlog=_ADMITTED,
            ssl=self._tls,
            **self._patience,
        )
        listener.listen(BACKLOG)
        if self._sweeping is None:
            self._sweeping = asyncio.create_task(self._sweep())

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
        if self._sweeping is not None:
            self._sweeping.cancel()

    def admit(self, connection: _Connection) -> bool:
        """Whether there is room for it, or somebody makes some."""
        limits, strangers = self.limits, [one for one in self._connections if not one.is_local]
        if not connection.is_local and len(strangers) >= limits.connections - limits.reserved:
            admitted = self._make_room(local=False)
        else:
            admitted = len(self._connections) < limits.connections or self._make_room(local=True)
        if admitted:
            self._connections.add(connection)
            self.is_idle(connection, idle=True)
        return admitted

    def _make_room(self, *, local: bool) -> bool:
        """End who has been idle longest, this node's own only if `local`; False: all are at work."""
        longest = next((one for one in self._idle if local or not one.is_local), None)
        if longest is not None:
            self._end(longest)
        return longest is not None

    def _end(self, connection: _Connection) -> None:
        self.forget(connection)
        if connection.transport is not None:
            connection.transport.abort()

    def forget(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        self._idle.pop(connection, None)

    def is_idle(self, connection: _Connection, *, idle: bool) -> None:
        self._idle.pop(connection, None)
        if idle and connection in self._connections:
            self._idle[connection] = asyncio.get_running_loop().time()

    def end_if_idle(self, connection: _Connection) -> None:
        if connection in self._idle:
            self._end(connection)

    async def _sweep(self) -> None:
        """A header that drips does not give itself more time."""
        while True:
            await asyncio.sleep(self.limits.idle_time / LOOKS)
            latest = asyncio.get_running_loop().time() - self.limits.idle_time
            for connection in [one for one, since in self._idle.items() if since <= latest]:
                self._end(connection)


@web.middleware
async def counted(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Tells who is idle."""
    connection: Any = request.protocol
    if not isinstance(connection, _Connection):
        return await handler(request)
    connection.is_answering(answering=True)
    try:
        response = await handler(request)
        if connection.has_ended:
            response.force_close()
        return response
    finally:
        connection.is_answering(answering=False)


def begin_stream(request: web.Request) -> None:
    """From now on the client is gone when it says that it sends no more."""
    if isinstance(connection := request.protocol, _Connection):
        connection.streaming = True
