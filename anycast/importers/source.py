"""Files of a source, read so that nothing in them can do harm: no waiting, a limit, any bytes."""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from anycast.config.files import read_regular, size
from anycast.importers.model import Place
from anycast.importers.report import Report, spelt

MOST_BYTES = 4 << 20  # of all files together
MOST_FILES = 1000
STDIN = Path("-")
MOST_LINES = 200_000  # of what is read, with what loops make of them

_LONGEST_COMMENT = 200  # characters
_LONGEST_LINE = 8192
_SECRET = re.compile(r"(?i)pass|secret|token|key|auth|credential")
_CODE = re.compile(r"[{}=]|;\s*\Z")
_CONFLICT = re.compile(r"^(<{7}|>{7}) ", re.MULTILINE)


class SourceError(Exception):
    """Nothing can be made of the source. The message is one line: where, what, what to do."""

    def __init__(self, place: Place, what: str, do: str) -> None:
        text = f"{spelt(place)}: {what} ({do})"
        super().__init__("".join(c if c.isprintable() else "?" for c in text))


@dataclass(slots=True)
class Files:
    """Reads text. The limits are of all that is read together."""

    report: Report
    left: int = MOST_BYTES
    read: int = 0

    def lines(self, path: Path) -> list[str]:
        """The lines of a file. Raises SourceError."""
        return self.text(path).split("\n")

    def text(self, path: Path) -> str:
        """Raises SourceError."""
        place = Place(str(path))
        try:
            data = _stdin() if path == STDIN else read_regular(path, self.left)
            if len(data) > self.left:
                raise OSError(0, f"it is larger than {size(self.left)}")
        except OSError as error:
            what = error.strerror or str(error)
            if "larger" in what:
                what, do = "so much is no configuration of a balancer", "name the file that is"
            else:
                do = "name a file that can be read"
            raise SourceError(place, what, do) from None
        self.read += 1
        if self.read > MOST_FILES:
            raise SourceError(
                place, f"more than {MOST_FILES:,} files are read", "look for an include that goes round"
            )
        self.left -= len(data)
        return self.decoded(data, path)

    def decoded(self, data: bytes, path: Path) -> str:
        """Raises SourceError."""
        if (end := data.find(b"\0")) >= 0:
            place = Place(str(path), data.count(b"\n", 0, end) + 1)
            raise SourceError(
                place, "a null byte: this is no text", "name the text file that the program reads"
            )
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            text = data.decode("latin-1")
            place = Place(str(path), data.count(b"\n", 0, error.start) + 1)
            self.report.different(place, "the file is not UTF-8: read as Latin-1, written as UTF-8")
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        if (at := _template(text)) is not None:
            what = "this is a template (Jinja, Go, ERB or the like)"
            raise SourceError(self._place(text, at, path), what, "import what it renders to, of each node")
        if match := _CONFLICT.search(text):
            what = "a conflict of a merge (git) stands in it"
            raise SourceError(self._place(text, match.start(), path), what, "resolve it, and import again")
        for number, line in enumerate(text.split("\n"), 1):
            if len(line) > _LONGEST_LINE:
                what, do = (
                    f"a line of {len(line):,} characters",
                    f"{_LONGEST_LINE:,} are the most that is read",
                )
                raise SourceError(Place(str(path), number), what, do)
        return text

    @staticmethod
    def _place(text: str, at: int, path: Path) -> Place:
        return Place(str(path), text.count("\n", 0, at) + 1)


def _template(text: str) -> int | None:
    """Where a template shows itself. None: it is none."""
    for begin, end in (("{%", "%}"), ("{{", "}}"), ("<%", "%>")):
        at = text.find(begin)
        if at >= 0 and text.find(end, at) >= 0:
            return at
    return None


@cache
def _stdin() -> bytes:
    """Whole, and once: what it is of is looked at before it is read."""
    return sys.stdin.buffer.read(MOST_BYTES + 1)


def kept(comments: Sequence[str]) -> str:
    """A comment that says something: no secret, no code that is commented out, nothing that a terminal obeys."""
    lines = [line for line in comments if line and not _SECRET.search(line) and not _CODE.search(line)]
    text = "".join(char for char in " ".join(lines) if char.isprintable())
    return text if len(text) <= _LONGEST_COMMENT else ""


def comments_above(lines: Sequence[str]) -> dict[int, str]:
    """By the number of the line that they stand above. What begins in the first line is about the file."""
    found: dict[int, str] = {}
    above: list[str] = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text.startswith("#"):
            above = [*above, text.strip("# \t")] if above or number > 1 else []
            continue
        if text and above and (comment := kept(above)):
            found[number] = comment
        above = []
    return found


def found(pattern: str, beside: Path) -> tuple[list[Path], bool]:
    """Files that a path or a glob names, relative to the folder of `beside`.

    True: they are not where it says, but under the same name below that folder: the files are copies.
    """
    if paths := _globbed(os.path.join(beside.parent, pattern)):
        return paths, False
    parts = [part for part in pattern.split("/") if part]
    if pattern.startswith("/"):
        for start in range(1, len(parts) - 1):
            if paths := _globbed(os.path.join(beside.parent, *parts[start:])):
                return paths, True
    return [], False


def _globbed(whole: str) -> list[Path]:
    try:
        return [Path(name) for name in sorted(glob.glob(whole))[: MOST_FILES + 1]]
    except (ValueError, OSError, re.error):
        return []
