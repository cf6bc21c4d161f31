"""Aligned text for terminals and for `| grep`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from enum import Enum, StrEnum
from typing import NamedTuple, TextIO


class Colour(Enum):
    PLAIN = ""
    GOOD = "\x1b[32m"
    WARN = "\x1b[33m"
    BAD = "\x1b[31m"
    HEAD = "\x1b[1m"


class Cell(NamedTuple):
    text: str
    colour: Colour = Colour.PLAIN


class ColourWhen(StrEnum):
    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


_chosen = ColourWhen.AUTO


def choose_colour(when: ColourWhen) -> None:
    """For the whole process: what the command line said."""
    global _chosen  # noqa: PLW0603 - there is one output
    _chosen = when


def wants_colour(stream: TextIO) -> bool:
    """As it was chosen; else on a terminal, with NO_COLOR (https://no-color.org) not set to anything."""
    if _chosen is not ColourWhen.AUTO:
        return _chosen is ColourWhen.ALWAYS
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def table(head: Sequence[str], rows: Iterable[Sequence[str | Cell]], *, colour: bool) -> str:
    """Columns as wide as their widest cell, two spaces apart; lines end without blanks."""
    lines = [[Cell(text, Colour.HEAD) for text in head]]
    lines += [[_clean(cell) for cell in row] for row in rows]
    widths = [max(len(line[column].text) for line in lines) for column in range(len(head))]
    return "".join(_line(line, widths, colour=colour) + "\n" for line in lines)


def _line(cells: Sequence[Cell], widths: Sequence[int], *, colour: bool) -> str:
    last = max((index for index, cell in enumerate(cells) if cell.text), default=-1)
    parts = []
    for index, (cell, width) in enumerate(zip(cells[: last + 1], widths, strict=False)):
        blank = "" if index == last else " " * (width - len(cell.text) + 2)
        parts.append(paint(cell, colour=colour) + blank)
    return "".join(parts)


def paint(cell: Cell, *, colour: bool) -> str:
    return f"{cell.colour.value}{cell.text}\x1b[0m" if colour and cell.colour.value else cell.text


def _clean(cell: str | Cell) -> Cell:
    cell = Cell(cell) if isinstance(cell, str) else cell
    return Cell(printable(cell.text), cell.colour)


def printable(text: str) -> str:
    """Details come from real servers and routers too: what a terminal would obey is shown as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def duration(seconds: float | None) -> str:
    """`4s`, `3m12s`, `5h03m`, `3d04h`; `-` for None."""
    if seconds is None:
        return "-"
    whole = int(seconds)
    for unit, size, below, step in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // step:02}{below}"
    return f"{whole}s"
