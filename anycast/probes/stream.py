"""A connection to read from and write to within a bound: plain, or with TLS over memory buffers."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Protocol

from anycast.core.values.checks import Tls
from anycast.core.values.configuration import Address
from anycast.probes.certificate import not_after
from anycast.probes.finding import OK, Finding, Progress, fail, one_line, place, unknown, warn
from anycast.probes.tcp import connect

__all__ = [
    "TLS_OVERHEAD",
    "Plain",
    "Secure",
    "Stream",
    "TooMuchError",
    "UnusableError",
    "context_for",
    "expiry_warning",
    "judged",
    "literal",
    "opened",
    "tls_detail",
]

TLS_OVERHEAD = 192 * 1024  # bytes on the wire beyond what they carry: certificates and framing
_CHUNK = 16 * 1024
_DAY = 86400.0  # seconds
_CERTIFICATE_EXPIRED = 10  # X509_V_ERR_CERT_HAS_EXPIRED
_NOT_TLS = frozenset(
    {"HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE", "WRONG_VERSION_NUMBER"}
)
_REFUSED_US = frozenset(
    {
        "SSLV3_ALERT_BAD_CERTIFICATE",
        "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        "TLSV13_ALERT_CERTIFICATE_REQUIRED",
        "TLSV1_ALERT_UNKNOWN_CA",
    }
)


class TooMuchError(Exception):
    """The peer sent more than the check reads."""


class UnusableError(Exception):
    """The check's own TLS settings cannot be used: nothing is proven. The message says why."""


class Stream(Protocol):
    async def send(self, data: bytes) -> None: ...

    async def receive(self) -> bytes:
        """Some bytes; none at the end of the stream. Raises TooMuchError."""
        ...

    async def finish(self) -> None:
        """Tell the peer that nothing more comes. Reading goes on."""
        ...

    @property
    def warning(self) -> Finding:
        """OK, or OK with a warning about the peer's certificate."""
        ...


@asynccontextmanager
async def opened(
    address: Address,
    port: int,
    progress: Progress,
    *,
    tls: Tls | None,
    name: str | None = None,
    limit: int,
    alpn: tuple[str, ...] = (),
) -> AsyncIterator[Stream]:
    """A connected stream from which at most `limit` bytes are read. `name`: what the certificate must be for.

    Raises OSError, ssl.SSLError, UnusableError.
    """
    secure = Secure(tls, tls.sni or name or literal(address), *alpn) if tls is not None else None
    progress.missing = "answer"
    with await connect(address, port) as sock:
        progress.say("connected from %s", place(sock.getsockname()))
        if secure is None:
            yield Plain(sock, limit)
            return
        progress.missing = "TLS handshake"
        await secure.handshake(Plain(sock, limit + TLS_OVERHEAD))
        progress.say("TLS handshake done: %s", secure.described)
        yield secure


def literal(address: Address) -> str:
    """The address without a zone, which is this node's own affair."""
    return str(address).partition("%")[0]


class Plain:
    def __init__(self, sock: socket.socket, limit: int) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._left = limit

    @property
    def warning(self) -> Finding:
        return OK

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._sock, data)

    async def receive(self) -> bytes:
        # sock_recv does not suspend while bytes are there: without the limit a peer that never stops sending
        # would hold the event loop, and no timeout could fire.
        if self._left <= 0:
            raise TooMuchError
        data = await self._loop.sock_recv(self._sock, _CHUNK)
        self._left -= len(data)
        return data

    async def finish(self) -> None:
        self._sock.shutdown(socket.SHUT_WR)


