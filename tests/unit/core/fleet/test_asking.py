"""A node that asks the others before it leaves: the core as it is, and others that were made up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from anycast.core import events as ev
from anycast.core.fleet.asking import turn
from anycast.core.fleet.turn import KEPT, Stage
from anycast.core.fleet.values import Claim, Document, Peer, Register, Turn, VipStanding, VipTold
from anycast.core.health.phase import Outcome
from anycast.core.maintenance.stages import FILE, NODE, STOP, Maintenance
from anycast.core.maintenance.stages import Stage as Of
from anycast.core.values.fleet import Etcd, Fleet, FleetView, PeerAt
from anycast.core.values.standing import Condition
from tests.fakes import Node, vip

NAMES = ("lb1", "lb2", "lb3")
FLEET = Fleet(peers=(PeerAt(name="lb2"), PeerAt(name="lb3")))
VIPS = {"web": VipTold(standing=VipStanding.ANNOUNCED, reason="healthy")}
OUT: dict[str, Any] = {"maintenance": "down", "turn": Turn(claim=Claim.HELD, ago=60.0, number=1, by="ada")}


def node(fleet: Fleet | None = FLEET) -> Node:
    """It announces web, and knows that the others do so too."""
    found = Node(vip("web"), fleet=fleet)
    found.checks(Outcome.OK)
    found.acknowledge()
    found.wait(30.0)
    hear(found)
    return found


def hear(node: Node, **others: dict[str, Any]) -> None:
    peers = {}
    for name in NAMES[1:]:
        said = {"ready": True, "hears": NAMES, "vips": VIPS, **others.get(name, {})}
        document = Document(node=name, version="1", **said)
        peers[name] = Peer(name=name, document=document, heard=node.now, told=node.now)
    node.send(ev.FleetHeard(peers=peers))


def ask(node: Node, scope: str = NODE, **said: Any) -> None:
    entry = Maintenance(reason="racks", by=said.pop("by", "op"), since=node.wall)
    node.send(ev.LeaveAsked(scope=scope, entry=entry, **{"random": 0.5, **said}))


def ask_until_it_goes(node: Node) -> None:
    ask(node, waits=True)
    for _ in range(8):
        node.wait(1.0)
        hear(node)
        ask(node, waits=True, number=node.state.seat.wish.number)
        if NODE in node.state.maintenance:
            return
    raise AssertionError(node.state.seat)


def claim(node: Node) -> Claim | None:
    told = turn(node.state, node.now)
    return None if told is None else told.claim


def test_it_says_that_it_asks_before_it_leaves_and_then_that_it_has_the_turn() -> None:
    lb1 = node()
    ask(lb1)
    assert (claim(lb1), NODE in lb1.state.maintenance) == (Claim.ASKED, False)
    lb1.wait(3.0)
    hear(lb1)
    ask(lb1, number=lb1.state.seat.wish.number)
    assert (claim(lb1), lb1.stage()) == (Claim.HELD, Of.DRAINING)
    assert [log.event for log in lb1.logs if log.event.startswith("turn.")] == ["turn.asked", "turn.granted"]


def test_what_was_looked_at_before_others_were_heard_to_leave_or_not_at_all_lets_nobody_go() -> None:
    lb1 = node(replace(FLEET, max_out=2))
    ask(lb1)
    lb1.wait(3.0)
    hear(lb1, lb2=OUT)
    number = lb1.state.seat.wish.number
    for said in ({"hindered": None}, {"counted": frozenset[str]()}, {"counted": frozenset({"lb3"})}):
        ask(lb1, number=number, **said)
        assert (claim(lb1), NODE in lb1.state.maintenance) == (Claim.ASKED, False), said
    ask(lb1, number=number, counted=frozenset({"lb2", "lb3"}))
    assert lb1.stage() is Of.DRAINING, "one that is back is no matter"


def test_without_a_fleet_and_where_nobody_is_asked_it_leaves_at_once() -> None:
    for fleet in (None, replace(FLEET, view=FleetView.NONE)):
        lb1 = node(fleet)
        ask(lb1)
        assert lb1.stage() is Of.DRAINING
        assert not [log for log in lb1.logs if log.event.startswith("turn.")]


def test_with_another_out_it_is_refused_at_once_and_the_reason_is_logged() -> None:
    lb1 = node()
    hear(lb1, lb2=OUT)
    ask(lb1)
    assert (claim(lb1), NODE in lb1.state.maintenance) == (None, False)
    (refused,) = lb1.events("turn.refused")
    assert refused.level == "warning"
    assert refused.fields["reasons"] == ["lb2 is out for a maintenance (down) (ada, 60 s ago)"]
    assert refused.fields["by"] == "op"


def test_one_who_waits_leaves_when_the_other_is_back() -> None:
    lb1 = node()
    hear(lb1, lb2=OUT)
    ask(lb1, waits=True)
    number = lb1.state.seat.wish.number
    for _ in range(3):
        lb1.wait(2.0)
        hear(lb1, lb2=OUT)
        ask(lb1, waits=True, number=number)
    assert (claim(lb1), len(lb1.events("turn.queued"))) == (Claim.ASKED, 1)
    lb1.wait(2.0)
    hear(lb1)
    ask(lb1, waits=True, number=number)
    assert lb1.stage() is Of.DRAINING
    assert lb1.state.seat.wish.number == number


def test_the_place_of_one_who_no_longer_asks_is_free_after_a_while() -> None:
    lb1 = node()
    hear(lb1, lb2=OUT)
    ask(lb1, waits=True)
    lb1.wait(KEPT - 0.1)
    assert claim(lb1) is Claim.ASKED
    lb1.wait(0.2)
    assert claim(lb1) is None
    assert lb1.events("turn.given_up")[0].fields["why"] == "nobody asks any more"


def test_an_agent_that_was_started_again_takes_the_place_it_had() -> None:
    """Who asks says again what it was given, and for how long it has asked."""
    lb1 = node()
    hear(lb1, lb2=OUT)
    ask(lb1, waits=True, number=77, ago=300.0)
    told = turn(lb1.state, lb1.now)
    assert told is not None
    assert (told.number, told.ago) == (77, 300.0)


def test_who_gives_it_up_is_no_longer_in_the_way_of_others() -> None:
    lb1 = node()
    ask(lb1, waits=True)
    lb1.send(ev.LeaveDropped(scope=NODE, number=1, by="eve"))
    assert claim(lb1) is Claim.ASKED, "another number is another asking"
    lb1.send(ev.LeaveDropped(scope=NODE, number=lb1.state.seat.wish.number, by="op"))
    assert claim(lb1) is None


def test_off_gives_up_what_is_asked_too() -> None:
    lb1 = node()
    ask(lb1, waits=True)
    lb1.maintain(on=False)
    assert claim(lb1) is None


def test_two_who_ask_on_one_node_do_not_disturb_each_other() -> None:
    lb1 = node()
    hear(lb1, lb2=OUT)
    ask(lb1, waits=True)
    seat = lb1.state.seat
    ask(lb1, by="eve")
    ask(lb1, "web", by="op")
    assert lb1.state.seat is seat


@pytest.mark.parametrize(
    ("scope", "how"), [(NODE, "force"), (FILE, "file"), (STOP, "stop"), ("web", "force")]
)
def test_an_emergency_the_file_and_a_stop_are_not_asked(scope: str, how: str) -> None:
    """With a view that knows nothing, too: nothing is looked at."""
    lb1 = Node(vip("web"), fleet=FLEET)
    entry = Maintenance(reason="it burns", by="op", since=lb1.wall)
    lb1.send(ev.MaintenanceSet(scope=scope, entry=entry, skip_drain=True))
    assert scope in lb1.state.maintenance
    (skipped,) = lb1.events("turn.skipped")
    assert (skipped.fields["how"], skipped.fields["by"]) == (how, "op")
    told = turn(lb1.state, lb1.now)
    assert (told is None) if scope == "web" else (told is not None and told.forced)


def test_a_node_that_is_out_already_asks_nobody_and_says_no_more() -> None:
    for scope in (NODE, "web"):
        lb1 = node()
        lb1.send(ev.MaintenanceSet(scope=FILE, entry=Maintenance(reason="", by="file", since=lb1.wall)))
        hear(lb1, lb2=OUT)
        ask(lb1, scope)
        assert scope in lb1.state.maintenance
        assert len(lb1.events("turn.skipped")) == 1


def test_force_takes_the_turn_that_is_asked_for() -> None:
    lb1 = node()
    hear(lb1, lb2=OUT)
    ask(lb1, waits=True)
    lb1.maintain()
    told = turn(lb1.state, lb1.now)
    assert told is not None
    assert (told.claim, told.forced) == (Claim.HELD, True)


def test_the_turn_is_free_when_the_maintenance_ends() -> None:
    lb1 = node()
    ask_until_it_goes(lb1)
    lb1.maintain(on=False)
    assert (claim(lb1), lb1.state.seat.stage) == (None, Stage.FREE)


def test_a_maintenance_that_was_kept_over_a_restart_still_has_the_turn() -> None:
    lb1 = Node(vip("web"), fleet=FLEET, kept={NODE: Maintenance(reason="", by="ada", since=1.0)})
    told = turn(lb1.state, lb1.now)
    assert told is not None
    assert (told.claim, told.by, told.forced) == (Claim.HELD, "ada", False)


def test_a_vip_has_the_turn_for_as_long_as_others_need_to_hear_of_it() -> None:
    lb1 = node()
    ask(lb1, "web")
    lb1.wait(2.0)
    hear(lb1)
    ask(lb1, "web", number=lb1.state.seat.wish.number)
    assert (claim(lb1), "web" in lb1.state.maintenance) == (Claim.HELD, True)
    lb1.wait(10.0)
    assert (claim(lb1), "web" in lb1.state.maintenance) == (None, True)


def test_of_two_that_leave_the_later_one_gives_way_while_it_drains_and_says_so() -> None:
    lb1 = node()
    ask_until_it_goes(lb1)
    first = Turn(claim=Claim.HELD, ago=9.0, number=1, by="ada")
    hear(lb1, lb2={"maintenance": "draining", "turn": first})
    assert NODE not in lb1.state.maintenance
    assert lb1.saved == {}
    assert claim(lb1) is None
    (gave,) = lb1.events("turn.gave_way")
    assert (gave.level, gave.fields["to"]) == ("error", "lb2")
    assert "goes first" in str(lb1.events("maintenance.ended")[0].fields["why"])


def test_one_that_has_left_already_stays_out_and_says_loudly_that_two_are() -> None:
    lb1 = node()
    ask_until_it_goes(lb1)
    lb1.maintain(skip_drain=True)
    assert lb1.stage() is Of.WITHDRAWN
    first = Turn(claim=Claim.HELD, ago=9.0, number=1, by="ada")
    hear(lb1, lb2={"maintenance": "draining", "turn": first})
    assert lb1.stage() is Of.WITHDRAWN
    standing = lb1.state.standing[Condition.TOO_MANY_OUT, ""]
    assert standing.text.startswith(
        "2 nodes are out, and 1 may be (fleet.max_out): lb1 (op, “racks”), lb2 (ada)"
    )
    hear(lb1)
    assert (Condition.TOO_MANY_OUT, "") not in lb1.state.standing


def test_what_etcd_had_of_the_turns_is_forgotten_once_it_is_not_asked() -> None:
    strict = replace(FLEET, etcd=Etcd(endpoints=("http://10.0.0.1:2379",)))
    lb1 = node(strict)
    lb1.send(ev.FleetHeard(register=Register(mine=7)))
    lb1.reload(vip("web"), fleet=replace(strict, max_out=2))
    assert lb1.state.fleet.register == Register(mine=7)
    lb1.reload(vip("web"), fleet=FLEET)
    assert lb1.state.fleet.register is None
    assert lb1.state.fleet.peers
