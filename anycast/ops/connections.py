"""Who may connect, and for how long: limits that protect the ops process itself from its clients."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from anycast.listening import BACKLOG

MAX_FIELD = 8 * 1024  # bytes of a request line, and of a header
MAX_FIELDS = 64
_GRACE = 0.1  # seconds
LOOKS = 15  # within the time that a client may be idle, for those that have been so for longer


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of one listening socket."""

    connections: int = 128
    idle_time: float = 15.0  # seconds from the connection, or the last answer, to a whole request


_quiet = logging.getLogger("anycast.http")
_quiet.setLevel(logging.CRITICAL)  # what is no HTTP is answered; it is nothing that the log should tell


class _Connection(web.RequestHandler):
    """One client. What the library itself refuses is told as everything else is."""

    __slots__ = ("_listening", "has_ended", "streaming")

    def __init__(self, listening: Listening, server: web.Server) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=_quiet,
            logger=_quiet,
            keepalive_timeout=listening.limits.idle_time,
            lingering_time=1.0,
            max_line_size=MAX_FIELD,
            max_field_size=MAX_FIELD,
            max_headers=MAX_FIELDS,
        )
        self._listening = listening
        self.has_ended = False  # no other request will come
        self.streaming = False  # what it gets has no end: it is gone once it says no more

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._listening.came(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._listening.went(self)
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Half closed, a client still gets the answer to what it has asked. Returns whether to stay open."""
        super().eof_received()
        self.has_ended = True
        # What has just come whole may not have been begun yet.
        asyncio.get_running_loop().call_later(_GRACE, self._listening.end_if_idle, self)
        return not self.streaming

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,  # noqa: ARG002 - the library's signature
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun")
        return refusal(status, message or "it cannot be answered")


def refusal(status: int, why: str) -> web.Response:
    body = json.dumps({"error": why.splitlines()[0]}) + "\n"
    response = web.Response(
        status=status, text=body, content_type="application/json", headers={"Server": "anycast"}
    )
    response.force_close()
    return response


class _Busy(asyncio.Protocol):
    """There is no room: it is told so, and let go."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - of a stream socket it is
        body = b'{"error": "too many connections"}\n'
        head = (
            "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json; charset=utf-8\r\n"
            f"Content-Length: {len(body)}\r\nServer: anycast\r\nConnection: close\r\n\r\n"
        )
        transport.write(head.encode() + body)
        transport.close()


class Listening:
    """One listening socket and its clients. When there are too many, the one that has been idle longest makes room."""

    def __init__(self, server: web.Server, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._server = server
        self._idle: dict[_Connection, float] = {}  # since when, the longest first
        self._connections: set[_Connection] = set()
        self._listener: asyncio.Server | None = None
        self._sweeping: asyncio.Task[None] | None = None

    async def listen(self, listener: socket.socket) -> None:
        """Accept on `listener` instead of the one before; connections that stand stay."""
        if self._listener is not None:
            self._listener.close()
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._protocol, sock=listener, backlog=BACKLOG)
        if self._sweeping is None:
            self._sweeping = asyncio.create_task(self._sweep())

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
        if self._sweeping is not None:
            self._sweeping.cancel()

    def _protocol(self) -> asyncio.Protocol:
        if len(self._connections) >= self.limits.connections:
            if not self._idle:
                return _Busy()
            self._end(next(iter(self._idle)))
        return _Connection(self, self._server)

    def _end(self, connection: _Connection) -> None:
        self.went(connection)
        connection.force_close()

    def came(self, connection: _Connection) -> None:
        self._connections.add(connection)
        self.answered(connection)

    def went(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        self._idle.pop(connection, None)

    def end_if_idle(self, connection: _Connection) -> None:
        if connection in self._idle:
            self._end(connection)

    def asked(self, connection: _Connection) -> None:
        """It has a whole request, which is being answered."""
        self._idle.pop(connection, None)

    def answered(self, connection: _Connection) -> None:
        if connection in self._connections:
            self._idle[connection] = asyncio.get_running_loop().time()

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
    listening = connection._listening  # noqa: SLF001 - the two are one
    listening.asked(connection)
    try:
        response = await handler(request)
        if connection.has_ended:
            response.force_close()
        return response
    finally:
        listening.answered(connection)


def begin_stream(request: web.Request) -> None:
    """From now on the client is gone when it says that it sends no more."""
    if isinstance(connection := request.protocol, _Connection):
        connection.streaming = True
