"""TLS between nodes of a fleet: each end shows a certificate of the fleet's authority that names a node.

Standard library only.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Collection, Iterable, Iterator
from ipaddress import ip_address
from typing import Any

from anycast.core.values.fleet import Certificates
from anycast.trust import verifying


def server(files: Certificates, names: Collection[str]) -> ssl.SSLContext:
    """For whoever has a certificate of one of these names or addresses. Raises OSError (ssl.SSLError is one)."""
    return _context(ssl.Purpose.CLIENT_AUTH, files, names)


def client(files: Certificates, names: Collection[str]) -> ssl.SSLContext:
    """To one that has a certificate of one of these names or addresses. Raises OSError."""
    return _context(ssl.Purpose.SERVER_AUTH, files, names)


def to_server(files: Certificates | None) -> ssl.SSLContext:
    """To one that is no node, by its host name as everywhere. None: the system's own authorities. Raises OSError."""
    context = verifying(None if files is None else files.ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if files is not None and files.certificate is not None:
        context.load_cert_chain(files.certificate, files.key)
    return context


def _context(purpose: ssl.Purpose, files: Certificates, names: Collection[str]) -> ssl.SSLContext:
    context = verifying(files.ca, purpose)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False  # by `_Named`: a node has several names, and any of them will do
    context.verify_mode = ssl.CERT_REQUIRED
    if files.certificate is not None:
        context.load_cert_chain(files.certificate, files.key)
    wanted = frozenset(_spelt(names))

    class _Named(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            found = frozenset(_names_of(self.getpeercert()))
            if not any(_is_meant(one, wanted) for one in found):
                shown = ", ".join(sorted(found)[:4]) or "nobody"
                raise ssl.SSLCertVerificationError(
                    f"its certificate is of {shown}, and not of {', '.join(sorted(wanted)[:4])}"
                )

    context.sslobject_class = _Named
    return context


def _spelt(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        try:
            yield str(ip_address(name))
        except ValueError:
            yield name.lower()


def _names_of(certificate: Any) -> Iterator[str]:
    """The names and addresses that it is for."""
    for kind, value in (certificate or {}).get("subjectAltName", ()):
        if kind in ("DNS", "IP Address"):
            yield from _spelt([value])


def _is_meant(name: str, wanted: Collection[str]) -> bool:
    """A node is known by its name alone, too, where its certificate has the full one: lb2 for lb2.example.net."""
    return name in wanted or ("." in name and ":" not in name and name.partition(".")[0] in wanted)


def ages(files: Certificates | None) -> tuple[int, ...]:
    """Another value once a file has been replaced."""
    if files is None:
        return ()
    return tuple(_age(one) for one in (files.certificate, files.key, files.ca))


def _age(path: str | None) -> int:
    try:
        return 0 if path is None else os.stat(path).st_mtime_ns
    except OSError:
        return -1
