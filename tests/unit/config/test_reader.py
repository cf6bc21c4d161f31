from __future__ import annotations

import pytest

from anycast.config.problem import Mark
from anycast.config.reader import Value, read


def tree(text: str) -> Value:
    document = read(text, "f")
    assert document.problems == []
    return document.tree


def complaints(text: str | bytes) -> list[str]:
    return [str(problem) for problem in read(text, "f").problems]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("80", 80),
        ("-1", -1),
        ("0", 0),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ('"80"', "80"),
        ("'true'", "true"),
        ("!!str 80", "80"),
        ("!!int 80", 80),
        ("|\n  two\n  lines\n", "two\nlines\n"),
    ],
)
def test_a_scalar_is_what_the_core_schema_says(written: str, value: Value) -> None:
    result = tree(f"x: {written}")
    assert result == {"x": value}
    assert isinstance(result, dict)
    assert type(result["x"]) is type(value)


@pytest.mark.parametrize(
    "written",
    ["on", "off", "yes", "no", "y", "12:30:45", "65000:100", "1_000", "0x10", "0o17", ".inf", "2026-01-31"],
)
def test_what_older_readers_convert_stays_text(written: str) -> None:
    assert tree(f"x: {written}") == {"x": written}
    assert tree(f"{written}: x") == {written: "x"}


def test_every_key_and_value_has_its_place() -> None:
    document = read(
        '\n# comment\nvips:\n  web:\n    ports: [80,\n            443]\n  "a b": {x: "ü", y: 1}\n', "f"
    )
    assert document.keys == {
        ("vips",): Mark("f", 3, 1),
        ("vips", "web"): Mark("f", 4, 3),
        ("vips", "web", "ports"): Mark("f", 5, 5),
        ("vips", "a b"): Mark("f", 7, 3),
        ("vips", "a b", "x"): Mark("f", 7, 11),
        ("vips", "a b", "y"): Mark("f", 7, 19),
    }
    assert document.values["vips", "web", "ports", 0] == Mark("f", 5, 13)
    assert document.values["vips", "web", "ports", 1] == Mark("f", 6, 13)
    assert document.values["vips", "a b", "y"] == Mark("f", 7, 22)


def test_a_byte_order_mark_moves_no_column() -> None:
    document = read("\ufeffx: 1".encode(), "f")
    assert document.tree == {"x": 1}
    assert document.values["x",] == Mark("f", 1, 4)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("x: 1\ny: 2\nx: 3", "f:3:1: x: written twice, first in line 1 (keep one)"),
        ("x: 0123", "f:1:4: x: a number that begins with 0 is octal to some readers (write it without"),
        ("x: -00", "f:1:4: x: a number that begins with 0"),
        ("x: 99999999999999999999", "f:1:4: x: a number of more than 19 digits (write it in quotes"),
        ("x: 1e999", "f:1:4: x: a number too large to be read"),
        ("80: x", 'f:1:1: the key 80 is not text (write "80":)'),
        ("true: x", 'f:1:1: the key true is not text (write "true":)'),
        ("? [a, b]\n: x", "f:1:3: a key must be text (write `name: value`)"),
        ("x: &a 1", "f:1:4: x: an anchor (&name) is not read here"),
        ("x: *a", "f:1:4: x: an alias (*name) is not read here (write the value out)"),
        ("x:\n  <<: *a\n  y: 1", "f:2:3: x['<<']: a merge (<<)"),
        ("x: !secret y", "f:1:4: x: a tag (!name) is not read here (remove it)"),
        ("x: !!binary aGk=", "f:1:4: x: a tag (!name) is not read here"),
        ("x: !!python/object/apply:os.system [ls]", "f:1:4: x: a tag (!name) is not read here"),
        ("x: !!int two", "f:1:4: x: this is no value for the tag !!int"),
        ("x: !!int true", "f:1:4: x: this is no value for the tag !!int"),
        ("x: 1\n---\ny: 2", "f:2:1: a second document begins here (put everything into one, without ---)"),
        ("", "f:1:1: the file holds nothing"),
        ("# only a comment\n", "f:1:1: the file holds nothing"),
        (b"x: 1\ny: \xff", "f:2:4: this is not UTF-8 (save the file as UTF-8)"),
        ("x: 1".encode("utf-16"), "f:1:1: this is not UTF-8"),
        ("x:\n\t- 1", "f:2:1: a tab where only spaces are allowed (indent with spaces)"),
        ("x: 1\ny: \x07", "f:2:4: character U+0007 is not allowed (remove it)"),
        (
            "x: [1, 2\ny: 3",
            "f:2:2: YAML syntax: while parsing a flow sequence: expected ',' or ']', but got ':'",
        ),
        ("x: 1\n y: 2", "f:2:3: YAML syntax: mapping values are not allowed here (check indentation"),
        ('x: "abc', "f:1:8: YAML syntax: while scanning a quoted scalar: found unexpected end of stream"),
        ('x: "\\uD800"', "f:1:4: x: half a character (a surrogate)"),
        ("x: " + "[" * 17 + "]" * 17, "f:1:20: nested deeper than 16 levels"),
    ],
)
def test_what_readers_disagree_about_is_refused(text: str | bytes, complaint: str) -> None:
    found = complaints(text)
    assert len(found) == 1, found
    assert found[0].startswith(complaint), found[0]


def test_a_complaint_about_a_value_leaves_the_others_standing() -> None:
    document = read("a: 0123\nb: *x\nc: !t 1\nd: 4", "f")
    assert len(document.problems) == 3
    assert document.broken == {("a",), ("b",), ("c",)}
    assert isinstance(document.tree, dict)
    assert document.tree["d"] == 4


def test_a_section_written_twice_is_read_whole() -> None:
    document = read("pools:\n  a: 1\npools:\n  b: 0123\n", "f")
    assert [problem.mark.line for problem in document.problems] == [3, 4]
    assert document.tree == {"pools": {"a": 1, "b": None}}


def test_a_text_is_never_repeated_in_a_complaint() -> None:
    for text in ("password: 0123456", "password: *hunter2", "password: !hunter2 x", "password: !hunter2!x y"):
        assert not any("hunter2" in line or "123456" in line for line in complaints(text))
