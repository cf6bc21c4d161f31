"""Small files of the node, read below a root: the real one, or that of a test. Nothing is raised."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

MOST = 8 << 20  # bytes of one file that are looked at: a modules.dep has one or two million
_PIECE = 1 << 16  # of a file below /proc/sys the kernel refuses to read some millions at once (ENOMEM)
# As systemd.network(5), modprobe.d(5) and others have it: a file hides those of its name in later places.
_PLACES = ("etc", "run", "usr/local/lib", "usr/lib", "lib")


class Unread(NamedTuple):
    """Something that could not be read, and why."""

    what: str
    why: str


@dataclass(slots=True)
class FilesBelow:
    """Paths are relative to the root. `unread`: what was needed or there, and could not be read."""

    root: Path
    unread: list[Unread] = field(default_factory=list)

    def optional(self, path: str) -> str | None:
        """None where it cannot be read, which tells something too."""
        try:
            return self._read(path)
        except OSError:
            return None

    def needed(self, path: str, what: str) -> str | None:
        """None where it cannot be read, which is noted."""
        try:
            return self._read(path)
        except OSError as error:
            self._note(path, error, what)
            return None

    def text(self, path: str) -> str | None:
        """None where there is none. One that is there and cannot be read is noted."""
        try:
            return self._read(path)
        except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
            return None
        except OSError as error:
            self._note(path, error)
            return None

    def first(self, path: str) -> str | None:
        """The text of a file that hides those of its path in later places."""
        found = (self.optional(f"{place}/{path}") for place in _PLACES)
        return next((text for text in found if text is not None), None)

    def link(self, path: str) -> str | None:
        try:
            return os.readlink(self.root / path)
        except OSError:
            return None

    def names(self, folder: str) -> list[str]:
        """Nothing where there is none. One that is there and cannot be read is noted."""
        try:
            return sorted(os.listdir(self.root / folder))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            self._note(folder, error)
            return []

    def drop_ins(self, folder: str) -> Iterator[str]:
        """Paths of `*.conf` in a folder of each place, in the order of their names."""
        first: dict[str, str] = {}
        for place in _PLACES:
            for name in self.names(f"{place}/{folder}"):
                if name.endswith(".conf"):
                    first.setdefault(name, f"{place}/{folder}/{name}")
        yield from (first[name] for name in sorted(first))

    def _read(self, path: str) -> str:
        with open(self.root / path, encoding="utf-8", errors="replace") as file:
            return "".join(islice(iter(partial(file.read, _PIECE), ""), MOST // _PIECE))

    def _note(self, path: str, error: OSError, what: str = "") -> None:
        """`what`: why it was wanted, unless its path says that."""
        why = error.strerror or str(error)
        self.unread.append(Unread(what, f"/{path}: {why}") if what else Unread(f"/{path}", why))
