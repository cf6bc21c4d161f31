"""YAML text to plain values, with the place of every one. Refuses what readers of YAML disagree about.

Works on the parser's events, so an anchor is never followed and nothing can grow by aliases. Plain scalars
follow the core schema of YAML 1.2: `on`, `yes` and `12:30:45` are text.

The events come from libyaml, an order of magnitude faster, where PyYAML was built with it and the text has nothing
that the two parsers take differently. PyYAML's own parser has the last word: what libyaml refuses is read again by
it, so a mistake is told in the same words everywhere. For a file that would take that parser long, libyaml's word is
the last: no file may take seconds.

Everything is bounded, and what goes beyond is a mistake with its place: depth, the number of values, the length of a
value and of a key.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeAlias

import yaml
from yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

from anycast.config.files import size
from anycast.config.places import Places, packed
from anycast.config.problem import MOST, Mark, Path, Problem, shown

_DOUBTFUL = re.compile("[?|>]")
_Quick: Callable[[str], Any] | None
try:
    from yaml._yaml import CParser as _Quick
except ImportError:  # PyYAML was built without libyaml
    _Quick = None

Value: TypeAlias = "bool | int | float | str | list[Value] | dict[str, Value] | None"

MAX_BYTES = 8 * 1024 * 1024  # of all files together
MAX_DIRECTIVES = 10
MAX_ITEMS = 10_000  # of a list or a mapping
MAX_SERVERS = 100_000  # of a list of real servers, and of all files together
MAX_VALUES = 220_000  # of all files together: 50,000 real servers with a name and a weight each have 200,000
_MAX_DEPTH = 16  # the format needs 7
_MAX_SCALAR = 65_536  # characters of a value
_MAX_KEY = 256  # characters of a key
# What PyYAML's own parser may take where there is libyaml: half a second.
_SLOW_TEXT = 256 * 1024  # characters
_SLOW_EVENTS = 15_000

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset({"true", "True", "TRUE"})
_FALSE = frozenset({"false", "False", "FALSE"})
_NOT_TEXT = frozenset({"", *"~nNtTfF0123456789+-."})  # how plain scalars begin that may be something else
_NOT_KEY = _NOT_TEXT | {"<"}
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,18})\Z", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z", re.ASCII)
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+(\.[0-9]*)?\Z", re.ASCII)
_TOO_LONG = re.compile(r"[-+]?[0-9]{20,}\Z", re.ASCII)
# Line ends and spaces that are not everybody's, directives, and marks at which the parsers' rules differ.
_TAKEN_DIFFERENTLY = re.compile("[\t\r\x7f-\x9f\u2028\u2029\ufeff]|^%", re.MULTILINE)
_DIRECTIVE = re.compile("(?:^|[\r\x85\u2028\u2029])%", re.MULTILINE)
_SURROGATE = re.compile("[\ud800-\udfff]")
_NOT_ALLOWED: re.Pattern[str] = yaml.reader.Reader.NON_PRINTABLE

_TAG = "tag:yaml.org,2002:"
_SCALAR_TAGS: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "null": (type(None),),
}


@dataclass(slots=True)
class Document:
    """One file. `broken` are the paths whose value could not be taken; they have no place in `tree`'s use."""

    file: str
    tree: Value = None
    values: Places = field(init=False)
    keys: Places = field(init=False)
    broken: set[Path] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)
    unseen: int = 0  # problems more than `MOST`
    readable: bool = True  # False: the text is no YAML, or too much is wrong; `tree` holds nothing

    def __post_init__(self) -> None:
        self.values, self.keys = Places(self.file), Places(self.file)


class _UnreadableError(Exception):
    def __init__(self, mark: Mark, what: str, do: str) -> None:
        super().__init__(what)
        self.problem = Problem(mark, (), what, do)


class _TooMuchError(Exception):
    """The slow parser has had its share of the work."""


def read(data: bytes | str, file: str, values: int = MAX_VALUES) -> Document:
    """Read one document, of so many values at most. Never raises: what is wrong is in `problems`."""
    document = Document(file)
    try:
        text = _decode(data, file)
    except _UnreadableError as error:
        return _refused(document, error)
    if _Quick is None:
        return _read(_Reader(document, _events(text, file).__next__, values))
    # Where a text ends without a line end, libyaml has other places for what is missing there.
    same = text.endswith("\n") and not _TAKEN_DIFFERENTLY.search(text)
    short = len(text) <= _SLOW_TEXT
    quick = _read_quickly(text, file, values, trusted=not short) if same or not short else None
    if quick is not None:
        return quick
    try:
        return _read(_Slow(document, _events(text, file).__next__, values))
    except _TooMuchError:
        found = _read_quickly(text, file, values, trusted=True)
        assert found is not None  # noqa: S101 - where it is trusted it has the last word
        return found


