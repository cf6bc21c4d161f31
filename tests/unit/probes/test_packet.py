"""Segments by hand: what is written is what the kernel would write, and nothing that comes in can break the reader."""

from __future__ import annotations

import ctypes
import ipaddress
import socket
import struct
from dataclasses import replace
from typing import Literal, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.probes.packet import HOPS, Answer, Flow, ack, answer, checksum, ends, filter_of, rst, syn

_SO_ATTACH_FILTER = 26
SYN, RST, ACK, FIN = 0x02, 0x04, 0x10, 0x01

ports = st.integers(1, 65535)
numbers = st.integers(0, 0xFFFFFFFF)


def flows_of(version: Literal[4, 6]) -> st.SearchStrategy[Flow]:
    address = st.ip_addresses(v=version)
    return st.builds(Flow, source=address, source_port=ports, address=address, port=ports)


flows = st.one_of(flows_of(4), flows_of(6))
FLOWS = {
    4: Flow(
        source=ipaddress.ip_address("10.9.2.254"),
        source_port=40112,
        address=ipaddress.ip_address("192.0.2.1"),
        port=80,
    ),
    6: Flow(
        source=ipaddress.ip_address("fd09:2::fe"),
        source_port=40112,
        address=ipaddress.ip_address("2001:db8::1"),
        port=80,
    ),
}


def ones_complement(data: bytes) -> int:
    """RFC 1071 by another way: the sum modulo 65535, whose two zeroes are told apart by hand."""
    number = int.from_bytes(data + bytes(len(data) % 2), "big")
    rest = number % 0xFFFF
    return 0xFFFF - (0xFFFF if rest == 0 and number else rest)


