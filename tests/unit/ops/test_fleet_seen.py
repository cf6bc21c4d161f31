"""What a node shows of its fleet: as its schema says, and of a node that is not heard nothing that counts."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from anycast.core.fleet.values import Claim, Disagreement, Document, Holder, Register, Turn, View
from anycast.core.values.fleet import Etcd, Fleet
from anycast.fleet.own import SOCKET, asked
from anycast.ops import fleet_seen, fleet_tables
from anycast.ops.http import read_app
from anycast.ops.main import surface
from anycast.ops.paths import schema
from anycast.sockets import bind_unix
from tests.unit import fleets
from tests.unit.fleets import NOW, peer, told, view
from tests.unit.ops import scenes
from tests.unit.ops.fleet import in_fleet
from tests.unit.ops.test_http import Client, ask


def document(own: Document, seen: View) -> dict[str, Any]:
    return fleet_seen.document(own, seen, fleets.FLEET, now=NOW)


def ill() -> dict[str, Any]:
    return document(*fleets.ill())


def node(shown: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in shown["nodes"] if one["name"] == name)


@pytest.mark.parametrize(
    "scene",
    [
        fleets.well(),
        fleets.ill(),
        (told("lb1", packets=None, vips={}), view(problem="the fleet process has ended")),
    ],
)
def test_it_is_as_its_schema_says(scene: tuple[Document, View]) -> None:
    Draft202012Validator(schema("fleet")).validate(json.loads(json.dumps(document(*scene))))


def test_a_fleet_that_is_well_has_no_troubles() -> None:
    shown = document(*fleets.well())
    assert shown["troubles"] == []
    assert [one["share"] for one in shown["nodes"]] == [0.3333] * 3
    assert len({one["tables"] for one in shown["nodes"]}) == 1
    assert [one["announced"] for one in shown["vips"]] == [["lb1", "lb2", "lb3"]] * 2


def test_each_node_stands_as_it_was_heard() -> None:
    shown = ill()
    assert [(one["name"], one["seen"], one["age_s"]) for one in shown["nodes"]] == [
        ("lb1", "here", None),
        ("lb2", "heard", 1.0),
        ("lb3", "heard", 1.0),
        ("lb4", "gone", 42.0),
        ("lb5", "gone", None),
    ]


def test_what_is_wrong_is_told_with_the_node_and_the_first_difference() -> None:
    difference = "udp 192.0.2.2:53: rs1 (10.9.0.1:53) is not on lb3 (and 1 more VIP)"
    assert [(one["node"], one["text"]) for one in ill()["troubles"]] == [
        ("lb3", "lb3 has another configuration in force than this node"),
        ("lb3", f"lb3 serves the VIP dns by another table than this node: {difference}"),
        ("lb4", "lb4 is gone, not heard for 42 s: connection refused"),
        ("lb5", "lb5 is gone, not heard: no route to host"),
    ]


def test_a_view_that_is_lost_is_told_first() -> None:
    own, seen = fleets.ill()
    shown = document(own, replace(seen, problem="the fleet process has ended"))
    assert shown["troubles"][0] == {"node": "", "text": "the fleet process has ended"}


def test_one_that_hears_nobody_of_several_is_told_so_first() -> None:
    silent = (
        peer(told(name), ago=60.0, problem="no answer", problem_since=NOW - 59) for name in ("lb2", "lb3")
    )
    shown = document(told("lb1"), view(*silent))
    assert shown["troubles"][0]["node"] == ""
    assert shown["troubles"][0]["text"].startswith("none of the 2 other nodes is heard")


def test_a_register_of_turns_that_does_not_answer_is_told() -> None:
    own, seen = fleets.well()
    shown = document(own, replace(seen, register=Register(problem="https://10.0.0.1:2379: no answer")))
    assert shown["troubles"] == [{"node": "", "text": "no turns are given: https://10.0.0.1:2379: no answer"}]


def test_no_sum_has_a_node_that_is_not_believed() -> None:
    shown = ill()
    assert [node(shown, name)["share"] for name in ("lb1", "lb2", "lb3", "lb4")] == [0.5, 0.0, 0.5, None]
    assert shown["vips"][0]["unknown"] == ["lb4", "lb5"]
    assert "lb4" not in shown["vips"][0]["announced"]


def test_of_each_vip_it_says_where_it_stands_how() -> None:
    web, dns = ill()["vips"]
    assert web["announced"] == ["lb1"]
    assert web["others"] == [
        {"node": "lb2", "standing": "withdrawn", "reason": "node_maintenance", "since_s": 121.0},
        {"node": "lb3", "standing": "last_resort", "reason": "below_quorum", "since_s": 61.0},
    ]
    assert dns["announced"] == ["lb1", "lb3"]
    assert dns["other_tables"] == ["lb3"]


def test_a_vip_that_a_node_does_not_have_is_told_and_one_of_others_too() -> None:
    seen = view(peer(told("lb2", ["web", "mail"])))
    shown = document(told("lb1"), seen)
    assert [(one["name"], one["without"]) for one in shown["vips"]] == [
        ("web", []),
        ("dns", ["lb2"]),
        ("mail", ["lb1"]),
    ]


def queue(own: Document, seen: View, fleet: Fleet = fleets.FLEET) -> list[tuple[str, str]]:
    shown = fleet_seen.document(own, seen, fleet, now=NOW)
    Draft202012Validator(schema("fleet")).validate(json.loads(json.dumps(shown)))
    return [(one["node"], one["scope"]) for one in shown["queue"]]


def asking(scope: str = "", *, held: str = "") -> tuple[Document, View]:
    """lb3 has asked before lb2, though lb2 has waited longer. lb1 has the turn."""
    turns = {
        "lb2": Turn(claim=Claim.ASKED, ago=50.0, number=2, scope=scope),
        "lb3": Turn(claim=Claim.ASKED, ago=5.0, number=1),
    }
    own = told("lb1", turn=Turn(claim=Claim.HELD, ago=1.0, number=3, scope=held))
    return own, view(*(peer(told(name, turn=turn)) for name, turn in turns.items()))


def test_those_that_are_out_stand_first_and_those_that_wait_by_the_number_that_decides() -> None:
    assert queue(*asking()) == [("lb1", ""), ("lb3", ""), ("lb2", "")]


def test_with_etcd_its_order_decides_for_nodes() -> None:
    strict = replace(fleets.FLEET, etcd=Etcd(endpoints=("https://10.0.0.9:2379",)))
    places = Register(queue=(Holder(node="lb2"), Holder(node="lb3")), heard=NOW)
    own, seen = asking()
    assert queue(own, replace(seen, register=places), strict) == [("lb1", ""), ("lb2", ""), ("lb3", "")]
    assert queue(own, seen, strict) == [("lb1", ""), ("lb3", ""), ("lb2", "")]  # it has not answered yet
    own, seen = asking("web")
    assert queue(own, replace(seen, register=places), strict) == [("lb1", ""), ("lb3", ""), ("lb2", "web")]


def test_the_turn_of_a_vip_is_told_as_that() -> None:
    assert queue(*asking(held="web"))[0] == ("lb1", "web")


def test_the_fingerprint_of_a_node_is_of_the_tables_that_are_known() -> None:
    local = {"web": fleets.vip(), "dns": fleets.vip(table="")}
    one, other = (document(told("lb1", vips=vips), view()) for vips in (local, {"web": fleets.vip()}))
    assert node(one, "lb1")["tables"] == node(other, "lb1")["tables"] is not None
    shown = document(told("lb1", vips={"web": fleets.vip(table="")}), view())
    assert node(shown, "lb1")["tables"] is None
    assert shown["vips"][0]["table"] is None


def test_the_vips_of_which_one_node_alone_has_a_route_are_named_with_it() -> None:
    shown = document(
        told("lb1", ["web", "dns"]), view(peer(told("lb2", ["web"])), peer(told("lb3", ["mail"])))
    )
    Draft202012Validator(schema("fleet")).validate(json.loads(json.dumps(shown)))
    assert shown["alone"] == [{"name": "dns", "node": "lb1"}, {"name": "mail", "node": "lb3"}]
    assert shown["alone_count"] == 2


def test_one_vip_that_differs_is_told_without_a_count() -> None:
    found = Disagreement(count=1, vips=("web",), since=NOW)
    shown = document(told("lb1"), view(peer(told("lb2"), disagreement=found)))
    assert shown["troubles"][0]["text"] == "lb2 serves the VIP web by another table than this node"


def test_a_configured_node_that_nobody_has_asked_yet_is_not_known() -> None:
    shown = document(told("lb1"), view())
    assert [(one["name"], one["seen"]) for one in shown["nodes"][1:]] == [
        ("lb2", "unknown"),
        ("lb3", "unknown"),
    ]
    assert shown["troubles"][0]["text"].startswith("lb2 is not known, not heard: it has not been heard since")


def test_one_that_does_not_answer_just_now_counts_on() -> None:
    shown = document(
        told("lb1"), view(peer(told("lb2"), ago=2.5, problem="timeout", problem_since=NOW - 0.5))
    )
    assert node(shown, "lb2")["seen"] == "late"
    assert shown["vips"][0]["announced"] == ["lb1", "lb2"]


def test_it_is_served_and_the_page_has_a_part_of_it() -> None:
    node = scenes.fleet()

    async def asking(client: Client) -> None:
        answer = await client.get("/fleet/view")
        assert answer.status == 200
        shown = await answer.json()
        Draft202012Validator(schema("fleet")).validate(shown)
        assert [one["name"] for one in shown["nodes"]] == ["lb1", "lb2", "lb3", "lb4", "lb5"]
        own = [vip.name for vip in node.state.config.vips]
        assert [one["name"] for one in shown["vips"]][: len(own)] == own
        assert shown["vips"][0]["table"]
        found = await (await client.get("/")).text()
        assert 'id="fleet"' in found
        assert "lb3 has another configuration in force" in found

    ask(read_app(node), asking)


def test_without_a_fleet_there_is_neither() -> None:
    async def asking(client: Client) -> None:
        answer = await client.get("/fleet/view")
        assert answer.status == 404
        assert (await answer.json())["error"].startswith("the configuration of this node has no `fleet:`")
        assert 'id="fleet"' not in await (await client.get("/")).text()

    ask(read_app(scenes.healthy()), asking)


def test_the_own_figures_are_for_this_node_alone(tmp_path: Path) -> None:
    """The agent asks for them at the unix socket."""

    async def asking(client: Client) -> None:
        assert (await client.get("/fleet/headroom")).status == 404

    ask(read_app(in_fleet()), asking)

    async def story() -> dict[str, Any]:
        async with surface(in_fleet()) as (local, _):
            await local.listen(bind_unix(tmp_path / SOCKET, mode=0o600))
            found: dict[str, Any] = json.loads(await asked(tmp_path, "/fleet/headroom", 1 << 20))
            return found

    assert asyncio.run(story()).keys() == {"complete", "today", "less"}


def test_tables_are_for_this_node_alone_and_not_where_everybody_asks() -> None:
    async def asking(client: Client) -> None:
        assert (await client.get("/fleet/vips/web")).status == 404

    ask(read_app(scenes.fleet()), asking)
    found = fleet_tables.tables(scenes.fleet().state, "web")
    assert found is not None
    assert "tcp 192.0.2.1:443" in found
    assert found["tcp 192.0.2.1:443"].settings.startswith("mh")
    assert fleet_tables.tables(scenes.fleet().state, "nothing") is None
