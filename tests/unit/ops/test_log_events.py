"""The list of log events is complete: operators search it, and write alerts by it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import anycast

LIST = Path(__file__).parents[3] / "docs" / "log-events.md"
PACKAGE = Path(anycast.__file__).parent


def logged(source: str) -> Iterator[str]:
    """The names in `Log(event=...)` and `log.error(...)`; both of them when the name depends on a condition."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        match node.func:
            case ast.Name(id="Log"):
                names = [keyword.value for keyword in node.keywords if keyword.arg == "event"]
            case ast.Attribute(value=ast.Name(id="log")):
                names = node.args[:1]
            case _:
                continue
        for name in ast.walk(ast.Tuple(elts=names)):
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield name.value


@pytest.mark.parametrize(
    ("folder", "known"),
    [
        ("core", {"vip.verdict_changed", "server.up", "server.down", "maintenance.overdue", "clock.stepped"}),
        ("agent", {"agent.started", "config.rejected", "ops.ended"}),
        ("ops", {"ops.unexpected"}),
        (".", {"ops.listening", "socket.rebound"}),
    ],
)
def test_every_event_is_listed(folder: str, known: set[str]) -> None:
    events = {event for file in (PACKAGE / folder).rglob("*.py") for event in logged(file.read_text("utf-8"))}
    assert known <= events
    listed = re.findall(r"^\| `([a-z_.]+)` \|", LIST.read_text("utf-8"), re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert events <= set(listed), f"not in docs/log-events.md: {sorted(events - set(listed))}"


@pytest.mark.parametrize(
    ("source", "events"),
    [
        ('Log(event="server.up" if up else "server.down")', ["server.up", "server.down"]),
        ('log.error("kernel.unexpected", path="x.y")', ["kernel.unexpected"]),
    ],
)
def test_the_names_are_found_however_they_are_written(source: str, events: list[str]) -> None:
    assert list(logged(source)) == events


def test_of_every_error_and_warning_it_is_said_where_it_stands_until_it_is_over() -> None:
    text, _, lasts = LIST.read_text("utf-8").partition("\n## What lasts\n")
    levels = re.findall(r"^\| `([a-z_.]+)` \| ([^|]*) \|", text, re.MULTILINE)
    bad = sorted(name for name, level in levels if "error" in level or "warning" in level)
    said = re.findall(r"`([a-z_]+\.[a-z_]+)`", lasts)
    assert sorted(said) == bad
