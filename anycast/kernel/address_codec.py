"""Addresses of interfaces over rtnetlink: values to bytes and back. No sockets."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address
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
)

NEW_LINK, DEL_LINK, NEW_ADDRESS, DEL_ADDRESS, GET_ADDRESS = 16, 17, 20, 21, 22

_CREATE, _EXCLUSIVE = 0x400, 0x200
_IFADDRMSG = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, interface
_ADDRESS, _LOCAL, _CACHE, _FLAGS = 1, 2, 6, 8
_LIFETIMES = struct.Struct("=IIII")  # preferred, valid, and when it was made and changed
_FOREVER = 0xFFFFFFFF
_SCOPE_HOST = 254
_NODAD, _DADFAILED = 0x02, 0x08
_FAMILY = {4: int(AF_INET), 6: int(AF_INET6)}
_SIZE = {int(AF_INET): 4, int(AF_INET6): 16}  # bytes
# The head, the header of the first attribute, four bytes, and what is the header of the second where those are IPv4.
_QUICK = struct.Struct("=BBBBI 4s 4s 4s")
_QUICK4 = (int(AF_INET), struct.pack("=HH", 8, _ADDRESS), struct.pack("=HH", 8, _LOCAL))
_QUICK6 = (int(AF_INET6), struct.pack("=HH", 20, _ADDRESS))
# struct ifinfomsg and struct ifaddrmsg both have the interface's index 4 bytes in.
_HEADER_AND_INDEX = struct.Struct("=IHHII4xI")


class Assigned(NamedTuple):
    """An address on an interface. Not `usable`: another machine on the link has it too (DAD failed)."""

    interface: int  # index
    address: Address
    prefix: int
    usable: bool = True


def dump_frame(sequence: int) -> bytes:
    """Asks for the addresses of every interface."""
    return frame(GET_ADDRESS, NLM_F_DUMP, sequence, _IFADDRMSG.pack(AF_UNSPEC, 0, 0, 0, 0))


def question(index: int, address: Address) -> Callable[[int], bytes]:
    """Asks for one address; the kernel knows that question of IPv6 only."""
    body = _body(index, address, address.max_prefixlen, attribute(_ADDRESS, address.packed))
    return lambda sequence: frame(GET_ADDRESS, 0, sequence, body)


def addition(index: int, address: Address) -> Callable[[int], bytes]:
    """As a single host, and never a source address: with the scope of the host, or deprecated."""
    named = attribute(_LOCAL, address.packed) + attribute(_ADDRESS, address.packed)
    if address.version == 6:
        deprecated = attribute(_CACHE, _LIFETIMES.pack(0, _FOREVER, 0, 0))
        body = _body(index, address, address.max_prefixlen, named + deprecated, flags=_NODAD)
    else:
        body = _body(index, address, address.max_prefixlen, named, scope=_SCOPE_HOST)
    return lambda sequence: frame(NEW_ADDRESS, NLM_F_ACK | _CREATE | _EXCLUSIVE, sequence, body)


def removal(index: int, address: Address, prefix: int) -> Callable[[int], bytes]:
    """An IPv4 address goes whatever its prefix, one at a time."""
    body = _body(index, address, prefix, attribute(_LOCAL, address.packed))
    return lambda sequence: frame(DEL_ADDRESS, NLM_F_ACK, sequence, body)


def _body(
    index: int, address: Address, prefix: int, named: bytes, *, flags: int = 0, scope: int = 0
) -> bytes:
    return _IFADDRMSG.pack(_FAMILY[address.version], prefix, flags, scope, index) + named


def parse(data: bytes, message: Message) -> Assigned | None:
    """None: of a family that is not ours. Raises Malformed."""
    if message.end - message.start < _IFADDRMSG.size:
        raise Malformed(f"an address in {message.end - message.start} bytes")
    family, prefix, _, _, index = _IFADDRMSG.unpack_from(data, message.start)
    found = attributes(data, message.start + _IFADDRMSG.size, message.end)
    # IPv4: IFA_LOCAL is the address, IFA_ADDRESS may be that of a peer.
    packed = found.get(_LOCAL) or found.get(_ADDRESS)
    if family not in _SIZE or packed is None:
        return None
    if len(packed) != _SIZE[family]:
        raise Malformed(f"an address of {len(packed)} bytes")
    flags = int.from_bytes(found.get(_FLAGS, b"")[:4], sys.byteorder)
    return Assigned(index, ip_address(packed), prefix, not flags & _DADFAILED)


def usable(index: int, there: Mapping[bytes, Address], data: bytes, message: Message) -> Address | None:
    """The address, if it is on the interface of this index, and is usable. Raises Malformed.

    `there`: objects that are there already, by their bytes.
    """
    start = message.start
    if message.end - start >= _QUICK.size:
        family, _, flags, _, at, first, _, third = _QUICK.unpack_from(data, start)
        if at != index:
            return None
        # IPv4: IFA_ADDRESS, then IFA_LOCAL. IPv6 without a peer: IFA_ADDRESS, 16 bytes from where it begins.
        place = 20 if (family, first, third) == _QUICK4 else 12 if (family, first) == _QUICK6 else 0
        if place and not flags & _DADFAILED:
            found = there.get(data[start + place : start + place + _SIZE[family]])
            if found is not None:
                return found
    one = parse(data, message)
    return one.address if one is not None and one.interface == index and one.usable else None


def changed(data: bytes) -> frozenset[int]:
    """The interfaces that the kernel's announcements in one datagram speak of, by index."""
    return frozenset(_indexes(data))


def _indexes(data: bytes) -> Iterator[int]:
    offset = 0
    while len(data) - offset >= _HEADER_AND_INDEX.size:
        length, kind, _, _, _, index = _HEADER_AND_INDEX.unpack_from(data, offset)
        if kind in (NEW_LINK, DEL_LINK, NEW_ADDRESS, DEL_ADDRESS):
            yield index
        offset += max((length + 3) & ~3, 16)
