"""The tcp check to the VIP: a handshake with the VIP's address at one real server, as IPVS would send it there.

The address is this node's own too, so that the kernel would answer a connect() by itself. Hence SYN, ACK and RST are
written here and sent by a packet socket to the link address of the real server. What comes back is seen by that
socket before IP drops it (IPv4: its source is an address of ours) or resets it (IPv6: the reset goes to ourselves).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import secrets
import socket
import struct
from collections.abc import Iterator
from os import close

from anycast.core.health.phase import Fault
from anycast.core.values.checks import TcpVipCheck
from anycast.core.values.configuration import Address, Target
from anycast.probes import neighbor
from anycast.probes.closes import CLOSED
from anycast.probes.finding import OK, Finding, Progress, fail, place, unknown, unusable
from anycast.probes.links import Way, home, way_to
from anycast.probes.offload import aside
from anycast.probes.packet import Answer, Flow, ack, answer, ends, filter_of, rst, syn

__all__ = ["check"]

_LOOK_AGAIN = 0.02  # seconds between two looks at what has come
_RESEND = (0.25, 0.5)  # of the timeout: nobody retransmits a SYN of ours
_PROTOCOL = {4: 0x0800, 6: 0x86DD}
_SO_ATTACH_FILTER = 26
_RECEIVED = 2048  # bytes
_USABLE = frozenset({"reachable", "stale", "delay", "probe", "noarp", "permanent"})
_SURE = frozenset({"reachable", "noarp", "permanent"})  # the kernel would not ask again
_RESOLVING = frozenset({"none", "incomplete"})


async def check(kind: TcpVipCheck, target: Target, port: int, progress: Progress) -> Finding:
    """OK if the real server at the target's address takes a connection to its VIP. Raises OSError."""
    address, vip = target.address, target.vip
    if vip is None:
        return unusable("it is aimed at no VIP")
    way = way_to(address)
    if way is None:
        return fail("there is no route to the real server")
    if way.local:
        return unusable("the real server is this node itself (write it without to: vip)")
    if way.gateway:
        if (dark := home(address)) is not None:
            return unknown(f"this node's own interface {dark} is down", Fault.LINK)
        return fail(f"{address} is not on the link: direct routing cannot reach it through a gateway")
    if way.source is None:
        return unusable(f"this node has no address to send from on {way.interface}", Fault.LINK)
    try:
        sock = socket.socket(
            socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0
        )
    except PermissionError:
        return unusable(
            "to: vip needs CAP_NET_RAW (AmbientCapabilities=CAP_NET_RAW in the agent's unit)",
            Fault.PERMISSION,
        )
    with _closing(sock):
        link_address = await _resolved(address, way, progress)
        if link_address is None:
            return fail(f"{address} does not answer on the link {way.interface}: it has no link address")
        with _flow(way.source, vip, port) as flow:
            handshake = _Handshake(sock, way, link_address, flow)
            progress.missing = "answer"
            progress.advice = f": is {vip} on lo of the server?"
            return await handshake.run(target.check.timeout, kind.quiet, address, progress)


@contextlib.contextmanager
def _closing(sock: socket.socket) -> Iterator[None]:
    """Closing a packet socket takes the kernel some 20 ms (a grace period of RCU), in which the event loop would stand."""
    try:
        yield
    finally:
        descriptor = sock.detach()
        aside(lambda: close(descriptor))


async def _resolved(address: Address, way: Way, progress: Progress) -> bytes | None:
    """The link address, asked for by the kernel if need be; None: nobody answers to it."""
    progress.missing, progress.ours = "look at the neighbor table", True
    entry = await neighbor.entry(address, way.number)
    progress.missing, progress.ours = f"link address of {address} on {way.interface}", False
    if entry.state not in _SURE:
        # One that is stale is used, as the kernel does, and has to be confirmed as when packets are sent to it.
        neighbor.provoke(address)
        if entry.state not in _USABLE:
            progress.say("%s is %s in the neighbor table: asking for it", address, entry.state)
            entry = await neighbor.entry(address, way.number)
    while entry.state in _RESOLVING:
        await asyncio.sleep(neighbor.LOOK_AGAIN)
        entry = await neighbor.entry(address, way.number)
    if entry.state not in _USABLE:
        return None
    shown = entry.link_address.hex(":") or "there"
    progress.say("%s is %s on %s (%s)", address, shown, way.interface, entry.state)
    return entry.link_address


