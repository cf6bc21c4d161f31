"""By which way packets to a VIP go to one real server: over the link, as with direct routing, or by a tunnel."""

from __future__ import annotations

import asyncio
import fcntl
import math
import socket
import struct
from ipaddress import ip_address
from typing import Protocol, cast

from anycast.core.health.phase import Fault
from anycast.core.values.configuration import Address, Target, Tunnel
from anycast.probes import neighbor
from anycast.probes.finding import PeerError, Progress, UnusableError
from anycast.probes.links import Way, home
from anycast.probes.wire.packet import Ends, wrapping
from anycast.probes.wire.wire import FRESH, Wire

__all__ = ["Link", "Sending", "Tunnelled", "sending"]

_USABLE = frozenset({"reachable", "stale", "delay", "probe", "noarp", "permanent"})
_SURE = frozenset({"reachable", "noarp", "permanent"})  # the kernel would not ask again
_RESOLVING = frozenset({"none", "incomplete"})
_SIOCGIFMTU = 0x8921
_REMEMBERED = 100_000  # targets
_ANYWHERE = {4: ip_address("192.88.99.1"), 6: ip_address("2001:1::1")}
"""A route to the Internet is looked up by it. Nothing is sent there."""


class Sending(Protocol):
    source: Address  # of the packets, an address of this node
    vip: Address
    address: Address  # of the real server
    ends: Ends

    def send(self, packet: bytes) -> None:
        """Raises OSError."""
        ...


class Link:
    """To the link address of the real server."""

    def __init__(self, wire: Wire, address: Address, vip: Address, way: Way, source: Address) -> None:
        self.source, self.vip = source, vip
        self.ends = Ends(source, vip)
        self._wire = wire
        self.address = address
        self._way = way
        self._link_address = b""

    def send(self, packet: bytes) -> None:
        self._wire.link(packet, self._way.interface, self._link_address)

    async def resolve(self, progress: Progress) -> None:
        """Find the link address, asked for by the kernel if need be. Raises OSError, PeerError: nobody answers to it."""
        address, way = self.address, self._way
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
            raise PeerError(f"{address} does not answer on the link {way.interface}: it has no link address")
        shown = entry.link_address.hex(":") or "there"
        progress.say("%s is %s on %s (%s)", address, shown, way.interface, entry.state)
        self._link_address = entry.link_address


class Tunnelled:
    """In packets to the real server, as IPVS wraps them."""

    def __init__(
        self, wire: Wire, ends: tuple[Address, Address], way: Way, to: Address, tunnel: Tunnel
    ) -> None:
        """`ends`: of the packets inside. Raises OSError, UnusableError."""
        self.source, self.vip = ends
        self.address, self.tunnel = to, tunnel
        self._wire = wire
        self._way = way
        self._wrapping = how = wrapping(tunnel, self.vip.version)
        self._to = str(to), how.port
        self._plain = not how.sums or bool(how.port)
        self._sock = wire.tunnel(to.version, how)
        self.ends = Ends(*ends)
        self.carried = -math.inf  # when a packet of the full size came through last
        self.overhead = self._wrapping.overhead(to.version)

    def send(self, packet: bytes) -> None:
        """Raises OSError."""
        try:  # noqa: SIM105 - for each packet of each check
            self._sock.sendto(
                self._wrapping.header + packet if self._plain else self._wrapping.wrapped(packet), self._to
            )
        except BlockingIOError:
            pass  # lost, as on the way

    def ask(self, packet: bytes) -> None:
        """As `send`, but GUE has a checksum: over IPv6 a host with a closed port says nothing to a datagram without one."""
        wrapping = self._wrapping
        if wrapping.port:
            wrapping = wrapping._replace(sums=True)
        self._wire.tunnel(self.address.version, wrapping).sendto(wrapping.wrapped(packet), self._to)

    def outside(self, segment: bytes, protocol: int) -> None:
        """Send to the real server's own address, by no tunnel. Raises OSError."""
        self._wire.plain(segment, protocol, self.address, self._to[0])

    @property
    def largest(self) -> int:
        """Bytes of the largest packet for which the tunnel has room on this node's interface. Raises OSError."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            answer = fcntl.ioctl(sock, _SIOCGIFMTU, struct.pack("=16s24x", self._way.interface.encode()))
        mtu: int = struct.unpack_from("=i", answer, 16)[0]
        return min(mtu, 65535) - self.overhead


def sending(wire: Wire, target: Target) -> Link | Tunnelled:
    """As of some seconds ago. Raises as `_sending`."""
    now = wire.clock()
    known = wire.sendings.get(target)
    if known is not None and now < known[0]:
        return cast(Tunnelled, known[1])
    found = _sending(wire, target)
    if isinstance(found, Tunnelled):
        if len(wire.sendings) > _REMEMBERED:
            wire.sendings.clear()
        wire.sendings[target] = now + FRESH, found
    return found


def _sending(wire: Wire, target: Target) -> Link | Tunnelled:
    """Raises OSError, PeerError: there is no way to the real server, UnusableError: this node is why."""
    address, vip = target.address, target.vip
    if vip is None:
        raise UnusableError("it is aimed at no VIP")
    way = wire.way(address, address.version)
    if way is None:
        raise PeerError("there is no route to the real server")
    if way.local:
        raise UnusableError("the real server is this node itself (write it without to: vip)")
    if target.tunnel is not None:
        out = way if vip.version == address.version else wire.way(_ANYWHERE[vip.version], vip.version)
        if out is None or out.source is None:
            raise UnusableError(f"this node has no IPv{vip.version} address to send from", Fault.LINK)
        return Tunnelled(wire, (out.source, vip), way, address, target.tunnel)
    if way.gateway:
        if (dark := home(address)) is not None:
            raise UnusableError(f"this node's own interface {dark} is down", Fault.LINK)
        raise PeerError(f"{address} is not on the link: direct routing cannot reach it through a gateway")
    if way.source is None:
        raise UnusableError(f"this node has no address to send from on {way.interface}", Fault.LINK)
    return Link(wire, address, vip, way, way.source)
