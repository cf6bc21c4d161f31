"""What the plugin makes of what routers send: counted, bounded, told as differences."""

from __future__ import annotations

import json
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.core.values.route import Prefix, Route, Variant
from anycast.core.values.sight import RouterView, Sight, ViewChange
from anycast.plugin import codec
from anycast.plugin.view import ALL_PATHS, LONGEST, PATHS, QUIET, ROWS, View
from tests.unit.plugin.test_plan import Exchange

A, B = ip_network("192.0.2.1/32"), ip_network("192.0.2.2/32")
R, S = "192.0.2.254", "192.0.2.253"
MINE, LB2, LB3 = (65001, 1179, 1), (65001, 1179, 2), (65003, 1179, 3)


def update(
    *paths: tuple[Prefix | str, str],
    gone: tuple[tuple[Prefix | str, str], ...] = (),
    mark: codec.Update | tuple[int, int, int] | None = None,
    last: bool = False,
    router: str = R,
) -> codec.Update:
    return codec.Update(
        router,
        tuple((str(prefix), number) for prefix, number in paths),
        tuple((str(prefix), number) for prefix, number in gone),
        (mark,) if isinstance(mark, tuple) else (),
        last,
    )


class Node(Exchange):
    """A planner with a view, and what the agent has been told."""

    def __init__(self, *, mark: tuple[int, int, int] | None = MINE, own: tuple[Prefix, ...] = (A, B)) -> None:
        super().__init__(own=own)
        self.plan = type(self.plan)(own=own, mark=mark, now=self.now)
        self.of_paths = mark
        self.views: dict[str, RouterView] = {}
        self.sights: dict[tuple[str, Prefix], Sight] = {}
        self.rows: list[int] = []

    def up(self, router: str = R, *, add_path: tuple[int, ...] = (4, 6)) -> Node:
        self.plan.line(codec.Negotiated(router, (4, 6), add_path), self.now)
        self.plan.line(codec.NeighborEvent(router, "up", ""), self.now)
        self.settle()
        return self

    def ended(self, router: str = R) -> Node:
        """All has come."""
        for family in (4, 6):
            self.plan.line(codec.Update(router, end=family), self.now)
        self.wait(QUIET + 0.5)
        self.settle()
        return self

    def told(self, router: str = R, prefix: Prefix = A) -> Sight:
        self.plan.tick(self.now)
        while (change := self.plan.view()) is not None:
            self.take(change)
        return self.sights.get((router, prefix), Sight(prefix=prefix))

    def take(self, change: ViewChange) -> None:
        numbers = {one.neighbor: one.number for one in change.views}
        for key in list(self.sights):
            known = self.views.get(key[0])
            if change.first or known is None or numbers.get(key[0]) != known.number:
                del self.sights[key]
        self.views = {one.neighbor: one for one in change.views}
        self.rows.append(sum(len(some) for _, some in change.sights))
        for router, some in change.sights:
            for one in some:
                if one.is_empty:
                    self.sights.pop((router, one.prefix), None)
                else:
                    self.sights[router, one.prefix] = one


def announcing(*routes: Route) -> Node:
    node = Node()
    node.started()
    node.up().ended()
    node.lease(*(routes or (Route(prefix=A),)))
    node.settle()
    return node


def test_the_own_path_and_those_of_others_are_told_apart_by_the_mark() -> None:
    node = announcing()
    node.plan.line(update((A, "0.0.0.2"), mark=MINE), node.now)
    node.plan.line(update((A, "0.0.0.3"), mark=LB2), node.now)
    node.plan.line(update((A, "0.0.0.4"), mark=LB3, last=True), node.now)
    assert node.told() == Sight(prefix=A, mine=node.now, others=2, last_resort=1)
    assert node.views[R].echoes


def test_another_nodes_path_that_takes_over_an_identifier_is_that_nodes() -> None:
    node = announcing()
    node.plan.line(update((A, "0.0.0.2"), mark=MINE), node.now)
    node.told()
    node.plan.line(update((A, "0.0.0.2"), mark=LB2), node.now)
    assert node.told() == Sight(prefix=A, missing=node.now, others=1)


