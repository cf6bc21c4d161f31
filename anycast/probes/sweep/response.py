"""An HTTP/1.1 response out of bytes, however they are cut: its status, and where it ends.

Strict where h11 is, and quick where a response comes whole: one regular expression over the head. Any bytes give
a status, an error, or the wish for more; what is kept of them has a bound.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

from anycast.probes.finding import PeerError

__all__ = ["BODY_LIMIT", "HEAD_LIMIT", "SHORT", "TOO_LONG", "Exchange", "begun", "shown", "whole"]

HEAD_LIMIT = 64 * 1024  # bytes up to the end of the final head, interim responses included
BODY_LIMIT = 64 * 1024  # bytes after the head that are read to use the connection again
_SHOWN = 80  # bytes of a foreign protocol
_HTTP = b"HTTP/"

_TEXT = rb"[^\x00\n\v\f\r]"
_STATUS = rb"HTTP/[0-9]\.[0-9] ([1-9][0-9]{2})(?: " + _TEXT + rb"*+)?+\r?\n"
_FIELD = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++:" + _TEXT + rb"*+\r?\n(?:[ \t]" + _TEXT + rb"*+\r?\n)*+"
_HEAD = re.compile(_STATUS + rb"(?:" + _FIELD + rb")*+\r?\n")
_STATUS_LINE = re.compile(_STATUS)
_BLANK_LINE = re.compile(rb"\n\r?\n")
_FOLD = re.compile(rb"\r?\n[ \t]+")
_FRAMING = re.compile(rb"\n(content-length|transfer-encoding|connection):[ \t]*([^\r\n]*)", re.IGNORECASE)
_SPACE = b" \t"
_CONNECTION = len(b"connection")  # the only one of the three so short
SHORT = 1024  # bytes of what is remembered with what came of it
_DIGITS = 20  # of a length, at most
_CHUNKED = -1
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;" + _TEXT + rb"*)?\r?\n")
_LINE_LIMIT = 4096  # bytes of a chunk's size with its extensions, and of a trailer


TOO_LONG = f"response head over {HEAD_LIMIT // 1024} KiB"


class Exchange:
    """The response to one request: `status` once its final head is there, `ended` once its body has ended too.

    1xx are passed over. Without `whole` nothing after the head is looked at. `reusable`: the connection will do for
    another request once this one has ended.
    """

    __slots__ = ("_body", "_data", "_passed", "_to_head", "_whole", "ended", "reusable", "status")

    def __init__(self, *, to_head: bool, whole: bool) -> None:
        """`to_head`: the request was HEAD, so there will be no body."""
        self.status = 0
        self.ended = self.reusable = False
        self._to_head = to_head
        self._whole = whole
        self._body: Body | None = None
        self._data = b""
        self._passed = 0  # bytes of interim responses

    @property
    def begun(self) -> bool:
        return bool(self.status or self._data or self._passed)

    def feed(self, data: bytes) -> None:
        """Bytes of the stream; none at its end. Raises PeerError until there is a status."""
        if not self.status:
            rest = self._head(data)
            if self._body is None or rest is None:
                return
            data = rest
        elif self.ended or not data:
            self.reusable = False  # the stream has ended, or nobody asked for what comes now
        if self.reusable and self._body is not None:
            try:
                self.ended = self._body.feed(data)
            except PeerError:
                self.reusable = False

    def _head(self, data: bytes) -> bytes | None:
        """What came after the final head; None: it is not there yet."""
        kept = self._data
        if not data:
            where = "closed within the response head" if self.begun else "closed without a response"
            raise PeerError(where)
        looked_at = 0
        if kept:
            data, looked_at = kept + data, max(0, len(kept) - 2)
        while data:
            # Of a head that comes in pieces only the new piece is looked at.
            head = None if kept and not _BLANK_LINE.search(data, looked_at) else _head_of(data)
            if head is None:
                self._incomplete(data, looked_at)
                return None
            if self._passed + head.end > HEAD_LIMIT:
                raise PeerError(TOO_LONG)
            if head.status >= 200:
                self._final(head)
                return data[head.end :]
            self._passed += head.end
            data, kept, looked_at = data[head.end :], b"", 0
        self._data = b""
        return None

    def _incomplete(self, data: bytes, looked_at: int) -> None:
        # A server of another protocol may never send a blank line: this one is seen at once.
        if not data.startswith(_HTTP[: len(data)]):
            if data.startswith((b"\n", b"\r\n")):
                raise PeerError("not an HTTP response: no response line received")
            raise PeerError(f"not an HTTP response: {shown(data)}")
        blank = _BLANK_LINE.search(data, looked_at)
        if blank is not None and self._passed + blank.end() <= HEAD_LIMIT:
            line = _STATUS_LINE.match(data)
            what = "illegal status line" if line is None else "illegal header line"
            raise PeerError(f"not an HTTP response: {what}: {shown(_culprit(data, line))}")
        if self._passed + len(data) > HEAD_LIMIT:
            raise PeerError(TOO_LONG)
        self._data = data

    def _final(self, head: Head) -> None:
        self.status = head.status
        if self._whole and head.persistent:
            length = 0 if self._to_head or head.status in {204, 304} else head.length
            if length is not None and length <= BODY_LIMIT:
                self._body = Body(length)
                self.reusable = True


class Head(NamedTuple):
    """Up to the blank line, which ends at `end`. `persistent`: the connection stays."""

    end: int
    status: int
    length: int | None  # of the body in bytes, or _CHUNKED; None: it ends with the stream
    persistent: bool


def _head_of(data: bytes) -> Head | None:
    """The first head; None: it is not there yet, or wrong. Raises PeerError for what it says of the body."""
    return _short_head_of(data) if len(data) <= SHORT else _parsed(data)


def _parsed(data: bytes) -> Head | None:
    match = _HEAD.match(data)
    if match is None:
        return None
    status = int(match[1])
    length, persistent = _framing(match[0])
    if status == 101:
        raise PeerError("not an HTTP response: 101, though nothing was to be switched")
    return Head(match.end(), status, length, persistent)


# The servers of a pool mostly say the same within a second.
_short_head_of = functools.lru_cache(maxsize=256)(_parsed)


@functools.lru_cache(maxsize=256)
def whole(data: bytes, *, to_head: bool) -> int:
    """The status of a response that these bytes are all of, and that leaves the connection usable; 0: look closer.

    For SHORT bytes at most. `to_head`: as of an Exchange.
    """
    exchange = Exchange(to_head=to_head, whole=True)
    try:
        exchange.feed(data)
    except PeerError:
        return 0
    return exchange.status if exchange.ended and exchange.reusable else 0


@functools.lru_cache(maxsize=256)
def begun(data: bytes) -> int:
    """The status of the final head that these bytes begin with; 0: look closer. For SHORT bytes at most."""
    try:
        head = _parsed(data)
    except PeerError:
        return 0
    return 0 if head is None or head.status < 200 else head.status


def _culprit(data: bytes, line: re.Match[bytes] | None) -> bytes:
    """The first line that is wrong."""
    if line is None:
        return data.split(b"\n", 1)[0].rstrip(b"\r")
    field, at = re.compile(_FIELD), line.end()
    while (good := field.match(data, at)) is not None:
        at = good.end()
    return data[at:].split(b"\n", 1)[0].rstrip(b"\r")


def shown(data: bytes) -> str:
    return data[:_SHOWN].decode(errors="replace")


def _framing(head: bytes) -> tuple[int | None, bool]:
    """`length` and `persistent` of a head."""
    if b"\n " in head or b"\n\t" in head:
        head = _FOLD.sub(b" ", head)
    length, chunked = b"", False
    persistent = head.startswith(b"HTTP/1.1")
    for name, value in _FRAMING.findall(head):
        match name[0]:
            case 0x54 | 0x74:  # Transfer-Encoding
                if chunked:
                    raise PeerError("not an HTTP response: multiple Transfer-Encoding headers")
                if value.strip(_SPACE).lower() != b"chunked":
                    raise PeerError("not an HTTP response: Only Transfer-Encoding: chunked is supported")
                chunked = True
            case _ if len(name) == _CONNECTION:
                options = value.lower().split(b",")
                persistent = persistent and not any(option.strip(_SPACE) == b"close" for option in options)
            case _:
                length = _content_length(value, length)
    return _CHUNKED if chunked else int(length) if length else None, persistent


def _content_length(value: bytes, before: bytes) -> bytes:
    if not value.isdigit():
        numbers = {number.strip() for number in value.split(b",")}
        if len(numbers) > 1:
            raise PeerError("not an HTTP response: conflicting Content-Length headers")
        value = numbers.pop()
    if len(value) > _DIGITS or not value.isdigit():
        raise PeerError("not an HTTP response: bad Content-Length")
    if before not in {b"", value}:
        raise PeerError("not an HTTP response: conflicting Content-Length headers")
    return value


class Body:
    """Takes the bytes after a head until the body has ended, and keeps none of it."""

    __slots__ = ("_left", "_line", "_read", "_stage")

    def __init__(self, length: int) -> None:
        """`length` in bytes, or _CHUNKED."""
        self._left = max(0, length)
        self._stage = _SIZE if length == _CHUNKED else _DATA
        self._line = b""  # a part of a line of the chunked framing
        self._read = 0

    def feed(self, data: bytes) -> bool:
        """Whether the body has ended. Raises PeerError: the connection cannot be used again."""
        self._read += len(data)
        if self._read > BODY_LIMIT + _LINE_LIMIT:
            raise PeerError("more of a body than is read")
        if self._stage == _DATA:
            return self._plain(data)
        return self._chunks(data)

    def _plain(self, data: bytes) -> bool:
        if len(data) > self._left:
            raise PeerError("bytes after the body")
        self._left -= len(data)
        return not self._left

    def _chunks(self, data: bytes) -> bool:
        data = self._line + data
        self._line = b""
        at = 0
        while at < len(data):
            if self._stage == _CHUNK:
                taken = min(self._left, len(data) - at)
                self._left -= taken
                at += taken
                if not self._left:
                    self._stage = _CHUNK_END
                continue
            newline = data.find(b"\n", at)
            if newline < 0:
                if len(data) - at > _LINE_LIMIT:
                    raise PeerError("a line without end in a chunked body")
                self._line = data[at:]
                return False
            line, at = data[at : newline + 1], newline + 1
            if self._line_ends_body(line):
                if at < len(data):
                    raise PeerError("bytes after the body")
                return True
        return False

    def _line_ends_body(self, line: bytes) -> bool:
        blank = line in {b"\r\n", b"\n"}
        if self._stage == _SIZE:
            match = _CHUNK_SIZE.fullmatch(line)
            if match is None:
                raise PeerError("no size of a chunk")
            self._left = int(match[1], 16)
            self._stage = _CHUNK if self._left else _TRAILERS
        elif self._stage == _CHUNK_END:
            if not blank:
                raise PeerError("a chunk longer than its size")
            self._stage = _SIZE
        else:
            return blank
        return False


_DATA, _SIZE, _CHUNK, _CHUNK_END, _TRAILERS = range(5)
