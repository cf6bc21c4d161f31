"""Packets by hand: what is written is what the kernel would write, and nothing that comes in can break the readers."""

from __future__ import annotations

import ctypes
import socket
import struct
from ipaddress import ip_address
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.core.values.configuration import Address, Tunnel, TunnelChecksum, TunnelType
from anycast.probes.wire import packet as of
from anycast.probes.wire.packet import ACK, RST, SYN, TCP, UDP, Ends

_SO_ATTACH_FILTER = 26
FIRST, MASK = 61440, 0xFC00

ports = st.integers(1, 65535)
numbers = st.integers(0, 0xFFFFFFFF)
payloads = st.binary(max_size=60)
flags = st.integers(0, 63)
ENDS = {
    4: (ip_address("10.9.2.254"), ip_address("192.0.2.1")),
    6: (ip_address("fd09:2::fe"), ip_address("2001:db8::1")),
}
FAMILIES = pytest.mark.parametrize("version", [4, 6])
TUNNELS = [
    Tunnel(type=kind, port=6080 if kind is TunnelType.GUE else 0, checksum=sums)
    for kind in TunnelType
    for sums in (TunnelChecksum.NONE, TunnelChecksum.FULL)
]


def pairs(version: Literal[4, 6]) -> st.SearchStrategy[tuple[Address, Address]]:
    one = st.ip_addresses(v=version)
    return st.tuples(one, one)


either = st.one_of(pairs(4), pairs(6))


