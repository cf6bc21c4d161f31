"""The text of a scrape in chunks, each kept packed for as long as its figures stay: what has not changed is not written anew.

Chunks are packed on their own and still make one gzip stream together, so an answer is put together without packing
anything, and is in memory packed alone.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import is_
from typing import Any, Generic, TypeVar

U = TypeVar("U")
S = TypeVar("S")

GROUP = 64  # units that are written together: the price of one that has changed
_LEVEL = 1  # of packing: the text repeats itself, and more takes longer
_HEAD = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_END = b"\x03\x00"  # a last block with nothing in it
_MASK = 0xFFFFFFFF


class Chunk:
    """Some text, packed so that others can stand before and behind it."""

    __slots__ = ("crc", "length", "packed")

    def __init__(self, text: bytes) -> None:
        packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
        self.packed = packer.compress(text) + packer.flush(zlib.Z_FULL_FLUSH)
        self.length = len(text)
        self.crc = zlib.crc32(text)

    @property
    def text(self) -> bytes:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(self.packed)


@dataclass(frozen=True, slots=True)
class Body:
    """An answer."""

    chunks: tuple[Chunk, ...]

    @property
    def length(self) -> int:
        return sum(one.length for one in self.chunks)

    def plain(self) -> Iterator[bytes]:
        return (one.text for one in self.chunks)

    @property
    def packed_length(self) -> int:
        return len(_HEAD) + sum(len(one.packed) for one in self.chunks) + len(_END) + 8

    def packed(self) -> Iterator[bytes]:
        """As gzip."""
        yield _HEAD
        crc = 0
        for one in self.chunks:
            yield one.packed
            crc = _behind(crc, one.length) ^ one.crc
        yield _END + struct.pack("<II", crc, self.length & _MASK)


def _behind(crc: int, length: int) -> int:
    """What the checksum of a text gives to that of the text with so many bytes more."""
    return zlib.crc32(bytes(length), crc ^ _MASK) ^ _MASK


@dataclass(frozen=True, slots=True)
class Family(Generic[U, S]):
    """The samples of one name, of every unit: a VIP, a service, the real servers of a service.

    `sources`: of each unit in their order, its figures, or what `figures` reads them from. The same source has the same
    figures.
    """

    name: str
    about: str
    units: Sequence[U]
    sources: Sequence[S]
    lines: Callable[[U, Any], str]  # of a unit and its figures
    figures: Callable[[S], Any] | None = None
    counter: bool = False


@dataclass(slots=True)
class _Kept:
    sources: Sequence[Any]
    figures: Sequence[Any]
    chunk: Chunk


@dataclass(slots=True)
class Chunks:
    """What was written last, by family and group of units. To be forgotten when the units are others."""

    _kept: dict[str, list[_Kept]] = field(default_factory=dict)

    def forget(self) -> None:
        self._kept.clear()

    def of(self, families: Iterable[Family[Any, Any]], *, openmetrics: bool) -> Iterator[Chunk]:
        for family in families:
            yield Chunk(_head(family, openmetrics=openmetrics).encode())
            yield from self._lines(family)

    def _lines(self, family: Family[Any, Any]) -> Iterator[Chunk]:
        kept = self._kept.setdefault(family.name, [])
        for place, first in enumerate(range(0, len(family.units), GROUP)):
            sources = family.sources[first : first + GROUP]
            known = kept[place] if place < len(kept) else None
            if known is not None and all(map(is_, sources, known.sources)):
                yield known.chunk
                continue
            figures = sources if family.figures is None else list(map(family.figures, sources))
            if known is not None and figures == known.figures:
                known.sources = sources
                yield known.chunk
                continue
            units = family.units[first : first + GROUP]
            fresh = _Kept(sources, figures, Chunk("".join(map(family.lines, units, figures)).encode()))
            kept[place : place + 1] = [fresh]
            yield fresh.chunk


def _head(family: Family[Any, Any], *, openmetrics: bool) -> str:
    kind = "counter" if family.counter else "gauge"
    name = f"{family.name}_total" if family.counter and not openmetrics else family.name
    return f"# HELP {name} {family.about}\n# TYPE {name} {kind}\n"


def escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
