"""What stands while a node is silent, its tables differ, or the view is lost: once it has begun, until it is over."""

from __future__ import annotations

from dataclasses import replace

import pytest

from anycast.core import events as ev
from anycast.core.fleet.alarms import SILENT, alarms
from anycast.core.fleet.values import Claim, Disagreement, Peer, Turn, View
from anycast.core.values.fleet import Fleet, FleetView, PeerAt
from anycast.core.values.standing import Condition
from tests.fakes import Node, up
from tests.unit.fleets import told

FLEET = Fleet(peers=(PeerAt(name="lb2"), PeerAt(name="lb3")))
DIFFERS = Disagreement(count=3, vips=("web",), since=0.0, words="tcp 192.0.2.1:80: rs1 is not on lb2")


def kinds(view: View, now: float, fleet: Fleet | None = FLEET) -> dict[tuple[str, str], str]:
    found = alarms(view, fleet, now)
    return {(str(kind), about): text for (kind, about), text in found.items() if text}


def peer(name: str, heard: float, **facts: object) -> Peer:
    return Peer(name=name, document=told(name), heard=heard, told=heard, **facts)  # type: ignore[arg-type]


def view(*peers: Peer, problem: str = "") -> View:
    return View(peers={one.name: one for one in peers}, problem=problem)


WELL = view(peer("lb2", 100.0), peer("lb3", 100.0))


def test_nothing_is_wrong_with_nodes_that_are_heard() -> None:
    assert kinds(WELL, 101.0) == {}


def test_a_node_that_says_nothing_is_an_alarm_after_a_while() -> None:
    silent = view(peer("lb2", 100.0, problem="connection refused", problem_since=101.0), peer("lb3", 111.0))
    assert kinds(silent, 100.0 + SILENT - 0.1) == {}
    assert kinds(silent, 100.0 + SILENT + 0.1) == {
        ("fleet_node_silent", "lb2"): (
            "the node lb2 is not heard: connection refused (`anycast status` there; from here `anycast fleet`)"
        )
    }


def test_one_that_was_never_heard_is_an_alarm_once_it_has_been_asked_for_a_while() -> None:
    never = Peer(name="lb2", problem="connection refused", problem_since=100.0)
    assert kinds(View(), 999.0) == {}  # nobody has asked yet
    assert kinds(View(peers={"lb2": never}), 100.0 + SILENT - 0.1) == {}
    assert set(kinds(View(peers={"lb2": never}), 100.0 + SILENT)) == {("fleet_node_silent", "lb2")}


@pytest.mark.parametrize(
    "out",
    [{"maintenance": "down"}, {"turn": Turn(claim=Claim.HELD, ago=1.0, number=1), "maintenance": "quiet"}],
)
def test_a_node_that_is_out_for_maintenance_may_be_silent(out: dict[str, object]) -> None:
    down = peer("lb2", 100.0, problem="no route to host", problem_since=101.0)
    assert down.document is not None
    down = replace(down, document=replace(down.document, **out))  # type: ignore[arg-type]
    assert kinds(view(down, peer("lb3", 199.0)), 200.0) == {}


def test_one_that_has_taken_a_vip_out_may_not() -> None:
    down = peer("lb2", 100.0, problem="no route to host", problem_since=101.0)
    assert down.document is not None
    vip = Turn(claim=Claim.HELD, ago=1.0, number=1, scope="web")
    down = replace(down, document=replace(down.document, turn=vip))
    assert set(kinds(view(down, peer("lb3", 199.0)), 200.0)) == {("fleet_node_silent", "lb2")}


def test_one_that_answers_what_cannot_be_used_is_an_alarm_though_it_is_out() -> None:
    broken = peer("lb2", 100.0, problem="401: the token is wrong", problem_since=101.0, answers=True)
    assert broken.document is not None
    broken = replace(broken, document=replace(broken.document, maintenance="down"))
    assert set(kinds(view(broken, peer("lb3", 199.0)), 200.0)) == {("fleet_node_silent", "lb2")}


def test_while_the_view_is_lost_nothing_is_said_of_single_nodes() -> None:
    assert set(kinds(replace(WELL, problem="the fleet process has ended"), 500.0)) == {("fleet_unseen", "")}