def words(data: bytes) -> int:
    """RFC 1071 as it is written there: 0xFFFF where the checksum is right."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pseudo(ends: tuple[Address, Address], protocol: int, length: int) -> bytes:
    return ends[0].packed + ends[1].packed + struct.pack("!HH", protocol, length)


@given(either, ports, ports, numbers, numbers, flags, payloads)
def test_a_segment_is_read_as_it_was_written_and_its_checksums_are_right(  # noqa: PLR0917
    ends: tuple[Address, Address], own: int, port: int, number: int, other: int, what: int, payload: bytes
) -> None:
    packet = Ends(*ends).tcp((own, port), (number, other), what, payload, of.mss_option(ends[0].version))
    parts = of.parts_of(packet)
    assert parts is not None
    assert parts[:3] == (TCP, ends[0].packed, ends[1].packed)
    if ends[0].version == 4:
        assert words(packet[:20]) == 0xFFFF
    body = packet[parts.at : parts.end]
    assert words(pseudo(ends, TCP, len(body)) + body) == 0xFFFF
    segment = of.segment_of(packet, parts.at, parts.end)
    assert segment is not None
    assert (segment.number, segment.acknowledged, segment.flags, segment.payload) == (
        number,
        other,
        what,
        payload,
    )
    assert of.mss_of(segment.options, ends[0].version) == of.MSS[ends[0].version]


@given(either, ports, ports, payloads)
def test_a_datagram_has_a_checksum_that_is_right_and_never_none(
    ends: tuple[Address, Address], own: int, port: int, payload: bytes
) -> None:
    packet = Ends(*ends).udp((own, port), payload)
    parts = of.parts_of(packet)
    assert parts is not None
    body = packet[parts.at :]
    assert body[6:8] != b"\0\0"
    assert words(pseudo(ends, UDP, len(body)) + body) == 0xFFFF
    assert body[8:] == payload


@given(st.binary(max_size=100))
def test_the_checksum_is_that_of_the_rfc(data: bytes) -> None:
    assert of.checksum(data) == 0xFFFF - words(data)


@given(st.binary(max_size=120), st.sampled_from([b"", b"\x45", b"\x60"]))
def test_any_bytes_are_read_without_an_error(data: bytes, first: bytes) -> None:
    packet = first + data
    parts = of.parts_of(packet)
    if parts is not None:
        of.segment_of(packet, parts.at, parts.end)
        of.error_of(packet, parts)
    of.mss_of(data, 4)


def icmp(version: int, kind: int, code: int, mtu: int, about: bytes) -> bytes:
    """An error from a router. Its checksum is not read."""
    body = struct.pack("!BBHI", kind, code, 0, mtu) + about
    by, to = (ip_address("10.0.0.9"), ENDS[4][0]) if version == 4 else (ip_address("fd00::9"), ENDS[6][0])
    if version == 4:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, 1, 0)
    else:
        head = struct.pack("!IHBB", 6 << 28, len(body), 58, 64)
    return head + by.packed + to.packed + body


def outer(version: int, tunnel: Tunnel, inner: bytes) -> tuple[Address, bytes]:
    """The packet as it is on its way to the real server."""
    how = of.wrapping(tunnel, inner[0] >> 4)
    source, to = (
        (ip_address("10.9.1.1"), ip_address("10.9.2.1"))
        if version == 4
        else (ip_address("fd09:1::1"), ip_address("fd09:2::1"))
    )
    body = how.wrapped(inner)
    if how.protocol == UDP:
        body = struct.pack("!HHHH", 5, how.port, 8 + len(body), 0) + body
    if version == 4:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0x4000, 64, how.protocol, 0)
    else:
        head = struct.pack("!IHBB", 6 << 28, len(body), how.protocol, 64)
    return to, head + source.packed + to.packed + body


@pytest.mark.parametrize("tunnel", TUNNELS, ids=str)
@FAMILIES
def test_an_error_about_a_packet_in_a_tunnel_is_known_by_what_is_inside(version: int, tunnel: Tunnel) -> None:
    inner = Ends(*ENDS[version]).tcp((61441, 80), (1, 0), SYN)
    to, packet = outer(version, tunnel, inner)
    assert len(packet) - len(inner) == of.wrapping(tunnel, version).overhead(version)
    told = icmp(version, 3, 4, 1400, packet) if version == 4 else icmp(version, 2, 0, 1400, packet)
    parts = of.parts_of(told)
    assert parts is not None
    error = of.error_of(told, parts)
    assert error is not None
    assert (error.kind, error.mtu, error.server) == ("size", 1400, to.packed)
    assert (error.protocol, error.destination, error.ports) == (TCP, ENDS[version][1].packed, (61441, 80))
    assert error.number == 1


def test_an_error_that_shows_eight_bytes_names_the_server_alone() -> None:
    to, packet = outer(4, TUNNELS[0], Ends(*ENDS[4]).tcp((61441, 80), (1, 0), SYN))
    told = icmp(4, 3, 2, 0, packet[:28])
    parts = of.parts_of(told)
    assert parts is not None
    error = of.error_of(told, parts)
    assert error is not None
    assert (error.kind, error.server, error.ports) == ("protocol", to.packed, (0, 0))


def passes(version: int, packets: list[bytes]) -> list[bytes]:
    """What the filter lets through, by a pair of sockets."""
    program = of.filter_of(version, FIRST, MASK)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        held = ctypes.create_string_buffer(program, len(program))
        what = struct.pack("HP", len(program) // 8, ctypes.addressof(held))
        ours.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, what)
        for packet in packets:
            theirs.send(packet)
        ours.setblocking(False)
        found = []
        try:
            while True:
                found.append(ours.recv(2048))
        except BlockingIOError:
            return found


@FAMILIES
def test_the_kernels_filter_lets_through_what_comes_to_our_ports_and_errors(version: int) -> None:
    source, vip = ENDS[version]
    back = Ends(vip, source)
    ours = [
        back.tcp((80, FIRST), (1, 1), SYN | ACK),
        back.tcp((80, FIRST + 1023), (1, 1), RST | ACK, b"x" * 30),
        back.udp((53, FIRST + 5), b"answer"),
        icmp(version, 3 if version == 4 else 1, 3 if version == 4 else 4, 0, bytes(48)),
    ]
    others = [
        back.tcp((80, FIRST - 1), (1, 1), SYN | ACK),
        back.tcp((FIRST, 80), (1, 1), SYN | ACK),
        back.udp((FIRST + 5, 53), b"question"),
        icmp(version, 8 if version == 4 else 128, 0, 0, bytes(48)),
        bytes(60),
    ]
    assert passes(version, [*others, *ours]) == ours


def test_a_fragment_is_held_back() -> None:
    packet = bytearray(Ends(*ENDS[4][::-1]).udp((53, FIRST), b"answer"))
    packet[6] |= 0x20
    assert passes(4, [bytes(packet)]) == []
    assert of.parts_of(bytes(packet)) is None
