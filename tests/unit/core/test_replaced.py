"""All real servers of an announced service are replaced: the old ones go on until enough of the new ones are proven."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from anycast.core import events as ev
from anycast.core.dataplane.ipvs import Connections, Destination, Key, MarkKey, ServiceKey
from anycast.core.health.phase import Outcome, Result
from anycast.core.owned import NOTHING
from anycast.core.values.checks import HttpCheck, TcpCheck
from anycast.core.values.configuration import (
    Address,
    Check,
    Forwarding,
    Protocol,
    Quorum,
    Target,
    Timing,
    Vip,
)
from anycast.core.values.standing import Condition
from anycast.core.vip.decide import Reason
from tests.fakes import Node, addresses, route, up, vip
from tests.property.worlds import CHECK, busied, server

DRAIN = Timing().server_drain
HTTP = Check(kind=HttpCheck(tls=False), rise=2, fall=2)
AT_80 = replace(CHECK, kind=TcpCheck(port=80))
KEY = ServiceKey(protocol=Protocol.TCP, address=addresses(1)[0], port=80)


def shape(node: Node, key: Key = KEY) -> dict[str, int]:
    """`last number of the address:port` to weight."""
    return {
        f"{str(each.address).rpartition('.')[2]}:{each.port}": each.weight
        for each in (node.kernel.table[key].destinations if key in node.kernel.table else ())
    }


def on_port(port: int, *, check: Check = CHECK, servers: tuple[int, ...] = (1, 2, 3), **service: Any) -> Vip:
    """The real servers listen at a port of their own."""
    made = vip(servers=servers, check=check, **service)
    (one,) = made.services
    pool = replace(one.pool, servers=tuple(replace(each, port=port) for each in one.pool.servers))
    return replace(made, services=(replace(one, pool=pool),))


def of(node: Node, *numbers: int, port: int | None = None, kind: object = None) -> Iterator[Target]:
    """The targets of these real servers."""
    chosen = {address for number in numbers for address in server(number).addresses}
    for target in node.state.targets:
        if target.address in chosen and port in (None, target.port) and kind in (None, target.check):
            yield target


def probe(node: Node, outcome: Outcome, *numbers: int, times: int = 2, **which: Any) -> None:
    for _ in range(times):
        results = tuple((target, Result(outcome=outcome)) for target in of(node, *numbers, **which))
        node.send(ev.Probed(results=results))


def restarted(node: Node, *vips: Vip, **settings: Any) -> Node:
    """The agent ends at once and another starts with what is on disk, and with the kernel as it is."""
    return Node(*vips, found=node.kernel, left=node.owned or NOTHING, now=node.now, **settings)


def server_at(number: int) -> tuple[Address, int]:
    return server(number).addresses[0], 80


def busy(node: Node) -> None:
    node.kernel = busied(node.kernel, lambda one, _: Connections(active=5 * one.weight))


def test_a_swapped_pool_serves_by_the_old_servers_until_the_new_ones_are_proven() -> None:
    node = up()
    busy(node)
    node.reload(vip(servers=(4, 5, 6)))
    assert shape(node) == {"1:80": 1, "2:80": 1, "3:80": 1, "4:80": 0, "5:80": 0, "6:80": 0}
    node.checks(Outcome.OK, 4, 5, 6, times=1)
    assert shape(node) == {"1:80": 0, "2:80": 0, "3:80": 0, "4:80": 1, "5:80": 1, "6:80": 1}
    node.kernel = busied(node.kernel, lambda *_: Connections())
    node.wait(DRAIN)
    assert shape(node) == {"4:80": 1, "5:80": 1, "6:80": 1}
    assert node.routes == [route(1)]
    assert [one.fields["servers"] for one in node.events("servers.released")] == [3]


def test_another_reload_meanwhile_ends_no_connection_of_those_that_retire() -> None:
    node = up()
    busy(node)
    node.checks(Outcome.FAIL, 2)
    new = vip(servers=(4, 5, 6))
    node.reload(new)
    retiring = node.state.retiring
    assert [at for _, at in retiring] == [server_at(2)], "it had no clients, so it is not kept"
    for _ in range(2):
        node.reload(new)
        assert shape(node) == {"1:80": 1, "2:80": 0, "3:80": 1, "4:80": 0, "5:80": 0, "6:80": 0}
        assert node.state.retiring == retiring


def test_the_old_ones_lose_their_weight_only_after_the_new_ones_have_been_read_back_with_theirs() -> None:
    node = up()
    node.reload(vip(servers=(4, 5, 6)))
    node.kernel_is_slow = True
    node.checks(Outcome.OK, 4, 5, 6, times=1)
    assert isinstance(node.job, ev.ProgramKernel)
    assert all(one.weight for one in written(node.job) if one.address in server(4).addresses)
    assert not [one for one in written(node.job) if not one.weight]
    node.kernel_answers()
    assert isinstance(node.job, ev.ProgramKernel)
    assert {one.weight for one in written(node.job)} == {0}


def written(job: ev.ProgramKernel) -> list[Destination]:
    return [found for op in job.ops if isinstance(found := getattr(op, "destination", None), Destination)]


def test_one_new_server_that_is_proven_first_does_not_get_all_clients_alone() -> None:
    node = up()
    node.reload(vip(servers=(4, 5, 6)))
    node.checks(Outcome.OK, 4, times=1)
    assert shape(node) == {"1:80": 1, "2:80": 1, "3:80": 1, "4:80": 1, "5:80": 0, "6:80": 0}
    node.checks(Outcome.FAIL, 5, 6, times=1)  # now each has had its first run
    assert {at: weight for at, weight in shape(node).items() if weight} == {"4:80": 1}


def test_while_too_few_new_ones_are_proven_the_old_ones_go_on() -> None:
    quorum = Quorum(low=2, high=2)
    node = up(vip(quorum=quorum))
    node.reload(vip(servers=(4, 5, 6), quorum=quorum))
    node.checks(Outcome.OK, 4, times=1)
    node.checks(Outcome.FAIL, 5, 6)
    node.wait(3600.0)
    assert shape(node) == {"1:80": 1, "2:80": 1, "3:80": 1, "4:80": 1, "5:80": 0, "6:80": 0}
    node.checks(Outcome.OK, 5)
    assert {at: weight for at, weight in shape(node).items() if weight} == {"4:80": 1, "5:80": 1}


@pytest.mark.parametrize("outcome", [Outcome.FAIL, Outcome.UNKNOWN])
def test_when_the_new_ones_fail_or_cannot_be_checked_the_old_ones_go_on_and_that_is_said(
    outcome: Outcome,
) -> None:
    node = up()
    node.reload(vip(servers=(4, 5, 6)))
    for _ in range(40):
        node.checks(Outcome.OK, 1, 2, 3, times=1)
        node.checks(outcome, 4, 5, 6, times=1)
        node.wait(1.0)
    assert {at: weight for at, weight in shape(node).items() if weight} == {"1:80": 1, "2:80": 1, "3:80": 1}
    assert node.routes == [route(1)]
    assert node.reason() is Reason.HEALTHY
    verdict = node.state.vips["web"].verdict
    assert verdict.detail == "tcp/80 IPv4: 0 of 3 usable, so 3 that were replaced go on"
    (one,) = node.state.standing.values()
    assert one.kind is Condition.SERVERS_NOT_REPLACED
    assert "web tcp/80 IPv4" in one.text
    assert "`anycast reload --undo`" in one.text
    node.checks(Outcome.OK, 4, 5, 6)
    assert not node.state.standing
    assert node.state.vips["web"].verdict.detail == ""
    assert not node.state.kept


def test_an_old_server_that_dies_meanwhile_loses_its_weight_by_its_own_check_and_comes_back_by_it() -> None:
    node = up(vip(check=HTTP))
    node.reload(vip(servers=(4, 5, 6)))
    assert {target.check.kind for target in of(node, 2)} == {HTTP.kind}
    node.checks(Outcome.FAIL, 2)
    assert shape(node) == {"1:80": 1, "2:80": 0, "3:80": 1, "4:80": 0, "5:80": 0, "6:80": 0}
    (down,) = node.events("server.down")
    assert (down.fields["server"], down.fields["services"]) == ("rs2", ("web tcp/80",))
    node.checks(Outcome.OK, 2)
    assert shape(node)["2:80"] == 1


def test_when_all_old_ones_die_before_the_new_ones_are_proven_the_route_goes() -> None:
    node = up()
    node.reload(vip(servers=(4, 5, 6)))
    node.checks(Outcome.FAIL, 1, 2, 3)
    assert node.routes == []
    node.checks(Outcome.OK, 4, 5, 6)
    assert node.routes == [route(1)]
    assert not node.state.kept


def test_the_old_checks_end_with_the_old_servers() -> None:
    node = up()
    node.reload(vip(servers=(4, 5, 6)))
    assert set(of(node, 1, 2, 3))
    node.checks(Outcome.OK, 4, 5, 6)
    assert not set(of(node, 1, 2, 3))
    assert all(node.state.is_target(target) for target in node.state.health)
    assert (len(node.state.kept_users), len(node.state.awaiting), len(node.state.unreplaced)) == (0, 0, 0)


def test_only_the_port_of_the_real_servers_changes() -> None:
    node = up(on_port(8080))
    node.reload(on_port(9090))
    assert {at for at, weight in shape(node).items() if weight} == {"1:8080", "2:8080", "3:8080"}
    probe(node, Outcome.OK, 1, 2, 3, port=9090)
    assert {at for at, weight in shape(node).items() if weight} == {"1:9090", "2:9090", "3:9090"}


def test_another_forwarding_with_another_port() -> None:
    node = up(on_port(8080, forwarding=Forwarding.NAT))
    node.reload(vip(forwarding=Forwarding.DR))
    assert {at for at, weight in shape(node).items() if weight} == {"1:8080", "2:8080", "3:8080"}
    probe(node, Outcome.OK, 1, 2, 3, port=80)
    assert {at for at, weight in shape(node).items() if weight} == {"1:80", "2:80", "3:80"}


def ways(node: Node) -> list[tuple[int, Forwarding]]:
    return [(each.weight, each.forwarding) for each in node.kernel.table[KEY].destinations]


def test_another_forwarding_with_the_same_check_is_written_at_once() -> None:
    """The check says nothing of the way there, so there is nothing to wait for."""
    node = up()
    node.reload(vip(forwarding=Forwarding.TUNNEL))
    assert ways(node) == [(1, Forwarding.TUNNEL)] * 3
    assert not node.state.kept


def test_another_forwarding_with_another_check_is_written_server_by_server_as_each_is_proven() -> None:
    node = up()
    node.reload(vip(forwarding=Forwarding.TUNNEL, check=HTTP))
    assert ways(node) == [(1, Forwarding.DR)] * 3
    probe(node, Outcome.FAIL, 1, 2, 3, kind=HTTP)
    assert ways(node) == [(1, Forwarding.DR)] * 3
    assert node.routes == [route(1)]
    assert {one.kind for one in node.state.standing.values()} == {Condition.SERVERS_NOT_REPLACED}
    probe(node, Outcome.FAIL, 2, kind=CHECK)
    assert ways(node) == [(1, Forwarding.DR), (0, Forwarding.TUNNEL), (1, Forwarding.DR)] or ways(node) == [
        (1, Forwarding.DR),
        (0, Forwarding.DR),
        (1, Forwarding.DR),
    ]
    probe(node, Outcome.OK, 1, kind=HTTP)
    assert ways(node) == [(1, Forwarding.TUNNEL), (0, Forwarding.TUNNEL), (0, Forwarding.TUNNEL)]
    assert not node.state.kept


def test_another_reload_does_not_end_what_waits_for_a_proof() -> None:
    node = up(vip(), vip("log", number=2))
    node.reload(vip(forwarding=Forwarding.TUNNEL, check=HTTP), vip("log", number=2))
    node.reload(vip(forwarding=Forwarding.TUNNEL, check=HTTP), vip("log", number=2, weight=2))
    probe(node, Outcome.FAIL, 1, 2, 3, kind=HTTP)
    assert ways(node) == [(1, Forwarding.DR)] * 3


def test_real_servers_of_the_other_family() -> None:
    def of_family(place: int) -> Vip:
        made = vip(forwarding=Forwarding.TUNNEL)
        (one,) = made.services
        servers = tuple(replace(each, addresses=(each.addresses[place],)) for each in one.pool.servers)
        return replace(made, services=(replace(one, pool=replace(one.pool, servers=servers)),))

    node = up(of_family(0))
    node.reload(of_family(1))
    versions = {each.address.version: each.weight for each in node.kernel.table[KEY].destinations}
    assert versions == {4: 1, 6: 0}
    node.checks(Outcome.OK)
    assert {each.address.version for each in node.kernel.table[KEY].destinations if each.weight} == {6}


def marked(mark: int, *servers: int, check: Check = CHECK) -> Vip:
    return vip(servers=servers, mark=mark, port=0, check=check)


def test_a_reload_that_changes_nothing_leaves_what_is_kept_where_a_mark_was_replaced_before() -> None:
    """With the very objects of before, as a file that has not changed gives them."""
    both, key = Quorum(low=2, high=2), MarkKey(mark=8, version=4)
    node = up(marked(7, 1, 2, 3))
    busy(node)
    node.reload(vip(servers=(4, 5, 6), mark=8, port=0, quorum=both))
    node.checks(Outcome.OK, 4, times=2)
    node.checks(Outcome.FAIL, 1, 2, times=3)
    same = vip(servers=(7, 8, 9), mark=8, port=0, quorum=both)
    node.reload(same)
    before = shape(node, key), list(node.routes)
    assert before[1]
    node.reload(same)
    assert (shape(node, key), list(node.routes)) == before


def test_the_pool_of_a_mark_is_swapped() -> None:
    node = up(marked(7, 1, 2, 3))
    node.reload(marked(7, 4, 5, 6))
    key = MarkKey(mark=7, version=4)
    assert shape(node, key) == {"1:0": 1, "2:0": 1, "3:0": 1, "4:0": 0, "5:0": 0, "6:0": 0}
    node.checks(Outcome.OK, 4, 5, 6)
    assert {at for at, weight in shape(node, key).items() if weight} == {"4:0", "5:0", "6:0"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (vip(), marked(7, 4, 5, 6)),
        (marked(7, 1, 2, 3), vip(servers=(4, 5, 6))),
        (marked(7, 1, 2, 3), marked(8, 4, 5, 6)),
        (vip(ports=(80, 443)), marked(7, 4, 5, 6)),
    ],
    ids=["port to mark", "mark to port", "mark to mark", "two ports to a mark"],
)
def test_a_service_of_a_mark_takes_the_place_of_another(before: Vip, after: Vip) -> None:
    """Whichever of the two the packets come to: the old real servers take them."""
    node = up(before)
    old = set(node.state.index.services)
    node.reload(after)
    (new,) = set(node.state.index.services)
    assert {key: weighing(node, key) for key in node.kernel.table} == {key: {1, 2, 3} for key in (*old, new)}
    assert node.owned is not None
    assert set(node.owned.services[new]) == {one.key for one in node.kernel.table[new].destinations}
    probe(node, Outcome.FAIL, 4, 5, 6)
    assert {key: weighing(node, key) for key in node.kernel.table} == {key: {1, 2, 3} for key in (*old, new)}
    probe(node, Outcome.OK, 4, 5, 6)
    assert weighing(node, new) == {4, 5, 6}
    node.wait(2 * DRAIN)
    assert {key: weighing(node, key) for key in node.kernel.table} == {new: {4, 5, 6}}
    assert len(node.kernel.table[new].destinations) == 3
    assert node.routes == [route(1)]
    assert node.owned == node.state.configured


def weighing(node: Node, key: Key) -> set[int]:
    """The numbers of the real servers with a weight."""
    return {int(at.partition(":")[0]) for at, weight in shape(node, key).items() if weight}


def test_a_mark_with_the_real_servers_there_were_is_served_at_once() -> None:
    node = up()
    node.reload(vip(mark=7, port=0, check=replace(CHECK, kind=TcpCheck(port=80))))
    assert weighing(node, MarkKey(mark=7, version=4)) == {1, 2, 3}
    assert not node.state.kept


@pytest.mark.parametrize("taken", ["reloaded", "restarted", "reloaded twice"])
@pytest.mark.parametrize("before", [vip(), vip(mark=7, port=0, check=AT_80)], ids=["a port", "a mark"])
def test_a_mark_with_the_same_real_servers_and_another_check_waits_for_that_check(
    before: Vip, taken: str
) -> None:
    node = up(before)
    (old,) = node.state.index.services
    after = vip(mark=8, port=0, check=replace(HTTP, kind=HttpCheck(tls=False, port=8081)))
    if taken == "restarted":
        node = restarted(node, after, before=node.state.config)
    else:
        node.reload(after)
    new = MarkKey(mark=8, version=4)
    if taken == "reloaded twice":
        node.reload(replace(after, communities=("65000:1",)))
    probe(node, Outcome.OK, 1, 2, 3, port=80)
    assert weighing(node, old) == weighing(node, new) == {1, 2, 3}
    probe(node, Outcome.FAIL, 1, 2, 3, port=8081)
    assert weighing(node, old) == weighing(node, new) == {1, 2, 3}
    assert len(node.routes) == 1
    assert {one.kind for one in node.state.standing.values()} == {Condition.SERVERS_NOT_REPLACED}
    probe(node, Outcome.FAIL, 2, port=80)
    assert weighing(node, old) == weighing(node, new) == {1, 3}
    probe(node, Outcome.OK, 1, port=8081)
    assert weighing(node, new) == {1}
    assert weighing(node, old) == set()
    assert not node.state.kept
    assert len(node.routes) == 1


def test_a_port_that_goes_while_another_comes_is_not_replaced() -> None:
    node = up(vip(ports=(80, 443)))
    node.reload(vip(ports=(80, 8443), servers=(1, 2, 3)))
    assert weighing(node, replace(KEY, port=443)) == set()


def test_servers_that_are_only_dropped_drain_at_once() -> None:
    node = up()
    busy(node)
    node.reload(vip(servers=(3,)))
    assert shape(node) == {"1:80": 0, "2:80": 0, "3:80": 1}
    assert not node.state.kept


def test_servers_that_get_no_clients_by_the_configuration_replace_none() -> None:
    node = up()
    node.reload(vip(servers=(), drained=(4, 5)))
    assert node.reason() is Reason.BELOW_QUORUM
    assert weighing(node, KEY) == set()


def test_a_drained_or_failed_old_server_is_not_brought_back() -> None:
    node = up()
    node.maintain("web/rs1")
    node.checks(Outcome.FAIL, 2)
    busy(node)
    node.reload(vip(servers=(4, 5, 6)))
    assert weighing(node, KEY) == {3}


def test_a_machine_that_is_drained_takes_clients_neither_by_its_old_port_nor_by_its_new_one() -> None:
    node = up(on_port(8080))
    node.reload(on_port(9090))
    node.maintain("web/rs2")
    assert weighing(node, KEY) == {1, 3}
    node.maintain("web/rs2", on=False)
    assert weighing(node, KEY) == {1, 2, 3}


def test_going_back_while_the_new_ones_fail_changes_nothing_for_any_client() -> None:
    node = up()
    node.reload(vip(servers=(4, 5, 6)))
    node.checks(Outcome.FAIL, 4, 5, 6)
    node.reload(vip())
    assert shape(node) == {"1:80": 1, "2:80": 1, "3:80": 1}
    assert not node.state.kept
    assert not node.state.standing
    assert all(node.state.is_target(target) for target in node.state.health)


def test_a_third_pool_is_waited_for_by_all_that_serve() -> None:
    quorum = Quorum(low=2, high=2)
    node = up(vip(quorum=quorum))
    node.reload(vip(servers=(4, 5), quorum=quorum))
    node.checks(Outcome.OK, 4, times=1)
    node.checks(Outcome.FAIL, 5)
    node.reload(vip(servers=(5, 6), quorum=quorum))
    assert weighing(node, KEY) == {1, 2, 3, 4}
    node.checks(Outcome.OK, 5, 6)
    assert weighing(node, KEY) == {5, 6}


def test_a_suspension_keeps_the_old_ones_and_everything_is_proven_anew() -> None:
    node = up()
    node.reload(vip(servers=(4, 5, 6)))
    node.checks(Outcome.FAIL, 4, 5, 6)
    node.now += 30.0
    node.tick()
    assert weighing(node, KEY) == {1, 2, 3}
    node.checks(Outcome.OK, 1, 2, 3)
    assert node.reason() is Reason.STARTING
    node.checks(Outcome.FAIL, 4, 5, 6)
    assert node.reason() is Reason.HEALTHY
    node.checks(Outcome.OK, 4, 5, 6)
    assert weighing(node, KEY) == {4, 5, 6}


def test_a_vip_that_goes_meanwhile_leaves_as_ever() -> None:
    node = up(vip(), vip("log", number=2))
    node.reload(vip(servers=(4, 5, 6)), vip("log", number=2))
    node.reload(vip("log", number=2))
    assert weighing(node, KEY) == {1, 2, 3}  # until its route is gone
    node.acknowledge()
    node.wait(30.0)
    assert KEY not in node.kernel.table
    assert not node.state.kept
    assert node.owned == node.state.configured


# A restart goes the same way.


def test_a_restart_with_another_pool_keeps_what_the_kernel_has() -> None:
    before = up()
    before.checks(Outcome.FAIL, 3)
    busy(before)
    node = restarted(before, vip(servers=(4, 5, 6)))
    assert shape(node) == {"1:80": 1, "2:80": 1, "4:80": 0, "5:80": 0, "6:80": 0}
    node.checks(Outcome.OK, 4, 5, 6, times=1)
    assert weighing(node, KEY) == {4, 5, 6}
    assert node.routes == [route(1)]


def test_after_a_restart_the_old_ones_go_on_by_the_check_of_the_new_ones() -> None:
    node = restarted(up(), vip(servers=(4, 5, 6)))
    node.checks(Outcome.FAIL, 4, 5, 6)
    node.checks(Outcome.OK, 1, 2, 3)
    assert node.routes == [route(1)]
    assert weighing(node, KEY) == {1, 2, 3}
    assert {one.kind for one in node.state.standing.values()} == {Condition.SERVERS_NOT_REPLACED}
    node.checks(Outcome.FAIL, 2)
    assert weighing(node, KEY) == {1, 3}


def test_after_a_restart_a_check_that_was_never_good_for_them_takes_no_weight_and_brings_no_route() -> None:
    node = restarted(up(), vip(servers=(4, 5, 6), check=HTTP))
    node.checks(Outcome.FAIL)
    assert weighing(node, KEY) == {1, 2, 3}
    assert node.routes == []
    node.checks(Outcome.OK, 4, 5, 6)
    assert weighing(node, KEY) == {4, 5, 6}
    assert node.routes == [route(1)]


def test_after_a_restart_their_own_checks_go_on_where_the_configuration_before_is_known() -> None:
    before = up(vip(check=HTTP))
    node = restarted(before, vip(servers=(4, 5, 6)), before=before.state.config)
    assert {target.check.kind for target in of(node, 1, 2, 3)} == {HTTP.kind}
    node.checks(Outcome.FAIL, 2, 4, 5, 6)
    node.checks(Outcome.OK, 1, 3)
    assert weighing(node, KEY) == {1, 3}
    assert node.routes == [route(1)]
    node.checks(Outcome.FAIL, 1, 3)
    assert node.routes == []


def test_after_a_restart_another_forwarding_with_another_check_goes_the_old_way_by_the_old_check() -> None:
    before = up()
    node = restarted(before, vip(forwarding=Forwarding.TUNNEL, check=HTTP), before=before.state.config)
    probe(node, Outcome.FAIL, 1, 2, 3, kind=HTTP)
    probe(node, Outcome.OK, 1, 2, 3, kind=CHECK)
    assert ways(node) == [(1, Forwarding.DR)] * 3
    assert node.routes == [route(1)]
    probe(node, Outcome.OK, 1, 2, 3, kind=HTTP)
    assert ways(node) == [(1, Forwarding.TUNNEL)] * 3


def test_a_restart_with_another_forwarding_goes_the_old_way_until_the_first_good_check() -> None:
    node = restarted(up(), vip(forwarding=Forwarding.TUNNEL))
    assert ways(node) == [(1, Forwarding.DR)] * 3
    node.checks(Outcome.OK)
    assert ways(node) == [(1, Forwarding.TUNNEL)] * 3


def test_a_restart_in_the_middle_goes_on_where_the_agent_before_was() -> None:
    before = up()
    before.reload(vip(servers=(4, 5, 6)))
    node = restarted(before, vip(servers=(4, 5, 6)))
    assert weighing(node, KEY) == {1, 2, 3}
    node.checks(Outcome.OK)
    assert weighing(node, KEY) == {4, 5, 6}
    node.wait(DRAIN + 1.0)
    assert shape(node) == {"4:80": 1, "5:80": 1, "6:80": 1}
    assert node.owned == node.state.configured


def test_a_restart_with_a_mark_in_the_place_of_a_port() -> None:
    node = restarted(up(), marked(7, 4, 5, 6))
    new = MarkKey(mark=7, version=4)
    assert (weighing(node, KEY), weighing(node, new)) == ({1, 2, 3}, {1, 2, 3})
    node.checks(Outcome.OK)
    assert (weighing(node, KEY), weighing(node, new)) == (set(), {4, 5, 6})


@pytest.mark.parametrize("before", [vip(), marked(7, 1, 2, 3)], ids=["a port", "a mark"])
def test_a_restart_while_a_mark_waits_for_its_real_servers_leaves_the_service_before_as_it_is(
    before: Vip,
) -> None:
    """Nobody knows yet which of the two the firewall sends clients to."""
    node = up(before)
    (old,) = node.state.index.services
    after, new = marked(8, 4, 5, 6), MarkKey(mark=8, version=4)
    node.reload(after)
    probe(node, Outcome.FAIL, 4, 5, 6)
    node = restarted(node, after, before=node.state.config)
    assert weighing(node, old) == weighing(node, new) == {1, 2, 3}
    probe(node, Outcome.OK, 1, 2, 3)
    probe(node, Outcome.FAIL, 4, 5, 6)
    assert weighing(node, old) == weighing(node, new) == {1, 2, 3}
    assert node.routes == [route(1)]
    probe(node, Outcome.OK, 4, 5, 6)
    assert (weighing(node, old), weighing(node, new)) == (set(), {4, 5, 6})
    node.wait(DRAIN + 1.0)
    assert node.owned == node.state.configured


def test_a_restart_after_a_reboot_keeps_nothing() -> None:
    before = up()
    node = Node(vip(servers=(4, 5, 6)), left=before.owned or NOTHING, now=before.now)
    assert not node.state.kept
    assert shape(node) == {"4:80": 0, "5:80": 0, "6:80": 0}


def test_a_reload_before_the_first_reading_is_as_good_as_one_after_it() -> None:
    before = up()
    node = Node(
        vip(servers=(4, 5, 6)),
        found=before.kernel,
        left=before.owned or NOTHING,
        now=before.now,
        kernel_is_slow=True,
    )
    node.reload(vip(servers=(5, 6)))
    node.kernel_is_slow = False
    node.kernel_answers()
    assert weighing(node, KEY) == {1, 2, 3}
    assert shape(node) == {"1:80": 1, "2:80": 1, "3:80": 1, "5:80": 0, "6:80": 0}
    node.checks(Outcome.OK)
    assert weighing(node, KEY) == {5, 6}
