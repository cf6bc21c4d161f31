"""Packets as bytes: TCP segments, UDP datagrams, what answers them, and what wraps them. Pure: no sockets.

Packets begin with the IP header. Checksums are written and not read: of a packet that has not left the machine
(veth, offloading) the kernel may not have written one yet.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from anycast.core.values.configuration import Address, Tunnel, TunnelChecksum, TunnelType

__all__ = [
    "ACK",
    "FIN",
    "HOPS",
    "ICMP",
    "MSS",
    "PUSH",
    "RST",
    "SYN",
    "TCP",
    "UDP",
    "Ends",
    "Error",
    "Parts",
    "Segment",
    "checksum",
    "error_of",
    "filter_of",
    "mss_of",
    "mss_option",
    "parts_of",
    "segment_of",
    "wrapping",
]

HOPS = 2
"""Time to live. The real server delivers a packet of 1 to itself, and one of 2 to a container in it; one that does
not hold the address and routes for others cannot hand it to a real server that does, by way of a router.
"""

ICMP = {4: 1, 6: 58}
TCP, UDP = 6, 17
FIN, SYN, RST, PUSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
MSS = {4: 1460, 6: 1440}
"""Payload of the longest segment that is taken."""

_WINDOW = 64240
_DONT_FRAGMENT = 0x4000
_IP_IN_IP = {4: 4, 6: 41}  # IP protocol, by the version inside
_GRE = 47
_ETHERTYPE = {4: 0x0800, 6: 0x86DD}
_GRE_CHECKSUM = 0x8000
_SEGMENT = struct.Struct("!HHIIBBHHH")
_FOUR = struct.Struct("!BBHHHBBH")
_SIX = struct.Struct("!IHBB")
_FOUR_TCP = struct.Struct("!BBHHHBBH8sHHIIBBHHH")
_SIX_TCP = struct.Struct("!IHBB32sHHIIBBHHH")


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    # The sum of words with its carries is the rest by 65535. Only zeroes have the sum zero.
    rest = int.from_bytes(data, "big") % 0xFFFF
    return 0xFFFF if not rest and not any(data) else -rest % 0xFFFF


class Ends:
    """Writes packets from an address of this node to another one. Both are of one family."""

    __slots__ = ("_addresses", "_base", "_four", "_sum", "destination", "source", "version")

    def __init__(self, source: Address, destination: Address) -> None:
        self.source, self.destination = source.packed, destination.packed
        self.version = destination.version
        self._addresses = self.source + self.destination
        self._sum = int.from_bytes(self._addresses, "big") % 0xFFFF
        # Of what all segments have in common: IPv4's header, and TCP's with the pseudo header.
        self._four = 0x4500 + 20 + 20 + _DONT_FRAGMENT + (HOPS << 8 | TCP) + self._sum
        self._base = self._sum + TCP + 20 + _WINDOW

    def tcp(
        self,
        ports: tuple[int, int],
        numbers: tuple[int, int],
        flags: int,
        payload: bytes = b"",
        options: bytes = b"",
    ) -> bytes:
        """`numbers`: the segment's own and the one it acknowledges."""
        rest = options + payload
        # In one step. Words of a number count as the number does: 65536 is 1 modulo 65535.
        length = len(rest)
        offset = (20 + len(options)) << 2
        total = self._base + length + (offset << 8) + flags + ports[0] + ports[1] + numbers[0] + numbers[1]
        if rest:
            total += int.from_bytes(rest, "big") << (length % 2 * 8)
        head = (*ports, *numbers, offset, flags, _WINDOW, -total % 0xFFFF, 0)
        if self.version == 4:
            check = -(self._four + length) % 0xFFFF
            more = (0x45, 0, 40 + length, 0, _DONT_FRAGMENT, HOPS, TCP, check, self._addresses)
            return _FOUR_TCP.pack(*more, *head) + rest
        return _SIX_TCP.pack(6 << 28, 20 + length, TCP, HOPS, self._addresses, *head) + rest

    def segment(
        self,
        ports: tuple[int, int],
        numbers: tuple[int, int],
        flags: int,
        payload: bytes = b"",
        options: bytes = b"",
    ) -> bytes:
        """Without the IP header."""
        rest = options + payload
        offset = (20 + len(options)) << 2
        head = (*ports, *numbers, offset, flags, _WINDOW)
        check = self._check(TCP, _SEGMENT.pack(*head, 0, 0) + rest)
        return _SEGMENT.pack(*head, check, 0) + rest

    def udp(self, ports: tuple[int, int], payload: bytes) -> bytes:
        head = (*ports, 8 + len(payload))
        check = self._check(UDP, struct.pack("!HHHH", *head, 0) + payload)
        return self._ip(UDP, struct.pack("!HHHH", *head, check or 0xFFFF) + payload)

    def _check(self, protocol: int, body: bytes) -> int:
        # Of the two pseudo headers, with zeroes in other places, the sum is the same.
        whole = int.from_bytes(body + b"\0" if len(body) % 2 else body, "big")
        return -(self._sum + protocol + len(body) + whole) % 0xFFFF

    def _ip(self, protocol: int, body: bytes) -> bytes:
        if self.version == 6:
            return _SIX.pack(6 << 28, len(body), protocol, HOPS) + self._addresses + body
        length = 20 + len(body)
        hops = HOPS << 8 | protocol
        check = -(0x4500 + length + _DONT_FRAGMENT + hops + self._sum) % 0xFFFF
        head = _FOUR.pack(0x45, 0, length, 0, _DONT_FRAGMENT, HOPS, protocol, check)
        return head + self._addresses + body


