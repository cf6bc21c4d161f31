"""What routers have of the VIPs: an alarm where it is proven that they have not, and a reason where it is not known."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anycast.core import events as ev
from anycast.core import view
from anycast.core.state import State
from anycast.core.values.configuration import Neighbor
from anycast.core.values.report import NeighborState, Report
from anycast.core.values.route import Prefix
from anycast.core.values.sight import RouterView, Sight, ViewChange
from anycast.core.values.software import Daemon, Software
from anycast.core.values.standing import Condition
from anycast.core.view import PATIENCE, SLICE, At, Doubt, Receipt
from tests.fakes import Node, up

PREFIX = ip_network("192.0.2.1/32")
FRR, BIRD, GOBGP = (Software(daemon=daemon) for daemon in (Daemon.FRR, Daemon.BIRD, Daemon.GOBGP))
ALARM = Condition.ADVERTISED_BUT_NOT_RECEIVED


def router(node: Node) -> Neighbor:
    return node.state.config.bgp.neighbors[0]


def viewed(software: Software | None = FRR, *, view: bool = True) -> Node:
    """A node that announces, with a router that sends back what it has."""
    node = up()
    reload(node, view=view, software=software)
    report(node)
    return node


def reload(node: Node, **changes: object) -> None:
    """Of the router."""
    bgp = node.state.config.bgp
    neighbor = replace(bgp.neighbors[0], **changes)  # type: ignore[arg-type]
    changed = replace(node.state.config, bgp=replace(bgp, neighbors=(neighbor,)))
    node.send(ev.Reconfigured(config=changed))


def report(node: Node, state: str = "up", **fields: object) -> None:
    one = NeighborState(address=str(router(node).address), state=state, changed=0.0)
    assert node.lease is not None
    said = Report(seq=node.lease.seq, announced=frozenset(node.routes), neighbors=(one,))
    node.send(ev.PluginReported(source=1, report=replace(said, **fields)))  # type: ignore[arg-type]


def sees(node: Node, *sights: Sight, first: bool = False, source: int = 1, **fields: object) -> None:
    known = RouterView(
        neighbor=str(router(node).address),
        number=1,
        up=True,
        since=900.0,
        complete=901.0,
        add_path=(4, 6),
    )
    one = replace(known, **fields)  # type: ignore[arg-type]
    change = ViewChange(views=(one,), sights=((one.neighbor, sights),) if sights else (), first=first)
    node.send(ev.PluginSaw(source=source, change=change))


def at(node: Node, prefix: Prefix = PREFIX) -> At:
    return view.at(node.state, router(node), prefix)


def alarms(state: State) -> list[str]:
    return [about for kind, about in state.standing if kind is ALARM]


def missing(node: Node, *, others: int = 0, unmarked: int = 0) -> Sight:
    return Sight(prefix=PREFIX, missing=node.now, others=others, unmarked=unmarked)


def test_a_path_that_is_there_is_received_since_then_and_the_others_are_counted() -> None:
    node = viewed()
    sees(node, Sight(prefix=PREFIX, mine=node.now, others=3, last_resort=1), echoes=True)
    assert at(node) == At(receipt=Receipt.RECEIVED, since=node.now, others=3, last_resort=1)


def test_what_does_not_come_back_is_an_alarm_within_five_seconds_and_until_it_does() -> None:
    node = viewed()
    began = node.now
    sees(node, missing(node, others=2))
    assert at(node).receipt is Receipt.AWAITED
    node.wait(PATIENCE - 0.1)
    assert (at(node).receipt, alarms(node.state)) == (Receipt.AWAITED, [])
    node.wait(0.5)
    assert node.now - began <= 5.0
    assert at(node) == At(receipt=Receipt.NOT_RECEIVED, since=began, others=2, last_resort=0)
    assert alarms(node.state) == [str(router(node).address)]
    (told,) = node.events("route.not_received")
    assert told.fields == {"prefix": str(PREFIX), "neighbor": str(router(node).address), "seconds": PATIENCE}
    text = node.state.standing[ALARM, str(router(node).address)].text
    assert text.startswith(f"router {router(node).address} does not have web (192.0.2.1): ")
    assert [one.fields["kind"] for one in node.events("condition.began")] == [ALARM]
    sees(node, Sight(prefix=PREFIX, mine=node.now))
    assert alarms(node.state) == []
    assert [one.fields["prefix"] for one in node.events("route.received")] == [str(PREFIX)]
    assert [one.fields["kind"] for one in node.events("condition.ended")] == [ALARM]


def test_an_alarm_changes_no_verdict_and_no_route() -> None:
    node = viewed()
    verdict, routes = node.state.vips["web"], dict(node.state.lease.routes or {})
    sees(node, missing(node))
    node.wait(10)
    assert alarms(node.state)
    assert (node.state.vips["web"], dict(node.state.lease.routes or {})) == (verdict, routes)


def test_a_short_absence_is_no_alarm() -> None:
    node = viewed()
    sees(node, missing(node))
    node.wait(2)
    sees(node, Sight(prefix=PREFIX, mine=node.now))
    node.wait(10)
    assert (alarms(node.state), node.events("route.not_received")) == ([], [])


def test_what_is_withdrawn_is_no_alarm_any_more_and_has_not_come_back() -> None:
    node = viewed()
    sees(node, missing(node))
    node.wait(6)
    assert alarms(node.state)
    sees(node, Sight(prefix=PREFIX))
    assert (alarms(node.state), node.events("route.received")) == ([], [])
    assert at(node).receipt is Receipt.NOT_ANNOUNCED


@pytest.mark.parametrize(
    ("software", "fields", "doubt"),
    [
        (BIRD, {}, Doubt.NEVER_OWN),
        (GOBGP, {}, Doubt.NEVER_OWN),
        (None, {}, Doubt.SOFTWARE_UNKNOWN),
        (FRR, {"add_path": (6,)}, Doubt.NO_ADD_PATH),
        (FRR, {"complete": None}, Doubt.ARRIVING),
        (FRR, {"since": None, "complete": None}, Doubt.BEGAN_LATER),
        (FRR, {"full": True}, Doubt.TOO_MANY),
    ],
)
def test_where_absence_proves_nothing_it_is_not_known_and_no_alarm(
    software: Software | None, fields: dict[str, object], doubt: Doubt
) -> None:
    node = viewed(software)
    sees(node, missing(node, others=1), **fields)  # type: ignore[arg-type]
    node.wait(60)
    assert (at(node).receipt, at(node).doubt) == (Receipt.UNKNOWN, doubt)
    assert at(node).why
    assert "{" not in at(node).why
    assert alarms(node.state) == []


def test_a_router_of_the_nodes_own_as_sends_back_nothing_unless_it_reflects() -> None:
    node = viewed()
    reload(node, remote_as=node.state.config.bgp.local_as)
    sees(node, missing(node))
    node.wait(60)
    assert (at(node).doubt, at(node).others, alarms(node.state)) == (Doubt.INTERNAL, None, [])
    sees(node, echoes=True)
    node.wait(6)
    assert (at(node).receipt, at(node).others) == (Receipt.NOT_RECEIVED, 0)


def test_a_path_without_a_mark_may_be_the_own_one() -> None:
    node = viewed()
    sees(node, missing(node, others=1, unmarked=1))
    node.wait(60)
    assert (at(node).doubt, alarms(node.state)) == (Doubt.UNMARKED, [])


def test_a_router_that_has_sent_an_own_path_back_is_known_to_do_so_whatever_it_runs() -> None:
    node = viewed(None)
    sees(node, missing(node))
    sees(node, echoes=True)
    node.wait(6)
    assert alarms(node.state)


@pytest.mark.parametrize("software", [BIRD, GOBGP, None])
def test_a_path_that_is_there_is_received_whatever_is_not_known(software: Software | None) -> None:
    node = viewed(software)
    sees(node, Sight(prefix=PREFIX, mine=node.now), complete=None, add_path=())
    assert at(node).receipt is Receipt.RECEIVED


def test_without_a_view_nothing_is_known_and_nothing_is_an_alarm() -> None:
    node = viewed(view=False)
    sees(node, missing(node))
    node.wait(60)
    assert (at(node).doubt, alarms(node.state)) == (Doubt.NO_VIEW, [])


def test_an_exabgp_that_was_started_without_the_view_tells_nothing() -> None:
    assert at(viewed()).doubt is Doubt.NOT_TOLD


def test_with_the_plugin_goes_all_that_is_known() -> None:
    node = viewed()
    sees(node, missing(node))
    node.wait(6)
    node.send(ev.PluginLost(source=1))
    assert (at(node).doubt, alarms(node.state), node.events("route.received")) == (Doubt.NO_PLUGIN, [], [])
    sees(node, missing(node))
    assert node.state.views.seen == {}, "what a plugin said that is gone is not taken"


def test_a_session_that_is_down_has_nothing_to_tell() -> None:
    node = viewed()
    sees(node, missing(node))
    node.wait(6)
    report(node, "down")
    assert (at(node).doubt, alarms(node.state)) == (Doubt.NO_SESSION, [])
    report(node)
    assert at(node).receipt in (Receipt.AWAITED, Receipt.NOT_RECEIVED)


def test_an_exabgp_that_does_not_answer_has_nothing_to_tell() -> None:
    node = viewed()
    sees(node, missing(node))
    node.wait(6)
    report(node, silent_since=node.now)
    assert (at(node).doubt, alarms(node.state)) == (Doubt.EXABGP_SILENT, [])


def test_a_session_that_has_come_up_and_is_not_told_of_yet_is_about_to_be() -> None:
    node = viewed()
    sees(node, up=False, since=None, complete=None)
    assert at(node).doubt is Doubt.ARRIVING


def test_a_new_session_is_another_view() -> None:
    node = viewed()
    sees(node, missing(node))
    node.wait(6)
    sees(node, number=2, complete=None)
    assert (at(node).doubt, alarms(node.state)) == (Doubt.ARRIVING, [])
    sees(node, number=2)
    assert at(node).receipt is Receipt.NOT_ANNOUNCED, "of what it had nothing is left"


def test_a_plugin_that_tells_anew_takes_nothing_from_before() -> None:
    node = viewed()
    sees(node, Sight(prefix=PREFIX, mine=node.now))
    sees(node, first=True)
    assert at(node).receipt is Receipt.NOT_ANNOUNCED


def test_of_two_plugins_the_one_with_the_session_tells() -> None:
    node = viewed()
    sees(node, Sight(prefix=PREFIX, mine=node.now))
    node.send(ev.PluginConnected(source=2))
    node.send(ev.PluginReported(source=2, report=Report(seq=0)))
    sees(node, source=2, since=None, complete=None)
    assert at(node).receipt is Receipt.RECEIVED


def test_a_reload_that_turns_the_view_off_ends_the_alarm() -> None:
    node = viewed()
    sees(node, missing(node))
    node.wait(6)
    reload(node, view=False)
    assert alarms(node.state) == []


def test_many_alarms_are_told_some_at_a_time_and_named_in_part() -> None:
    node = viewed()
    many = [ip_network(f"203.0.{n // 250}.{n % 250}/32") for n in range(2 * SLICE + 1)]
    sees(node, *(Sight(prefix=one, missing=node.now) for one in many))
    _, effects = view.looked(node.state, node.state, node.now + PATIENCE)
    assert len(effects) == SLICE
    node.wait(PATIENCE)
    node.wait(1.0)
    assert len(node.events("route.not_received")) == len(many)
    text = node.state.standing[ALARM, str(router(node).address)].text
    assert f"/32 and {len(many) - 5} more: " in text


def test_how_many_others_there_are_is_at_least_where_not_all_is_known() -> None:
    node = viewed()
    sees(node, Sight(prefix=PREFIX, mine=node.now, others=1), add_path=())
    assert (at(node).others, at(node).at_least) == (1, True)
    sees(node, Sight(prefix=PREFIX, mine=node.now), add_path=())
    assert (at(node).others, at(node).at_least) == (None, False)


def test_gobgp_that_sends_nothing_says_nothing() -> None:
    """Of nodes in one AS it sends none."""
    node = viewed(GOBGP)
    sees(node)
    assert at(node).others is None
    sees(node, Sight(prefix=PREFIX, others=2))
    assert (at(node).others, at(node).at_least) == (2, True)


def test_every_doubt_has_words() -> None:
    one = Neighbor(address=ip_address("10.0.0.1"), remote_as=65000, software=BIRD)
    assert all(view.words(one, doubt) for doubt in Doubt)
    assert view.words(one, Doubt.NEVER_OWN).startswith("BIRD never")


def test_the_mark_is_on_every_path_once_a_router_sends_back() -> None:
    node = viewed()
    (route,) = (node.state.lease.routes or {}).values()
    bgp = node.state.config.bgp
    assert route.large_communities == (f"{bgp.local_as}:1179:{int(bgp.router_id)}",)


_MANY = [ip_network(f"192.0.2.{n}/32") for n in range(1, 5)]
_STORIES = st.lists(
    st.one_of(
        st.tuples(
            st.just("sees"),
            st.lists(
                st.tuples(
                    st.sampled_from(_MANY), st.sampled_from(["mine", "missing", "unmarked", "nothing"])
                ),
                max_size=4,
                unique_by=lambda one: one[0],
            ),
            st.integers(1, 2),
            st.booleans(),
            st.booleans(),
            st.booleans(),
        ),
        st.tuples(st.just("wait"), st.sampled_from([0.5, 2.0, 5.0])),
        st.tuples(st.just("software"), st.sampled_from([FRR, BIRD, None])),
        st.tuples(st.just("session"), st.sampled_from(["up", "down"])),
        st.tuples(st.just("silent"), st.booleans()),
        st.tuples(st.just("lost")),
    ),
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(_STORIES)
def test_whatever_happens_what_waits_and_what_is_an_alarm_is_what_the_view_says(
    story: list[tuple[Any, ...]],
) -> None:
    """Worked out by what has changed, it is what it is worked out anew. No verdict and no route ever rests on it."""
    node = viewed()
    address = str(router(node).address)
    verdict, routes = node.state.vips["web"], dict(node.state.lease.routes or {})
    for act in story:
        match act:
            case ("sees", found, number, complete, echoes, first):
                kinds = {
                    "mine": {"mine": node.now},
                    "missing": {"missing": node.now},
                    "unmarked": {"missing": node.now, "others": 1, "unmarked": 1},
                    "nothing": {},
                }
                sights = (Sight(prefix=prefix, **kinds[kind]) for prefix, kind in found)  # type: ignore[arg-type]
                fields = {"number": number, "complete": 901.0 if complete else None, "echoes": echoes}
                sees(node, *sights, first=first, **fields)
            case ("wait", seconds):
                node.wait(seconds)
            case ("software", software):
                reload(node, software=software)
            case ("session", state):
                report(node, state)
            case ("silent", silent):
                report(node, silent_since=node.now if silent else None)
            case _:
                node.send(ev.PluginLost(source=1))
                node.send(ev.PluginConnected(source=1))
                report(node)
        views = node.state.views
        waiting, told = (dict(each.get(address) or ()) for each in (views.waiting, views.told))
        missing = view._since(node.state, address, None)
        assert waiting.keys().isdisjoint(told)
        assert {**waiting, **told}.keys() == missing.keys()
        assert bool(told) == bool(alarms(node.state))
        assert all(since + PATIENCE <= node.now for since in told.values())
        assert all(at(node, prefix).receipt is Receipt.NOT_RECEIVED for prefix in told)
        assert views.look_at <= min((since + PATIENCE for since in waiting.values()), default=float("inf"))
        assert node.state.vips["web"] == verdict
        assert dict(node.state.lease.routes or {}).keys() == routes.keys()
