"""TCP segments as bytes: SYN, ACK and RST of a handshake by hand, and what answers them. Pure: no sockets.

Packets begin with the IP header. Checksums are written and not read: of a packet that has not left the machine
(veth, offloading) the kernel may not have written one yet.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Address

from anycast.core.values.configuration import Address

__all__ = ["HOPS", "Answer", "Flow", "ack", "answer", "checksum", "ends", "filter_of", "rst", "syn"]

HOPS = 2
"""Time to live. The real server delivers a packet of 1 to itself, and one of 2 to a container in it; one that does
not hold the address and routes for others cannot hand it to a real server that does, by way of a router.
"""

_TCP = 6
_FIN, _SYN, _RST, _ACK = 0x01, 0x02, 0x04, 0x10
_MSS = {4: 1460, 6: 1440}
_WINDOW = 64240
_WHOLE = 0xFFFFFFFF  # bytes of a packet that a filter lets through


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """One connection as its client sees it. Both addresses are of one family."""

    source: Address
    source_port: int
    address: Address
    port: int


class Answer(Enum):
    ACCEPTED = "SYN-ACK"
    REFUSED = "RST"


def syn(flow: Flow, sequence: int) -> bytes:
    """The first packet of a connection whose first sequence number is `sequence`."""
    mss = struct.pack("!BBH", 2, 4, _MSS[flow.address.version])
    return _packet(flow, sequence, _SYN, mss)


def ack(flow: Flow, sequence: int, accepted: bytes) -> bytes:
    """Completes the handshake. `accepted`: the packet that `answer` has taken for a SYN-ACK."""
    segment = _segment(accepted, flow)
    if segment is None:
        raise ValueError("no packet of this flow")
    (theirs,) = struct.unpack_from("!I", segment, 4)
    return _packet(flow, sequence + 1 & 0xFFFFFFFF, _ACK, acknowledged=theirs + 1 & 0xFFFFFFFF)


def rst(flow: Flow, sequence: int) -> bytes:
    """Ends the connection that `syn` with the same sequence number began, half open or open."""
    return _packet(flow, sequence + 1 & 0xFFFFFFFF, _RST)


def answer(packet: bytes, flow: Flow, sequence: int) -> Answer | None:
    """What a packet says to `syn`; None: it is no answer to it. Any bytes will do."""
    segment = _segment(packet, flow)
    if segment is None or len(segment) < 20:
        return None
    source, destination, _, acknowledged, _, flags = struct.unpack_from("!HHIIBB", segment)
    if (source, destination) != (flow.port, flow.source_port):
        return None
    if not flags & _ACK or acknowledged != sequence + 1 & 0xFFFFFFFF:
        return None
    if flags & _RST:
        return Answer.REFUSED
    return Answer.ACCEPTED if flags & _SYN else None


def ends(packet: bytes, flow: Flow, sequence: int) -> bool:
    """Whether a packet is the server's FIN or RST in the connection that `syn` began. Any bytes will do."""
    segment = _segment(packet, flow)
    if segment is None or len(segment) < 20:
        return False
    source, destination, _, acknowledged, _, flags = struct.unpack_from("!HHIIBB", segment)
    if (source, destination) != (flow.port, flow.source_port):
        return False
    # An RST of a socket that has seen our ACK has no number of ours to acknowledge.
    return bool(flags & _RST) or bool(flags & _FIN and acknowledged == sequence + 1 & 0xFFFFFFFF)


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _packet(flow: Flow, sequence: int, flags: int, options: bytes = b"", *, acknowledged: int = 0) -> bytes:
    offset = (20 + len(options)) // 4 << 4
    ports = flow.source_port, flow.port
    head = struct.pack("!HHIIBBH", *ports, sequence, acknowledged, offset, flags, _WINDOW)
    source, destination = flow.source.packed, flow.address.packed
    length = 20 + len(options)
    # Of the two pseudo headers, with zeroes in other places, the sum is the same.
    pseudo = source + destination + struct.pack("!HH", _TCP, length)
    sum_ = checksum(pseudo + head + bytes(4) + options)
    segment = head + struct.pack("!HH", sum_, 0) + options
    if flow.address.version == 6:
        return struct.pack("!IHBB", 6 << 28, length, _TCP, HOPS) + source + destination + segment
    dont_fragment = 0x4000
    before = struct.pack("!BBHHHBB", 0x45, 0, 20 + length, 0, dont_fragment, HOPS, _TCP)
    addresses = source + destination
    return before + struct.pack("!H", checksum(before + addresses)) + addresses + segment


def _segment(packet: bytes, flow: Flow) -> bytes | None:
    """The TCP segment of a whole packet that goes the other way between the two addresses."""
    if not packet or packet[0] >> 4 != flow.address.version:
        return None
    if flow.address.version == 4:
        length = (packet[0] & 0xF) * 4
        if len(packet) < length or length < 20 or packet[9] != _TCP:
            return None
        if struct.unpack_from("!H", packet, 6)[0] & 0x3FFF:  # a fragment
            return None
        ends: tuple[Address, Address] = IPv4Address(packet[12:16]), IPv4Address(packet[16:20])
    else:
        length = 40
        if len(packet) < length or packet[6] != _TCP:
            return None
        ends = IPv6Address(packet[8:24]), IPv6Address(packet[24:40])
    return packet[length:] if ends == (flow.address, flow.source) else None


_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE = 0x20, 0x28, 0x30
_LOAD_HALF_INDEXED, _LOAD_HEADER_LENGTH = 0x48, 0xB1
_JUMP_EQUAL, _JUMP_BITS, _RETURN = 0x15, 0x45, 0x06


def filter_of(flow: Flow) -> bytes:
    """A classic BPF program that lets through what comes back in this flow, on a socket that sees IP headers.

    The address stands first: on a busy interface nearly every packet ends there.
    """
    # Each step: load, at, the value to be equal to. A fragment's ports would be its payload.
    four = flow.address.version == 4
    tests: list[tuple[int, int, int]] = []
    for place, address in (
        ((12, flow.address), (16, flow.source)) if four else ((8, flow.address), (24, flow.source))
    ):
        packed = address.packed
        tests += [
            (_LOAD_WORD, place + n, int.from_bytes(packed[n : n + 4], "big"))
            for n in range(0, len(packed), 4)
        ]
    tests.append((_LOAD_BYTE, 9 if four else 6, _TCP))
    steps: list[tuple[int, int, int, int]] = []  # code, jump if true, jump if false, value; -1: to the end
    for load, place, value in tests:
        steps += [(load, 0, 0, place), (_JUMP_EQUAL, 0, -1, value)]
    if four:
        steps += [(_LOAD_HALF, 0, 0, 6), (_JUMP_BITS, -1, 0, 0x3FFF), (_LOAD_HEADER_LENGTH, 0, 0, 0)]
        load, start = _LOAD_HALF_INDEXED, 0
    else:
        load, start = _LOAD_HALF, 40
    for place, port in ((start, flow.port), (start + 2, flow.source_port)):
        steps += [(load, 0, 0, place), (_JUMP_EQUAL, 0, -1, port)]
    steps.append((_RETURN, 0, 0, _WHOLE))
    end = len(steps)
    steps.append((_RETURN, 0, 0, 0))
    return b"".join(
        struct.pack("=HBBI", code, *(end - at - 1 if jump == -1 else jump for jump in (yes, no)), value)
        for at, (code, yes, no, value) in enumerate(steps)
    )
