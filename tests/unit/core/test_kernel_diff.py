"""The operations on the kernel, and why their order is safe."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from ipaddress import ip_address

import pytest

from anycast.core.dataplane.ipvs import (
    AddDestination,
    AddService,
    Connections,
    Destination,
    MarkKey,
    MoveDestination,
    RemoveDestination,
    RemoveService,
    ServiceEntry,
    ServiceKey,
    SetDestination,
    SetService,
    Settings,
    packed,
    unpacked,
)
from anycast.core.dataplane.kernel import (
    IPVS_SYSCTLS,
    AddAddress,
    Desired,
    ExpireDestinations,
    RemoveAddress,
    ReorderDestinations,
    SetSysctl,
    Snapshot,
    diff,
    play,
)
from anycast.core.values.configuration import Forwarding, Protocol, Scheduler, SchedulerFlag

VIP, OTHER = ip_address("192.0.2.1"), ip_address("192.0.2.2")
FLAGS = frozenset({SchedulerFlag.MH_PORT, SchedulerFlag.MH_FALLBACK})
EMPTY = Snapshot(table={}, addresses=frozenset(), sysctls={})


def key(address: str = "192.0.2.1", port: int = 80) -> ServiceKey:
    return ServiceKey(protocol=Protocol.TCP, address=ip_address(address), port=port)


def destination(number: int, weight: int = 1, *, foreign: str = "") -> Destination:
    return Destination(
        address=ip_address(f"10.9.2.{number}"),
        port=80,
        weight=weight,
        forwarding=Forwarding.DR,
        foreign=foreign,
    )


def entry(*destinations: Destination, scheduler: Scheduler = Scheduler.MH) -> ServiceEntry:
    return ServiceEntry(
        scheduler=scheduler,
        flags=FLAGS if scheduler is Scheduler.MH else frozenset(),
        destinations=destinations,
    )


def desired(*destinations: Destination, scheduler: Scheduler = Scheduler.MH) -> Desired:
    return Desired(
        table={key(): entry(*destinations, scheduler=scheduler)},
        addresses=frozenset({VIP}),
        sysctls={"net.ipv4.vs.sloppy_tcp": "1"},
        owned=frozenset({VIP}),
    )


def holding(wanted: Desired, *destinations: Destination) -> Snapshot:
    """A kernel that holds what is wanted, but these real servers."""
    there = replace(wanted.table[key()], destinations=destinations)
    return Snapshot(table={key(): there}, addresses=wanted.addresses, sysctls=wanted.sysctls)


def test_packets_find_a_whole_table_when_the_address_appears() -> None:
    one, two = destination(1), destination(2)
    assert diff(EMPTY, desired(one, two)) == (
        SetSysctl(name="net.ipv4.vs.sloppy_tcp", value="1"),
        AddService(service=key(), settings=Settings(scheduler="rr", flags=frozenset())),
        AddDestination(service=key(), destination=one),
        AddDestination(service=key(), destination=two),
        SetService(service=key(), settings=Settings(scheduler="mh", flags=FLAGS)),
        AddAddress(address=VIP),
    )


def test_a_server_that_is_down_is_in_the_table_of_a_new_service_and_gets_no_clients() -> None:
    down = replace(destination(1, weight=0), table_weight=5)
    ops = diff(EMPTY, desired(down))
    inserted = next(op for op in ops if isinstance(op, AddDestination))
    assert inserted.destination.weight == 5
    switched = ops.index(SetService(service=key(), settings=Settings(scheduler="mh", flags=FLAGS)))
    assert ops.index(SetDestination(service=key(), destination=down)) > switched
    assert play(EMPTY, ops).table[key()].destinations == (down,)


def test_schedulers_without_a_table_are_filled_as_they_are() -> None:
    ops = diff(EMPTY, desired(destination(1, weight=0), scheduler=Scheduler.WRR))
    assert [type(op) for op in ops] == [SetSysctl, AddService, AddDestination, AddAddress]


def test_an_address_that_goes_takes_its_services_with_it_and_goes_first() -> None:
    wanted = desired(destination(1))
    kernel = holding(wanted, destination(1))
    kernel = replace(
        kernel,
        table={**kernel.table, key("192.0.2.2"): entry(destination(1))},
        addresses=frozenset({VIP, OTHER}),
    )
    ops = diff(kernel, replace(wanted, owned=frozenset({VIP, OTHER})))
    assert ops == (RemoveAddress(address=OTHER), RemoveService(service=key("192.0.2.2")))


def test_what_others_put_there_stays_unless_the_node_is_exclusive() -> None:
    wanted = desired(destination(1))
    kernel = holding(wanted, destination(1))
    kernel = replace(
        kernel,
        table={**kernel.table, key("198.51.100.9"): entry(destination(9))},
        addresses=frozenset({VIP, ip_address("127.0.0.1"), ip_address("198.51.100.9")}),
    )
    assert diff(kernel, wanted) == ()
    assert diff(kernel, replace(wanted, exclusive=True)) == (RemoveService(service=key("198.51.100.9")),)


def test_a_port_that_is_dropped_goes_and_the_address_stays() -> None:
    wanted = desired(destination(1))
    kernel = holding(wanted, destination(1))
    kernel = replace(kernel, table={key(port=443): entry(destination(1)), **kernel.table})
    assert diff(kernel, wanted) == (RemoveService(service=key(port=443)),)


def test_a_server_is_added_before_another_goes() -> None:
    wanted = desired(destination(2))
    add, expire = diff(holding(wanted, destination(1)), wanted)
    assert add == AddDestination(service=key(), destination=destination(2))
    assert isinstance(expire, ExpireDestinations)
    assert expire.removals == (RemoveDestination(service=key(), key=destination(1).key),)


@pytest.mark.parametrize("managed", [True, False])
def test_the_sysctl_that_ends_connections_may_be_written_where_sysctls_are_the_agents(managed: bool) -> None:  # noqa: FBT001
    wanted = replace(desired(destination(2)), sysctls=IPVS_SYSCTLS if managed else {})
    ops = diff(holding(wanted, destination(1)), wanted)
    assert [op.write_sysctl for op in ops if isinstance(op, ExpireDestinations)] == [managed]
    wanted = replace(wanted, table=desired(destination(1), destination(2)).table)
    ops = diff(holding(wanted, destination(2), destination(1)), wanted)
    assert [op.write_sysctl for op in ops if isinstance(op, ReorderDestinations)] == [managed]


def test_a_weight_is_changed_in_its_place() -> None:
    wanted = desired(destination(1, weight=0), destination(2))
    assert diff(holding(wanted, destination(1), destination(2)), wanted) == (
        SetDestination(service=key(), destination=destination(1, weight=0)),
    )


def test_only_what_stands_behind_the_first_wrong_place_is_moved() -> None:
    wanted = desired(destination(1), destination(2), destination(3))
    kernel = holding(wanted, destination(1), destination(3), destination(2))
    ops = diff(kernel, wanted)
    moves = tuple(MoveDestination(service=key(), destination=destination(number)) for number in (2, 3))
    assert ops == (ReorderDestinations(moves=moves, write_sysctl=False),)
    assert play(kernel, ops).table == wanted.table


def test_a_server_in_the_midst_moves_those_behind_it() -> None:
    wanted = desired(destination(1), destination(2), destination(3))
    kernel = holding(wanted, destination(1), destination(3))
    ops = diff(kernel, wanted)
    assert ops == (
        AddDestination(service=key(), destination=destination(2)),
        ReorderDestinations(
            moves=(MoveDestination(service=key(), destination=destination(3)),), write_sysctl=False
        ),
    )
    assert play(kernel, ops).table == wanted.table


def test_the_order_does_not_matter_where_the_scheduler_does_not_look_at_it() -> None:
    wanted = desired(destination(1), destination(2), scheduler=Scheduler.WLC)
    assert diff(holding(wanted, destination(2), destination(1)), wanted) == ()


def test_what_somebody_else_gave_a_server_is_taken_away() -> None:
    wanted = desired(destination(1))
    assert diff(holding(wanted, destination(1, foreign="threshold 5")), wanted) == (
        SetDestination(service=key(), destination=destination(1)),
    )


def test_another_scheduler_is_set_on_the_service_that_stands() -> None:
    wanted = desired(destination(1))
    kernel = replace(holding(wanted), table={key(): entry(destination(1), scheduler=Scheduler.RR)})
    assert diff(kernel, wanted) == (
        SetService(service=key(), settings=Settings(scheduler="mh", flags=FLAGS)),
    )


def test_a_sysctl_that_cannot_be_read_is_written() -> None:
    wanted = desired(destination(1))
    kernel = replace(holding(wanted, destination(1)), sysctls={})
    assert diff(kernel, wanted) == (SetSysctl(name="net.ipv4.vs.sloppy_tcp", value="1"),)


def test_connections_are_of_the_server_whatever_its_record_and_place() -> None:
    one, two, three = (destination(number) for number in (1, 2, 3))
    kernel = replace(
        holding(desired(one, two, three), one, two, three),
        connections={key(): packed([Connections(1, 2), Connections(), Connections(3, 4)])},
    )
    assert kernel.connections_of(key()) == {one.key: (1, 2), three.key: (3, 4)}
    assert kernel.all_connections() == (4, 6)
    assert kernel.masqueraded() == 0
    ops = (
        SetDestination(service=key(), destination=replace(three, weight=0)),
        MoveDestination(service=key(), destination=one),
        RemoveDestination(service=key(), key=two.key),
    )
    after = play(kernel, ops)
    assert [each.key for each in after.table[key()].destinations] == [three.key, one.key]
    assert after.connections_of(key()) == {one.key: (1, 2), three.key: (3, 4)}


def test_masqueraded_are_the_connections_of_servers_reached_by_nat_alone() -> None:
    one, two, three = (destination(number) for number in (1, 2, 3))
    table = (one, replace(two, forwarding=Forwarding.NAT), replace(three, forwarding=Forwarding.TUNNEL))
    kernel = replace(
        holding(desired(*table), *table),
        connections={key(): packed([Connections(1, 2), Connections(3, 4), Connections(5, 6)])},
    )
    assert (sum(kernel.all_connections()), kernel.masqueraded()) == (21, 7)
    assert replace(kernel, table={}).masqueraded() == 0


def test_connections_go_with_their_server_and_their_service() -> None:
    one, two = destination(1), destination(2)
    kernel = replace(
        holding(desired(one, two), one, two),
        connections={key(): packed([Connections(1, 2), Connections(3, 4)])},
    )
    gone = RemoveDestination(service=key(), key=one.key)
    back = AddDestination(service=key(), destination=one)
    assert play(kernel, (gone, back)).connections_of(key()) == {two.key: (3, 4)}
    for ops in ((RemoveService(service=key()),), (gone, replace(gone, key=two.key))):
        after = play(kernel, ops)
        assert after.connections == {}
        assert after.connections_of(key()) == {}


def test_no_connections_take_no_space() -> None:
    assert packed([Connections(), Connections()]) == b""
    assert list(unpacked(packed([Connections(5, 2**32 - 1)]))) == [(5, 2**32 - 1)]


def test_a_key_has_the_same_hash_in_every_process() -> None:
    """A mapping that is sent to another is found there by it."""
    keys = [key("192.0.2.1"), key("2001:db8:99::1"), MarkKey(mark=7, version=4)]
    code = "import pickle, sys; print([hash(one) for one in pickle.load(sys.stdin.buffer)])"
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            input=pickle.dumps(keys),
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert said == {f"{[hash(one) for one in keys]}\n".encode()}
    assert hash(key()) == hash(key())
