"""What the kernel does to connections when real servers are moved or taken out, as the table of connections grows.

By default few connections. docs/measurements.md was made with ANYCAST_LARGE=100000: `pytest -s -m lab`.
"""

from __future__ import annotations

import os
import socket
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from anycast.core.dataplane.ipvs import AddDestination, MoveDestination, RemoveDestination, ServiceEntry
from anycast.core.dataplane.kernel import (
    ExpireDestinations,
    ReorderDestinations,
    seconds_to_end,
)
from tests.contract.tables import played, snapshot
from tests.contract.test_ipvs_behaviours import (
    ACK,
    VIP,
    Flow,
    Seen,
    nodes,
    owners,
    segment,
    service,
    table,
)

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]
LARGE = int(os.environ.get("ANYCAST_LARGE", "4000"))  # connections
REPAIRS = 9
SERVERS = 8
KEY = service(4)
ENTRY: ServiceEntry = table(KEY, SERVERS)
_PORTS = 50_000  # of a client
_AT_ONCE = 5000  # packets, until they are waited for


def flows(number: int) -> Iterator[Flow]:
    for n in range(number):
        yield IPv4Address("10.77.0.1") + n // _PORTS, 10_000 + n % _PORTS


def filled(one: Seen, number: int) -> None:
    with one.node.sender():
        line = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    with line:
        for n, flow in enumerate(flows(number)):
            line.sendto(segment(flow, 80, ACK), (str(VIP[4]), 0))
            if n % _AT_ONCE == 0:
                one.taken()
    one.taken()


def held(one: Seen) -> dict[str, int]:
    """The connections of each real server that has any."""
    with one.node.inside():
        counts = snapshot().connections_of(KEY)
    return {str(address): sum(each) for (address, _), each in counts.items()}


def repaired(one: Seen) -> float:
    """Seconds for which `expire_nodest_conn` was 0."""
    moves = tuple(MoveDestination(service=KEY, destination=each) for each in ENTRY.destinations)
    with one.node.inside():
        begun = time.perf_counter()
        assert played(ReorderDestinations(moves=moves)) == ()
        return time.perf_counter() - begun


def test_a_repair_of_the_order_ends_nothing_and_takes_as_long_as_with_an_empty_table(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sample = list(flows(LARGE))[:: LARGE // 200]
    with nodes(KEY, ENTRY, 1) as (one,):
        empty = [repaired(one) for _ in range(REPAIRS)]
        filled(one, LARGE)
        before = held(one)
        where = owners(one.gets(segment(each, 80, ACK) for each in sample))
        full = [repaired(one) for _ in range(REPAIRS)]
        assert owners(one.gets(segment(each, 80, ACK) for each in sample)) == where
        assert held(one) == before
    assert sum(before.values()) == LARGE
    with capsys.disabled():
        times = [f"{statistics.median(took) * 1000:.1f} ms" for took in (empty, full)]
        print(f"\nrepair of {SERVERS} real servers: {times[0]} without connections, {times[1]} with {LARGE}")


def test_when_a_server_is_back_all_its_connections_have_been_ended_and_no_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = ENTRY.destinations[0]
    down = AddDestination(service=KEY, destination=replace(first, weight=0))
    with nodes(KEY, ENTRY, 1) as (one,):
        filled(one, LARGE)
        before = held(one)
        seconds = seconds_to_end(before[str(first.address)])
        removal = RemoveDestination(service=KEY, key=first.key)
        with one.node.inside():
            assert played(ExpireDestinations(removals=(removal,), seconds=seconds), down) == ()
        after = held(one)
    with capsys.disabled():
        print(f"\n{before[str(first.address)]} of {LARGE} connections ended in {seconds:.2f} s")
    assert after == {address: count for address, count in before.items() if address != str(first.address)}
