"""Netlink's own framing, of which IPVS and addresses are made: messages and attributes. No sockets.

Headers and lengths are in the host's byte order; everything is padded to 4 bytes.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from typing import NamedTuple

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10  # the list changed while it was dumped: what is missing may be there
NLM_F_DUMP = 0x300
NLMSG_ERROR = 2
NLMSG_DONE = 3

_NLMSGHDR = struct.Struct("=IHHII")
_NLA = struct.Struct("=HH")
_NLA_TYPE = 0x3FFF  # without the "nested" and "byte order" bits


class Malformed(ValueError):  # noqa: N818 - said of the bytes
    """Bytes that no kernel we know writes."""


class Message(NamedTuple):
    """One netlink message in a buffer: what follows its header is at `start:end`."""

    kind: int
    flags: int
    sequence: int
    error: int  # errno of an error or of the end of a dump; 0: none
    start: int
    end: int


def frame(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """One request to send."""
    return _NLMSGHDR.pack(_NLMSGHDR.size + len(body), kind, NLM_F_REQUEST | flags, sequence, 0) + body


def messages(data: bytes) -> Iterator[Message]:
    """The messages of one datagram. Raises Malformed."""
    offset = 0
    while offset < len(data):
        if len(data) - offset < _NLMSGHDR.size:
            raise Malformed(f"netlink message of {len(data) - offset} bytes")
        length, kind, flags, sequence, _ = _NLMSGHDR.unpack_from(data, offset)
        if not _NLMSGHDR.size <= length <= len(data) - offset:
            raise Malformed(f"netlink message says {length} bytes of {len(data) - offset}")
        start = offset + _NLMSGHDR.size
        error = 0
        if kind in (NLMSG_ERROR, NLMSG_DONE) and length >= 20:
            error = -int.from_bytes(data[start : start + 4], sys.byteorder, signed=True)
        yield Message(kind, flags, sequence, error, start, offset + length)
        offset += (length + 3) & ~3


def attribute(kind: int, data: bytes) -> bytes:
    return _NLA.pack(4 + len(data), kind) + data + bytes(-len(data) & 3)


def attributes(data: bytes, start: int, end: int) -> dict[int, bytes]:
    """By their kinds. Raises Malformed."""
    return {
        kind: data[offset + 4 : offset + length_of(data, offset)]
        for kind, offset in places_of(data, start, end)
    }


def places_of(data: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The kinds of attributes, and where their headers are. Raises Malformed."""
    offset = start
    while offset < end:
        if end - offset < _NLA.size:
            raise Malformed(f"attribute of {end - offset} bytes")
        length, kind = _NLA.unpack_from(data, offset)
        if not _NLA.size <= length <= end - offset:
            raise Malformed(f"attribute {kind & _NLA_TYPE} says {length} bytes of {end - offset}")
        yield kind & _NLA_TYPE, offset
        offset += (length + 3) & ~3


def length_of(data: bytes, offset: int) -> int:
    """Of an attribute, with its header."""
    length: int = _NLA.unpack_from(data, offset)[0]
    return length


def number(found: dict[int, bytes], kind: int, size: int) -> int:
    """An attribute of `size` bytes; 0 where it is not there. Raises Malformed."""
    data = found.get(kind, bytes(size))
    if len(data) != size:
        raise Malformed(f"attribute {kind} has {len(data)} bytes, not {size}")
    return int.from_bytes(data, sys.byteorder)