class Secure:
    _wire: Plain

    def __init__(self, settings: Tls, server_name: str, *alpn: str) -> None:
        """Raises UnusableError."""
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._settings = settings
        context = context_for(settings, *alpn)
        try:
            self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)
        except (ValueError, TypeError) as error:
            raise UnusableError(
                f"the handshake cannot be formed, correct the server's name: {error}"
            ) from error

    async def handshake(self, wire: Plain) -> None:
        """Raises ssl.SSLError."""
        self._wire = wire
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._exchange()
            else:
                return await self._flush()

    @property
    def described(self) -> str:
        left = self._seconds_left()
        until = "" if left is None else f", certificate good for {left / _DAY:.1f} days more"
        return f"{self._tls.version()}{until}"

    @property
    def protocol(self) -> str | None:
        """What ALPN agreed on."""
        return self._tls.selected_alpn_protocol()

    @property
    def warning(self) -> Finding:
        limit = self._settings.expiry_warning
        return OK if limit is None else expiry_warning(self._seconds_left(), limit)

    def _seconds_left(self) -> float | None:
        der = self._tls.getpeercert(binary_form=True)
        end = not_after(der) if der else None
        return None if end is None else end - time.time()

    async def send(self, data: bytes) -> None:
        self._tls.write(data)
        await self._flush()

    async def receive(self) -> bytes:
        while True:
            try:
                data = self._tls.read(_CHUNK)
            except ssl.SSLWantReadError:
                await self._exchange()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""
            else:
                return data

    async def finish(self) -> None:
        with contextlib.suppress(ssl.SSLError):  # the peer's own goodbye is still to come
            self._tls.unwrap()
        await self._flush()
        await self._wire.finish()

    async def _exchange(self) -> None:
        await self._flush()
        if data := await self._wire.receive():
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await self._wire.send(self._outgoing.read())


def expiry_warning(left: float | None, limit: float) -> Finding:
    """OK, with a warning if fewer than `limit` seconds are left. None: nobody can say."""
    if left is None or left >= limit:
        return OK
    if left < 0:
        return warn("certificate expired")
    return warn(f"certificate expires in {left / _DAY:.0f} days")


def context_for(settings: Tls, *alpn: str) -> ssl.SSLContext:
    try:
        # A file that was replaced counts from the next check on.
        ages = tuple(
            os.stat(file).st_mtime_ns if file else 0
            for file in (settings.ca, settings.certificate, settings.key)
        )
        return cached_context(settings.verify, settings.ca, settings.certificate, settings.key, ages, alpn)
    except ssl.SSLError as error:
        why = (error.reason or str(error)).replace("_", " ").lower()
        raise UnusableError(f"the certificate files of the check cannot be used: {why}") from error
    except OSError as error:
        where = error.filename or settings.certificate or settings.ca
        raise UnusableError(f"{where} cannot be read: {error.strerror}") from error


@functools.lru_cache(maxsize=64)
def cached_context(
    verify: bool,  # noqa: FBT001 - the key of the cache
    ca: str | None,
    certificate: str | None,
    key: str | None,
    _ages: tuple[int, ...],
    alpn: tuple[str, ...],
) -> ssl.SSLContext:
    """The system's trust store is read once: a changed one counts after a restart."""
    if verify:
        context = ssl.create_default_context(cafile=ca)
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate is not None:
        context.load_cert_chain(certificate, key, password=_no_password)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def _no_password() -> str:
    raise UnusableError("the key of the client's certificate has a password: the check needs one without")


def tls_detail(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code == _CERTIFICATE_EXPIRED:
            return "certificate expired"
        return f"certificate not valid: {error.verify_message.rstrip('.')}"
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return "closed within the TLS handshake"
    if error.reason in _NOT_TLS:
        return "no TLS on this port"
    reason = error.reason.replace("_", " ").lower() if error.reason else one_line(str(error))
    if error.reason in _REFUSED_US:
        return f"the server refuses the client's certificate: {reason}"
    return f"TLS failed: {reason}"


async def judged(talk: Awaitable[Finding]) -> Finding:
    """The finding of a conversation, whatever its stream raises. OSError of the kernel passes through."""
    try:
        return await talk
    except ssl.SSLError as error:
        return fail(tls_detail(error))
    except UnusableError as error:
        return unknown(f"the check could not run: {error}")
    except TooMuchError:
        return fail("it sends more than the check reads")
