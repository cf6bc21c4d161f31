"""Routes of one table over rtnetlink: requests as bytes, and what the kernel has as values. No sockets.

Every route of ours is a blackhole with a protocol number of its own. Nothing forwards by the table: that nothing does is
what a blackhole makes sure of.
"""

from __future__ import annotations

import struct
from ipaddress import ip_network
from socket import AF_INET, AF_INET6
from typing import NamedTuple

from anycast.core.values.route import Prefix
from anycast.core.values.table import PROTOCOL
from anycast.kernel.netlink_codec import (
    NLM_F_ACK,
    NLM_F_DUMP,
    Malformed,
    Message,
    attribute,
    attributes,
    frame,
    number,
)

FAMILIES = {4: int(AF_INET), 6: int(AF_INET6)}

_NEW_ROUTE, _DELETE_ROUTE, _GET_ROUTE, _GET_RULE = 24, 25, 26, 34
_NLM_F_EXCL, _NLM_F_CREATE = 0x200, 0x400
# family, lengths of destination and source, type of service, table, protocol, scope, type, flags
_RTMSG = struct.Struct("=BBBBBBBBI")
_DESTINATION, _PRIORITY, _TABLE = 1, 6, 15
_BLACKHOLE = 6
_ANY_SCOPE = 255
_NUMBER = struct.Struct("=I")
_NAMES = {
    2: "kernel",
    3: "boot",
    4: "static",
    9: "ra",
    11: "zebra",
    12: "bird",
    16: "dhcp",
    186: "bgp",
    188: "ospf",
}


class Found(NamedTuple):
    """A route of the table. `metric`: the kernel's priority, 0 where it has none."""

    prefix: Prefix
    metric: int
    protocol: int
    blackhole: bool

    @property
    def is_ours(self) -> bool:
        return self.protocol == PROTOCOL and self.blackhole

    def __str__(self) -> str:
        return f"{self.prefix} metric {self.metric} proto {_NAMES.get(self.protocol, self.protocol)}"


class Move(NamedTuple):
    """A route of ours that is made, or removed."""

    add: bool
    prefix: Prefix
    metric: int


def request(move: Move, table: int, sequence: int, *, answered: bool) -> bytes:
    """Nothing that is there is replaced, and nothing but ours is removed. `answered`: also where it succeeds."""
    prefix = move.prefix
    kind, flags, scope = (
        (_NEW_ROUTE, _NLM_F_CREATE | _NLM_F_EXCL, 0) if move.add else (_DELETE_ROUTE, 0, _ANY_SCOPE)
    )
    family = FAMILIES[prefix.version]
    body = _RTMSG.pack(family, prefix.prefixlen, 0, 0, 0, PROTOCOL, scope, _BLACKHOLE, 0)
    body += attribute(_DESTINATION, prefix.network_address.packed)
    body += attribute(_PRIORITY, _NUMBER.pack(move.metric)) + attribute(_TABLE, _NUMBER.pack(table))
    return frame(kind, flags | (NLM_F_ACK if answered else 0), sequence, body)


def question(version: int, table: int, sequence: int, *, ours: bool) -> bytes:
    """The routes of a family in the table. `ours`: of our protocol alone. Needs strict checking at the socket."""
    body = _RTMSG.pack(FAMILIES[version], 0, 0, 0, 0, PROTOCOL if ours else 0, 0, 0, 0)
    return frame(_GET_ROUTE, NLM_F_DUMP, sequence, body + attribute(_TABLE, _NUMBER.pack(table)))


def parse(data: bytes, message: Message, table: int) -> Found | None:
    """None: it is of another table. Raises Malformed."""
    start = message.start + _RTMSG.size
    if message.end < start:
        raise Malformed(f"a route in {message.end - message.start} bytes")
    family, length, _, _, short, protocol, _, kind, _ = _RTMSG.unpack_from(data, message.start)
    found = attributes(data, start, message.end)
    if (number(found, _TABLE, 4) or short) != table:
        return None
    size = 4 if family == AF_INET else 16
    address = found.get(_DESTINATION, bytes(size))
    if len(address) != size or length > 8 * size:
        raise Malformed(f"an address of {len(address)} bytes and a prefix of {length} bits")
    prefix = ip_network((int.from_bytes(address, "big") if size == 4 else address, length))
    return Found(prefix, number(found, _PRIORITY, 4), protocol, kind == _BLACKHOLE)


def rules_question(version: int, sequence: int) -> bytes:
    """The rules of a family, by which the kernel chooses a table."""
    return frame(_GET_RULE, NLM_F_DUMP, sequence, _RTMSG.pack(FAMILIES[version], 0, 0, 0, 0, 0, 0, 0, 0))


def rule_of(data: bytes, message: Message, table: int) -> int | None:
    """The priority of a rule that leads to the table; None: it does not. Raises Malformed."""
    start = message.start + _RTMSG.size  # the head of a rule is as long
    if message.end < start:
        raise Malformed(f"a rule in {message.end - message.start} bytes")
    found = attributes(data, start, message.end)
    named = number(found, _TABLE, 4) or data[message.start + 4]
    return number(found, _PRIORITY, 4) if named == table else None
