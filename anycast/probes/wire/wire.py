"""The sockets by which packets of our own leave and come back, and whose they are. One for each event loop."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import secrets
import socket
import struct
from collections.abc import AsyncGenerator, Callable, Iterator
from os import close
from typing import Protocol

from anycast.core.health.phase import Fault
from anycast.core.values.configuration import Address, Target
from anycast.probes.finding import UnusableError
from anycast.probes.links import Way, way_to
from anycast.probes.offload import aside
from anycast.probes.sweep.agenda import Agenda
from anycast.probes.sweep.alarm import Alarm
from anycast.probes.wire.packet import ICMP, Error, Parts, Wrapping, error_of, filter_of, parts_of
from anycast.probes.wire.ports import MASK, SIZE, Ports

__all__ = ["Endpoint", "Wire", "holder", "of_loop"]

_MANY = 8  # packets, or starts, that come together
_MOMENT = 0.005  # seconds until many are looked at again
_MOST = 64  # packets of one look: the event loop has its turn
_RECEIVED = 65535  # bytes: the kernel merges segments
_ROOM = 4 << 20  # bytes of a receiver's queue: a thousand answers may come together
FRESH = 60.0  # seconds for which a look at the routes holds, unless a check fails meanwhile
_IDLE = 60.0  # seconds without a connection, after which the receivers are given up
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE, _SO_NO_CHECK = 26, 33, 11
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _IPV6_DONTFRAG, _UDP_NO_CHECK6_TX, _PROBE = 10, 23, 62, 101, 3
_ETHERTYPE = {4: 0x0800, 6: 0x86DD}
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_PORTS = struct.Struct("!HH")
_NOTHING = struct.pack("=HBBI", 0x06, 0, 0, 0)  # a filter that lets nothing through
_libc = ctypes.CDLL(None, use_errno=True)
_FLAGS = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC

NO_RIGHT = "to: vip needs CAP_NET_RAW (AmbientCapabilities=CAP_NET_RAW in the agent's unit)"


class Endpoint(Protocol):
    """Whoever waits for packets."""

    source: bytes  # the address of this node they come to

    def take(self, packet: bytes, parts: Parts) -> None: ...

    def told(self, error: Error) -> None:
        """An ICMP error about a packet of ours, or of another one by the same tunnel if it says no more."""
        ...

    def concerns(self, server: bytes) -> bool:
        """Whether it sends to this real server by a tunnel."""
        ...


class Wire:
    """Use `of_loop`. All methods are to be called inside the event loop."""

    def __init__(self) -> None:
        """Raises OSError."""
        self._loop = asyncio.get_running_loop()
        self.clock = self._loop.time
        self._ports: Ports | None = None
        self._receivers: dict[int, socket.socket] = {}  # by version of IP
        self._senders: dict[tuple[object, ...], socket.socket] = {}
        self._endpoints: dict[tuple[int, int, bytes, int], Endpoint] = {}
        """By our port, the peer's, its address, the protocol."""
        self._ways: dict[tuple[Address, int], tuple[float, Way | None]] = {}
        self._numbers: list[int] = []
        self.sendings: dict[Target, tuple[float, object]] = {}
        """The ways to targets, until when they hold."""
        self._room = bytearray(_RECEIVED)
        self._view = memoryview(self._room)
        self._timers: Agenda[Callable[[], None]] = Agenda()
        self._alarm = Alarm(self._ring, self._timers.soonest)
        self._glance: asyncio.Handle | None = None
        self._resting: asyncio.TimerHandle | None = None
        self._watching: set[socket.socket] = set()
        self._end = self._life()
        with contextlib.suppress(StopIteration):
            self._end.__anext__().send(None)

    async def _life(self) -> AsyncGenerator[None, None]:
        """The event loop ends its asynchronous generators when it ends."""
        try:
            yield
        finally:
            self.close()
            _wires.pop(self._loop, None)

    def way(self, address: Address, version: int) -> Way | None:
        """How the kernel sends to the address, as of some seconds ago. Raises OSError."""
        now = self.clock()
        seen = self._ways.get((address, version))
        if seen is None or now > seen[0]:
            found = way_to(address)
            if len(self._ways) > 2 * len(self._endpoints) + 4096:
                self._ways.clear()
            seen = self._ways[address, version] = now + FRESH, found
        return seen[1]

    def forget(self, target: Target) -> None:
        """Look at the routes again: a check has failed."""
        self.sendings.pop(target, None)
        for version in (4, 6):
            self._ways.pop((target.address, version), None)

    def open(self, port: int, peer: bytes, protocol: int, endpoint: Endpoint) -> int:
        """Take in what comes from the peer's port. Returns our port. Raises OSError, UnusableError."""
        self._receive(4 if len(peer) == 4 else 6)
        if self._ports is None:
            self._ports = Ports()
        place, endpoints = (port, peer, protocol), self._endpoints
        for _ in range(SIZE):
            own = self._ports.next()
            if (own, *place) not in endpoints:
                endpoints[own, *place] = endpoint
                return own
        raise UnusableError(
            f"all {SIZE - 1:,} local ports for to: vip are in use towards port {port} of this VIP: a longer interval, a "
            "shorter timeout, or a check for fewer servers",
            Fault.PORTS,
        )

    def shut(self, own: int, port: int, peer: bytes, protocol: int) -> None:
        self._endpoints.pop((own, port, peer, protocol), None)
        if not self._endpoints and self._resting is None:
            self._resting = self._loop.call_later(_IDLE, self._rest)

    def _rest(self) -> None:
        self._resting = None
        if not self._endpoints:
            self._close_receivers()

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Call it then, or a moment later, together with others. It is not taken back."""
        when += _MOMENT - when % _MOMENT
        self._timers.add(when, call)
        self._alarm.set(when)

    def _ring(self) -> None:
        self.look()
        now = self.clock()
        for _ in range(_MOST):
            call = self._timers.take(now)
            if call is None:
                break
            call()

    def settle(self, started: int) -> None:
        """So much has been sent: see to it that the answers are seen."""
        if self._glance is None:
            self._wait(started)

    def _wait(self, many: int) -> None:
        if not self._endpoints or many >= _MANY:
            for sock in self._watching:
                self._loop.remove_reader(sock)
            self._watching.clear()
            if self._endpoints:
                self._glance = self._loop.call_later(_MOMENT, self._again)
            return
        for sock in self._receivers.values():
            if sock not in self._watching:
                self._watching.add(sock)
                self._loop.add_reader(sock, self._seen)

    def _seen(self) -> None:
        if self._glance is None:
            self._wait(self.look())

    def _again(self) -> None:
        self._glance = None
        self._wait(self.look())

    def look(self) -> int:
        """Take in what has come, but not all of it at once. How many packets that were."""
        taken = 0
        for sock in list(self._receivers.values()):
            receive = sock.recv_into
            for _ in range(_MOST):
                try:
                    size = receive(self._room)
                except OSError:  # nothing there, or told once that an interface went down
                    break
                taken += 1
                self._take(bytes(self._view[:size]))
        return taken

    def _take(self, packet: bytes) -> None:
        parts = parts_of(packet)
        if parts is None or parts.end - parts.at < 8:
            return
        at = parts.at
        port, own = _PORTS.unpack_from(packet, at)
        endpoint = self._endpoints.get((own, port, parts.source, parts.protocol))
        if endpoint is not None:
            if endpoint.source == parts.destination:
                endpoint.take(packet, parts)
        elif parts.protocol == ICMP[packet[0] >> 4] and (error := error_of(packet, parts)) is not None:
            self._tell(error)

    def _tell(self, error: Error) -> None:
        endpoint = self._endpoints.get((*error.ports, error.destination, error.protocol))
        if endpoint is not None:
            endpoint.told(error)
        elif error.server and not error.ports[1]:
            # A router that sends back eight bytes of the outer packet only.
            for one in list(self._endpoints.values()):
                if one.concerns(error.server):
                    one.told(error)

    def _receive(self, version: int) -> None:
        """Raises OSError, UnusableError."""
        if version in self._receivers:
            return
        if self._ports is None:
            self._ports = Ports()
        protocol = _ETHERTYPE[version]
        # Of protocol 0 until it is bound, the socket has seen nothing that the filter would not let through.
        with _right():
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | _FLAGS, 0)
        try:
            _attach(sock, filter_of(version, self._ports.first, MASK))
            try:
                sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)
            except PermissionError:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ROOM)
            _bind(sock, protocol)
        except BaseException:
            sock.close()
            raise
        self._receivers[version] = sock

    def link(self, packet: bytes, interface: str, link_address: bytes) -> None:
        """Send a packet to a host on the link. Raises OSError, UnusableError."""
        sock = self._senders.get(("link",))
        if sock is None:
            with _right():
                sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | _FLAGS, 0)
            self._senders["link",] = sock
        with contextlib.suppress(BlockingIOError):  # lost, as on the way
            sock.sendto(packet, (interface, _ETHERTYPE[packet[0] >> 4], 0, 0, link_address))

    def tunnel(self, version: int, wrapping: Wrapping) -> socket.socket:
        """What sends packets by a tunnel whose outer version of IP this is. Raises OSError, UnusableError."""
        how = (version, wrapping.protocol, wrapping.sums)
        sock = self._senders.get(how)
        if sock is None:
            sock = self._senders[how] = _sender(version, wrapping.protocol, sums=wrapping.sums)
        return sock

    def number(self) -> int:
        """32 bits that nobody can guess. They are asked of the kernel many at a time."""
        if not self._numbers:
            self._numbers = list(struct.unpack("=1024I", secrets.token_bytes(4096)))
        return self._numbers.pop()

    def plain(self, segment: bytes, protocol: int, address: Address, to: str) -> None:
        """Send what follows the IP header to a real server, by no tunnel. Raises OSError, UnusableError."""
        how = ("plain", address.version, protocol)
        sock = self._senders.get(how)
        if sock is None:
            sock = self._senders[how] = _sender(address.version, protocol, sums=True)
        with contextlib.suppress(BlockingIOError):
            sock.sendto(segment, (to, 0))

    def close(self) -> None:
        self._alarm.cancel()
        for handle in (self._glance, self._resting):
            if handle is not None:
                handle.cancel()
        self._glance = self._resting = None
        self._close_receivers()
        for sock in self._senders.values():
            sock.close()
        self._senders.clear()
        if self._ports is not None:
            self._ports.close()
            self._ports = None

    def _close_receivers(self) -> None:
        for sock in self._watching:
            self._loop.remove_reader(sock)
        self._watching.clear()
        for sock in self._receivers.values():
            # It takes the kernel some 20 ms (a grace period of RCU), in which the event loop would stand.
            descriptor = sock.detach()
            aside(lambda descriptor=descriptor: close(descriptor))  # type: ignore[misc]
        self._receivers.clear()


_wires: dict[asyncio.AbstractEventLoop, Wire] = {}


def of_loop() -> Wire:
    """That of the running event loop. It ends with the loop. Raises OSError."""
    loop = asyncio.get_running_loop()
    wire = _wires.get(loop)
    if wire is None:
        wire = _wires[loop] = Wire()
    return wire


@contextlib.contextmanager
def _right() -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise UnusableError(NO_RIGHT, Fault.PERMISSION) from error


def _sender(version: int, protocol: int, *, sums: bool) -> socket.socket:
    """A socket that sends packets of an IP protocol, whatever their size, and takes none."""
    udp = protocol == socket.IPPROTO_UDP
    kind = socket.SOCK_DGRAM if udp else socket.SOCK_RAW
    with _right():
        sock = socket.socket(_FAMILY[version], kind | _FLAGS, 0 if udp else protocol)
    try:
        # Packets of the tunnel's protocol that come to this node are handed to every raw socket of it.
        _attach(sock, _NOTHING)
        # "Do not fragment" in every packet, and none is held back for what a router once said.
        if version == 4:
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PROBE)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PROBE)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_DONTFRAG, 1)
        if udp and not sums:
            if version == 4:
                sock.setsockopt(socket.SOL_SOCKET, _SO_NO_CHECK, 1)
            else:
                sock.setsockopt(socket.IPPROTO_UDP, _UDP_NO_CHECK6_TX, 1)
    except BaseException:
        sock.close()
        raise
    return sock


def _attach(sock: socket.socket, program: bytes) -> None:
    held = ctypes.create_string_buffer(program, len(program))
    what = struct.pack("HP", len(program) // 8, ctypes.addressof(held))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, what)


def _bind(sock: socket.socket, protocol: int) -> None:
    """To a protocol on every interface, for which Python has no address. Raises OSError."""
    address = struct.pack("=HHiHBB8x", socket.AF_PACKET, socket.htons(protocol), 0, 0, 0, 0)
    if _libc.bind(sock.fileno(), address, len(address)):
        code = ctypes.get_errno()
        raise OSError(code, "")


def holder(source: Address, port: int) -> socket.socket:
    """Takes datagrams to the port and throws them away. Without it the kernel answers that the port is unreachable:
    to the VIP, which is here, where IPVS would hand that to a real server. Raises OSError.
    """
    sock = socket.socket(_FAMILY[source.version], socket.SOCK_DGRAM | _FLAGS, 0)
    try:
        _attach(sock, _NOTHING)
        sock.bind((str(source), port))
    except BaseException:
        sock.close()
        raise
    return sock
