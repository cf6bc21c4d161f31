"""The http and https checks: one request, judged by the final status as soon as the response head is complete.

The body is read only where an expression is to be found in it, and of it the first 64 KiB.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from urllib.parse import urlsplit

import h11

from anycast.core.values.configuration import Address, HttpCheck
from anycast.probes.finding import Finding, PeerError, Progress, fail, unusable
from anycast.probes.stream import Stream, TooMuchError, judged, literal, opened
from anycast.regex import RegexError, compiled

__all__ = ["check", "expected", "request_of", "server_name", "unformed"]

_HEAD_LIMIT = 64 * 1024  # bytes received without a final head, interim responses included
_BODY_LIMIT = 64 * 1024  # bytes of the body that are searched
_HTTP = b"HTTP/"
_SHOWN = 80  # bytes of a foreign protocol


async def check(kind: HttpCheck, address: Address, port: int, progress: Progress) -> Finding:
    """OK if the final status is in `kind.expect`, and `kind.body` is found. Raises OSError."""
    parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_LIMIT)
    try:
        request = _request(parser, kind, address, port, close=True)
        name = server_name(kind)
        if kind.body is not None:
            compiled(kind.body)
    except RegexError as error:
        return unusable(error)
    except (h11.LocalProtocolError, ValueError, TypeError) as error:
        return unformed(error)
    limit = _HEAD_LIMIT + (_BODY_LIMIT if kind.body is not None else 0)
    opening = opened(address, port, progress, tls=kind.tls_settings, name=name, limit=limit)
    return await judged(_talk(opening, kind, parser, request, progress))


async def _talk(
    opening: AbstractAsyncContextManager[Stream],
    kind: HttpCheck,
    parser: h11.Connection,
    request: bytes,
    progress: Progress,
) -> Finding:
    async with opening as stream:
        progress.missing = "complete response head"
        progress.say("sending %s %s", kind.method, kind.path)
        await stream.send(request)
        try:
            status = await _status(stream, parser)
            progress.say("status %d", status)
            if status not in kind.expect:
                return fail(f"status {status}, expected {expected(kind.expect)}")
            if kind.body is not None and kind.method != "HEAD":
                progress.missing = "complete response body"
                body = await _body(stream, parser)
                progress.say("body of %d bytes", len(body))
                if compiled(kind.body).search(body) is None:
                    return fail(f"the body does not hold {kind.body!r}, it begins {_begin(body)!r}")
        except TooMuchError:
            return fail(_TOO_LONG)
        except h11.RemoteProtocolError as error:
            return fail(_TOO_LONG if error.error_status_hint == 431 else f"not an HTTP response: {error}")
        return stream.warning


def unformed(error: Exception) -> Finding:
    return unusable(f"the request cannot be formed, correct the check's host, method or path: {error}")


def server_name(kind: HttpCheck) -> str | None:
    """The name in the check's Host header. Raises ValueError."""
    return urlsplit(f"//{kind.host}").hostname if kind.host else None


def request_of(kind: HttpCheck, address: Address, port: int, *, close: bool) -> bytes:
    """The whole request. `close`: it asks the server to close after its response.

    Raises h11.LocalProtocolError, ValueError, TypeError for one that cannot be formed.
    """
    return _request(h11.Connection(h11.CLIENT), kind, address, port, close=close)


def _request(parser: h11.Connection, kind: HttpCheck, address: Address, port: int, *, close: bool) -> bytes:
    own = {name.lower() for name, _ in kind.headers}
    defaults = (("User-Agent", "anycast"), ("Accept", "*/*"))
    headers = [
        ("Host", kind.host or _authority(address, port, default=443 if kind.tls else 80)),
        *(header for header in defaults if header[0].lower() not in own),
        *((("Connection", "close"),) if close else ()),
        *kind.headers,
    ]
    if kind.method not in {"GET", "HEAD"}:
        headers.append(("Content-Length", "0"))
    request = h11.Request(method=kind.method, target=kind.path, headers=headers)
    return (parser.send(request) or b"") + (parser.send(h11.EndOfMessage()) or b"")


def _authority(address: Address, port: int, *, default: int) -> str:
    host = literal(address) if address.version == 4 else f"[{literal(address)}]"
    return host if port == default else f"{host}:{port}"


async def _status(stream: Stream, parser: h11.Connection) -> int:
    """The final status, however its head is cut into pieces. 1xx are passed over."""
    begin = b""
    while True:
        event = parser.next_event()
        if isinstance(event, h11.Response):
            return event.status_code
        if event is h11.NEED_DATA:
            data = await stream.receive()
            if not data:
                where = "closed within the response head" if begin else "closed without a response"
                raise PeerError(where)
            begin = begin or data[:_SHOWN]
            # h11 would wait for a blank line that a server of another protocol never sends.
            if not begin.startswith(_HTTP[: len(begin)]):
                raise PeerError(f"not an HTTP response: {_begin(begin)}")
            parser.receive_data(data)


async def _body(stream: Stream, parser: h11.Connection) -> bytes:
    """The body, or its first 64 KiB."""
    body = bytearray()
    while len(body) < _BODY_LIMIT:
        event = parser.next_event()
        if isinstance(event, h11.Data):
            body += event.data
        elif event is h11.NEED_DATA:
            try:
                parser.receive_data(await stream.receive())
            except TooMuchError:
                break  # framing has eaten up the rest: what came must do
        else:
            break
    return bytes(body[:_BODY_LIMIT])


def _begin(data: bytes) -> str:
    return data[:_SHOWN].decode(errors="replace")


@functools.lru_cache(maxsize=128)
def expected(expect: frozenset[int]) -> str:
    return ", ".join(_ranges(expect)) or "none"


def _ranges(expect: frozenset[int]) -> Iterator[str]:
    """`2xx` for a whole class, `500-503` for a row, single numbers otherwise."""
    rest = set(expect)
    for hundred in range(1, 10):
        whole = set(range(hundred * 100, hundred * 100 + 100))
        if whole <= rest:
            yield f"{hundred}xx"
            rest -= whole
    row: list[int] = []
    for status in [*sorted(rest), -1]:
        if row and status != row[-1] + 1:
            yield str(row[0]) if len(row) == 1 else f"{row[0]}-{row[-1]}"
            row = []
        row.append(status)


_TOO_LONG = f"response head over {_HEAD_LIMIT // 1024} KiB"
