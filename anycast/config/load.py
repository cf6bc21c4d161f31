"""Files to a valid `Config`, or every problem at once. Imports pydantic: import it where it is needed.

`conf.d/*.yaml` beside the file are read with it, in lexical order. They may hold `checks`, `pools` and `vips`. Names
that begin with a dot or # or end in anything else are editors' and package managers': they are not read.
"""

from __future__ import annotations

import gc
import itertools
import os
import socket
from typing import TYPE_CHECKING

from anycast.config.assemble import Built, build
from anycast.config.files import TooLargeError, read_regular, size
from anycast.config.kept import digest_of, unended
from anycast.config.loaded import Loaded
from anycast.config.problem import MOST, TOLD, ConfigError, Mark, Path, Problem, TooManyError, told
from anycast.config.reader import MAX_BYTES, MAX_ITEMS, MAX_VALUES, Document, read
from anycast.config.steady import ChangingError, read_all
from anycast.config.validate import Holes, Source, validate

if TYPE_CHECKING:
    import pathlib

    from anycast.config.reader import Value

_SHARED_SECTIONS = ("checks", "pools", "vips")
_MAX_ENTRIES = 1000  # of conf.d, of whatever name


def load(path: pathlib.Path, *, hostname: str | None = None) -> Loaded:
    """Load a file and the `conf.d` beside it. Raises `ConfigError`, whatever is wrong with them.

    `hostname` (default: this machine's) names the node when the file does not.
    """
    contents, problems = texts_of(path)
    return loaded_of(contents, problems, hostname)


def texts_of(path: pathlib.Path) -> tuple[list[tuple[str, bytes]], list[Problem]]:
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
        what = "the file is being changed, again and again"
        raise ConfigError((_about(str(error), what, "try again once it is written"),)) from None
    contents: list[tuple[str, bytes]] = []
    for file, data in found:
        if isinstance(data, bytes):
            contents.append((str(file), data))
            continue
        problems.append(_unread(str(file), data, alone=not contents))
        if file == path:
            raise ConfigError(tuple(problems))
    return contents, problems


def _unread(file: str, error: OSError, *, alone: bool) -> Problem:
    if isinstance(error, TooLargeError):
        what = "the file" if alone else "with this file the configuration"
        do = "write less: so much is no configuration of a node"
        return _about(file, f"{what} is larger than {size(MAX_BYTES)}", do)
    what = f"the file cannot be read: {error.strerror or error}"
    return _about(file, what, "check its path and permissions")


def loads(text: str | bytes, name: str = "anycast.yaml", *, hostname: str | None = None) -> Loaded:
    """Load one file's text. `name` stands in the problems."""
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return loaded_of([(name, data)], [], hostname)


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
    return [folder / name for name in names if name.endswith(".yaml")]


def loaded_of(
    contents: list[tuple[str, bytes]], problems: list[Problem], hostname: str | None = None
) -> Loaded:
    """Of texts that were read, the main file's first. Raises `ConfigError`."""
    # Hundreds of thousands of values are made and none is in a cycle: looked through again and again they would
    # cost as much as all the rest.
    collects = gc.isenabled()
    gc.disable()
    try:
        return _loaded(contents, problems, hostname)
    except (RecursionError, MemoryError) as error:
        why = "too deeply nested" if isinstance(error, RecursionError) else "more than there is memory for"
        what = f"the configuration is {why}"
        raise ConfigError((_about(contents[0][0], what, "write it flatter, and less"),)) from None
    finally:
        if collects:
            gc.enable()


def _loaded(contents: list[tuple[str, bytes]], problems: list[Problem], hostname: str | None) -> Loaded:
    built: Built | None = None
    unseen, ended = 0, False
    try:
        built = _built(contents, problems, hostname or socket.gethostname())
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


def _built(contents: list[tuple[str, bytes]], problems: list[Problem], hostname: str) -> Built | None:
    """None: the first file, which holds everything else, cannot be used. Raises TooManyError."""
    complete = not problems
    documents: list[Document] = []
    unseen, values = 0, MAX_VALUES
    for file, data in contents:
        document = read(data, file, values)
        documents.append(document)
        values -= len(document.values)
        problems += document.problems
        unseen += document.unseen
        if len(problems) > MOST or unseen:
            raise TooManyError(unseen)
    source = _merge(documents, problems)
    if source is None:
        return None
    source.complete = complete and all(document.readable for document in documents)
    built = build(validate(source, problems), source, hostname)
    problems += built.problems
    return built


def _merge(documents: list[Document], problems: list[Problem]) -> Source | None:
    """One tree of all documents; None if the first, which holds everything else, is not there."""
    first, *parts = documents
    if not first.readable:
        return None
    if not isinstance(first.tree, dict):
        problems.append(_no_mapping(first))
        return None
    source = Source(first.tree, first.values, first.keys, Holes(first.broken))
    for part in parts:
        _add(source, part, problems)
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


def _add(source: Source, part: Document, problems: list[Problem]) -> None:
    if not part.readable:
        return
    if not isinstance(part.tree, dict):
        problems.append(_no_mapping(part))
        return
    for section, entries in part.tree.items():
        here: Path = (section,)
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
            what = f"there is a {section[:-1]} of this name already, at {source.keys[here]}"
            problems.append(Problem(part.keys[here], here, what, "rename one of them"))
            continue
        into[name] = entry
        taken.add(here)
    source.keys.add(part.keys, (path for path in part.keys if path[:2] in taken))
    source.values.add(part.values, (path for path in part.values if path[:2] in taken))
    source.holes.update(path for path in part.broken if path[:2] in taken)
