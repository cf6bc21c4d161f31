"""Unreachable routes of the main table, for wide prefixes of VIPs: reading ours, making and removing them.

A route has no owner, but the number of the protocol that made it: this one says that it is ours. The metric is so high that
any other route of the same prefix goes before it, and the local route of each VIP is more specific.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Sequence
from ipaddress import ip_network

from anycast.core.values.route import Prefix
from anycast.core.values.table import DISCARD_METRIC, DISCARD_PROTOCOL
from anycast.kernel.netlink import Netlink, RefusedError
from anycast.kernel.netlink_codec import (
    NLM_F_ACK,
    NLM_F_DUMP,
    Malformed,
    Message,
    attribute,
    attributes,
    frame,
)

_NEW_ROUTE, _DELETE_ROUTE, _GET_ROUTE = 24, 25, 26
_NLM_F_EXCL, _NLM_F_CREATE = 0x200, 0x400
_RTMSG = struct.Struct("=BBBBBBBBI")  # family, lengths, type of service, table, protocol, scope, type, flags
_DESTINATION, _PRIORITY, _TABLE = 1, 6, 15
_MAIN, _UNREACHABLE, _ANY_SCOPE = 254, 7, 255
_FAMILIES = (int(socket.AF_INET), int(socket.AF_INET6))
_NO_IPV6 = frozenset({errno.EOPNOTSUPP, errno.EAFNOSUPPORT})


async def read() -> frozenset[Prefix]:
    """Those that are ours. The kernel leaves out the others. Raises OSError, Malformed."""
    netlink = Netlink(socket.NETLINK_ROUTE, strict=True)
    found: set[Prefix] = set()
    try:
        for family in _FAMILIES:
            found.update(await _of_family(netlink, family))
    finally:
        netlink.close()
    return frozenset(found)


async def _of_family(netlink: Netlink, family: int) -> set[Prefix]:
    body = _RTMSG.pack(family, 0, 0, 0, _MAIN, DISCARD_PROTOCOL, 0, 0, 0)
    body += attribute(_TABLE, struct.pack("=I", _MAIN))
    try:
        found = await netlink.whole(lambda sequence: frame(_GET_ROUTE, NLM_F_DUMP, sequence, body), _parsed)
    except RefusedError as error:
        if error.errno not in _NO_IPV6:
            raise
        return set()
    return {one for one in found if one is not None}


async def write(prefixes: Sequence[Prefix], *, add: bool) -> dict[Prefix, OSError]:
    """What failed, and why. What is to be removed and is not there is done. Raises OSError, Malformed."""
    netlink = Netlink(socket.NETLINK_ROUTE)

    def framed(sequence: int) -> bytes:
        last = len(prefixes) - 1
        return b"".join(
            _request(prefix, sequence + n, add=add, answered=n == last) for n, prefix in enumerate(prefixes)
        )

    try:
        errors = await netlink.write(framed, len(prefixes))
    finally:
        netlink.close()
    return {
        prefixes[n]: OSError(code, os.strerror(code))
        for n, code in errors.items()
        if add or code not in (errno.ESRCH, errno.ENOENT)
    }


def _request(prefix: Prefix, sequence: int, *, add: bool, answered: bool) -> bytes:
    """Nothing that is there is replaced, and nothing but ours is removed."""
    kind, flags, scope = (
        (_NEW_ROUTE, _NLM_F_CREATE | _NLM_F_EXCL, 0) if add else (_DELETE_ROUTE, 0, _ANY_SCOPE)
    )
    family = _FAMILIES[0] if prefix.version == 4 else _FAMILIES[1]
    body = _RTMSG.pack(family, prefix.prefixlen, 0, 0, _MAIN, DISCARD_PROTOCOL, scope, _UNREACHABLE, 0)
    body += attribute(_DESTINATION, prefix.network_address.packed)
    body += attribute(_PRIORITY, struct.pack("=I", DISCARD_METRIC))
    return frame(kind, flags | (NLM_F_ACK if answered else 0), sequence, body)


def _parsed(data: bytes, message: Message) -> Prefix | None:
    """None: it is none of ours. Raises Malformed."""
    start = message.start + _RTMSG.size
    if message.end < start:
        raise Malformed(f"a route in {message.end - message.start} bytes")
    family, length, _, _, table, protocol, _, kind, _ = _RTMSG.unpack_from(data, message.start)
    if (table, protocol, kind) != (_MAIN, DISCARD_PROTOCOL, _UNREACHABLE):
        return None
    size = 4 if family == _FAMILIES[0] else 16
    address = attributes(data, start, message.end).get(_DESTINATION, bytes(size))
    if len(address) != size or length > 8 * size:
        raise Malformed(f"an address of {len(address)} bytes and a prefix of {length} bits")
    return ip_network((int.from_bytes(address, "big") if size == 4 else address, length))
