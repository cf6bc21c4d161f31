"""The two parsers of YAML are one to whoever reads a file: the same values, places and words."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from anycast.config import reader
from anycast.config.reader import Document, read

FULL = Path(__file__).parents[2].joinpath("examples", "full.yaml").read_text(encoding="utf-8")
TOKENS = [
    *"[]{}:,-&*!|>'\"%@`#? \n\t\r",
    *("\n  ", "\n- ", ": ", "- ", "? ", "---", "...", "--- ", "|\n", ">-\n ", " #c", "a", "1", "~", "x: "),
    *(
        "!!int ",
        "!x ",
        "&a ",
        "*a",
        "<<: ",
        "0123",
        "''",
        '"\\n"',
        "\\",
        "é",
        "😀",
        "\u2028",
        "\ufeff",
        "\x85",
    ),
    *("{a: b}", "{a}", "[a: b]", "a:b", "://", "::1", "a #b", "'it''s'", "'a\n b'", '"a\n b"', "a?b", "%a"),
]


def by_the_other(text: str) -> Document:
    """Without libyaml."""
    with pytest.MonkeyPatch.context() as without:
        without.setattr(reader, "_Quick", None)
        return read(text, "f")


def agree(text: str) -> None:
    one, other = read(text, "f"), by_the_other(text)
    assert one.tree == other.tree
    assert dict(one.values) == dict(other.values)
    assert dict(one.keys) == dict(other.keys)
    assert one.broken == other.broken
    assert one.problems == other.problems
    assert one.readable == other.readable


@given(st.lists(st.sampled_from(TOKENS), max_size=12).map("".join), st.sampled_from(["", "\n"]))
@example("{a?b}", "\n")
@example("x: >#c\n", "\n")
@example("!'a' b", "\n")
@example("? a", "")
@example("---", "")
def test_any_text_is_the_same_to_both(text: str, end: str) -> None:
    agree(text + end)


@given(
    st.integers(0, len(FULL)), st.integers(0, 30), st.lists(st.sampled_from(TOKENS), max_size=3).map("".join)
)
def test_a_damaged_file_is_the_same_to_both(start: int, length: int, put: str) -> None:
    agree(FULL[max(0, start - 300) : start] + put + FULL[start + length : start + length + 200] + "\n")


@pytest.mark.skipif(reader._Quick is None, reason="PyYAML was built without libyaml")
def test_a_usual_file_is_read_by_libyaml(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(reader, "_events", refuse)
    assert read(FULL, "f").readable
