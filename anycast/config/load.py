"""Files to a valid `Config`, or every problem at once. Imports pydantic: import it where it is needed.

What the file names under `include` is read with it, then `conf.d/*.yaml` beside it, in lexical order. Files in conf.d
may hold `checks`, `pools` and `vips`, included ones any section. Of conf.d, names that begin with a dot or # or end in
anything else are editors' and package managers': they are not read.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from anycast.config.assemble import Built, build
from anycast.config.every import Clashes, Every, Look, Said
from anycast.config.files import TooLargeError, read_regular, size
from anycast.config.fleet import KEY as NODES
from anycast.config.fleet import Fleet, Who, as_mapping, fingerprint, fleet_of
from anycast.config.include import KEY, Includes
from anycast.config.kept import digest_of, unended
from anycast.config.loaded import Loaded
from anycast.config.problem import MOST, TOLD, ConfigError, Mark, Path, Problem, TooManyError, shown, told
from anycast.config.reader import MAX_BYTES, MAX_ITEMS, MAX_VALUES, Document, read
from anycast.config.steady import TRIES, ChangingError, Watched, read_all
from anycast.config.validate import Holes, Source, validate

if TYPE_CHECKING:
    import pathlib

    from anycast.config.reader import Value

T = TypeVar("T")

_SHARED_SECTIONS = ("checks", "pools", "vips")
_NAMED = ("nodes", "hooks", *_SHARED_SECTIONS)
_MAX_ENTRIES = 1000  # of conf.d, of whatever name


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where texts come from. `path`: that of the first file; None: it is no file. `kept`: all texts are there."""

    path: pathlib.Path | None = None
    watched: Watched | None = None
    kept: bool = False


def load(path: pathlib.Path, *, hostname: str | None = None, node: str | None = None) -> Loaded:
    """Load a file, what it includes, and the `conf.d` beside it. Raises `ConfigError`, whatever is wrong with them.

    `hostname` (default: this machine's) names the node when the file does not. `node`: which one of a fleet it is for,
    whatever the file and the host say.
    """
    return load_with_texts(path, hostname=hostname, node=node)[0]


def load_with_texts(
    path: pathlib.Path, *, hostname: str | None = None, node: str | None = None
) -> tuple[Loaded, list[tuple[str, bytes]]]:
    """As `load`, and the texts of all files, the first file's first. Raises `ConfigError`."""
    return _at_rest(path, lambda found: _one(found, _who(hostname, node)))


def loads(
    text: str | bytes,
    name: str = "anycast.yaml",
    *,
    hostname: str | None = None,
    node: str | None = None,
) -> Loaded:
    """Load one file's text. `name` stands in the problems."""
    return _one(_Found(_contents(text, name), [], _Origin()), _who(hostname, node))


def load_kept(
    contents: list[tuple[str, bytes]], *, hostname: str | None = None, node: str | None = None
) -> Loaded:
    """Load texts that `load_with_texts` gave. Raises `ConfigError`."""
    return _one(_Found(contents, [], _Origin(kept=True)), _who(hostname, node))


def load_every(
    path: pathlib.Path, look: Look, *, hostname: str | None = None
) -> tuple[Every, list[tuple[str, bytes]]]:
    """As `load_with_texts`, for every node of a fleet, one after another: `look` gets each one's, of which nothing stays.

    Raises `ConfigError`: of every problem it says which nodes it concerns, unless it is all.
    """
    return _at_rest(path, lambda found: _every(found, look, _who(hostname, None)))


def loads_every(
    text: str | bytes, look: Look, name: str = "anycast.yaml", *, hostname: str | None = None
) -> Every:
    """The same of one file's text."""
    return _every(_Found(_contents(text, name), [], _Origin()), look, _who(hostname, None))


def _contents(text: str | bytes, name: str) -> list[tuple[str, bytes]]:
    return [(name, text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)]


def _who(hostname: str | None, node: str | None) -> Who:
    return Who(hostname=hostname or socket.gethostname(), given=node)


def _at_rest(path: pathlib.Path, loaded: Callable[[_Found], T]) -> tuple[T, list[tuple[str, bytes]]]:
    """What comes of the files as they are at one instant. Raises ConfigError."""
    changed = path
    for _ in range(TRIES):
        contents, problems = _texts(path)
        watched = Watched()
        try:
            found = loaded(_Found(contents, problems, _Origin(path, watched)))
        except ConfigError:
            if watched.at_rest():
                raise
        else:
            if watched.at_rest():
                return found, contents
        changed = watched.newest
    raise _changing(str(changed))


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


@dataclass(frozen=True, slots=True)
class _Found:
    """Texts that were read, the first file's first, and what could not be. `contents` gets those that are included."""

    contents: list[tuple[str, bytes]]
    problems: list[Problem]
    origin: _Origin


def _one(found: _Found, who: Who) -> Loaded:
    """For one node. Raises ConfigError."""
    with _uncollected(found):
        return _loaded(found, who)


