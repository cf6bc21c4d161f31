"""The protocol between the host and the lab's kernel: frames of many commands over one byte stream.

Bytes in, frames out; no I/O here. A frame is channel (4 bytes), kind (1), length (4), body. Channel 0 is the
connection itself, every other number is one command chosen by the side that opens it.

Flow control is per command and direction: a sender has at most WINDOW unacknowledged body bytes under way,
so a reader that stops never fills a buffer shared with other commands.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

WINDOW = 256 * 1024  # bytes
CHUNK = 16 * 1024  # largest body of a data frame, so that commands take turns
_HEAD = struct.Struct(">IBI")
_LARGEST = 16 * 1024 * 1024


class Kind(IntEnum):
    READY = 0  # the lab's kernel is up; body: text for the log
    OPEN = 1  # start a command; body: JSON, see guest.Command
    STDIN = 2  # empty body: end of file
    STDOUT = 3
    STDERR = 4
    CREDIT = 5  # body: number of data bytes consumed, 4 bytes
    RESIZE = 6  # body: rows and columns, 2 bytes each
    HANGUP = 7  # whoever opened the command is gone: end it
    EXIT = 8  # body: exit status as a shell would say it, 1 byte
    POWEROFF = 9


class Frame(NamedTuple):
    channel: int
    kind: Kind
    body: bytes = b""


class WireError(Exception):
    """The other side does not speak this protocol."""


def encode(frame: Frame) -> bytes:
    return _HEAD.pack(frame.channel, frame.kind, len(frame.body)) + frame.body


def credit(channel: int, count: int) -> Frame:
    return Frame(channel, Kind.CREDIT, count.to_bytes(4, "big"))


class Decoder:
    """Cuts a byte stream back into frames, however it arrives."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        self._rest += data
        frames = []
        at = 0
        while len(self._rest) - at >= _HEAD.size:
            channel, kind, length = _HEAD.unpack_from(self._rest, at)
            if kind not in Kind._value2member_map_ or length > _LARGEST:
                raise WireError(f"lab protocol: kind {kind} with {length} bytes is not a frame")
            if len(self._rest) - at < _HEAD.size + length:
                break
            start = at + _HEAD.size
            at = start + length
            frames.append(Frame(channel, Kind(kind), bytes(self._rest[start:at])))
        del self._rest[:at]
        return frames
