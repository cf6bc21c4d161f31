"""Bytes about TCP connections that are none."""

import contextlib
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.kernel import tcp_codec as codec
from anycast.kernel.netlink_codec import Malformed, Message, attribute

HEAD = 72


def parsed(body: bytes) -> codec.Sending | None:
    return codec.parse(body, Message(20, 0, 1, 0, 0, len(body)))


def test_a_whole_answer_is_read() -> None:
    ends = struct.pack("!HH", 40_000, 179) + socket.inet_aton("10.2.1.1") + bytes(12)
    ends += socket.inet_aton("10.2.1.254") + bytes(12)
    head = bytes([socket.AF_INET, 1, 0, 0]) + ends + struct.pack("=I", 7) + b"cookie!!"
    info = bytes(120) + struct.pack("=Q", 5) + bytes(100)
    found = parsed(head + struct.pack("=IIIII", 0, 0, 7_000, 0, 0) + attribute(2, info))
    assert found is not None
    assert (found.waiting, found.taken) == (7_000, 5)
    one = found.connection
    assert (str(one.local), one.local_port, str(one.remote), one.remote_port) == (
        "10.2.1.1",
        40_000,
        "10.2.1.254",
        179,
    )
    assert (one.interface, one.cookie) == (7, b"cookie!!")
    assert parsed(bytes([socket.AF_INET, 6, 0, 0]) + head[4:] + bytes(20)) is None  # TIME_WAIT
    with pytest.raises(Malformed, match="tcp_info of 0 bytes"):
        parsed(head + bytes(20))
    with pytest.raises(Malformed, match="family 99"):
        parsed(b"\x63" + head[1:] + bytes(20) + attribute(2, info))


@given(st.binary(max_size=400))
def test_any_bytes_are_an_answer_or_malformed(data: bytes) -> None:
    with contextlib.suppress(Malformed):
        parsed(data)
