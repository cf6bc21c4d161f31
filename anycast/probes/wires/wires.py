"""Connections that stay open: one to each server and port, however many checks want it.

An epoll of our own, which the event loop watches like any other descriptor; one agenda and one timer for all of them.
At rest nothing runs. However many end in one instant, a turn of the event loop sees to a bounded number of them.
"""

from __future__ import annotations

import asyncio
import math
import random
import resource
import select
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator
from enum import StrEnum
from errno import EINPROGRESS
from itertools import islice
from typing import Generic, TypeVar

from anycast.core.health.phase import Fault, Outcome
from anycast.core.values.checks import SILENT, DnsCheck, IdleCheck, Kind, keepalive
from anycast.core.values.configuration import HERE, Address, Target
from anycast.core.values.persistent import PersistentMap
from anycast.probes import links
from anycast.probes.closes import CLOSED
from anycast.probes.finding import OK, Finding, fail, late
from anycast.probes.sweep.agenda import Agenda
from anycast.probes.sweep.alarm import Alarm
from anycast.probes.sweep.sockets import local_ports, refuse_itself
from anycast.probes.sweep.sweep import TURN, room
from anycast.probes.verdict import judge, judged, tell
from anycast.probes.wires.manner import Manner

__all__ = ["GIVEN_UP", "LEARNED", "LEFT_OPEN", "State", "Tripwire", "Wires", "is_wanted"]

GIVEN_UP, LEARNED = "tripwire.given_up", "tripwire.learned"  # what a log is told

LEFT_OPEN = 0.2  # seconds a server must leave a new connection open; half of a short timeout

_EVENTS = 64  # that are seen to in one turn of the event loop
_SPREAD = 0.1  # of their lives by which they differ
_GRAIN = 0.02  # seconds between two looks at what is due
_PATIENCE = 5.0  # seconds a tripwire has to connect
_SOON = 1.0  # seconds within which those are laid whose servers have just proven well
_EACH = 0.0002  # of them for each there is
_LATE = 1.0  # seconds past a timeout: this process, not the target, was too slow

# What a server sends unasked is read and dropped. Who sends much costs a read of a kilobyte, at least, 16 times a minute.
_READ = 16 * 1024  # bytes until it is left unread for a while
_LEAST = 1024  # bytes that a read counts for
_UNREAD = 60.0  # seconds
_BUFFER = 4096  # bytes that the kernel keeps of what is left unread; it doubles that

_TOLD = 60.0  # seconds between two lines of the log about servers that were learned

_KEEPALIVE = 30  # seconds, of tripwires: that silence means death the check finds out
_TCP_USER_TIMEOUT = 18

_SHARE = 4  # of all tripwires this part is given up when descriptors are short
_FEWEST = 64
_GIVEN_UP_A_TURN = 64
_SHORTAGE = 60.0  # seconds without new ones then, and up to as many more
_LONGEST_SHORTAGE = 600.0

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_TYPE = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_BROKEN = select.EPOLLERR | select.EPOLLHUP
_ENDING = select.EPOLLRDHUP | _BROKEN
_STANDING = select.EPOLLIN | select.EPOLLRDHUP

Owner = TypeVar("Owner")


class State(StrEnum):
    OFF = "off"  # no check has gone well since it ended
    WAITING = "waiting"
    CONNECTING = "connecting"
    STANDING = "standing"
    GIVEN_UP = "given_up"  # the node is short of descriptors


def is_wanted(target: Target) -> bool:
    """Whether there is a connection to be left open for this target."""
    kind = target.check.kind
    if target.address == HERE or target.vip is not None:
        return False
    return isinstance(kind, IdleCheck) or (target.check.tripwire and _connects(kind))


def _connects(kind: Kind) -> bool:
    return kind.CONNECTS and not (isinstance(kind, DnsCheck) and kind.transport != "tcp")