def silence(name: str, **facts: object) -> Peer:
    return peer(name, 100.0, problem=f"no way to {name}", problem_since=101.0, **facts)


def test_a_node_that_hears_none_of_several_has_lost_its_view_and_they_are_not_silent() -> None:
    alone = view(silence("lb2"), silence("lb3"))
    assert kinds(alone, 100.0 + SILENT - 0.1) == {}
    (found,) = kinds(alone, 100.0 + SILENT + 0.1).items()
    assert found[0] == ("fleet_unseen", "")
    assert "none of the 2 other nodes is heard" in found[1]
    assert "lb2: no way to lb2; lb3: no way to lb3" in found[1]


def test_whoever_is_silent_last_is_not_told_apart_meanwhile() -> None:
    later = replace(silence("lb3"), heard=103.0)
    assert set(kinds(view(silence("lb2"), later), 100.0 + SILENT + 0.1)) == {("fleet_unseen", "")}


def test_who_hears_one_of_the_others_has_a_view() -> None:
    fleet = replace(FLEET, peers=(*FLEET.peers, PeerAt(name="lb4")))
    found = kinds(view(silence("lb2"), silence("lb3"), peer("lb4", 119.0)), 120.0, fleet)
    assert set(found) == {("fleet_node_silent", "lb2"), ("fleet_node_silent", "lb3")}


def test_of_two_nodes_neither_knows_which_is_cut_off() -> None:
    fleet = replace(FLEET, peers=FLEET.peers[:1])
    assert set(kinds(view(silence("lb2")), 120.0, fleet)) == {("fleet_node_silent", "lb2")}


def test_one_that_is_out_and_one_that_is_silent_are_no_lost_view() -> None:
    out = silence("lb2")
    assert out.document is not None
    out = replace(out, document=replace(out.document, maintenance="down"))
    assert set(kinds(view(out, silence("lb3")), 120.0)) == {("fleet_node_silent", "lb3")}


def test_tables_that_differ_are_told_with_the_first_difference() -> None:
    found = kinds(view(peer("lb2", 100.0, disagreement=DIFFERS), peer("lb3", 100.0)), 101.0)
    assert found == {
        ("fleet_tables_differ", "lb2"): (
            "lb2 serves the VIP web by another table than this node: tcp 192.0.2.1:80: rs1 is not on lb2 "
            "(and 2 more VIPs)"
        )
    }


def test_tables_of_a_node_that_is_not_believed_prove_nothing() -> None:
    gone = peer("lb2", 100.0, disagreement=DIFFERS, problem="timeout", problem_since=101.0)
    assert ("fleet_tables_differ", "lb2") not in kinds(view(gone, peer("lb3", 199.0)), 200.0)


@pytest.mark.parametrize("fleet", [None, replace(FLEET, view=FleetView.NONE)])
def test_without_a_view_nothing_is_missing(fleet: Fleet | None) -> None:
    assert alarms(View(problem="x"), fleet, 999.0) == {}


def running() -> Node:
    """A node that announces, and has just begun to ask others."""
    node = up()
    node.send(ev.Reconfigured(config=replace(node.state.config, fleet=FLEET)))
    return node


def standing(node: Node) -> set[Condition]:
    return {kind for kind, _ in node.state.standing}


def test_it_stands_from_its_event_to_its_end() -> None:
    node = running()
    now = node.now
    node.send(ev.FleetHeard(peers={"lb2": peer("lb2", now, disagreement=DIFFERS), "lb3": peer("lb3", now)}))
    assert standing(node) == {Condition.FLEET_TABLES_DIFFER}
    assert node.logged[-1] == "condition.began"
    node.send(ev.FleetHeard(peers={"lb2": peer("lb2", now)}))
    assert standing(node) == set()
    assert node.logged[-1] == "condition.ended"


def test_time_alone_makes_a_silent_node_an_alarm_and_a_reload_without_it_ends_that() -> None:
    node = running()
    silent = Peer(name="lb2", problem="connection refused", problem_since=node.now)
    node.send(ev.FleetHeard(peers={"lb2": silent}))
    assert standing(node) == set()
    node.wait(SILENT + 1)
    assert standing(node) == {Condition.FLEET_NODE_SILENT}
    node.send(ev.Reconfigured(config=replace(node.state.config, fleet=None)))
    assert standing(node) == set()