def test_a_node_whose_paths_are_not_all_the_last_resort_is_not_one() -> None:
    node = announcing()
    node.plan.line(update((A, "0.0.0.2"), mark=LB2, last=True), node.now)
    node.plan.line(update((A, "0.0.0.3"), mark=LB2), node.now)
    told = node.told()
    assert (told.others, told.last_resort) == (1, 0)


def test_what_is_announced_and_does_not_come_back_is_missing_from_its_acknowledgement_on() -> None:
    node = announcing()
    began = node.now
    assert node.told().missing == began
    node.wait(3.0)
    assert node.told().missing == began
    node.plan.line(update((A, "0.0.0.2"), mark=MINE), node.now)
    assert node.told() == Sight(prefix=A, mine=node.now)
    node.wait(1.0)
    node.plan.line(update(gone=((A, "0.0.0.2"),)), node.now)
    assert node.told() == Sight(prefix=A, missing=node.now)


def test_what_is_not_announced_there_is_not_missing() -> None:
    only = Route(prefix=A)
    node = announcing(Route(prefix=A, variants=(Variant(neighbors=(S,), route=only),)), Route(prefix=B))
    assert node.told().missing is None
    assert node.told(prefix=B).missing is not None
    node.lease()
    node.settle()
    assert node.told(prefix=B).missing is None


def test_what_exabgp_has_not_acknowledged_is_not_missing() -> None:
    node = announcing()
    node.lease(Route(prefix=A, med=1))
    node.commands()
    assert node.told().missing is None
    node.done()
    assert node.told().missing == node.now


def test_a_session_of_the_other_family_lacks_nothing() -> None:
    node = Node()
    node.started()
    node.plan.line(codec.Negotiated(R, (6,), (6,)), node.now)
    node.plan.line(codec.NeighborEvent(R, "up", ""), node.now)
    node.plan.line(codec.Update(R, end=6), node.now)
    node.lease(Route(prefix=A))
    node.wait(QUIET + 1)
    node.settle()
    assert node.told().missing is None
    assert node.views[R].complete is not None


def test_nothing_is_missing_before_all_has_come() -> None:
    node = Node()
    node.started()
    node.lease(Route(prefix=A))
    node.up()
    node.settle()
    for _ in range(5):
        node.wait(QUIET / 2)
        node.plan.line(update((B, "0.0.0.2"), mark=LB2), node.now)
    assert node.told().missing is None
    assert node.views[R].complete is None
    node.wait(QUIET + 0.5)
    assert node.told().missing == node.views[R].complete


def test_a_router_that_never_stops_sending_has_sent_all_after_a_minute() -> None:
    node = Node()
    node.started()
    node.up()
    for n in range(int(LONGEST) + 1):
        node.wait(1.0)
        node.plan.line(update((B, f"0.0.0.{n}"), mark=LB2), node.now)
    node.told()
    assert node.views[R].complete is not None


def test_a_router_without_an_end_of_rib_has_sent_all_after_a_while() -> None:
    node = Node()
    node.started()
    node.up()
    node.wait(2.5)
    node.told()
    assert node.views[R].complete is None, "it may send one yet"
    node.wait(1.0)
    node.told()
    assert node.views[R].complete is not None


def test_the_end_of_a_session_ends_all_that_is_known() -> None:
    node = announcing()
    node.plan.line(update((A, "0.0.0.2"), mark=MINE), node.now)
    node.told()
    node.plan.line(codec.NeighborEvent(R, "down", "peer reset"), node.now)
    assert node.told() == Sight(prefix=A)
    assert node.views[R].since is None
    node.up()
    assert node.told() == Sight(prefix=A)
    assert (node.views[R].since, node.views[R].echoes) == (node.now, False)


def test_a_session_that_was_up_before_the_plugin_is_not_known_from_its_beginning() -> None:
    node = Node()
    node.started()
    node.lease(Route(prefix=A))
    node.settle()
    node.wait(LONGEST + 1)
    assert node.told().missing is None
    assert (node.views[R].since, node.views[R].complete) == (None, None)
    node.plan.line(update((A, "0.0.0.2"), mark=MINE), node.now)
    assert node.told().mine == node.now, "what comes is true all the same"


