"""What can be checked besides TCP, HTTP and a command, and what the kinds have in common. Times in seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """How TLS is spoken to a server. The files hold PEM."""

    verify: bool = True  # the certificate must be valid for `name`, or for the address
    name: str | None = None  # sent as SNI
    ca: str | None = None  # file with the certificates to trust; None: the system's
    certificate: str | None = None  # file with the client's certificate, and its key if `key` is None
    key: str | None = None
    expiry_warning: float | None = None  # seconds left below which success comes with a warning
