"""Who may leave for a maintenance, and why not: views that were made up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from anycast.core.fleet.turn import (
    KEPT,
    LAG,
    NAMED,
    NEXT,
    Answer,
    Decision,
    Seat,
    Signal,
    Stage,
    Wish,
    decide,
    drawn,
    hindrances,
    leaving,
    looked,
    moved,
    round_of,
    settle_of,
    too_many,
)
from anycast.core.fleet.values import (
    Claim,
    Document,
    Holder,
    Peer,
    Register,
    Source,
    Turn,
    View,
    VipStanding,
    VipTold,
)
from anycast.core.values.fleet import Etcd, Fleet, FleetView, PeerAt

NOW = 1000.0
NAMES = ("lb1", "lb2", "lb3")
FLEET = Fleet(peers=tuple(PeerAt(name=name) for name in NAMES[1:]))
WISH = Wish(node="lb1", number=5, said=NOW - 60.0)
WEB = VipTold(standing=VipStanding.ANNOUNCED, reason="healthy", table="a")


def document(node: str, *, vips: Mapping[str, VipTold] | None = None, **said: Any) -> Document:
    known = {"ready": True, "hears": NAMES, "vips": {"web": WEB} if vips is None else vips}
    return Document(node=node, version="1", **{**known, **said})


def peer(name: str, *, heard: float | None = NOW - 0.5, problem: str = "", **said: Any) -> Peer:
    return Peer(name=name, document=document(name, **said), heard=heard, problem=problem)


def view(*peers: Peer) -> View:
    """The named ones as given; the others are well."""
    given = {one.name: one for one in peers}
    return View(peers={name: given.get(name) or peer(name) for name in NAMES[1:]})


def decided(
    seen: View, wish: Wish = WISH, fleet: Fleet = FLEET, *, own: Document | None = None, full: str = ""
) -> Decision:
    """With what of the VIPs is in the way, as the agent asks."""
    found = hindrances(own or document("lb1"), seen, wish, fleet, now=NOW)
    return decide(seen, wish, fleet, [*found, *([full] if full else [])], now=NOW)


def asked(*peers: Peer, wish: Wish = WISH, fleet: Fleet = FLEET, own: Document | None = None) -> Decision:
    return decided(view(*peers), wish, fleet, own=own)


def turn(claim: Claim, number: int, **said: Any) -> Turn:
    return Turn(claim=claim, ago=40.0, number=number, **said)


def reason(decision: Decision) -> str:
    """The one there is."""
    (text,) = decision.reasons
    return text


def test_with_nothing_in_the_way_it_may_go() -> None:
    assert asked() == Decision(answer=Answer.GRANTED)


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (
            {"maintenance": "down", "turn": turn(Claim.HELD, 1, by="ada", reason="new disks")},
            "lb2 is out for a maintenance (down) (ada, 40 s ago, “new disks”)",
        ),
        ({"maintenance": "draining"}, "lb2 is draining for a maintenance"),
        ({"turn": turn(Claim.ASKED, 4, by="ada")}, "lb2 has asked before (ada, 40 s ago)"),
        ({"turn": turn(Claim.HELD, 9, scope="web")}, "lb2 is taking a VIP out (40 s ago)"),
        (
            {"heard": NOW - 12.4, "problem": "connection refused"},
            "lb2 has not been heard for 12 s: connection refused",
        ),
        ({"heard": None, "problem": "no route to host"}, "lb2 is not heard: no route to host"),
        ({"hears": ("lb2", "lb3")}, "lb2 does not hear lb1"),
        ({"ready": False}, "lb2 is failing: it is not ready"),
        (
            {"vips": {"web": replace(WEB, standing=VipStanding.LAST_RESORT, reason="below_quorum")}},
            "lb2 is failing: web is last resort there (below_quorum)",
        ),
        ({"vips": {"web": replace(WEB, table="b")}}, "lb2 has another table of web than lb1"),
    ],
)
def test_what_another_says_is_in_the_way(other: dict[str, Any], text: str) -> None:
    found = asked(peer("lb2", **other))
    assert found.answer is Answer.IN_THE_WAY
    assert reason(found) == text


def test_a_vip_that_too_few_others_announce_is_named_with_how_many_do() -> None:
    gone = replace(WEB, standing=VipStanding.WITHDRAWN, reason="vip_maintenance")
    others = [peer(name, vips={"web": gone}) for name in NAMES[1:]]
    own = document("lb1", vips={"web": WEB, "mail": replace(WEB, standing=VipStanding.WITHDRAWN)})
    found = asked(*others, own=own)
    assert reason(found) == "fewer than 1 of the nodes that stay (fleet.min_announcing) announce web (0)"
    assert asked(*others, own=own, fleet=replace(FLEET, min_announcing=0)).answer is Answer.GRANTED


def test_where_all_are_the_last_resort_those_count_and_are_failing_all_the_same() -> None:
    last = replace(WEB, standing=VipStanding.LAST_RESORT, reason="below_quorum")
    others = [peer(name, vips={"web": last}) for name in NAMES[1:]]
    found = asked(*others, own=document("lb1", vips={"web": last}))
    assert [text.partition(":")[0] for text in found.reasons] == ["lb2 is failing", "lb3 is failing"]


def test_two_may_be_out_where_the_configuration_says_so_and_no_third() -> None:
    fleet = replace(FLEET, max_out=2)
    out: dict[str, Any] = {"maintenance": "down"}
    assert asked(peer("lb2", **out), fleet=fleet).answer is Answer.GRANTED
    found = asked(peer("lb2", **out), peer("lb3", heard=NOW - 60.0, problem="no answer"), fleet=fleet)
    assert len(found.reasons) >= 2, "who cannot be heard may be out"
    assert any("lb3 has not been heard" in text for text in found.reasons)


def test_where_two_may_be_out_those_who_go_first_do_not_count_as_staying() -> None:
    found = asked(
        peer("lb2", turn=turn(Claim.ASKED, 1)), peer("lb3", vips={}), fleet=replace(FLEET, max_out=2)
    )
    assert reason(found) == "fewer than 1 of the nodes that stay (fleet.min_announcing) announce web (0)"


def test_who_leaves_or_may_before_it_is_known_with_what_they_take_along() -> None:
    fleet = replace(FLEET, max_out=3, peers=tuple(PeerAt(name=f"lb{n}") for n in range(2, 7)))
    peers = (
        peer("lb2", turn=turn(Claim.ASKED, 1)),
        peer("lb3", turn=turn(Claim.ASKED, 9)),
        peer("lb4", maintenance="draining", turn=turn(Claim.HELD, 1)),
        peer("lb5", turn=turn(Claim.HELD, 1, scope="web")),
        peer("lb6", turn=turn(Claim.ASKED, 2, scope="dns")),
    )
    found = leaving(View(peers={one.name: one for one in peers}), WISH, fleet, now=NOW)
    assert found == {"lb2": "", "lb4": "", "lb5": "web", "lb6": "dns"}
    register = Register(
        heard=NOW - 1.0, holders=(Holder(node="lb3"),), queue=(Holder(node="lb2"), Holder(node="lb1"))
    )
    strict = replace(ETCD, max_out=2)
    assert leaving(replace(view(), register=register), WISH, strict, now=NOW) == {"lb3": "", "lb2": ""}


@pytest.mark.parametrize(
    ("holders", "gone"), [(("lb3", "lb1"), {"lb3": ""}), (("lb1", "lb3"), {}), (("lb1",), {}), ((), {})]
)
def test_of_two_that_hold_a_turn_the_later_one_reckons_with_the_earlier(
    holders: tuple[str, ...], gone: dict[str, str]
) -> None:
    register = Register(
        heard=NOW - 1.0, mine=WISH.number, holders=tuple(Holder(node=name) for name in holders)
    )
    strict = replace(ETCD, max_out=2)
    assert leaving(replace(view(), register=register), WISH, strict, now=NOW) == gone


def test_nobody_reachable_is_in_the_way_however_many_may_be_out() -> None:
    lost = [peer(name, heard=NOW - 60.0, problem="no answer") for name in NAMES[1:]]
    found = asked(*lost, fleet=replace(FLEET, max_out=5, min_announcing=0))
    assert [text.split()[0] for text in found.reasons] == ["lb2", "lb3"]


def test_why_the_others_could_not_carry_it_is_a_reason() -> None:
    found = decided(view(), full="lb2 would stand at 90 %")
    assert reason(found) == "lb2 would stand at 90 %"


def test_of_two_who_ask_the_smaller_number_goes_first_and_then_the_name() -> None:
    for number, name, first in ((4, "lb1", True), (6, "lb1", False), (5, "lb1", False), (5, "lb3", True)):
        found = asked(peer("lb2", turn=turn(Claim.ASKED, number)), wish=replace(WISH, node=name))
        assert (found.answer is Answer.IN_THE_WAY) is first, (number, name)


def test_the_queue_names_who_goes_first_in_order_and_the_place() -> None:
    found = asked(peer("lb3", turn=turn(Claim.ASKED, 1)), peer("lb2", turn=turn(Claim.ASKED, 2)))
    assert (found.place, found.behind) == (3, ("lb3", "lb2"))


def test_who_asks_now_comes_behind_all_who_are_heard_to_ask() -> None:
    first = drawn(View(), 0.9999999)
    then = drawn(view(peer("lb2", turn=turn(Claim.ASKED, first))), 0.0)
    assert then > first
    assert drawn(View(), 0.0) < first, "at the same time chance decides"
    assert then < 2**53, "a number that JSON holds"


def test_it_waits_until_each_other_has_been_heard_since_it_asked() -> None:
    found = asked(wish=replace(WISH, said=NOW - 1.0), fleet=FLEET)
    assert found == Decision(answer=Answer.UNKNOWN, waits_for=("lb2", "lb3"))
    assert asked(wish=replace(WISH, said=NOW - 0.5 - LAG)).answer is Answer.GRANTED


def test_by_etcd_what_a_node_says_is_heard_later_for_it_is_written_first() -> None:
    wish = replace(WISH, said=NOW - 0.5 - LAG)
    assert asked(wish=wish, fleet=replace(FLEET, view=FleetView.ETCD)).answer is Answer.UNKNOWN
    assert asked(wish=wish).answer is Answer.GRANTED


def test_it_waits_longer_for_one_who_asks_too_and_comes_later() -> None:
    """That one may have left before it heard of us."""
    later = peer("lb2", turn=turn(Claim.ASKED, 9))
    assert asked(later, wish=replace(WISH, said=NOW - 3.0)).answer is Answer.UNKNOWN
    assert asked(later, wish=replace(WISH, said=NOW - 0.5 - settle_of(FLEET))).answer is Answer.GRANTED


def test_what_was_heard_too_long_ago_is_heard_anew_before_it_goes() -> None:
    """Though it was heard since we asked: it may have asked meanwhile, and be about to leave."""
    found = asked(peer("lb2", heard=NOW - round_of(FLEET) - 0.1))
    assert (found.answer, found.waits_for) == (Answer.UNKNOWN, ("lb2",))


def test_a_vip_may_go_while_a_node_is_out_if_another_announces_it() -> None:
    """And no other takes one out at the same moment, for it might be the same."""
    wish = replace(WISH, scope="web")
    assert asked(peer("lb2", maintenance="down", vips={}), wish=wish).answer is Answer.GRANTED
    assert asked(peer("lb2", turn=turn(Claim.HELD, 9, scope="web")), wish=wish).answer is Answer.IN_THE_WAY
    others = [peer(name, vips={}) for name in NAMES[1:]]
    assert asked(*others, wish=wish).answer is Answer.IN_THE_WAY
    own = document("lb1", vips={"web": WEB, "mail": WEB})
    assert asked(wish=wish, own=own).answer is Answer.GRANTED, "of the other VIP nothing is asked"


def test_what_is_in_the_way_is_bounded_in_words() -> None:
    names = [f"lb{number}" for number in range(2, 65)]
    others = View(peers={name: Peer(name=name) for name in names})
    vips = {f"vip{number}": WEB for number in range(1000)}
    found = decided(others, WISH, replace(FLEET, max_out=3), own=document("lb1", vips=vips))
    assert len(found.reasons) <= 2 * NAMED
    assert sum(map(len, found.reasons)) < 2000


def test_of_two_that_are_out_the_one_that_comes_later_gives_way() -> None:
    other = view(peer("lb2", maintenance="draining", turn=turn(Claim.HELD, 4, by="ada")))
    found = too_many(other, turn(Claim.HELD, 5), WISH, FLEET, now=NOW)
    assert found.text.startswith("2 nodes are out, and 1 may be (fleet.max_out): lb1, lb2 (ada)")
    assert found.give_way == ("lb2",)
    first = too_many(other, turn(Claim.HELD, 3), replace(WISH, number=3), FLEET, now=NOW)
    assert (bool(first.text), first.give_way) == (True, ())


def test_nobody_gives_way_to_one_that_has_left_without_its_turn() -> None:
    """Nor does that one: somebody wanted it so."""
    other = view(peer("lb2", maintenance="down", turn=turn(Claim.HELD, 0, forced=True)))
    assert too_many(other, turn(Claim.HELD, 5), WISH, FLEET, now=NOW).give_way == ()
    asked_for = view(peer("lb2", maintenance="down", turn=turn(Claim.HELD, 1)))
    assert too_many(asked_for, turn(Claim.HELD, 5, forced=True), WISH, FLEET, now=NOW).give_way == ()


def test_while_no_more_are_out_than_may_nothing_is_said() -> None:
    out = view(peer("lb2", maintenance="down"))
    assert too_many(out, turn(Claim.HELD, 5), WISH, replace(FLEET, max_out=2), now=NOW).text == ""


def test_what_stands_in_no_table_changes_nothing() -> None:
    for stage in Stage:
        for signal in Signal:
            assert (stage, signal) in NEXT or moved(stage, signal) is stage
    assert {NEXT[stage, Signal.FORCE] for stage in Stage} == {Stage.HELD}, "an emergency is never blocked"


def seat(stage: Stage) -> Seat:
    return Seat(stage=stage, wish=WISH, asked=NOW - 60.0, by="ada")


@pytest.mark.parametrize(
    ("answer", "waits", "stage"),
    [
        (Answer.GRANTED, False, Stage.HELD),
        (Answer.IN_THE_WAY, True, Stage.QUEUED),
        (Answer.IN_THE_WAY, False, Stage.FREE),
        (Answer.UNKNOWN, False, Stage.SAYING),
    ],
)
def test_a_look_moves_the_turn_on(answer: Answer, waits: bool, stage: Stage) -> None:  # noqa: FBT001
    found = looked(seat(Stage.SAYING), Decision(answer=answer), waits=waits, now=NOW)
    assert found.stage is stage
    assert (found.ends == NOW + KEPT) is (stage is not Stage.HELD)


def test_others_are_told_of_a_turn_from_when_it_is_asked_for() -> None:
    told: Iterable[Turn | None] = [seat(stage).told(NOW) for stage in Stage]
    assert [None if one is None else one.claim for one in told] == [
        None,
        Claim.ASKED,
        Claim.ASKED,
        Claim.HELD,
    ]
    one = seat(Stage.QUEUED).told(NOW)
    assert one is not None
    assert (one.ago, one.number, one.by) == (60.0, 5, "ada")


ETCD = replace(FLEET, etcd=Etcd(endpoints=("http://10.0.0.1:2379",)))


def in_etcd(
    *peers: Peer, mine: int | None = None, heard: float = NOW - 1.0, wish: Wish = WISH, **said: Any
) -> Decision:
    register = Register(mine=mine, heard=heard, **said)
    others = {name: replace(one, source=Source.ETCD) for name, one in view(*peers).peers.items()}
    return decided(View(peers=others, register=register), wish, ETCD)


def test_with_etcd_nobody_leaves_without_a_key_there() -> None:
    assert in_etcd(mine=WISH.number).answer is Answer.GRANTED
    assert in_etcd() == Decision(answer=Answer.UNKNOWN, waits_for=("etcd",))
    assert in_etcd(mine=4).answer is Answer.UNKNOWN, "of another asking"


def test_who_has_the_key_is_told_with_the_reason_and_when_it_ends() -> None:
    holder = Holder(node="lb3", number=1, by="ada", reason="new disks", ago=90.0, ends_in=12.0)
    found = in_etcd(holders=(holder,), queue=(Holder(node="lb2", by="eve"), Holder(node="lb1")))
    assert reason(found) == (
        "lb3 has the turn in etcd (ada, 90 s ago, “new disks”, its key ends in 12 s unless it is kept)"
    )
    assert (found.place, found.behind) == (2, ("lb3", "lb2"))


def test_the_queue_is_the_one_of_etcd_and_not_what_nodes_say_of_it() -> None:
    first = peer("lb2", turn=turn(Claim.ASKED, 1))
    assert in_etcd(first, mine=WISH.number).answer is Answer.GRANTED
    found = in_etcd(queue=(Holder(node="lb2", by="eve", ago=3.0), Holder(node="lb1")))
    assert reason(found) == "lb2 has asked before (eve, 3 s ago)"


def test_a_key_alone_is_not_enough_while_another_is_out_or_not_heard() -> None:
    """The key of one that was rebooted ends, and it is out all the same."""
    for other in ({"maintenance": "down"}, {"heard": NOW - 60.0, "problem": "its lease has ended"}):
        assert in_etcd(peer("lb2", **other), mine=WISH.number).answer is Answer.IN_THE_WAY


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (
            {"problem": "http://10.0.0.1:2379: no answer within 1.5 s"},
            "http://10.0.0.1:2379: no answer within 1.5 s",
        ),
        ({"heard": NOW - 60.0}, "it has not answered yet"),
    ],
)
def test_without_a_majority_of_etcd_nobody_leaves(said: dict[str, Any], why: str) -> None:
    assert reason(in_etcd(mine=WISH.number, **said)) == f"etcd gives no turn: {why}"


def test_a_node_that_says_a_number_beyond_all_measure_is_not_followed() -> None:
    liar = view(peer("lb2", turn=turn(Claim.ASKED, 10**300)), peer("lb3", turn=turn(Claim.ASKED, -1)))
    assert 0 < drawn(liar, 0.0) < 2**53


def test_of_a_vip_the_nodes_agree_among_themselves_with_etcd_too() -> None:
    """A node that is out has its key there, and is in the way of no VIP."""
    wish = replace(WISH, scope="web")
    out = peer("lb2", maintenance="down", vips={})
    assert in_etcd(out, holders=(Holder(node="lb2"),), wish=wish).answer is Answer.GRANTED
    assert in_etcd(peer("lb2", turn=turn(Claim.ASKED, 1)), wish=wish).answer is Answer.IN_THE_WAY
    moving = peer("lb2", turn=turn(Claim.HELD, 1, scope="mail"))
    assert in_etcd(moving, wish=wish).answer is Answer.IN_THE_WAY
    assert in_etcd(moving, mine=WISH.number).answer is Answer.IN_THE_WAY, "nor does a node leave meanwhile"
