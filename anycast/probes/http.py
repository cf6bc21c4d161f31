"""The http and https checks: one request, judged by the final status as soon as the response head is complete.

Nothing of the body is waited for. TLS runs over memory buffers, so both sorts share one way of reading.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

import h11

from anycast.core.model import Address, HttpCheck
from anycast.probes.finding import OK, Finding, Progress, fail, one_line, unknown
from anycast.probes.tcp import connect

__all__ = ["check"]

_HEAD_LIMIT = 64 * 1024  # bytes received without a final head, interim responses included
_TLS_LIMIT = 256 * 1024  # the same on the wire: certificates and framing come on top
_CHUNK = 16 * 1024
_HTTP = b"HTTP/"
_SHOWN = 80  # bytes of a foreign protocol
_CERTIFICATE_EXPIRED = 10  # X509_V_ERR_CERT_HAS_EXPIRED
_NOT_TLS = frozenset(
    {"HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE", "WRONG_VERSION_NUMBER"}
)


class _BadResponseError(Exception):
    """The peer's bytes are no acceptable response; the message says why."""


async def check(kind: HttpCheck, address: Address, port: int, progress: Progress) -> Finding:
    """OK if the final status is in `kind.expect`. Raises OSError."""
    parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_LIMIT)
    try:
        request = _request(parser, kind, address, port)
        tls = _Tls(_server_name(kind, address), verify=kind.verify) if kind.tls else None
    except (h11.LocalProtocolError, ValueError, TypeError) as error:
        return unknown(f"the request cannot be formed, correct the check's host, method or path: {error}")
    with await connect(address, port) as sock:
        try:
            stream: _Plain | _Tls = _Plain(sock, _HEAD_LIMIT)
            if tls is not None:
                progress.missing = "TLS handshake"
                await tls.handshake(_Plain(sock, _TLS_LIMIT))
                stream = tls
            progress.missing = "complete response head"
            await stream.send(request)
            status = await _status(stream, parser)
        except ssl.SSLError as error:
            return fail(_tls_detail(error))
        except h11.RemoteProtocolError as error:
            return fail(_TOO_LONG if error.error_status_hint == 431 else f"not an HTTP response: {error}")
        except _BadResponseError as error:
            return fail(str(error))
    return OK if status in kind.expect else fail(f"status {status}, expected {_expected(kind.expect)}")


def _request(parser: h11.Connection, kind: HttpCheck, address: Address, port: int) -> bytes:
    headers = [
        ("Host", kind.host or _authority(address, port, default=443 if kind.tls else 80)),
        ("User-Agent", "anycast"),
        ("Accept", "*/*"),
        ("Connection", "close"),
    ]
    if kind.method not in {"GET", "HEAD"}:
        headers.append(("Content-Length", "0"))
    request = h11.Request(method=kind.method, target=kind.path, headers=headers)
    return (parser.send(request) or b"") + (parser.send(h11.EndOfMessage()) or b"")


def _authority(address: Address, port: int, *, default: int) -> str:
    host = _literal(address) if address.version == 4 else f"[{_literal(address)}]"
    return host if port == default else f"{host}:{port}"


def _server_name(kind: HttpCheck, address: Address) -> str:
    """What the certificate must be valid for; sent as SNI if it is a name."""
    return (urlsplit(f"//{kind.host}").hostname if kind.host else None) or _literal(address)


def _literal(address: Address) -> str:
    return str(address).partition("%")[0]  # a zone is this node's own affair


class _Plain:
    def __init__(self, sock: socket.socket, limit: int) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._left = limit

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._sock, data)

    async def receive(self) -> bytes:
        """Some bytes; none at the end of the stream."""
        # sock_recv does not suspend while bytes are there: without the limit a peer that never stops sending
        # would hold the event loop, and no timeout could fire.
        if self._left <= 0:
            raise _BadResponseError(_TOO_LONG)
        data = await self._loop.sock_recv(self._sock, _CHUNK)
        self._left -= len(data)
        return data


class _Tls:
    _wire: _Plain

    def __init__(self, server_name: str, *, verify: bool) -> None:
        """Raises ValueError for a name TLS cannot carry."""
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = _context(verify).wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)

    async def handshake(self, wire: _Plain) -> None:
        """Raises ssl.SSLError."""
        self._wire = wire
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._exchange()
            else:
                return await self._flush()

    async def send(self, data: bytes) -> None:
        self._tls.write(data)
        await self._flush()

    async def receive(self) -> bytes:
        """Some bytes; none at the end of the stream, however it ended."""
        while True:
            try:
                return self._tls.read(_CHUNK)
            except ssl.SSLWantReadError:
                await self._exchange()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""

    async def _exchange(self) -> None:
        await self._flush()
        if data := await self._wire.receive():
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await self._wire.send(self._outgoing.read())


async def _status(stream: _Plain | _Tls, parser: h11.Connection) -> int:
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
                raise _BadResponseError(where)
            begin = begin or data[:_SHOWN]
            # h11 would wait for a blank line that a server of another protocol never sends.
            if not begin.startswith(_HTTP[: len(begin)]):
                raise _BadResponseError(f"not an HTTP response: {begin.decode(errors='replace')}")
            parser.receive_data(data)


@functools.cache
def _context(verify: bool) -> ssl.SSLContext:  # noqa: FBT001 - the key of the cache
    """The system's trust store is read once: a changed one counts after a restart."""
    if verify:
        return ssl.create_default_context()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _tls_detail(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code == _CERTIFICATE_EXPIRED:
            return "certificate expired"
        return f"certificate not valid: {error.verify_message.rstrip('.')}"
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return "closed within the TLS handshake"
    if error.reason in _NOT_TLS:
        return "no TLS on this port"
    reason = error.reason.replace("_", " ").lower() if error.reason else one_line(str(error))
    return f"TLS failed: {reason}"


@functools.lru_cache(maxsize=128)
def _expected(expect: frozenset[int]) -> str:
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
