"""TLS over memory buffers, with sessions that can be resumed: no sockets, no waiting."""

from __future__ import annotations

import contextlib
import functools
import os
import ssl
import time
from dataclasses import dataclass

from anycast.certificate import not_after
from anycast.core.values.checks import Tls
from anycast.probes.finding import OK, Finding, UnusableError, warn
from anycast.probes.verdict import fault_of
from anycast.trust import verifying

__all__ = [
    "OVERHEAD",
    "SESSION_LIFE",
    "Channel",
    "Proof",
    "context_for",
    "expiry_warning",
]

OVERHEAD = 192 * 1024  # bytes on the wire beyond what they carry: certificates and framing
SESSION_LIFE = 60.0  # seconds: a resumed session proves no certificate, so it is proven anew after these

_CHUNK = 16 * 1024
_DAY = 86400.0  # seconds
# kx-any: of TLS 1.3, whose ciphers are another list. With a shared secret: offered by Python 3.13.
_OF_THE_SERVER = frozenset({"kx-dhe", "kx-dhe-psk", "kx-any"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What a whole handshake has proven, and until when that is relied on."""

    session: ssl.SSLSession | None  # what the next connection may resume
    context: ssl.SSLContext
    until: float
    expires: (
        float | None
    )  # the certificate, in seconds since the epoch; None: not asked for, or it does not say


class Channel:
    """One connection's TLS: ciphertext of the peer in by `feed`, ours out by `outgoing`."""

    __slots__ = ("_context", "_incoming", "_outgoing", "_resumed", "_settings", "_tls", "done")

    def __init__(self, settings: Tls, name: str, *alpn: str, proof: Proof | None = None) -> None:
        """`name`: what the certificate must be valid for; sent as SNI if it is a name. Raises UnusableError."""
        self._settings = settings
        self._context = context_for(settings, *alpn)
        if proof is not None and proof.context is not self._context:
            proof = None  # a file of the check's was replaced
        self._resumed = proof
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.done = False
        try:
            self._tls = self._context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        except (ValueError, TypeError) as error:
            raise UnusableError(
                f"the handshake cannot be formed, correct the server's name: {error}"
            ) from error
        if proof is not None and proof.session is not None:
            # It is made of the server's bytes. Without it the handshake is a whole one.
            with contextlib.suppress(ValueError, ssl.SSLError):
                self._tls.session = proof.session

    @property
    def resuming(self) -> bool:
        return self._resumed is not None and self._resumed.session is not None

    def handshake(self) -> bool:
        """Whether the handshake is done. Raises ssl.SSLError."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        self.done = True
        return True

    def feed(self, data: bytes) -> None:
        """Bytes of the peer; none at the end of its stream."""
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def seal(self, data: bytes) -> None:
        self._tls.write(data)

    def outgoing(self) -> bytes:
        return self._outgoing.read() if self._outgoing.pending else b""

    def read(self, most: int = _CHUNK) -> bytes | None:
        """What the peer said, `most` bytes of it at most; nothing at the end of the stream, however it ended; None: more is needed."""
        try:
            return self._tls.read(most)
        except ssl.SSLWantReadError:
            return None
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    def proof(self, now: float) -> Proof:
        """What is proven now. To be asked once the peer has said something: what can be resumed comes first."""
        if self._resumed is not None and self._tls.session_reused:
            return self._resumed
        expires = None if self._settings.expiry_warning is None else self._expires()
        session = None
        # One with a very long certificate cannot be handed out: then there is nothing to resume, and no more to it.
        with contextlib.suppress(ValueError, ssl.SSLError):
            session = self._tls.session
        return Proof(session=session, context=self._context, until=now + SESSION_LIFE, expires=expires)

    def finish(self) -> None:
        """Say that nothing more comes. Reading goes on."""
        with contextlib.suppress(ssl.SSLError):  # the peer's own goodbye is still to come
            self._tls.unwrap()

    @property
    def protocol(self) -> str | None:
        """What ALPN agreed on."""
        return self._tls.selected_alpn_protocol()

    @property
    def described(self) -> str:
        expires = self._expires()
        left = (
            ""
            if expires is None
            else f", certificate good for {(expires - time.time()) / _DAY:.1f} days more"
        )
        return f"{self._tls.version()}{left}"

    @property
    def warning(self) -> Finding:
        """OK, or OK with a warning about the peer's certificate."""
        limit = self._settings.expiry_warning
        return OK if limit is None else expiry_warning(self._expires(), limit)

    def _expires(self) -> float | None:
        certificate = self._tls.getpeercert(binary_form=True)
        return not_after(certificate) if certificate else None


def expiry_warning(expires: float | None, limit: float) -> Finding:
    """OK, with a warning if fewer than `limit` seconds are left until `expires`. None: nobody can say."""
    if expires is None or (left := expires - time.time()) >= limit:
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
        raise UnusableError(f"{where} cannot be read: {error.strerror}", fault_of(error)) from error


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
        context = verifying(ca)
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_ciphers(":".join(_cheap(context)))
    if certificate is not None:
        context.load_cert_chain(certificate, key, password=_no_password)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def _cheap(context: ssl.SSLContext) -> list[str]:
    """What the context offers without Diffie-Hellman over a modulus that the server chooses.

    One of 10,000 bits takes a processor nearly a second, in which no lease is sent. TLS 1.3 has none.
    """
    return [one["name"] for one in context.get_ciphers() if one["kea"] not in _OF_THE_SERVER]


def _no_password() -> str:
    raise UnusableError("the key of the client's certificate has a password: the check needs one without")
