"""The way to an address over rtnetlink: the question as bytes, and the answer as values. No sockets."""

from __future__ import annotations

import struct
from collections.abc import Callable
from ipaddress import ip_address
from socket import AF_INET, AF_INET6
from typing import NamedTuple

from anycast.core.values.configuration import Address
from anycast.kernel.netlink_codec import Malformed, Message, attribute, attributes, frame, number

_GET_ROUTE = 26
# family, lengths of destination and source, type of service, table, protocol, scope, type, flags
_RTMSG = struct.Struct("=BBBBBBBBI")
_DESTINATION, _INTERFACE, _GATEWAY, _SOURCE, _METRICS, _VIA = 1, 4, 5, 7, 8, 18
_MTU = 2  # of the metrics
_LOCAL = 2  # type of a route
_FAMILY = {4: int(AF_INET), 6: int(AF_INET6)}


class Way(NamedTuple):
    """`interface`: its index. `mtu`: the route's own, in bytes; 0: that of its interface."""

    interface: int
    mtu: int
    gateway: Address | None
    local: bool
    source: Address | None = None  # None: there is none


def question(address: Address) -> Callable[[int], bytes]:
    """How the kernel would send to it."""
    body = _RTMSG.pack(_FAMILY[address.version], address.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
    body += attribute(_DESTINATION, address.packed)
    return lambda sequence: frame(_GET_ROUTE, 0, sequence, body)


def parse(data: bytes, message: Message) -> Way:
    """Raises Malformed."""
    start = message.start + _RTMSG.size
    if message.end < start:
        raise Malformed(f"a route in {message.end - message.start} bytes")
    kind = _RTMSG.unpack_from(data, message.start)[7]
    found = attributes(data, start, message.end)
    metrics = found.get(_METRICS, b"")
    gateway = found.get(_GATEWAY)
    source = found.get(_SOURCE)
    for one in (gateway, source):
        if one is not None and len(one) not in (4, 16):
            raise Malformed(f"an address of {len(one)} bytes")
    return Way(
        interface=number(found, _INTERFACE, 4),
        mtu=number(attributes(metrics, 0, len(metrics)), _MTU, 4),
        gateway=None if gateway is None else ip_address(gateway),
        local=kind == _LOCAL,
        source=None if source is None else ip_address(source),
    )
