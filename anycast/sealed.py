"""JSON objects on disk with a checksum ahead: a bit that was flipped anywhere is found. Standard library only.

The checksum stands first and covers every byte behind it. Releases before it passed over a key they did not know, so
they read these files too.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Iterable, Iterator
from typing import Any

_HEAD = b'{"checksum": "'
_DIGITS = 8
UNSEALED = _HEAD + b"0" * _DIGITS + b'"'  # the place of the seal, until all that it covers is known


class Seal:
    """The checksum of what is written piece by piece."""

    def __init__(self) -> None:
        self._sum = zlib.crc32(b'"')

    def pieces(self, text: Iterable[str]) -> Iterator[bytes]:
        """What stands behind the place of the seal. `text`: one JSON object, not empty, from its brace on."""
        first = True
        for piece in text:
            data = (f", {piece[1:]}" if first else piece).encode()
            first = False
            self._sum = zlib.crc32(data, self._sum)
            yield data

    @property
    def head(self) -> bytes:
        """What belongs in the place of `UNSEALED`."""
        return _HEAD + b"%08x" % self._sum + b'"'


def sealed(text: str) -> str:
    """One JSON object, not empty, with its checksum."""
    seal = Seal()
    body = b"".join(seal.pieces((text,)))
    return (seal.head + body).decode()


def opened(data: bytes, known: Collection[str]) -> dict[str, Any]:
    """The object. Raises ValueError where it is damaged.

    `known`: the keys it had before there were checksums. With others and without a checksum, that is what is damaged.
    """
    seal_ends = len(_HEAD) + _DIGITS
    is_sealed = data.startswith(_HEAD)
    if is_sealed and data[len(_HEAD) : seal_ends] != b"%08x" % zlib.crc32(data[seal_ends:]):
        raise ValueError("its checksum is wrong: it was changed by hand, or damaged")
    try:
        body = json.loads(data.decode("utf-8"))
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(body, dict):
        raise ValueError("expected an object")  # noqa: TRY004
    if is_sealed:
        del body["checksum"]
    elif strange := body.keys() - set(known):
        raise ValueError(f"it has no checksum, and {min(strange)[:40]!r}, which is not known")
    return body
