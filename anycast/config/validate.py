"""The merged tree against the schema, leaving out what is wrong, so that the rest can still be judged."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from anycast.config.problem import MOST, Mark, Path, Problem, TooManyError
from anycast.config.schema.advice import for_key, lines_for, lines_of_word
from anycast.config.schema.checks import unknown_type
from anycast.config.schema.file import File
from anycast.config.schema.json_schema import keys_at

if TYPE_CHECKING:
    from anycast.config.places import Places
    from anycast.config.reader import Value


class Holes:
    """Paths that were left out. Each question about them costs the length of the path, however many there are."""

    def __init__(self, paths: Iterable[Path] = ()) -> None:
        self._paths: set[Path] = set()
        self._around: dict[Path, set[str | int]] = {}  # by list: the fields that were left out of its items
        self._items: set[Path] = set()  # mappings and lists that an item was left out of
        self.update(paths)

    def __len__(self) -> int:
        return len(self._paths)

    def __contains__(self, path: Path) -> bool:
        return path in self._paths

    def update(self, paths: Iterable[Path]) -> None:
        for path in paths:
            self.add(path)

    def add(self, path: Path) -> None:
        if path in self._paths:
            return
        self._paths.add(path)
        self._items.add(path[:-1])
        for length in range(len(path) - 1):
            self._around.setdefault(path[:length], set()).add(path[length + 1])

    def above(self, path: Path) -> bool:
        """The path itself or something around it was left out."""
        return any(path[:length] in self._paths for length in range(1, len(path) + 1))

    def below(self, path: Path) -> bool:
        return path in self._items or path in self._around

    def in_items(self, path: Path, fields: Iterable[str]) -> bool:
        """An item of this list was left out, or one of these fields of an item."""
        return path in self._items or not self._around.get(path, set()).isdisjoint(fields)


@dataclass(slots=True)
class Source:
    """What was read: one tree of all files, and the place of everything in it. `holes` are left out of it."""

    tree: dict[str, Value]
    values: Places
    keys: Places
    holes: Holes
    origin: dict[Path, Path] = field(default_factory=dict)  # place after leaving out -> place in `tree`
    complete: bool = True  # False: a file could not be read at all

    def place(self, path: Path) -> Path:
        """Where a path of the remaining tree stands in the files; below a scalar, the scalar."""
        if not self.origin:  # nothing was left out
            return path
        for length in range(len(path), -1, -1):
            if path[:length] in self.origin:
                return self.origin[path[:length]] + path[length:]
        return path

    def stands(self, path: Path) -> bool:
        return path in self.values

    def mark(self, path: Path, *, key: bool = False) -> Mark:
        """The place of a value (or its key), or of the nearest thing around it."""
        if key and path in self.keys:
            return self.keys[path]
        if path in self.values:
            return self.values[path]
        while path:
            path = path[:-1]
            # Something is missing from a mapping: the key that names the mapping shows it best.
            if path in self.keys:
                return self.keys[path]
            if path in self.values:
                return self.values[path]
        return self.values[()]

    def intact(self, path: Path) -> bool:
        """Nothing was left out at this path of the files, nor below it."""
        holes = self.holes
        return not holes or (not holes.below(path) and not holes.above(path))


def validate(source: Source, problems: list[Problem]) -> File:
    """What is left when everything that is wrong by itself is left out; `problems` gets what was wrong.

    Fills `source.holes` and `source.origin`. Raises TooManyError.
    """
    while True:
        source.origin = {}
        rest = _without(source.tree, (), (), source) if source.holes else source.tree
        try:
            return File.model_validate(rest)
        except ValidationError as error:
            before = len(source.holes)
            for one in error.errors(include_url=False, include_input=True):
                here = _walk(rest, one["loc"])
                place = source.place(here)
                while place not in source.values:  # a scalar that stands for a mapping
                    place = place[:-1]
                if problem := _explain(one, place, source):
                    problems.append(problem)
                    if len(problems) > MOST:
                        raise TooManyError from None
                source.holes.add(place)
                if meant := _meant(one, place, source):
                    source.holes.add(meant)
            if len(source.holes) == before:  # never seen; better too much left out than no end
                source.holes.update((key,) for key in source.tree)


def _without(value: Value, here: Path, place: Path, source: Source) -> Any:
    source.origin[here] = place
    if isinstance(value, dict):
        return {
            key: _without(item, (*here, key), (*place, key), source)
            for key, item in value.items()
            if (*place, key) not in source.holes
        }
    if isinstance(value, list):
        kept = [(n, item) for n, item in enumerate(value) if (*place, n) not in source.holes]
        return [_without(item, (*here, n), (*place, old), source) for n, (old, item) in enumerate(kept)]
    return value


def _walk(tree: Any, location: Iterable[str | int]) -> Path:
    """A pydantic location as a path of the tree: union tags name nothing in it."""
    path: Path = ()
    for part in location:
        if (isinstance(tree, dict) and part in tree) or (isinstance(tree, list) and isinstance(part, int)):
            tree = tree[part]  # type: ignore[index]
            path = (*path, part)
    return path


def _explain(error: Any, place: Path, source: Source) -> Problem | None:
    kind, given = error["type"], error["input"]
    lines = ""
    if kind == "extra_forbidden":
        advice, _ = for_key(str(place[-1]), error["input"], keys_at(error["loc"][:-1]), place)
        what = "there is no such key"
        return Problem(source.mark(place, key=True), place, what, advice.do, advice.lines)
    if kind == "no_check":
        if not source.intact((*place, "type")):
            return None  # the type itself was complained about
        message = str(error["msg"])
        if isinstance(given, dict) and "type" in given:
            place = (*place, "type")
            what, do = unknown_type(given["type"])
        else:
            what, _, do = message[:-1].partition(" (")
            lines = lines_for(place)
    elif kind == "anycast":
        what, do = error["ctx"]["what"], error["ctx"]["do"]
        lines = lines_for(place) if isinstance(given, list | dict) else lines_of_word(str(place[-1]), given)
    elif kind in ("model_type", "dict_type", "model_attributes_type"):
        what, do, lines = "this is not a mapping", "write `key: value` lines below it", lines_for(place)
    elif kind == "list_type":
        what, do, lines = (
            "this is not a list",
            "write [one, another], or a line with - for each",
            lines_for(place),
        )
    else:
        what, do = str(error["msg"]), "see the reference of the format"
    return Problem(source.mark(place), place, what, do, lines)


def _meant(error: Any, place: Path, source: Source) -> Path | None:
    """The path an unknown key was probably meant to be, if nothing stands there: it must not be missed too."""
    if error["type"] != "extra_forbidden":
        return None
    if isinstance(error["input"], dict) and place[-2:-1] in (("services",), ("neighbors",)):
        return place[:-1]  # names where a list belongs
    _, near = for_key(str(place[-1]), error["input"], keys_at(error["loc"][:-1]), place)
    meant: Path = (*place[:-1], near or "")
    return meant if near and meant not in source.keys else None
