"""Whether this node's own link is why a target does not answer: then a failure proves nothing about the target."""

from __future__ import annotations

import fcntl
import socket
import struct
import time
from errno import ENODEV
from ipaddress import IPv4Address, ip_address, ip_network
from typing import NamedTuple

from anycast.core.health.phase import Fault, Outcome
from anycast.core.values.configuration import Address, Target
from anycast.probes.finding import Finding, unknown
from anycast.probes.verdict import tell

__all__ = ["Way", "attributes", "excuse", "excused", "fault", "home", "index_of", "interface_to", "way_to"]

_FRESH = 0.1  # seconds for which a look at the interfaces holds: thousands of checks may fail together
_RTM_NEWROUTE, _RTM_GETROUTE, _NLM_F_REQUEST = 24, 26, 1
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PREFSRC, _RTA_VIA = 1, 4, 5, 7, 18
_RTN_UNICAST, _RTN_LOCAL = 1, 2
_SIOCGIFFLAGS, _SIOCGIFADDR, _SIOCGIFNETMASK, _SIOCGIFINDEX = 0x8913, 0x8915, 0x891B, 0x8933
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
    return unknown(f"this node's own interface {interface} is down: {finding.detail}", Fault.LINK)


def excused(finding: Finding, target: Target) -> Finding:
    """The same. A failure is not taken back for a defect of ours."""
    try:
        return excuse(finding, target.address)
    except Exception as error:  # noqa: BLE001 - see above
        tell(error, target, finding)
        return finding


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


def index_of(name: str) -> int:
    """The number of an interface. Raises OSError with its cause, which `socket.if_nametoindex` does not tell."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        answer = fcntl.ioctl(sock, _SIOCGIFINDEX, struct.pack("=16s24x", name.encode()))
    index: int = struct.unpack_from("=i", answer, 16)[0]
    return index


def interface_to(address: Address) -> str | None:
    """The interface the kernel would send by, also without a carrier; None: it has no route. Raises OSError."""
    way = way_to(address)
    return None if way is None else way.interface


class Way(NamedTuple):
    """How the kernel would send to an address."""

    interface: str
    number: int  # the interface's index
    source: Address | None  # the address of this node it would send from
    gateway: bool  # it is not on the link
    local: bool  # it is this node's own


def way_to(address: Address) -> Way | None:
    """The route to an address; None: there is none. Raises OSError."""
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
    (kind,) = struct.unpack_from("=H", answer, 4)
    if kind != _RTM_NEWROUTE:
        return None
    found = attributes(answer, 16 + 12)
    if answer[16 + 7] not in (_RTN_UNICAST, _RTN_LOCAL) or len(found.get(_RTA_OIF, b"")) != 4:
        return None  # unreachable, prohibited, a black hole
    (index,) = struct.unpack("=I", found[_RTA_OIF])
    source = found.get(_RTA_PREFSRC)
    return Way(
        interface=socket.if_indextoname(index),
        number=index,
        source=ip_address(source) if source is not None else None,
        gateway=_RTA_GATEWAY in found or _RTA_VIA in found,
        local=answer[16 + 7] == _RTN_LOCAL,
    )


def attributes(message: bytes, place: int) -> dict[int, bytes]:
    """The attributes of a netlink message that begin at `place`."""
    (length,) = struct.unpack_from("=I", message)
    found: dict[int, bytes] = {}
    while place + 4 <= min(length, len(message)):
        size, attribute = struct.unpack_from("=HH", message, place)
        found[attribute] = message[place + 4 : place + max(4, size)]
        place += max(4, size + 3 & ~3)
    return found


def home(address: Address) -> str | None:
    """The interface of this node that is down and has the network of `address` on it. Raises OSError."""
    return _was_on(address, _dark_interfaces())


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
