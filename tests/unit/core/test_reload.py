"""A change of configuration, by reload or by restart: what leaves, what retires, and who is who."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from anycast.core import events as ev
from anycast.core import reload
from anycast.core.dataplane import kernel as kernels
from anycast.core.dataplane.ipvs import Connections, MarkKey, ServiceKey
from anycast.core.dataplane.loop import CHANGED_EVERY
from anycast.core.health.phase import Outcome
from anycast.core.maintenance.stages import Stage
from anycast.core.owned import owned_by
from anycast.core.values.configuration import ConnectionSync, Forwarding, Pool, Timing, Vip
from anycast.core.vip.decide import Reason
from tests.fakes import TTL, Node, addresses, route, up, vip
from tests.property.worlds import CHECK, busied, config, server, told

DRAIN = Timing().server_drain


def busy(node: Node) -> None:
    """Every real server has a connection."""
    node.kernel = busied(node.kernel, lambda one, counts: Connections(active=1))


def restarted(node: Node, *vips: Vip, **settings: Any) -> Node:
    """The agent ends without a word, and another starts with another configuration."""
    assert node.owned is not None
    return Node(
        *vips,
        found=node.kernel,
        now=node.now + 0.5,
        left=node.owned,
        kept=dict(node.saved or {}),
        **settings,
    )


def service(number: int, port: int = 80) -> ServiceKey:
    return next(
        key
        for key in owned_by(config(vip(number=number, ports=(port,)))).services
        if isinstance(key, ServiceKey)
    )


# What was proven counts, whatever the new configuration says.


@pytest.mark.parametrize(("before", "after"), [(5.0, 1.0), (60.0, 5.0), (1.0, 60.0)])
def test_another_reconcile_interval_takes_no_route_away(before: float, after: float) -> None:
    node = Node(vip(), timing=Timing(reconcile=before))
    node.checks(Outcome.OK)
    node.acknowledge()
    node.wait(0.9 * before)
    for _ in range(100):
        node.reload(vip(), timing=Timing(reconcile=after))
        assert node.routes == [route(1)]
        node.wait(after / 50)
        assert node.routes == [route(1)]


def test_a_sysctl_that_is_needed_now_and_has_its_value_already_takes_no_route_away() -> None:
    right = {**kernels.IPVS_SYSCTLS, **kernels.SYNC_SYSCTLS}
    node = Node(
        vip(), found=kernels.Snapshot(table={}, addresses=frozenset(), sysctls=right), manage_sysctls=False
    )
    node.checks(Outcome.OK)
    node.kernel_is_slow = True
    node.reload(vip(), connection_sync=ConnectionSync(interface="lan0"))
    while node.job is not None:
        assert node.routes == [route(1)]
        node.kernel_answers()
    assert node.reason() is Reason.HEALTHY


def test_sysctls_that_may_be_written_by_now_are_written() -> None:
    node = Node(vip(), manage_sysctls=False)
    node.checks(Outcome.OK)
    assert not node.kernel.sysctls
    node.reload(vip(), manage_sysctls=True)
    assert node.reason() is Reason.HEALTHY


@pytest.mark.parametrize(("family", "is_told"), [(6, True), (4, False)])
def test_who_writes_forwarding_by_hand_is_told_what_has_to_come_first(family: int, *, is_told: bool) -> None:
    wrong = dict.fromkeys(kernels.NAT_SYSCTLS[family], "0")
    sysctls = {**kernels.IPVS_SYSCTLS, **kernels.NAT_SYSCTLS[4], **kernels.NAT_SYSCTLS[6], **wrong}
    node = Node(
        vip(both_families=True, forwarding=Forwarding.NAT),
        found=kernels.Snapshot(table={}, addresses=frozenset(), sysctls=sysctls),
        manage_sysctls=False,
    )
    node.checks(Outcome.OK)
    assert node.routes == []
    detail = node.state.vips["web"].verdict.detail
    assert "forward" in detail
    assert ("first accept_ra=2 on every interface" in detail) is is_told


# What leaves.


def test_a_port_that_is_dropped_keeps_its_connections_until_they_end() -> None:
    node = up(vip(ports=(80, 443)))
    busy(node)
    node.reload(vip(ports=(80,)))
    assert [each.weight for each in node.kernel.table[service(1, 443)].destinations] == [0, 0, 0]
    assert node.routes == [route(1)]
    node.wait(DRAIN - 1.0)
    assert service(1, 443) in node.kernel.table
    node.wait(2.0)
    assert service(1, 443) not in node.kernel.table
    assert node.owned == node.state.configured


def test_a_port_without_connections_goes_once_it_was_read_so() -> None:
    node = up(vip(ports=(80, 443)))
    node.reload(vip(ports=(80,)))
    assert service(1, 443) not in node.kernel.table


def test_an_address_that_moves_to_another_vip_keeps_the_connections_of_the_old_one() -> None:
    node = up(vip("web", number=1, ports=(80,)), vip("log", number=2))
    busy(node)
    node.reload(vip("web", number=3, ports=(80,)), vip("shop", number=1, ports=(443,)), vip("log", number=2))
    assert service(1, 80) in node.kernel.table
    node.wait(DRAIN + 1.0)
    assert service(1, 80) not in node.kernel.table


def test_a_mark_that_addresses_share_leaves_with_the_last_of_them() -> None:
    def marked(*numbers: int, servers: tuple[int, ...] = (1, 2, 3)) -> Vip:
        made = vip(servers=servers, mark=7, port=0)
        return replace(made, addresses=tuple(addresses(number)[0] for number in numbers))

    node = up(marked(1, 3))
    key = MarkKey(mark=7, version=4)
    node.reload(marked(1, servers=(1, 2, 4)), vip("log", number=2))
    node.checks(Outcome.FAIL, 4)
    node.reload(vip("log", number=2))
    assert [each.weight for each in node.kernel.table[key].destinations if each.weight] == [1, 1]
    node.acknowledge()
    node.wait(5.0)
    assert key not in node.kernel.table
    assert node.kernel.addresses == {addresses(2)[0]}


def test_an_address_that_has_left_a_mark_has_no_part_in_what_becomes_of_it_later() -> None:
    def marked(*numbers: int) -> Vip:
        made = vip(mark=7, port=0)
        return replace(made, addresses=tuple(addresses(number)[0] for number in numbers))

    node = up(marked(1, 3))
    node.reload(marked(1))
    node.acknowledge()
    node.wait(10.0)
    assert node.state.owned == node.state.configured
    node.reload(vip("log", number=2))
    # Until the last route is gone it serves new clients too.
    destinations = node.kernel.table[MarkKey(mark=7, version=4)].destinations
    assert [each.weight for each in destinations] == [1, 1, 1]


def test_an_address_that_goes_from_a_mark_to_another_vip_has_no_part_in_the_mark_any_more() -> None:
    made = vip(mark=7, port=0)
    node = up(replace(made, addresses=(addresses(1)[0], addresses(3)[0])))
    node.reload(made, vip("mail", number=3))
    node.acknowledge()
    node.wait(10.0)
    assert node.state.owned == node.state.configured


def test_a_port_that_is_dropped_while_the_kernel_gives_it_clients_keeps_their_connections() -> None:
    node = up(vip(ports=(80, 443)))
    node.checks(Outcome.FAIL)
    node.kernel_is_slow = True
    node.checks(Outcome.OK)
    node.reload(vip())
    job, node.job, node.kernel_is_slow = node.job, None, False
    assert isinstance(job, ev.ProgramKernel)
    node.play(job.ops)
    busy(node)
    node.send(ev.KernelRead(snapshot=told(node.kernel, job.sysctls)))
    node.wait(DRAIN / 2)
    assert service(1, 443) in node.kernel.table
    node.wait(DRAIN)
    assert service(1, 443) not in node.kernel.table


@pytest.mark.parametrize("answered", [True, False])
def test_a_port_that_is_dropped_while_the_kernel_adds_it_keeps_its_connections(*, answered: bool) -> None:
    def forwarding(*ports: int) -> Vip:
        """Each port to the same one of the real servers, so that one check speaks for all."""
        made = vip(ports=ports, forwarding=Forwarding.NAT)
        pool = made.services[0].pool
        pool = replace(pool, servers=tuple(replace(each, port=80) for each in pool.servers))
        return replace(made, services=tuple(replace(each, pool=pool) for each in made.services))

    node = up(forwarding(80))
    node.kernel_is_slow = True
    node.reload(forwarding(80, 443))
    node.reload(forwarding(80))
    job, node.job, node.kernel_is_slow = node.job, None, False
    assert isinstance(job, ev.ProgramKernel)
    node.play(job.ops)
    busy(node)
    if answered:
        node.send(ev.KernelRead(snapshot=told(node.kernel, job.sysctls)))
    else:
        node.send(ev.KernelFailed(reason="timed out"))
    node.wait(DRAIN / 2)
    assert service(1, 443) in node.kernel.table
    node.wait(DRAIN)
    assert service(1, 443) not in node.kernel.table


# A restart goes the same way.


def test_a_vip_that_was_removed_while_the_agent_was_down_leaves_the_kernel() -> None:
    node = restarted(up(vip(), vip("log", number=2)), vip())
    node.checks(Outcome.OK)
    node.acknowledge()
    assert addresses(2)[0] in node.kernel.addresses
    node.wait(30.0)
    assert node.kernel.addresses == {addresses(1)[0]}
    assert set(node.kernel.table) == {service(1)}
    assert node.owned == node.state.configured


def test_a_server_that_was_removed_while_the_agent_was_down_finishes_its_connections() -> None:
    node = up()
    busy(node)
    node = restarted(node, vip(servers=(1, 2)))
    node.checks(Outcome.OK)
    assert node.weights() == [1, 1, 0]
    node.wait(DRAIN + 1.0)
    assert node.weights() == [1, 1]


def test_what_another_program_added_is_not_kept_by_a_restart() -> None:
    node = up()
    foreign = replace(node.kernel.table[service(1)].destinations[0], address=server(6).addresses[0])
    entry = node.kernel.table[service(1)]
    entry = replace(entry, destinations=(*entry.destinations, foreign))
    node.kernel = replace(node.kernel, table={**node.kernel.table, service(1): entry})
    busy(node)
    node = restarted(node, vip())
    node.checks(Outcome.OK)
    assert node.weights() == [1, 1, 1]


def test_a_hung_plugin_of_the_agent_before_is_waited_for_by_its_own_lease() -> None:
    first = Node(vip(), vip("log", number=2), timing=Timing(lease_ttl=20.0))
    first.checks(Outcome.OK)
    first.acknowledge()
    node = restarted(first, vip(), timing=Timing(lease_ttl=2.0))
    node.checks(Outcome.OK)
    node.acknowledge()  # another one: the old one hangs with the old lease
    node.wait(20.0 + 5.0)
    assert addresses(2)[0] in node.kernel.addresses
    node.wait(5.0)
    assert addresses(2)[0] not in node.kernel.addresses


def test_a_lease_of_a_longer_ttl_is_owned_until_it_has_run_out() -> None:
    node = Node(vip(), timing=Timing(lease_ttl=30.0))
    node.checks(Outcome.OK)
    node.reload(vip(), timing=Timing())
    node.wait(29.0)
    assert node.owned is not None
    assert node.owned.lease_ttl == 30.0
    node.wait(2 * Timing().reconcile)
    assert node.owned.lease_ttl == TTL


def test_a_reading_that_fails_once_at_a_restart_costs_no_route() -> None:
    node = restarted(up(), vip(), kernel_breaks="timed out")
    node.checks(Outcome.OK)
    assert node.lease is None  # the one before stands
    node.kernel_breaks = None
    node.wait(0.5)
    first = node.lease
    assert first is not None
    assert (first.seq, node.routes) == (1, [route(1)])


def test_a_reading_that_goes_on_failing_sends_the_lease_in_time() -> None:
    node = restarted(up(), vip(), kernel_breaks="timed out")
    node.wait(TTL)
    assert node.lease is not None
    assert node.routes == []


# Names.


def test_a_vip_in_maintenance_that_is_renamed_stays_in_maintenance() -> None:
    node = up()
    node.maintain("web")
    node.wait(1.0)
    node.reload(vip("www"))
    assert node.stage("www") is Stage.DRAINING
    assert set(node.saved or {}) == {"www"}
    node.wait(60.0)
    assert node.stage("www") is Stage.DOWN
    assert node.routes == []
    assert "maintenance.carried_over" in node.logged


def test_a_vip_in_maintenance_that_is_renamed_over_a_restart_stays_in_maintenance() -> None:
    node = up()
    node.maintain("web")
    node = restarted(node, vip("www"))
    node.checks(Outcome.OK)
    node.wait(60.0)
    assert node.routes == []
    assert set(node.saved or {}) == {"www"}


@pytest.mark.parametrize("hold", [0.0, 30.0])
def test_a_vip_that_is_renamed_stays_announced(hold: float) -> None:
    node = Node(vip(), timing=Timing(start_hold=hold))
    node.checks(Outcome.OK)
    node.wait(hold + 2.0)
    node.checks(Outcome.FAIL, 1, 2)  # between the marks
    assert node.routes == [route(1)]
    node.reload(vip("www"))
    assert node.routes == [route(1)]
    assert node.reason("www") is Reason.HEALTHY


def test_a_pool_that_is_renamed_keeps_its_servers_drained() -> None:
    node = up()
    node.maintain("web/rs2")
    assert node.weights() == [1, 0, 1]
    pool = Pool(name="backends", servers=(server(1), server(2), server(3)), check=CHECK)
    made = vip()
    node.reload(replace(made, services=(replace(made.services[0], pool=pool),)))
    assert node.weights() == [1, 0, 1]
    assert set(node.saved or {}) == {"backends/rs2"}


def test_maintenance_of_what_is_configured_no_more_is_kept_and_said() -> None:
    node = up(vip(), vip("log", number=2))
    node.maintain("log")
    node.maintain("log/rs1")
    node.reload(vip())
    assert set(node.state.maintenance) == {"log", "log/rs1"}
    assert [log.fields["scope"] for log in node.events("maintenance.orphaned")] == ["log", "log/rs1"]
    node.reload(vip(), vip("log", number=2))
    assert node.reason("log") is Reason.VIP_MAINTENANCE


def test_a_vip_that_is_split_takes_its_maintenance_along() -> None:
    whole = vip(both_families=True)
    node = up(whole)
    node.maintain("web")
    four, six = whole.addresses
    node.reload(replace(whole, addresses=(four,)), replace(whole, name="web6", addresses=(six,)))
    assert set(node.state.maintenance) == {"web", "web6"}


def test_who_swaps_addresses_keeps_the_name() -> None:
    before = owned_by(config(vip("web", number=1), vip("log", number=2)))
    after = owned_by(config(vip("web", number=2), vip("log", number=1)))
    assert reload.successors(before, after) == {}
    assert reload.carried(frozenset({"web"}), before, after).scopes == {}


# Whose work it was.


def test_a_check_that_turns_during_a_reading_is_no_drift() -> None:
    node = up()
    node.kernel_is_slow = True
    node.wait(node.state.config.timing.reconcile)
    assert isinstance(node.job, ev.ReadKernel)
    node.checks(Outcome.FAIL, 1)
    node.kernel_answers()
    node.kernel_answers()
    assert "kernel.drifted" not in node.logged
    assert node.state.kernel.repairs == {}
    assert node.weights() == [0, 1, 1]


def test_readings_keep_their_pace_however_often_the_interface_changes() -> None:
    node = up()
    node.wait(1.0)
    reads = []
    for _ in range(100):
        before = node.state.kernel.read_at
        node.send(ev.KernelChanged())
        node.wait(0.02)
        if node.state.kernel.read_at != before:
            reads.append(node.state.kernel.read_at)
    assert len(reads) <= 2.0 / CHANGED_EVERY + 1