def _read(reader: _Reader) -> Document:
    try:
        reader.run()
    except _UnreadableError as error:
        return _refused(reader.document, error)
    if reader.document.unseen:
        reader.document.readable, reader.document.tree = False, None
    return reader.document


def _refused(document: Document, error: _UnreadableError) -> Document:
    document.problems.append(error.problem)
    document.readable, document.tree = False, None
    return document


def _read_quickly(text: str, file: str, values: int, *, trusted: bool) -> Document | None:
    """None: something is wrong or doubtful; then the other parser says what it is. Not if `trusted`."""
    document = Document(file)
    kind = _Careful if not trusted and _DOUBTFUL.search(text) else _Reader
    try:
        reader = kind(document, _Quick(text).get_event, values)  # type: ignore[misc]  # it is there
        reader.run()
    except _UnreadableError as error:
        return _refused(document, error) if trusted else None
    except yaml.MarkedYAMLError as error:
        return _refused(document, _syntax(error, file)) if trusted else None
    except (yaml.YAMLError, ValueError, OverflowError):
        what = _UnreadableError(Mark(file, 0, 0), "this is not YAML", "check escapes, directives and quotes")
        return _refused(document, what) if trusted else None
    # What is passed over for another mistake has not been looked at with care. Nor have tags: libyaml takes more.
    doubtful = not trusted and (kind is _Careful or "!" in text)
    if document.problems and doubtful:
        return None
    if document.unseen:
        document.readable, document.tree = False, None
    return document


def _decode(data: bytes | str, file: str) -> str:
    if len(data) > MAX_BYTES:
        what = f"the file is larger than {size(MAX_BYTES)}"
        raise _UnreadableError(Mark(file, 0, 0), what, "write less: so much is no configuration of a node")
    if isinstance(data, str):
        text = data
    else:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            before = data[: error.start]
            line = before.rpartition(b"\n")[2].decode("utf-8-sig", "replace")
            mark = Mark(file, before.count(b"\n") + 1, len(line) + 1)
            raise _UnreadableError(mark, "this is not UTF-8", "save the file as UTF-8") from None
    if found := _NOT_ALLOWED.search(text):
        raise _unprintable(found, file)
    # libyaml compares each with all before.
    if directive := next(islice(_DIRECTIVE.finditer(text), MAX_DIRECTIVES, None), None):
        mark = Mark(file, text.count("\n", 0, directive.start()) + 1, 1)
        what = f"there are more than {MAX_DIRECTIVES} lines that begin with %"
        raise _UnreadableError(mark, what, "remove them: no directive is needed here")
    return text.replace("\r\n", "\n")  # it is the same to YAML


def _events(text: str, file: str) -> Iterator[yaml.Event]:
    """PyYAML's events; whatever it raises becomes a syntax problem with its place."""
    loader = yaml.SafeLoader(text)
    try:
        while loader.check_event():
            yield loader.get_event()  # type: ignore[no-untyped-call]
    except yaml.MarkedYAMLError as error:
        raise _syntax(error, file) from None
    except (ValueError, OverflowError):  # escapes beyond Unicode, absurd %YAML versions
        mark = Mark(file, loader.line + 1, loader.column + 1)
        raise _UnreadableError(
            mark, "a number is out of range here", "check the escape or directive"
        ) from None
    finally:
        loader.dispose()


def _unprintable(found: re.Match[str], file: str) -> _UnreadableError:
    before = found.string[: found.start()]
    mark = Mark(file, before.count("\n") + 1, len(before.rpartition("\n")[2]) + 1)
    return _UnreadableError(mark, f"character U+{ord(found[0]):04X} is not allowed", "remove it")


def _syntax(error: yaml.MarkedYAMLError, file: str) -> _UnreadableError:
    mark = error.problem_mark or error.context_mark
    where = Mark(file, mark.line + 1, mark.column + 1) if mark else Mark(file, 0, 0)
    what = " ".join(str(error.problem or error.context or "cannot be read").split())
    if "'\\t'" in what:
        return _UnreadableError(where, "a tab where only spaces are allowed", "indent with spaces")
    if "tag handle" in what:  # its text repeats the file's
        return _UnreadableError(where, "a tag that is not defined", "remove it, or put the text in quotes")
    if error.context and error.problem:
        what = f"{' '.join(error.context.split())}: {what}"
    return _UnreadableError(where, f"YAML syntax: {what}", "check indentation, colons and quotes here")


def _too_deep(mark: Mark) -> _UnreadableError:
    return _UnreadableError(mark, f"nested deeper than {_MAX_DEPTH} levels", "write it flatter")


