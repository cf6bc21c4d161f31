"""Who gets in at a unix socket of the agent: the kernel says whose process it is, and that decides before any work.

Few are looked at in one turn of the event loop, so that the lease is not late. Who gets no place is told so in its turn,
some hundred in a second: it costs more than to let somebody in, and who waits for it does not come again meanwhile. So a
crowd does not stand between the door and an operator. A process and a user have so many places each, root has places of its own, and the process that has most makes way for one that has fewer.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog

from anycast.sockets import Peer, peer_of

AT_ONCE = 32  # connections that are looked at in one turn of the event loop
FAREWELL = 0.002  # seconds from one who is sent away to the next
WAITING = 1024  # who wait for that, at most; the door is closed while there are so many
HEARD = 0.25  # seconds in which who has just come can say what it wants
PACE = 0.002  # seconds until the next ones, where more are waiting
NO_ROOM = 1.0  # seconds until the next try where the process has no descriptor left
_THROWN_AWAY = (
    64 * 1024
)  # bytes of a request that is refused unread: unread, they would take the answer with them

T = TypeVar("T")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Connections at one socket."""

    process: int
    user: int
    others: int  # of all users but root


class Guest:
    """One connection. `waits`: for its client, to speak or to read; who has done so longest makes way first.

    `is_commanding`: what it has asked for is being carried out, and it does not make way.
    """

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.waits = True
        self.is_commanding = False
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
        self._processes = Counter[Peer]()
        self._users = Counter[int]()

    def admit(self, peer: Peer) -> str:
        """Why there is no place, after one has made way if that helps; empty: there is one."""
        users, own = self._users, self._processes[peer]
        if own >= self._limits.process:
            return f"busy: {own} connections of this process ({peer.pid}) are open"
        if users[peer.uid] >= self._limits.user:
            crowd = peer.uid
        elif peer.uid != 0 and users.total() - users[0] >= self._limits.others:
            crowd = max((uid for uid in users if uid != 0), key=users.__getitem__)
        else:
            return ""
        guest = self._makes_way(crowd, own)
        if guest is None:
            return f"busy: {users[crowd]} connections of uid {crowd} are open"
        self.leave(guest)
        guest.end()
        return ""

    def _makes_way(self, crowd: int, own: int) -> Guest | None:
        """Of a user: one of the process with the most connections, where that has two more than the `own` of who comes;
        else one that has waited long enough to have been heard, of a process that has no fewer.
        """
        guests = [one for one in self._guests if one.peer.uid == crowd]
        most = max((one.peer for one in guests), key=self._processes.__getitem__)
        if self._processes[most] >= own + 2:
            some = [one for one in guests if one.peer == most and not one.is_commanding]
        else:
            latest = asyncio.get_running_loop().time() - HEARD
            fair = [one for one in guests if self._processes[one.peer] >= own]
            some = [one for one in fair if one.waits and one.since <= latest]
        return min(some, key=lambda one: (not one.waits, one.since), default=None)

    def enter(self, guest: Guest) -> None:
        self._guests.add(guest)
        self._processes[guest.peer] += 1
        self._users[guest.peer.uid] += 1

    def leave(self, guest: Guest) -> None:
        if guest not in self._guests:
            return
        self._guests.remove(guest)
        _one_less(self._processes, guest.peer)
        _one_less(self._users, guest.peer.uid)

    def __len__(self) -> int:
        return len(self._guests)


def _one_less(counter: Counter[T], key: T) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]


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
        self._sent_away: deque[tuple[socket.socket, bytes]] = deque()
        self._sending: asyncio.Handle | None = None
        self.room = Room(limits)
        self.serving: set[asyncio.Task[None]] = set()

    def listen(self, listener: socket.socket) -> None:
        """Accept on `listener` instead of the one before; connections that stand stay."""
        self._unlisten()
        # Whoever was there when the loop looked may have gone: the lease must not wait for the next.
        listener.setblocking(False)
        self._listener = listener
        self._watch()

    def leave(self) -> None:
        self._unlisten()
        if self._sending is not None:
            self._sending.cancel()
        while self._sent_away:
            _dismiss(*self._sent_away.popleft())

    def _unlisten(self) -> None:
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
            if len(self._sent_away) >= WAITING:
                break
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
            self._sent_away.append((connection, self._farewell(why)))
            if self._sending is None:
                self._sending = asyncio.get_running_loop().call_soon(self._send_away)
            return
        connection.setblocking(False)
        guest = Guest(peer)
        self.room.enter(guest)
        guest.task = asyncio.get_running_loop().create_task(self._host(connection, guest))
        self.serving.add(guest.task)
        guest.task.add_done_callback(lambda done: self._gone(done, connection, guest))

    def _send_away(self) -> None:
        self._sending = None
        if self._sent_away:
            _dismiss(*self._sent_away.popleft())
        if self._sent_away:
            self._sending = asyncio.get_running_loop().call_later(FAREWELL, self._send_away)

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
