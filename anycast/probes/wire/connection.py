"""TCP by hand: what a check needs of it, in front of a real server that may do anything.

No congestion control, no window scaling, no segment out of order is kept: a check sends little and reads a bounded
amount. What is lost is sent again twice within a check's timeout.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import select
import socket
from collections.abc import Callable
from errno import ECONNREFUSED, ECONNRESET, EHOSTUNREACH
from ipaddress import ip_address
from typing import TypeAlias

from anycast.core.values.configuration import Address, Target
from anycast.probes.finding import PeerError, Progress, place
from anycast.probes.wire import packet as of
from anycast.probes.wire.packet import Ends, Error, Parts
from anycast.probes.wire.sending import Link, Tunnelled, sending
from anycast.probes.wire.wire import Wire

__all__ = ["Connection", "Sock", "what_failed"]

_RESEND = (0.25, 0.5)  # of the timeout
_ASK = 0.5  # of the timeout: then it is found out why nothing comes
_FLIGHT = 10  # segments that are sent before one is acknowledged
_MOST = 0xFFFFFFFF
_SENT = 0xFFFF  # numbers before the next one, of which packets may be under way
_PROVEN = 10.0  # seconds for which a packet of the full size need not be sent again
# In the place of descriptors. An attribute of the class, counted down, would cost as much as all the rest: to set one
# makes the interpreter forget what it knows of the class.
_numbers = itertools.count(-2, -1)
_NAMES = {"protocol": "protocol unreachable", "port": "port unreachable"}


class Connection:
    """A connection to the VIP at one real server. `notify` is told epoll's events, as of a socket that is watched by edges."""

    __slots__ = (
        "_accepted",
        "_acknowledged",
        "_address",
        "_connected",
        "_crowded",
        "_ended",
        "_ends",
        "_error",
        "_greeted",
        "_inbox",
        "_inside",
        "_is_timed",
        "_mss",
        "_next",
        "_notify",
        "_number",
        "_open",
        "_outside",
        "_owed",
        "_port",
        "_progress",
        "_quiet",
        "_resend_at",
        "_resends",
        "_size",
        "_target",
        "_task",
        "_theirs",
        "_timeout",
        "_unsure",
        "_vip",
        "_wants_size",
        "_way",
        "_window",
        "_wire",
        "own",
        "source",
    )

    def __init__(
        self,
        wire: Wire,
        target: Target,
        port: int,
        notify: Callable[[Connection, int], None],
        progress: Progress,
    ) -> None:
        """Begins it. `progress`: of this connection alone until it is there. Raises OSError, PeerError, UnusableError."""
        self._wire = wire
        self._way = sending(wire, target)
        self._vip = vip = self._way.vip
        self._port = port
        self._target = target
        self._address = target.address
        self._timeout = target.check.timeout
        self._wants_size = target.check.full_size
        self._notify = notify
        self._progress = progress
        self._ends = self._way.ends
        self.source = self._ends.source
        self._number = next(_numbers)
        self._error: Exception | None = None
        self._open = True
        self._connected = False  # as far as the owner was told
        self._accepted = False  # the SYN-ACK has come
        self._owed = False  # an ACK
        self._greeted = False  # there was an ACK
        self._next = self._acknowledged = wire.number()  # of ours
        self._theirs = 0  # the number that is expected
        self._window = 0
        self._crowded = False  # the owner has more to send than there was room for
        self._mss = of.MSS[vip.version]
        self._unsure: list[tuple[int, int, bytes]] = []  # sent, not acknowledged: number, flags, payload
        self._resends = 0
        self._resend_at = 0.0
        self._is_timed = False
        self._inbox = bytearray()
        self._ended = False  # by the peer
        self._quiet = False  # we have ended our side
        self._size = 0  # of the full packet that is waited for
        self._inside: _Knock | None = None
        self._outside: _Knock | None = None
        self._task: asyncio.Task[None] | None = None
        self.own = wire.open(port, self._ends.destination, of.TCP, self)
        try:
            if isinstance(self._way, Link):
                self._task = asyncio.get_running_loop().create_task(self._resolve(self._way))
            else:
                self._begin()
        except BaseException:
            self._open = False
            self._forget()
            raise

    # As a socket has them.

    def fileno(self) -> int:
        return self._number

    def getsockname(self) -> tuple[str, int]:
        return str(self._way.source), self.own

    def getpeername(self) -> tuple[str, int]:
        return str(self._vip), self._port

    def getsockopt(self, _level: int, _option: int) -> int:
        """SO_ERROR, whatever is asked for. Raises what the connection has failed with."""
        if self._error is not None:
            raise self._error
        return 0

    def recv(self, size: int) -> bytes:
        """Raises BlockingIOError: there is nothing, and what the connection has failed with."""
        if self._inbox:
            data = bytes(self._inbox[:size])
            del self._inbox[:size]
            return data
        if self._error is not None:
            raise self._error
        if self._ended:
            return b""
        raise BlockingIOError

    def send(self, data: bytes) -> int:
        """How many bytes were taken. Raises BlockingIOError: none now, and what the connection has failed with."""
        if self._error is not None:
            raise self._error
        sent = 0
        while sent < len(data) and self._has_room:
            some = data[sent : sent + min(self._mss, self._room)]
            self._put(of.ACK | of.PUSH, some)
            sent += len(some)
        self._crowded = sent < len(data)
        if not sent:
            raise BlockingIOError
        return sent

    def finish(self) -> None:
        """Nothing more is sent. Reading goes on."""
        if not self._quiet and self._error is None:
            self._quiet = True
            self._put(of.ACK | of.FIN, b"")

    def close(self) -> None:
        """Ends it, by RST as far as the peer may know of it."""
        if not self._open:
            return
        self._open = False
        if not self._connected:
            self._wire.forget(self._target)
        if self._accepted and not self._greeted:
            # Without it a server that hangs would never be seen: its accept queue would not fill.
            self._acknowledge()
        # Also without an answer: it may have been lost on the way, and then the connection is half open.
        if self._error is None and self._task is None:
            self._say_quietly(of.RST | (of.ACK if self._accepted else 0))
            if self._accepted:
                self._progress.say("ACK and RST sent")
        self._forget()

    def _forget(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._wire.shut(self.own, self._port, self._ends.destination, of.TCP)
        for knock in (self._inside, self._outside):
            if knock is not None:
                knock.close()

    # The way there.

    async def _resolve(self, link: Link) -> None:
        progress = self._progress
        try:
            await link.resolve(progress)
            progress.missing = "answer"
            self._task = None
            self._begin()
            self._wire.settle(1)
        except Exception as error:  # noqa: BLE001 - the owner is told, and judges it
            self._task = None
            self._fail(error)

    def _begin(self) -> None:
        progress = self._progress
        progress.missing = "answer"
        if isinstance(self._way, Link):
            progress.advice = f": is {self._vip} on lo of the server?"
        self._put(of.SYN, b"")
        if progress.tell is not None:
            progress.say("SYN sent from %s to %s", place(self.getsockname()), place(self.getpeername()))

    @property
    def lacking(self) -> tuple[str, str, bool]:
        """What is missing until it is connected, what is said after it, and whether this node itself owes it."""
        return self._progress.missing, self._progress.advice, self._progress.ours

    @property
    def connected(self) -> bool:
        return self._connected

    def _put(self, flags: int, payload: bytes) -> None:
        """Send what takes up numbers, and see to it that it arrives. Raises OSError."""
        number = self._next
        self._next = (number + len(payload) + (1 if flags & (of.SYN | of.FIN) else 0)) & _MOST
        first = not self._unsure
        self._unsure.append((number, flags, payload))
        if first:
            self._resends = 0
            self._later()
        self._segment(number, flags, payload)

    def _segment(self, number: int, flags: int, payload: bytes = b"") -> None:
        if flags & of.ACK:
            self._owed, self._greeted = False, True
        options = of.mss_option(self._ends.version) if flags & of.SYN else b""
        ports, numbers = (self.own, self._port), (number, self._theirs if flags & of.ACK else 0)
        self._way.send(self._ends.tcp(ports, numbers, flags, payload, options))

    def _acknowledge(self) -> None:
        self._say_quietly(of.ACK)

    def _say_quietly(self, flags: int) -> None:
        try:  # noqa: SIM105 - for each check
            self._segment(self._next, flags)
        except OSError:
            pass  # whoever waits for something is told

    def _later(self) -> None:
        share = _RESEND[self._resends] - (_RESEND[self._resends - 1] if self._resends else 0.0)
        self._resend_at = self._wire.clock() + self._timeout * share
        self._time()

    def _time(self) -> None:
        # One timer at a time: nearly all that is sent is acknowledged by then.
        if not self._is_timed:
            self._is_timed = True
            self._wire.at(self._resend_at, self._resend)

    def _resend(self) -> None:
        """What is not acknowledged, if it is time for that."""
        self._is_timed = False
        if not self._open or self._error is not None or not self._unsure:
            return
        if self._wire.clock() < self._resend_at:
            self._time()
            return
        try:
            for number, flags, payload in self._unsure:
                self._segment(number, flags, payload)
                if flags & of.SYN:
                    self._progress.say("SYN sent again")
            self._resends += 1
            if self._resends < len(_RESEND):
                self._later()
            elif not self._accepted and isinstance(self._way, Tunnelled):
                self._find_out(self._way)
        except OSError as error:
            self._fail(error)

    # What comes back.

    def take(self, packet: bytes, parts: Parts) -> None:
        found = of.segment_of(packet, parts.at, parts.end)
        if found is None or self._error is not None:
            return
        number, acknowledged, flags, window, options, payload = found
        if not self._accepted:
            if flags & of.ACK and acknowledged == self._next:
                self._answered(number, flags, window, options)
            elif flags & of.ACK and not flags & of.RST:
                self._reset_old(acknowledged)
            return
        if flags & of.RST:
            # One of a socket that has seen our ACK has no number of ours to acknowledge.
            if (number - self._theirs) & _MOST < 0x10000:
                self._progress.say("RST received")
                self._fail(ConnectionResetError(ECONNRESET, ""))
            return
        if flags & of.SYN:
            self._owed = True
        elif flags & of.ACK:
            self._credit(acknowledged, window)
        events = self._data(number, flags, payload)
        if self._crowded and self._has_room:
            self._crowded = False
            events |= select.EPOLLOUT
        if self._size and not events and flags & of.ACK and not payload:
            self._carried()
        elif events:
            if not self._size or self._ended:
                self._connected = True
            if self._connected:
                self._notify(self, events | select.EPOLLOUT)  # as an edge of epoll's says
        if self._owed and self._open:
            self._acknowledge()

    def _reset_old(self, number: int) -> None:
        """The server has a connection from before by our port, whose end was lost: without this it takes no new one."""
        self._progress.say("answer within an older connection: RST sent")
        with contextlib.suppress(OSError):
            self._way.send(self._ends.tcp((self.own, self._port), (number, 0), of.RST))

    def _answered(self, number: int, flags: int, window: int, options: bytes) -> None:
        if flags & of.RST:
            self._progress.say("RST received")
            where = place(self.getpeername())
            self._fail(PeerError(f"connection refused ({where} at {self._address})"))
            return
        if not flags & of.SYN:
            return
        self._progress.say("SYN-ACK received")
        self._progress.heard = True
        self._accepted = self._owed = True
        self._theirs = (number + 1) & _MOST
        self._acknowledged, self._window = self._next, window
        self._unsure.clear()
        self._mss = min(self._mss, of.mss_of(options, self._ends.version))
        self._progress.advice = ""
        if self._wants_size and isinstance(self._way, Tunnelled) and self._is_due(self._way):
            self._fill(self._way)
            return
        self._connect()

    def _connect(self) -> None:
        self._connected = True
        events = select.EPOLLOUT
        if self._inbox:
            events |= select.EPOLLIN
        self._notify(self, events)
        if self._owed and self._open:
            self._acknowledge()

    def _credit(self, acknowledged: int, window: int) -> None:
        self._window = window
        if not 0 < (acknowledged - self._acknowledged) & _MOST <= (self._next - self._acknowledged) & _MOST:
            return
        self._acknowledged = acknowledged
        while self._unsure:
            number, flags, payload = self._unsure[0]
            end = number + len(payload) + (1 if flags & of.FIN else 0)
            if (end - acknowledged) & _MOST and (end - acknowledged) & _MOST < 0x80000000:
                break
            del self._unsure[0]
        if self._unsure:
            self._resends = 0
            self._later()

    @property
    def _room(self) -> int:
        """Bytes that the peer takes now."""
        return self._window - ((self._next - self._acknowledged) & _MOST)

    @property
    def _has_room(self) -> bool:
        return len(self._unsure) < _FLIGHT and self._room > 0

    def _data(self, number: int, flags: int, payload: bytes) -> int:
        """Take in what is new of a segment. The events that follow."""
        events = 0
        old = (self._theirs - number) & _MOST
        if payload or flags & of.FIN:
            self._owed = True
        elif old == 1:
            self._owed = True  # a keepalive
        if old >= 0x80000000 or self._ended:
            return 0  # it was not its turn: it comes again
        if payload[old:]:
            self._inbox += payload[old:]
            self._theirs = (self._theirs + len(payload) - old) & _MOST
            events = select.EPOLLIN
        if flags & of.FIN and old <= len(payload):
            self._theirs = (self._theirs + 1) & _MOST
            self._ended = True
            events |= select.EPOLLIN | select.EPOLLRDHUP
        return events

    # A packet of the full size.

    def _is_due(self, way: Tunnelled) -> bool:
        return self._wire.clock() >= way.carried + _PROVEN

    def _fill(self, way: Tunnelled) -> None:
        """Send numbers from before the connection's first one, as a keepalive does: TCP acknowledges that it has them."""
        try:
            head = 40 if self._ends.version == 4 else 60
            size = min(self._mss + head, way.largest) - head
            if size <= 0:
                raise PeerError(f"the MTU towards {way.address} has no room for the tunnel")
            self._size = size + head
            self._acknowledge()
            self._progress.missing = (
                f"answer to a packet of {self._size} bytes, {self._size + way.overhead} in the tunnel,"
            )
            self._progress.advice = f": a small one passes, so the path to {way.address} is too narrow"
            self._progress.say("sending a packet of %d bytes", self._size)
            self._fill_again(size)
            self._wire.at(self._wire.clock() + self._timeout * _RESEND[0], lambda: self._fill_again(size))
        except (OSError, PeerError) as error:
            self._fail(error)

    def _fill_again(self, size: int) -> None:
        if self._size and self._open and self._error is None:
            self._segment((self._next - size) & _MOST, of.ACK, bytes(size))

    def _carried(self) -> None:
        way = self._way
        self._progress.say("a packet of %d bytes came through", self._size)
        self._size = 0
        self._progress.missing = "answer"
        self._progress.advice = ""
        if isinstance(way, Tunnelled):
            way.carried = self._wire.clock()
        self._connect()

    # Why nothing comes.

    def _find_out(self, way: Tunnelled) -> None:
        """Two more questions to the server's own address, one by the tunnel: whatever answers them tells them apart."""
        self._progress.missing = "answer"
        self._progress.advice = f" from {self._vip} by {way.tunnel.type} to {way.address}: is it there, does it unwrap, is the VIP on lo?"
        outer = self._vip if self._vip.version == way.address.version else None
        self._outside = _Knock(self, way, self._port, inside=False)
        if outer is not None:
            self._inside = _Knock(self, way, self._port, inside=True)
        self._progress.say("asking %s itself, by the tunnel and outside of it", way.address)

    def knocked(self) -> None:
        """One of the two questions was answered."""
        way = self._way
        if not isinstance(way, Tunnelled) or self._accepted:
            return
        if self._inside is not None and self._inside.answered:
            self._progress.advice = f": {way.address} unwraps {way.tunnel.type} and answers by its own address: is {self._vip} on lo there?"
        else:
            self._progress.advice = (
                f": {way.address} answers, but not to what comes by {way.tunnel.type}: does it drop that, by rp_filter 1 on "
                "the tunnel's interface or on all, or by a firewall?"
            )

    def told(self, error: Error) -> None:
        # Anybody can send an error, and there are few ports to try: one that quotes what was never sent is no error.
        if error.number is None or (self._next - error.number) & _MOST <= _SENT:
            self.heard_of(error)

    def heard_of(self, error: Error) -> None:
        """An error about a packet that was sent."""
        if not self._open or self._error is not None:
            return
        self._progress.say("ICMP: %s, says %s", _NAMES.get(error.kind, error.kind), ip_address(error.by))
        failure = what_failed(error, self._way, self._vip, self._size)
        if failure is not None:
            self._fail(failure)

    def concerns(self, server: bytes) -> bool:
        return isinstance(self._way, Tunnelled) and self._address.packed == server

    def _fail(self, error: Exception) -> None:
        self._error = error
        self._notify(self, select.EPOLLERR | select.EPOLLHUP | select.EPOLLIN)


def what_failed(error: Error, way: Link | Tunnelled, vip: Address, size: int = 0) -> Exception | None:
    """What an ICMP error says of the way; None: nothing that ends a check. `size`: of a large packet that is under way."""
    if error.kind == "size":
        if not size or not isinstance(way, Tunnelled):
            return None
        whole = size + way.overhead
        return PeerError(
            f"a packet of {size} bytes, {whole} in the tunnel, does not get through to {way.address}: "
            f"{ip_address(error.by)} has an MTU of {error.mtu}"
        )
    if error.server and isinstance(way, Tunnelled):
        if error.kind in _NAMES and error.by == way.address.packed:
            where = f" at port {way.tunnel.port}" if way.tunnel.port else ""
            return PeerError(
                f"{way.address} does not unwrap {way.tunnel.type}{where} ({_NAMES[error.kind]}): is its tunnel interface up?"
            )
        return PeerError(f"{way.address} is unreachable, says {ip_address(error.by)}")
    if error.kind == "hops":
        return PeerError(f"the server sends what is for {vip} on to others: is {vip} on lo there?")
    if error.kind == "port":
        return ConnectionRefusedError(ECONNREFUSED, "")
    if error.by == way.address.packed:
        return PeerError(f"the server has no way to {vip}: is {vip} on lo of the server?")
    return OSError(EHOSTUNREACH, "")


Sock: TypeAlias = socket.socket | Connection
"""Of the kernel's, or of ours."""


class _Knock:
    """A SYN to a real server's own address. Whatever answers it, the kernel resets."""

    def __init__(self, owner: Connection, way: Tunnelled, port: int, *, inside: bool) -> None:
        """Raises OSError."""
        self._owner = owner
        self.answered = False
        wire = owner._wire  # noqa: SLF001 - a part of it
        self._wire = wire
        inner = wire.way(way.address, way.address.version)
        source = way.source if inner is None or inner.source is None else inner.source
        ends = Ends(source, way.address)
        self.source = ends.source
        self._key = port, ends.destination
        self._number = wire.number()
        self._own = wire.open(port, ends.destination, of.TCP, self)
        what = ((self._own, port), (self._number, 0), of.SYN, b"", of.mss_option(ends.version))
        try:
            if inside:
                way.ask(ends.tcp(*what))
            else:
                way.outside(ends.segment(*what), of.TCP)
        except BaseException:
            self.close()
            raise

    def take(self, packet: bytes, parts: Parts) -> None:
        found = of.segment_of(packet, parts.at, parts.end)
        if found is not None and found.acknowledged == (self._number + 1) & _MOST:
            self.answered = True
            self._owner.knocked()

    def told(self, error: Error) -> None:
        if error.server and error.number in (None, self._number):
            self._owner.heard_of(error)

    def concerns(self, server: bytes) -> bool:  # noqa: ARG002 - it waits for no more than an answer
        return False

    def close(self) -> None:
        port, peer = self._key
        self._wire.shut(self._own, port, peer, of.TCP)