@contextlib.contextmanager
def _uncollected(found: _Found) -> Iterator[None]:
    """Without the collector of garbage: hundreds of thousands of values are made and none is in a cycle. Looked through
    again and again they would cost as much as all the rest. Raises ConfigError: there is not room for them.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    except (RecursionError, MemoryError) as error:
        why = "too deeply nested" if isinstance(error, RecursionError) else "more than there is memory for"
        what = f"the configuration is {why}"
        raise ConfigError((_about(found.contents[0][0], what, "write it flatter, and less"),)) from None
    finally:
        if collects:
            gc.enable()


def _loaded(found: _Found, who: Who) -> Loaded:
    """Raises ConfigError."""
    return _for_one(found, _files(found), who)


def _for_one(found: _Found, files: _Files | None, who: Who) -> Loaded:
    """Raises ConfigError."""
    problems = found.problems
    built: Built | None = None
    unseen, ended = 0, False
    try:
        if files is not None and (source := files.of(who, problems)) is not None:
            built = _built(source, who, problems)
    except TooManyError as error:
        unseen, ended = error.unseen, True
    if problems or files is None or built is None or built.config is None:
        raise _wrong(found, problems, unseen=unseen, ended=ended or (built is not None and built.ended))
    return _result(found, files, built, who)


def _wrong(found: _Found, problems: list[Problem], *, unseen: int = 0, ended: bool = False) -> ConfigError:
    _in_order(found, problems)
    return told(problems, unseen=unseen, ended=ended)


def _result(found: _Found, files: _Files, built: Built, who: Who) -> Loaded:
    """What is without mistakes."""
    assert built.config is not None  # noqa: S101 - the caller has looked
    return Loaded(
        config=built.config,
        checks=built.checks,
        paths=built.paths,
        files=tuple(name for name, _ in found.contents),
        digest=digest_of(found.contents),
        warnings=tuple(_few(found, built.warnings)),
        unended=unended(found.contents),
        fingerprint=files.fingerprint,
        nodes=files.names,
        asked=who.given,
    )


def _in_order(found: _Found, problems: list[Problem]) -> None:
    order = {file: n for n, (file, _) in enumerate(found.contents)}
    problems.sort(key=lambda one: (order.get(one.mark.file, -1), one.mark.line, one.mark.column))


def _few(found: _Found, warnings: list[Problem]) -> list[Problem]:
    _in_order(found, warnings)
    if len(warnings) > TOLD:
        what = f"{len(warnings) - TOLD:,} more warnings are not shown"
        warnings[TOLD:] = [_about(found.contents[0][0], what, "look at these first")]
    return warnings


@dataclass(frozen=True, slots=True)
class _Files:
    """All files as one tree. `fleet` None: it names no nodes, or in a way that cannot be used."""

    source: Source
    fleet: Fleet | None
    fingerprint: str

    @property
    def names(self) -> tuple[str, ...]:
        return () if self.fleet is None else self.fleet.names

    def of(self, who: Who, problems: list[Problem]) -> Source | None:
        """The files as they are for this node. None: there is none, which is said."""
        if self.fleet is None:
            return self.source
        name = self.fleet.find(who, problems)
        return None if name is None else self.fleet.part(name, problems)


def _files(found: _Found) -> _Files | None:
    """None: the first file, which holds everything else, cannot be used, or the nodes cannot, which is said.

    Raises ConfigError: there is so much wrong that no more was looked for.
    """
    try:
        source = _source(found)
        fleet = None if source is None else fleet_of(source, found.problems)
    except TooManyError as error:
        raise _wrong(found, found.problems, unseen=error.unseen, ended=True) from None
    if source is None or (fleet is None and NODES in source.tree):
        return None
    return _Files(source, fleet, fingerprint(source))


def _built(source: Source, who: Who, problems: list[Problem]) -> Built:
    """`problems` gets what is wrong, with the places in the files. Raises TooManyError."""
    wrong: list[Problem] = []
    try:
        built = build(validate(source, wrong), source, who.hostname)
    finally:
        problems += _placed(wrong, source)
    problems += _placed(built.problems, source)
    config = built.config
    if source.origins or config is None or who.given in (None, config.node.name):
        return replace(built, warnings=_placed(built.warnings, source))
    what = f"the file is of the node {config.node.name}, not of {shown(who.given)}, and names no others"
    problems.append(Problem(source.mark(("node",)), (), what, "write `nodes`, or leave --node out"))
    return built


def _placed(found: list[Problem], source: Source) -> list[Problem]:
    return [replace(one, path=source.written(one.path)) for one in found] if source.origins else found


def _every(found: _Found, look: Look, who: Who) -> Every:
    """Raises ConfigError."""
    with _uncollected(found):
        return _all(found, look, who)


def _all(found: _Found, look: Look, who: Who) -> Every:
    files = _files(found)
    if files is None or files.fleet is None:
        loaded = _for_one(found, files, who)
        look(loaded)
        return Every.of(loaded)
    wrong, warned, clashes = Said(), Said(), Clashes()
    nodes, ended = 0, False
    for name in files.names:
        nodes += 1
        problems: list[Problem] = []
        source, built = None, None
        mine = replace(who, given=name)
        try:
            source = files.of(mine, problems)
            built = None if source is None else _built(source, mine, problems)
        except TooManyError:
            ended = True
        if source is not None and built is not None and built.config is not None:
            problems += clashes.problems(built.config, source)
            warned.add(name, [*built.warnings, *clashes.warnings(built.config, source)])
            if not problems and not wrong and not found.problems:
                look(_result(found, files, replace(built, warnings=[]), mine))
        wrong.add(name, problems)
        ended = ended or (built is not None and built.ended) or len(wrong) > MOST
        if ended:
            break
    if found.problems or wrong:
        raise _wrong(found, [*found.problems, *wrong.problems(nodes)], ended=ended)
    warnings = _few(found, [*warned.problems(nodes), *clashes.of_all(files.source, nodes)])
    return Every(
        names=files.names,
        warnings=tuple(warnings),
        files=tuple(name for name, _ in found.contents),
        fingerprint=files.fingerprint,
    )


def _source(found: _Found) -> Source | None:
    """None: the first file, which holds everything else, cannot be used. Raises TooManyError."""
    contents, problems, origin = found.contents, found.problems, found.origin
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
    if source is not None:
        source.complete = whole and not any(problem.path[:1] == (KEY,) for problem in problems)
    return source


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
        return
    if isinstance(entry, dict):
        as_mapping(source, section)
    if isinstance(entry, dict) and isinstance(source.tree[section], dict):
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
