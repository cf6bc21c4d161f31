from __future__ import annotations

import io

import pytest

from anycast.cli.table import (
    Cell,
    Colour,
    ColourWhen,
    choose_colour,
    duration,
    table,
    wants_colour,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_columns_are_aligned_and_lines_end_without_blanks() -> None:
    assert table(("VIP", "REASON"), [("web", "healthy"), ("longer", "")], colour=False) == (
        "VIP     REASON\nweb     healthy\nlonger\n"
    )


def test_a_table_without_rows_is_its_head() -> None:
    assert table(("VIP", "REASON"), [], colour=False) == "VIP  REASON\n"


def test_colour_does_not_count_as_width() -> None:
    rows = [(Cell("no", Colour.BAD), "x")]
    text = table(("ADVERTISE", "DETAIL"), rows, colour=True)
    assert text.splitlines()[1] == "\x1b[31mno\x1b[0m         x"


def test_what_a_terminal_would_obey_is_shown_as_an_escape() -> None:
    text = table(("DETAIL",), [("\x1b]0;owned\x07\nnext",)], colour=False)
    assert text.splitlines()[1] == r"\x1b]0;owned\x07\nnext"


def test_colour_is_for_terminals_without_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert wants_colour(Terminal())
    assert not wants_colour(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_colour(Terminal())


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.4, "0s"),
        (59.9, "59s"),
        (60, "1m00s"),
        (192, "3m12s"),
        (3599, "59m59s"),
        (18180, "5h03m"),
        (86400 * 3 + 3600 * 4, "3d04h"),
    ],
)
def test_durations_are_short(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_what_was_chosen_goes_before_terminal_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    try:
        choose_colour(ColourWhen.ALWAYS)
        assert wants_colour(io.StringIO())
        monkeypatch.delenv("NO_COLOR")
        choose_colour(ColourWhen.NEVER)
        assert not wants_colour(Terminal())
    finally:
        choose_colour(ColourWhen.AUTO)
