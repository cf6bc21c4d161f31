"""The sorry pool: who serves while the quorum of the real servers is lost, and that nobody else notices."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from anycast.core.dataplane import ipvs
from anycast.core.dataplane.kernel import ExpireDestinations
from anycast.core.health.phase import Outcome
from anycast.core.planned import planned
from anycast.core.preference import needs
from anycast.core.values.configuration import Pool, Protocol, Quorum, Scheduler, Timing, Vip, WhenUnhealthy
from anycast.core.values.fates import Fate
from anycast.core.values.route import GRACEFUL_SHUTDOWN
from anycast.core.vip.decide import (
    Advertise,
    Reason,
    RequirementFacts,
    ServiceFacts,
    SorryFacts,
    decide,
)
from anycast.core.vip.facts import would_fall
from anycast.core.vip.lifecycle import Life
from tests.fakes import Node, route, up, vip
from tests.property.worlds import CHECK, busied, config, server
from tests.unit.core.test_decision import GOOD, failed

SORRY = Pool(name="sorry", servers=(server(9),), check=CHECK)


def sorry(servers: tuple[int, ...] = (1, 2, 3), **service: Any) -> Vip:
    return vip(servers=servers, **{"sorry": SORRY, **service})


def is_last(node: Node) -> bool:
    assert node.lease is not None
    return GRACEFUL_SHUTDOWN in node.lease.routes[route(1)].communities


def facts(node: Node) -> ServiceFacts:
    (found,) = node.state.services.values()
    return found


# The service.


def test_it_stands_by_with_weight_0_in_its_place_of_the_table() -> None:
    node = up(sorry())
    assert node.weights() == [1, 1, 1, 0]
    (entry,) = node.kernel.table.values()
    assert [one.table_weight for one in entry.destinations] == [1, 1, 1, 1]
    assert (node.reason(), is_last(node)) == (Reason.HEALTHY, False)
    assert (facts(node).total, facts(node).usable) == (3, 3), "it is no real server"


def test_it_has_the_clients_once_the_quorum_is_lost_and_until_it_is_won_again() -> None:
    node = up(sorry())
    node.checks(Outcome.FAIL, 1, 2)
    assert node.weights() == [0, 0, 1, 0], "one is enough to stay"
    programs = len(node.programs)
    node.checks(Outcome.FAIL, 3)
    assert node.weights() == [0, 0, 0, 1]
    assert len(node.programs) == programs + 1
    assert (node.reason(), is_last(node)) == (Reason.SORRY, True)
    node.checks(Outcome.OK, 1)
    assert node.weights() == [0, 0, 0, 1], "two are needed to come back"
    node.checks(Outcome.OK, 2)
    assert node.weights() == [1, 1, 0, 0]
    node.wait(5)
    assert (node.reason(), is_last(node)) == (Reason.HEALTHY, False)


def test_the_route_is_there_at_every_step() -> None:
    node = up(sorry())
    for number in (1, 2, 3):
        node.checks(Outcome.FAIL, number)
        assert node.routes == [route(1)]
    for number in (3, 2, 1):
        node.checks(Outcome.OK, number)
        assert node.routes == [route(1)]


def test_nobody_enters_or_leaves_the_table_for_it() -> None:
    """No place in it becomes another one: only weights are written."""
    node = up(sorry(scheduler=Scheduler.MH))
    (before,) = node.kernel.table.values()
    programs = len(node.programs)
    node.checks(Outcome.FAIL, 1, 2, 3)
    node.checks(Outcome.OK, 1, 2, 3)
    (after,) = node.kernel.table.values()
    assert after == before
    ops = [op for program in node.programs[programs:] for op in program]
    assert {type(op) for op in ops} == {ipvs.SetDestination}
    key = next(iter(node.kernel.table))
    assert ipvs.fingerprint(after, node.state.desired.table[key]) == ipvs.fingerprint(
        before, node.state.desired.table[key]
    )


def test_a_quorum_of_two_brings_it_while_one_real_server_is_left() -> None:
    """Fewer real servers are never served better than more."""
    node = up(sorry(quorum=Quorum(low=2, high=2)))
    node.checks(Outcome.FAIL, 1, 2)
    assert node.weights() == [0, 0, 0, 1], "too few to carry all of them carry none"
    assert "1 of 3 real servers are usable, 2 needed" in node.state.vips["web"].verdict.detail


def test_where_it_cannot_serve_either_all_is_as_without_it() -> None:
    node = up(sorry())
    node.checks(Outcome.FAIL, 9)
    assert (node.reason(), node.weights()) == (Reason.HEALTHY, [1, 1, 1, 0])
    node.checks(Outcome.FAIL)
    assert (node.reason(), node.routes, node.weights()) == (Reason.BELOW_QUORUM, [], [0, 0, 0, 0])
    node.checks(Outcome.OK, 9)
    assert (node.reason(), node.routes, node.weights()) == (Reason.SORRY, [route(1)], [0, 0, 0, 1])
    node.checks(Outcome.FAIL, 9)
    assert (node.reason(), node.routes) == (Reason.BELOW_QUORUM, [])


def test_one_that_is_drained_does_not_serve() -> None:
    node = up(sorry())
    node.maintain("sorry/rs9")
    node.checks(Outcome.FAIL, 1, 2, 3)
    assert node.reason() is Reason.BELOW_QUORUM
    node.maintain("sorry/rs9", on=False)
    assert (node.reason(), node.weights()) == (Reason.SORRY, [0, 0, 0, 1])


def test_draining_the_last_real_server_brings_it() -> None:
    node = up(sorry((1, 2)))
    node.maintain("web/rs1")
    node.maintain("web/rs2")
    assert (node.reason(), node.weights()) == (Reason.SORRY, [0, 0, 1])


def test_the_last_server_of_either_pool_is_drained_only_by_force() -> None:
    node = up(sorry((1,), quorum=Quorum(low=1, high=1)))
    assert would_fall(node.state, "web/rs1") == ("web tcp/80 IPv4",), "the sorry pool is no real server"
    assert would_fall(node.state, "sorry/rs9") == ()
    node.checks(Outcome.FAIL, 1)
    assert would_fall(node.state, "sorry/rs9") == ("web tcp/80 IPv4",)
    assert would_fall(node.state, "web/rs1") == ()


def test_all_families_and_all_services_have_their_own() -> None:
    node = up(sorry(ports=(80, 443), both_families=True))
    node.checks(Outcome.FAIL, 1, 2, 3)
    assert {tuple(one.weight for one in entry.destinations) for entry in node.kernel.table.values()} == {
        (0, 0, 0, 1)
    }
    assert all(one.by_sorry for one in node.state.services.values())


def test_one_service_without_it_takes_the_vip_back() -> None:
    one = sorry(ports=(80, 443))
    one = replace(one, services=(one.services[0], replace(one.services[1], sorry=None)))
    node = up(one)
    node.checks(Outcome.FAIL, 1, 2, 3)
    assert (node.reason(), node.routes) == (Reason.BELOW_QUORUM, [])
    assert "tcp/443" in node.state.vips["web"].verdict.detail
    assert "tcp/80" not in node.state.vips["web"].verdict.detail


@pytest.mark.parametrize("scheduler", list(Scheduler))
def test_every_scheduler_is_served_alike(scheduler: Scheduler) -> None:
    node = up(sorry(scheduler=scheduler))
    node.checks(Outcome.FAIL, 1, 2, 3)
    assert node.weights() == [0, 0, 0, 1]


# Its life.


def test_a_node_that_starts_while_all_real_servers_are_dead_serves_by_it() -> None:
    node = Node(sorry())
    node.checks(Outcome.FAIL, 1, 2, 3, times=1)
    assert node.routes == []
    node.checks(Outcome.OK, 9, times=1)
    assert (node.reason(), node.routes, node.weights()) == (Reason.SORRY, [route(1)], [0, 0, 0, 1])


def test_an_agent_that_starts_goes_on_where_the_one_before_it_was() -> None:
    node = up(sorry())
    node.checks(Outcome.FAIL, 1, 2, 3)
    again = Node(sorry(), found=node.kernel)
    assert again.weights() == [0, 0, 0, 1], "before any check has ended"
    again.checks(Outcome.FAIL, 1, 2, 3, times=1)
    assert again.weights() == [0, 0, 0, 1]
    again.checks(Outcome.OK, 9, times=1)
    assert (again.reason(), again.weights()) == (Reason.SORRY, [0, 0, 0, 1])
    again.checks(Outcome.OK, 1, 2)
    again.wait(5)
    assert (again.reason(), again.weights()) == (Reason.HEALTHY, [1, 1, 0, 0])


def test_an_agent_that_starts_after_a_recovery_gives_it_no_client() -> None:
    node = up(sorry())
    again = Node(sorry(), found=node.kernel)
    assert again.weights() == [1, 1, 1, 0]
    again.checks(Outcome.OK)
    assert (again.reason(), again.weights()) == (Reason.HEALTHY, [1, 1, 1, 0])


def test_an_agent_that_starts_waits_for_connections_that_the_one_before_it_has_left() -> None:
    node = up(sorry())
    node.checks(Outcome.FAIL, 1, 2, 3)
    node.kernel = busied(node.kernel, lambda one, _: ipvs.Connections(3 if one.weight else 0))
    node.checks(Outcome.OK, 1, 2, 3)
    assert is_last(node)
    again = Node(sorry(), found=node.kernel)
    again.checks(Outcome.OK)
    assert (again.reason(), is_last(again), again.weights()) == (Reason.SORRY, True, [1, 1, 1, 0])
    again.kernel = busied(again.kernel, lambda one, _: ipvs.Connections(0))
    again.wait(6)
    assert (again.reason(), is_last(again)) == (Reason.HEALTHY, False)


def test_an_agent_whose_checks_are_through_before_the_kernel_is_read_looks_for_them_then() -> None:
    node = up(sorry())
    node.checks(Outcome.FAIL, 1, 2, 3)
    node.kernel = busied(node.kernel, lambda one, _: ipvs.Connections(3 if one.weight else 0))
    node.checks(Outcome.OK, 1, 2, 3)
    again = Node(sorry(), found=node.kernel, kernel_is_slow=True)
    again.checks(Outcome.OK)
    again.kernel_is_slow = False
    again.kernel_answers()
    assert (again.reason(), again.weights()) == (Reason.SORRY, [1, 1, 1, 0])
    again.wait(3)
    assert is_last(again)


def test_an_agent_that_starts_does_not_wait_for_ever() -> None:
    node = up(sorry())
    node.checks(Outcome.FAIL, 1, 2, 3)
    node.kernel = busied(node.kernel, lambda one, _: ipvs.Connections(3 if one.weight else 0))
    node.checks(Outcome.OK, 1, 2, 3)
    again = Node(sorry(), found=node.kernel)
    again.checks(Outcome.OK)
    again.wait(again.state.config.timing.server_drain + 6)
    assert (again.reason(), is_last(again)) == (Reason.HEALTHY, False)


def test_its_own_memory_is_of_the_quorum_and_not_of_the_route() -> None:
    """A maintenance of the VIP must not leave a service in between, with neither clients nor a sorry pool."""
    node = up(sorry())
    node.checks(Outcome.FAIL, 1, 2)
    node.maintain("web")
    node.wait(60)
    assert node.routes == []
    node.maintain("web", on=False)
    node.wait(1)
    assert (node.reason(), node.routes, node.weights()) == (Reason.HEALTHY, [route(1)], [0, 0, 1, 0])


def test_a_reload_brings_and_removes_it() -> None:
    node = up(vip())
    node.checks(Outcome.FAIL)
    assert node.routes == []
    node.reload(sorry())
    assert node.weights() == [0, 0, 0, 0], "nothing is known of it yet"
    node.checks(Outcome.OK, 9, times=1)
    assert (node.reason(), node.weights()) == (Reason.SORRY, [0, 0, 0, 1])
    node.reload(vip())
    assert (node.reason(), node.routes) == (Reason.BELOW_QUORUM, [])
    assert node.weights() == [0, 0, 0]


def test_a_reload_from_one_to_another_leaves_no_moment_without_it() -> None:
    node = up(sorry())
    node.checks(Outcome.FAIL, 1, 2, 3)
    node.reload(sorry(sorry=replace(SORRY, servers=(server(8),))))
    assert (node.reason(), node.routes) == (Reason.SORRY, [route(1)])
    assert node.weights() == [0, 0, 0, 1], (
        "the new one, before its first check; the old one had no connections"
    )
    node.checks(Outcome.FAIL, 8, times=1)
    assert (node.reason(), node.routes) == (Reason.BELOW_QUORUM, [])


def test_a_reload_that_removes_it_while_it_serves_leaves_the_living_real_servers() -> None:
    node = up(sorry(quorum=Quorum(low=2, high=2)))
    node.checks(Outcome.FAIL, 1, 2)
    assert node.weights() == [0, 0, 0, 1]
    node.reload(vip(quorum=Quorum(low=1, high=1)))
    assert node.weights()[:3] == [0, 0, 1]
    assert (node.reason(), node.routes) == (Reason.HEALTHY, [route(1)])


def test_a_reload_that_removes_it_lets_its_connections_end() -> None:
    node = up(sorry())
    node.checks(Outcome.FAIL, 1, 2, 3)
    node.kernel = busied(node.kernel, lambda one, _: ipvs.Connections(3 if one.weight else 0))
    node.kernel_changed()
    node.reload(vip())
    assert node.weights() == [0, 0, 0, 0]
    node.wait(node.state.config.timing.server_drain + 10)
    assert node.weights() == [0, 0, 0]


def test_a_plan_of_a_reload_names_it_among_the_real_servers() -> None:
    (change,) = planned(up(vip()).state, config(sorry()), 0.0).services
    assert [(one.server, one.fate) for one in change.servers] == [("sorry/rs9", Fate.ADDED)]


def test_a_last_resort_gives_way_to_it() -> None:
    one = replace(sorry(), when_unhealthy=WhenUnhealthy.LAST_RESORT)
    node = up(one)
    node.checks(Outcome.FAIL, 1, 2, 3)
    assert (node.reason(), node.weights()) == (Reason.SORRY, [0, 0, 0, 1])
    node.checks(Outcome.FAIL, 9)
    assert (node.reason(), node.weights()) == (Reason.BELOW_QUORUM, [1, 1, 1, 0])
    assert is_last(node)
    node.checks(Outcome.OK, 9)
    assert (node.reason(), node.weights()) == (Reason.SORRY, [0, 0, 0, 1])
    node.checks(Outcome.OK, 1, 2)
    node.wait(5)
    assert (node.reason(), node.weights()) == (Reason.HEALTHY, [1, 1, 0, 0])


# Connections to it.


def busy(node: Node, **active: int) -> None:
    """Each server with weight has so many connections, or the sorry pool has `sorry`."""
    ninth = server(9).addresses[0]
    node.kernel = busied(
        node.kernel,
        lambda one, _: ipvs.Connections(active["sorry"] if one.address == ninth else 0),
    )
    node.kernel_changed()


def test_the_route_is_the_last_resort_until_its_connections_have_ended() -> None:
    """Another node is still sorry: with a better route this one would get, and break, what that one serves."""
    node = up(sorry())
    node.checks(Outcome.FAIL, 1, 2, 3)
    busy(node, sorry=3)
    node.checks(Outcome.OK)
    assert node.weights() == [1, 1, 1, 0], "new clients have real servers at once"
    assert (node.reason(), is_last(node)) == (Reason.SORRY, True)
    assert facts(node).sorry is not None
    assert node.state.vips["web"].verdict.detail == (
        "tcp/80 IPv4: served by real servers again, connections to the sorry pool may be left"
    )
    node.wait(20)
    assert is_last(node)
    busy(node, sorry=0)
    node.wait(6)
    assert (node.reason(), is_last(node)) == (Reason.HEALTHY, False)
    assert not node.state.sorry


def test_the_route_is_the_last_resort_for_no_longer_than_connections_may_go_on() -> None:
    node = up(sorry())
    _left(node)
    node.wait(Timing().server_drain - 1)
    assert node.reason() is Reason.SORRY
    node.wait(10)
    assert node.reason() is Reason.HEALTHY


def test_without_connections_or_where_they_are_ended_at_once_it_is_no_longer_the_last_resort() -> None:
    for one in (sorry(protocol=Protocol.UDP), sorry(protocol=Protocol.UDP, one_packet=True)):
        node = up(one)
        node.checks(Outcome.FAIL, 1, 2, 3)
        busy(node, sorry=3)
        node.checks(Outcome.OK, 1, 2, 3)
        assert node.reason() is Reason.HEALTHY


def test_real_servers_that_fail_again_meanwhile_bring_it_back() -> None:
    node = up(sorry())
    _left(node)
    node.checks(Outcome.FAIL, 1, 2, 3)
    assert (node.weights(), node.reason()) == ([0, 0, 0, 1], Reason.SORRY)
    assert not node.state.sorry
    assert node.routes == [route(1)]


def _left(node: Node) -> None:
    node.checks(Outcome.FAIL, 1, 2, 3)
    node.kernel = busied(node.kernel, lambda one, _: ipvs.Connections(1 if one.weight else 0))
    node.kernel_changed()
    node.checks(Outcome.OK, 1, 2, 3)
    assert node.weights() == [1, 1, 1, 0]


def _ended(node: Node) -> list[ipvs.RemoveDestination]:
    return [
        one
        for program in node.programs
        for op in program
        if isinstance(op, ExpireDestinations)
        for one in op.removals
    ]


def test_connections_to_it_go_on_for_as_long_as_those_of_a_server_that_is_taken_out() -> None:
    node = up(sorry(expire_failed=None))
    _left(node)
    node.wait(Timing().server_drain - 10)
    assert _ended(node) == []
    node.wait(20)
    (ended,) = _ended(node)
    assert ended.key == (server(9).addresses[0], 80)
    assert node.weights() == [1, 1, 1, 0], "it has its place again"


def test_a_client_that_sends_udp_for_ever_does_not_stay_there() -> None:
    node = up(sorry(expire_failed=None, protocol=Protocol.UDP))
    _left(node)
    node.wait(6)
    assert len(_ended(node)) == 1


# The decision.


def _facts(**changes: Any) -> ServiceFacts:
    return ServiceFacts(
        **{"name": "tcp/80 IPv4", "usable": 0, "total": 3, "quorum": Quorum(low=1, high=2), **changes}
    )


SERVED = _facts(sorry=SorryFacts(usable=1, total=1, serves=True, since=1.0))


def test_it_announces_the_vip_as_the_last_resort_for_real_servers_elsewhere_are_better() -> None:
    """The one node whose way to the real servers is cut must not answer a share of the clients."""
    verdict = decide(replace(GOOD, services=(SERVED,)))
    assert (verdict.advertise, verdict.reason) == (Advertise.DRAIN, Reason.SORRY)
    assert verdict.is_last_resort
    assert verdict.detail == (
        "tcp/80 IPv4: served by the sorry pool (1 of 1 usable), for 0 of 3 real servers are usable, 2 needed"
    )


@pytest.mark.parametrize("reason", [Reason.NODE_CHECK_FAILED, Reason.VIP_CHECK_FAILED])
def test_what_else_is_in_the_way_takes_the_route_back(reason: Reason) -> None:
    verdict = decide(replace(GOOD, services=(SERVED,), requirements=(failed(reason),)))
    assert (verdict.advertise, verdict.reason) == (Advertise.NO, reason)
    elsewhere: RequirementFacts = replace(failed(Reason.VIP_CHECK_FAILED), of_node=False)
    both = replace(GOOD, services=(SERVED,), requirements=(elsewhere,))
    assert decide(both).advertise is Advertise.NO
    assert decide(replace(both, when_unhealthy=WhenUnhealthy.LAST_RESORT)).advertise is Advertise.DRAIN


def test_it_stays_while_the_kernel_is_changed_and_comes_up_once_it_is_read_back() -> None:
    changing = replace(GOOD, services=(SERVED,), proof=GOOD.proof.PENDING, difference="x")
    assert decide(replace(changing, life=Life.WITHDRAWN)).advertise is Advertise.NO
    assert decide(replace(changing, life=Life.ANNOUNCED)).is_last_resort


def test_a_plugin_must_know_how_to_announce_a_last_resort() -> None:
    assert needs(config(sorry())) == 2


def test_one_that_was_taken_out_before_the_first_reading_is_no_real_server_at_the_next_reload() -> None:
    node = Node(sorry(), kernel_is_slow=True)
    node.reload(vip())
    node.reload(vip(servers=(1, 2, 3, 4)))
    assert not node.state.kept
