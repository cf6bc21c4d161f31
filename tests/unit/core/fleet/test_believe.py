"""Who is believed, who is gone and who is not known; and the view as it becomes another."""

from __future__ import annotations

from dataclasses import replace

import pytest

from anycast.core import events as ev
from anycast.core.fleet.believe import PATIENCE, Belief, believe, wakes
from anycast.core.fleet.turn import Wish, decide
from anycast.core.fleet.values import Document, Peer, Source, View
from anycast.core.values.fleet import Etcd, Fleet, FleetView, PeerAt
from tests.fakes import up

FLEET = Fleet(peers=(PeerAt(name="lb2", host="10.2.1.2"), PeerAt(name="lb3", host="10.2.1.3")))
TOLD = Document(node="lb2", version="1")
HEARD = Peer(name="lb2", document=TOLD, heard=100.0, told=90.0)


def of(peer: Peer, now: float, problem: str = "") -> tuple[Belief, str]:
    found = believe(View(peers={peer.name: peer}, problem=problem), FLEET, now)[peer.name]
    return found.belief, found.why


@pytest.mark.parametrize(
    ("peer", "now", "belief", "why"),
    [
        (HEARD, 101.0, Belief.HEARD, ""),
        (replace(HEARD, problem="refused", problem_since=101.0), 102.9, Belief.LATE, "refused"),
        (replace(HEARD, problem="refused", problem_since=101.0), 103.1, Belief.GONE, "refused"),
        (HEARD, 105.1, Belief.UNKNOWN, "nobody has asked it for 5 s"),
        (
            replace(HEARD, problem="401: the token", problem_since=101.0, answers=True),
            200.0,
            Belief.UNKNOWN,
            "401: the token",
        ),
        (Peer(name="lb2"), 101.0, Belief.UNKNOWN, "it has not been heard since this agent began to ask"),
        (Peer(name="lb2", problem="refused", problem_since=99.0), 101.0, Belief.UNKNOWN, "refused"),
        (Peer(name="lb2", problem="refused", problem_since=99.0), 102.1, Belief.GONE, "refused"),
        (
            replace(HEARD, source=Source.ETCD, problem="no key", problem_since=101.0),
            114.0,
            Belief.LATE,
            "no key",
        ),
        (
            replace(HEARD, source=Source.ETCD, problem="no key", problem_since=101.0),
            115.1,
            Belief.GONE,
            "no key",
        ),
    ],
)
def test_the_first_rule_that_applies_says_what_is_believed(
    peer: Peer, now: float, belief: Belief, why: str
) -> None:
    assert of(peer, now) == (belief, why)


def test_a_node_that_was_asked_was_there_when_it_was_heard_and_one_in_etcd_when_it_answered() -> None:
    late = replace(HEARD, problem="refused", problem_since=101.0)
    in_etcd = replace(HEARD, source=Source.ETCD)
    answered = replace(in_etcd, said=95.0)
    for peer, said in ((HEARD, 100.0), (late, 100.0), (in_etcd, None), (answered, 95.0)):
        assert believe(View(peers={"lb2": peer}), FLEET, 101.0)["lb2"].said == said


def test_a_node_that_is_configured_and_never_heard_is_not_known() -> None:
    found = believe(View(), FLEET, 5.0)
    assert {name: (one.belief, one.counts) for name, one in found.items()} == {
        "lb2": (Belief.UNKNOWN, False),
        "lb3": (Belief.UNKNOWN, False),
    }


def test_a_view_that_is_lost_makes_nobody_gone_and_says_why() -> None:
    assert of(HEARD, 200.0, "the process ended") == (Belief.UNKNOWN, "the process ended")


def test_what_was_said_last_counts_for_a_while() -> None:
    late = replace(HEARD, problem="refused", problem_since=101.0)
    for now, counts in ((101.0, True), (102.9, True), (103.1, False)):
        assert believe(View(peers={"lb2": late}), FLEET, now)["lb2"].counts is counts


def test_the_core_wakes_when_time_alone_changes_what_is_believed() -> None:
    for peer in (HEARD, replace(HEARD, problem="refused", problem_since=101.0)):
        view = View(peers={"lb2": peer})
        (at,) = wakes(view, FLEET, 101.0)
        before, after = (believe(view, FLEET, one)["lb2"].belief for one in (at - 0.01, at))
        assert before is not after
        assert list(wakes(view, FLEET, at)) == []
    answers = replace(HEARD, problem="401", problem_since=101.0, answers=True)
    assert list(wakes(View(peers={"lb2": answers}), FLEET, 101.0)) == []
    assert max(PATIENCE.values()) < 30


