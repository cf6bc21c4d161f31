"""The language of keepalived.conf, as keepalived reads it: files to logical lines, and those to statements.

A logical line is one keyword with its words, or a brace alone: a brace ends the line before it, so of
`weight 1 TCP_CHECK {` only `weight` counts. Comments begin with # or ! outside quotes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from anycast.importers.model import Place
from anycast.importers.report import Report
from anycast.importers.source import MOST_LINES, Files, SourceError, found, kept

_DEEPEST = 16  # files that include one another
_ROUNDS = 20  # variables in variables
_LONGEST_EXPANDED = 100_000  # characters
_OTHERS = "others"  # nodes that no @name is for

_DEFINITION = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)=[ \t]*(.*)\Z", re.ASCII)
_VARIABLE = re.compile(
    r"\$\{([A-Za-z_][A-Za-z0-9_]*)[^{}]*\}|\$([A-Za-z_][A-Za-z0-9_]*)(?=[ \t,)]|\Z)", re.ASCII
)
_INCLUDE = re.compile(r"include[rmwba]?[ \t]+(.*)\Z")
_LOOP = re.compile(r"~(SEQx?|LST)[ \t]*\(([^)]*)\)[ \t]*(.*)\Z")
_WORD = re.compile(r'"([^"]*)"?|[^ \t"]+')
_NO_COMMENTS = "", ""
_UNUSUAL = re.compile(r"[@~]|include")
_BRACES = re.compile(r"([{}])")
_PARTED = re.compile(r'[{}"]')
_SPECIAL = re.compile(r'[!#"\\]')


@dataclass(frozen=True, slots=True)
class Line:
    """`above`: the comment on the lines above; `beside`: that behind it."""

    words: tuple[str, ...]
    text: str
    place: Place
    above: str = ""
    beside: str = ""


@dataclass(slots=True)
class Statement:
    """A keyword with its words, and what stands in its braces. `known`: keepalived knows it there."""

    line: Line
    block: list[Statement] | None = None
    known: bool = True

    @property
    def word(self) -> str:
        return self.line.words[0]

    @property
    def args(self) -> tuple[str, ...]:
        return self.line.words[1:]

    @property
    def first(self) -> str:
        """Its first argument, or nothing."""
        return self.line.words[1] if len(self.line.words) > 1 else ""

    @property
    def place(self) -> Place:
        return self.line.place

    @property
    def places(self) -> tuple[Place, ...]:
        """Of itself and of all in its braces."""
        return (self.place, *(place for one in self.block or () for place in one.places))


Grammar: TypeAlias = Mapping[str, "Grammar | str"]
"""What may stand in a block, by keyword. LEAF: words alone; ANY: whatever is in the braces; else its own block."""
LEAF, ANY = "leaf", "any"
ONE_VALUE = frozenset(
    [
        "retry",
        "delay_before_retry",
        "warmup",
        "connect_timeout",
        "delay_loop",
        "lb_algo",
        "lvs_sched",
        "persistence_timeout",
        "persistence_granularity",
        "protocol",
        "virtualhost",
        "quorum",
        "hysteresis",
        "weight",
        "uthreshold",
        "lthreshold",
        "connect_ip",
        "connect_port",
        "bindto",
        "bind_port",
        "fwmark",
        "path",
        "digest",
        "helo_name",
        "type",
        "name",
        "misc_timeout",
        "nb_get_retry",
        "ip_family",
    ]
)
"""Keywords with one value."""


def uncommented(text: str) -> tuple[str, str]:
    """The code and the comment of a line."""
    text = text.strip(" \t")
    if not _SPECIAL.search(text):
        return text, ""
    quoted, n, kept = False, 0, []
    while n < len(text):
        char = text[n]
        if char == '"':
            quoted = not quoted
        elif char == "\\" and n + 1 < len(text):
            if quoted or text[n + 1] not in "#!":
                kept.append(char)
            kept.append(text[n + 1])
            n += 2
            continue
        elif char in "#!" and not quoted:
            return "".join(kept).rstrip(" \t"), text[n + 1 :].strip("#! \t")
        kept.append(char)
        n += 1
    return "".join(kept), ""


def words(text: str) -> tuple[str, ...]:
    """As keepalived parts them: at blanks, "…" is one, and what touches a quote is a word of its own."""
    if '"' not in text:
        return tuple(text.split())
    return tuple(
        match[0].strip('"') if match[0].startswith('"') else match[0] for match in _WORD.finditer(text)
    )


@dataclass(slots=True)
class Lines:
    """Logical lines of a file for one node (`keepalived -i NODE`; None: without). Raises SourceError."""

    files: Files
    report: Report
    node: str | None = None
    nodes: dict[str, None] = field(default_factory=dict)  # named by @NODE, as far as it was read
    _variables: dict[str, list[str]] = field(default_factory=dict)
    _count: int = 0

    def of(self, path: Path) -> Iterator[Line]:
        return self._file(path, (path,))

    def _file(self, path: Path, within: tuple[Path, ...]) -> Iterator[Line]:
        above: list[str] = []
        defined: list[str] | None = None
        for number, raw in enumerate(self.files.lines(path), 1):
            place = Place(str(path), number)
            code, comment = uncommented(raw)
            if defined is not None:
                more = code.endswith("\\")
                if part := code.removesuffix("\\").strip(" \t"):
                    defined.append(part)
                defined = defined if more else None
                continue
            if not code:
                # What stands at the top is about the file.
                above = [*above, comment] if comment and (above or number > 1) else []
                continue
            if code[0] in "$@" and (match := _DEFINITION.match(self._for_node(code) or "")):
                value = match[2]
                defined = [part] if (part := value.removesuffix("\\").strip(" \t")) else []
                self._variables[match[1]] = defined
                self.report.carried(place, "a variable: what it stands for is written in its places")
                defined = defined if value.endswith("\\") else None
            else:
                comments = (kept(above), kept([comment])) if above or comment else _NO_COMMENTS
                if _UNUSUAL.match(code) or "$" in code:
                    yield from self._logical(code, place, comments, within, 0)
                else:
                    self._counted(place)
                    yield from _pieces(code, place, comments)
            above = []

    def _for_node(self, code: str) -> str | None:
        """Without `@node`. None: it is for others."""
        if not code.startswith("@"):
            return code
        name, _, rest = code[1:].partition(" ") if " " in code else code[1:].partition("\t")
        name, _, more = name.partition("\t")
        rest = f"{more} {rest}".strip(" \t")
        reverse = name.startswith("^")
        name = name.removeprefix("^")
        if name:
            self.nodes[name] = None
        return rest if rest and (name == self.node) != reverse else None

    def _logical(
        self, code: str, place: Place, comments: tuple[str, str], within: tuple[Path, ...], depth: int
    ) -> Iterator[Line]:
        self._counted(place)
        mine = self._for_node(code) if code[0] == "@" else code
        if mine is None:
            return
        if mine[0] == "~" and (match := _LOOP.match(mine)):
            yield from self._loop(match, place, comments, within, depth)
            return
        parts = self._expanded(mine, place) if "$" in mine and self._variables else [mine]
        for part in parts:
            if part.startswith(("@", "~")) and depth < _ROUNDS and part != code:
                yield from self._logical(part, place, comments, within, depth + 1)
            elif part.startswith("include") and (match := _INCLUDE.match(part)):
                yield from self._include(match[1].strip('" \t'), place, within)
            else:
                yield from _pieces(part, place, comments)
            comments = "", ""

    def _counted(self, place: Place) -> None:
        self._count += 1
        if self._count > MOST_LINES:
            raise SourceError(
                place, f"with its includes and loops it has more than {MOST_LINES:,} lines", "write less"
            )

    def _loop(
        self,
        match: re.Match[str],
        place: Place,
        comments: tuple[str, str],
        within: tuple[Path, ...],
        depth: int,
    ) -> Iterator[Line]:
        kind, inside, rest = match.groups()
        settings = _values(kind, self._flat(inside, place))
        if not settings or depth >= _ROUNDS:
            self.report.impossible(
                place, f"~{kind}: it cannot be read as keepalived has it, and its lines are left out"
            )
            return
        self.report.carried(place, f"~{kind}: written out")
        for setting in settings:
            self._counted(place)
            self._variables |= {name: [value] for name, value in setting.items()}
            if rest:
                yield from self._logical(rest, place, comments, within, depth + 1)

    def _flat(self, text: str, place: Place) -> str:
        return " ".join(self._expanded(text, place)) if "$" in text else text

    def _expanded(self, code: str, place: Place) -> list[str]:
        """With the variables put in. One of several lines is only put in at the end of a line."""
        found = [code]
        for _ in range(_ROUNDS):
            new = [part for one in found for part in self._once(one)]
            if new == found:
                return found
            if sum(map(len, new)) > _LONGEST_EXPANDED:
                raise SourceError(place, "its variables come to more than 100,000 characters", "write less")
            found = [code for code, _ in map(uncommented, new)]
        return found

    def _once(self, code: str) -> list[str]:
        last: list[str] = []

        def put(match: re.Match[str]) -> str:
            nonlocal last
            name = match[1] or match[2]
            value = {"_HASH": ["#"], "_BANG": ["!"]}.get(name) or self._variables.get(name)
            if value is None:
                return match[0]
            if len(value) > 1:
                if match.end() < len(code) or last:
                    return match[0]
                last = value[1:]
            return value[0] if value else ""

        return [_VARIABLE.sub(put, code), *last]

    def _include(self, pattern: str, place: Place, within: tuple[Path, ...]) -> Iterator[Line]:
        paths, copied = found(pattern, within[-1])
        if not paths:
            self.report.impossible(
                place, "include: no file of this name is here, so nothing of it is imported"
            )
            return
        if len(within) >= _DEEPEST or any(path in within for path in paths):
            raise SourceError(place, "these files include one another without an end", "remove one include")
        if copied:
            self.report.different(
                place,
                "include: the path is not here; the files of the same name beside this one are imported",
            )
        else:
            self.report.carried(place, "include: its lines are imported with the rest")
        for path in paths:
            try:
                yield from self._file(path, (*within, path))
            except SourceError as error:
                if "larger" in str(error) or "lines" in str(error) or "one another" in str(error):
                    raise
                self.report.impossible(place, f"include: {error}")


def _pieces(text: str, place: Place, comments: tuple[str, str]) -> Iterator[Line]:
    """A line, parted at braces that are in no quotes."""
    above, beside = comments
    if not _PARTED.search(text):
        if found_words := tuple(text.split()):
            yield Line(found_words, text, place, above, beside)
        return
    for piece in _parted(text):
        if found_words := words(piece):
            yield Line(found_words, piece.strip(" \t"), place, above, beside)
            above = beside = ""


def _parted(text: str) -> list[str]:
    if '"' not in text:
        return _BRACES.split(text)
    found, begin, quoted = [], 0, False
    for n, char in enumerate(text):
        if char == '"':
            quoted = not quoted
        elif char in "{}" and not quoted:
            found += [text[begin:n], char]
            begin = n + 1
    return [*found, text[begin:]]


def _values(kind: str, inside: str) -> list[dict[str, str]]:
    """The values of the variables of a loop, turn by turn. Nothing: it cannot be read."""
    if kind == "LST":
        return _list_values(inside)
    name, *numbers = (part.strip() for part in inside.split(","))
    try:
        found = [int(number, 0) for number in numbers]
    except ValueError:
        return []
    name = name.removeprefix("$")
    if not name.isidentifier() or not 1 <= len(found) <= 3:
        return []
    if len(found) == 1:
        start, step, end = (1 if found[0] >= 0 else -1), (1 if found[0] >= 1 else -1), found[0]
    elif len(found) == 2:
        start, end = found
        step = 1 if start <= end else -1
    else:
        start, step, end = found
    if not step or abs(end - start) // abs(step) > MOST_LINES:
        return []
    values = range(start, end + (1 if step > 0 else -1), step)
    return [{name: f"{value:x}" if kind == "SEQx" else str(value)} for value in values]


def _list_values(inside: str) -> list[dict[str, str]]:
    """`A, 1, 2` and `{A, B}, {1, 2}, {3, 4}`."""
    groups = [part.strip() for part in re.findall(r"\{[^{}]*\}|[^,{}]+", inside) if part.strip()]
    rows = [[word.strip().strip('"') for word in group.strip("{}").split(",")] for group in groups]
    if len(rows) < 2:
        return []
    names = [name.removeprefix("$") for name in rows[0]]
    if not all(name.isidentifier() for name in names):
        return []
    if any(len(row) != len(names) for row in rows[1:]):
        return []
    return [dict(zip(names, row, strict=True)) for row in rows[1:]]


class Tree:
    """Logical lines to statements, by what keepalived knows in each block."""

    def __init__(self, lines: Iterator[Line], report: Report) -> None:
        self._lines = lines
        self._ahead: list[Line] = []
        self._report = report

    def statements(self, grammar: Grammar) -> list[Statement]:
        return self._level(grammar, None)

    def _next(self) -> Line | None:
        return self._ahead.pop() if self._ahead else next(self._lines, None)

    def _opens(self) -> bool:
        """Whether a brace is next; it is taken."""
        line = self._next()
        if line is None:
            return False
        if line.words == ("{",):
            return True
        self._ahead.append(line)
        return False

    def _level(self, grammar: Grammar, within: Line | None, *, depth: int = 0) -> list[Statement]:
        found: list[Statement] = []
        if within is not None and not self._opens():
            self._report.no_effect(
                within.place, f"{within.words[0]}: a {{ is missing, and keepalived goes on without it"
            )
        while (line := self._next()) is not None:
            word = line.words[0]
            if word == "}" and within is not None:
                return found
            if word in "{}":
                self._report.no_effect(line.place, f"a {word} too many, which keepalived ignores")
                continue
            rule = grammar.get(word)
            statement = Statement(line, known=rule is not None)
            if rule == LEAF and word in ONE_VALUE and len(line.words) > 2:
                what = f"{word}: keepalived reads one value, and nothing of what stands behind it on the line"
                self._report.no_effect(line.place, what)
            if rule == ANY:
                statement.block = self._any(line, depth) if self._opens() else None
            elif rule is not None and not isinstance(rule, str):
                statement.block = self._level(rule, line, depth=depth + 1)
            found.append(statement)
        self._ended(within)
        return found

    def _any(self, within: Line, depth: int) -> list[Statement]:
        """Whatever stands up to the closing brace."""
        found: list[Statement] = []
        while (line := self._next()) is not None:
            word = line.words[0]
            if word == "}":
                return found
            if word == "{":
                if depth >= _DEEPEST:
                    raise SourceError(
                        line.place, "its blocks are nested too deeply", "look for a brace that is missing"
                    )
                opened = found[-1] if found else Statement(line)
                opened.block = self._any(opened.line, depth + 1)
                continue
            found.append(Statement(line))
        self._ended(within)
        return found

    def _ended(self, within: Line | None) -> None:
        if within is not None:
            what = f"{within.words[0]}: its }} is missing: everything up to the end of the file is taken to be in it"
            self._report.different(within.place, what)


def variants(nodes: Mapping[str, None]) -> list[str | None]:
    """Whom a file is for: the nodes that it names, or everybody. One name alone has others beside it."""
    names: list[str | None] = list(nodes)
    return names if len(names) > 1 else [*names, None] if names else [None]


def spelt(node: str | None) -> str:
    return _OTHERS if node is None else node
