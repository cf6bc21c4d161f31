"""Addresses of interfaces over rtnetlink: values to bytes and back. No sockets."""

from __future__ import annotations

import contextlib
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import IPv4Address, ip_address
from socket import AF_INET, AF_INET6, AF_UNSPEC
from typing import NamedTuple

from anycast.core.values.configuration import Address
from anycast.kernel.netlink_codec import (
    NLM_F_ACK,
    NLM_F_DUMP,
    Malformed,
    Message,
    attribute,
    attributes,
    frame,
    messages,
)

NEW_LINK, DEL_LINK, NEW_ADDRESS, DEL_ADDRESS, GET_ADDRESS = 16, 17, 20, 21, 22

_REPLACE, _EXCLUSIVE, _CREATE = 0x100, 0x200, 0x400
_IFADDRMSG = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, interface
_ADDRESS, _LOCAL, _CACHE, _FLAGS = 1, 2, 6, 8
_LIFETIMES = struct.Struct("=IIII")  # preferred, valid, and when it was made and changed
_FOREVER = 0xFFFFFFFF
_SCOPE_HOST = 254
_NODAD, _DADFAILED, _DEPRECATED, _PERMANENT = 0x02, 0x08, 0x20, 0x80
_NO_PREFIX_ROUTE = 0x200  # as an attribute: it has no place in the head
_LO = 1  # index of lo in every network namespace
# The kernel makes no route to a peer in 0.0.0.0/8, and nobody has one there.
_NOBODY = IPv4Address("0.0.0.1")
_FAMILY = {4: int(AF_INET), 6: int(AF_INET6)}
_SIZE = {int(AF_INET): 4, int(AF_INET6): 16}  # bytes
# The head, the header of the first attribute, four bytes, and what is the header of the second where those are IPv4.
_QUICK = struct.Struct("=BBBBI 4s 4s 4s")
_QUICK4 = (int(AF_INET), struct.pack("=HH", 8, _ADDRESS), struct.pack("=HH", 8, _LOCAL))
_QUICK6 = (int(AF_INET6), struct.pack("=HH", 20, _ADDRESS))
# struct ifinfomsg and struct ifaddrmsg both have the interface's index 4 bytes in.
_HEADER_AND_INDEX = struct.Struct("=IHHII4xI")


class Assigned(NamedTuple):
    """An address on an interface. Not `usable`: another machine on the link has it too (DAD failed).

    `plain`: it is not as the agent adds it: it may be a source address, ends by itself, or is more than a single host
    on lo. `peer`: the other end's address, where an IPv4 address has one.
    """

    interface: int  # index
    address: Address
    prefix: int
    usable: bool = True
    plain: bool = False
    peer: Address | None = None

    @property
    def network(self) -> tuple[int, int]:
        """As the kernel compares it: with one scope only, and of its addresses all but the first are secondary."""
        return int(self.peer or self.address) >> (self.address.max_prefixlen - self.prefix), self.prefix

    @property
    def is_single(self) -> bool:
        return self.peer is None and self.prefix == self.address.max_prefixlen


class Found(NamedTuple):
    """A usable address of the interface that was asked for."""

    address: Address
    plain: bool


def dump_frame(sequence: int, version: int | None = None) -> bytes:
    """Asks for the addresses of every interface, of both families or one."""
    family = AF_UNSPEC if version is None else _FAMILY[version]
    return frame(GET_ADDRESS, NLM_F_DUMP, sequence, _IFADDRMSG.pack(family, 0, 0, 0, 0))


def question(index: int, address: Address) -> Callable[[int], bytes]:
    """Asks for one address; the kernel knows that question of IPv6 only."""
    body = _body(index, address, address.max_prefixlen, attribute(_ADDRESS, address.packed))
    return lambda sequence: frame(GET_ADDRESS, 0, sequence, body)


def addition(index: int, address: Address) -> Callable[[int], bytes]:
    """As a single host, and never a source address: with the scope of the host, or deprecated."""
    body = _as_ours(index, address)
    return lambda sequence: frame(NEW_ADDRESS, NLM_F_ACK | _CREATE | _EXCLUSIVE, sequence, body)


def correction6(index: int, address: Address) -> Callable[[int], bytes]:
    """An IPv6 address as the agent adds it, in its place; its prefix length stays."""
    body = _as_ours(index, address)
    return lambda sequence: frame(NEW_ADDRESS, NLM_F_ACK | _REPLACE, sequence, body)


def stand_in(index: int, address: Address) -> Callable[[int], bytes]:
    """An IPv4 address a second time, beside one that is a single host.

    The kernel changes no scope, so that one has to go and come again, and the node is to have the address all the
    time. With a peer it is in nobody's network.
    """
    flags = attribute(_FLAGS, _NO_PREFIX_ROUTE.to_bytes(4, sys.byteorder))
    named = attribute(_LOCAL, address.packed) + attribute(_ADDRESS, _NOBODY.packed)
    body = _body(index, address, address.max_prefixlen, named + flags, scope=_SCOPE_HOST)
    return lambda sequence: frame(NEW_ADDRESS, NLM_F_ACK | _CREATE | _EXCLUSIVE, sequence, body)


def standing_in(index: int, address: Address) -> Assigned:
    """What `stand_in` adds."""
    return Assigned(index, address, address.max_prefixlen, plain=True, peer=_NOBODY)


def _as_ours(index: int, address: Address) -> bytes:
    if address.version == 4:
        return _body(index, address, address.max_prefixlen, _named(address), scope=_SCOPE_HOST)
    deprecated = attribute(_CACHE, _LIFETIMES.pack(0, _FOREVER, 0, 0))
    return _body(index, address, address.max_prefixlen, _named(address) + deprecated, flags=_NODAD)


