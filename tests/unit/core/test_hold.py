"""The hold after a start: nothing is announced before the data plane has been proven for long enough."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.core.health.phase import Outcome
from anycast.core.maintenance.stages import NODE
from anycast.core.values.configuration import Timing
from anycast.core.vip import hold
from anycast.core.vip.decide import Reason
from anycast.core.vip.hold import DAMAGED, FREE, KEPT, WINDOW, Starts
from tests.fakes import Node, route, vip

BOOT = "0b7f4c0e-boot"
HOLD = Timing(start_hold=4.0)
CRASHED = hold.hold(Timing(), 3)


def detail(node: Node) -> str:
    return node.state.vips["web"].verdict.detail


def test_without_crashes_a_proven_vip_is_announced_at_once() -> None:
    node = Node(vip())
    node.checks(Outcome.OK)
    assert node.routes == [route(1)]
    assert node.events("agent.start_held") == []


def test_a_vip_is_announced_once_it_has_been_proven_for_the_hold() -> None:
    node = Node(vip(), timing=HOLD)
    node.checks(Outcome.OK)
    node.wait(3.9)
    assert (node.routes, node.reason()) == ([], Reason.STARTING)
    assert detail(node) == "everything has held for 3.0 of 4 s"
    node.wait(0.1)
    assert (node.routes, node.reason()) == ([route(1)], Reason.HEALTHY)
    assert [log.fields for log in node.events("agent.start_held")] == [{"seconds": 4.0, "crashes": 0}]


def test_crashes_make_a_hold_where_there_was_none() -> None:
    node = Node(vip(), crashes=3)
    node.checks(Outcome.OK)
    assert detail(node) == "everything has held for 0.0 of 4 s (3 crashes in 10 min)"
    node.wait(CRASHED)
    assert node.routes == [route(1)]
    assert [log.level for log in node.events("agent.start_held")] == ["warning"]


@pytest.mark.parametrize(
    ("crashes", "seconds"), [(0, 0), (1, 0), (2, 2), (3, 4), (4, 8), (6, 32), (7, 60), (2000, 60)]
)
def test_the_hold_doubles_from_the_second_crash_on_up_to_its_limit(crashes: int, seconds: float) -> None:
    assert hold.hold(Timing(), crashes) == seconds


def test_a_configured_hold_doubles_and_is_never_cut_by_the_limit() -> None:
    timing = Timing(start_hold=5.0, start_hold_limit=15.0)
    assert [hold.hold(timing, crashes) for crashes in range(5)] == [5, 5, 5, 10, 15]
    assert hold.hold(Timing(start_hold=5.0, start_hold_limit=0.0), 9) == 5
    assert hold.hold(Timing(start_hold_limit=0.0), 9) == 0


def test_a_repair_of_the_kernel_begins_the_hold_anew() -> None:
    node = Node(vip(), timing=HOLD)
    node.checks(Outcome.OK)
    node.wait(2.0)
    node.kernel = replace(node.kernel, table={})
    node.wait(1.0)
    assert "kernel.drifted" in node.logged
    node.wait(3.9)
    assert node.routes == []
    node.wait(1.0)
    assert node.routes == [route(1)]


def test_a_collapse_of_the_servers_begins_the_hold_anew_and_says_so() -> None:
    node = Node(vip(), timing=HOLD)
    node.checks(Outcome.OK)
    node.wait(3.5)
    node.checks(Outcome.FAIL, 1, 2, 3)
    assert node.reason() is Reason.BELOW_QUORUM
    node.checks(Outcome.OK)
    assert node.reason() is Reason.STARTING
    node.wait(3.5)
    assert node.routes == []
    node.wait(0.5)
    assert node.routes == [route(1)]


def test_a_kernel_that_cannot_be_read_begins_the_hold_anew() -> None:
    node = Node(vip(), timing=HOLD)
    node.checks(Outcome.OK)
    node.wait(3.5)
    node.kernel_breaks = "EPERM"
    node.wait(1.0)
    assert node.reason() is Reason.KERNEL_UNAVAILABLE
    node.kernel_breaks = None
    node.wait(3.5)
    assert node.routes == []
    node.wait(4.0)
    assert node.routes == [route(1)]


def test_a_single_server_that_fails_or_a_reload_does_not_begin_it_anew() -> None:
    node = Node(vip(), timing=HOLD)
    node.checks(Outcome.OK)
    node.wait(2.0)
    node.checks(Outcome.FAIL, 3)
    node.reload(vip(servers=(1, 2, 3, 4)))
    node.checks(Outcome.OK, 4)
    node.wait(2.0)
    assert node.routes == [route(1)]


def test_a_hold_ends_by_a_reading_and_not_by_the_clock_alone() -> None:
    node = Node(vip(), timing=HOLD)
    node.checks(Outcome.OK)
    node.kernel_is_slow = True
    node.wait(10.0)
    assert node.routes == []
    node.kernel_answers()
    assert node.routes == [route(1)]


def test_what_was_announced_once_is_not_held_again() -> None:
    node = Node(vip(), timing=HOLD)
    node.checks(Outcome.OK)
    node.wait(4.0)
    node.checks(Outcome.FAIL)
    assert node.routes == []
    node.checks(Outcome.OK)
    assert node.routes == [route(1)]


def test_maintenance_goes_its_way_beside_the_hold() -> None:
    node = Node(vip(), timing=HOLD)
    node.maintain(NODE)
    node.checks(Outcome.OK)
    node.wait(4.0)
    assert node.reason() is Reason.NODE_MAINTENANCE
    node.maintain(NODE, on=False)
    assert node.routes == [route(1)]


def test_a_run_as_long_as_the_window_clears_the_crashes() -> None:
    node = Node(vip(), crashes=5)
    node.checks(Outcome.FAIL)
    node.wait(WINDOW)
    node.checks(Outcome.OK)
    assert node.routes == [route(1)]


def test_an_agent_that_finds_the_mark_of_a_running_one_knows_of_a_crash() -> None:
    first = hold.started(None, boot=BOOT, now=10.0)
    assert (first.running, first.count) == (True, 0)
    second = hold.started(first, boot=BOOT, now=20.0)
    assert second.crashes == (20.0,)
    third = hold.started(second, boot=BOOT, now=30.0)
    assert third.crashes == (20.0, 30.0)
    assert hold.started(hold.stopped(third), boot=BOOT, now=40.0).count == 0


def test_crashes_before_the_window_are_forgotten() -> None:
    record = Starts(boot=BOOT, running=False, crashes=(10.0, 300.0))
    assert hold.started(record, boot=BOOT, now=10.0 + WINDOW).crashes == (300.0,)


@pytest.mark.parametrize("boot", ["another", ""])
def test_crashes_of_a_boot_before_count_from_the_beginning_of_this_one(boot: str) -> None:
    record = Starts(boot=BOOT if boot else "", running=True, crashes=(9e6, 9e6 + 1))
    assert hold.started(record, boot=boot, now=5.0).crashes == (0.0, 0.0, 5.0)
    assert hold.started(record, boot=boot, now=WINDOW).crashes == (WINDOW,)


@given(
    gaps=st.lists(
        st.tuples(st.floats(0, 2 * WINDOW), st.sampled_from(("crash", "stop", "reboot"))), max_size=60
    )
)
def test_the_count_is_of_the_crashes_since_the_last_clean_stop_and_never_too_low(
    gaps: list[tuple[float, str]],
) -> None:
    now, boot, record, noticed = 0.0, 0, None, list[float]()
    for gap, end in gaps:
        record = hold.started(record, boot=f"boot {boot}", now=now)
        recent = [at for at in noticed if now - at < WINDOW]
        assert record.count == min(len(recent), KEPT)
        now += gap
        if end == "stop":
            record, noticed = hold.stopped(record), []
        elif end == "reboot":
            boot, now, noticed = boot + 1, min(now, 1.0), [0.0] * len(recent)
            noticed.append(now)
        else:
            noticed.append(now)


@given(crashes=st.integers(0, 10**6), first=st.floats(0, 600), limit=st.floats(0, 600))
def test_a_hold_never_falls_with_more_crashes_and_stays_in_its_limits(
    crashes: int, first: float, limit: float
) -> None:
    timing = Timing(start_hold=first, start_hold_limit=limit)
    assert first <= hold.hold(timing, crashes) <= hold.hold(timing, crashes + 1) <= max(first, limit)
    if crashes <= FREE:
        assert hold.hold(timing, crashes) == first


def test_damage_is_worth_a_hold() -> None:
    found = hold.after_damage(boot=BOOT, now=50.0)
    assert (found.running, found.count) == (True, DAMAGED)
    assert hold.hold(Timing(), found.count) > 0
