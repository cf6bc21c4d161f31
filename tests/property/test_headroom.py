"""Whoever fails: no traffic vanishes, more of it never leaves more room, and the order in which things are told does not count."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.core.fleet.headroom import (
    Case,
    Resource,
    picture,
    too_much,
    without,
    without_vip,
    worst,
)
from anycast.core.fleet.values import Capacity, Document, Load, VipStanding, VipTold

NODES = ("lb1", "lb2", "lb3", "lb4")
VIPS = ("web", "mail", "dns", "ntp")
CAPACITY = Capacity(packets=1e6, bits=10e9, new_connections=5e4, connections=2e6)

amounts = st.floats(0, 1e6)
loads = st.builds(Load, packets=amounts, bits=amounts, new_connections=amounts, connections=amounts)
vips = st.builds(
    VipTold,
    standing=st.sampled_from(VipStanding),
    load=st.none() | loads,
    rank=st.tuples(st.integers(-2, 0), st.integers(0, 2)),
)
documents = st.builds(
    Document,
    node=st.just(""),
    version=st.just("1"),
    load=loads,
    rest=loads,
    capacity=st.just(CAPACITY),
    weight=st.none() | st.integers(1, 3),
    vips=st.dictionaries(st.sampled_from(VIPS), vips),
)


def _named(found: list[Document]) -> list[Document]:
    """Routers go by weights where all paths have one."""
    weighed = all(one.weight is not None for one in found)
    return [
        replace(one, node=name, weight=one.weight if weighed else None)
        for one, name in zip(found, NODES, strict=False)
    ]


fleets = st.lists(documents, min_size=2, max_size=len(NODES)).map(_named)


def carried(document: Document) -> Load:
    """What its VIPs carry together."""
    each = [one.load for one in document.vips.values() if one.load is not None]
    return Load(**{of: sum(getattr(one, of) for one in [*each, document.rest]) for of in Resource})


def came(case: Case, resource: Resource) -> float:
    return float(
        sum(getattr(one.load, resource) - getattr(one.before, resource) for one in case.nodes.values())
    )


@given(fleets, st.data())
def test_what_the_gone_carried_is_all_on_those_that_remain_or_told_as_lost(
    fleet: list[Document], data: st.DataObject
) -> None:
    gone = data.draw(st.sets(st.sampled_from([one.node for one in fleet])))
    case = without(picture(fleet), gone)
    assert case.nodes.keys() == {one.node for one in fleet} - gone
    for resource in Resource:
        went = sum(getattr(carried(one), resource) for one in fleet if one.node in gone)
        arrived = came(case, resource) + getattr(case.lost, resource)
        assert arrived == pytest.approx(went, rel=1e-6, abs=1e-3)


@given(fleets, st.data())
def test_what_a_vip_carried_on_a_node_is_all_on_others_or_lost(
    fleet: list[Document], data: st.DataObject
) -> None:
    node = data.draw(st.sampled_from(fleet))
    vip = data.draw(st.sampled_from(VIPS))
    case = without_vip(picture(fleet), node.node, vip)
    told = node.vips.get(vip)
    if told is None or told.load is None:
        return
    for resource in Resource:
        arrived = came(case, resource) + getattr(case.lost, resource)
        assert arrived == pytest.approx(getattr(told.load, resource), rel=1e-6, abs=1e-3)


def grown(document: Document, vip: str, factor: float) -> Document:
    told = document.vips[vip]
    assert told.load is not None
    more = Load(**{of: factor * getattr(told.load, of) for of in Resource})
    assert document.load is not None
    whole = Load(
        **{of: getattr(document.load, of) + getattr(more, of) - getattr(told.load, of) for of in Resource}
    )
    return replace(document, load=whole, vips={**document.vips, vip: replace(told, load=more)})


@given(fleets, st.floats(1, 10), st.data())
def test_more_load_on_a_node_or_on_those_that_fail_never_gives_it_more_room(
    fleet: list[Document], factor: float, data: st.DataObject
) -> None:
    own, failing = fleet[0], fleet[1]
    grows = data.draw(st.sampled_from([own, failing]))
    named = [name for name, one in grows.vips.items() if one.load is not None]
    if not named:
        return
    more = grown(grows, data.draw(st.sampled_from(named)), factor)
    before = without(picture(fleet), {failing.node}).nodes[own.node]
    after = without(picture([more if one is grows else one for one in fleet]), {failing.node}).nodes[own.node]
    for was, now in zip(before.figures, after.figures, strict=True):
        assert now.left <= was.left + 1e-9


@given(fleets, st.data())
def test_more_nodes_gone_leave_no_room_that_fewer_do_not(fleet: list[Document], data: st.DataObject) -> None:
    found = picture(fleet)
    names = [one.node for one in fleet[1:]]
    gone = data.draw(st.lists(st.sampled_from(names), unique=True))
    fewer, more = (without(found, some).nodes[fleet[0].node] for some in (gone[1:], gone))
    for was, now in zip(fewer.figures, more.figures, strict=True):
        # Whoever was a better path is gone, and whoever shared leaves its part to the others.
        assert now.load >= was.load - 1e-6 * max(1.0, was.load)


@given(fleets, st.randoms(use_true_random=False))
def test_the_order_in_which_nodes_and_vips_are_told_does_not_count(
    fleet: list[Document], chance: random.Random
) -> None:
    def shuffled(items: Collection[Document]) -> list[Document]:
        return chance.sample(list(items), len(items))

    mixed = [
        replace(one, vips=dict(chance.sample(list(one.vips.items()), len(one.vips))))
        for one in shuffled(fleet)
    ]
    for less in (1, 2):
        assert worst(picture(fleet), less) == worst(picture(mixed), less)
    for scope in ("", *VIPS):
        assert too_much(picture(fleet), "lb1", scope) == too_much(picture(mixed), "lb1", scope)


@given(fleets)
def test_the_worst_of_all_cases_is_no_better_than_any(fleet: list[Document]) -> None:
    found = picture(fleet)
    for name, case in worst(found, 1).items():
        tightest = case.nodes[name].tightest
        assert tightest is not None
        for other in fleet:
            if other.node != name:
                one = without(found, {other.node}).nodes[name].tightest
                assert one is not None
                assert one.share <= tightest.share
