"""What stands between the network and the HTTP surface: who may connect, how long each may take, whose turn it is.

The leases are sent from the same event loop, so a client must not be able to take its time. Hence:
- A connection costs a bounded amount of memory, whoever holds it, and there is a bounded number of them. When they
  are all taken, the one that has been silent longest makes room, then the one that reads most slowly, then one that
  has been answered before and asks again.
- HTTP sees a request once its head is whole, and one request of all connections in each turn of the loop, however
  many came at once or in one piece; and so many in a second, or a flood of them would take the whole processor.
- Every wait for a client has an end: for its head, its body, its next request, its reading of the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import json
import re
import socket
import struct
import termios
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from ipaddress import ip_address
from typing import TypeAlias

_READ = 4096  # bytes taken from a connection in one turn
_ADMITTED = 8  # connections let in in one turn
_LOOKED_AT = 32  # and refused, which is cheaper
_REST = 0.01  # seconds between two turns in which so many came
_BURST = 64  # requests that are begun as fast as they come
_PACE = (
    0.002  # seconds between two requests after so many: a flood has a part of the processor, not all of it
)
_FULL_REST = 0.5  # seconds until the next try where the process has no descriptor left
_SEND_BUFFER = 128 * 1024  # bytes the kernel keeps for a client, and doubles
_WIDE_BUFFER = 1024 * 1024  # the same of a large answer
_WIDE = 4  # of which there are so many at a time: more bytes than a bounded number of connections should cost
_WRITE_BUFFER = 64 * 1024  # bytes we keep before the writer of an answer waits
_SO_SNDBUFFORCE = 32  # Linux
_HEAD_END = re.compile(rb"\r?\n\r?\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Numbers of connections and bytes, and seconds."""

    connections: int = 128
    reserved: int = (
        32  # of these, for peers on this node: its own probes get in when strangers have taken the rest
    )
    per_peer: int = 24  # of one address, or of one IPv6 /64, that is not this node
    grace: float = 1.0  # seconds a stranger's connection is safe from the strangers after it
    streams: int = 32  # answers that do not end by themselves
    head: int = 16 * 1024  # request line and header
    body: int = 4096
    head_time: float = 5.0  # from the first byte of a request, or the connection, to the end of its head
    body_time: float = 5.0
    idle_time: float = 15.0  # between two requests
    write_time: float = 10.0  # that an answer waits for its reader


Peer: TypeAlias = str
LOCAL: Peer = ""  # this node


def peer_of(connection: socket.socket) -> Peer:
    """Whom a connection is counted for."""
    if connection.family == socket.AF_UNIX:
        return LOCAL
    try:
        address = ip_address(str(connection.getpeername()[0]).partition("%")[0])
    except (OSError, ValueError):
        return "unknown"
    mapped = getattr(address, "ipv4_mapped", None) or address
    if mapped.is_loopback:
        return LOCAL
    # A host has a whole /64 to choose its address from.
    return str(mapped) if mapped.version == 4 else f"{int(mapped) >> 64:x}::/64"


class _Phase(Enum):
    HEAD = auto()  # waiting for a request
    BEGUN = auto()  # it has been handed over
    BODY = auto()  # its body is being handed over
    OVER = auto()  # no more requests


