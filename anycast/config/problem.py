"""What is wrong with a configuration, and where. Standard library only: the command line shows these."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

Path: TypeAlias = tuple[str | int, ...]
"""The way from the top of the configuration to a value: keys and list positions."""

MOST = 1000
"""So many problems are told; who has more of them has one reason for most."""

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+\Z")


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """A place in a file. Line and column count from 1; 0 means the file as a whole."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to correct. Its text is one line: `file:line:col: path: what is wrong (what to do)`.

    `lines`: what would be right in its place, as an example; empty if there is nothing to show.
    """

    mark: Mark
    path: Path
    what: str
    do: str
    lines: str = ""

    def __str__(self) -> str:
        return f"{self.mark}: {self._words()}"

    def as_warning(self) -> str:
        """The same of what stops nothing."""
        return f"{self.mark}: warning: {self._words()}"

    def _words(self) -> str:
        where = f"{dotted(self.path)}: " if self.path else ""
        return f"{where}{self.what} ({self.do})"


@dataclass(frozen=True, slots=True)
class NeededPath:
    """A path that the node must have for a check or a hook to run. Whether it is there only the node can say."""

    mark: Mark
    path: Path
    name: str
    use: str  # program, hook (its command), authority, certificate, key, secret


class TooManyError(Exception):
    """There are more than `MOST` problems: what more there may be is not looked for."""


class ConfigError(Exception):
    """The configuration cannot be used; `problems` holds every reason, or the first `MOST`, in the order of the files."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


def dotted(path: Path) -> str:
    """`vips.web.services[0].port`; a key that is no plain word is quoted."""
    text = ""
    for part in path:
        if isinstance(part, int) or not _PLAIN_KEY.match(part):
            text += f"[{shown(part)}]"
        else:
            text += f".{part}" if text else part
    return text


def shown(value: object) -> str:
    """A value as a message quotes it: short, on one line, as YAML would write it."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case str():
            return ascii(value if len(value) <= 60 else value[:57] + "...")
        case _:
            return str(value)
