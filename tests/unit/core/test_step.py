"""Whole stories of one node, in the words of an operator. The properties over any story: tests/property."""

from __future__ import annotations

from dataclasses import replace

import pytest

from anycast.core import events as ev
from anycast.core.dataplane import kernel as kernels
from anycast.core.dataplane.ipvs import RemoveService
from anycast.core.dataplane.loop import RETRY_PROGRAM
from anycast.core.health.phase import Outcome, Result
from anycast.core.maintenance.stages import NODE, Maintenance
from anycast.core.state import State
from anycast.core.step import STOP_PATIENCE, next_wake, step
from anycast.core.values.configuration import Check, HttpCheck, Timing
from anycast.core.values.report import Report
from anycast.core.values.route import GRACEFUL_SHUTDOWN, WORST_MED
from anycast.core.vip.decide import Advertise, Reason
from anycast.core.withdrawal import PATIENCE as LEAVE_PATIENCE
from tests.fakes import DRAIN, SETTLE, TTL, Node, addresses, route, route6, up, vip
from tests.property.worlds import server, told


def test_a_node_that_starts_announces_once_every_check_has_spoken() -> None:
    node = Node(vip())
    node.checks(Outcome.OK, 1, 2)
    assert node.reason() is Reason.STARTING
    assert node.lease is None
    node.checks(Outcome.FAIL, 3, times=1)
    assert node.routes == [route(1)]
    assert node.weights() == [1, 1, 0]


def test_an_agent_that_starts_again_says_nothing_until_it_knows_or_a_ttl_has_passed() -> None:
    node = Node(vip())
    node.wait(TTL / 2)
    assert node.lease is None
    node.wait(TTL / 2)
    assert node.lease is not None
    assert node.routes == []


def test_a_lease_is_renewed_in_good_time_for_as_long_as_the_node_lives() -> None:
    node = up()
    for _ in range(20):
        assert node.lease is not None
        seq = node.lease.seq
        node.wait(TTL / 3)
        assert node.lease.seq > seq


def test_what_was_in_use_before_the_start_stays_in_use_until_a_check_speaks() -> None:
    before = up()
    before.checks(Outcome.FAIL, 3)
    again = Node(vip(servers=(1, 2, 3, 4)), found=before.kernel)
    assert again.weights() == [1, 1, 0, 0]


def test_a_server_that_fails_gets_no_new_clients_and_keeps_its_place() -> None:
    node = up()
    node.checks(Outcome.FAIL, 2, times=1)
    assert node.weights() == [1, 1, 1]
    node.checks(Outcome.FAIL, 2, times=1)
    assert node.weights() == [1, 0, 1]
    assert node.routes == [route(1)]


def asked_at_once(node: Node, outcome: Outcome, number: int) -> set[int]:
    """The real servers that are probed without a pause after this outcome of one of them."""
    (target,) = [one for one in node.state.targets if one.address in server(number).addresses]
    node.state, effects = step(node.state, ev.Probed(results=((target, Result(outcome=outcome)),)), node.now)
    asked = {one.target.address for one in effects if isinstance(one, ev.ScheduleProbe) and not one.after}
    return {n for n in range(1, 30) if asked.intersection(server(n).addresses)}


def test_when_one_real_server_begins_to_fail_the_others_are_asked_at_once() -> None:
    node = up(vip(servers=(1, 2, 3)), vip("mail", number=2, servers=(4, 5)))
    assert asked_at_once(node, Outcome.FAIL, 1) == {2, 3}
    assert asked_at_once(node, Outcome.FAIL, 1) == set()  # it has told already
    assert asked_at_once(node, Outcome.FAIL, 2) == {3}  # of the first one hears soon enough
    assert asked_at_once(node, Outcome.OK, 4) == set()


def test_when_one_comes_back_those_that_are_down_are_asked_at_once() -> None:
    node = up(vip(servers=(1, 2, 3)))
    node.checks(Outcome.FAIL, 1, 2)
    assert asked_at_once(node, Outcome.OK, 1) == {2}


def test_in_a_large_pool_only_so_many_are_asked_for_one() -> None:
    node = up(vip(servers=range(1, 21)))
    assert asked_at_once(node, Outcome.FAIL, 18) == {19, 20, 1, 2, 3, 4, 5, 6}
    assert asked_at_once(node, Outcome.FAIL, 20) == {1, 2, 3, 4, 5, 6, 7, 8}


