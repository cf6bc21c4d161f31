"""What `anycast status` shows of many VIPs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from anycast.cli import overview, text
from anycast.cli.overview import SERVERS, VIPS, WELL, WRONG
from anycast.core import events as ev
from anycast.core.maintenance.stages import Maintenance
from anycast.ops import status
from tests.unit.cli.test_node import against
from tests.unit.ops import scenes
from tests.unit.ops.node import Node, Operator


def crowd(vips: int, pool: int, *down: str, maintenance: str = "") -> Node:
    node = scenes.large(vips * pool, pool=pool)
    node.probe(*down)
    if maintenance:
        entry = Maintenance(reason="moved", by="ada", since=time.time())
        node.send(ev.MaintenanceSet(scope=maintenance, entry=entry, skip_drain=True))
    node.report()
    return node


def document(node: Node) -> dict[str, Any]:
    whole = status.document(node.state, now=node.now, wall=time.time(), version="1", pid=2)
    plain: dict[str, Any] = json.loads(json.dumps(whole))
    return plain


def shown(node: Node) -> str:
    body = document(node)
    return text.status(body, colour=False, shown=overview.overview(body["vips"]))


def test_of_a_few_everything_is_shown() -> None:
    node = crowd(VIPS, SERVERS // VIPS)
    assert shown(node) == text.status(document(node), colour=False)


def test_of_many_what_is_wrong_is_shown_whole_and_first_and_the_rest_is_counted() -> None:
    down = ("10.16.0.3", "10.16.0.8", "10.16.0.9")  # one of v1, and both of v4
    told = shown(crowd(300, 2, *down, maintenance="v7"))
    lines = told.splitlines()
    assert len(lines) < 70
    assert (
        "299 of 300 VIPs acknowledged by ExaBGP, 1 in maintenance, 597 of 600 real servers are well" in told
        or (
            "298 of 300 VIPs acknowledged by ExaBGP, 1 in maintenance, 597 of 600 real servers are well"
            in told
        )
    )
    head = next(place for place, line in enumerate(lines) if line.startswith("VIP"))
    assert [line.split()[0] for line in lines[head + 1 : head + 6]] == ["v4", "v1", "v7", "v0", "v10"]
    servers = [line for line in lines if "10.16.0." in line]
    assert [line.split()[4] for line in servers] == ["down"] * 3
    assert f"and {300 - 3 - WELL} more VIPs that are well" in told
    assert "and 597 more real servers, all of them well" in told
    assert "anycast status --all" in lines[-1]


def test_where_everything_is_wrong_there_is_a_bound_too() -> None:
    down = [f"10.16.{number // 256}.{number % 256}" for number in range(600)]
    told = shown(crowd(300, 2, *down))
    assert len(told.splitlines()) < 2 * WRONG + WRONG + 40
    assert f"and {300 - WRONG} more VIPs that want looking after" in told
    assert f"and {600 - WRONG} more real servers, {600 - WRONG} of them to look after" in told


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["v1"], {"v1"}),
        (["v1?"], {f"v1{n}" for n in range(10)}),
        (["v2", "v3"], {"v2", "v3"}),
        (["*9"], {"v9", "v19", "v29"}),
    ],
)
def test_vips_are_chosen_by_patterns(tmp_path: Path, patterns: list[str], names: set[str]) -> None:
    node = scenes.large(60, pool=2)
    words = [word for pattern in patterns for word in ("--vip", pattern)]
    path = tmp_path / "control.sock"

    programs, done = against(Operator(node), path, ("status", "--json", *words), ("status", *words))
    assert {vip["name"] for vip in json.loads(programs.out)["vips"]} == names
    assert done.code == 0
    assert done.out.count("10.16.0.") == 2 * len(names)
    assert "more" not in done.out


def test_a_pattern_that_finds_nothing_is_a_negative_answer(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    (done,) = against(Operator(scenes.large(60, pool=2)), path, ("status", "--vip", "x*"))
    assert (done.code, done.err) == (1, "anycast: there is no VIP x*\n")


def test_all_is_all_and_json_is_always_whole(tmp_path: Path) -> None:
    node = scenes.large(60, pool=2)
    path = tmp_path / "control.sock"
    everything, programs = against(Operator(node), path, ("status", "--all"), ("status", "--json"))
    assert everything.out.count("10.16.0.") == 60
    assert len(json.loads(programs.out)["vips"]) == 30
