"""Announcements of settings: which of them are of all interfaces, whatever the bytes."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.kernel.netconf_codec import everywhere


def notice(kind: int, index: int, name: int = 1) -> bytes:
    attributes = struct.pack("=HHi", 8, name, index) + struct.pack("=HHi", 8, 2, 1)
    return struct.pack("=IHHII", 20 + len(attributes), kind, 0, 0, 0) + b"\2\0\0\0" + attributes


def test_a_setting_of_all_interfaces_is_told_wherever_it_stands() -> None:
    assert everywhere(notice(80, -1))
    assert everywhere(notice(80, 3) + notice(16, 4) + notice(80, -1))


@pytest.mark.parametrize(
    "data",
    [
        notice(80, 3),
        notice(80, -2),
        notice(81, -1),
        notice(16, -1),
        notice(80, -1, name=2),
        notice(80, -1)[:27],
        b"",
    ],
    ids=["one interface", "default", "gone", "a link", "another attribute", "cut off", "nothing"],
)
def test_nothing_else_is(data: bytes) -> None:
    assert not everywhere(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_to_their_end(data: bytes) -> None:
    assert everywhere(data) in (True, False)