class Tripwire(Generic[Owner]):
    """The connection to one server and port. `owners`: who is told of its end."""

    __slots__ = (
        "address",
        "asked",
        "due",
        "keepalive",
        "manner",
        "owners",
        "paused",
        "port",
        "proofs",
        "read",
        "settled",
        "since",
        "sock",
        "state",
        "tripped",
    )

    def __init__(self, address: Address, port: int) -> None:
        self.address = address
        self.port = port
        self.owners: tuple[Owner, ...] = ()
        self.proofs = 0  # of them, for whom that it stands is the proof
        self.keepalive: float = _KEEPALIVE  # seconds
        self.state = State.OFF
        self.sock: socket.socket | None = None
        self.due = 0.0  # when something is to be done by itself; of one that is off, when it may be laid at the earliest
        self.since = 0.0  # when it was connected
        self.read = 0
        self.paused = False  # what it sends is left unread
        self.settled = False  # the server has left it open for a moment
        self.tripped: float | None = (
            None  # how old the connection was that has ended, until a check has told why
        )
        self.manner: Manner | None = None  # made with the first end
        self.asked: list[tuple[Owner, float, float]] | None = None  # who waits for it, since when, until when

    @property
    def shown(self) -> State:
        """As it is counted: the end of one that the server may still refuse lets nothing run."""
        return State.CONNECTING if self.state is State.STANDING and not self.settled else self.state

    @property
    def place(self) -> str:
        return f"[{self.address}]:{self.port}" if self.address.version == 6 else f"{self.address}:{self.port}"


