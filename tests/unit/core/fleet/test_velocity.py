"""How many nodes may take back a VIP for what others may lose in the same moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import pytest

from anycast.core.fleet.believe import Belief, Believed, believe
from anycast.core.fleet.values import Capacity, Document, Peer, Source, View, VipStanding, VipTold
from anycast.core.fleet.velocity import LATE, SEEN, SOFT, WAITS, Own, known_after, left, why_it_stays
from anycast.core.values.described import Percent
from anycast.core.values.fleet import Fleet, FleetView, Velocity

SINCE = 100.0
FLEET = Fleet(interval=2.0, velocity=Velocity(nodes=1), capacity=Capacity(bits=10e9))
NEW = SINCE + FLEET.interval + SEEN  # what was heard then was said after the others could know of this node
NOW = NEW + 0.5
OWN = Own(node="lb2", vip="web", since=SINCE)
NOBODY = "no other node says that it announces it as usual"
WELL = VipStanding.ANNOUNCED


def document(name: str, standing: VipStanding = WELL, reason: str = "healthy") -> Document:
    told = VipTold(standing=standing, reason=reason)
    return Document(node=name, version="1", ready=True, vips={"web": told}, capacity=Capacity(bits=10e9))


def node(
    name: str,
    standing: VipStanding = WELL,
    reason: str = "healthy",
    *,
    heard: float = NEW,
    belief: Belief = Belief.HEARD,
) -> Believed:
    told = document(name, standing, reason)
    return Believed(name=name, belief=belief, document=told, since=heard, said=heard)


def lost(name: str, standing: VipStanding) -> Believed:
    return node(name, standing, "below_quorum")


def why(
    *others: Believed,
    own: Own = OWN,
    fleet: Fleet = FLEET,
    now: float = NOW,
    gone: Mapping[str, float] = MappingProxyType({}),
) -> str:
    return why_it_stays(own, {one.name: one for one in others}, gone, fleet, now)


def test_one_node_that_fails_alone_takes_it_back() -> None:
    assert why(node("lb1"), node("lb3")) == ""


def test_nothing_is_believed_that_was_said_before_the_others_could_know() -> None:
    assert why(node("lb1", heard=NEW - 0.1)) == WAITS
    assert why(node("lb1", heard=NEW - 0.1), now=NOW + 1.0) == WAITS
    old = NOW + FLEET.interval + LATE
    assert why(node("lb1"), now=old + 0.1) != "", "and nothing that is old"


def test_a_key_in_etcd_that_only_stands_is_not_a_word_of_its_node() -> None:
    """It stands for as long as its lease, whatever became of the node."""
    fleet = replace(FLEET, view=FleetView.ETCD)
    stands = Peer(name="lb1", source=Source.ETCD, document=document("lb1"), heard=0.0, told=0.0)

    def found(now: float, said: float | None) -> str:
        others = believe(View(peers={"lb1": replace(stands, heard=now, said=said)}), fleet, now)
        return why_it_stays(OWN, others, {}, fleet, now)

    new = SINCE + known_after(fleet)
    assert found(new + 1.0, None) == WAITS
    assert found(new + 60.0, None) == "no other node says how it stands"
    assert found(new + 1.0, new - 0.1) == WAITS, "it answered before it could know"
    assert found(new + 1.0, new) == ""
    assert found(new + 60.0, new) != "", "that was long ago"


def test_silence_of_all_means_that_the_route_stays() -> None:
    long = SINCE + 60.0
    assert why(now=long) == "no other node says how it stands"
    assert why(node("lb1", belief=Belief.GONE), now=long) == "no other node says how it stands"
    assert why(node("lb1", belief=Belief.UNKNOWN, heard=long), now=long) == "no other node says how it stands"


@pytest.mark.parametrize("standing", [VipStanding.WITHDRAWN, VipStanding.LAST_RESORT, VipStanding.DRAINING])
@pytest.mark.parametrize("reason", ["below_quorum", "node_maintenance", "kernel_differs"])
def test_where_nobody_announces_it_as_usual_it_stays(standing: VipStanding, reason: str) -> None:
    assert why(node("lb1", standing, reason)) == NOBODY


def test_a_node_that_is_not_ready_announces_it_to_nobody() -> None:
    """Its kernel cannot be read, or no router hears it: what it says of the VIP helps no client."""
    other = node("lb1")
    assert other.document is not None
    assert why(replace(other, document=replace(other.document, ready=False))) == NOBODY


def test_a_node_that_does_not_have_the_vip_announces_it_to_nobody() -> None:
    assert why(replace(node("lb1"), document=Document(node="lb1", version="1"))) == NOBODY


@pytest.mark.parametrize("reason", sorted(SOFT))
def test_one_that_has_taken_it_back_uses_up_the_limit(reason: str) -> None:
    out = node("lb3", VipStanding.WITHDRAWN, reason)
    assert why(node("lb1"), out) == "lb3 may have taken it back (fleet.velocity: 1 within 60s)"
    assert why(node("lb1"), out, fleet=replace(FLEET, velocity=Velocity(nodes=2))) == ""


@pytest.mark.parametrize("reason", ["node_maintenance", "kernel_differs", "stopping", "starting"])
def test_one_that_is_broken_itself_or_in_maintenance_does_not(reason: str) -> None:
    assert why(node("lb1"), node("lb3", VipStanding.WITHDRAWN, reason)) == ""


def test_of_those_that_fail_together_the_first_by_name_goes() -> None:
    last = VipStanding.LAST_RESORT
    assert why(node("lb4"), lost("lb3", last)) == ""
    assert why(node("lb4"), lost("lb1", last)).startswith("lb1 may have")
    # A node of before `last_resort` was told says that it drains.
    assert why(node("lb4"), lost("lb1", VipStanding.DRAINING)).startswith("lb1 may have")


def test_one_that_is_not_heard_may_have_taken_it_back_but_not_one_that_is_gone() -> None:
    assert why(node("lb1"), node("lb3", belief=Belief.UNKNOWN)).startswith("lb3 may have")
    assert why(node("lb1"), Believed(name="lb3", belief=Belief.UNKNOWN)).startswith("lb3 may have")
    assert why(node("lb1"), node("lb3", belief=Belief.LATE, heard=SINCE)).startswith("lb3 may have")
    assert why(node("lb1"), node("lb3", belief=Belief.GONE)) == ""


def test_what_was_taken_back_and_is_there_again_counts_for_the_window() -> None:
    assert why(node("lb1"), gone={"lb1": 59.9}).startswith("lb1 may have")
    assert why(node("lb1"), gone={"lb1": 60.0}) == ""
    peer = Peer(name="lb1", document=replace(document("lb1"), soft=20.0), heard=NEW, told=NEW - 30.0)
    view = View(peers={"lb1": peer, "lb3": Peer(name="lb3", document=document("lb3"), heard=NEW)})
    assert left(view, NEW) == {"lb1": 50.0}, "what it said counts from when it said so"


@pytest.mark.parametrize(("percent", "goes"), [(33, False), (34, True), (100, True)])
def test_a_share_of_the_capacity_of_all(percent: int, *, goes: bool) -> None:
    fleet = replace(FLEET, velocity=Velocity(percent=Percent(percent)))
    found = why(node("lb1"), node("lb3"), fleet=fleet)
    assert (found == "") == goes
    assert goes or found == "this node alone is more than fleet.velocity allows: 33% within 60s"


def test_a_large_node_takes_up_more_of_a_share_and_where_one_has_no_figure_all_are_alike() -> None:
    velocity = Velocity(percent=Percent(40))
    large = replace(FLEET, velocity=velocity, capacity=Capacity(bits=25e9))
    assert why(node("lb1"), node("lb3"), fleet=large) != ""
    assert why(node("lb1"), node("lb3"), fleet=replace(large, capacity=Capacity(packets=1e6))) == ""


def test_without_a_limit_nothing_stays() -> None:
    assert why(fleet=replace(FLEET, velocity=None)) == ""


def test_names_are_bounded() -> None:
    names = [f"lb{n}" for n in range(10, 20)]
    found = why(node("lb1"), *(lost(name, VipStanding.WITHDRAWN) for name in names))
    assert found.startswith("lb10, lb11, lb12, lb13, lb14 and 5 more may have taken it back")
