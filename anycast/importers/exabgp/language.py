"""The language of exabgp.conf: words, `{}`, `[]` and `;`, comments from #, text in quotes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from anycast.importers.model import Place
from anycast.importers.report import Report
from anycast.importers.source import MOST_LINES, SourceError

_PIECE = re.compile(r'"(?:[^"\\\n]|\\.)*"?|\'[^\'\n]*\'?|[{};]|[^\s{};"\'#]+|#[^\n]*|[ \t]+|\n')
_DEEPEST = 16


@dataclass(slots=True)
class Statement:
    """Words up to a `;`, or up to a block. `text`: as it is written behind the first word."""

    words: list[str]
    text: str
    place: Place
    block: list[Statement] | None = None

    @property
    def word(self) -> str:
        return self.words[0]

    @property
    def first(self) -> str:
        """Its first argument, or nothing."""
        return self.words[1] if len(self.words) > 1 else ""

    def all(self, word: str) -> Iterator[Statement]:
        return (one for one in self.block or [] if one.word == word)


@dataclass(slots=True)
class _Open:
    """A block that is being read, and the statement that is being put together in it."""

    found: list[Statement]
    opened: Place | None
    words: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    place: Place | None = None


def statements(text: str, path: Path, report: Report) -> list[Statement]:
    """Raises SourceError."""
    line = 1
    stack = [_Open([], None)]
    for match in _PIECE.finditer(text):
        piece, top = match[0], stack[-1]
        place = Place(str(path), line)
        if piece == "\n":
            line += 1
            if line > MOST_LINES:
                raise SourceError(place, f"it has more than {MOST_LINES:,} lines", "import it in parts")
            if top.words:
                top.parts.append(" ")
        elif piece[0] == "#":
            continue
        elif piece in ";{}":
            _structure(piece, place, stack, report)
        elif piece.isspace():
            if top.words:
                top.parts.append(piece)
        else:
            top.place = top.place or place
            top.parts.append(piece)
            if top.words and len(top.parts) > 1 and not top.parts[-2].isspace():
                top.words[-1] += _plain(piece)
            else:
                top.words.append(_plain(piece))
    bottom = stack[0]
    while stack:
        top = stack.pop()
        if top.opened is not None:
            report.different(
                top.opened, "its } is missing: everything up to the end of the file is taken to be in it"
            )
        _end(top)
    return bottom.found


def _structure(piece: str, place: Place, stack: list[_Open], report: Report) -> None:
    top = stack[-1]
    if piece == ";":
        _end(top)
    elif piece == "{":
        if len(stack) > _DEEPEST:
            raise SourceError(place, "its blocks are nested too deeply", "look for a brace that is missing")
        statement = Statement(top.words or [""], "", top.place or place, [])
        top.found.append(statement)
        top.words, top.parts, top.place = [], [], None
        assert statement.block is not None  # noqa: S101 - it was made just now
        stack.append(_Open(statement.block, statement.place))
    else:
        _end(top)
        if len(stack) > 1:
            stack.pop()
        else:
            report.impossible(place, "a } too many, of which ExaBGP would complain")


def _end(top: _Open) -> None:
    if top.words:
        text = "".join(top.parts).strip()
        first = top.parts[0] if top.parts else ""
        top.found.append(Statement(top.words, text[len(first) :].strip(), top.place or Place("")))
    top.words, top.parts, top.place = [], [], None


def _plain(piece: str) -> str:
    return piece.strip("\"'") if piece[0] in "\"'" else piece


def listed(words: list[str]) -> list[str]:
    """Of `[ a, b ]` or `[ a b ]` or `a`."""
    return [
        word for word in " ".join(words).replace("[", " ").replace("]", " ").replace(",", " ").split() if word
    ]