def test_between_the_two_marks_a_route_stays_and_does_not_come_back() -> None:
    node = up()
    node.checks(Outcome.FAIL, 2, 3)
    assert node.routes == [route(1)]
    node.checks(Outcome.FAIL, 1)
    assert node.reason() is Reason.BELOW_QUORUM
    assert node.routes == []
    node.checks(Outcome.OK, 1)
    assert node.routes == []
    node.checks(Outcome.OK, 2)
    assert node.routes == [route(1)]


def test_checks_that_cannot_run_change_nothing() -> None:
    node = up()
    node.checks(Outcome.UNKNOWN, times=10)
    assert node.routes == [route(1)]
    assert node.weights() == [1, 1, 1]
    assert node.logged.count("check.unknown") == len(node.state.targets)


def test_servers_of_weight_0_take_no_clients_and_count_for_nothing() -> None:
    node = up(vip(servers=(1, 2), drained=(3,)))
    assert node.weights() == [1, 1, 0]
    node.checks(Outcome.FAIL, 1, 2)
    assert node.reason() is Reason.BELOW_QUORUM
    node.reload(vip(servers=(), drained=(1, 2, 3)))
    node.checks(Outcome.OK)
    assert node.reason() is Reason.BELOW_QUORUM
    assert node.weights() == [0, 0, 0]


def test_a_drained_server_without_an_outcome_does_not_carry_a_route() -> None:
    node = up(vip(servers=(1, 2)))
    node.reload(vip(servers=(1,), drained=(4,)))
    node.checks(Outcome.FAIL, 1)
    assert node.routes == []


def test_maintenance_drains_then_withdraws_and_the_kernel_goes_on_serving() -> None:
    node = up()
    before = node.kernel
    node.maintain()
    assert node.saved is not None
    assert set(node.saved) == {NODE}
    assert node.lease is not None
    (last_resort,) = node.lease.routes.values()
    assert (last_resort.med, GRACEFUL_SHUTDOWN in last_resort.communities) == (WORST_MED, True)
    node.wait(DRAIN)
    assert node.routes == []
    assert node.reason() is Reason.NODE_MAINTENANCE
    assert node.kernel == before
    node.maintain(on=False)
    assert node.routes == [route(1)]
    assert node.saved == {}


def test_maintenance_said_again_does_not_drain_again() -> None:
    node = up()
    node.maintain()
    node.wait(DRAIN / 2)
    node.maintain()
    node.wait(DRAIN / 2)
    assert node.routes == []


def test_maintenance_of_the_node_does_not_prolong_the_drain_of_a_vip() -> None:
    node = up(vip(), vip("mail", number=2))
    node.maintain("web")
    node.wait(DRAIN / 2)
    node.maintain(NODE)
    node.wait(DRAIN / 2)
    assert node.routes == [route(2)]
    node.wait(DRAIN / 2)
    assert node.routes == []


def test_maintenance_found_on_disk_is_in_force_without_a_drain() -> None:
    node = Node(vip(), kept={"web": Maintenance(reason="racks", by="op", since=1.0)})
    node.checks(Outcome.OK)
    assert node.reason() is Reason.VIP_MAINTENANCE
    assert node.routes == []
    node.maintain("web", on=False)
    assert node.routes == [route(1)]


def test_a_server_that_dies_during_the_drain_ends_it() -> None:
    node = up()
    node.maintain()
    node.checks(Outcome.FAIL)
    assert node.routes == []
    node.checks(Outcome.OK)
    assert node.routes == [], "a drain brings nothing up"


def test_an_address_given_to_a_vip_that_drains_does_not_come_up() -> None:
    node = up()
    node.maintain()
    node.reload(vip(both_families=True))
    node.checks(Outcome.OK)
    assert node.routes == [route(1)]


def test_an_address_somebody_removed_is_put_back_and_the_route_stays() -> None:
    node = up()
    node.kernel = replace(node.kernel, addresses=frozenset())
    node.kernel_changed()
    assert node.kernel.addresses == {addresses(1)[0]}
    assert node.routes == [route(1)]


def test_an_address_the_kernel_refuses_takes_the_route_down_and_is_tried_again_without_much_ado() -> None:
    node = up()
    node.refused = {addresses(1)[0]}
    node.kernel = replace(node.kernel, addresses=frozenset())
    node.kernel_changed()
    assert node.reason() is Reason.ADDRESS_MISSING
    assert node.routes == []
    told = node.logged.count("kernel.programmed"), node.logged.count("kernel.program_failed")
    tries = len(node.programs)
    node.wait(10 * RETRY_PROGRAM)
    assert len(node.programs) >= tries + 9
    assert (node.logged.count("kernel.programmed"), node.logged.count("kernel.program_failed")) == told
    node.refused = set()
    node.wait(RETRY_PROGRAM)
    assert node.routes == [route(1)]


