"""Where everything stands in the files: a number for each path, made a `Mark` when somebody asks.

A file of 50,000 real servers has hundreds of thousands of places, and a mistake or two.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from anycast.config.problem import Mark, Path

_LINE, _FILE = 26, 52  # bits below the line and below the file's number: a file has 2**24 characters
_MASK = (1 << _LINE) - 1


def packed(mark: Any) -> int:
    """Line and column of a place of PyYAML's, which counts from 0; none: the file as a whole."""
    return 0 if mark is None else (mark.line + 1 << _LINE) + mark.column + 1


class Places(Mapping[Path, Mark]):
    """The places of a file's values or keys, or those of several files.

    `at` is for the reader of the file, which writes what `packed` gives.
    """

    __slots__ = ("_files", "at")

    def __init__(self, file: str) -> None:
        self.at: dict[Path, int] = {}
        self._files = [file]

    def __getitem__(self, path: Path) -> Mark:
        place = self.at[path]
        return Mark(self._files[place >> _FILE], place >> _LINE & _MASK, place & _MASK)

    def __contains__(self, path: object) -> bool:
        return path in self.at

    def __iter__(self) -> Iterator[Path]:
        return iter(self.at)

    def __len__(self) -> int:
        return len(self.at)

    def copy(self) -> Places:
        """One that can be changed by itself, of the same files."""
        made = Places("")
        made.at, made._files = dict(self.at), self._files
        return made

    def add(self, other: Places, paths: Iterable[Path]) -> None:
        """Those of another file, where there are none of these paths yet."""
        file = len(self._files) << _FILE
        self._files += other._files
        for path in paths:
            self.at.setdefault(path, file + other.at[path])
