"""One question after the other to one server, over a connection that is kept: HTTP/1.1, by h11. One task's at a time.

A question every two seconds to each of many nodes: a client for everything costs more than what is asked.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import h11

MOST_HEAD = 16 * 1024  # bytes of the lines before an answer's body

Connect = Callable[[Callable[[], asyncio.Protocol]], Awaitable[tuple[asyncio.BaseTransport, Any]]]
"""Makes a connection with that protocol. Raises OSError."""


_ENDS = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)


class EndedError(ConnectionError):
    """The other end has ended the connection, and has not answered. `fresh`: it had never answered on it."""

    def __init__(self, *, fresh: bool) -> None:
        super().__init__("the connection was closed")
        self.fresh = fresh


class NoHttpError(Exception):
    """What came is no HTTP. `args[0]`: why, in words."""


class TooLargeError(Exception):
    """The body is larger than it may be."""


class Answer(NamedTuple):
    status: int
    headers: dict[bytes, bytes]  # names in lower case
    body: bytes


class Line:
    """`ended` is called when the other end ends a connection on which nothing is asked just now."""

    def __init__(self, connect: Connect, *, most: int, ended: Callable[[], None] = lambda: None) -> None:
        self._connect = connect
        self._most = most
        self._ended = ended
        self._one: _Connection | None = None
        self._asked: tuple[str, list[tuple[str, str]]] = "", []
        self._request: h11.Request | None = None  # of that

    @property
    def is_open(self) -> bool:
        return self._one is not None and not self._one.is_over

    def close(self) -> None:
        one, self._one = self._one, None
        if one is not None:
            one.abort()

    async def get(self, target: str, headers: list[tuple[str, str]]) -> Answer:
        """Raises OSError (EndedError is one), NoHttpError, TooLargeError. Whatever it raises, the connection is closed."""
        if self._request is None or self._asked != (target, headers):  # mostly it is the same again
            self._asked = target, headers
            self._request = h11.Request(method="GET", target=target, headers=headers)
        while True:
            one = await self._open()
            kept = not one.is_fresh
            try:
                return await one.ask(self._request)
            except EndedError:
                if not kept:
                    raise  # one that is kept may have been ended before it was asked
            finally:
                if one.is_over or one.is_busy:
                    self.close()

    async def _open(self) -> _Connection:
        if self._one is None or self._one.is_over:
            one = _Connection(self._most, self._ended)
            await self._connect(lambda: one)
            self._one = one
        return self._one


class _Connection(asyncio.Protocol):
    def __init__(self, most: int, ended: Callable[[], None]) -> None:
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MOST_HEAD)
        self._most = most
        self._ended = ended
        self._waits: asyncio.Future[Answer] | None = None
        self._head: h11.Response | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._has_begun = False  # something of the answer has come
        self.transport: asyncio.Transport | None = None
        self.is_fresh = True
        self.is_over = False

    @property
    def is_busy(self) -> bool:
        return self._waits is not None

    def abort(self) -> None:
        self.is_over, self._waits = True, None
        if self.transport is not None:
            self.transport.abort()

    async def ask(self, asked: h11.Request) -> Answer:
        """Raises as `Line.get`."""
        if self.transport is None or self.is_over:
            raise EndedError(fresh=self.is_fresh)
        self._head, self._size, self._has_begun = None, 0, False
        self._parts.clear()
        self._waits = asyncio.get_running_loop().create_future()
        waits = self._waits
        self.transport.write((self._http.send(asked) or b"") + (self._http.send(h11.EndOfMessage()) or b""))
        return await waits

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - of a stream socket it is
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self._waits is None:
            self.abort()  # nothing was asked
            return
        self._has_begun = True
        self._take(data)

    def eof_received(self) -> None:
        if self._waits is not None and self._has_begun:
            self._take(b"")

    def connection_lost(self, exc: Exception | None) -> None:
        was_over, self.is_over = self.is_over, True
        if self._waits is not None:
            ended = EndedError(fresh=self.is_fresh)
            self._fail(ended if exc is None or isinstance(exc, _ENDS) else exc)
        elif not was_over:
            self._ended()

    def _take(self, data: bytes) -> None:
        try:
            self._http.receive_data(data)
            self._read()
        except h11.ProtocolError as error:
            self._fail(NoHttpError(str(error)))

    def _read(self) -> None:
        while True:
            event = self._http.next_event()
            match event:
                case h11.Data(data=data):
                    self._parts.append(bytes(data))
                    self._size += len(data)
                    if self._size > self._most:
                        self._fail(TooLargeError())
                        return
                case h11.Response():
                    self._head = event
                case h11.EndOfMessage():
                    self._done()
                    return
                case h11.NEED_DATA:
                    return
                case h11.InformationalResponse():
                    pass
                case _:
                    raise h11.RemoteProtocolError("the connection was closed before the end of the answer")

    def _done(self) -> None:
        waits, head, self._waits = self._waits, self._head, None
        more, _ = self._http.trailing_data
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE and not more:
            self._http.start_next_cycle()
            self.is_fresh = False
        else:
            self.abort()
        if waits is not None and not waits.done() and head is not None:
            waits.set_result(Answer(head.status_code, dict(head.headers), b"".join(self._parts)))

    def _fail(self, error: Exception) -> None:
        waits = self._waits
        self.abort()
        if waits is not None and not waits.done():
            waits.set_exception(error)
