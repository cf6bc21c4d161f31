"""The figures of a fleet as a node shows them: in the status, in the metrics, and right with the event."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import pytest

from anycast.cli.text import _headroom
from anycast.core import events as ev
from anycast.core.fleet import codec
from anycast.core.fleet.believe import PATIENCE
from anycast.core.fleet.values import Capacity, Source, VipStanding
from anycast.core.fleet.values import Document as Told
from anycast.core.values.configuration import Role
from anycast.core.values.fleet import FleetView
from anycast.ops import status
from anycast.ops.fleet import Told as Teller
from anycast.ops.headroom import carrying
from anycast.ops.load import Meter
from tests.unit.ops.fleet import MAIL, TEN, WEB, Steady, heard, in_fleet
from tests.unit.ops.node import CONFIG, Node, healthy
from tests.unit.ops.test_documents import validator
from tests.unit.ops.test_metrics import samples


def shown(node: Node) -> dict[str, Any]:
    """The status, which the schema knows."""
    found = status.frame(
        node.state,
        [],
        now=node.now,
        wall=time.time(),
        version="1",
        pid=1,
        force=node.force,
        traffic=node.traffic,
        headroom=node.headroom.read(node.now),
    )
    validator("status").validate(json.loads(json.dumps(found)))
    return found


def test_two_nodes_at_48_percent_say_what_happens_with_one_less() -> None:
    found = shown(in_fleet())
    assert _headroom(found).splitlines() == [
        "  stands at 48% of 10 Mbit/s, limit 70%",
        "  if lb2 fails now, lb1 would stand at 96% of 10 Mbit/s, limit 70%",
        "  if lb1 fails now, lb2 would stand at 96% of 10 Mbit/s, limit 70%",
    ]
    assert found["headroom"]["complete"]
    mail, web = found["headroom"]["vips"]
    assert mail["shares"] == {"lb1": pytest.approx(0.625), "lb2": pytest.approx(0.375)}
    assert web["one_less"]["figure"]["text"] == "77% of 10 Mbit/s, limit 70%"


def test_the_metrics_are_of_this_node() -> None:
    found = samples(in_fleet(2))
    assert found['anycast_fleet_load_share{resource="bits"}'] == pytest.approx(0.48)
    assert found['anycast_fleet_headroom_share{less="0",resource="bits"}'] == pytest.approx(0.22)
    assert found['anycast_fleet_headroom_share{less="1",resource="bits"}'] == pytest.approx(0.7 - 0.72)
    assert found['anycast_fleet_headroom_share{less="2",resource="bits"}'] == pytest.approx(0.7 - 1.44)
    assert found["anycast_fleet_headroom_complete"] == 1


def test_the_vips_that_this_node_alone_announces_are_a_number() -> None:
    node = in_fleet(2)
    assert samples(node)["anycast_fleet_vips_alone"] == 0
    without = {}
    for name in ("lb2", "lb3"):
        one = heard(node, name)
        assert one.document is not None
        vips = {vip: told for vip, told in one.document.vips.items() if vip == "mail" or name == "lb3"}
        vips |= {"other": replace(vips["mail"])} if name == "lb2" else {}
        without[name] = replace(one, document=replace(one.document, vips=vips))
    node.send(ev.FleetHeard(peers=without))
    assert samples(node)["anycast_fleet_vips_alone"] == 0  # `other` is of lb2, which tells of it
    one = without["lb3"]
    assert one.document is not None
    withdrawn = {
        vip: replace(told, standing=VipStanding.WITHDRAWN) for vip, told in one.document.vips.items()
    }
    node.send(ev.FleetHeard(peers={"lb3": replace(one, document=replace(one.document, vips=withdrawn))}))
    assert samples(node)["anycast_fleet_vips_alone"] == 1  # web; lb2 has mail
    assert "anycast_fleet_vips_alone" not in samples(in_fleet(0))


def test_without_a_fleet_there_are_no_figures() -> None:
    for node in (healthy(), in_fleet()):
        fleet = node.state.config.fleet
        if fleet is not None:
            quiet = replace(node.state.config, fleet=replace(fleet, view=FleetView.NONE))
            node.send(ev.Reconfigured(config=quiet))
        assert shown(node)["headroom"] is None
        assert not any(name.startswith("anycast_fleet_headroom") for name in samples(node))


def test_a_fleet_of_one_says_how_it_stands_and_nothing_of_others() -> None:
    node = in_fleet(0)
    assert _headroom(shown(node)) == "  stands at 48% of 10 Mbit/s, limit 70%\n"
    assert not any('less="1"' in name for name in samples(node))


def test_what_is_not_known_is_absent() -> None:
    node = in_fleet(capacity=Capacity())
    assert not any(name.startswith("anycast_fleet_load_share{") for name in samples(node))
    node = in_fleet()
    node.meter = Meter(Steady(float("nan")))
    assert shown(node)["headroom"]["nodes"][0]["today"] is None
    assert samples(node)["anycast_fleet_headroom_complete"] == 0


def test_the_event_that_a_node_is_gone_is_in_the_figure_at_once() -> None:
    node = in_fleet(2)
    assert less(node) == pytest.approx(0.72)
    gone = heard(node, "lb3", problem="no answer")
    node.jump(PATIENCE[Source.PEERS] + 0.01)
    node.send(ev.FleetHeard(peers={"lb2": heard(node, "lb2"), "lb3": gone}))
    # Nothing has been measured anew: of what lb3 carried 7 of 10 seconds are on their way to each of the others.
    assert less(node) == pytest.approx(0.48 * 2 + 0.48 * 0.7, rel=0.01)
    # The others may only not have noticed yet; until they have, no alert fires.
    assert not shown(node)["headroom"]["complete"]
    lb2 = heard(node, "lb2")
    assert lb2.document is not None
    node.send(ev.FleetHeard(peers={"lb2": replace(lb2, document=replace(lb2.document, hears=("lb1",)))}))
    assert shown(node)["headroom"]["complete"]


def less(node: Node) -> float:
    """The share of its capacity that this node would use with one node less."""
    found = node.headroom.read(node.now)
    assert found is not None
    tightest = found.less[1]["lb1"].nodes["lb1"].tightest
    assert tightest is not None
    return tightest.share


def test_all_who_ask_at_once_get_the_same_figures() -> None:
    node = in_fleet()
    first = node.headroom.read(node.now)
    assert node.headroom.read(node.now + 0.1) is first
    assert node.headroom.read(node.now + 1) is not first
    node.send(ev.FleetHeard(peers={"lb2": heard(node, "lb2")}))
    assert node.headroom.read(node.now) is not first


def test_what_a_node_says_of_its_vips_is_what_routers_compare() -> None:
    backup = replace(CONFIG.vips[1], role=Role.BACKUP)
    node = in_fleet()
    node.send(ev.Reconfigured(config=replace(node.state.config, vips=(CONFIG.vips[0], backup))))
    own: Told = carrying(node, node.now)
    assert own.vips["web"].standing is VipStanding.ANNOUNCED
    assert own.vips["web"].rank < own.vips["mail"].rank
    assert own.load is not None
    assert own.load.bits == WEB + MAIL


def test_others_are_told_what_it_carries_and_how_its_paths_rank() -> None:
    node = in_fleet()
    heard_of = codec.read(Teller(node).answer(node.now).body(()), {})
    assert heard_of.document.load == carrying(node, node.now).load
    assert heard_of.document.capacity == TEN
    assert codec.unpacked(heard_of.document.loads)["web"].bits == pytest.approx(WEB)
    rows = {name: row for piece in heard_of.pieces.values() for name, row in piece.items()}
    assert {codec.told(row, 0.0).rank for row in rows.values()} == {(0, 0, 0, 0)}
