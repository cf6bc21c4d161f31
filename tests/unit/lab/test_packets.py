from __future__ import annotations

import struct

from lab.packets import BGP_UPDATE, RST, bgp_types, segment


def frame(
    payload: bytes, *, flags: int = 0x18, protocol: int = 6, padding: bytes = b"", options: bytes = b""
) -> bytes:
    tcp = struct.pack("!HHIIBBHHH", 179, 40000, 1, 2, (20 + len(options)) // 4 << 4, flags, 0, 0, 0) + options
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(tcp) + len(payload), 0, 0, 64, protocol, 0, b"", b""
    )
    return bytes(12) + b"\x08\x00" + head + tcp + payload + padding


def message(kind: int, body: bytes = b"") -> bytes:
    return b"\xff" * 16 + struct.pack("!HB", 19 + len(body), kind) + body


def test_a_segment_is_cut_out_without_options_and_padding() -> None:
    found = segment(frame(b"hello", options=bytes(12), padding=bytes(6)))
    assert found == (179, 40000, 0x18, b"hello")
    refused = segment(frame(b"", flags=0x14, padding=bytes(6)))
    assert refused is not None
    assert refused.flags & RST
    assert refused.payload == b""


def test_what_is_no_tcp_over_ipv4_is_nothing() -> None:
    assert segment(frame(b"x", protocol=17)) is None
    assert segment(bytes(60)) is None
    assert segment(b"") is None


def test_messages_of_one_segment_are_told_apart() -> None:
    assert bgp_types(message(4) + message(BGP_UPDATE, b"abcd") + message(4)[:10]) == [4, BGP_UPDATE]
    assert bgp_types(b"no bgp at all, but long enough") == []
