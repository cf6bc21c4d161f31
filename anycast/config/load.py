"""Files to a valid `Config`, or every problem at once. Imports pydantic: import it where it is needed.

What the file names under `include` is read with it, then `conf.d/*.yaml` beside it, in lexical order. Files in conf.d
may hold `checks`, `pools` and `vips`, included ones any section. Of conf.d, names that begin with a dot or # or end in
anything else are editors' and package managers': they are not read.
"""

from __future__ import annotations

import gc
import itertools
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anycast.config.assemble import Built, build
from anycast.config.files import TooLargeError, read_regular, size
from anycast.config.include import KEY, Includes
from anycast.config.kept import digest_of, unended
from anycast.config.loaded import Loaded
from anycast.config.problem import MOST, TOLD, ConfigError, Mark, Path, Problem, TooManyError, told
from anycast.config.reader import MAX_BYTES, MAX_ITEMS, MAX_VALUES, Document, read
from anycast.config.steady import TRIES, ChangingError, Watched, read_all
from anycast.config.validate import Holes, Source, validate

if TYPE_CHECKING:
    import pathlib

    from anycast.config.reader import Value

_SHARED_SECTIONS = ("checks", "pools", "vips")
_NAMED = ("hooks", *_SHARED_SECTIONS)
_MAX_ENTRIES = 1000  # of conf.d, of whatever name


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where texts come from. `path`: that of the first file; None: it is no file. `kept`: all texts are there."""

    path: pathlib.Path | None = None
    watched: Watched | None = None
    kept: bool = False


def load(path: pathlib.Path, *, hostname: str | None = None) -> Loaded:
    """Load a file, what it includes, and the `conf.d` beside it. Raises `ConfigError`, whatever is wrong with them.

    `hostname` (default: this machine's) names the node when the file does not.
    """
    return load_with_texts(path, hostname=hostname)[0]


def load_with_texts(
    path: pathlib.Path, *, hostname: str | None = None
) -> tuple[Loaded, list[tuple[str, bytes]]]:
    """As `load`, and the texts of all files, the first file's first. Raises `ConfigError`."""
    changed = path
    for _ in range(TRIES):
        contents, problems = _texts(path)
        watched = Watched()
        try:
            loaded = _load(contents, problems, hostname, _Origin(path, watched))
        except ConfigError:
            if watched.at_rest():
                raise
        else:
            if watched.at_rest():
                return loaded, contents
        changed = watched.newest
    raise _changing(str(changed))


def loads(text: str | bytes, name: str = "anycast.yaml", *, hostname: str | None = None) -> Loaded:
    """Load one file's text. `name` stands in the problems."""
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return _load([(name, data)], [], hostname, _Origin())


def load_kept(contents: list[tuple[str, bytes]], *, hostname: str | None = None) -> Loaded:
    """Load texts that `load_with_texts` gave. Raises `ConfigError`."""
    return _load(contents, [], hostname, _Origin(kept=True))


def _texts(path: pathlib.Path) -> tuple[list[tuple[str, bytes]], list[Problem]]:
    """A file and the `conf.d` beside it, as they are at one instant, and what could not be read.

    Raises `ConfigError`: there is nothing to go on with.
    """
    problems: list[Problem] = []
    left = MAX_BYTES

    def find() -> list[pathlib.Path]:
        nonlocal left
        problems.clear()
        left = MAX_BYTES
        return [path, *_parts(path.parent / "conf.d", problems)]

    def read_file(file: pathlib.Path) -> bytes:
        nonlocal left
        data = read_regular(file, left)
        left -= len(data)
        return data

    try:
        found = read_all(find, read_file)
    except ChangingError as error:
        raise _changing(str(error)) from None
    contents: list[tuple[str, bytes]] = []
    for file, data in found:
        if isinstance(data, bytes):
            contents.append((str(file), data))
            continue
        problems.append(_unread(str(file), data, alone=not contents))
        if file == path:
            raise ConfigError(tuple(problems))
    return contents, problems


def _changing(file: str) -> ConfigError:
    what = "the file is being changed, again and again"
    return ConfigError((_about(file, what, "try again once it is written"),))


def _unread(file: str, error: OSError, *, alone: bool) -> Problem:
    if isinstance(error, TooLargeError):
        what = "the file" if alone else "with this file the configuration"
        do = "write less: so much is no configuration of a node"
        return _about(file, f"{what} is larger than {size(MAX_BYTES)}", do)
    what = f"the file cannot be read: {error.strerror or error}"
    return _about(file, what, "check its path and permissions")


def _about(file: str, what: str, do: str) -> Problem:
    return Problem(Mark(file, 0, 0), (), what, do)


def _parts(folder: pathlib.Path, problems: list[Problem]) -> list[pathlib.Path]:
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in itertools.islice(entries, _MAX_ENTRIES + 1)]
    except FileNotFoundError:
        return []
    except OSError as error:
        problems.append(_about(str(folder), f"cannot be read: {error.strerror}", "check its permissions"))
        return []
    if len(names) > _MAX_ENTRIES:
        what = f"there are more than {_MAX_ENTRIES:,} files in it"
        problems.append(_about(str(folder), what, "keep only files of the configuration there"))
        return []
    names = sorted(name for name in names if not name.startswith((".", "#")))
    problems += [
        _about(str(folder / name), "files that end in .yml are not read here", "rename it to .yaml")
        for name in names
        if name.endswith(".yml")
    ]
    return [folder / name for name in names if _names_part(name)]