def test_a_service_the_kernel_has_no_memory_for_takes_the_route_away_and_brings_it_back() -> None:
    node = up()
    node.kernel_is_slow = True
    node.kernel = replace(node.kernel, table={})
    refusal = "add service tcp 192.0.2.1:80 (mh): Cannot allocate memory (ENOMEM)"
    node.wait(Timing().reconcile)
    assert isinstance(node.job, ev.ReadKernel)
    node.kernel_answers()
    assert isinstance(node.job, ev.ProgramKernel)
    assert node.routes == [route(1)], "it is being repaired"
    failure = kernels.Failure(node.job.ops, refusal)
    node.send(ev.KernelRead(snapshot=told(node.kernel, node.asked), failures=(failure,)))
    assert (node.reason(), node.routes) == (Reason.KERNEL_DIFFERS, [])
    assert [log.fields["problems"] for log in node.events("kernel.program_failed")] == [(refusal,)]
    node.kernel_is_slow = False
    node.wait(RETRY_PROGRAM)
    assert node.routes == [route(1)]


@pytest.mark.parametrize("by", [-3600.0, 3600.0])
def test_a_clock_that_is_set_by_an_hour_moves_no_route_and_no_lease(by: float) -> None:
    leases: list[list[tuple[float, list[object]]]] = []
    for change in (0.0, by):
        node, seen = up(), list[tuple[float, list[object]]]()
        for _ in range(40):
            node.wait(0.25)
            assert node.lease is not None
            seen.append((node.lease.issued, list(node.routes)))
            if len(seen) == 10:
                node.set_clock(change)
        leases.append(seen)
    assert leases[0] == leases[1]


def test_one_lost_answer_of_the_kernel_is_no_outage_and_three_are() -> None:
    node = up()
    node.kernel_breaks = "no answer"
    node.kernel_changed()
    assert node.routes == [route(1)]
    node.wait(2.0)
    assert node.reason() is Reason.KERNEL_UNAVAILABLE
    assert node.routes == []
    node.kernel_breaks = None
    node.wait(Timing().reconcile)
    assert node.routes == [route(1)]


def test_a_kernel_that_never_answers_is_no_proof_for_long() -> None:
    node = up()
    node.kernel_is_slow = True
    node.wait(2 * Timing().reconcile)
    assert node.routes == [route(1)]
    node.wait(3 * Timing().reconcile)
    assert node.reason() is Reason.KERNEL_UNAVAILABLE
    assert node.routes == []
    node.kernel_answers()
    assert node.routes == [route(1)]


def test_a_new_server_takes_no_clients_before_its_check_has_succeeded() -> None:
    node = up()
    node.reload(vip(servers=(1, 2, 3, 4)))
    assert node.weights() == [1, 1, 1, 0]
    assert node.routes == [route(1)]
    node.checks(Outcome.OK, 4, times=1)
    assert node.weights() == [1, 1, 1, 1]


def test_a_changed_check_starts_anew_and_nothing_is_interrupted() -> None:
    node = up()
    node.checks(Outcome.FAIL, 3)
    programs = len(node.programs)
    node.reload(vip(check=Check(kind=HttpCheck(tls=False))))
    assert node.weights() == [1, 1, 0]
    assert node.routes == [route(1)]
    node.checks(Outcome.OK, 1, 2, times=1)
    assert len(node.programs) == programs
    node.checks(Outcome.OK, 3, times=1)
    assert node.weights() == [1, 1, 1]


def test_a_port_that_is_added_or_dropped_does_not_touch_the_route() -> None:
    node = up()
    node.reload(vip(ports=(80, 443)))
    node.checks(Outcome.OK)
    assert node.routes == [route(1)]
    assert node.weights(port=443) == [1, 1, 1]
    node.reload(vip())
    assert node.routes == [route(1)]
    assert {str(key) for key in node.kernel.table} == {"tcp 192.0.2.1:80"}


def test_a_vip_with_another_name_and_the_same_address_is_not_interrupted() -> None:
    node = up()
    assert node.lease is not None
    before, programs = node.lease.seq, len(node.programs)
    node.reload(vip("www"))
    assert node.routes == [route(1)]
    assert node.lease.seq == before
    assert len(node.programs) == programs