def test_the_mark_of_a_lease_counts_and_what_came_before_it_is_not_known_any_more() -> None:
    """An agent that is reloaded says which it is: ExaBGP's command line is as old as its plugin."""
    node = announcing()
    node.plan.line(update((A, "0.0.0.2"), mark=MINE), node.now)
    assert node.told().mine is not None
    node.of_paths = other = (65001, 1180, 1)
    node.lease(Route(prefix=A, large_communities=("65001:1180:1",)))
    node.settle()
    assert node.told() == Sight(prefix=A)
    assert node.views[R].since is None
    node.plan.line(update((A, "0.0.0.2"), mark=MINE), node.now)
    assert (node.told().mine, node.told().unmarked) == (None, 1)
    node.plan.line(update((A, "0.0.0.2"), mark=other), node.now)
    assert node.told() == Sight(prefix=A, mine=node.now)
    node.of_paths = None
    node.lease(Route(prefix=A))
    assert node.plan.view() is None


def test_prefixes_of_others_are_counted_and_dropped() -> None:
    node = announcing()
    node.plan.line(
        update(("198.51.100.0/24", "0.0.0.1"), ("198.51.100.7/32", "0.0.0.1"), ("rubbish/32", "")), node.now
    )
    node.told()
    assert (node.views[R].paths, node.views[R].dropped) == (0, 3)


def test_a_vip_that_comes_later_may_have_more_others_than_are_known() -> None:
    node = announcing()
    new = ip_network("192.0.2.9/32")
    node.plan.line(update((new, "0.0.0.1"), mark=LB2), node.now)
    node.lease(Route(prefix=A), owned=(A, B, new))
    node.plan.line(update((new, "0.0.0.2"), mark=LB3), node.now)
    told = node.told(prefix=new)
    assert (told.others, told.partial) == (1, True)


def test_a_vip_that_goes_takes_its_paths_along() -> None:
    node = Node(own=(A,))
    node.started()
    node.lease(Route(prefix=A), Route(prefix=B), owned=(A, B))
    node.settle()
    node.up().ended()
    node.plan.line(update((B, "0.0.0.2"), mark=LB2), node.now)
    assert node.told(prefix=B).others == 1
    node.lease(Route(prefix=A), owned=(A,))
    node.settle()
    assert node.told(prefix=B) == Sight(prefix=B)
    assert node.views[R].paths == 0


def test_paths_without_a_mark_count_and_make_the_own_one_doubtful() -> None:
    node = announcing()
    node.plan.line(update((A, "0.0.0.2")), node.now)
    node.plan.line(update((A, "0.0.0.3"), mark=(65001, 7, 1)), node.now)
    assert node.told() == Sight(prefix=A, others=2, unmarked=2)


def test_a_flood_of_paths_is_bounded_and_then_nothing_is_missing() -> None:
    node = announcing()
    for n in range(PATHS + 10):
        node.plan.line(update((B, str(n)), mark=LB2), node.now)
    node.told()
    assert (node.views[R].paths, node.views[R].dropped, node.views[R].full) == (PATHS, 10, True)
    node.lease(Route(prefix=A, med=1))
    node.settle()
    assert node.told().missing is None


def test_all_paths_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ALL_PATHS >= 16 * 5000 * 2
    monkeypatch.setattr("anycast.plugin.view.ALL_PATHS", 5)
    node = announcing()
    for n in range(7):
        node.plan.line(update((B, str(n)), mark=LB2), node.now)
    node.told()
    assert (node.views[R].paths, node.views[R].full) == (5, True)
    node.plan.line(codec.NeighborEvent(R, "down", ""), node.now)
    node.up()
    node.plan.line(update((B, "1"), mark=LB2), node.now)
    assert node.told(prefix=B).others == 1, "what went has made room"