class _Reader:
    def __init__(self, document: Document, event: Callable[[], Any], values: int) -> None:
        """`event` gives the next one, and raises what is wrong with the text. `values`: so many may there be."""
        self.document = self._doc = document
        self._next = event
        self._at = document.values.at
        self._values = values

    def run(self) -> None:
        self._next()  # stream start
        event = self._next()
        if isinstance(event, StreamEndEvent):
            mark = Mark(self._doc.file, 1, 1)
            raise _UnreadableError(
                mark, "the file holds nothing", "write a configuration, or remove the file"
            )
        self._doc.tree = self._value((), self._next())
        self._next()  # document end
        event = self._next()
        if not isinstance(event, StreamEndEvent):
            self._say((), event, "a second document begins here", "put everything into one, without ---")

    def _mark(self, event: yaml.Event) -> Mark:
        mark = event.start_mark
        return Mark(self._doc.file, mark.line + 1, mark.column + 1) if mark else Mark(self._doc.file, 0, 0)

    def _say(self, path: Path, event: yaml.Event, what: str, do: str) -> None:
        if len(self._doc.problems) >= MOST:
            self._doc.unseen += 1  # counting them costs little
            return
        self._doc.problems.append(Problem(self._mark(event), path, what, do))

    def _break(self, path: Path, event: yaml.Event, what: str, do: str) -> None:
        self._doc.broken.add(path)
        self._say(path, event, what, do)

    def _value(self, path: Path, event: Any) -> Value:
        if path not in self._at:
            self._at[path] = packed(event.start_mark)
        if len(path) > _MAX_DEPTH:
            raise _too_deep(self._mark(event))
        self._count(event)
        kind = type(event)
        if kind is AliasEvent:
            self._break(path, event, "an alias (*name) is not read here", "write the value out")
            return None
        if event.anchor is not None:
            self._say(path, event, "an anchor (&name) is not read here", "remove it and write values out")
        if kind is ScalarEvent:
            return self._scalar(path, event)
        if kind is MappingStartEvent:
            self._tag(path, event, "map")
            return self._mapping(path, event, {})
        if kind is SequenceStartEvent:
            self._tag(path, event, "seq")
            return self._sequence(path, event)
        raise AssertionError(event)  # the parser emits no other event here

    def _count(self, event: Any) -> None:
        self._values -= 1
        if self._values < 0:
            what = f"there are more than {MAX_VALUES:,} values in the configuration"
            raise _UnreadableError(self._mark(event), what, "write less: no node carries so much")

    def _tag(self, path: Path, event: ScalarEvent | CollectionStartEvent, expected: str) -> bool:
        """True when the value may be taken as if it had no tag, or with the one it is expected to have."""
        tag = event.tag
        if tag is None or tag in ("!", _TAG + expected):
            return True
        self._break(path, event, "a tag (!name) is not read here", "remove it")
        return False

    def _sequence(self, path: Path, start: Any) -> list[Value]:
        items: list[Value] = []
        while type(event := self._next()) is not SequenceEndEvent:
            items.append(self._value((*path, len(items)), event))
        if len(items) > MAX_ITEMS:
            most = MAX_SERVERS if path[-1:] == ("servers",) else MAX_ITEMS
            if len(items) > most:
                self._break(path, start, f"a list of {len(items):,} items", f"write {most:,} at most")
                return []
        return items

    def _mapping(self, path: Path, start: Any, into: dict[str, Value]) -> dict[str, Value]:
        keys = self._doc.keys.at
        while type(event := self._next()) is not MappingEndEvent:
            key = self._key(path, event)
            if key is None:
                self._skip()
                continue
            here = (*path, key)
            if key not in into:
                keys[here] = packed(event.start_mark)
                into[key] = self._value(here, self._next())
                continue
            self._say(here, event, f"written twice, first in line {self._doc.keys[here].line}", "keep one")
            before = into[key]
            event = self._next()
            self._count(event)
            # A whole section written twice is read on: its parts are somebody's work, and may be wrong too.
            if not path and isinstance(before, dict) and isinstance(event, MappingStartEvent):
                self._mapping(here, event, before)
            else:
                self._skip(event)
        if len(into) > MAX_ITEMS and path:  # at the top each is told: there is no such section
            self._break(path, start, f"{len(into):,} entries", f"write {MAX_ITEMS:,} at most")
            into.clear()
        return into

    def _key(self, path: Path, event: yaml.Event) -> str | None:
        """The key, or None when the whole entry has to be passed over."""
        if type(event) is ScalarEvent and event.tag is None and event.anchor is None:
            key = event.value
            if key[:1] not in _NOT_KEY and key.isascii() and len(key) <= _MAX_KEY:
                return str(key)
        if not isinstance(event, ScalarEvent):
            self._say(path, event, "a key must be text", "write `name: value`")
            if isinstance(event, CollectionStartEvent):
                self._skip(event)
            return None
        plain = event.tag is None and event.implicit[0]
        if plain and event.value == "<<":
            self._break((*path, "<<"), event, "a merge (<<) is not read here", "write the values out")
            return None
        if event.anchor is not None or event.tag not in (None, "!", _TAG + "str"):
            self._say(path, event, "a key cannot have an anchor or a tag", "remove it")
        key = str(event.value)
        if len(key) > _MAX_KEY:
            self._say(
                path, event, f"the key {shown(key)} has {len(key):,} characters", f"write {_MAX_KEY} at most"
            )
            return None
        if not key.isascii() and _SURROGATE.search(key):
            self._say(path, event, "a key holds half a character (a surrogate)", "write the character itself")
            return None
        if plain and key[:1] in _NOT_TEXT and not isinstance(_resolve(key), str):
            self._say(path, event, f"the key {key or 'null'} is not text", f'write "{key}":')
        return key

    def _skip(self, event: yaml.Event | None = None) -> None:
        """Pass over one value, nested ones included."""
        depth = 0
        event = event or self._next()
        while True:
            self._count(event)
            if isinstance(event, CollectionStartEvent):
                depth += 1
                if depth > _MAX_DEPTH:
                    raise _too_deep(self._mark(event))
            elif isinstance(event, CollectionEndEvent):
                depth -= 1
            if depth == 0:
                return
            event = self._next()

    def _scalar(self, path: Path, event: ScalarEvent) -> Value:
        text = str(event.value)
        if len(text) > _MAX_SCALAR:
            what = f"a value of {len(text):,} characters"
            self._break(path, event, what, f"write {_MAX_SCALAR:,} at most")
            return None
        if not text.isascii() and _SURROGATE.search(text):
            self._break(path, event, "half a character (a surrogate)", "write the character itself")
            return None
        if event.tag is None and (not event.implicit[0] or text[:1] not in _NOT_TEXT or text.count(".") > 1):
            return text
        kind = event.tag.removeprefix(_TAG) if event.tag else ""
        if kind in _SCALAR_TAGS:
            value = _resolve(text)
            if not isinstance(value, _SCALAR_TAGS[kind]) or (isinstance(value, bool) and kind != "bool"):
                self._break(path, event, f"this is no value for the tag !!{kind}", "remove the tag")
                return None
            return value
        if not self._tag(path, event, "str"):
            return None
        if not event.implicit[0] or event.tag is not None:
            return text
        # The text is not repeated in these messages: it may be a password.
        if _LEADING_ZERO.match(text):
            do = "write it without the zero, or in quotes if it is text"
            self._break(path, event, "a number that begins with 0 is octal to some readers", do)
            return None
        value = _resolve(text)
        if isinstance(value, float) and not math.isfinite(value):
            self._break(path, event, "a number too large to be read", "write it in quotes if it is text")
            return None
        if _TOO_LONG.match(text):
            self._break(path, event, "a number of more than 19 digits", "write it in quotes if it is text")
            return None
        return value