def test_ages_count_from_the_document_and_not_from_the_last_sign_of_life() -> None:
    assert HEARD.ago(5.0, 101.0) == 16.0
    assert HEARD.age(101.0) == 1.0
    assert replace(HEARD, told=None).ago(5.0, 101.0) == 6.0


def test_what_is_heard_changes_the_view_and_no_route() -> None:
    node = up()
    node.send(ev.Reconfigured(config=replace(node.state.config, fleet=FLEET)))
    before = node.state
    node.send(ev.FleetHeard(peers={"lb2": HEARD}))
    node.send(ev.FleetHeard(problem="the process ended"))
    node.send(ev.FleetHeard(peers={"lb3": replace(HEARD, name="lb3")}))
    assert node.state.fleet.peers == {"lb2": HEARD, "lb3": replace(HEARD, name="lb3")}
    assert node.state.fleet.problem == "the process ended"
    assert node.state.vips is before.vips
    assert node.state.lease.routes is before.lease.routes


def test_a_reload_forgets_whom_it_does_not_name() -> None:
    node = up()
    node.send(ev.Reconfigured(config=replace(node.state.config, fleet=FLEET)))
    node.send(ev.FleetHeard(peers={"lb2": HEARD, "lb3": replace(HEARD, name="lb3")}))
    fewer = replace(FLEET, peers=FLEET.peers[:1])
    node.send(ev.Reconfigured(config=replace(node.state.config, fleet=fewer)))
    assert set(node.state.fleet.peers) == {"lb2"}
    etcd = replace(fewer, view=FleetView.ETCD, etcd=Etcd(endpoints=("http://10.0.0.1:2379",)))
    node.send(ev.Reconfigured(config=replace(node.state.config, fleet=etcd)))
    assert not node.state.fleet.peers
    node.send(ev.FleetHeard(problem="etcd"))
    node.send(ev.Reconfigured(config=replace(node.state.config, fleet=None)))
    assert node.state.fleet == View()


def in_etcd(*names: str) -> Fleet:
    peers = tuple(PeerAt(name=name) for name in names)
    return Fleet(peers=peers, view=FleetView.ETCD, etcd=Etcd(endpoints=("http://10.0.0.1:2379",)))


def test_a_node_that_is_taken_out_of_the_file_is_in_nobodys_way_with_etcd_either() -> None:
    node = up()
    node.send(ev.Reconfigured(config=replace(node.state.config, fleet=in_etcd("lb2", "lb3"))))
    gone = Peer(name="lb3", source=Source.ETCD, document=replace(TOLD, node="lb3"), heard=0.0, problem="gone")
    well = Peer(name="lb2", source=Source.ETCD, document=replace(TOLD, hears=("lb1",)), heard=100.0)
    node.send(ev.FleetHeard(peers={"lb2": well, "lb3": gone}))

    def in_the_way() -> list[str]:
        fleet = node.state.config.fleet
        assert fleet is not None
        reasons = decide(node.state.fleet, Wish(node="lb1"), fleet, now=100.0).reasons
        return [one for one in reasons if "lb3" in one]

    assert in_the_way()
    node.send(ev.Reconfigured(config=replace(node.state.config, fleet=in_etcd("lb2"))))
    assert in_the_way() == []
    node.send(ev.FleetHeard(peers={"lb2": well, "lb3": gone}))  # it was on its way
    assert set(node.state.fleet.peers) == {"lb2"}


def test_where_the_file_names_no_nodes_all_that_register_are_of_the_fleet() -> None:
    node = up()
    node.send(ev.Reconfigured(config=replace(node.state.config, fleet=in_etcd())))
    other = replace(HEARD, name="lb9", source=Source.ETCD)
    node.send(ev.FleetHeard(peers={"lb9": other, "lb2": HEARD}))
    assert set(node.state.fleet.peers) == {"lb9"}, "what another source told is none"
    node.send(ev.Reconfigured(config=replace(node.state.config, fleet=replace(in_etcd(), max_out=2))))
    assert set(node.state.fleet.peers) == {"lb9"}
