"""What this node says of itself to the others: made from what has changed, and the same as if it were made anew."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from anycast.core import events as ev
from anycast.core.fleet import codec
from anycast.core.fleet.values import Claim, Holder, Peer, Register, VipStanding
from anycast.core.maintenance.stages import NODE, Maintenance
from anycast.core.values.fleet import Fleet, PeerAt
from anycast.core.vip.decide import Advertise
from anycast.ops.fleet import FRESH, Told, standing
from anycast.ops.fleet_view import fleet_status
from anycast.ops.status import Clock
from tests.unit.ops.node import Node
from tests.unit.ops.scenes import large

FLEET = Fleet(listen="10.2.1.1:9645", peers=(PeerAt(name="lb2", host="10.2.1.2"),))


def node() -> Node:
    found = large(300, pool=2)
    found.send(ev.Reconfigured(config=replace(found.state.config, fleet=FLEET)))
    return found


def rows(told: Told, now: float) -> dict[str, codec.Row]:
    heard = codec.read(told.answer(now).body(()), {})
    return {name: row for some in heard.pieces.values() for name, row in some.items()}


def test_every_vip_is_told_with_its_standing_since_when_and_its_tables() -> None:
    one = node()
    found = rows(Told(one), one.now)
    assert set(found) == {vip.name for vip in one.state.config.vips}
    announced, reason, since, table, _ = found["v3"]
    assert (announced, reason) == ("announced", "healthy")
    assert since == pytest.approx(one.state.vips["v3"].since, abs=0.1)
    assert len(table) == 12


def test_what_was_made_from_changes_is_what_is_made_anew() -> None:
    one, dice = node(), random.Random(7)  # noqa: S311 - the same each time
    told = Told(one)
    for turn in range(12):
        victim = f"10.16.0.{dice.randrange(1, 200)}"
        match dice.randrange(4):
            case 0:
                one.probe(victim)
            case 1:
                entry = Maintenance(reason="", by="ada", since=0.0)
                one.send(
                    ev.MaintenanceSet(scope=dice.choice(["v1", "v2", NODE]), entry=dice.choice([entry, None]))
                )
            case 2:
                config = one.state.config
                one.send(ev.Reconfigured(config=replace(config, vips=config.vips[dice.randrange(2) :])))
            case _:
                one.report()
        now = one.now + turn  # past what is fresh
        assert rows(told, now) == rows(Told(one), now)


def test_time_alone_changes_no_tag_and_a_vip_changes_one_piece() -> None:
    one = node()
    told = Told(one)
    first = told.answer(one.now)
    assert told.answer(one.now + FRESH / 2) is first
    second = told.answer(one.now + 10)
    assert second.tag == first.tag
    one.send(ev.MaintenanceSet(scope="v3", entry=Maintenance(reason="", by="ada", since=0.0)))
    third = told.answer(one.now + 20)
    assert third.tag != first.tag
    assert sum(new is not old for new, old in zip(third.pieces, first.pieces, strict=True)) == 1
    heard = codec.read(first.body(()), {})
    assert len(third.body(heard.pieces)) < len(third.body(())) / 2


def test_the_node_says_whom_it_hears() -> None:
    one = node()
    assert codec.read(Told(one).answer(one.now).body(()), {}).document.hears == ()
    document = codec.read(Told(one).answer(one.now).body(()), {}).document
    one.send(ev.FleetHeard(peers={"lb2": Peer(name="lb2", document=document, heard=one.now, told=one.now)}))
    assert codec.read(Told(one).answer(one.now).body(()), {}).document.hears == ("lb2",)


@pytest.mark.parametrize("advertise", list(Advertise))
def test_every_verdict_is_a_standing(advertise: Advertise) -> None:
    state = node().state
    verdict = replace(state.vips["v1"].verdict, advertise=advertise)
    assert standing(verdict) in VipStanding


def test_the_status_says_what_is_believed_how_old_it_is_and_what_was_said() -> None:
    one = node()
    clock = Clock(now=one.now, wall=1e9)
    found = fleet_status(one.state, clock)
    assert found is not None
    assert [(each["name"], each["belief"], each["age_s"]) for each in found["nodes"]] == [
        ("lb2", "unknown", None)
    ]
    document = codec.read(Told(one).answer(one.now).body(()), {}).document
    vips = {"web": codec.told(("announced", "healthy", 0.0, "", ()), 0.0)}
    peer = Peer(name="lb2", document=replace(document, vips=vips), heard=one.now - 1.5, told=one.now)
    one.send(ev.FleetHeard(peers={"lb2": peer}, problem="etcd"))
    found = fleet_status(one.state, clock)
    assert found is not None
    (known,) = found["nodes"]
    assert (known["belief"], known["age_s"], known["vips"], found["problem"]) == (
        "heard",
        1.5,
        {"announced": 1},
        "etcd",
    )
    one.send(ev.Reconfigured(config=replace(one.state.config, fleet=None)))
    assert fleet_status(one.state, clock) is None


def test_a_turn_is_told_and_time_alone_changes_no_tag() -> None:
    one = node()
    entry = Maintenance(reason="new disks", by="ada", since=0.0)
    one.send(ev.LeaveAsked(scope=NODE, entry=entry, waits=True, random=0.5))
    told = Told(one)
    first = told.answer(one.now)
    turn = codec.read(first.body(()), {}).document.turn
    assert turn is not None
    assert (turn.claim, turn.by, turn.reason, turn.scope) == (Claim.ASKED, "ada", "new disks", "")
    assert turn.number == one.state.seat.wish.number
    assert told.answer(one.now + 7.3).tag == first.tag


def test_who_has_a_turn_in_etcd_is_in_the_status_with_its_end() -> None:
    one = node()
    clock = Clock(now=one.now, wall=1.8e9)
    found = fleet_status(one.state, clock)
    assert found is not None
    assert found["turns"] is None
    holder = Holder(node="lb2", number=1, by="ada", reason="new disks", ago=60.0, ends_in=12.0)
    register = Register(holders=(holder,), heard=one.now - 1.5, problem="no answer")
    one.send(ev.FleetHeard(register=register))
    found = fleet_status(one.state, clock)
    assert found is not None
    assert found["turns"] == {
        "problem": "no answer",
        "age_s": 1.5,
        "holders": [{"node": "lb2", "by": "ada", "reason": "new disks", "ago_s": 60.0, "ends_in_s": 12.0}],
        "queue": [],
    }
