"""TCP connections of this network namespace, as the kernel tells of them over netlink (NETLINK_SOCK_DIAG). No sockets.

Ports and addresses are in network byte order, the rest in the host's (linux/inet_diag.h).
"""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from anycast.core.values.configuration import Address
from anycast.kernel.netlink_codec import NLM_F_ACK, NLM_F_DUMP, Malformed, Message, attributes, frame

NETLINK_SOCK_DIAG = 4

_BY_FAMILY = 20  # SOCK_DIAG_BY_FAMILY
_DESTROY = 21  # SOCK_DESTROY
_ESTABLISHED = 1 << 1
_INFO = 2  # INET_DIAG_INFO: struct tcp_info
_WITH_INFO = 1 << (_INFO - 1)
_ANY = b"\xff" * 8  # INET_DIAG_NOCOOKIE: whatever socket has these ends
_REQUEST = struct.Struct("=BBBxI")  # family, protocol, extensions, states
_ENDS = struct.Struct("!HH16s16s")
_FOUND = struct.Struct("=BBBB")  # family, state, timer, retransmissions
_ID = _FOUND.size
_INTERFACE = _ID + _ENDS.size
_COOKIE = _INTERFACE + 4
_QUEUES = struct.Struct("=III")  # expires, receive queue, send queue
_REST = _COOKIE + 8
_HEAD = _REST + 20
_ACKED = struct.Struct("=Q")
_ACKED_AT = 120  # tcpi_bytes_acked


class Connection(NamedTuple):
    """Both ends. `interface`: of a link-local address; 0: none. `cookie`: the kernel's own number of this socket."""

    local: Address
    local_port: int
    remote: Address
    remote_port: int
    interface: int
    cookie: bytes


class Sending(NamedTuple):
    """`waiting`: bytes that were written and are not acknowledged; `taken`: bytes that are, since its start."""

    connection: Connection
    waiting: int
    taken: int


def listed(sequence: int, *, family: int, local_port: int = 0, remote_port: int = 0) -> bytes:
    """Asks for all established connections of a family (AF_INET, AF_INET6) with these ports; 0: any."""
    ends = _ENDS.pack(local_port, remote_port, b"", b"") + bytes(4) + _ANY
    return frame(_BY_FAMILY, NLM_F_DUMP, sequence, _head(family) + ends)


def asked(sequence: int, one: Connection) -> bytes:
    """Asks for this one."""
    return frame(_BY_FAMILY, 0, sequence, _head(_family(one)) + _id(one))


def destroyed(sequence: int, one: Connection) -> bytes:
    """Ends this one: its owner gets ECONNABORTED, the other end a RST."""
    return frame(_DESTROY, NLM_F_ACK, sequence, _head(_family(one)) + _id(one))


def parse(data: bytes, message: Message) -> Sending | None:
    """None: it is no longer established (of one in TIME_WAIT the kernel tells nothing more). Raises Malformed."""
    start, end = message.start, message.end
    if end - start < _HEAD:
        raise Malformed(f"a socket of {end - start} bytes")
    family, state, _, _ = _FOUND.unpack_from(data, start)
    if 1 << state != _ESTABLISHED:
        return None
    local_port, remote_port, local, remote = _ENDS.unpack_from(data, start + _ID)
    (interface,) = struct.unpack_from("=I", data, start + _INTERFACE)
    _, _, waiting = _QUEUES.unpack_from(data, start + _REST)
    info = attributes(data, start + _HEAD, end).get(_INFO, b"")
    if len(info) < _ACKED_AT + _ACKED.size:
        raise Malformed(f"tcp_info of {len(info)} bytes")
    cookie = data[start + _COOKIE : start + _REST]
    one = Connection(
        _address(family, local), local_port, _address(family, remote), remote_port, interface, cookie
    )
    return Sending(one, waiting, _ACKED.unpack_from(info, _ACKED_AT)[0])


def _head(family: int) -> bytes:
    return _REQUEST.pack(family, socket.IPPROTO_TCP, _WITH_INFO, _ESTABLISHED)


def _id(one: Connection) -> bytes:
    ends = _ENDS.pack(one.local_port, one.remote_port, one.local.packed, one.remote.packed)
    return ends + struct.pack("=I", one.interface) + one.cookie


def _family(one: Connection) -> int:
    return socket.AF_INET if one.local.version == 4 else socket.AF_INET6


def _address(family: int, packed: bytes) -> Address:
    """Raises Malformed."""
    if family == socket.AF_INET:
        return IPv4Address(packed[:4])
    if family == socket.AF_INET6:
        address = IPv6Address(packed)
        return address.ipv4_mapped or address
    raise Malformed(f"a socket of the family {family}")