@contextlib.contextmanager
def _flow(source: Address, vip: Address, port: int) -> Iterator[Flow]:
    """A flow whose local port is nobody else's for the block. Raises OSError."""
    family = socket.AF_INET if vip.version == 4 else socket.AF_INET6
    # Bound and neither connected nor listening, a socket keeps its port and sees no packet.
    with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as holder:
        holder.bind((str(source), 0))
        own: int = holder.getsockname()[1]
        yield Flow(source=source, source_port=own, address=vip, port=port)


class _Handshake:
    """SYN, its answer, ACK, RST. Without the ACK a server that hangs would never be seen: its accept queue would not fill."""

    def __init__(self, sock: socket.socket, way: Way, link_address: bytes, flow: Flow) -> None:
        self._sock = sock
        self._flow = flow
        self._sequence = secrets.randbits(32)
        protocol = _PROTOCOL[flow.address.version]
        self._to = (way.interface, protocol, 0, 0, link_address)
        # Of protocol 0 until it is bound, the socket has seen nothing that the filter would not let through.
        _attach(sock, filter_of(flow))
        sock.bind((way.interface, protocol))

    async def run(self, timeout: float, quiet: float, address: Address, progress: Progress) -> Finding:  # noqa: ASYNC109
        flow = self._flow
        target = place((flow.address, flow.port))
        loop = asyncio.get_running_loop()

        def again() -> None:
            with contextlib.suppress(OSError):  # that of the receiver is told
                self._send(syn(flow, self._sequence))
                progress.say("SYN sent again")

        self._send(syn(flow, self._sequence))
        progress.say("SYN sent from %s to %s", place((flow.source, flow.source_port)), target)
        timers = [loop.call_later(timeout * share, again) for share in _RESEND]
        found: Answer | None = None
        closed = False
        packet = b""
        try:
            while found is None:
                packet = await loop.sock_recv(self._sock, _RECEIVED)
                progress.heard = True
                found = answer(packet, flow, self._sequence)
                if found is None:
                    await asyncio.sleep(0)  # sock_recv does not suspend while there is something
            progress.say("%s received", found.value)
            for timer in timers:
                timer.cancel()
            if found is Answer.ACCEPTED:
                self._send(ack(flow, self._sequence, packet))
                closed = bool(quiet) and await self._closed_within(quiet)
        finally:
            for timer in timers:
                timer.cancel()
            # Also without an answer: it may have been lost on the way, and then the connection is half open.
            if found is not Answer.REFUSED:
                with contextlib.suppress(OSError):
                    self._send(rst(flow, self._sequence))
        if found is Answer.REFUSED:
            return fail(f"connection refused ({target} at {address})")
        if closed:
            return fail(CLOSED)
        progress.say("ACK and RST sent")
        return OK

    async def _closed_within(self, seconds: float) -> bool:
        """Whether the server's FIN or RST comes in time."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while True:
            while (packet := self._waiting()) is not None:
                if ends(packet, self._flow, self._sequence):
                    return True
                await asyncio.sleep(0)
            if loop.time() >= until:  # only once all that has come was looked at: this process may be late
                return False
            await asyncio.sleep(min(_LOOK_AGAIN, max(0.0, until - loop.time())))

    def _waiting(self) -> bytes | None:
        """A packet that is there already. Raises OSError."""
        try:
            return self._sock.recv(_RECEIVED)
        except BlockingIOError:
            return None

    def _send(self, packet: bytes) -> None:
        self._sock.sendto(packet, self._to)


def _attach(sock: socket.socket, program: bytes) -> None:
    held = ctypes.create_string_buffer(program, len(program))
    what = struct.pack("HP", len(program) // 8, ctypes.addressof(held))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, what)
