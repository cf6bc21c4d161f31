"""TLS over memory buffers with sessions that are resumed: no sockets, no waiting."""

from __future__ import annotations

import contextlib
import ssl
from dataclasses import dataclass

from anycast.core.values.checks import Tls
from anycast.probes.certificate import not_after
from anycast.probes.stream import UnusableError, context_for

__all__ = ["SESSION_LIFE", "Proof", "Secure"]

SESSION_LIFE = 60.0  # seconds: a resumed session proves no certificate, so it is proven anew after these

_CHUNK = 16 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What a whole handshake has proven, and until when that is relied on."""

    session: ssl.SSLSession | None  # what the next connection may resume
    context: ssl.SSLContext
    until: float
    expires: (
        float | None
    )  # the certificate, in seconds since the epoch; None: not asked for, or it does not say


class Secure:
    """One connection's TLS: ciphertext of the peer in by `feed`, ours out by `outgoing`."""

    __slots__ = ("_context", "_incoming", "_outgoing", "_resumed", "_settings", "_tls", "done")

    def __init__(self, settings: Tls, name: str, proof: Proof | None) -> None:
        """`name`: what the certificate must be valid for; sent as SNI if it is a name. Raises UnusableError."""
        self._settings = settings
        self._context = context_for(settings)
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

    def read(self) -> bytes | None:
        """What the peer said; nothing at the end of the stream, however it ended; None: more is needed."""
        try:
            return self._tls.read(_CHUNK)
        except ssl.SSLWantReadError:
            return None
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    def proof(self, now: float) -> Proof:
        """What is proven now. To be asked once the peer has said something: what can be resumed comes first."""
        if self._resumed is not None and self._tls.session_reused:
            return self._resumed
        expires = None
        if self._settings.expiry_warning is not None:
            certificate = self._tls.getpeercert(binary_form=True)
            expires = not_after(certificate) if certificate else None
        session = None
        with contextlib.suppress(ValueError):  # one with a very long certificate cannot be handed out
            session = self._tls.session
        return Proof(session=session, context=self._context, until=now + SESSION_LIFE, expires=expires)