def reply(
    flow: Flow,
    acknowledged: int,
    flags: int,
    *,
    options: bytes = b"",
    payload: bytes = b"",
    ip_options: bytes = b"",
) -> bytes:
    """A packet the other way."""
    tcp = struct.pack(
        "!HHIIBBHHH", flow.port, flow.source_port, 7, acknowledged, (20 + len(options)) << 2, flags, 1, 0, 0
    )
    tcp += options + payload
    ends = flow.address.packed + flow.source.packed
    if flow.address.version == 6:
        return struct.pack("!IHBB", 6 << 28, len(tcp), 6, 64) + ends + tcp
    length = 20 + len(ip_options)
    head = struct.pack("!BBHHHBBH", 0x40 | length // 4, 0, length + len(tcp), 1, 0, 64, 6, 0)
    return head + ends + ip_options + tcp


@given(st.binary(max_size=200))
def test_the_checksum_is_that_of_a_second_implementation(data: bytes) -> None:
    assert checksum(data) == ones_complement(data)


@given(flows, numbers, st.sampled_from([SYN, ACK, RST]))
def test_every_packet_has_right_checksums_and_lengths(flow: Flow, sequence: int, flags: int) -> None:
    accepted = reply(flow, sequence + 1 & 0xFFFFFFFF, SYN | ACK)
    packet = {SYN: syn(flow, sequence), ACK: ack(flow, sequence, accepted), RST: rst(flow, sequence)}[flags]
    if flow.address.version == 4:
        header, segment = packet[:20], packet[20:]
        assert ones_complement(header) == 0
        assert struct.unpack_from("!H", header, 2)[0] == len(packet)
        assert (header[0], header[8], header[9]) == (0x45, HOPS, 6)
        pseudo = header[12:20] + struct.pack("!BBH", 0, 6, len(segment))
    else:
        header, segment = packet[:40], packet[40:]
        assert struct.unpack_from("!H", header, 4)[0] == len(segment)
        assert (header[0] >> 4, header[6], header[7]) == (6, 6, HOPS)
        pseudo = header[8:40] + struct.pack("!IHBB", len(segment), 0, 0, 6)
    assert ones_complement(pseudo + segment) == 0
    assert (segment[12] >> 4) * 4 == len(segment)
    assert struct.unpack_from("!HHII", segment) == (
        flow.source_port, flow.port, (sequence + (flags != SYN)) & 0xFFFFFFFF, 8 if flags == ACK else 0,
    )  # fmt: skip
    assert segment[13] == flags


@given(flows, numbers)
def test_syn_ack_and_rst_to_the_number_that_was_sent_are_answers(flow: Flow, sequence: int) -> None:
    acknowledged = sequence + 1 & 0xFFFFFFFF
    assert answer(reply(flow, acknowledged, SYN | ACK, options=bytes(8)), flow, sequence) is Answer.ACCEPTED
    assert answer(reply(flow, acknowledged, RST | ACK), flow, sequence) is Answer.REFUSED
    for flags in (0, SYN, RST, ACK, FIN | ACK):
        assert answer(reply(flow, acknowledged, flags), flow, sequence) is None
    assert answer(reply(flow, sequence, SYN | ACK), flow, sequence) is None
    assert answer(syn(flow, sequence), flow, sequence) is None


@given(flows, numbers)
def test_the_fin_and_the_rst_of_the_server_end_the_connection(flow: Flow, sequence: int) -> None:
    acknowledged = sequence + 1 & 0xFFFFFFFF
    for flags, number in ((FIN | ACK, acknowledged), (RST, 0), (RST | ACK, acknowledged)):
        assert ends(reply(flow, number, flags, payload=b"x"), flow, sequence)
    for flags, number in ((SYN | ACK, acknowledged), (ACK, acknowledged), (FIN | ACK, sequence)):
        assert not ends(reply(flow, number, flags), flow, sequence)
    assert not ends(syn(flow, sequence), flow, sequence)
    assert not ends(reply(replace(flow, port=flow.port ^ 1), acknowledged, RST), flow, sequence)


def test_an_answer_with_ip_options_and_padding_is_read() -> None:
    packet = reply(FLOWS[4], 8, SYN | ACK, ip_options=bytes(8), payload=bytes(6))
    assert answer(packet, FLOWS[4], 7) is Answer.ACCEPTED


CHANGES = [
    {"port": 81},
    {"source_port": 40113},
    {"address": ipaddress.ip_address("192.0.2.2")},
    {"source": ipaddress.ip_address("10.9.2.253")},
]


@pytest.mark.parametrize("change", CHANGES)
def test_an_answer_in_another_flow_is_none(change: dict[str, object]) -> None:
    other = replace(FLOWS[4], **change)  # type: ignore[arg-type]
    assert answer(reply(other, 8, SYN | ACK), FLOWS[4], 7) is None


@given(flows, numbers, st.binary(max_size=120))
def test_any_bytes_give_an_outcome(flow: Flow, sequence: int, packet: bytes) -> None:
    assert answer(packet, flow, sequence) in (None, *Answer)


@given(flows, st.data())
def test_an_answer_with_any_damage_gives_an_outcome(flow: Flow, data: st.DataObject) -> None:
    packet = bytearray(reply(flow, 8, SYN | ACK))
    packet[data.draw(st.integers(0, len(packet) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(packet[: data.draw(st.integers(0, len(packet)))])
    assert answer(cut, flow, 7) in (None, *Answer)


class Filter:
    """The kernel's own filter, on a socket that needs no privilege."""

    def __init__(self, program: bytes) -> None:
        self._to, self._from = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        held = ctypes.create_string_buffer(program, len(program))
        what = struct.pack("HP", len(program) // 8, ctypes.addressof(held))
        self._from.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, what)
        self._from.setblocking(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._to.close()
        self._from.close()

    def passes(self, packet: bytes) -> bool:
        try:
            self._to.send(packet)
        except OSError:  # a packet that is filtered counts as one that nobody took
            return False
        try:
            return self._from.recv(2048) == packet
        except BlockingIOError:
            return False


@given(flows)
def test_the_kernels_filter_lets_answers_through_whole(flow: Flow) -> None:
    with Filter(filter_of(flow)) as seen:
        assert seen.passes(reply(flow, 8, SYN | ACK, options=bytes(12)))
        assert seen.passes(reply(flow, 8, RST | ACK))
        if flow.address.version == 4:
            assert seen.passes(reply(flow, 8, SYN | ACK, ip_options=bytes(12)))


@given(flows, st.data())
def test_what_the_filter_holds_back_is_no_answer(flow: Flow, data: st.DataObject) -> None:
    packet = bytearray(reply(flow, 8, SYN | ACK))
    for _ in range(data.draw(st.integers(0, 2))):
        packet[data.draw(st.integers(0, len(packet) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with Filter(filter_of(flow)) as seen:
        if not seen.passes(bytes(packet)):
            assert answer(bytes(packet), flow, 7) is None


@pytest.mark.parametrize("version", [4, 6])
def test_the_filter_holds_back_every_other_flow(version: int) -> None:
    flow = FLOWS[version]
    other = {4: "192.0.2.9", 6: "2001:db8::9"}[version]
    with Filter(filter_of(flow)) as seen:
        for changed in (
            replace(flow, port=81),
            replace(flow, source_port=40113),
            replace(flow, address=ipaddress.ip_address(other)),
            replace(flow, source=ipaddress.ip_address(other)),
        ):
            assert not seen.passes(reply(changed, 8, SYN | ACK))
        packet = bytearray(reply(flow, 8, SYN | ACK))
        packet[9 if version == 4 else 6] = 17
        assert not seen.passes(bytes(packet))
        if version == 4:
            fragment = bytearray(reply(flow, 8, SYN | ACK))
            fragment[7] = 1
            assert not seen.passes(bytes(fragment))
        assert not seen.passes(b"")
        assert not seen.passes(bytes(7))
