"""What is looked at again is what can have changed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from anycast.core import events as ev
from anycast.core.maintenance.stages import Maintenance
from anycast.ops import exposition
from anycast.ops.board import Boards
from anycast.ops.exposition import Chunks, Family
from tests.unit.ops.scenes import large


def test_after_a_change_what_is_seen_of_other_services_is_the_same_object() -> None:
    node, boards = large(60, pool=2), Boards()
    first = boards.of(node.state)
    node.probe("10.16.0.7")
    second = boards.of(node.state)
    assert {key for key, found in second.seen.items() if found is not first.seen[key]} == {("v3", "tcp/8000")}
    node.send(ev.MaintenanceSet(scope="p9/s18", entry=Maintenance(reason="", by="ada", since=0.0)))
    third = boards.of(node.state)
    assert {key for key, found in third.seen.items() if found is not second.seen[key]} == {("v9", "tcp/8000")}
    assert third.seen["v9", "tcp/8000"][0].drained
    assert boards.of(node.state) is third


def test_after_a_reload_the_rows_of_vips_that_are_the_same_object_are_kept() -> None:
    node, boards = large(60, pool=2), Boards()
    first = boards.of(node.state)
    config = node.state.config
    other = replace(config.vips[4], name="renamed")
    node.send(ev.Reconfigured(config=replace(config, vips=(*config.vips[:4], other, *config.vips[6:]))))
    second = boards.of(node.state)
    assert set(second.blocks) == set(second.seen) == set(second.prints)
    assert set(first.blocks) - set(second.blocks) == {("v4", "tcp/8000"), ("v5", "tcp/8000")}
    assert all(second.blocks[key] is block for key, block in first.blocks.items() if key in second.blocks)


def test_of_a_family_what_has_not_changed_is_not_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition, "GROUP", 2)
    written: list[str] = []

    def line(unit: str, figure: float) -> str:
        written.append(unit)
        return f"x{{{unit}}} {figure}\n"

    chunks = Chunks()

    def text(*figures: float) -> str:
        units = "abcde"[: len(figures)]
        found = chunks.of([Family("x", "is x", units, figures, line)], openmetrics=False)
        return b"".join(one.text for one in found).decode()

    head = "# HELP x is x\n# TYPE x gauge\n"
    assert text(1, 2, 3, 4, 5) == head + "x{a} 1\nx{b} 2\nx{c} 3\nx{d} 4\nx{e} 5\n"
    written.clear()
    assert text(1, 2, 9, 4, 5) == head + "x{a} 1\nx{b} 2\nx{c} 9\nx{d} 4\nx{e} 5\n"
    assert written == ["c", "d"]
