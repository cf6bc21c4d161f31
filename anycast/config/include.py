"""`include`: the files that a file names, and those that they name. Paths and globs, relative to the file that names them.

What is included may hold any section; where two files hold one, its keys are put together, and each stands once.
"""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from anycast.config.problem import Path as Place
from anycast.config.problem import Problem, shown

if TYPE_CHECKING:
    from anycast.config.reader import Document, Value

KEY = "include"
DEEPEST = 8  # files that include one another
MOST_FILES = 1000

_GLOB = frozenset("*?[")


@dataclass(slots=True)
class Includes:
    """Follows `include` from file to file. `read` gives the document of a file, or None and says why."""

    read: Callable[[Path, Callable[[str, str], None]], Document | None]
    problems: list[Problem]
    _seen: dict[str, str] = field(default_factory=dict)  # the file that names each, by its real path

    def of(self, document: Document, file: Path) -> Iterator[Document]:
        """Every document that this one includes, in the order in which they are named."""
        self._seen[os.path.realpath(file)] = ""
        yield from self._of(document, file, ())

    def _of(self, document: Document, file: Path, above: tuple[str, ...]) -> Iterator[Document]:
        tree = document.tree
        named = tree.get(KEY) if isinstance(tree, dict) else None
        if not document.readable or named is None or (KEY,) in document.broken:
            return
        chain = (*above, os.path.realpath(file))
        patterns = named if isinstance(named, list) else [named]
        for n, pattern in enumerate(patterns):
            place: Place = (KEY, n) if isinstance(named, list) else (KEY,)
            yield from self._matching(document, file, place, pattern, chain)

    def _matching(
        self, document: Document, file: Path, place: Place, pattern: Value, chain: tuple[str, ...]
    ) -> Iterator[Document]:
        def say(what: str, do: str) -> None:
            self.problems.append(Problem(document.values[place], place, what, do))

        if not isinstance(pattern, str) or "\0" in pattern:
            return  # the schema says it
        found = _files(file.parent, pattern)
        if not found:
            say(f"no file is named {shown(pattern)}", f"the path is taken from {file.parent}; correct it")
        for one in found:
            real = os.path.realpath(one)
            if real in chain:
                say(f"{one} includes itself, by way of this line", "remove one of the lines")
            elif len(chain) > DEEPEST:
                say(f"more than {DEEPEST} files include one another", "include the files from fewer others")
                return
            elif real in self._seen:
                before = self._seen[real] or "it is the main file"
                say(f"{one} is included already", f"include it once: {before}")
            elif len(self._seen) > MOST_FILES:
                say(f"more than {MOST_FILES} files are included", "write fewer, larger ones")
                return
            else:
                self._seen[real] = f"{document.file} names it"
                part = self.read(one, say)
                if part is not None:
                    yield part
                    yield from self._of(part, one, chain)


def _files(folder: Path, pattern: str) -> list[Path]:
    """Of a glob: the files that fit, by name; hidden ones only where the glob begins with a dot."""
    if _GLOB.isdisjoint(pattern):
        path = folder / pattern
        return [path] if os.path.lexists(path) else []
    names = sorted(itertools.islice(glob.iglob(pattern, root_dir=folder), MOST_FILES + 1))
    return [folder / name for name in names if not os.path.isdir(folder / name)]