def _named(address: Address) -> bytes:
    return attribute(_LOCAL, address.packed) + attribute(_ADDRESS, address.packed)


def removal(index: int, address: Address, prefix: int | None = None) -> Callable[[int], bytes]:
    """`prefix` None: an IPv4 address goes whatever its prefix, one at a time; an IPv6 address as a single host."""
    named = attribute(_LOCAL, address.packed)
    body = _body(index, address, address.max_prefixlen if prefix is None else prefix, named)
    return lambda sequence: frame(DEL_ADDRESS, NLM_F_ACK, sequence, body)


def removal_of(one: Assigned) -> Callable[[int], bytes]:
    """Of an IPv4 address that may be there more than once, with other prefixes and peers: this one."""
    # Without IFA_ADDRESS the kernel does not look at the prefix.
    named = attribute(_LOCAL, one.address.packed) + attribute(_ADDRESS, (one.peer or one.address).packed)
    body = _body(one.interface, one.address, one.prefix, named)
    return lambda sequence: frame(DEL_ADDRESS, NLM_F_ACK, sequence, body)


def _body(
    index: int, address: Address, prefix: int, named: bytes, *, flags: int = 0, scope: int = 0
) -> bytes:
    return _IFADDRMSG.pack(_FAMILY[address.version], prefix, flags, scope, index) + named


def parse(data: bytes, message: Message) -> Assigned | None:
    """None: of a family that is not ours. Raises Malformed."""
    if message.end - message.start < _IFADDRMSG.size:
        raise Malformed(f"an address in {message.end - message.start} bytes")
    family, prefix, short, scope, index = _IFADDRMSG.unpack_from(data, message.start)
    found = attributes(data, message.start + _IFADDRMSG.size, message.end)
    # IPv4: IFA_LOCAL is the address, IFA_ADDRESS may be that of a peer.
    packed = found.get(_LOCAL) or found.get(_ADDRESS)
    if family not in _SIZE or packed is None:
        return None
    if len(packed) != _SIZE[family]:
        raise Malformed(f"an address of {len(packed)} bytes")
    flags = int.from_bytes(found.get(_FLAGS, b"")[:4], sys.byteorder)
    other = found.get(_ADDRESS, packed) if family == AF_INET else packed
    if len(other) != len(packed):
        raise Malformed(f"an address of {len(other)} bytes")
    peer = None if other == packed else other
    plain = _is_plain(family, prefix, short, scope, index, peer=peer)
    return Assigned(
        index,
        ip_address(packed),
        prefix,
        not flags & _DADFAILED,
        plain,
        None if peer is None else ip_address(peer),
    )


def _is_plain(family: int, prefix: int, flags: int, scope: int, index: int, *, peer: bytes | None) -> bool:
    if family == AF_INET6:
        return not (flags & _DEPRECATED and flags & _PERMANENT)
    single = prefix == 32 and peer is None
    if single or index == _LO:
        return not (single and scope == _SCOPE_HOST and flags & _PERMANENT)
    # On a real link a wider prefix or a peer is the operator's network: it is not the agent's to take away.
    return peer == _NOBODY.packed


def usable(index: int, there: Mapping[bytes, Address], data: bytes, message: Message) -> Found | None:
    """The address, if it is on the interface of this index, and is usable. Raises Malformed.

    `there`: objects that are there already, by their bytes.
    """
    start = message.start
    if message.end - start >= _QUICK.size:
        family, prefix, flags, scope, at, first, second, third = _QUICK.unpack_from(data, start)
        if at != index:
            return None
        # IPv4: IFA_ADDRESS, then IFA_LOCAL. IPv6 without a peer: IFA_ADDRESS, 16 bytes from where it begins.
        place = 20 if (family, first, third) == _QUICK4 else 12 if (family, first) == _QUICK6 else 0
        if place and not flags & _DADFAILED:
            packed = data[start + place : start + place + _SIZE[family]]
            found = there.get(packed)
            if found is not None:
                peer = None if second == packed else second
                return Found(found, _is_plain(family, prefix, flags, scope, at, peer=peer))
    one = parse(data, message)
    if one is None or one.interface != index or not one.usable:
        return None
    return Found(one.address, one.plain)


def changed(data: bytes) -> frozenset[int]:
    """The interfaces that the kernel's announcements in one datagram speak of, by index."""
    return frozenset(_indexes(data))


def lost(index: int, datagrams: Iterable[bytes]) -> frozenset[Address]:
    """The addresses of an interface that went, by the kernel's announcements in their order, and did not come again.

    One that went with one prefix length or peer and came with another is there. What is not understood tells nothing.
    """
    last: dict[tuple[Address, int, Address | None], bool] = {}
    for data in datagrams:
        with contextlib.suppress(Malformed):
            for message in messages(data):
                if message.kind not in (NEW_ADDRESS, DEL_ADDRESS):
                    continue
                one = parse(data, message)
                if one is not None and one.interface == index:
                    last[one.address, one.prefix, one.peer] = message.kind == NEW_ADDRESS
    came = {address for (address, _, _), there in last.items() if there}
    return frozenset(address for address, _, _ in last if address not in came)


def _indexes(data: bytes) -> Iterator[int]:
    offset = 0
    while len(data) - offset >= _HEADER_AND_INDEX.size:
        length, kind, _, _, _, index = _HEADER_AND_INDEX.unpack_from(data, offset)
        if kind in (NEW_LINK, DEL_LINK, NEW_ADDRESS, DEL_ADDRESS):
            yield index
        offset += max((length + 3) & ~3, 16)
