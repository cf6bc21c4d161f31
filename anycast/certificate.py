"""When a certificate runs out, read from its DER. Verified or not, whatever the bytes are: a time or None."""

from __future__ import annotations

import binascii
from datetime import UTC, datetime

_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
_SEQUENCE, _CONTEXT_0, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0xA0, 0x17, 0x18
_BEFORE_VALIDITY = 3  # serial number, signature algorithm, issuer


class _NotDerError(Exception):
    pass


def not_after(der: bytes) -> float | None:
    """Seconds since the epoch at which the certificate runs out; None if the bytes do not say."""
    try:
        certificate, _ = _take(der, _SEQUENCE)
        body, _ = _take(certificate, _SEQUENCE)
        if body[:1] == bytes([_CONTEXT_0]):  # the version; certificates of version 1 have none
            _, body = _take(body)
        for _ in range(_BEFORE_VALIDITY):
            _, body = _take(body)
        validity, _ = _take(body, _SEQUENCE)
        _, rest = _take(validity)
        return _time(rest)
    except (_NotDerError, ValueError, OverflowError):
        return None


def expiry(text: str) -> float | None:
    """The same of the first certificate in the text of a PEM file."""
    first, end, _ = text.partition(_END)
    _, begin, body = first.partition(_BEGIN)
    try:
        return not_after(binascii.a2b_base64(body)) if begin and end else None
    except ValueError:
        return None


def _take(data: bytes, tag: int | None = None) -> tuple[bytes, bytes]:
    """The content of the first element, and what follows it."""
    if len(data) < 2 or (tag is not None and data[0] != tag):
        raise _NotDerError
    length, start = data[1], 2
    if length & 0x80:
        size = length & 0x7F
        if not 1 <= size <= 4:
            raise _NotDerError
        start += size
        length = int.from_bytes(data[2:start], "big")
    if len(data) < start + length:
        raise _NotDerError
    return data[start : start + length], data[start + length :]


def _time(data: bytes) -> float:
    text = _take(data)[0].decode("ascii")
    if data[0] == _UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text  # RFC 5280, 4.1.2.5.1
    elif data[0] != _GENERALIZED_TIME:
        raise _NotDerError
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
