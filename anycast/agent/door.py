"""Who gets in at a unix socket of the agent: the kernel says whose process it is, and that decides before any work.

Few are let in at once and what comes in a crowd is paced, so that the lease is not late. A process and a user have so
many places each, root has places of its own, and who waits for nothing but its client's next word makes way.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from anycast.sockets import Peer, peer_of

AT_ONCE = 8  # connections that are looked at in one turn of the event loop
PACE = 0.002  # seconds until the next ones, where more are waiting
NO_ROOM = 1.0  # seconds until the next try where the process has no descriptor left
_THROWN_AWAY = (
    64 * 1024
)  # bytes of a request that is refused unread: unread, they would take the answer with them

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Connections at one socket."""

    process: int
    user: int
    others: int  # of all users but root


class Guest:
    """One connection. `waits`: for its client, to speak or to read; who has done so longest makes way first."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.waits = True
        self.since = asyncio.get_running_loop().time()
        self.task: asyncio.Task[None] | None = None

    def rests(self) -> None:
        """All it has asked for is done."""
        self.since = asyncio.get_running_loop().time()

    def end(self) -> None:
        if self.task is not None:
            self.task.cancel()


class Room:
    """The places at one socket."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._guests: set[Guest] = set()

    def admit(self, peer: Peer) -> str:
        """Why there is no place, after one that waits has made way if that helps; empty: there is one."""
        users = Counter(one.peer.uid for one in self._guests)
        own = sum(one.peer.pid == peer.pid for one in self._guests if one.peer.uid == peer.uid)
        if own >= self._limits.process:
            return f"busy: {own} connections of this process ({peer.pid}) are open"
        if users[peer.uid] >= self._limits.user:
            crowd = peer.uid
        elif peer.uid != 0 and users.total() - users[0] >= self._limits.others:
            del users[0]
            crowd = users.most_common(1)[0][0]
        else:
            return ""
        waiting = [one for one in self._guests if one.waits and one.peer.uid == crowd]
        if not waiting:
            whose = f"connections of uid {crowd}" if crowd == peer.uid else "connections"
            number = users[crowd] if crowd == peer.uid else users.total()
            return f"busy: {number} {whose} are open, and all are being answered"
        longest = min(waiting, key=lambda one: one.since)
        self.leave(longest)
        longest.end()
        return ""

    def enter(self, guest: Guest) -> None:
        self._guests.add(guest)

    def leave(self, guest: Guest) -> None:
        self._guests.discard(guest)

    def __len__(self) -> int:
        return len(self._guests)


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter, Guest], Awaitable[None]]


class Door:
    """Accepts at one socket after the other.

    `serve` has the connection until it returns. `refusal` says why somebody must not enter at all, `farewell` what is
    said to who gets no place; both are called for each connection, and must be quick.
    """

    def __init__(
        self,
        limits: Limits,
        serve: Serve,
        *,
        farewell: Callable[[str], bytes],
        refusal: Callable[[Peer], str] = lambda _: "",
        buffer: int = 64 * 1024,
    ) -> None:
        self._serve = serve
        self._farewell = farewell
        self._refusal = refusal
        self._buffer = buffer
        self._listener: socket.socket | None = None
        self._later: asyncio.TimerHandle | None = None
        self.room = Room(limits)
        self.serving: set[asyncio.Task[None]] = set()

    def listen(self, listener: socket.socket) -> None:
        """Accept on `listener`, which does not block, instead of the one before; connections that stand stay."""
        self.leave()
        self._listener = listener
        self._watch()

    def leave(self) -> None:
        if self._later is not None:
            self._later.cancel()
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
        self._later = self._listener = None

    def _watch(self) -> None:
        self._later = None
        if self._listener is not None:
            asyncio.get_running_loop().add_reader(self._listener, self._look)

    def _look(self) -> None:
        listener, pause = self._listener, PACE
        if listener is None:
            return
        for _ in range(AT_ONCE):
            try:
                connection, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                log.error("socket.unavailable", where="accept", error=str(error))
                pause = NO_ROOM
                break
            self._take(connection)
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener)
        self._later = loop.call_later(pause, self._watch)

    def _take(self, connection: socket.socket) -> None:
        peer = peer_of(connection)
        if why := self._refusal(peer) or self.room.admit(peer):
            _dismiss(connection, self._farewell(why))
            return
        connection.setblocking(False)
        guest = Guest(peer)
        self.room.enter(guest)
        guest.task = asyncio.get_running_loop().create_task(self._host(connection, guest))
        self.serving.add(guest.task)
        guest.task.add_done_callback(lambda done: self._gone(done, connection, guest))

    async def _host(self, connection: socket.socket, guest: Guest) -> None:
        reader, writer = await asyncio.open_connection(sock=connection, limit=self._buffer)
        await self._serve(reader, writer, guest)

    def _gone(self, task: asyncio.Task[None], connection: socket.socket, guest: Guest) -> None:
        self.serving.discard(task)
        self.room.leave(guest)
        if task.cancelled():
            connection.close()  # it had to make way before it was begun
        elif (error := task.exception()) is not None:
            log.error("agent.task_failed", exc_info=error)


def _dismiss(connection: socket.socket, words: bytes) -> None:
    """Say so and hang up, without waiting for anything."""
    with connection, contextlib.suppress(OSError):
        connection.setblocking(False)
        if words:
            connection.send(words)
        connection.recv(_THROWN_AWAY)
