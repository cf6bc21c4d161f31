"""Addresses as bytes: what is asked for is what the kernel would answer."""

from __future__ import annotations

import struct
import sys
from ipaddress import ip_address

import pytest

from anycast.core.values.configuration import Address
from anycast.kernel import address_codec as codec
from anycast.kernel import netlink_codec
from anycast.kernel.netlink_codec import attribute

V4, V6 = ip_address("192.0.2.1"), ip_address("2001:db8::1")
ADDRESS, LOCAL, FLAGS = 1, 2, 8
NODAD, DADFAILED = 0x02, 0x08
SCOPES = {"global": 0, "link": 253, "host": 254}


def parsed(data: bytes) -> codec.Assigned | None:
    (message,) = netlink_codec.messages(data)
    return codec.parse(data, message)


def answer(*attributes: bytes, family: int = 2, prefix: int = 24, index: int = 7) -> bytes:
    body = struct.pack("=BBBBI", family, prefix, 0x80, 0, index) + b"".join(attributes)
    return netlink_codec.frame(codec.NEW_ADDRESS, 0, 1, body)


@pytest.mark.parametrize("address", [V4, V6])
def test_what_is_written_and_removed_is_read_as_that_address_as_a_single_host(address: Address) -> None:
    expected = codec.Assigned(7, address, address.max_prefixlen, plain=True)  # the kernel makes it last
    assert parsed(codec.addition(7, address)(1)) == expected
    assert parsed(codec.removal(7, address, address.max_prefixlen)(1)) == expected
    assert parsed(codec.question(7, address)(1)) == expected


def test_of_two_addresses_with_a_peer_the_local_one_is_the_nodes_own() -> None:
    peer = ip_address("192.0.2.9")
    data = answer(attribute(ADDRESS, peer.packed), attribute(LOCAL, V4.packed))
    assert parsed(data) == codec.Assigned(7, V4, 24, peer=peer)  # on a link, a network of the operator's
    (message,) = netlink_codec.messages(data)
    assert codec.usable(7, {V4.packed: V4}, data, message) == codec.Found(V4, plain=False)


@pytest.mark.parametrize("index", [1, 7])
@pytest.mark.parametrize("prefix", [24, 32])
def test_with_a_peer_it_is_not_ours_on_lo_and_on_a_link_it_stays(index: int, prefix: int) -> None:
    named = attribute(ADDRESS, ip_address("192.0.2.9").packed) + attribute(LOCAL, V4.packed)
    data = netlink_codec.frame(
        codec.NEW_ADDRESS, 0, 1, struct.pack("=BBBBI", 2, prefix, 0x80, SCOPES["host"], index) + named
    )
    (message,) = netlink_codec.messages(data)
    for there in ({V4.packed: V4}, {}):
        assert codec.usable(index, there, data, message) == codec.Found(V4, index == 1)


def test_what_stands_in_for_an_address_is_not_as_ours_and_is_named_by_its_removal() -> None:
    there = codec.standing_in(7, V4)
    assert parsed(codec.stand_in(7, V4)(1)) == there
    (message,) = netlink_codec.messages(codec.removal_of(there)(1))
    assert message.kind == codec.DEL_ADDRESS
    assert parsed(codec.removal_of(there)(1)) == there


@pytest.mark.parametrize(("flags", "usable"), [(NODAD, True), (DADFAILED, False)])
def test_an_address_that_another_machine_has_too_is_not_usable(flags: int, usable: bool) -> None:  # noqa: FBT001
    told = attribute(FLAGS, flags.to_bytes(4, sys.byteorder))
    data = answer(attribute(ADDRESS, V6.packed), told, family=10, prefix=128)
    assert parsed(data) == codec.Assigned(7, V6, 128, usable, plain=True)


def test_addresses_of_other_families_are_passed_over() -> None:
    assert parsed(answer(attribute(LOCAL, b"\1"), family=35)) is None


@pytest.mark.parametrize(
    "data",
    [
        netlink_codec.frame(codec.NEW_ADDRESS, 0, 1, b"\2\x18"),
        answer(attribute(LOCAL, b"\1\2\3")),
        answer(b"\xff\0\1\0"),
    ],
)
def test_bytes_that_are_no_address_are_refused(data: bytes) -> None:
    with pytest.raises(netlink_codec.Malformed):
        parsed(data)