def test_marks_that_nobody_can_count_are_taken_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anycast.plugin.view.OWNERS", 3)
    node = announcing()
    for n in range(5):
        node.plan.line(update((A, str(n)), mark=(65001, 1179, 100 + n)), node.now)
    told = node.told()
    assert (told.others, told.unmarked) == (5, 3)


def test_a_message_names_a_bounded_number_of_prefixes_and_a_new_connection_gets_all() -> None:
    many = tuple(ip_network(f"203.0.{n // 250}.{n % 250}/32") for n in range(2 * ROWS + 5))
    node = Node(own=many)
    node.started()
    node.up().ended()
    node.plan.line(update(*((one, "0.0.0.2") for one in many), mark=LB2), node.now)
    node.told()
    assert node.rows[-3:] == [ROWS, ROWS, 5]
    assert len(node.sights) == len(many)
    node.told()
    assert node.rows[-3:] == [ROWS, ROWS, 5], "at rest nothing is told"
    node.plan.connected()
    node.sights.clear()
    node.told()
    assert len(node.sights) == len(many)


def test_without_a_mark_nothing_is_kept_and_nothing_is_told() -> None:
    node = Node(mark=None)
    node.started()
    node.up()
    node.plan.line(update((A, "0.0.0.2"), mark=MINE), node.now)
    node.wait(10.0)
    assert node.plan.view() is None


def test_a_neighbor_that_exabgp_has_no_more_is_forgotten() -> None:
    node = announcing()
    node.plan.line(codec.NeighborEvent(S, "connected", ""), node.now)
    node.up(S)
    node.table = codec.NeighborTable((codec.NeighborRow(R, True, 1.0), codec.NeighborRow(S, True, 1.0)))
    node.wait(20.0)
    node.settle()
    node.told()
    assert set(node.views) == {R, S}
    node.table = codec.NeighborTable((codec.NeighborRow(R, True, 1.0),))
    node.wait(20.0)
    node.settle()
    node.told()
    assert set(node.views) == {R}


_PREFIXES = tuple(ip_network(f"192.0.2.{n}/32") for n in range(1, 4))
_STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("+"),
            st.sampled_from(_PREFIXES),
            st.integers(0, 4),
            st.sampled_from([MINE, LB2, LB3, None]),
            st.booleans(),
        ),
        st.tuples(st.just("-"), st.sampled_from(_PREFIXES), st.integers(0, 4)),
        st.tuples(st.just("reset")),
    ),
    max_size=60,
)


@given(_STEPS)
def test_whatever_comes_and_goes_the_counts_are_those_of_what_stands(steps: list[tuple[Any, ...]]) -> None:
    view = View(MINE, lambda prefix: prefix in _PREFIXES, lambda *_: False)
    stands: dict[tuple[Prefix, int], tuple[Any, bool]] = {}
    now = 0.0
    view.session(R, up=True, now=now)
    for step in steps:
        now += 1.0
        match step:
            case ("+", prefix, number, mark, last):
                stands[prefix, number] = mark, last
                view.update(update((prefix, str(number)), mark=mark, last=last), now)
            case ("-", prefix, number):
                stands.pop((prefix, number), None)
                view.update(update(gone=((prefix, str(number)),)), now)
            case _:
                stands.clear()
                view.session(R, up=False, now=now)
                view.session(R, up=True, now=now)
    view.tick(now, _PREFIXES)
    change = view.change()
    assert change.views[0].paths == len(stands)
    told = {one.prefix: one for _, some in change.sights for one in some if not one.is_empty}
    for prefix in _PREFIXES:
        paths = [found for (at, _), found in stands.items() if at == prefix]
        owners = {mark for mark, _ in paths if mark not in (None, MINE)}
        unmarked = sum(mark is None for mark, _ in paths)
        last = {mark for mark in owners if all(one for of, one in paths if of == mark)}
        one = told.get(prefix, Sight(prefix=prefix))
        assert one.others == len(owners) + unmarked
        assert one.last_resort == len(last) + sum(one for mark, one in paths if mark is None)
        assert (one.mine is not None) == any(mark == MINE for mark, _ in paths)


# What ExaBGP 5.0.15 writes.