def test_a_dropped_address_stays_in_the_kernel_until_its_route_is_withdrawn_and_has_settled() -> None:
    node = up(vip(), vip("mail", number=2))
    node.reload(vip())
    assert node.routes == [route(1)]
    node.wait(SETTLE)
    assert addresses(2)[0] in node.kernel.addresses, "ExaBGP has not acknowledged it"
    node.acknowledge()
    node.wait(SETTLE / 2)
    assert addresses(2)[0] in node.kernel.addresses
    node.wait(SETTLE / 2)
    assert addresses(2)[0] not in node.kernel.addresses
    assert {str(key) for key in node.kernel.table} == {"tcp 192.0.2.1:80"}
    removed_first = [type(op) for op in node.programs[-1]]
    assert removed_first == [kernels.RemoveAddress, RemoveService]


@pytest.mark.parametrize("lost", [False, True])
def test_a_plugin_that_never_acknowledges_has_been_ended_before_the_kernel_goes(*, lost: bool) -> None:
    node = up(vip(), vip("mail", number=2))
    node.reload(vip())
    if lost:
        node.send(ev.PluginLost(source=1))
    node.wait(TTL + LEAVE_PATIENCE)
    assert addresses(2)[0] in node.kernel.addresses
    node.wait(SETTLE)
    assert addresses(2)[0] not in node.kernel.addresses


def test_a_lost_plugin_keeps_a_dropped_address_for_as_long_as_the_lease_it_has() -> None:
    node = up(vip(), vip("mail", number=2))
    node.send(ev.Reconfigured(config=replace(node.state.config, timing=replace(Timing(), lease_ttl=20.0))))
    node.acknowledge()
    node.send(ev.PluginLost(source=1))
    node.reload(vip(), vip("mail", number=2))  # with the short lease again, which it never hears of
    node.reload(vip())
    node.wait(20.0 + LEAVE_PATIENCE)
    assert addresses(2)[0] in node.kernel.addresses
    node.wait(SETTLE)
    assert addresses(2)[0] not in node.kernel.addresses


@pytest.mark.parametrize("waits", [True, False])
def test_a_lost_plugin_that_has_yet_to_announce_a_route_keeps_its_address(*, waits: bool) -> None:
    node = up(vip(), vip("mail", number=2))
    assert node.lease is not None
    pending = frozenset(node.routes if waits else ())  # or ExaBGP refused them, and is asked again
    node.send(ev.PluginReported(source=1, report=Report(seq=node.lease.seq, pending=pending)))
    node.send(ev.PluginLost(source=1))
    node.reload(vip())
    node.wait(TTL + LEAVE_PATIENCE)
    assert addresses(2)[0] in node.kernel.addresses
    node.wait(SETTLE)
    assert addresses(2)[0] not in node.kernel.addresses


def test_an_address_that_comes_back_while_the_kernel_removes_it_waits_for_the_kernel() -> None:
    both = replace(vip(), addresses=(addresses(1)[0], addresses(3)[0]))
    node = up(both)
    node.reload(vip())
    node.acknowledge()
    node.kernel_is_slow = True
    node.wait(SETTLE)
    assert isinstance(node.job, ev.ProgramKernel)
    assert kernels.RemoveAddress(address=addresses(3)[0]) in node.job.ops
    node.reload(both)
    assert node.routes == [route(1)]
    node.kernel_is_slow = False
    node.kernel_answers()
    assert node.routes == [route(1), route(3)]
    assert addresses(3)[0] in node.kernel.addresses


def test_servers_that_come_back_while_the_kernel_takes_them_out_bring_no_route_up() -> None:
    node = up()
    node.kernel_is_slow = True
    node.checks(Outcome.FAIL)
    assert isinstance(node.job, ev.ProgramKernel)
    node.checks(Outcome.OK)
    assert node.routes == []
    node.kernel_is_slow = False
    node.kernel_answers()
    assert node.routes == [route(1)]
    assert node.weights() == [1, 1, 1]


def test_a_plugin_that_is_lost_with_a_route_keeps_its_address_whatever_the_others_say() -> None:
    node = up(vip(), vip("mail", number=2))
    node.send(ev.PluginConnected(source=2))
    node.reload(vip())
    node.send(ev.PluginLost(source=2))
    node.acknowledge()
    node.wait(SETTLE)
    assert addresses(2)[0] in node.kernel.addresses
    node.wait(TTL + LEAVE_PATIENCE)
    assert addresses(2)[0] not in node.kernel.addresses