def notice(kind: int, index: int) -> bytes:
    return struct.pack("=IHHII", 24, kind, 0, 0, 0) + struct.pack("=4xI", index)


def test_a_datagram_tells_every_interface_its_links_and_addresses_belong_to() -> None:
    new_route = 24
    data = notice(codec.NEW_LINK, 3) + notice(new_route, 4) + notice(codec.DEL_ADDRESS, 5)
    assert codec.changed(data) == {3, 5}


@pytest.mark.parametrize("data", [b"", b"\0" * 10, b"\0" * 64, notice(16, 3)[:-1]])
def test_a_damaged_datagram_tells_nothing_and_ends(data: bytes) -> None:
    assert codec.changed(data) == frozenset()


def announced(kind: int, address: Address, prefix: int, index: int = 7, peer: str = "") -> bytes:
    family = 2 if address.version == 4 else 10
    named = attribute(ADDRESS, address.packed)
    if peer:
        named = attribute(ADDRESS, ip_address(peer).packed) + attribute(LOCAL, address.packed)
    body = struct.pack("=BBBBI", family, prefix, 0x80, 0, index) + named
    return netlink_codec.frame(kind, 0, 1, body)


CAME, WENT = codec.NEW_ADDRESS, codec.DEL_ADDRESS


@pytest.mark.parametrize(
    ("told", "gone"),
    [
        ([announced(WENT, V4, 32), announced(WENT, V6, 128)], {V4, V6}),
        ([announced(WENT, V4, 32) + announced(CAME, V4, 32)], set()),
        ([announced(CAME, V4, 32), announced(WENT, V4, 32)], {V4}),
        # Another stands in meanwhile.
        (
            [
                announced(CAME, V4, 32, peer="0.0.0.1"),
                announced(WENT, V4, 32),
                announced(CAME, V4, 32),
                announced(WENT, V4, 32, peer="0.0.0.1"),
            ],
            set(),
        ),
        ([announced(WENT, V4, 32), announced(CAME, V4, 32, peer="0.0.0.1")], set()),
        ([announced(WENT, V4, 24), announced(CAME, V4, 32)], set()),
        ([announced(WENT, V4, 32, index=8)], set()),
        ([b"\0" * 64, announced(WENT, V4, 32), announced(WENT, V6, 128)[:-1]], {V4}),
        ([], set()),
    ],
)
def test_what_went_and_did_not_come_again_is_lost(told: list[bytes], gone: set[Address]) -> None:
    assert codec.lost(7, told) == gone


@pytest.mark.parametrize(
    ("address", "prefix", "scope", "flags", "index", "plain"),
    [
        (V4, 32, "host", 0x80, 7, False),
        (V4, 32, "global", 0x80, 7, True),
        (V4, 32, "link", 0x80, 1, True),
        (V4, 32, "host", 0x00, 7, True),  # it ends
        (V4, 24, "global", 0x80, 7, False),  # the operator's network
        (V4, 24, "global", 0x80, 1, True),  # on lo it is none
        (V4, 24, "host", 0x80, 1, True),
        (V4, 24, "host", 0x80, 7, False),
        (V6, 128, "global", 0xA2, 7, False),
        (V6, 128, "global", 0x82, 7, True),
        (V6, 128, "global", 0x22, 7, True),
        (V6, 64, "global", 0xA0, 7, False),
    ],
)
def test_what_may_be_a_source_or_ends_is_plain_however_it_is_read(
    address: Address, prefix: int, scope: str, flags: int, index: int, *, plain: bool
) -> None:
    family = 2 if address.version == 4 else 10
    head = struct.pack("=BBBBI", family, prefix, flags, SCOPES[scope], index)
    named = attribute(ADDRESS, address.packed)
    named += (
        attribute(LOCAL, address.packed)
        if address.version == 4
        else attribute(FLAGS, bytes([flags, 0, 0, 0]))
    )
    data = netlink_codec.frame(codec.NEW_ADDRESS, 0, 1, head + named)
    (message,) = netlink_codec.messages(data)
    assert codec.parse(data, message) == codec.Assigned(index, address, prefix, plain=plain)
    for there in ({address.packed: address}, {}):
        assert codec.usable(index, there, data, message) == codec.Found(address, plain)
