"""Whether this node's own link is why a target does not answer: then a failure proves nothing about the target."""

from __future__ import annotations

import fcntl
import socket
import struct
import time
from errno import ENODEV
from ipaddress import IPv4Address, ip_network

from anycast.core.health import Outcome
from anycast.core.model import Address
from anycast.probes.finding import Finding, unknown

__all__ = ["excuse", "fault", "interface_to"]

_FRESH = 0.1  # seconds for which a look at the interfaces holds: thousands of checks may fail together
_RTM_NEWROUTE, _RTM_GETROUTE, _NLM_F_REQUEST = 24, 26, 1
_RTA_DST, _RTA_OIF = 1, 4
_SIOCGIFFLAGS, _SIOCGIFADDR, _SIOCGIFNETMASK = 0x8913, 0x8915, 0x891B
_IFF_UP, _IFF_RUNNING = 0x1, 0x40

_looked_at = -1.0
_dark: frozenset[str] = frozenset()


def excuse(finding: Finding, address: Address) -> Finding:
    """The finding, or `unknown` in place of a failure if the way to `address` leads over a link that is down."""
    if finding.outcome is not Outcome.FAIL:
        return finding
    dark = _dark_interfaces()
    if not dark:
        return finding
    try:
        interface = interface_to(address) or _was_on(address, dark)
    except OSError:
        return finding
    if interface not in dark:
        return finding
    return unknown(f"this node's own interface {interface} is down: {finding.detail}")


def _dark_interfaces() -> frozenset[str]:
    """Interfaces that are down or have no carrier. There is one on many a node: a port nobody uses."""
    global _looked_at, _dark  # noqa: PLW0603 - what was seen last
    now = time.monotonic()
    if not 0 <= now - _looked_at < _FRESH:
        try:
            _dark = frozenset(name for _, name in socket.if_nameindex() if fault(name))
        except OSError:
            return frozenset()
        _looked_at = now
    return _dark


def fault(name: str) -> str | None:
    """What is wrong with an interface of this network namespace; None: nothing. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            answer = fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("=16s24x", name.encode()))
        except OSError as error:
            if error.errno == ENODEV:
                return "is not there"
            raise
    (flags,) = struct.unpack_from("=H", answer, 16)
    if not flags & _IFF_UP:
        return "is set down"
    # Set with a carrier, and on interfaces that know of none: loopback, tunnels.
    return None if flags & _IFF_RUNNING else "has no carrier"


def interface_to(address: Address) -> str | None:
    """The interface the kernel would send by, also without a carrier; None: it has no route. Raises OSError."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    packed = address.packed
    body = struct.pack("=BBBBBBBBI", family, len(packed) * 8, 0, 0, 0, 0, 0, 0, 0)
    body += struct.pack("=HH", 4 + len(packed), _RTA_DST) + packed
    message = struct.pack("=IHHII", 16 + len(body), _RTM_GETROUTE, _NLM_F_REQUEST, 1, 0) + body
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
    ) as sock:
        sock.send(message)
        answer = sock.recv(8192, socket.MSG_DONTWAIT)  # netlink answers within the send
    length, kind = struct.unpack_from("=IH", answer)
    if kind != _RTM_NEWROUTE:
        return None
    place = 16 + 12
    while place + 4 <= min(length, len(answer)):
        size, attribute = struct.unpack_from("=HH", answer, place)
        if attribute == _RTA_OIF and size >= 8:
            return socket.if_indextoname(struct.unpack_from("=I", answer, place + 4)[0])
        place += max(4, size + 3 & ~3)
    return None


def _was_on(address: Address, dark: frozenset[str]) -> str | None:
    """The interface that was set down with the network of `address` on it. Of IPv6 the kernel keeps no trace."""
    if not isinstance(address, IPv4Address):
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        for name in dark:
            try:
                own, mask = (_ioctl(sock, request, name) for request in (_SIOCGIFADDR, _SIOCGIFNETMASK))
            except OSError:
                continue  # it has no address
            if address in ip_network(f"{own}/{mask}", strict=False):
                return name
    return None


def _ioctl(sock: socket.socket, request: int, name: str) -> IPv4Address:
    answer = fcntl.ioctl(sock, request, struct.pack("=16s24x", name.encode()))
    return IPv4Address(answer[20:24])
