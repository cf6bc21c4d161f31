"""What is wrong with a configuration, and where. Standard library only: the command line shows these."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

Path: TypeAlias = tuple[str | int, ...]
"""The way from the top of the configuration to a value: keys and list positions."""

MOST = 1000
"""After so many problems no more is looked for; who has more of them has one reason for most."""

TOLD = 200
"""So many of them are told, and how many more there are."""

LONGEST = 400
"""Characters of each text of a problem. What is cut off is of the file, and stands there."""

_SHOWN = 60  # characters of a key or a value
_NODES = 3  # of a fleet that are named in a problem
_NAMED = 200  # of the name of a file
_PLAIN_KEY = re.compile(rf"[A-Za-z0-9_-]{{1,{_SHOWN}}}\Z")


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """A place in a file. Line and column count from 1; 0 means the file as a whole."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        name = named(self.file)
        return f"{name}:{self.line}:{self.column}" if self.line else name


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to correct. Its text is one line: `file:line:col: path: what is wrong (what to do)`.

    `lines`: what would be right in its place, as an example; empty if there is nothing to show.

    `nodes`: those of a fleet that it concerns; empty: all there are.

    Whatever its texts were made of, they are short and hold nothing that a terminal would obey.
    """

    mark: Mark
    path: Path
    what: str
    do: str
    lines: str = ""
    nodes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _is_fit(self.what) or not _is_fit(self.do):
            object.__setattr__(self, "what", _cut(self.what))
            object.__setattr__(self, "do", _cut(self.do))

    def __str__(self) -> str:
        return f"{self.mark}: {self._words()}"

    def as_warning(self) -> str:
        """The same of what stops nothing."""
        return f"{self.mark}: warning: {self._words()}"

    def _words(self) -> str:
        where = f"{dotted(self.path)}: " if self.path else ""
        return f"{self._of_nodes()}{where}{self.what} ({self.do})"

    def _of_nodes(self) -> str:
        """Not where the place says it."""
        if not self.nodes or self.path[:2] == ("nodes", self.nodes[0]):
            return ""
        more = f" and {len(self.nodes) - _NODES} more" if len(self.nodes) > _NODES else ""
        return f"{', '.join(self.nodes[:_NODES])}{more}: "


@dataclass(frozen=True, slots=True)
class NeededPath:
    """A path that the node must have for a check or a hook to run. Whether it is there only the node can say."""

    mark: Mark
    path: Path
    name: str
    use: str  # program, hook (its command), authority, certificate, key, secret


class TooManyError(Exception):
    """There are more than `MOST` problems: what more there may be is not looked for.

    `unseen`: how many more were counted, and are not among those that were kept.
    """

    def __init__(self, unseen: int = 0) -> None:
        super().__init__()
        self.unseen = unseen


class ConfigError(Exception):
    """The configuration cannot be used. `problems` holds every reason in the order of the files; of more than `TOLD`,
    the first, and behind them how many more there are.

    `count`: how many there are, as people are told: `1 problem`, `at least 1,000 problems`.
    """

    def __init__(self, problems: tuple[Problem, ...], count: str = "") -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems
        self.count = count or _counted(len(problems), "")


def told(problems: Sequence[Problem], *, unseen: int = 0, ended: bool = False) -> ConfigError:
    """The error of these. `unseen`: there are so many more. `ended`: there may be others, for no more was looked for."""
    number, least = len(problems) + unseen, "at least " if ended else ""
    if number <= TOLD:
        return ConfigError(tuple(problems), _counted(number, least))
    what = f"{least}{number - TOLD:,} more mistakes are not shown"
    rest = Problem(Mark(problems[0].mark.file, 0, 0), (), what, "correct these first")
    return ConfigError((*problems[:TOLD], rest), _counted(number, least))


def _counted(number: int, least: str) -> str:
    return f"{least}{number:,} problem{'' if number == 1 else 's'}"


def dotted(path: Path) -> str:
    """`vips.web.services[0].port`; a key that is no plain word is quoted."""
    text = ""
    for part in path:
        if isinstance(part, int) or not _PLAIN_KEY.match(part):
            text += f"[{shown(part)}]"
        else:
            text += f".{part}" if text else part
    return text


def named(file: str) -> str:
    """The name of a file as people can read it: on one line, without what a terminal would obey, its end if it is long."""
    name = file if file.isprintable() else _escaped(file)
    return name if len(name) <= _NAMED else f"...{name[-_NAMED:]}"


def _is_fit(text: str) -> bool:
    return len(text) <= LONGEST and text.isprintable()


def _cut(text: str) -> str:
    text = text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
    return text if text.isprintable() else _escaped(text)


def _escaped(text: str) -> str:
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


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
            return ascii(value if len(value) <= _SHOWN else value[: _SHOWN - 3] + "...")
        case _:
            return str(value)