_HEAD = (
    '{ "exabgp": "5.0.0", "time": 1.0, "host" : "lb1", "pid" : 1, "ppid" : 1, "counter": 3, "type": "%s", '
)
_PEER = '"neighbor": { "address": { "local": "10.0.0.11", "peer": "10.0.0.1" }, "asn": { "local": 65001, "peer": 65000 }'


def line(kind: str, content: str) -> codec.Line:
    text = f'{_HEAD % kind}{_PEER}, "router-id": "10.0.0.11" , "direction": "receive", {content} }} }}'
    json.loads(text)
    return codec.parse(text.encode())


def test_an_update_is_read() -> None:
    found = line(
        "update",
        '"message": { "update": { "attribute": { "origin": "igp", "as-path": { "0": { "element": "as-sequence", '
        '"value": [ 65000, 65001 ] } }, "confederation-path": {}, "community": [ [ 65535, 0 ] ], '
        '"large-community": [ [ 65001, 1179 , 167772171 ] ] }, "announce": { "ipv4 unicast": { "10.0.0.1": [ { "nlri": '
        '"203.0.113.7/32", "path-information": "0.0.0.2" } ] }, "ipv6 unicast": { "fd00::1": [ { "nlri": "fd00:9::1/128" } '
        '] } }, "withdraw": { "ipv4 unicast": [ { "nlri": "203.0.113.8/32", "path-information": "0.0.0.3" } ] } } }',
    )
    assert found == codec.Update(
        "10.0.0.1",
        (("203.0.113.7/32", "0.0.0.2"), ("fd00:9::1/128", "")),
        (("203.0.113.8/32", "0.0.0.3"),),
        ((65001, 1179, 167772171),),
        last_resort=True,
    )


def test_the_end_of_what_a_router_has_is_read() -> None:
    assert line("update", '"message": { "eor": { "afi" : "ipv6", "safi" : "unicast" } }') == codec.Update(
        "10.0.0.1", end=6
    )


def test_what_a_session_carries_is_read() -> None:
    found = line(
        "negotiated",
        '"negotiated": { "message_size": 4096, "families": ["ipv4 unicast", "ipv6 unicast"], "add_path": {"send": [], '
        '"receive": ["ipv4 unicast"]} } ',
    )
    assert found == codec.Negotiated("10.0.0.1", (4, 6), (4,))


def test_the_bytes_of_an_update_are_passed_over() -> None:
    assert line("update", '"message": { "category": 2, "header": "0xFF", "body": "0x00" } ') == codec.Other(
        "", event=True
    )


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda s: (
            st.lists(s, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "update",
                        "announce",
                        "withdraw",
                        "ipv4 unicast",
                        "attribute",
                        "community",
                        "large-community",
                        "nlri",
                        "eor",
                        "afi",
                    ]
                ),
                s,
                max_size=4,
            )
        ),
    )
)
def test_whatever_stands_in_an_update_is_read_without_an_error(message: Any) -> None:
    text = json.dumps({"type": "update", "neighbor": {"address": {"peer": R}, "message": message}})
    found = codec.parse(text.encode())
    assert isinstance(found, codec.Update | codec.Other)


def test_paths_of_a_prefix_that_is_wider_than_a_host_route_are_counted_and_no_others_of_its_length() -> None:
    wide, other = ip_network("192.0.2.0/24"), ip_network("198.51.100.0/24")
    node = Node(own=(wide,))
    node.started()
    node.up()
    node.plan.line(
        update((wide, "0.0.0.2"), (other, "0.0.0.3"), (ip_network("198.51.0.0/16"), "0.0.0.4"), mark=LB2),
        node.now,
    )
    node.ended()
    assert node.told(prefix=wide).others == 1
    assert node.views[R].dropped == 2


def test_those_of_one_that_a_lease_brings_are_counted_too() -> None:
    wide = ip_network("192.0.2.0/23")
    node = announcing(Route(prefix=wide))
    node.plan.line(update((wide, "0.0.0.2"), mark=MINE), node.now)
    assert node.told(prefix=wide).mine == node.now
