"""docs/failures.md: its figures are the budget's, and every test it and docs/behaviours.md name exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from anycast.analysis.budget import Kind, budget
from anycast.config.load import load
from tests.unit.analysis.test_budget import worst

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "failures.md").read_text(encoding="utf-8")
BEHAVIOURS = (ROOT / "docs" / "behaviours.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in TEXT.splitlines()
    if line.startswith("| ") and "`tests/" in line
]


OF_TABLES = {Kind.ANNOUNCER_DIES, Kind.ANNOUNCER_HANGS, Kind.DAEMON_DIES, Kind.DAEMON_HANGS}


def _defined(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {
        one.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for one in node.targets
        if isinstance(one, ast.Name)
    }
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names.update(f"{node.name}::{one.name}" for one in node.body if isinstance(one, ast.FunctionDef))
    return names


def test_every_row_names_a_test() -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("| ") and not line.startswith("| failure")]
    assert len(rows) == len(ROWS) > 20
    assert {len(row) for row in ROWS} == {5}


@pytest.mark.parametrize("named", sorted(set(re.findall(r"`(tests/[^`]*::[^`]*)`", TEXT + BEHAVIOURS))))
def test_the_test_it_names_exists(named: str) -> None:
    path, _, name = named.partition("::")
    assert name in _defined(ROOT / path)


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        pytest.param(row, kind, id=f"{row[0]}-{kind}")
        for row in ROWS
        for kind in Kind
        if f"`{kind}`" in row[2]
    ],
)
def test_a_bound_that_the_budget_has_is_what_the_budget_says(row: list[str], kind: Kind) -> None:
    example = "bird.yaml" if kind in OF_TABLES else "minimal.yaml"
    config = load(ROOT / "examples" / example, hostname="lb1").config
    assert row[3] == f"{worst(budget(config), kind):.2f} s"


def test_every_behaviour_has_its_row_once() -> None:
    rows = [line.split(" | ") for line in BEHAVIOURS.splitlines() if re.match(r"\| [QI]\d", line)]
    assert {len(row) for row in rows} == {4}
    numbers = [number for row in rows for number in re.findall(r"Q\d\d", row[0])]
    assert sorted(numbers) == [f"Q{number:02}" for number in range(1, 41)]


def test_every_kind_of_the_budget_that_is_no_check_has_a_row() -> None:
    checks = {
        Kind.SERVER_DIES,
        Kind.SERVER_HANGS,
        Kind.SERVICE_DIES,
        Kind.SERVICE_HANGS,
        Kind.REQUIREMENT_FAILS,
    }
    assert {kind for kind in Kind if f"`{kind}`" in TEXT} == set(Kind) - checks