def test_an_address_that_comes_back_while_it_leaves_was_never_taken_out() -> None:
    node = up(vip(), vip("mail", number=2))
    programs = len(node.programs)
    node.reload(vip())
    node.reload(vip(), vip("mail", number=2))
    assert set(node.routes) == {route(1), route(2)}
    node.acknowledge()
    node.wait(60)
    assert len(node.programs) == programs
    assert set(node.routes) == {route(1), route(2)}


def test_an_address_that_comes_back_while_the_kernel_does_not_answer_waits_for_it() -> None:
    node = up()
    node.reload(vip(number=2))
    assert node.routes == [route(2)]
    node.kernel_breaks = "no answer"
    node.kernel_changed()
    node.reload(vip())
    assert node.routes == []
    node.kernel_breaks = None
    node.wait(1.0)
    assert node.routes == [route(1)]


def test_an_address_that_moves_to_another_vip_keeps_its_route() -> None:
    node = up(vip(), vip("mail", number=2))
    node.reload(vip("mail", number=1), vip("web", number=2))
    assert set(node.routes) == {route(1), route(2)}
    assert node.kernel.addresses == {addresses(1)[0], addresses(2)[0]}


def test_a_new_address_of_a_standing_vip_needs_as_many_servers_as_a_vip_that_comes_up() -> None:
    node = up()
    node.checks(Outcome.FAIL, 2, 3)
    node.reload(vip(number=2))
    assert node.routes == [], "one usable server carries the old route, not a new one"
    node.checks(Outcome.OK, 2)
    assert node.routes == [route(2)]


def test_a_new_family_comes_up_only_when_its_own_servers_answer() -> None:
    node = up()
    node.reload(vip(both_families=True))
    assert node.routes == [route(1)]
    node.checks(Outcome.OK)
    assert node.routes == [route(1), route6(1)]


def test_a_lease_of_a_longer_life_is_sent_before_the_short_one_runs_out() -> None:
    node = up()
    longer = replace(node.state.config, timing=replace(Timing(), lease_ttl=20.0))
    node.send(ev.Reconfigured(config=longer))
    assert node.lease is not None
    assert node.lease.ttl == 20.0


def test_a_reload_while_it_stops_brings_nothing_back() -> None:
    node = up()
    node.send(ev.StopRequested())
    node.reload(vip("mail", number=2))
    node.checks(Outcome.OK)
    assert node.routes == []
    assert node.state.vips["mail"].verdict.advertise is Advertise.NO


def test_a_stopping_node_withdraws_waits_for_the_word_and_leaves_the_kernel() -> None:
    node = up()
    node.send(ev.StopRequested())
    assert node.routes == []
    assert node.exit is None
    node.send(ev.StopRequested())
    node.kernel = before = replace(node.kernel, addresses=frozenset())
    node.kernel_changed()
    node.acknowledge()
    assert node.exit == ev.Exit(clean=True)
    assert node.kernel == before


def test_a_stopping_node_does_not_wait_for_ever() -> None:
    node = up()
    node.send(ev.StopRequested())
    node.wait(STOP_PATIENCE)
    assert node.exit == ev.Exit(clean=False)


def test_a_plugin_that_has_said_nothing_is_not_taken_for_withdrawn() -> None:
    node = up()
    node.send(ev.PluginConnected(source=2))
    node.send(ev.StopRequested())
    node.acknowledge()
    assert node.exit is None


def test_a_plugin_that_has_not_come_to_the_last_lease_is_not_taken_for_withdrawn() -> None:
    node = up()
    node.send(ev.PluginConnected(source=2))
    node.send(ev.PluginReported(source=2, report=Report(seq=0)))
    node.send(ev.StopRequested())
    node.acknowledge()
    assert node.exit is None
    assert node.lease is not None
    node.send(ev.PluginReported(source=2, report=Report(seq=node.lease.seq)))
    assert node.exit == ev.Exit(clean=True)


def test_after_the_end_nothing_happens() -> None:
    node = up()
    node.send(ev.StopRequested())
    node.acknowledge()
    state: State = node.state
    for event in (ev.Tick(), ev.StopRequested(), ev.PluginConnected(source=9)):
        assert step(state, event, node.now) == (state, ())


def test_with_nothing_to_do_it_sleeps_until_the_next_lease() -> None:
    node = up()
    node.wait(0.01)
    assert 0 < next_wake(node.state, node.now) - node.now <= TTL / 3
