"""Whether a row kept its promise, and how rows are shown."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lab.chaos_figures import Row, chaos_table, document, shares, worst


def row(**more: Any) -> Row:
    return Row(**{"fault": "agent-kill", "where": "lb2", "connections": 600, **more})


@pytest.mark.parametrize(
    ("more", "missed"),
    [
        ({}, ()),
        ({"broken": 2, "errors": {"reset": 2}}, ("2 connections broken {'reset': 2}",)),
        ({"lost_with_server": 150}, ()),
        ({"bound_s": 2.5, "route_gone_s": 2.5}, ()),
        ({"bound_s": 2.5, "route_gone_s": 2.51}, ("the route was gone after 2.51 s, not 2.5 s",)),
        ({"bound_s": 2.5}, ("the route did not go",)),
        ({"route_gone_s": 9.0}, ()),
        ({"wrong": ("the router's table changed",)}, ("the router's table changed",)),
        ({"broken": 9, "bound_s": 1, "wrong": ("late",), "peer": True}, ()),
    ],
)
def test_what_was_promised_and_not_kept(more: dict[str, Any], missed: tuple[str, ...]) -> None:
    assert row(**more).missed == missed


def test_the_peers_row_follows_ours_and_says_never_where_its_route_stays() -> None:
    text = chaos_table(
        [
            row(fault="drain", route_gone_s=0.08),
            row(route_gone_s=1.96, bound_s=2.5, promise="<= 2.5 s"),
            row(fault="drain", peer=True),
        ]
    )
    lines = text.splitlines()
    assert [line.split("  ")[0] for line in lines[1:4]] == ["drain", "healthcheck: drain", "agent-kill"]
    assert "never" in lines[2]
    assert "yes" in lines[3]


def test_few_shares_stand_one_by_one_and_many_as_a_range() -> None:
    few = row(
        shares_before={"lb1": 0.3, "lb2": 0.36, "lb3": 0.34}, shares_after={"lb1": 0.5, "lb3": 0.5, "lb2": 0}
    )
    assert shares(few) == "30% 36% 34% -> 50% 0% 50%"
    before = {f"lb{number}": 0.09 + number / 1000 for number in range(1, 11)}
    many = row(shares_before=before, shares_after={**before, "lb2": 0.0})
    assert shares(many) == "lb2 9% -> 0%; others 9% to 10% -> 9% to 10%"


def test_random_faults_of_one_kind_are_one_row_with_sums_and_the_worst() -> None:
    found = worst(
        [
            row(bound_s=2.5, route_gone_s=1.5, longest_pause_s=0.1, new_connections=10),
            row(
                bound_s=2.5, route_gone_s=1.9, longest_pause_s=0.4, new_connections=20, new_failed=1, broken=1
            ),
            row(fault="server-blink", lost_with_server=150, connections=450),
            row(fault="server-blink", lost_with_server=148),
        ]
    )
    assert [(one.fault, one.where) for one in found] == [
        ("random: agent-kill", "2 times"),
        ("random: server-blink", "2 times"),
    ]
    assert (found[0].route_gone_s, found[0].longest_pause_s, found[0].broken) == (1.9, 0.4, 1)
    assert (found[0].new_failed, found[0].new_connections) == (1, 30)
    assert (found[1].lost_with_server, found[1].connections) == (298, 450)


def test_a_route_that_did_not_go_once_is_not_hidden_by_those_that_did() -> None:
    (found,) = worst([row(bound_s=2.5, route_gone_s=1.5), row(bound_s=2.5)])
    assert found.missed == ("the route did not go",)


def test_the_document_says_of_each_row_whether_it_held_and_of_the_whole() -> None:
    found = json.loads(json.dumps(document([row(), row(peer=True)], [row(broken=1)])))
    assert [one["held"] for one in found["rows"]] == [True, None]
    assert found["random"][0]["missed"] == ["1 connections broken {}"]
    assert found["held"] is False
    assert document([row()], [])["held"] is True
