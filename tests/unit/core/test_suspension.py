"""An agent that did not run for a while, and proof that is too old."""

from __future__ import annotations

from dataclasses import replace

import pytest

from anycast.core import events as ev
from anycast.core.health.phase import Fault, Outcome, Phase, Result
from anycast.core.step import next_wake
from anycast.core.values.configuration import Check, HoldDown, TcpCheck, Timing
from anycast.core.vip.decide import Reason
from anycast.core.vip.lifecycle import Life
from tests.fakes import TTL, Node, route, up, vip
from tests.property.worlds import CHECK, server


def cannot(node: Node, *servers: int) -> None:
    """The checks of these servers, or of all, cannot be run."""
    chosen = {ip for number in servers for ip in server(number).addresses}
    lost = Result(outcome=Outcome.UNKNOWN, detail="eth1 is down", fault=Fault.LINK)
    targets = [target for target in node.state.targets if not servers or target.address in chosen]
    node.send(ev.Probed(results=tuple((target, lost) for target in targets)))


def test_what_cannot_be_checked_for_too_long_is_not_announced() -> None:
    node = up()
    began = node.now
    while node.routes and node.now < began + 60.0:
        cannot(node)
        node.wait(CHECK.interval)
    assert node.reason() is Reason.UNPROVEN
    assert CHECK.proof_lasts <= node.now - began <= CHECK.proof_lasts + 2 * CHECK.interval
    assert "eth1 is down" in node.state.vips["web"].verdict.detail
    assert [log.fields["fault"] for log in node.events("check.unproven")] == [Fault.LINK] * 3
    assert node.weights() == [0, 0, 0]
    node.checks(Outcome.OK, times=1)
    assert node.routes == [route(1)]


def test_a_server_alone_that_cannot_be_checked_gets_no_new_clients() -> None:
    node = up()
    for _ in range(5):
        cannot(node, 2)
        node.wait(CHECK.interval)
    assert node.weights() == [1, 0, 1]
    assert node.routes == [route(1)]


def test_a_run_that_could_not_be_carried_out_changes_nothing_by_itself() -> None:
    node = up()
    cannot(node)
    node.wait(CHECK.interval)
    node.checks(Outcome.OK, times=1)
    node.wait(60.0)
    assert node.routes == [route(1)]
    assert node.weights() == [1, 1, 1]


def test_how_long_a_proof_counts_is_a_setting() -> None:
    patient = Check(kind=TcpCheck(), rise=2, fall=2, unproven_after=60.0)
    node = up(vip(check=patient))
    for _ in range(29):
        cannot(node)
        node.wait(2.0)
    assert node.routes == [route(1)]
    cannot(node)
    node.wait(2.0)
    cannot(node)
    assert node.routes == []


def test_one_server_that_cannot_be_checked_holds_no_start_back() -> None:
    node = Node(vip())
    cannot(node, 3)
    node.checks(Outcome.OK, 1, 2)
    assert node.routes == [route(1)]
    assert node.weights() == [1, 1, 0]


def test_a_start_that_can_check_nothing_says_so_and_leaves_the_lease_before_it_alone() -> None:
    node = Node(vip())
    cannot(node)
    assert node.reason() is Reason.UNPROVEN
    assert node.lease is None
    node.wait(TTL)
    assert node.lease is not None


def test_a_server_that_was_down_stays_down_and_must_rise_by_successes_in_a_row() -> None:
    node = up()
    node.checks(Outcome.FAIL, 1)
    for _ in range(5):
        cannot(node, 1)
        node.wait(CHECK.interval)
    node.checks(Outcome.OK, 1, times=1)
    assert node.weights() == [0, 1, 1]
    node.checks(Outcome.OK, 1, times=1)
    assert node.weights() == [1, 1, 1]


