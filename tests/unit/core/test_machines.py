from __future__ import annotations

from tests.machines import PAGE, page


def test_the_page_shows_the_tables_as_they_are() -> None:
    assert PAGE.read_text("utf-8") == page(), "run: make machines"
