"""What an http or https check asks, and how what it expects is spelt."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from urllib.parse import urlsplit

import h11

from anycast import secrets
from anycast.core.values.configuration import Address, HttpCheck
from anycast.probes.finding import Finding, unusable
from anycast.probes.stream import literal

__all__ = ["expected", "request_of", "server_name", "unformed"]


NOT_KEPT = frozenset({"connection", "content-length", "host", "transfer-encoding"})
"""Headers that are no secrets and have lines of their own: a file has none of them."""


def unformed(error: Exception) -> Finding:
    return unusable(f"the request cannot be formed, correct the check's host, method or path: {error}")


def server_name(kind: HttpCheck) -> str | None:
    """The name in the check's Host header. Raises ValueError."""
    return urlsplit(f"//{kind.host}").hostname if kind.host else None


def request_of(kind: HttpCheck, address: Address, port: int, *, close: bool) -> bytes:
    """The whole request. `close`: it asks the server to close after its response.

    Raises h11.LocalProtocolError, ValueError, TypeError for one that cannot be formed, SecretError.
    """
    token, more = kind.secrets
    kept = kind.headers if more is None else kind.headers + secrets.headers(more, NOT_KEPT)
    if token is not None:
        kept += (("Authorization", f"Bearer {secrets.token(token)}"),)
    own = {name.lower() for name, _ in kept}
    defaults = (("User-Agent", "anycast"), ("Accept", "*/*"))
    headers = [
        ("Host", kind.host or _authority(address, port, default=443 if kind.tls else 80)),
        *(header for header in defaults if header[0].lower() not in own),
        *((("Connection", "close"),) if close else ()),
        *kept,
    ]
    if kind.method not in {"GET", "HEAD"}:
        headers.append(("Content-Length", "0"))
    request = h11.Request(method=kind.method, target=kind.path, headers=headers)
    http = h11.Connection(h11.CLIENT)
    return (http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b"")


def _authority(address: Address, port: int, *, default: int) -> str:
    host = literal(address) if address.version == 4 else f"[{literal(address)}]"
    return host if port == default else f"{host}:{port}"


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
