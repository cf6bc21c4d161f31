"""The control socket: what changes the node, and a few questions that the agent itself answers. HTTP, by h11.

Whoever may open the socket may command; it is no place for strangers, who have the ops process. Still every request
has its bounds and its time, and every user and process so many places (`door`). However many come at once, in one turn
of the event loop one of them is worked on, and users take turns: the lease must not wait for a crowd, nor an operator
for the scripts of somebody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import pwd
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable
from functools import cache
from http import HTTPStatus
from typing import Any, NamedTuple, Protocol

import h11
import structlog

import anycast
from anycast.agent import commands
from anycast.agent.answers import TooLateError
from anycast.agent.commands import RefusedError
from anycast.agent.door import Door, Guest, Limits
from anycast.core.state import State
from anycast.ops import status
from anycast.ops.paths import CONTROL, DEADLINE, JSON, TEXT, openapi
from anycast.sockets import Peer

LIMITS = Limits(process=32, user=64, others=192)
MAX_HEAD = 16 * 1024  # bytes
MAX_BODY = 4096
LARGE_BODY = 4 * 1024 * 1024  # bytes, of a configuration that is sent
LARGE_BODIES = 2  # of them at a time, whoever sends them
REQUEST_TIME = 5.0  # seconds a request has to come, from its first byte
IDLE_TIME = 15.0  # seconds until its first byte
WRITE_TIME = 10.0  # seconds an answer waits for its reader
BREATH = 0.001  # seconds between two of a crowd
MAX_PATH = 100  # characters of a path that are told again
_READ = 4096

log = structlog.get_logger()


class Engine(commands.Engine, Protocol):
    @property
    def last_step(self) -> float: ...


class _Request(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    uid: int
    deadline: float


class _Answer(NamedTuple):
    code: int
    body: bytes
    kind: str = JSON
    headers: tuple[tuple[str, str], ...] = ()


def _json(body: Any, *, code: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> _Answer:
    return _Answer(code, json.dumps(body, allow_nan=False).encode() + b"\n", JSON, headers)


def _refusal(code: int, why: str, *headers: tuple[str, str]) -> _Answer:
    return _json({"error": why}, code=code, headers=headers)


class Turnstile:
    """Lets through one at a time: users in turn, of each its processes, of each the first come.

    Of a crowd one in each `BREATH`, so that the event loop and the threads, which save what was commanded, have theirs.
    """

    def __init__(self) -> None:
        # The user, and of it the process, whose turn it is comes first.
        self._waiting: dict[int, dict[int, deque[asyncio.Future[None]]]] = {}

    async def __call__(self, peer: Peer) -> None:
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._next)
        passed = loop.create_future()
        self._waiting.setdefault(peer.uid, {}).setdefault(peer.pid, deque()).append(passed)
        await passed

    def _next(self) -> None:
        while self._waiting:
            first = self._first()
            if not first.done():  # it has gone meanwhile
                first.set_result(None)
                break
        if self._waiting:
            asyncio.get_running_loop().call_later(BREATH, self._next)

    def _first(self) -> asyncio.Future[None]:
        """Whose turn it is; its process and its user come last then."""
        uid = next(iter(self._waiting))
        processes = self._waiting.pop(uid)
        pid = next(iter(processes))
        queue = processes.pop(pid)
        first = queue.popleft()
        if queue:
            processes[pid] = queue
        if processes:
            self._waiting[uid] = processes
        return first


@cache
def _openapi() -> _Answer:
    return _json(openapi(CONTROL, version=anycast.__version__))


def _busy(why: str) -> bytes:
    """Said to who is not let in, before anything is read of what it asks."""
    body = json.dumps({"error": f"{why}; try again"}).encode() + b"\n"
    return (
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json; charset=utf-8\r\n"
        b"Content-Length: %d\r\nServer: anycast\r\nRetry-After: 1\r\nConnection: close\r\n\r\n%s"
    ) % (len(body), body)


class Control:
    """`mark` gives the revision of the feed that holds all that is known at the moment."""

    def __init__(self, engine: Engine, mark: Callable[[], int]) -> None:
        self._engine = engine
        self._mark = mark
        self._turnstile = Turnstile()
        self._large = _Room()
        self._door = Door(LIMITS, self._serve, farewell=_busy, buffer=_READ)
        self._handlers: dict[str, dict[str, Callable[[_Request], Awaitable[_Answer]]]] = {}
        for operation in CONTROL:
            self._handlers.setdefault(operation.path, {})[operation.method] = getattr(self, operation.handler)

    async def listen(self, listener: socket.socket) -> None:
        """Accept on `listener` instead of the one before; connections that stand stay."""
        self._door.listen(listener)

    async def close(self) -> None:
        self._door.leave()
        serving = list(self._door.serving)
        for task in serving:
            task.cancel()
        if serving:
            await asyncio.wait(serving)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, guest: Guest) -> None:
        connection = _Connection(reader, writer, guest, self._turnstile, self._large)
        try:
            while (request := await connection.next_request()) is not None:
                guest.is_commanding = request.method == "POST"
                answer = await self._answer(request)
                guest.is_commanding = False
                connection.give_room_back()
                await connection.send(answer, head=request.method == "HEAD")
                guest.rests()
        except (ConnectionError, TimeoutError, h11.LocalProtocolError, asyncio.CancelledError):
            pass  # it has gone, does not read, or makes way; or the agent ends
        finally:
            connection.give_room_back()
            writer.transport.abort() if connection.broken else writer.close()

    async def _answer(self, request: _Request) -> _Answer:
        handlers = self._handlers.get(request.path)
        if handlers is None:
            return _refusal(404, f"there is no {request.path[:MAX_PATH]} here (documents are at ops.sock)")
        handler = handlers.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            allowed = ", ".join(sorted({*handlers, *(["HEAD"] if "GET" in handlers else [])}))
            why = f"{request.path} does not take {request.method} (it takes {allowed})"
            return _refusal(405, why, ("Allow", allowed))
        try:
            return await handler(request)
        except RefusedError as error:
            return _refusal(error.code, str(error))
        except TooLateError as error:
            return _refusal(504, str(error))
        except Exception:
            log.exception("control.unexpected", method=request.method, path=request.path)
            return _refusal(500, "a defect of this program; please report it with its log")

    @property
    def _state(self) -> State:
        return self._engine.state

    async def get_livez(self, request: _Request) -> _Answer:
        lag = status.lag(self._state, self._engine.last_step, time.monotonic())
        code = 503 if lag else 200
        if JSON in request.headers.get("accept", ""):
            return _json({"ok": not lag, "reasons": [lag] if lag else []}, code=code)
        return _Answer(code, f"{lag or 'ok'}\n".encode(), TEXT)

    async def get_summary(self, _: _Request) -> _Answer:
        return _json({"summary": status.summary(self._state, time.monotonic()), "revision": self._mark()})

    async def get_openapi(self, _: _Request) -> _Answer:
        return _openapi()

    async def get_maintenance(self, _: _Request) -> _Answer:
        return _json({"maintenance": commands.entries(self._state)})

    async def post_maintenance(self, request: _Request) -> _Answer:
        code, answer = await commands.maintenance(
            self._engine,
            request.body,
            by=await asyncio.to_thread(_user, request.uid),
            deadline=request.deadline,
        )
        return _json({**answer, "revision": self._mark()}, code=code)

    async def post_reload(self, request: _Request) -> _Answer:
        code, answer = await commands.reload(self._engine, request.body, deadline=request.deadline)
        return _json({**answer, "revision": self._mark()}, code=code)

    async def post_plan(self, request: _Request) -> _Answer:
        code, answer = await commands.plan(self._engine, request.body, deadline=request.deadline)
        return _json(answer, code=code)

    async def post_confirm(self, request: _Request) -> _Answer:
        code, answer = await commands.confirm(self._engine, request.body, deadline=request.deadline)
        return _json({**answer, "revision": self._mark()}, code=code)

    async def post_undo(self, request: _Request) -> _Answer:
        code, answer = await commands.undo(self._engine, request.body, deadline=request.deadline)
        return _json({**answer, "revision": self._mark()}, code=code)


class _Room:
    """For large bodies."""

    def __init__(self) -> None:
        self.free = LARGE_BODIES


class _Connection:
    """One client, one request after the other."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        guest: Guest,
        turnstile: Turnstile,
        room: _Room,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._guest = guest
        self._turnstile = turnstile
        self._room = room
        self._has_room = False
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self.broken = False  # nobody reads what is still to be written

    async def next_request(self) -> _Request | None:
        """None: there is no other. What is wrong with it is answered here."""
        if self._http.our_state is h11.DONE:
            if self._http.their_state is not h11.DONE:
                return None
            self._http.start_next_cycle()
        elif self._http.our_state is not h11.IDLE:
            return None
        try:
            return await self._read()
        except h11.RemoteProtocolError as error:
            await self.refuse(error.error_status_hint, str(error))
        except RefusedError as error:
            await self.refuse(error.code, str(error))
        except TimeoutError:
            await self.refuse(408, f"the request did not arrive within {REQUEST_TIME:g} s")
        return None

    async def _read(self) -> _Request | None:
        """Raises TimeoutError, RefusedError, h11.RemoteProtocolError."""
        if not self._http.trailing_data[0]:
            data = b""
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(IDLE_TIME):
                    data = await self._heard()
            if not data:
                return None
            self._http.receive_data(data)
        head: h11.Request | None = None
        body = bytearray()
        async with asyncio.timeout(REQUEST_TIME):
            await self._turnstile(self._guest.peer)
            while True:
                match self._http.next_event():
                    case h11.NEED_DATA:
                        if self._http.they_are_waiting_for_100_continue:
                            self._writer.write(
                                self._http.send(h11.InformationalResponse(status_code=100, headers=[])) or b""
                            )
                        self._http.receive_data(await self._heard())
                        await self._turnstile(self._guest.peer)
                    case h11.Request() as head:
                        pass
                    case h11.Data(data=data):
                        body += data
                        if len(body) > MAX_BODY:
                            self._take_room(head, len(body))
                    case h11.EndOfMessage():
                        break
                    case _:
                        return None
        assert head is not None  # noqa: S101 - before its end there was a beginning
        named = [(name.decode(), value.decode("latin-1")) for name, value in head.headers]
        path, asked, query = head.target.decode("latin-1").partition("?")
        if asked:
            raise RefusedError(400, f"there are no parameters here, and {query[:40]!r} was given")
        deadlines = [value for name, value in named if name == DEADLINE.lower()]
        if len(deadlines) > 1:
            raise RefusedError(400, f"{DEADLINE} stands there twice")
        return _Request(
            method=head.method.decode(),
            path=path,
            headers=dict(named),
            body=bytes(body),
            uid=self._guest.peer.uid,
            deadline=_deadline(deadlines[0] if deadlines else None),
        )

    def _take_room(self, head: h11.Request | None, size: int) -> None:
        """Raises RefusedError."""
        most = LARGE_BODY if head is not None and head.target == b"/reload/plan" else MAX_BODY
        if size > most:
            raise RefusedError(413, f"the body is larger than {most} bytes")
        if not self._has_room and not self._room.free:
            raise RefusedError(503, "others are sending a configuration; try again")
        if not self._has_room:
            self._room.free -= 1
            self._has_room = True

    def give_room_back(self) -> None:
        self._room.free += self._has_room
        self._has_room = False

    async def _heard(self) -> bytes:
        """What it says next; nothing: it is through."""
        self._guest.waits = True
        try:
            return await self._reader.read(_READ)
        finally:
            self._guest.waits = False

    async def refuse(self, code: int, why: str) -> None:
        """And end the connection."""
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await self.send(_refusal(code, why, ("Connection", "close")))

    async def send(self, answer: _Answer, *, head: bool = False) -> None:
        """Raises ConnectionError, TimeoutError."""
        headers = [
            ("Content-Type", f"{answer.kind}; charset=utf-8"),
            ("Content-Length", str(len(answer.body))),
            ("Server", "anycast"),
            *answer.headers,
        ]
        data = (
            self._http.send(
                h11.Response(
                    status_code=answer.code, headers=headers, reason=HTTPStatus(answer.code).phrase.encode()
                )
            )
            or b""
        )
        data += b"" if head else self._http.send(h11.Data(data=answer.body)) or b""
        data += self._http.send(h11.EndOfMessage()) or b""
        self._writer.write(data)
        self.broken = self._guest.waits = True
        async with asyncio.timeout(WRITE_TIME):
            await self._writer.drain()
        self.broken = self._guest.waits = False


def _deadline(text: str | None) -> float:
    """Raises RefusedError."""
    if text is None:
        return math.inf
    try:
        deadline = float(text)
    except ValueError:
        deadline = math.nan
    if not deadline >= 0:
        raise RefusedError(400, f"{DEADLINE}: expected seconds of CLOCK_MONOTONIC, found {text[:40]!r}")
    return deadline


def _user(uid: int) -> str:
    """Who has that number. It may ask a directory service: in a thread."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