def _names_part(name: str) -> bool:
    return name.endswith(".yaml") and not name.startswith((".", "#"))


def _load(
    contents: list[tuple[str, bytes]], problems: list[Problem], hostname: str | None, origin: _Origin
) -> Loaded:
    """Of texts that were read, the first file's first. `contents` gets those that are included."""
    # Hundreds of thousands of values are made and none is in a cycle: looked through again and again they would
    # cost as much as all the rest.
    collects = gc.isenabled()
    gc.disable()
    try:
        return _loaded(contents, problems, hostname, origin)
    except (RecursionError, MemoryError) as error:
        why = "too deeply nested" if isinstance(error, RecursionError) else "more than there is memory for"
        what = f"the configuration is {why}"
        raise ConfigError((_about(contents[0][0], what, "write it flatter, and less"),)) from None
    finally:
        if collects:
            gc.enable()


def _loaded(
    contents: list[tuple[str, bytes]], problems: list[Problem], hostname: str | None, origin: _Origin
) -> Loaded:
    built: Built | None = None
    unseen, ended = 0, False
    try:
        built = _built(contents, problems, hostname or socket.gethostname(), origin)
    except TooManyError as error:
        unseen, ended = error.unseen, True
    ended = ended or (built is not None and built.ended)
    order = {file: n for n, (file, _) in enumerate(contents)}
    warnings = built.warnings if built is not None else []
    for found in (problems, warnings):
        found.sort(key=lambda one: (order.get(one.mark.file, -1), one.mark.line, one.mark.column))
    if problems or built is None or built.config is None:
        raise told(problems, unseen=unseen, ended=ended)
    if len(warnings) > TOLD:
        what = f"{len(warnings) - TOLD:,} more warnings are not shown"
        warnings[TOLD:] = [_about(contents[0][0], what, "look at these first")]
    return Loaded(
        config=built.config,
        checks=built.checks,
        paths=built.paths,
        files=tuple(name for name, _ in contents),
        digest=digest_of(contents),
        warnings=tuple(warnings),
        unended=unended(contents),
    )


def _built(
    contents: list[tuple[str, bytes]], problems: list[Problem], hostname: str, origin: _Origin
) -> Built | None:
    """None: the first file, which holds everything else, cannot be used. `contents` gets the files that are included.

    Raises TooManyError.
    """
    main, *rest = list(contents)
    before = len(problems)
    reading = _Reading(contents, problems, origin)
    documents = [reading.read(*main)]
    if origin.kept:
        named = [one for one in rest if not _is_part(main[0], one[0])]
        rest = [one for one in rest if _is_part(main[0], one[0])]
        included = [reading.read(*one) for one in named]
    else:
        included = list(reading.included(documents[0]))
    documents += [*included, *(reading.read(*one) for one in rest)]
    whole = before == 0 and all(document.readable for document in documents)
    source = _merge(documents, len(included), problems)
    if source is None:
        return None
    source.complete = whole and not any(problem.path[:1] == (KEY,) for problem in problems)
    built = build(validate(source, problems), source, hostname)
    problems += built.problems
    return built


def _is_part(main: str, name: str) -> bool:
    """Whether the file is one that `_parts` finds: no included one is, for a file counts once."""
    folder, file = os.path.split(name)
    return folder == os.path.join(os.path.dirname(main), "conf.d") and _names_part(file)