class _Slow(_Reader):
    """Of PyYAML's own events. Raises _TooMuchError."""

    def __init__(self, document: Document, event: Callable[[], Any], values: int) -> None:
        left = iter(range(_SLOW_EVENTS))

        def counted() -> Any:
            if next(left, None) is None:
                raise _TooMuchError
            return event()

        super().__init__(document, counted, values)


class _Careful(_Reader):
    """Leaves to the other parser what libyaml takes and it may not: a plain ? in brackets, comments of block scalars."""

    _brackets = 0  # that are open

    def _value(self, path: Path, event: Any) -> Value:
        flow = bool(getattr(event, "flow_style", False))
        self._brackets += flow
        value = super()._value(path, event)
        self._brackets -= flow
        return value

    def _key(self, path: Path, event: Any) -> str | None:
        self._trust(event)
        return super()._key(path, event)

    def _scalar(self, path: Path, event: ScalarEvent) -> Value:
        self._trust(event)
        return super()._scalar(path, event)

    def _trust(self, event: Any) -> None:
        style = getattr(event, "style", None)
        if style in ("|", ">") or (self._brackets and not style and "?" in getattr(event, "value", "")):
            raise yaml.YAMLError


def _resolve(text: str) -> Value:
    if text in _NULL:
        return None
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    if _INTEGER.match(text):
        return int(text)
    if _FLOAT.match(text) and not _TOO_LONG.match(text):
        return float(text)
    return text
