"""Addresses of VIPs that other programs take away, or make ordinary source addresses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from anycast.core import events as ev
from anycast.core.dataplane import kernel as kernels
from anycast.core.dataplane.kernel import AddAddress, CorrectAddress, RemoveAddress
from anycast.core.dataplane.loop import CHANGED_EVERY
from anycast.core.health.phase import Outcome
from anycast.core.state import CONTEST_ENDS, CONTESTED, IN_A_ROW, LEFT_ALONE
from anycast.core.step import step
from anycast.core.values.configuration import Address, Timing
from anycast.core.values.standing import Condition
from anycast.core.vip.decide import Reason
from tests.fakes import DRAIN, SETTLE, TTL, Node, addresses, route, up, vip

V4, V6 = addresses(1)
FOUGHT = (Condition.ADDRESSES_CONTESTED, "")


def take(node: Node, *gone: Address) -> None:
    """Another program removes them, and the kernel says so."""
    node.kernel = replace(node.kernel, addresses=node.kernel.addresses - set(gone))
    node.send(ev.KernelChanged(lost=frozenset(gone)))


def make_plain(node: Node, *which: Address) -> None:
    node.kernel = replace(node.kernel, plain=node.kernel.plain | set(which))
    node.kernel_changed()


@pytest.mark.parametrize("found_so", [True, False])
def test_an_address_that_may_be_a_source_is_put_right_and_the_route_stays(*, found_so: bool) -> None:
    found = kernels.Snapshot(table={}, addresses=frozenset({V4, V6}), plain=frozenset({V4, V6}), sysctls={})
    node = Node(vip(both_families=True), found=found) if found_so else up(vip(both_families=True))
    node.checks(Outcome.OK)
    if not found_so:
        make_plain(node, V4, V6)
    assert not node.kernel.plain
    assert len(node.routes) == 2
    corrections = [op for ops in node.programs for op in ops if isinstance(op, CorrectAddress)]
    assert [op.address for op in corrections] == [V4, V6]
    drifts = node.events("kernel.drifted")
    assert len(drifts) == (0 if found_so else 1), "what was there before the agent nobody has changed"
    if not found_so:
        assert "192.0.2.1 on lo is not a single host of scope host" in str(drifts[0].fields["found"])
        assert "2001:db8:99::1 on lo has not the preferred lifetime 0" in str(drifts[0].fields["found"])


def test_an_address_that_cannot_be_put_right_keeps_its_route_and_is_told_once() -> None:
    node = up()
    node.kernel_is_slow = True
    node.kernel = replace(node.kernel, plain=frozenset({V4}))
    node.kernel_changed()
    for _ in range(6):
        if node.job is None:
            node.wait(1.0)
            continue
        failures: tuple[kernels.Failure, ...] = ()
        if isinstance(node.job, ev.ProgramKernel):
            failures = (kernels.Failure(node.job.ops, "not allowed"),)
            node.programs.append(node.job.ops)
        node.job = None
        node.send(ev.KernelRead(snapshot=told(node), failures=failures))
    assert node.programs.count((CorrectAddress(address=V4),)) >= 2, "it is tried again"
    assert node.routes == [route(1)]
    assert len(node.events("kernel.drifted")) == 1
    assert node.state.standing[Condition.KERNEL_REFUSES, ""].text.startswith("the kernel refuses")


def told(node: Node) -> kernels.Snapshot:
    return replace(node.kernel, sysctls=dict.fromkeys(node.asked) | dict(node.state.index.sysctls))


def test_an_address_in_maintenance_is_put_right_too() -> None:
    node = up()
    node.maintain()
    node.wait(DRAIN + SETTLE + TTL)
    make_plain(node, V4)
    assert not node.kernel.plain


@pytest.mark.parametrize("outcome", [None, Outcome.FAIL])
def test_an_address_is_there_and_put_back_whether_or_not_a_server_is_healthy(outcome: Outcome | None) -> None:
    node = Node(vip())
    if outcome is not None:
        node.checks(outcome)
    assert not node.routes
    assert node.kernel.addresses == {V4}
    take(node, V4)
    assert node.kernel.addresses == {V4}


def test_an_address_stays_in_maintenance_and_is_put_back_too() -> None:
    node = up()
    node.maintain()
    node.wait(DRAIN + SETTLE + TTL)
    assert not node.routes
    take(node, V4)
    assert node.kernel.addresses == {V4}


def test_an_address_that_was_to_go_and_that_somebody_puts_back_meanwhile_goes_again() -> None:
    node = up(vip(), vip("log", number=2))
    other = addresses(2)[0]
    node.kernel_is_slow = True
    node.reload(vip())
    node.acknowledge()
    while node.job is None or RemoveAddress(address=other) not in getattr(node.job, "ops", ()):
        if node.job is not None:
            node.kernel_answers()
        node.wait(1.0)
    node.job = None
    node.send(ev.KernelRead(snapshot=told(node)))  # it was put back before it was read
    node.wait(2.0)
    node.kernel_is_slow = False
    if node.job is not None:
        node.kernel_answers()
    assert other not in node.kernel.addresses


def test_an_address_that_is_configured_no_more_belongs_to_whoever_adds_it_later() -> None:
    """It may have moved to another program on this node."""
    node = up(vip(), vip("log", number=2))
    other = addresses(2)[0]
    node.reload(vip())
    node.acknowledge()
    node.wait(SETTLE + TTL + Timing().reconcile)
    assert other not in node.kernel.addresses
    node.kernel = replace(node.kernel, addresses=node.kernel.addresses | {other})
    node.kernel_changed()
    node.wait(Timing().reconcile)
    assert other in node.kernel.addresses


def test_an_address_that_went_is_put_back_before_anything_is_read() -> None:
    node = up()
    node.kernel_is_slow = True
    node.wait(CHANGED_EVERY)
    take(node, V4)
    assert isinstance(node.job, ev.ProgramKernel)
    assert node.job.ops == (AddAddress(address=V4),)
    assert node.logged.count("kernel.drifted") == 1
    assert node.routes == [route(1)]
    node.kernel_is_slow = False
    node.kernel_answers()
    assert node.kernel.addresses == {V4}
    assert node.routes == [route(1)]


def test_right_after_a_reading_it_does_not_wait_for_the_next() -> None:
    node = up()
    node.wait(Timing().reconcile)
    take(node, V4)
    assert node.kernel.addresses == {V4}


def test_an_address_that_went_while_the_kernel_was_read_is_put_back_as_soon_as_that_is_over() -> None:
    node = up()
    node.kernel_is_slow = True
    node.wait(Timing().reconcile)
    assert isinstance(node.job, ev.ReadKernel)
    before = told(node)
    take(node, V4)
    node.job = None
    node.send(ev.KernelRead(snapshot=before))  # it was read before the address went
    assert isinstance(node.job, ev.ProgramKernel)
    assert node.job.ops == (AddAddress(address=V4),)


def test_what_changed_while_the_kernel_was_read_is_read_again_soon() -> None:
    node = up()
    node.kernel_is_slow = True
    node.wait(Timing().reconcile)
    before = told(node)
    node.send(ev.KernelChanged())
    node.job = None
    node.send(ev.KernelRead(snapshot=before))
    assert node.state.kernel.next_read == node.now + CHANGED_EVERY


def test_an_address_that_this_agent_writes_has_not_been_lost_to_others() -> None:
    node = up()
    node.kernel_is_slow = True
    take(node, V4)
    assert isinstance(node.job, ev.ProgramKernel)
    node.send(ev.KernelChanged(lost=frozenset({V4})))  # told late
    node.kernel_is_slow = False
    node.kernel_answers()
    assert node.logged.count("kernel.drifted") == 1


def test_what_was_refused_is_tried_again_when_the_interface_changes() -> None:
    """As a program switches IPv6 off and on again."""
    node = up()
    node.refused = {V4}
    take(node, V4)
    assert node.reason() is Reason.ADDRESS_MISSING
    node.refused = set()
    node.kernel_changed()
    assert node.kernel.addresses == {V4}
    assert node.routes == [route(1)]


def test_an_address_that_leaves_with_its_vip_is_not_put_back_and_the_kernel_is_read_no_later_for_it() -> None:
    other = vip(name="log", number=2)
    node = up(vip(), other)
    node.reload(other)
    assert V4 in node.state.desired.addresses, "the routers may send packets here still"
    node.wait(2 * CHANGED_EVERY)
    node.kernel_is_slow = True
    take(node, V4)
    assert isinstance(node.job, ev.ReadKernel)


def test_other_addresses_that_went_are_nobodys_business() -> None:
    node = up()
    programs = len(node.programs)
    node.send(ev.KernelChanged(lost=frozenset({addresses(9)[0]})))
    assert len(node.programs) == programs


def test_an_address_that_is_gone_again_when_it_is_read_back_is_put_back_a_few_times_before_that_costs_the_route() -> (
    None
):
    for times in (IN_A_ROW, IN_A_ROW + 1):
        node = up()
        node.kernel_is_slow = True
        take(node, V4)
        for _ in range(times):
            assert isinstance(node.job, ev.ProgramKernel)
            assert node.job.ops == (AddAddress(address=V4),)
            assert node.routes == [route(1)]
            node.job = None
            node.send(ev.KernelRead(snapshot=told(node), partial=True))  # without it
        if times == IN_A_ROW:
            node.kernel_answers()
            assert node.routes == [route(1)]
            assert not node.state.kernel.vain
        else:
            assert node.reason() is Reason.ADDRESS_MISSING
            assert node.routes == []


def fight(node: Node, times: int, every: float = 1.0) -> None:
    for _ in range(times):
        take(node, V4)
        node.wait(every)


def test_a_program_that_takes_an_address_again_and_again_stands_until_it_rests_and_does_not_fill_the_log() -> (
    None
):
    node = up()
    fight(node, CONTESTED - 1)
    assert FOUGHT not in node.state.standing
    fight(node, 20)
    assert node.routes == [route(1)], "it was put back each time"
    text = node.state.standing[FOUGHT].text
    assert "192.0.2.1 from lo" in text
    assert f"({CONTESTED + 19} times" in text
    assert "if none is, see in the journal what ran" in text
    assert len(node.events("kernel.drifted")) == CONTESTED
    assert node.state.kernel.repairs["address"] == CONTESTED + 19
    assert node.logged.count("condition.began") == 1
    node.wait(CONTEST_ENDS + Timing().reconcile)
    assert FOUGHT not in node.state.standing
    assert not node.state.kernel.contests


def test_who_it_is_is_asked_once_at_the_beginning_and_forgotten_at_the_end() -> None:
    node = up()
    asked: list[ev.NameOthers] = []
    perform = node._perform

    def listening(effects: tuple[ev.Effect, ...]) -> None:
        asked.extend(one for one in effects if isinstance(one, ev.NameOthers))
        perform(effects)

    node._perform = listening  # type: ignore[method-assign]
    fight(node, 10)
    assert asked == [ev.NameOthers()]
    node.wait(CONTEST_ENDS + Timing().reconcile)
    assert asked == [ev.NameOthers(), ev.NameOthers(over=True)]


def test_a_route_does_not_come_and_go_with_an_address_that_is_fought_over() -> None:
    """The other program is so fast that the address is gone again when it is read back."""
    node = up()
    changes = node.state.vips["web"].changes
    for _ in range(10):
        node.refused = {V4}
        take(node, V4)
        node.wait(1.5)
        node.refused = set()
        node.wait(1.5)
    assert node.reason() is Reason.ADDRESS_MISSING
    assert "must stay for 10 s" in node.state.vips["web"].verdict.detail
    assert node.state.vips["web"].changes - changes <= 2 * CONTESTED + 2
    assert node.routes == []
    node.wait(LEFT_ALONE + Timing().reconcile)
    assert node.routes == [route(1)]


def test_a_change_of_another_address_costs_nothing_for_a_vip_that_is_not_fought_over() -> None:
    node = up(vip(), vip("log", number=2))
    fight(node, 5)
    verdict = node.state.vips["log"]
    take(node, V4)
    assert node.state.vips["log"] is verdict


def test_an_event_before_anything_was_read_is_no_loss() -> None:
    node = Node(vip(), kernel_is_slow=True)
    after, _ = step(node.state, ev.KernelChanged(lost=frozenset({V4})), node.now)
    assert after.kernel.lost <= {V4}
