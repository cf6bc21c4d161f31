"""Empty never means all: a view that suddenly says nothing of anybody takes nobody away, and no route."""

from __future__ import annotations

from dataclasses import replace

from anycast.core import events as ev
from anycast.core.fleet.believe import Belief, believe
from anycast.core.fleet.values import Source, View
from anycast.core.values.fleet import Fleet, FleetView, PeerAt
from tests.fakes import Node, up
from tests.unit.fleets import peer, told

FLEET = Fleet(peers=(PeerAt(name="lb2"), PeerAt(name="lb3")))


def hearing(fleet: Fleet = FLEET) -> Node:
    node = up()
    node.send(ev.Reconfigured(config=replace(node.state.config, fleet=fleet)))
    source = Source.ETCD if fleet.view is FleetView.ETCD else Source.PEERS
    heard = {name: peer(told(name), source=source, heard=node.now, told=node.now) for name in ("lb2", "lb3")}
    node.send(ev.FleetHeard(peers=heard))
    return node


def test_a_view_without_anybody_takes_nobody_away() -> None:
    node = hearing()
    routes = node.routes
    node.send(ev.FleetHeard())
    node.send(ev.FleetHeard(peers={}, problem="the process has ended"))
    assert set(node.state.fleet.peers) == {"lb2", "lb3"}
    assert node.routes == routes


def test_a_register_in_which_nobody_is_any_more_leaves_each_as_it_was_heard_last() -> None:
    node = hearing(replace(FLEET, view=FleetView.ETCD))
    silent = {
        name: replace(one, problem="its key is gone", problem_since=node.now)
        for name, one in node.state.fleet.peers.items()
    }
    node.send(ev.FleetHeard(peers=silent))
    fleet = node.state.config.fleet
    assert fleet is not None
    assert {one.belief for one in believe(node.state.fleet, fleet, node.now + 5).values()} == {Belief.LATE}
    assert {one.counts for one in believe(node.state.fleet, fleet, node.now + 5).values()} == {True}
    node.wait(60)
    assert node.routes
    assert set(node.state.fleet.peers) == {"lb2", "lb3"}


def test_nothing_that_was_ever_heard_is_no_fleet_of_one() -> None:
    assert {one.belief for one in believe(View(), FLEET, 999.0).values()} == {Belief.UNKNOWN}
