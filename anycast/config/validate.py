"""The merged tree against the schema, leaving out what is wrong, so that the rest can still be judged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
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


_LARGE = 20_000  # values: more are judged in pieces
_PIECE = 10_000  # values of a piece
_COMMON = 100  # plain values of a mapping that each of its pieces has


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

    def paths(self) -> Iterable[Path]:
        return self._paths

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


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Of a node that the files name, as far as they say it: `fleet.listen` of its own part, and its own address."""

    name: str
    listen: str | None = None
    address: str | None = None


@dataclass(slots=True)
class Source:
    """What was read: one tree of all files, and the place of everything in it. `holes` are left out of it.

    `origins`: what stands elsewhere in the files than in the tree, with all below it (`anycast.config.fleet`). `nodes`: all
    that the files name; empty: they name none.
    """

    tree: dict[str, Value]
    values: Places
    keys: Places
    holes: Holes
    kept: dict[Path, Sequence[int]] = field(
        default_factory=dict
    )  # of a list in `tree` that is not whole: what is left
    complete: bool = True  # False: a file could not be read at all
    origins: Mapping[Path, Path] = field(default_factory=dict)
    nodes: tuple[Whereabouts, ...] = ()

    def written(self, path: Path) -> Path:
        """Where a path of the tree stands in the files."""
        if self.origins:
            for length in range(len(path), 0, -1):
                if (origin := self.origins.get(path[:length])) is not None:
                    return (*origin, *path[length:])
        return path

    def place(self, path: Path) -> Path:
        """Where a path of the remaining tree stands in the files."""
        if not self.kept:  # every list is whole
            return path
        place: Path = ()
        for part in path:
            kept = self.kept.get(place, ()) if isinstance(part, int) else ()
            place = (*place, kept[part] if isinstance(part, int) and part < len(kept) else part)
        return place

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

    Fills `source.holes` and `source.kept`. Raises TooManyError.
    """
    if len(source.values) > _LARGE:
        # The errors of a library are dear: of hundreds of thousands at once they would be hundreds of megabytes.
        for piece, kept in _Cut(source.tree).pieces(source.tree):
            _sound(piece, kept, source, problems)
    return _sound(source.tree, {}, source, problems)


def _sound(tree: Value, kept: Mapping[Path, Sequence[int]], source: Source, problems: list[Problem]) -> File:
    """What is left of a part of the tree. `kept`: as in `Source`, of the part's lists."""
    while True:
        source.kept = dict(kept)
        rest = _without(tree, (), source) if source.holes else tree
        try:
            return File.model_validate(rest)
        except ValidationError as error:
            before = len(source.holes)
            for seen, one in enumerate(error.errors(include_url=False, include_input=True), 1):
                here = _walk(rest, one["loc"])
                place = source.place(here)
                while place not in source.values:  # a scalar that stands for a mapping
                    place = place[:-1]
                if problem := _explain(one, place, source):
                    problems.append(problem)
                    if len(problems) > MOST:
                        raise TooManyError(error.error_count() - seen) from None
                source.holes.add(place)
                if meant := _meant(one, place, source):
                    source.holes.add(meant)
            if len(source.holes) == before:  # never seen; better too much left out than no end
                source.holes.update((key,) for key in source.tree)


def _without(value: Value, here: Path, source: Source) -> Any:
    """The value without its holes, at its place in the files. What has none below it is the same object."""
    holes = source.holes
    if not holes.below(here):
        return value
    if isinstance(value, dict):
        return {
            key: _without(item, (*here, key), source)
            for key, item in value.items()
            if (*here, key) not in holes
        }
    if isinstance(value, list):
        old = source.kept.get(here, range(len(value)))
        left = [(n, item) for n, item in zip(old, value, strict=True) if (*here, n) not in holes]
        source.kept[here] = [n for n, _ in left]
        return [_without(item, (*here, n), source) for n, item in left]
    return value


class _Cut:
    """Cuts a tree into pieces of about `_PIECE` values.

    With each piece comes what it has of the lists that were cut, by their places. The pieces of a mapping all have its
    plain values, so none lacks what belongs to the rest, as the type of a check does.
    """

    def __init__(self, tree: Value) -> None:
        self._sizes: dict[int, int] = {}  # of mappings and lists, by identity
        self._measure(tree)

    def _measure(self, value: Value) -> int:
        if isinstance(value, dict):
            size = self._sizes[id(value)] = 1 + sum(map(self._measure, value.values()))
        elif isinstance(value, list):
            size = self._sizes[id(value)] = 1 + sum(map(self._measure, value))
        else:
            size = 1
        return size

    def _size(self, value: Value) -> int:
        return self._sizes.get(id(value), 1) if isinstance(value, dict | list) else 1

    def pieces(self, value: Value) -> Iterator[tuple[Any, dict[Path, Sequence[int]]]]:
        if self._size(value) <= _PIECE:
            yield value, {}
        elif isinstance(value, dict):
            plain = {key: one for key, one in value.items() if not isinstance(one, dict | list)}
            common = plain if len(plain) <= _COMMON else {}
            yield common, {}
            for run in self._runs(value.items()):
                for kept, part in self._cut(run):
                    yield common | dict(part), kept
        elif isinstance(value, list):
            for run in self._runs(enumerate(value)):
                for kept, part in self._cut(run):
                    yield [one for _, one in part], {(): [n for n, _ in part], **kept}

    def _runs(self, items: Iterable[tuple[Any, Value]]) -> Iterator[list[tuple[Any, Value]]]:
        """Items that are one after another: as many as make a piece. One that is more than a piece is by itself."""
        run: list[tuple[Any, Value]] = []
        room = _PIECE
        for key, one in items:
            size = self._size(one)
            if size > room and run:
                yield run
                run, room = [], _PIECE
            run.append((key, one))
            room -= size
        yield run

    def _cut(
        self, run: list[tuple[Any, Value]]
    ) -> Iterator[tuple[dict[Path, Sequence[int]], list[tuple[Any, Value]]]]:
        if len(run) != 1:
            yield {}, run
            return
        [(key, one)] = run
        for part, kept in self.pieces(one):
            yield {(key, *path): numbers for path, numbers in kept.items()}, [(key, part)]


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