class _Reading:
    """Reads text after text, within limits for all of them together. `contents` gets the files that are included."""

    def __init__(self, contents: list[tuple[str, bytes]], problems: list[Problem], origin: _Origin) -> None:
        self._contents = contents
        self._problems = problems
        self._origin = origin
        self._values = MAX_VALUES

    def read(self, file: str, data: bytes) -> Document:
        """Raises TooManyError."""
        document = read(data, file, self._values)
        self._values -= len(document.values)
        self._problems += document.problems
        if len(self._problems) > MOST or document.unseen:
            raise TooManyError(document.unseen)
        return document

    def included(self, main: Document) -> Iterator[Document]:
        """What the first file includes; without a path it can include nothing."""
        if self._origin.path is not None:
            yield from Includes(self._file, self._problems).of(main, self._origin.path)
        elif isinstance(main.tree, dict) and KEY in main.tree:
            do = "write the file's own text, or give its path"
            what = "a text that is no file includes nothing"
            self._problems.append(Problem(main.keys[KEY,], (KEY,), what, do))

    def _file(self, file: pathlib.Path, say: Callable[[str, str], None]) -> Document | None:
        left = MAX_BYTES - sum(len(data) for _, data in self._contents)
        try:
            if self._origin.watched is not None:
                self._origin.watched.add(file)
            data = read_regular(file, left)
        except TooLargeError:
            what = f"with {file} the configuration is larger than {size(MAX_BYTES)}"
            say(what, "write less: so much is no configuration of a node")
            return None
        except OSError as error:
            say(f"{file} cannot be read: {error.strerror or error}", "check its path and permissions")
            return None
        self._contents.append((str(file), data))
        return self.read(str(file), data)


def _merge(documents: list[Document], included: int, problems: list[Problem]) -> Source | None:
    """One tree of all documents; None if the first, which holds everything else, is not there.

    `included`: so many of them come after the first, before those of conf.d.
    """
    first, *parts = documents
    if not first.readable:
        return None
    if not isinstance(first.tree, dict):
        problems.append(_no_mapping(first))
        return None
    source = Source(first.tree, first.values, first.keys, Holes(first.broken))
    for n, part in enumerate(parts):
        _add(source, part, problems, any_section=n < included)
    for section in _SHARED_SECTIONS:
        entries = source.tree.get(section)
        if isinstance(entries, dict) and len(entries) > MAX_ITEMS:
            what = f"all files together have {len(entries):,} of them"
            problems.append(Problem(source.keys[section,], (section,), what, f"write {MAX_ITEMS:,} at most"))
            source.holes.add((section,))
            entries.clear()
    return source


def _no_mapping(document: Document) -> Problem:
    what = "the file is not a mapping at its top level"
    return Problem(document.values[()], (), what, "write `bgp:`, `vips:` and so on, without indentation")


def _add(source: Source, part: Document, problems: list[Problem], *, any_section: bool) -> None:
    if not part.readable:
        return
    if not isinstance(part.tree, dict):
        problems.append(_no_mapping(part))
        return
    for section, entries in part.tree.items():
        here: Path = (section,)
        if any_section and section == KEY:
            continue
        if any_section and section not in _SHARED_SECTIONS:
            _add_other(source, part, section, entries, problems)
            continue
        if section not in _SHARED_SECTIONS:
            what = "a file in conf.d cannot hold this"
            do = f"move it to the main file; {', '.join(_SHARED_SECTIONS)} can stand here"
            problems.append(Problem(part.keys[here], here, what, do))
            continue
        if here in part.broken:
            continue
        if not isinstance(entries, dict):
            problems.append(
                Problem(part.values[here], here, "this is not a mapping", "write `name:` lines below it")
            )
            continue
        _add_section(source, part, section, entries, problems)


def _add_other(source: Source, part: Document, section: str, entry: Value, problems: list[Problem]) -> None:
    """A section of an included file that is no list of names: it is taken, or its keys go beside those there are."""
    here: Path = (section,)
    if section not in source.tree:
        source.tree[section] = entry
        source.keys.add(part.keys, (path for path in part.keys if path[:1] == here))
        source.values.add(part.values, (path for path in part.values if path[:1] == here))
        source.holes.update(path for path in part.broken if path[:1] == here)
    elif isinstance(entry, dict) and isinstance(source.tree[section], dict):
        _add_section(source, part, section, entry, problems)
    else:
        what = f"this is written already, at {source.keys[here]}"
        problems.append(Problem(part.keys[here], here, what, "keep one of them"))


def _add_section(
    source: Source, part: Document, section: str, entries: dict[str, Value], problems: list[Problem]
) -> None:
    into = source.tree.setdefault(section, {})
    here: Path = (section,)
    source.keys.add(part.keys, [here])
    source.values.add(part.values, [here])
    if not isinstance(into, dict):  # the main file's is wrong, which is said of that one
        return
    taken: set[Path] = set()
    for name, entry in entries.items():
        here = (section, name)
        if name in into:
            if section in _NAMED:
                what, do = f"there is a {section[:-1]} of this name already", "rename one of them"
            else:
                what, do = "this is written already", "keep one of them"
            problems.append(Problem(part.keys[here], here, f"{what}, at {source.keys[here]}", do))
            continue
        into[name] = entry
        taken.add(here)
    source.keys.add(part.keys, (path for path in part.keys if path[:2] in taken))
    source.values.add(part.values, (path for path in part.values if path[:2] in taken))
    source.holes.update(path for path in part.broken if path[:2] in taken)
