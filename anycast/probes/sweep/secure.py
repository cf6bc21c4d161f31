"""TLS over memory buffers with sessions that are resumed: no sockets, no waiting."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from anycast.core.kinds import Tls
from anycast.probes.certificate import not_after
from anycast.probes.stream import UnusableError, context_for

__all__ = ["SESSION_LIFE", "Secure", "Session"]

SESSION_LIFE = (
    60.0  # seconds: a session that is resumed proves no certificate, so it is proven anew after these
)

_CHUNK = 16 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What a whole handshake has proven, and until when that is relied on. `expires`: seconds since the epoch."""

    session: ssl.SSLSession
    context: ssl.SSLContext
    until: float
    expires: float | None


class Secure:
    """One connection's TLS: ciphertext of the peer in by `feed`, ours out by `outgoing`."""

    __slots__ = ("_context", "_incoming", "_outgoing", "_resumed", "_settings", "_tls", "done")

    def __init__(self, settings: Tls, name: str, resumed: Session | None) -> None:
        """`name`: what the certificate must be valid for; sent as SNI if it is a name. Raises UnusableError."""
        self._settings = settings
        self._context = context_for(settings)
        if resumed is not None and resumed.context is not self._context:
            resumed = None  # a file of the check's was replaced
        self._resumed = resumed
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.done = False
        session = None if resumed is None else resumed.session
        try:
            self._tls = self._context.wrap_bio(
                self._incoming, self._outgoing, server_hostname=name, session=session
            )
        except (ValueError, TypeError) as error:
            raise UnusableError(
                f"the handshake cannot be formed, correct the server's name: {error}"
            ) from error

    @property
    def resuming(self) -> bool:
        return self._resumed is not None

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

    def read(self) -> bytes | None:
        """What the peer said; nothing at the end of the stream, however it ended; None: more is needed."""
        try:
            return self._tls.read(_CHUNK)
        except ssl.SSLWantReadError:
            return None
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    def session(self, now: float) -> Session | None:
        """What the next connection may resume. To be asked once the peer has said something: tickets come first."""
        resumed = self._resumed
        if resumed is not None and self._tls.session_reused:
            return resumed
        session = self._tls.session
        if session is None:
            return None
        expires = None
        if self._settings.expiry_warning is not None:
            certificate = self._tls.getpeercert(binary_form=True)
            expires = not_after(certificate) if certificate else None
        return Session(session=session, context=self._context, until=now + SESSION_LIFE, expires=expires)
