"""What every part of the assembly needs: the file, what was left out of it, the problems, and which name came first."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from anycast.config.problem import MOST, NeededPath, Path, Problem, TooManyError, dotted, shown
from anycast.config.schema import file as schema
from anycast.config.schema.advice import lines_for
from anycast.config.schema.checks import CHECKS, of_another_name
from anycast.config.schema.part import Part, described, lacks_default
from anycast.config.schema.scalars import NAME, NAME_ADVICE
from anycast.core.names import nearest

if TYPE_CHECKING:
    from anycast.config.validate import Source

T = TypeVar("T")

_OF_SECTIONS = 2  # parts of the path to a key of a section, as in bgp.local_as


class Context:
    """One building of a configuration. `file` is what is left of what was written; paths are paths in it."""

    def __init__(self, file: schema.File, source: Source) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.paths: list[NeededPath] = []  # files that checks need on the node
        self._source = source
        self._claimed: dict[object, Path] = {}
        self._said: set[object] = set()
        self._told: set[Problem] = set()
        self._usable: dict[str, list[str]] = {}  # names of a section
        self._guesses = 100_000  # names that may still be compared with ones that are not known

    @property
    def sound(self) -> bool:
        """Nothing is wrong and nothing was left out."""
        return not self.problems and not self._source.holes

    def place(self, path: Path) -> Path:
        """Where a path of the remaining tree stands in the files."""
        return self._source.place(path)

    def need(self, path: Path, name: str | None, use: str) -> None:
        """Note a file that must be on the node."""
        if name is not None:
            place = self._where(path)
            self.paths.append(NeededPath(self._source.mark(place), place, name, use))

    def misnamed(self, section: str, name: str) -> None:
        mark = self._source.mark((section, name), key=True)
        what = f"{shown(name)} is not a name"
        better = re.sub("[^A-Za-z0-9_.-]+", "-", name[:63]).strip("-_.")
        do = f"write {better}: {NAME_ADVICE}" if NAME.match(better) else f"use {NAME_ADVICE}"
        self._add(Problem(mark, (section, name), what, do))

    def say(self, path: Path, what: str, do: str, *, key: bool = False, lines: str = "") -> None:
        """Complain about a path of the remaining tree. `lines`: what would be right there."""
        place = self._where(path)
        self._add(Problem(self._source.mark(place, key=key), place, what, do, lines))

    def _add(self, problem: Problem) -> None:
        """Once each. Raises TooManyError."""
        if problem in self._told:
            return
        self._told.add(problem)
        self.problems.append(problem)
        if len(self.problems) > MOST:
            raise TooManyError

    def say_missing(self, path: Path, what: str, do: str) -> None:
        if not self._source.complete and len(path) <= _OF_SECTIONS:
            return  # it may stand in a file that could not be read
        if self.whole(path):
            self.say(path, what, do, lines=lines_for(self._where(path)))

    def whole(self, *paths: Path) -> bool:
        """Nothing was left out at or below these paths, nor hidden by a merge key beside them."""
        if not self._source.holes:
            return True
        for path in paths:
            place = self.place(path)
            if not self._source.intact(place) or (*place[:-1], "<<") in self._source.holes:
                return False
        return True

    def whole_list(self, path: Path, *fields: str) -> bool:
        """No item was left out of this list, nor one of these fields out of an item."""
        place, holes = self.place(path), self._source.holes
        return not holes or not (holes.above(place) or holes.in_items(place, (*fields, "<<")))

    def written(self, section: str) -> list[str]:
        written = self._source.tree.get(section)
        return list(written) if isinstance(written, dict) else []

    def is_written(self, section: str, name: str) -> bool:
        written = self._source.tree.get(section)
        return isinstance(written, dict) and name in written

    def unknown(self, path: Path, section: str, name: str) -> None:
        if not self._source.complete or not self.whole((section, name)):
            return
        lines = ""
        known = self._names(section)
        self._guesses -= len(known)
        few = known if self._guesses > 0 else known[:8]
        if near := nearest(name, few, most=len(few)):
            do = f"did you mean {near}?"
        elif section == "checks" and (meant := of_another_name(name)):
            do = f"write {meant}"
        elif section == "checks" and (near := nearest(name, CHECKS)):
            do = f"did you mean the type {near}?"
        elif section == "checks" and "://" in name:
            do = "write what is asked of each real server"
            lines = _of_url(name)
        else:
            do = f"add it under {section}" + (f", or use one of {', '.join(known[:8])}" if known else "")
        self.say(path, f"there is no {section[:-1]} named {shown(name)}", do, lines=lines)

    def _names(self, section: str) -> list[str]:
        """Those that can be used: looked through once, for there may be a mistake in each of thousands."""
        if section not in self._usable:
            self._usable[section] = [other for other in self.written(section) if NAME.match(other)]
        return self._usable[section]

    def once(self, *key: object) -> bool:
        """Whether this is the first time `key` is asked about."""
        if key in self._said:
            return False
        self._said.add(key)
        return True

    def first(self, key: object, path: Path) -> str | None:
        """None for the first that claims `key`; for others, where the first one stands."""
        first = self._claimed.setdefault(key, path)
        return None if first == path else self.spelt(first)

    def spelt(self, path: Path) -> str:
        """Where a path of the remaining tree stands in the files, for people."""
        return dotted(self._source.written(self._where(path)))

    def stands(self, path: Path) -> bool:
        """Whether there is such a value in the files."""
        return self._source.stands(self.place(path))

    def _where(self, path: Path) -> Path:
        """As `place`; one value that stands for a list of one has no number."""
        place: Path = ()
        for part in self.place(path):
            if not isinstance(part, int) or self._source.stands((*place, part)):
                place = (*place, part)
        return place

    def built(self, path: Path, written: Part | None, core: type[T], **known: Any) -> T | None:
        """The value that a mapping describes. None: there is none, or what has no default is missing, which is said."""
        if written is None:
            return None
        docs = described(core)  # type: ignore[arg-type]  # a class can be hashed
        missing = False
        for field in fields(core):  # type: ignore[arg-type]  # a dataclass, as every class that is described
            name = field.name
            if name in known or name not in docs:
                continue
            value = getattr(written, name, None)
            if value is not None and (value != [] or not lacks_default(field)):
                known[name] = self._plain((*path, name), value, field.default)
            elif lacks_default(field):
                missing = True
                self.say_missing((*path, name), docs[name][0].lacks, docs[name][0].write)
        return None if missing else core(**known)

    def _plain(self, path: Path, value: Any, default: Any) -> Any:
        if isinstance(value, Part):
            return self.built(path, value, value.CORE)
        if isinstance(value, dict):
            return tuple(value.items())
        if isinstance(value, list) and isinstance(default, frozenset):
            return frozenset().union(*value)
        if isinstance(value, list):
            return tuple(self._plain((*path, n), item, None) for n, item in enumerate(value))
        return value


def _of_url(url: str) -> str:
    """A check that says what a URL says."""
    try:
        parts = urlsplit(url)
        host, path = parts.hostname, parts.path or "/"
    except ValueError:
        return ""
    if parts.scheme not in ("http", "https") or not host or not _PLAIN.match(host + path):
        return ""
    return f"check: {{type: {parts.scheme}, host: {host}, path: {path}}}"


_PLAIN = re.compile(r"[A-Za-z0-9_./-]{1,100}\Z")


class Assembler:
    """A part of the building: it looks at what is written, and complains."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._say, self._say_missing, self._whole = context.say, context.say_missing, context.whole
        self._need, self._built = context.need, context.built
