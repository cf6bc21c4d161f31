"""IPv6 default routes, and which of them the kernel has from router advertisements.

The kernel deletes those in the moment in which any `forwarding` of IPv6 is written, 1 over 1 too, and takes no more of
them while it is 1; unless `accept_ra` of their interface is 2.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from anycast.kernel import sysctl
from anycast.kernel.errors import KernelUnavailable
from anycast.kernel.netlink import Netlink, RefusedError
from anycast.kernel.netlink_codec import NLM_F_DUMP, Malformed, Message, attribute, attributes, frame, number

FORWARDING = "net.ipv6.conf.all.forwarding"

_GET_ROUTE = 26
_RTMSG = struct.Struct("=BBBBBBBBI")  # family, lengths, type of service, table, protocol, scope, type, flags
_NEXT_HOP = struct.Struct("=HBBI")  # length, flags, weight, interface
_INTERFACE, _PRIORITY, _MULTIPATH, _TABLE = 4, 6, 9, 15
_MAIN, _RA, _UNICAST = 254, 9, 1
_NO_IPV6 = frozenset({errno.EOPNOTSUPP, errno.EAFNOSUPPORT})


class Default(NamedTuple):
    """A default route of the main table, and the interfaces that it leads through."""

    interfaces: tuple[str, ...]
    metric: int
    advertised: bool


def accept_ra(interface: str) -> str:
    """The name of the sysctl."""
    return f"net.ipv6.conf.{interface.replace('.', '/')}.accept_ra"


async def defaults(*, advertised: bool = False) -> list[Default]:
    """All of IPv6, or those from router advertisements. Raises OSError, KernelUnavailable."""
    protocol = _RA if advertised else 0
    body = _RTMSG.pack(int(socket.AF_INET6), 0, 0, 0, _MAIN, protocol, 0, 0, 0)
    body += attribute(_TABLE, struct.pack("=I", _MAIN))
    netlink = Netlink(socket.NETLINK_ROUTE, strict=True)  # the kernel leaves out what is not asked for
    try:
        found = await netlink.whole(lambda sequence: frame(_GET_ROUTE, NLM_F_DUMP, sequence, body), _default)
    except RefusedError as error:
        if error.errno not in _NO_IPV6:
            raise
        return []
    except Malformed as error:
        raise KernelUnavailable(f"routes: an answer of the kernel was not understood: {error}") from error
    finally:
        netlink.close()
    return [one for one in found if one is not None and (one.advertised or not advertised)]


async def cut_by_forwarding() -> list[str]:
    """The interfaces whose default route goes when IPv6 is forwarded. Raises OSError, KernelUnavailable.

    With `accept_ra` 0 another program takes the advertisements, and its routes stay.
    """
    found = dict.fromkeys(name for one in await defaults(advertised=True) for name in one.interfaces)
    values = sysctl.read(map(accept_ra, found))
    return [name for name in found if values[accept_ra(name)] == "1"]


def _default(data: bytes, message: Message) -> Default | None:
    """None: another route. Raises Malformed."""
    start = message.start + _RTMSG.size
    if message.end < start:
        raise Malformed(f"a route in {message.end - message.start} bytes")
    _, prefix, _, _, table, protocol, _, kind, _ = _RTMSG.unpack_from(data, message.start)
    if prefix or kind != _UNICAST or table != _MAIN:
        return None
    found = attributes(data, start, message.end)
    indexes = [number(found, _INTERFACE, 4)] if _INTERFACE in found else []
    indexes += _next_hops(found.get(_MULTIPATH, b""))
    names = tuple(name for index in dict.fromkeys(indexes) if (name := _name(index)))
    return Default(names, number(found, _PRIORITY, 4), protocol == _RA)


def _next_hops(data: bytes) -> Iterator[int]:
    offset = 0
    while len(data) - offset >= _NEXT_HOP.size:
        length, _, _, index = _NEXT_HOP.unpack_from(data, offset)
        if length < _NEXT_HOP.size:
            raise Malformed(f"a next hop of {length} bytes")
        yield index
        offset += (length + 3) & ~3


def _name(index: int) -> str:
    """Empty: it has gone meanwhile."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return ""
