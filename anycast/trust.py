"""Whose certificates are believed, in whatever the node asks by TLS. Standard library only."""

from __future__ import annotations

import ssl


def verifying(ca: str | None, purpose: ssl.Purpose = ssl.Purpose.SERVER_AUTH) -> ssl.SSLContext:
    """Verifies what the other end shows. `ca`: the file with the authorities; None: those of the system.

    Raises OSError (ssl.SSLError is one): the file cannot be read, or has no certificate in it.
    """
    context = ssl.create_default_context(purpose, cafile=ca)
    # As OpenSSL itself, curl and HAProxy do it. Python 3.13 and newer set this, and then refuse a CA that names no key usage,
    # as one that `openssl req -x509` has made: with an upgrade of Debian all servers behind such a CA would be down.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