_MSS_OPTION = {version: struct.pack("!BBH", 2, 4, most) for version, most in MSS.items()}


def mss_option(version: int) -> bytes:
    return _MSS_OPTION[version]


class Wrapping(NamedTuple):
    """How a tunnel carries a packet: by a raw socket of an IP protocol, or by UDP to a port (`protocol` is UDP)."""

    protocol: int
    port: int  # of UDP
    header: bytes  # between the outer header of IP or UDP and the packet
    sums: bool  # the header has a checksum: of GRE itself, of GUE that of UDP

    def wrapped(self, packet: bytes) -> bytes:
        """What is handed to the socket."""
        if self.protocol != _GRE or not self.sums:
            return self.header + packet
        check = checksum(self.header + bytes(4) + packet)
        return self.header + struct.pack("!HH", check, 0) + packet

    def overhead(self, outer: int) -> int:
        """Bytes before the packet; `outer`: the version of IP that carries it."""
        more = 4 if self.protocol == _GRE and self.sums else 0
        return (20 if outer == 4 else 40) + (8 if self.protocol == UDP else 0) + len(self.header) + more


def wrapping(tunnel: Tunnel, inner: int) -> Wrapping:
    """As IPVS wraps a packet of IP version `inner`. Remote checksum offload is left out: receivers take either."""
    full = tunnel.checksum is TunnelChecksum.FULL
    protocol = _IP_IN_IP[inner]
    match tunnel.type:
        case TunnelType.IPIP:
            return Wrapping(protocol, 0, b"", sums=False)
        case TunnelType.GUE:
            return Wrapping(UDP, tunnel.port, bytes((0, protocol, 0, 0)), sums=full)
        case TunnelType.GRE:
            flags = _GRE_CHECKSUM if full else 0
            return Wrapping(_GRE, 0, struct.pack("!HH", flags, _ETHERTYPE[inner]), sums=full)


class Parts(NamedTuple):
    """Where things are in a packet."""

    protocol: int
    source: bytes
    destination: bytes
    at: int  # where the payload of IP begins
    end: int


def parts_of(packet: bytes, *, whole: bool = True) -> Parts | None:
    """Of any bytes; None: no packet that is read here, as a fragment. `whole`: not the beginning of one alone."""
    size = len(packet)
    if size < 20:
        return None
    if packet[0] >> 4 == 4:
        at, end = (packet[0] & 0xF) * 4, packet[2] << 8 | packet[3]
        if at < 20 or at > size or end < at or (packet[6] & 0x3F or packet[7]):
            return None
        found = Parts(packet[9], packet[12:16], packet[16:20], at, min(end, size))
    elif packet[0] >> 4 == 6 and size >= 40:
        end = 40 + (packet[4] << 8 | packet[5])
        found = Parts(packet[6], packet[8:24], packet[24:40], 40, min(end, size))
    else:
        return None
    return found if end <= size or not whole else None


class Segment(NamedTuple):
    number: int
    acknowledged: int
    flags: int
    window: int
    options: bytes
    payload: bytes


def segment_of(packet: bytes, at: int, end: int) -> Segment | None:
    """Of any bytes; None: they are no segment."""
    if end - at < 20:
        return None
    _, _, number, acknowledged, offset, flags, window, _, _ = _SEGMENT.unpack_from(packet, at)
    data = at + (offset >> 4) * 4
    if data < at + 20 or data > end:
        return None
    return Segment(number, acknowledged, flags, window, packet[at + 20 : data], packet[data:end])


def mss_of(options: bytes, version: int) -> int:
    """What the peer takes in a segment, by its options; without one the least that all take."""
    place = 0
    while place < len(options) and options[place]:
        if options[place] == 1:
            place += 1
            continue
        length = options[place + 1] if place + 1 < len(options) else 0
        if length < 2:
            break
        if options[place] == 2 and length == 4 and place + 4 <= len(options):
            return max(64, int.from_bytes(options[place + 2 : place + 4], "big"))
        place += length
    return 536 if version == 4 else 1220


class Error(NamedTuple):
    """An ICMP error about a packet of ours. What a short one does not have is 0 or empty."""

    kind: str  # "protocol", "port", "size", "hops", "other"
    mtu: int
    by: bytes  # who says so
    server: bytes  # the outer destination of a packet in a tunnel; empty: it was in none, or in none any more
    protocol: int  # of the packet inside
    destination: bytes
    ports: tuple[int, int]  # our own, and the peer's
    number: int | None = None  # of the segment inside: who does not see our packets would have to guess it