@pytest.mark.parametrize("first", ["tick", "results"])
def test_after_a_suspension_nothing_is_announced_before_it_is_proven_anew(first: str) -> None:
    node = up()
    node.kernel_is_slow = True
    node.now += 30.0
    if first == "tick":
        node.tick()
    else:
        node.checks(Outcome.OK, times=1)  # read from sockets where they had lain meanwhile
    leases = node.lease
    assert node.state.vips["web"].life is Life.NEW
    node.kernel_answers()
    assert node.lease is leases
    node.checks(Outcome.FAIL, times=1)
    while node.job is not None:
        node.kernel_answers()
    assert node.routes == []
    node.checks(Outcome.OK)
    node.kernel_answers()
    assert node.routes == [route(1)]
    assert [log.fields["seconds"] for log in node.events("agent.suspended")] == [30.0]


def test_a_suspension_asks_for_every_check_and_the_kernel_at_once() -> None:
    node = up()
    node.wait(1.0)
    node.kernel_is_slow = True
    node.now += TTL + 1.0
    node.tick()
    assert node.probed_anew == 1
    assert isinstance(node.job, ev.ReadKernel)
    assert {health.phase for health in node.state.health.values()} == {Phase.UNDECIDED}


def test_a_pause_shorter_than_the_lease_is_no_suspension() -> None:
    node = up()
    node.now += 0.9 * TTL
    node.tick()
    assert node.routes == [route(1)]
    assert "agent.suspended" not in node.logged


def test_a_kernel_read_before_the_suspension_proves_nothing() -> None:
    node = up()
    node.kernel_is_slow = True
    node.wait(node.state.config.timing.reconcile)
    assert node.job is not None
    node.now += 30.0
    node.kernel_answers()
    assert node.state.kernel.snapshot is None
    assert isinstance(node.job, ev.ReadKernel)


def test_a_reading_under_way_during_the_suspension_proves_nothing_whatever_comes_before_its_answer() -> None:
    node = up()
    node.kernel_is_slow = True
    node.wait(node.state.config.timing.reconcile)
    assert node.job is not None
    node.now += 30.0
    node.tick()
    node.kernel_answers()
    assert node.state.kernel.snapshot is None
    assert isinstance(node.job, ev.ReadKernel)
    node.kernel_answers()
    assert node.state.kernel.snapshot is not None


def test_what_somebody_changed_during_the_suspension_is_put_right_at_once() -> None:
    node = up()
    node.kernel_is_slow = True
    node.checks(Outcome.FAIL, 1)
    assert isinstance(node.job, ev.ProgramKernel)
    node.now += 30.0
    node.tick()
    node.kernel_answers()
    wanted, node.kernel = node.kernel, replace(node.kernel, addresses=frozenset())
    node.kernel_is_slow = False
    node.kernel_answers()
    assert node.kernel.addresses == wanted.addresses
    assert node.reason() is Reason.STARTING


@pytest.mark.parametrize("shorter", [None, 0.5])
def test_to_wait_for_a_kernel_that_does_not_answer_is_no_suspension(shorter: float | None) -> None:
    node = Node(vip(), kernel_is_slow=True, timing=Timing(lease_ttl=30.0 if shorter else TTL))
    if shorter:
        node.reload(vip(), timing=Timing(lease_ttl=shorter))
    end = node.now + 60.0
    while node.now < end:
        node.now = max(node.now, next_wake(node.state, node.now)) + 0.001  # a real clock is never on time
        node.tick()
    assert "agent.suspended" not in node.logged
    assert node.lease is not None


def test_a_server_that_is_held_down_stays_so_through_a_suspension() -> None:
    rule = HoldDown(half_life=60.0, suppress=2.0, reuse=1.0)
    node = up(vip(check=Check(kind=TcpCheck(), rise=1, fall=1, hold_down=rule)))
    for outcome in (Outcome.FAIL, Outcome.OK) * 3:
        node.checks(outcome, 1, times=1)
    assert node.weights() == [0, 1, 1]
    node.now += 30.0
    node.tick()
    node.checks(Outcome.OK)
    assert node.weights() == [0, 1, 1]
    node.wait(rule.max_hold)
    node.checks(Outcome.OK)
    assert node.weights() == [1, 1, 1]


def test_weights_stay_as_they_are_through_a_suspension() -> None:
    node = up()
    node.checks(Outcome.FAIL, 1)
    node.now += 30.0
    node.tick()
    assert node.weights() == [0, 1, 1]
