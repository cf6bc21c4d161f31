"""Real servers that are taken out, dropped, weighed anew, or dead: what the kernel is told, and when."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from anycast.core import events as ev
from anycast.core.dataplane import kernel as kernels
from anycast.core.dataplane.desired import EXPIRE_AGAIN
from anycast.core.dataplane.ipvs import (
    AddDestination,
    AddService,
    Connections,
    MarkKey,
    RemoveDestination,
    ServiceEntry,
    SetDestination,
)
from anycast.core.health.phase import Outcome
from anycast.core.values.configuration import (
    ConnectionSync,
    Forwarding,
    Pool,
    Protocol,
    RealServer,
    Service,
    Timeouts,
    Timing,
    Vip,
)
from anycast.core.vip.decide import Reason
from anycast.core.vip.facts import would_fall
from tests.fakes import Node, addresses, route, up, vip
from tests.property.worlds import CHECK, busied, server, told

RECONCILE, SERVER_DRAIN = Timing().reconcile, Timing().server_drain


def only(node: Node) -> ServiceEntry:
    (entry,) = node.kernel.table.values()
    return entry


def busy(node: Node, number: int, *, active: int = 0, inactive: int = 0) -> None:
    """From here on the kernel counts so many connections of a real server; a reading tells of them."""
    node.kernel = busied(
        node.kernel,
        lambda one, counts: (
            Connections(active, inactive) if one.address in server(number).addresses else counts
        ),
    )
    node.kernel_changed()


def present(node: Node) -> list[str]:
    return [str(one.address) for one in only(node).destinations]


def test_a_drained_server_gets_no_new_clients_and_keeps_its_place_in_the_table() -> None:
    node = up(vip(weight=3))
    node.maintain("web/rs2")
    assert node.weights() == [3, 0, 3]
    assert [one.table_weight for one in only(node).destinations] == [3, 3, 3]
    assert node.saved is not None
    assert set(node.saved) == {"web/rs2"}
    node.maintain("web/rs2", on=False)
    assert node.weights() == [3, 3, 3]


def test_a_drained_server_does_not_count_for_the_quorum() -> None:
    node = up()
    for number in (1, 2, 3):
        node.maintain(f"web/rs{number}")
    assert node.reason() is Reason.BELOW_QUORUM


def test_it_is_known_beforehand_which_service_cannot_do_without_a_server() -> None:
    node = up()
    assert would_fall(node.state, "web/rs1") == ()
    node.checks(Outcome.FAIL, 2, 3)
    assert would_fall(node.state, "web/rs1") == ("web tcp/80 IPv4",)
    assert would_fall(node.state, "web/rs2") == ()


def test_a_server_the_configuration_drops_stays_until_its_connections_are_gone() -> None:
    node = up()
    busy(node, 2, active=5)
    node.reload(vip(servers=(1, 3)))
    assert node.weights() == [1, 0, 1]
    node.wait(SERVER_DRAIN / 2)
    assert len(present(node)) == 3
    busy(node, 2, active=0)
    assert present(node) == ["10.9.2.1", "10.9.2.3"]
    assert "server.removed" in node.logged


def test_a_server_the_configuration_drops_goes_at_the_latest_when_its_time_is_up() -> None:
    node = up()
    busy(node, 2, active=5)
    node.reload(vip(servers=(1, 3)))
    node.wait(SERVER_DRAIN + 0.1)
    assert present(node) == ["10.9.2.1", "10.9.2.3"]
    (removed,) = [log for log in node.logs if log.event == "server.removed"]
    assert removed.fields["connections"] == 5


def test_what_is_left_of_a_dropped_server_is_ended_with_it() -> None:
    node = up()
    node.reload(vip(servers=(1, 3)))
    (op,) = [op for ops in node.programs for op in ops if isinstance(op, kernels.ExpireDestinations)]
    assert [one.key[0] for one in op.removals] == [ip_address("10.9.2.2")]


def test_a_dropped_server_that_comes_back_is_in_use_again() -> None:
    node = up()
    busy(node, 2, active=5)
    node.reload(vip(servers=(1, 3)))
    node.reload(vip(servers=(1, 2, 3)))
    node.checks(Outcome.OK)
    node.wait(SERVER_DRAIN + RECONCILE)
    assert node.weights() == [1, 1, 1]


def test_a_server_dropped_while_another_is_being_removed_does_not_prolong_that() -> None:
    node = up()
    busy(node, 2, active=5)
    busy(node, 3, active=5)
    node.reload(vip(servers=(1, 3)))
    node.wait(SERVER_DRAIN / 2)
    node.reload(vip(servers=(1,)))
    node.wait(SERVER_DRAIN / 2 + 0.1)
    assert present(node) == ["10.9.2.1", "10.9.2.3"]


def test_without_a_time_to_drain_a_dropped_server_goes_at_once() -> None:
    node = up()
    busy(node, 2, active=5)
    node.reload(vip(servers=(1, 3)), timing=Timing(server_drain=0.0))
    assert present(node) == ["10.9.2.1", "10.9.2.3"]


def test_the_weight_of_a_server_that_is_down_is_changed_in_the_table_too() -> None:
    node = up(vip(weight=2))
    node.checks(Outcome.FAIL, 2)
    node.reload(vip(weight=3))
    changed = [op for op in node.programs[-1] if isinstance(op, SetDestination) and op.rebuild]
    assert [(op.destination.weight, op.destination.table_weight) for op in changed] == [(0, 3)]
    assert [one.table_weight for one in only(node).destinations] == [3, 3, 3]


def test_an_agent_that_starts_writes_the_table_weight_that_it_cannot_read_and_once_only() -> None:
    before = up()
    before.checks(Outcome.FAIL, 2)
    node = Node(vip(), found=before.kernel)
    assert [op for ops in node.programs for op in ops] == [
        SetDestination(
            service=next(iter(node.kernel.table)), destination=only(node).destinations[1], rebuild=True
        )
    ]
    node.wait(3 * RECONCILE)
    assert len(node.programs) == 1


def test_a_table_weight_that_may_not_have_been_written_is_written_again() -> None:
    node = up(vip(weight=2))
    node.checks(Outcome.FAIL, 2)
    node.kernel_is_slow = True
    node.reload(vip(weight=3))
    node.kernel_breaks = "timed out"
    node.kernel_answers()
    node.kernel_breaks, node.kernel_is_slow = None, False
    node.wait(RECONCILE)
    assert any(isinstance(op, SetDestination) and op.rebuild for op in node.programs[-1])


def test_where_no_table_is_built_a_hidden_weight_is_nobodys_business() -> None:
    before = up(vip(scheduler="wrr", flags=frozenset()))
    before.checks(Outcome.FAIL, 2)
    assert Node(vip(scheduler="wrr", flags=frozenset()), found=before.kernel).programs == []


def test_connections_of_a_server_that_failed_for_long_are_ended_and_it_gets_its_place_back() -> None:
    node = up(vip(expire_failed=30.0))
    node.checks(Outcome.FAIL, 1)
    busy(node, 1, active=7)
    node.wait(20.0)
    assert "server.connections_expired" not in node.logged
    node.wait(15.0)
    expire, add, order = node.programs[-1]
    assert isinstance(expire, kernels.ExpireDestinations)
    assert isinstance(add, AddDestination)
    assert isinstance(order, kernels.ReorderDestinations)
    assert len(order.moves) == 2
    assert present(node) == ["10.9.2.1", "10.9.2.2", "10.9.2.3"]
    assert node.weights() == [0, 1, 1]


def test_a_server_that_did_not_get_its_place_back_is_our_own_work_and_no_drift() -> None:
    node = up(vip(expire_failed=0.0))
    node.checks(Outcome.FAIL, 1)
    node.kernel_is_slow = True
    busy(node, 1, active=7)
    node.kernel_answers()
    job, node.job, node.kernel_is_slow = node.job, None, False
    assert isinstance(job, ev.ProgramKernel)
    expire, *others = job.ops
    assert isinstance(expire, kernels.ExpireDestinations)
    node.play([expire])
    snapshot = told(node.kernel, job.sysctls)
    node.send(ev.KernelRead(snapshot=snapshot, failures=(kernels.Failure(tuple(others), "refused"),)))
    assert present(node) == ["10.9.2.1", "10.9.2.2", "10.9.2.3"]
    assert "kernel.drifted" not in node.logged
    assert not node.state.kernel.repairs


def test_connections_are_not_ended_again_and_again() -> None:
    node = up(vip(expire_failed=0.0))
    node.checks(Outcome.FAIL, 1)

    def expiries() -> int:
        return node.logged.count("server.connections_expired")

    busy(node, 1, active=7)
    assert expiries() == 1
    busy(node, 1, active=7)
    node.wait(EXPIRE_AGAIN / 2)
    assert expiries() == 1
    busy(node, 1, active=7)
    node.wait(EXPIRE_AGAIN / 2 + RECONCILE)
    assert expiries() == 2


def test_the_more_connections_a_server_has_the_longer_it_stays_away_until_they_are_ended() -> None:
    node = up(vip(expire_failed=0.0))
    node.checks(Outcome.FAIL, 1)
    before = len(node.programs)
    busy(node, 1, active=40_000)
    (expire,) = [
        op for ops in node.programs[before:] for op in ops if isinstance(op, kernels.ExpireDestinations)
    ]
    assert expire.seconds == pytest.approx(kernels.WALK + 40_000 * kernels.ENDED_IN)


def test_of_too_many_connections_the_rest_is_ended_with_the_next_reading() -> None:
    node = up(vip(expire_failed=0.0))
    node.checks(Outcome.FAIL, 1)
    before = len(node.programs)
    for active, expiries in ((kernels.MOST_ENDED + 1, 1), (kernels.MOST_ENDED + 1, 2), (7, 3), (7, 3)):
        busy(node, 1, active=active)
        node.wait(RECONCILE)
        found = [
            op for ops in node.programs[before:] for op in ops if isinstance(op, kernels.ExpireDestinations)
        ]
        assert len(found) == expiries
        assert max(op.seconds for op in found) <= kernels.seconds_to_end(kernels.MOST_ENDED)


def test_what_others_change_is_told_after_connections_could_not_be_ended() -> None:
    node = up(vip(expire_failed=0.0))
    node.checks(Outcome.FAIL, 1)
    node.kernel_is_slow = True
    busy(node, 1, active=7)
    node.kernel_answers()
    job, node.job = node.job, None
    assert isinstance(job, ev.ProgramKernel)
    assert isinstance(job.ops[0], kernels.ExpireDestinations)
    refused = kernels.Failure(job.ops, "refused")
    node.send(ev.KernelRead(snapshot=told(node.kernel, node.asked), failures=(refused,)))
    node.kernel_is_slow = False
    node.kernel = replace(node.kernel, table={})
    node.kernel_changed()
    assert len(node.events("kernel.drifted")) == 1


def test_connections_of_a_server_that_failed_are_kept_where_the_service_says_so() -> None:
    node = up(vip(expire_failed=None))
    node.checks(Outcome.FAIL, 1)
    busy(node, 1, active=7)
    node.wait(600.0)
    assert "server.connections_expired" not in node.logged


def test_flows_of_udp_to_a_drained_server_are_ended_for_they_never_end_by_themselves() -> None:
    node = up(vip(protocol=Protocol.UDP, forwarding=Forwarding.NAT))
    node.maintain("web/rs1")
    busy(node, 1, inactive=1)
    assert "server.connections_expired" in node.logged


def test_connections_of_tcp_to_a_drained_server_are_its_own_to_end() -> None:
    node = up(vip(expire_failed=0.0))
    node.maintain("web/rs1")
    busy(node, 1, active=1)
    node.wait(600.0)
    assert "server.connections_expired" not in node.logged


def test_what_others_change_is_put_right_and_counted_by_kind() -> None:
    node = up()
    node.wait(RECONCILE)
    key, entry = next(iter(node.kernel.table.items()))
    node.kernel = kernels.play(
        node.kernel,
        [
            RemoveDestination(service=key, key=entry.destinations[0].key),
            kernels.RemoveAddress(address=addresses(1)[0]),
            kernels.SetSysctl(name="net.ipv4.vs.sloppy_tcp", value="0"),
        ],
    )
    node.kernel_changed()
    assert node.state.kernel.repairs == {"address": 1, "server": 1, "order": 1, "sysctl": 1}
    assert node.logged.count("kernel.drifted") == 1


def test_what_the_node_itself_changes_is_no_drift() -> None:
    node = up()
    node.checks(Outcome.FAIL, 1)
    node.reload(vip(servers=(1, 2, 3, 4)))
    node.wait(10 * RECONCILE)
    assert node.state.kernel.repairs == {}
    assert "kernel.drifted" not in node.logged


def test_a_sysctl_that_is_not_ours_to_set_takes_the_route_away_at_once() -> None:
    node = up(vip())
    node.reload(vip(), manage_sysctls=False)
    assert node.reason() is Reason.HEALTHY
    node.kernel = kernels.play(node.kernel, [kernels.SetSysctl(name="net.ipv4.vs.sloppy_tcp", value="0")])
    node.kernel_changed()
    assert node.reason() is Reason.KERNEL_DIFFERS
    assert node.routes == []


def test_sysctls_that_a_reload_gives_to_the_agent_are_set_and_those_it_takes_back_are_not() -> None:
    node = up(vip())
    node.reload(vip(), manage_sysctls=False)
    changed = kernels.SetSysctl(name="net.ipv4.vs.sloppy_tcp", value="0")
    node.kernel = kernels.play(node.kernel, [changed])
    node.kernel_changed()
    assert node.kernel.sysctls[changed.name] == "0"
    node.reload(vip(), manage_sysctls=True)
    assert node.kernel.sysctls[changed.name] == "1"


def test_timeouts_are_set_only_where_they_are_configured() -> None:
    node = up()
    assert node.kernel.timeouts is None
    node.reload(vip(), timeouts=Timeouts(tcp=60))
    assert node.kernel.timeouts == Timeouts(tcp=60)


SYNC = ConnectionSync(interface="lan0", id=7)


def test_connection_sync_is_started_both_ways_changed_by_a_new_start_and_ended_when_dropped() -> None:
    node = up()
    node.reload(vip(), connection_sync=SYNC)
    assert node.kernel.sync == dict.fromkeys(kernels.SyncRole, SYNC)
    assert node.kernel.sysctls["net.ipv4.vs.sync_threshold"] == "3 0"
    node.reload(vip(), connection_sync=replace(SYNC, id=8))
    assert [type(op) for op in node.programs[-1]] == [kernels.StopSync, kernels.StartSync] * 2
    node.reload(vip(), connection_sync=None)
    assert node.kernel.sync == {}


def test_at_a_start_the_sync_daemons_come_after_every_service_however_many_programs_that_takes() -> None:
    """Behind a tunnel a connection that is told of before its real server is there is dropped for good."""
    count = 60
    node = Node(*(vip(f"v{number}", number=number) for number in range(1, count + 1)), connection_sync=SYNC)
    assert len(node.programs) > 2
    *before, last = node.programs
    assert sum(isinstance(op, AddService) for ops in node.programs for op in ops) == count
    assert not any(isinstance(op, kernels.StartSync) for ops in before for op in ops)
    kinds = [type(op) for op in last]
    assert kinds.count(kernels.StartSync) == 2
    assert AddDestination not in kinds[kinds.index(kernels.StartSync) :]
    assert any(isinstance(op, kernels.SetSysctl) for op in node.programs[0])


def test_a_daemon_that_somebody_stopped_is_started_by_a_program_of_its_own() -> None:
    node = up()
    node.reload(vip(), connection_sync=SYNC)
    node.kernel = replace(node.kernel, sync={kernels.SyncRole.MASTER: SYNC})
    node.wait(RECONCILE)
    assert node.programs[-1] == (kernels.StartSync(role=kernels.SyncRole.BACKUP, sync=SYNC),)
    assert node.state.kernel.repairs["sync"] == 1
    assert node.routes == [route(1)]


def test_sync_daemons_of_others_are_left_alone() -> None:
    node = up()
    node.kernel = replace(node.kernel, sync={kernels.SyncRole.BACKUP: SYNC})
    node.wait(2 * RECONCILE)
    assert node.kernel.sync == {kernels.SyncRole.BACKUP: SYNC}


def test_connection_sync_that_cannot_start_does_not_take_the_route_down() -> None:
    node = up()
    node.reload(vip(), connection_sync=SYNC)
    node.kernel = replace(node.kernel, sync={})
    node.kernel_changed()
    assert node.reason() is Reason.HEALTHY


MARK = MarkKey(mark=7, version=4)


def marked(*numbers: int, mark: int = 7) -> Vip:
    servers = tuple(server(n) for n in (1, 2))
    return Vip(
        name="web",
        addresses=tuple(addresses(number)[0] for number in numbers),
        services=(Service(mark=mark, pool=Pool(name="web", servers=servers, check=CHECK)),),
    )


def test_a_firewall_mark_is_one_service_for_all_addresses_of_a_family() -> None:
    node = up(marked(1, 2))
    assert set(node.kernel.table) == {MARK}


def test_a_firewall_mark_outlives_one_of_its_addresses() -> None:
    node = up(marked(1, 2))
    node.reload(marked(1))
    node.acknowledge()
    node.wait(20.0)
    assert set(node.kernel.table) == {MARK}
    assert node.kernel.addresses == {addresses(1)[0]}


@pytest.mark.parametrize("after", [(marked(1, mark=8),), ()])
def test_a_firewall_mark_that_is_dropped_goes(after: tuple[Vip, ...]) -> None:
    node = up(marked(1))
    node.reload(*after)
    node.acknowledge()
    node.wait(20.0)
    assert MARK not in node.kernel.table


def test_somebody_elses_firewall_mark_stays() -> None:
    node = up(marked(1))
    theirs = MarkKey(mark=99, version=6)
    node.kernel = replace(node.kernel, table={**node.kernel.table, theirs: ServiceEntry(scheduler="rr")})
    node.wait(2 * RECONCILE)
    assert theirs in node.kernel.table


def test_a_tunnel_reaches_a_server_of_the_other_family_and_nothing_else_does() -> None:
    six = RealServer(name="six", addresses=(ip_address("fd00::6"),))
    pool = Pool(name="web", servers=(server(1), six), check=CHECK)
    tunnel = Service(port=80, pool=pool, forwarding=Forwarding.TUNNEL)
    node = Node(Vip(name="web", addresses=addresses(1)[:1], services=(tunnel,)))
    assert present(node) == ["10.9.2.1", "fd00::6"]
    direct = Node(
        Vip(name="web", addresses=addresses(1)[:1], services=(replace(tunnel, forwarding=Forwarding.DR),))
    )
    assert present(direct) == ["10.9.2.1"]


def test_a_reading_of_a_few_services_proves_nothing_of_the_others() -> None:
    """So the next whole one is not put off, and no rate is made of its packets."""
    node = up()
    before = node.state.kernel
    node.now += 1.0
    node.send(ev.KernelRead(snapshot=replace(told(node.kernel, node.asked), packets={}), partial=True))
    after = node.state.kernel
    assert (after.read_at, after.good_until, after.next_read, after.counts) == (
        before.read_at,
        before.good_until,
        before.next_read,
        before.counts,
    )
    assert after.snapshot is not before.snapshot