_KINDS = {
    4: {(3, 2): "protocol", (3, 3): "port", (3, 4): "size", (11, 0): "hops"},
    6: {(4, 1): "protocol", (1, 4): "port", (2, 0): "size", (3, 0): "hops"},
}
_ERRORS = {4: (3, 11), 6: (1, 2, 3, 4)}


def error_of(packet: bytes, parts: Parts) -> Error | None:
    """None: it is no error about a packet such as ours. Any bytes will do."""
    version, at = packet[0] >> 4, parts.at
    if parts.end - at < 8 or packet[at] not in _ERRORS[version]:
        return None
    kind = _KINDS[version].get((packet[at], packet[at + 1]), "other")
    word = struct.unpack_from("!I", packet, at + 4)[0]
    mtu = (word & 0xFFFF if version == 4 else word) if kind == "size" else 0
    told = packet[at + 8 : parts.end]
    first = parts_of(told, whole=False)
    if first is None:
        return None
    server = b""
    inside = _unwrapped(told, first)
    if inside is not None:
        server = first.destination
        told, first = inside, parts_of(inside, whole=False) or Parts(0, b"", b"", 0, 0)
    ports = (0, 0)
    if first.end - first.at >= 4 and first.protocol in (TCP, UDP):
        ports = struct.unpack_from("!HH", told, first.at)
    number = None
    if first.end - first.at >= 8 and first.protocol == TCP:
        number = struct.unpack_from("!I", told, first.at + 4)[0]
    return Error(kind, mtu, parts.source, server, first.protocol, first.destination, ports, number)


def _unwrapped(packet: bytes, parts: Parts) -> bytes | None:
    """The packet, or its beginning, in one of a tunnel; None: there is none in it."""
    inside = packet[parts.at : parts.end]
    if parts.protocol in _IP_IN_IP.values():
        return inside
    if parts.protocol == _GRE:
        return inside[8 if inside[:1] == b"\x80" else 4 :]
    # GUE, by what cannot be told from other datagrams in another way: a header of ours, and IP behind it.
    if parts.protocol == UDP and inside[8:9] == b"\0" and inside[9:10] in (b"\x04", b"\x29"):
        return inside[12:]
    return None


_LOAD_HALF, _LOAD_BYTE, _LOAD_BYTE_INDEXED = 0x28, 0x30, 0x50
_LOAD_HALF_INDEXED, _LOAD_HEADER_LENGTH = 0x48, 0xB1
_AND, _JUMP_EQUAL, _JUMP_BITS, _RETURN = 0x54, 0x15, 0x45, 0x06
_WHOLE = 0xFFFFFFFF  # bytes of a packet that a filter lets through


def filter_of(version: int, first: int, mask: int) -> bytes:
    """A classic BPF program for a socket that sees IP headers. It lets through what comes to our ports, and ICMP errors.

    `first`, `mask`: our ports are those that are `first` under the mask. Of what a busy interface has to do with other
    things nearly all ends at the port.
    """
    errors = _ERRORS[version]
    four = version == 4
    # Steps by name; a jump has the name of where it goes, `next` or a name at the end.
    steps: list[tuple[str, int, str, str, int]] = [
        ("", _LOAD_BYTE, "", "", 9 if four else 6),
        ("", _JUMP_EQUAL, "ports", "", TCP),
        ("", _JUMP_EQUAL, "ports", "", UDP),
        ("", _JUMP_EQUAL, "", "none", ICMP[version]),
        *([("", _LOAD_HEADER_LENGTH, "", "", 0)] if four else []),
        ("", _LOAD_BYTE_INDEXED if four else _LOAD_BYTE, "", "", 0 if four else 40),
        *(("", _JUMP_EQUAL, "all", "", kind) for kind in errors[:-1]),
        ("", _JUMP_EQUAL, "all", "none", errors[-1]),
        # A fragment's ports would be its payload.
        *([("ports", _LOAD_HALF, "", "", 6), ("", _JUMP_BITS, "none", "", 0x3FFF)] if four else []),
        *([("", _LOAD_HEADER_LENGTH, "", "", 0)] if four else []),
        ("" if four else "ports", _LOAD_HALF_INDEXED if four else _LOAD_HALF, "", "", 2 if four else 42),
        ("", _AND, "", "", mask),
        ("", _JUMP_EQUAL, "all", "none", first),
        ("all", _RETURN, "", "", _WHOLE),
        ("none", _RETURN, "", "", 0),
    ]
    places = {name: at for at, (name, *_) in enumerate(steps) if name}
    return b"".join(
        struct.pack("=HBBI", code, *(places[to] - at - 1 if to else 0 for to in (yes, no)), value)
        for at, (_, code, yes, no, value) in enumerate(steps)
    )