class Gate:
    """Listens, and makes of every connection it lets in a protocol of `serve`."""

    def __init__(self, serve: Callable[[], asyncio.Protocol], limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._serve = serve
        self._listeners: dict[socket.socket, asyncio.TimerHandle | None] = {}
        self._peers: Counter[Peer] = Counter()
        self._doors: set[Door] = set()
        # In the order in which they fell silent, began to wait for their reader, or got in line once more.
        self._silent: dict[Door, None] = {}
        self._blocked: dict[Door, None] = {}
        self._again: dict[Door, None] = {}
        self._streams = 0
        self._line: deque[Door] = deque()  # with a whole request, or more of a body
        self._turning = False
        self._tokens = float(_BURST)
        self._counted_at = 0.0
        self._opening: set[asyncio.Task[object]] = set()
        self._wide: dict[
            Door, float
        ] = {}  # whose answer the kernel keeps whole; of those that have gone until when
        self.refused = 0  # connections, since the start

    @property
    def connections(self) -> int:
        return len(self._doors)

    def listen(self, listener: socket.socket) -> None:
        """Accept on it, until `close` or `leave`. It must be listening."""
        listener.setblocking(False)
        self._listeners[listener] = None
        asyncio.get_running_loop().add_reader(listener.fileno(), self._accept, listener)

    def leave(self) -> None:
        """Stop listening, everywhere. Connections stay."""
        loop = asyncio.get_running_loop()
        for listener, timer in self._listeners.items():
            if timer is not None:
                timer.cancel()
            loop.remove_reader(listener.fileno())
            listener.close()
        self._listeners.clear()

    async def close(self) -> None:
        """Stop listening and end every connection."""
        self.leave()
        for task in self._opening:
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        for door in list(self._doors):
            door.abort()

    def _accept(self, listener: socket.socket) -> None:
        admitted = 0
        for _ in range(_LOOKED_AT):
            try:
                connection, _address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    raise
                self._pause(listener, _FULL_REST)
                return
            admitted += self._let_in(connection)
            if admitted == _ADMITTED:
                break
        self._pause(listener, _REST)

    def _pause(self, listener: socket.socket, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener.fileno())
        self._listeners[listener] = loop.call_later(seconds, self.listen, listener)

    def _let_in(self, connection: socket.socket) -> bool:
        connection.setblocking(False)
        peer = peer_of(connection)
        if not self._has_room(peer):
            self.refused += 1
            with contextlib.suppress(OSError):
                connection.send(_answer(503, "Service Unavailable", "too many connections"))
            connection.close()
            return False
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        door = Door(self, self._serve, peer)
        self._doors.add(door)
        self._peers[peer] += 1
        self._silent[door] = None
        loop = asyncio.get_running_loop()
        task: asyncio.Task[object] = loop.create_task(self._open(door, connection))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        return True

    async def _open(self, door: Door, connection: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: door, connection)
        except BaseException as error:
            connection.close()
            self.forget(door)
            if not isinstance(error, OSError):
                raise

    def _has_room(self, peer: Peer) -> bool:
        limits = self.limits
        if peer != LOCAL:
            if self._peers[peer] >= limits.per_peer and not self._make_room(
                lambda door: door.peer == peer, limits.grace
            ):
                return False
            strangers = len(self._doors) - self._peers[LOCAL]
            if strangers >= limits.connections - limits.reserved:
                return self._make_room(lambda door: door.peer != LOCAL, limits.grace)
        return len(self._doors) < limits.connections or self._make_room(lambda _: True)

    def _make_room(self, may_go: Callable[[Door], bool], grace: float = 0.0) -> bool:
        """End the connection that is missed least and is older than `grace`; False: there is none."""
        latest = asyncio.get_running_loop().time() - grace
        for doors in (self._silent, self._blocked, self._again):
            door = next((door for door in doors if door.began <= latest and may_go(door)), None)
            if door is not None:
                door.abort()
                return True
        return False

    # What doors tell.

    def forget(self, door: Door) -> None:
        if door in self._doors:
            self._doors.discard(door)
            self._peers[door.peer] -= 1
            if not self._peers[door.peer]:
                del self._peers[door.peer]
        self._silent.pop(door, None)
        self._blocked.pop(door, None)
        self._again.pop(door, None)
        if self._wide.pop(door, None) is not None and door.unread:
            # The kernel may keep it for a while yet.
            self._wide[door] = asyncio.get_running_loop().time() + self.limits.write_time
        if door.streaming:
            door.streaming = False
            self._streams -= 1

    def is_silent(self, door: Door, *, silent: bool) -> None:
        self._silent.pop(door, None)
        if silent and door in self._doors:
            self._silent[door] = None

    def is_in_line_again(self, door: Door, *, again: bool) -> None:
        """It waits with a request and has been answered before: one that never was goes first."""
        self._again.pop(door, None)
        if again and door in self._doors:
            self._again[door] = None

    def is_blocked(self, door: Door, *, blocked: bool) -> None:
        self._blocked.pop(door, None)
        if blocked and door in self._doors:
            self._blocked[door] = None

    def may_widen(self, door: Door) -> bool:
        """Whether the kernel may keep a large answer for one more client."""
        now, wide = asyncio.get_running_loop().time(), self._wide
        for one in [one for one, until in wide.items() if one is not door and one in self._doors]:
            if not one.unread:
                one.keep(_SEND_BUFFER)
                del wide[one]
        for one in [one for one, until in wide.items() if one not in self._doors and until <= now]:
            del wide[one]
        if door not in wide and len(wide) >= _WIDE:
            return False
        wide[door] = now
        return True

    def may_stream(self, door: Door) -> bool:
        """Whether one more answer may go on for ever; then it is counted."""
        if self._streams >= self.limits.streams:
            return False
        self._streams += 1
        door.streaming = True
        return True

    def line_up(self, door: Door) -> None:
        self._line.append(door)
        if not self._turning:
            self._turning = True
            self._set_turn()

    def _set_turn(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._tokens = min(float(_BURST), self._tokens + (now - self._counted_at) / _PACE) - 1.0
        self._counted_at = now
        if self._tokens >= 0:
            loop.call_soon(self._turn)
        else:
            loop.call_later(-self._tokens * _PACE, self._turn)

    def _turn(self) -> None:
        door = self._line.popleft()
        self._turning = bool(self._line)
        if self._turning:
            self._set_turn()
        door.go_on()


class Door(asyncio.BufferedProtocol):
    """One connection. What `serve` makes for it, once there is a whole head, sees one request after the other."""

    def __init__(self, gate: Gate, serve: Callable[[], asyncio.Protocol], peer: Peer) -> None:
        self.peer = peer
        self.began = asyncio.get_running_loop().time()
        self.streaming = False
        self._gate = gate
        self._serve = serve
        self._inner: asyncio.Protocol | None = None
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray(_READ)
        self._waiting = bytearray()  # read, and not handed over
        self._phase = _Phase.HEAD
        self._in_line = False
        self._eof = False
        self._answered = False
        self._paused = False
        self._body_left = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._write_deadline: asyncio.TimerHandle | None = None

    # The transport's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - of a stream socket it is
        self._transport = transport
        if self not in self._gate._doors:  # noqa: SLF001 - it had to make room meanwhile
            transport.abort()
        transport.set_write_buffer_limits(high=_WRITE_BUFFER)
        self._expect(self._gate.limits.head_time)

    def connection_lost(self, exc: Exception | None) -> None:
        self._phase = _Phase.OVER
        self._expect(None)
        if self._write_deadline is not None:
            self._write_deadline.cancel()
        self._gate.forget(self)
        if self._inner is not None:
            self._inner.connection_lost(exc)

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._phase is _Phase.OVER:
            return  # read, so that the end of the connection is noticed
        first = self._phase is _Phase.HEAD and not self._waiting
        self._waiting += memoryview(self._buffer)[:nbytes]
        limit = self._gate.limits.head if self._phase is _Phase.HEAD else _READ
        if len(self._waiting) > limit:
            self._pause()
        if self._phase is _Phase.HEAD:
            if first:
                self._expect(self._gate.limits.head_time)
            self._look()
        elif self._phase is _Phase.BODY:
            self._line_up()

    def eof_received(self) -> bool:
        """Half closed, a client still gets the answer to what it has asked whole. Returns whether to stay open."""
        self._eof = True
        return not self.streaming and (self._in_line or self._phase is _Phase.BEGUN)

    def pause_writing(self) -> None:
        if self._inner is not None:
            self._inner.pause_writing()
        self._gate.is_blocked(self, blocked=True)
        loop = asyncio.get_running_loop()
        self._write_deadline = loop.call_later(self._gate.limits.write_time, self.abort)

    def resume_writing(self) -> None:
        if self._write_deadline is not None:
            self._write_deadline.cancel()
        self._gate.is_blocked(self, blocked=False)
        if self._inner is not None:
            self._inner.resume_writing()

    # The surface's side.

    @property
    def is_last(self) -> bool:
        """Whether no other request can come."""
        return self._eof and not _HEAD_END.search(self._waiting)

    def begun(self, *, body: int | None) -> None:
        """The request that was handed over is being answered. `body`: its bytes; None: nobody knows yet."""
        self._expect(None)
        if body != 0:
            self._phase = _Phase.BODY
            self._body_left = self._gate.limits.body * 2 if body is None else body
            self._expect(self._gate.limits.body_time)
            self._line_up()

    def has_body(self) -> None:
        """The body has been read whole."""
        self._expect(None)
        if self._phase is _Phase.BODY:
            self._phase = _Phase.BEGUN

    def ended(self, *, more: bool) -> None:
        """It is answered. `more`: others may follow on this connection."""
        if self._phase is _Phase.OVER:
            return
        self._phase = _Phase.HEAD if more else _Phase.OVER
        self._answered = True
        self._expect(self._gate.limits.idle_time)
        self._gate.is_silent(self, silent=True)
        if more:
            self._look()
        else:
            self._waiting.clear()
            self._resume()

    def may_stream(self) -> bool:
        return self._gate.may_stream(self)

    def widen(self) -> None:
        """Have the kernel take a large answer whole: else each piece of it waits for a turn of the loop."""
        # Who asks for more before he has read this is no probe.
        if not self._waiting and self._gate.may_widen(self):
            self.keep(_WIDE_BUFFER)

    def keep(self, size: int) -> None:
        """How many bytes the kernel keeps for the client."""
        end = None if self._transport is None else self._transport.get_extra_info("socket")
        if end is None:
            return
        with contextlib.suppress(OSError):
            try:
                # Over the limit of the system, for whoever may change the network.
                end.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, size)
            except PermissionError:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)

    @property
    def unread(self) -> int:
        """Bytes that the kernel keeps for the client."""
        end = None if self._transport is None else self._transport.get_extra_info("socket")
        if end is None or end.fileno() < 0:
            return 0
        try:
            (size,) = struct.unpack("i", fcntl.ioctl(end.fileno(), termios.TIOCOUTQ, bytes(4)))
        except OSError:
            return 0
        return int(size)

    def abort(self) -> None:
        """End it at once: whatever it still had to read is lost."""
        self._gate.forget(self)
        if self._transport is not None:
            self._transport.abort()

    def _expect(self, seconds: float | None) -> None:
        """Something must happen within `seconds`."""
        if self._deadline is not None:
            self._deadline.cancel()
        loop = asyncio.get_running_loop()
        self._deadline = None if seconds is None else loop.call_later(seconds, self._too_late)

    def _too_late(self) -> None:
        if self._phase is _Phase.HEAD and self._waiting:
            self._refuse(408, "Request Timeout", "the head of the request did not come in time")
        else:
            self.abort()

    def _refuse(self, code: int, phrase: str, why: str) -> None:
        self._phase = _Phase.OVER
        self._waiting.clear()
        self._gate.is_silent(self, silent=True)
        if self._transport is not None:
            self._transport.write(_answer(code, phrase, why))
            self._transport.close()
        self._expect(self._gate.limits.write_time)

    def _look(self) -> None:
        """Get in line once there is a whole head."""
        if self._waiting[:1].isspace():
            # Empty lines before a request line are passed over.
            del self._waiting[: len(self._waiting) - len(self._waiting.lstrip(b"\r\n"))]
        limit = self._gate.limits.head
        if self._in_line:
            return
        if _HEAD_END.search(self._waiting, 0, limit):
            self._gate.is_silent(self, silent=False)
            self._gate.is_in_line_again(self, again=self._answered)
            self._line_up()
        elif len(self._waiting) >= limit:
            self._refuse(
                431, "Request Header Fields Too Large", f"the head of a request ends within {limit} bytes"
            )
        else:
            self._resume()

    def _line_up(self) -> None:
        if not self._in_line and self._waiting:
            self._in_line = True
            self._gate.line_up(self)

    def go_on(self) -> None:
        """It is this connection's turn."""
        self._in_line = False
        if self._transport is None or self._transport.is_closing():
            return  # what is told of its end next would find a request that nobody can serve
        match self._phase:
            case _Phase.HEAD:
                end = _HEAD_END.search(self._waiting, 0, self._gate.limits.head)
                if end is None:
                    return
                self._phase = _Phase.BEGUN
                self._gate.is_in_line_again(self, again=False)
                # If it is no HTTP after all, nobody will say that it has begun.
                self._expect(self._gate.limits.head_time)
                self._hand_over(end.end())
            case _Phase.BODY:
                size = min(len(self._waiting), self._body_left)
                self._body_left -= size
                self._hand_over(size)
            case _Phase.BEGUN | _Phase.OVER:
                pass

    def _hand_over(self, size: int) -> None:
        data = bytes(self._waiting[:size])
        del self._waiting[:size]
        if len(self._waiting) <= _READ:
            self._resume()
        if not data or self._transport is None:
            return
        if self._inner is None:
            self._inner = self._serve()
            self._inner.connection_made(self._transport)
        self._inner.data_received(data)

    def _pause(self) -> None:
        if not self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()


def _answer(code: int, phrase: str, why: str) -> bytes:
    """A whole answer, for those who do not get as far as HTTP."""
    body = json.dumps({"error": why}).encode() + b"\n"
    head = (
        f"HTTP/1.1 {code} {phrase}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
