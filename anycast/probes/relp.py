"""The relp check: a session is opened and closed in order. rsyslog writes no log line for it.

A frame is `TXNR SP COMMAND SP DATALEN [SP DATA] LF`.
"""

from __future__ import annotations

import re
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple

from anycast.core.values.checks import RelpCheck
from anycast.core.values.configuration import Address
from anycast.probes.finding import Finding, PeerError, Progress, fail
from anycast.probes.stream import Stream, opened

__all__ = ["Frame", "Frames", "check"]

_LIMIT = 64 * 1024  # bytes of the whole session
_DATA = 16 * 1024  # bytes of a frame's data
_HEADER = re.compile(rb"([0-9]{1,9}) ([A-Za-z]{1,32}) ([0-9]{1,9})(?=[ \n])")
_LONGEST_HEADER = 9 + 1 + 32 + 1 + 9
_OPEN, _CLOSE = 1, 2  # numbers of our transactions
_OFFER = b"relp_version=0\nrelp_software=anycast\ncommands=syslog"
_SHOWN = 80


class Frame(NamedTuple):
    number: int
    command: str
    data: bytes = b""

    def encode(self) -> bytes:
        data = b" " + self.data if self.data else b""
        return b"%d %s %d%s\n" % (self.number, self.command.encode(), len(self.data), data)


class Frames:
    """Bytes in, frames out, however they are cut."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are complete now. Raises PeerError, and is of no use afterwards."""
        self._rest += data
        found: list[Frame] = []
        while self._rest:
            taken = self._take()
            if taken is None:
                break
            frame, size = taken
            found.append(frame)
            self._rest = self._rest[size:]
        return found

    def _take(self) -> tuple[Frame, int] | None:
        header = _HEADER.match(self._rest)
        if header is None:
            if len(self._rest) > _LONGEST_HEADER or not _may_become_a_header(self._rest):
                raise self._no_frame()
            return None
        length = int(header[3])
        if length > _DATA:
            raise PeerError(f"not RELP: a frame of {length} bytes")
        start = header.end()
        spaced = self._rest[start : start + 1] == b" "
        if length and not spaced:
            raise self._no_frame()
        start += spaced  # some send it before no data too
        end = start + length
        if len(self._rest) <= end:
            return None
        if self._rest[end : end + 1] != b"\n":
            raise self._no_frame()
        return Frame(int(header[1]), header[2].decode(), self._rest[start:end]), end + 1

    def _no_frame(self) -> PeerError:
        return PeerError(f"not RELP: {self._rest[:_SHOWN].decode(errors='replace')}")


def _may_become_a_header(begin: bytes) -> bool:
    return bool(re.fullmatch(rb"[0-9]{1,9}( ([A-Za-z]{1,32}( [0-9]{0,9})?)?)?", begin))


async def check(kind: RelpCheck, address: Address, port: int, progress: Progress) -> Finding:
    """OK once the server has agreed to open a session and to close it. Raises OSError."""
    opening = opened(address, port, progress, tls=kind.tls, limit=_LIMIT)
    return await _talk(opening, progress)


async def _talk(opening: AbstractAsyncContextManager[Stream], progress: Progress) -> Finding:
    frames = Frames()
    async with opening as stream:
        progress.missing = "answer to open"
        closing = False
        await stream.send(Frame(_OPEN, "open", _OFFER).encode())
        while True:
            data = await stream.receive()
            if not data:
                return fail(f"closed without an {progress.missing}")
            for frame in frames.feed(data):
                progress.say("received %d %s %r", *frame[:2], frame.data[:_SHOWN])
                match frame:
                    case Frame(number=0, command="serverclose"):
                        return stream.warning if closing else fail("the server closes the session")
                    case Frame(command="rsp", number=number) if number == _CLOSE and closing:
                        return stream.warning
                    case Frame(command="rsp", number=number) if number == _OPEN and not closing:
                        if frame.data.split(b" ", 1)[0] != b"200":
                            answer = frame.data[:_SHOWN].decode(errors="replace")
                            return fail(f"the session was refused: {answer}")
                        closing = True
                    case _:
                        return fail(f"unexpected frame: {frame.number} {frame.command}")
            if closing and progress.missing == "answer to open":
                progress.missing = "answer to close"
                await stream.send(Frame(_CLOSE, "close").encode())