class Wires(Generic[Owner]):
    """All of them. Inside one event loop.

    `tripped(owner, at_once)`: a connection has ended; without `at_once` it is what this server always does.

    `answered(owner, finding, seconds)`: what came of `ask`.

    `told(event, fields)`: what a log should say, once.
    """

    def __init__(
        self,
        tripped: Callable[[Owner, bool], None],
        answered: Callable[[Owner, Finding, float], None],
        told: Callable[[str, dict[str, object]], None] = lambda *_: None,
    ) -> None:
        self._tripped = tripped
        self._answered = answered
        self._tell = told
        self._loop = asyncio.get_running_loop()
        self._clock = self._loop.time
        self._poller: select.epoll | None = None
        self._most = room(resource.getrlimit(resource.RLIMIT_NOFILE)[0]).wires
        self._wires: dict[tuple[Address, int], Tripwire[Owner]] = {}
        self._live: dict[int, Tripwire[Owner]] = {}  # by descriptor
        self._agenda: Agenda[Tripwire[Owner]] = Agenda()
        self._alarm = Alarm(self._ring, self._next)
        self._rung = -math.inf
        self._short_until = -math.inf
        self._shortage = _SHORTAGE
        self._victims: deque[Tripwire[Owner]] = deque()
        self._giving_up: asyncio.Handle | None = None
        self.counts = dict.fromkeys(State, 0)
        self.ends = {"harmless": 0, "deadly": 0, "usual": 0}  # by what came of them
        self.notes: PersistentMap[str, str] = PersistentMap()  # what is unusual, by address and port
        self._told_of: asyncio.TimerHandle | None = None  # a server was told of just now: others are counted
        self._untold: list[tuple[str, str]] = []

    def join(self, target: Target, owner: Owner) -> Tripwire[Owner]:
        """The connection for a target that wants one. Nothing is opened yet."""
        kind = target.check.kind
        port = getattr(kind, "port", None) or target.port
        wire = self._wires.get((target.address, port))
        if wire is None:
            wire = self._wires[target.address, port] = Tripwire(target.address, port)
            self.counts[State.OFF] += 1
        wire.owners = (*wire.owners, owner)
        if isinstance(kind, IdleCheck):
            wire.proofs += 1
            wire.keepalive = min(wire.keepalive, target.check.interval)
            if wire.sock is not None:
                _keep_alive(wire.sock, wire.keepalive)
        return wire

    def leave(self, wire: Tripwire[Owner], owner: Owner, *, proof: bool) -> None:
        """`proof`: that it stands was the owner's check."""
        self.cancel(wire, owner)
        wire.owners = tuple(one for one in wire.owners if one is not owner)
        wire.proofs -= proof
        if not wire.owners:
            self._drop(wire)
            self.counts[wire.state] -= 1
            del self._wires[wire.address, wire.port]
            self._note(wire, "")

    def cancel(self, wire: Tripwire[Owner], owner: Owner) -> None:
        """The owner waits for no answer any more."""
        if wire.asked:
            wire.asked = [one for one in wire.asked if one[0] is not owner]

    def heard(self, wire: Tripwire[Owner], *, ok: bool) -> None:
        """A run that began after the last end, if there was one, went well or not."""
        now = self._clock()
        age, wire.tripped = wire.tripped, None
        if age is not None and wire.manner is not None:
            self.ends["harmless" if ok else "deadly"] += 1
            if not ok:
                wire.manner.deadly()
                wire.due = now  # nothing is opened before a check goes well
            elif wire.manner.harmless(age, now):
                self._unusual(wire, _described(wire.manner))
        if ok and wire.state is State.OFF:
            spread = min(_SOON, _EACH * len(self._wires))
            at = max(wire.due, now + random.random() * spread)  # noqa: S311 - to spread them
            self._set(wire, State.WAITING)
            self._wait(wire, at)

    def stands(self, wire: Tripwire[Owner]) -> bool:
        return wire.state is State.STANDING and wire.settled and not wire.asked

    def ask(self, wire: Tripwire[Owner], owner: Owner, timeout: float, *, anew: bool) -> Finding | None:
        """Whether it stands. None: it is being made, and `answered` is called. `anew`: one that was there proves nothing."""
        if self.stands(wire) and not anew:
            return OK
        now = self._clock()
        if wire.sock is not None and anew and not wire.asked:
            self._drop(wire)
        wire.asked = [*(wire.asked or ()), (owner, now, now + timeout)]
        if wire.sock is None:
            self._connect(wire)
        elif wire.state is State.CONNECTING and wire.due > now + timeout:
            self._wait(wire, now + timeout)
        return None

    def give_up(self) -> None:
        """Something in this process has found no descriptor: tripwires go before checks."""
        now = self._clock()
        if self._victims:
            return
        again = now < self._short_until + self._shortage
        self._shortage = min(_LONGEST_SHORTAGE, 2 * self._shortage) if again else _SHORTAGE
        self._short_until = now + self._shortage
        most = max(_FEWEST, len(self._live) // _SHARE)
        found = list(islice((wire for wire in self._live.values() if not wire.proofs), most))
        if not found:
            return
        self._tell(GIVEN_UP, {"number": len(found), "seconds": round(self._shortage)})
        self._victims.extend(found)
        self._go_on_giving_up()

    def _go_on_giving_up(self) -> None:
        self._giving_up = None
        for _ in range(min(_GIVEN_UP_A_TURN, len(self._victims))):
            wire = self._victims.popleft()
            if wire.sock is None or wire.proofs:
                continue
            wire.sock.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE
            )  # the port is free at once
            self._drop(wire)
            self._rest(wire)
        if self._victims:
            self._giving_up = self._loop.call_soon(self._go_on_giving_up)

    def _rest(self, wire: Tripwire[Owner]) -> None:
        """Without a descriptor, for the time of the shortage."""
        self._set(wire, State.GIVEN_UP)
        since = max(self._clock(), self._short_until)
        self._wait(wire, since + random.random() * _SHORTAGE)  # noqa: S311 - to spread them

    def close(self) -> None:
        self._alarm.cancel()
        for handle in (self._giving_up, self._told_of):
            if handle is not None:
                handle.cancel()
        self._giving_up = self._told_of = None
        for wire in list(self._live.values()):
            self._drop(wire)
        if self._poller is not None:
            self._loop.remove_reader(self._poller.fileno())
            self._poller.close()
            self._poller = None

    # One connection.

    def _connect(self, wire: Tripwire[Owner]) -> None:
        now = self._clock()
        if not wire.proofs and (now < self._short_until or len(self._live) >= self._most):
            self._rest(wire)
            return
        sock: socket.socket | None = None
        try:
            sock = self._opened(wire)
            code = sock.connect_ex((str(wire.address), wire.port))
            if code not in (0, EINPROGRESS):
                raise OSError(code, "")
            self._watched().register(sock.fileno(), select.EPOLLOUT)
        except OSError as error:
            if sock is not None:
                sock.close()
            self._failed(wire, error)
            return
        wire.sock = sock
        self._live[sock.fileno()] = wire
        self._set(wire, State.CONNECTING)
        deadline = min((until for _, _, until in wire.asked), default=now) if wire.asked else now + _PATIENCE
        self._wait(wire, deadline)

    def _opened(self, wire: Tripwire[Owner]) -> socket.socket:
        sock = socket.socket(socket.AF_INET if wire.address.version == 4 else socket.AF_INET6, _TYPE)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            _keep_alive(sock, wire.keepalive)
        except BaseException:
            sock.close()
            raise
        return sock

    def _watched(self) -> select.epoll:
        if self._poller is None:
            self._poller = select.epoll()
            self._loop.add_reader(self._poller.fileno(), self._look)
        return self._poller

    def _look(self) -> None:
        """A bounded number of events; the event loop comes again for the rest."""
        if self._poller is None:
            return
        for fd, events in self._poller.poll(0, _EVENTS):
            wire = self._live.get(fd)
            if wire is None or wire.sock is None:
                continue
            try:
                self._handle(wire, wire.sock, events)
            except Exception as error:  # noqa: BLE001 - a defect with one must not end the others
                self._broken(wire, error)

    def _broken(self, wire: Tripwire[Owner], error: Exception) -> None:
        """By a defect of ours."""
        finding = judged(error, None, heard=False)
        self._drop(wire)
        self._unmade(wire, finding)

    def _handle(self, wire: Tripwire[Owner], sock: socket.socket, events: int) -> None:
        if wire.state is State.CONNECTING:
            self._connected(wire, sock, events)
        elif events & _ENDING:
            self._ended(wire, sock, events)
        else:
            self._read(wire, sock)

    def _connected(self, wire: Tripwire[Owner], sock: socket.socket, events: int) -> None:
        try:
            if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if events & _BROKEN else 0:
                raise OSError(code, "")
            if wire.port in local_ports():
                refuse_itself(sock)
        except OSError as error:
            self._failed(wire, error)
            return
        now = self._clock()
        self._watched().modify(sock.fileno(), _STANDING)
        wire.since = now
        wire.read, wire.paused = 0, False
        self._set(wire, State.STANDING)
        shortest = min((until - began for _, began, until in wire.asked or ()), default=_PATIENCE)
        self._wait(wire, now + min(LEFT_OPEN, shortest / 2))

    def _live_on(self, wire: Tripwire[Owner], now: float) -> None:
        """It stands: until when."""
        manner, at = wire.manner, math.inf
        if manner is not None:
            at = now + manner.stands(now) * (1 - random.random() * _SPREAD)  # noqa: S311 - to spread them
            self._note(wire, _described(manner))
        self._wait(wire, min(at, self._clock() + _UNREAD) if wire.paused else at)

    def _ended(self, wire: Tripwire[Owner], sock: socket.socket, events: int) -> None:
        now = self._clock()
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if events & _BROKEN else 0
        settled = wire.settled
        self._drop(wire)
        manner = wire.manner = wire.manner or Manner()
        if not settled:
            self._unmade(wire, judge(OSError(code, "")) if code else fail(CLOSED))
            return
        age = now - wire.since
        at_once = manner.ended(age, now)
        wire.due = now + manner.pause * (0.5 + random.random() / 2)  # noqa: S311 - to spread them
        if at_once:
            wire.tripped = age
        else:
            self.ends["usual"] += 1
            if not wire.proofs:
                self._set(wire, State.WAITING)
                self._wait(wire, wire.due)
        for owner in wire.owners:
            self._tripped(owner, at_once)

    def _failed(self, wire: Tripwire[Owner], error: OSError) -> None:
        """There is no connection."""
        self._drop(wire)
        finding = judge(error)
        if finding.fault is not Fault.DESCRIPTORS:
            self._unmade(wire, finding)
            return
        self.give_up()
        wire.due = self._clock()
        if wire.asked:
            self._answer(wire, finding)
        elif wire.proofs:
            self._lost(wire)
        else:
            self._rest(wire)

    def _unmade(self, wire: Tripwire[Owner], finding: Finding) -> None:
        manner = wire.manner = wire.manner or Manner()
        pause = _SHORTAGE
        if finding.fault is None:  # else it is this node's own, and nothing is learned of the server
            manner.refused()
            pause = manner.pause
        wire.due = self._clock() + pause * (0.5 + random.random() / 2)  # noqa: S311 - to spread them
        if wire.asked:
            self._answer(wire, finding)
            return
        if manner.refuses and wire.place not in self.notes:
            self._unusual(wire, f"no tripwire: {finding.detail}")
        self._lost(wire)

    def _lost(self, wire: Tripwire[Owner]) -> None:
        """Nobody has asked, and it is gone: whose proof it was must ask."""
        if wire.proofs:
            for owner in wire.owners:
                self._tripped(owner, True)

    def _answer(self, wire: Tripwire[Owner], finding: Finding) -> None:
        """To all who wait for it."""
        asked, wire.asked = wire.asked or [], None
        self._answer_to(wire, asked, finding)

    def _answer_to(
        self, wire: Tripwire[Owner], asked: list[tuple[Owner, float, float]], finding: Finding
    ) -> None:
        now = self._clock()
        if finding.outcome is Outcome.FAIL:
            try:
                finding = links.excuse(finding, wire.address)
            except Exception as error:  # noqa: BLE001 - a failure is not taken back for a defect of ours
                tell(error, None, finding)
        for owner, began, until in asked:
            self._answered(owner, late(now - until) if now - until > _LATE else finding, now - began)

    def _read(self, wire: Tripwire[Owner], sock: socket.socket) -> None:
        """What it says is of no interest."""
        try:
            data = sock.recv(_READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._ended(wire, sock, select.EPOLLRDHUP)
            return
        wire.read += max(_LEAST, len(data))
        if wire.read >= _READ:
            wire.paused = True
            self._watched().modify(sock.fileno(), select.EPOLLRDHUP)
            self._wait(wire, min(wire.due, self._clock() + _UNREAD))

    def _drop(self, wire: Tripwire[Owner]) -> None:
        """End the connection, if there is one."""
        sock, wire.sock = wire.sock, None
        wire.due = math.inf
        self._set(wire, State.OFF)
        if sock is None:
            return
        del self._live[sock.fileno()]
        # Closing ends the watching only once no child that is being started holds the descriptor too.
        self._watched().unregister(sock.fileno())
        sock.close()

    def _set(self, wire: Tripwire[Owner], state: State, *, settled: bool = False) -> None:
        self.counts[wire.shown] -= 1
        wire.state, wire.settled = state, settled
        self.counts[wire.shown] += 1

    def _unusual(self, wire: Tripwire[Owner], what: str) -> None:
        """It stands in the notes from now on, and the log tells of it."""
        self._note(wire, what)
        self._untold.append((wire.place, what))
        if self._told_of is None:
            self._tell_of_learned()

    def _tell_of_learned(self) -> None:
        """Of all servers that were learned since the last line: there may be thousands of one kind."""
        self._told_of = None
        if not self._untold:
            return
        server, what = self._untold[0]
        self._tell(LEARNED, {"server": server, "detail": what, "more": len(self._untold) - 1})
        self._untold.clear()
        self._told_of = self._loop.call_later(_TOLD, self._tell_of_learned)

    def _note(self, wire: Tripwire[Owner], text: str) -> None:
        if text:
            self.notes = self.notes.updated({wire.place: text})
        elif wire.place in self.notes:
            self.notes = self.notes.updated({}, [wire.place])

    # What is due.

    def _wait(self, wire: Tripwire[Owner], at: float) -> None:
        wire.due = at
        if at == math.inf:
            return
        self._agenda.add(at, wire)
        if at < self._alarm.at:
            self._alarm.renew()

    def _next(self) -> float:
        return max(self._agenda.soonest(), self._rung + _GRAIN)

    def _ring(self) -> None:
        self._look()  # what has happened until now still counts
        self._rung = now = self._clock()
        for wire in self._due(now):
            try:
                self._act(wire, now)
            except Exception as error:  # noqa: BLE001 - as above
                self._broken(wire, error)

    def _due(self, now: float) -> Iterator[Tripwire[Owner]]:
        """For a turn: the rest has the next one."""
        until = now + TURN
        while self._clock() <= until and (first := self._agenda.first()) is not None and first[0] <= now:
            at, wire = first
            self._agenda.take(at)
            if wire.due == at and wire.owners:  # else another instant took its place
                yield wire

    def _act(self, wire: Tripwire[Owner], now: float) -> None:
        match wire.state:
            case State.WAITING | State.GIVEN_UP:
                self._connect(wire)
            case State.CONNECTING:
                self._no_answer(wire, now)
            case State.STANDING if not wire.settled or wire.asked:
                self._set(wire, State.STANDING, settled=True)
                self._live_on(wire, now)
                self._answer(wire, OK)
            case State.STANDING if wire.paused and wire.sock is not None:
                wire.read, wire.paused = 0, False
                self._watched().modify(wire.sock.fileno(), _STANDING)
                self._live_on(wire, wire.since)
            case State.STANDING:
                self._end_of_life(wire)

    def _no_answer(self, wire: Tripwire[Owner], now: float) -> None:
        """To those whose time is over; the others wait on."""
        asked = wire.asked or []
        over = [one for one in asked if one[2] <= now]
        wire.asked = [one for one in asked if one[2] > now] or None
        if wire.asked:
            self._wait(wire, min(until for _, _, until in wire.asked))
        else:
            self._drop(wire)
            self._unmade(wire, fail("no answer"))
        for one in over:
            self._answer_to(wire, [one], fail(f"no answer within {one[2] - one[1]:g} s"))

    def _end_of_life(self, wire: Tripwire[Owner]) -> None:
        """It is renewed before the server ends it, or has lived so long that there is no need to."""
        if wire.manner is None or wire.manner.overlived():
            wire.due = math.inf
            self._note(wire, "")
            return
        self._drop(wire)
        self._connect(wire)


def _described(manner: Manner) -> str:
    """What is unusual about a server; empty: nothing."""
    if not manner.learned:
        return ""
    closes = "it closes connections that say nothing after"
    if manner.hopeless:
        return f"{closes} {manner.usual:.1f} s: no tripwire, tried again every 10 minutes"
    return f"{closes} {manner.usual:.0f} s: the tripwire is renewed before that"


def _keep_alive(sock: socket.socket, interval: float) -> None:
    """A peer that answers nothing ends the connection, and so does one that is gone."""
    seconds, again = keepalive(interval)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, seconds)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, again)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, SILENT)
    sock.setsockopt(socket.IPPROTO_TCP, _TCP_USER_TIMEOUT, (seconds + SILENT * again) * 1000)
