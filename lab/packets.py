"""TCP segments and BGP messages out of captured frames: bytes in, values out."""

from __future__ import annotations

import struct
from typing import NamedTuple

RST = 0x04
BGP_PORT, BGP_UPDATE = 179, 2
_MARKER = b"\xff" * 16
_TCP = 6


class Segment(NamedTuple):
    """A TCP segment over IPv4."""

    source: int  # port
    destination: int
    flags: int
    payload: bytes


def segment(frame: bytes) -> Segment | None:
    """Of an Ethernet frame; None: it is something else."""
    if len(frame) < 54 or frame[12:14] != b"\x08\x00" or frame[23] != _TCP:
        return None
    start = 14 + (frame[14] & 0xF) * 4
    end = 14 + struct.unpack_from("!H", frame, 16)[0]  # what follows is padding
    source, destination = struct.unpack_from("!HH", frame, start)
    return Segment(source, destination, frame[start + 13], frame[start + (frame[start + 12] >> 4) * 4 : end])


def bgp_types(payload: bytes) -> list[int]:
    """Of the messages that begin in a segment whose first byte begins one."""
    found = []
    while len(payload) >= 19 and payload.startswith(_MARKER):
        length, kind = struct.unpack_from("!HB", payload, 16)
        found.append(kind)
        payload = payload[max(length, 19) :]
    return found
