"""By hand: who carries what with others gone, and in which words it is said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from anycast.core.fleet.believe import PATIENCE, believe
from anycast.core.fleet.headroom import (
    MEASURED,
    MOST_CASES,
    Case,
    Picture,
    Resource,
    alone,
    picture,
    pictured,
    quantity,
    refusal,
    shares,
    today,
    too_much,
    without,
    without_vip,
    words,
    worst,
    worst_of_vip,
)
from anycast.core.fleet.values import Capacity, Document, Load, Peer, Source, View, VipStanding, VipTold
from anycast.core.values.fleet import Fleet, PeerAt

G = 1e9
TEN = Capacity(bits=10 * G)
PRIMARY, BACKUP = (-100, 0, 0, 0), (-50, 3, 0, 1000)


def of(bits: float) -> Load:
    return Load(bits=bits, packets=bits / 8000)


def told(
    bits: float | None,
    standing: VipStanding = VipStanding.ANNOUNCED,
    rank: tuple[int, ...] = PRIMARY,
) -> VipTold:
    return VipTold(standing=standing, load=None if bits is None else of(bits), rank=rank)


def node(
    name: str,
    capacity: Capacity | None = TEN,
    *,
    rest: float = 0.0,
    extra: float = 0.0,
    weight: int | None = None,
    **vips: VipTold,
) -> Document:
    """`extra`: what the interface carries that is of no VIP."""
    of_vips = sum(one.load.bits for one in vips.values() if one.load is not None)
    return Document(
        node=name,
        version="1",
        load=of(of_vips + rest + extra),
        rest=of(rest),
        capacity=capacity,
        weight=weight,
        vips=vips,
    )


def bits(case: Case, name: str) -> float:
    load = case.nodes[name].load
    assert load is not None
    return load.bits / G


def two_at(share: float) -> list[Document]:
    return [node(name, web=told(share * 10 * G)) for name in ("lb1", "lb2")]


def test_two_nodes_at_45_percent_leave_one_at_90() -> None:
    found = picture(two_at(0.45))
    for name, other in (("lb1", "lb2"), ("lb2", "lb1")):
        case = worst(found, 1)[name]
        assert words(case, name) == f"if {other} fails now, {name} would stand at 90% of 10 Gbit/s, limit 70%"
        figure = case.nodes[name].tightest
        assert figure is not None
        assert figure.is_over
        assert figure.left == pytest.approx(-0.2)


def test_two_nodes_at_45_percent_must_not_lose_one_to_a_drain() -> None:
    (reason,) = too_much(picture(two_at(0.45)), "lb1", "")
    assert reason == "without lb1, lb2 would stand at 90% of 10 Gbit/s, limit 70% (now 45%)"


def test_two_that_leave_together_must_fit_together() -> None:
    """Each of three fits alone: 40 % of one on two others is 60 %. Of two gone, the third would have all."""
    found = picture([node(name, web=told(4 * G)) for name in ("lb1", "lb2", "lb3")])
    assert too_much(found, "lb2", "") == ()
    ahead = {"lb1": ""}
    assert too_much(found, "lb2", "", ahead=ahead) == (
        "without lb1 and lb2, lb3 would stand at 120% of 10 Gbit/s, limit 70% (now 40%)",
    )
    assert too_much(found, "lb2", "web", ahead=ahead) == (
        "without lb1 and web on lb2, lb3 would stand at 120% of 10 Gbit/s, limit 70% (now 40%)",
    )
    assert too_much(found, "lb2", "", ahead={"lb1": "web"}) == (
        "without web on lb1 and lb2, lb3 would stand at 120% of 10 Gbit/s, limit 70% (now 40%)",
    )
    assert too_much(found, "lb2", "", ahead={"lb2": "", "lb9": ""}) == (), (
        "it is none itself, and one that is not heard"
    )


def test_a_node_that_takes_one_vip_out_stays_with_all_else() -> None:
    found = picture([node(name, web=told(3 * G), mail=told(0)) for name in ("lb1", "lb2", "lb3")])
    assert too_much(found, "lb1", "", ahead={"lb2": "", "lb3": "mail"}) == (
        "without lb2, mail on lb3 and lb1, lb3 would stand at 90% of 10 Gbit/s, limit 70% (now 30%)",
    )
    assert too_much(found, "lb1", "mail", ahead={"lb3": "mail"}) == ()


def test_of_nodes_of_which_one_is_gone_the_other_has_all_alone() -> None:
    both = [replace(node(name, web=told(1 * G)), fleet=("lb1", "lb2")) for name in ("lb1", "lb2")]
    found = pictured(
        both[0],
        believe(View(peers=heard(both[1], problem=LOST)), FLEET, 160.0),
        160.0,
    )
    assert found.names == ("lb1",)
    assert alone(found) == {"web": "lb1"}
    assert alone(picture([replace(both[0], fleet=())])) == {}


def test_one_that_goes_first_and_may_still_stay_is_not_pushed_over_its_limit_either() -> None:
    found = picture(
        [node("lb1", web=told(4 * G)), node("lb2", web=told(4 * G)), node("lb3", mail=told(1 * G))]
    )
    (reason,) = too_much(found, "lb2", "", ahead={"lb1": ""})
    assert reason.startswith("without lb2, lb1 would stand at 80%")


def test_what_those_ahead_do_without_this_one_is_no_reason_of_it() -> None:
    nothing = node("lb2", mail=told(0))
    found = picture([node("lb1", web=told(4 * G)), nothing, node("lb3", web=told(4 * G))])
    assert too_much(found, "lb2", "", ahead={"lb1": ""}) == ()


def test_two_nodes_at_35_percent_may() -> None:
    assert too_much(picture(two_at(0.35)), "lb1", "") == ()


def test_what_is_gone_goes_to_others_as_they_share_the_vip_now() -> None:
    found = picture(
        [node("lb1", web=told(4 * G)), node("lb2", web=told(3 * G)), node("lb3", web=told(1 * G))]
    )
    case = without(found, {"lb1"})
    assert bits(case, "lb2") == pytest.approx(6)
    assert bits(case, "lb3") == pytest.approx(2)


def test_a_backup_gets_nothing_while_another_primary_is_left_and_all_of_the_last() -> None:
    fleet = [
        node("lb1", web=told(2 * G)),
        node("lb2", web=told(1 * G)),
        node("lb3", web=told(0, rank=BACKUP)),
    ]
    found = picture(fleet)
    one, two = without(found, {"lb1"}), without(found, {"lb1", "lb2"})
    assert (bits(one, "lb2"), bits(one, "lb3")) == (3, 0)
    assert not one.nodes["lb3"].takes
    assert bits(two, "lb3") == 3


@pytest.mark.parametrize("standing", [VipStanding.DRAINING, VipStanding.LAST_RESORT])
def test_a_last_resort_gets_traffic_only_where_no_other_path_is_left(standing: VipStanding) -> None:
    fleet = [
        node("lb1", web=told(2 * G)),
        node("lb2", web=told(0, standing)),
        node("lb3", web=told(1 * G, rank=BACKUP)),
    ]
    assert bits(without(picture(fleet), {"lb1"}), "lb3") == 3
    assert bits(without(picture(fleet), {"lb1", "lb3"}), "lb2") == 3


def test_a_node_that_has_withdrawn_a_vip_gets_nothing_of_it_and_the_vip_is_lost() -> None:
    case = without(
        picture([node("lb1", web=told(2 * G)), node("lb2", web=told(0, VipStanding.WITHDRAWN))]), {"lb1"}
    )
    assert bits(case, "lb2") == 0
    assert case.lost.bits == 2 * G


def test_idle_nodes_share_by_the_weights_of_their_paths_where_all_have_one() -> None:
    def fleet(weight: int | None) -> list[Document]:
        return [
            node("lb1", web=told(4 * G)),
            node("lb2", weight=3, web=told(0, rank=BACKUP)),
            node("lb3", weight=weight, web=told(0, rank=BACKUP)),
        ]

    weighed = without(picture(fleet(1)), {"lb1"})
    assert (bits(weighed, "lb2"), bits(weighed, "lb3")) == (3, 1)
    alike = without(picture(fleet(None)), {"lb1"})
    assert (bits(alike, "lb2"), bits(alike, "lb3")) == (2, 2)


def test_small_vips_go_where_each_of_them_goes() -> None:
    """Three of four have a second node; nobody is left for the fourth."""
    small = told(None)
    fleet = [
        node("lb1", rest=4 * G, a=small, b=small, c=small, d=small),
        node("lb2", rest=1 * G, a=small, b=small, c=small),
    ]
    case = without(picture(fleet), {"lb1"})
    assert bits(case, "lb2") == pytest.approx(4)
    assert case.lost.bits == pytest.approx(1 * G)


def test_vips_that_one_node_alone_announces_are_known() -> None:
    fleet = [
        node("lb1", web=told(1 * G), mail=told(1 * G), small=told(None)),
        node("lb2", web=told(1 * G, VipStanding.DRAINING), mail=told(0, VipStanding.WITHDRAWN)),
    ]
    assert alone(picture(fleet)) == {"mail": "lb1", "small": "lb1"}
    assert alone(picture(fleet[:1])) == {}


def test_what_is_of_no_vip_stays_behind() -> None:
    fleet = [node("lb1", extra=2 * G, web=told(1 * G)), node("lb2", extra=1 * G, web=told(1 * G))]
    assert bits(without(picture(fleet), {"lb1"}), "lb2") == 3


def test_connections_are_counted_once_where_tables_are_in_sync() -> None:
    each = VipTold(standing=VipStanding.ANNOUNCED, load=Load(connections=100, packets=10))
    fleet = [
        Document(node=name, version="1", load=each.load, rest=Load(), synced=True, vips={"web": each})
        for name in ("lb1", "lb2")
    ]
    load = without(picture(fleet), {"lb1"}).nodes["lb2"].load
    assert load == Load(connections=100, packets=20)


def test_a_peer_that_does_not_tell_what_a_vip_carries_is_never_taken_for_idle() -> None:
    quiet = replace(node("lb1", web=told(None)), rest=None)
    found = picture([quiet, node("lb2", web=told(2 * G))])
    case = without(found, {"lb1"})
    assert case.nodes["lb2"].unknown == ("lb1",)
    assert words(case, "lb2") == (
        "if lb1 fails now, lb2 would stand at 20% of 10 Gbit/s or more, limit 70% (what lb1 carries is not known)"
    )
    assert too_much(found, "lb1", "") == (
        "without lb1 it is not known how lb2 would stand: what lb1 carries is not known",
    )


def test_a_node_without_its_own_load_is_no_reason_to_believe_it_has_room() -> None:
    quiet = replace(node("lb2", web=told(2 * G)), load=None)
    found = picture([node("lb1", web=told(2 * G)), quiet])
    assert found.is_partial
    case = without(found, {"lb1"})
    assert case.nodes["lb2"].tightest is None
    assert (
        words(case, "lb2")
        == "if lb1 fails now, lb2 would carry more than is known: it does not tell its load"
    )
    assert too_much(found, "lb1", "") == (
        "without lb1 it is not known how lb2 would stand: it does not tell its load",
    )


@pytest.mark.parametrize("nonsense", [float("nan"), float("inf"), -1.0])
def test_loads_that_make_no_sense_are_not_known(nonsense: float) -> None:
    lies = replace(node("lb2", web=told(2 * G)), load=Load(bits=nonsense))
    assert today(picture([lies])).nodes["lb2"].load is None


def test_where_no_capacity_is_configured_nothing_is_refused() -> None:
    found = picture([node("lb1", web=told(4 * G)), node("lb2", None, web=told(4 * G))])
    assert too_much(found, "lb1", "") == ()
    assert words(worst(found, 1)["lb2"], "lb2") == (
        "if lb1 fails now, lb2 would take its part; its capacity is not configured"
    )


def test_the_tightest_of_several_resources_is_told() -> None:
    small = Capacity(bits=10 * G, packets=1000, limit=0.5)
    fleet = [
        Document(
            node=name,
            version="1",
            load=Load(bits=1 * G, packets=400),
            rest=Load(),
            capacity=small,
            vips={"web": VipTold(standing=VipStanding.ANNOUNCED, load=Load(bits=1 * G, packets=400))},
        )
        for name in ("lb1", "lb2")
    ]
    assert words(worst(picture(fleet), 1)["lb1"], "lb1") == (
        "if lb2 fails now, lb1 would stand at 80% of 1k packets/s, limit 50%"
    )
    assert too_much(picture(fleet), "lb2", "") == (
        "without lb2, lb1 would stand at 80% of 1k packets/s, limit 50% (now 40%)",
    )


def test_a_node_over_its_limit_that_gets_no_more_is_no_reason_against_a_drain() -> None:
    fleet = [
        node("lb1", web=told(1 * G)),
        node("lb2", web=told(1 * G)),
        node("lb3", mail=told(9 * G)),
    ]
    assert too_much(picture(fleet), "lb1", "") == ()


def test_one_vip_that_leaves_takes_its_own_traffic_alone() -> None:
    fleet = [node(name, web=told(3 * G), mail=told(1 * G)) for name in ("lb1", "lb2")]
    case = without_vip(picture(fleet), "lb1", "mail")
    assert bits(case, "lb2") == 5
    assert too_much(picture(fleet), "lb1", "mail") == ()
    assert too_much(picture(fleet), "lb1", "web") == ()
    high = [replace(one, capacity=Capacity(bits=10 * G, limit=0.6)) for one in fleet]
    assert too_much(picture(high), "lb1", "web") == (
        "without web on lb1, lb2 would stand at 70% of 10 Gbit/s, limit 60% (now 40%)",
    )
    assert too_much(picture(high), "lb1", "no such VIP") == ()


def test_a_small_vip_takes_its_part_of_the_rest() -> None:
    small = told(None)
    fleet = [node("lb1", rest=4 * G, a=small, b=small), node("lb2", rest=0, a=small, b=small)]
    assert bits(without_vip(picture(fleet), "lb1", "a"), "lb2") == pytest.approx(2)


def test_with_two_nodes_less_the_worst_two_are_gone() -> None:
    fleet = [node(f"lb{n}", web=told(n * G)) for n in (1, 2, 3, 4)]
    case = worst(picture(fleet), 2)["lb1"]
    # All of 10 on lb1 and lb2, as 1 to 2, and 1 to 3, and 1 to 4: the most is left to lb1 with lb2.
    assert case.gone == ("lb3", "lb4")
    assert bits(case, "lb1") == pytest.approx(10 / 3)
    assert worst(picture(fleet), 4) == {}


def test_in_a_large_fleet_those_are_gone_that_give_it_the_most() -> None:
    fleet = [node(f"lb{n:02}", web=told(n * G)) for n in range(1, 25)]
    assert MOST_CASES < 24 * 23 / 2
    assert worst(picture(fleet), 2)["lb01"].gone == ("lb23", "lb24")


def test_shares_are_those_that_are_measured() -> None:
    fleet = [node("lb1", web=told(3 * G), mail=told(0)), node("lb2", web=told(1 * G), mail=told(4 * G))]
    assert shares(picture(fleet), "web") == {"lb1": 0.75, "lb2": 0.25}
    assert shares(picture(fleet)) == {"lb1": 0.375, "lb2": 0.625}
    assert shares(picture(fleet), "no such VIP") == {}
    assert shares(picture([replace(one, rest=None, vips={"web": told(None)}) for one in fleet])) == {}


FLEET = Fleet(peers=(PeerAt(name="lb2"), PeerAt(name="lb3")))
LOST = "no answer"


def heard(*documents: Document, at: float = 100.0, problem: str = "") -> dict[str, Peer]:
    since = at + 1 if problem else None
    return {
        one.node: Peer(name=one.node, document=one, heard=at, problem=problem, problem_since=since)
        for one in documents
    }


def seen(own: Document, *peers: Mapping[str, Peer], now: float) -> Picture:
    every = {name: one for some in peers for name, one in some.items()}
    return pictured(own, believe(View(peers=every), FLEET, now), now)


def three(*bits_each: float) -> list[Document]:
    names = ("lb1", "lb2", "lb3")
    return [
        replace(node(name, web=told(each)), fleet=names) for name, each in zip(names, bits_each, strict=True)
    ]


def test_the_figure_is_right_with_the_event_that_a_node_is_gone() -> None:
    """No rate has had the time to follow: what the node carried counts where it goes at once, and once only."""
    lb1, lb2, lb3 = three(2 * G, 2 * G, 2 * G)
    whole = seen(lb1, heard(lb2, lb3), now=100.0)
    assert bits(worst(whole, 1)["lb1"], "lb1") == pytest.approx(3)
    gone = 100.0 + PATIENCE[Source.PEERS] + 0.01
    event = seen(lb1, heard(lb2, at=gone), heard(lb3, problem=LOST), now=gone)
    assert event.names == ("lb1", "lb2")
    assert not event.is_partial
    # It was heard 3 s ago, so 3 of the 10 seconds of a rate are after it.
    assert bits(today(event), "lb1") == pytest.approx(2 + 0.7, rel=0.01)
    assert shares(event) == {"lb1": 0.5, "lb2": 0.5}
    # With rates that have followed so far it is what it will be, from the event on, and at any time later.
    for after in (3.01, 5.0, 9.9, 11.0, 60.0):
        part = min(1.0, after / MEASURED)
        mine, other, _ = three((2 + part) * G, (2 + part) * G, 0)
        later = seen(mine, heard(other, at=100 + after), heard(lb3, problem=LOST), now=100 + after)
        case = worst(later, 1)["lb1"]
        assert words(case, "lb1") == "if lb2 fails now, lb1 would stand at 60% of 10 Gbit/s, limit 70%"


def test_the_figures_are_not_whole_while_another_node_hears_one_that_is_gone_from_here() -> None:
    lb1, lb2, lb3 = three(2 * G, 2 * G, 2 * G)
    for hears, silent in ((("lb1", "lb3"), ("lb3",)), (("lb1",), ())):
        peers = heard(replace(lb2, hears=hears), at=120.0), heard(lb3, problem=LOST)
        found = seen(lb1, *peers, now=120.0)
        assert found.silent == silent
        assert found.is_partial == bool(silent)
        assert found.names == ("lb1", "lb2")
        assert bits(today(found), "lb1") == 2


def test_a_node_that_nobody_asks_is_not_taken_for_gone() -> None:
    lb1, lb2, lb3 = three(2 * G, 2 * G, 2 * G)
    found = seen(lb1, heard(lb2, at=200.0), heard(lb3, at=100.0), now=200.0)
    assert found.silent == ("lb3",)
    assert found.is_partial
    never = seen(lb1, {}, now=100.0)
    assert never.silent == ("lb2", "lb3")
    assert worst(never, 1) == {}


def test_a_document_counts_under_the_name_by_which_its_node_is_known() -> None:
    lb1, lb2, lb3 = three(2 * G, 2 * G, 2 * G)
    liar = heard(lb2) | {"lb3": replace(heard(lb3)["lb3"], document=replace(lb3, node="lb1"))}
    assert seen(lb1, liar, now=100.0).names == ("lb1", "lb2", "lb3")


def test_a_drain_is_refused_by_what_is_believed() -> None:
    lb1, lb2, _ = three(4.5 * G, 4.5 * G, 0)
    two = replace(FLEET, peers=FLEET.peers[:1])
    assert refusal(lb1, View(peers=heard(lb2)), two, "", 100.0) == (
        "without lb1, lb2 would stand at 90% of 10 Gbit/s, limit 70% (now 45%)",
    )
    assert refusal(lb1, View(peers=heard(lb2)), two, "web", 100.0) == (
        "without web on lb1, lb2 would stand at 90% of 10 Gbit/s, limit 70% (now 45%)",
    )


def test_a_vip_by_itself_has_a_worst_case_too() -> None:
    fleet = [node(name, web=told(3 * G), mail=told(1 * G), small=told(None)) for name in ("lb1", "lb2")]
    found = worst_of_vip(picture(fleet), "web")
    assert found is not None
    assert (found.figure.load, found.figure.share) == (6 * G, 0.6)
    small = worst_of_vip(picture([replace(one, rest=of(1 * G)) for one in fleet]), "small")
    assert small is not None
    assert small.figure.load == 2 * G
    assert worst_of_vip(picture(fleet), "no such VIP") is None
    assert worst_of_vip(picture([replace(one, capacity=None) for one in fleet]), "web") is None


def test_quantities_have_their_units() -> None:
    assert [quantity(each, 50_000) for each in Resource] == [
        "50k packets/s",
        "50 kbit/s",
        "50k new connections/s",
        "50k connections",
    ]
