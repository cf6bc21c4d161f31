"""What the kernel does to connections when real servers are moved or taken out, as the table of connections grows.

By default few connections. docs/measurements.md was made with ANYCAST_LARGE=200000: `pytest -s -m lab`.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from anycast.core.dataplane.ipvs import (
    AddDestination,
    MoveDestination,
    RemoveDestination,
    ServiceEntry,
)
from anycast.core.dataplane.kernel import ReorderDestinations
from tests.contract.tables import played, snapshot
from tests.contract.test_ipvs_behaviours import ACK, VIP, Flow, Seen, nodes, owners, segment, service, table

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]
LARGE = int(os.environ.get("ANYCAST_LARGE", "4000"))  # connections
SERVERS = 8
KEY = service(4)
EACH = 50_000  # ports of a client
WAITS = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


def flows(number: int) -> Iterator[Flow]:
    for n in range(number):
        yield IPv4Address("10.77.0.1") + n // EACH, 10_000 + n % EACH


def filled(one: Seen, number: int) -> None:
    with one.node.sender():
        line = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    with line:
        for n, flow in enumerate(flows(number)):
            line.sendto(segment(flow, 80, ACK), (str(VIP[4]), 0))
            if n % 5000 == 0:
                one.taken()
    one.taken()


def held(one: Seen) -> dict[str, int]:
    with one.node.inside():
        found = snapshot().connections_of(KEY)
    return {str(at[0]): sum(counts) for at, counts in found.items()}


def test_explore(capsys: pytest.CaptureFixture[str]) -> None:
    entry: ServiceEntry = table(KEY, SERVERS)
    with nodes(KEY, entry, 1) as (one,):

        def moved() -> float:
            moves = tuple(MoveDestination(service=KEY, destination=each) for each in entry.destinations)
            with one.node.inside():
                begun = time.perf_counter()
                assert played(ReorderDestinations(moves=moves)) == ()
                return time.perf_counter() - begun

        empty = sorted(moved() for _ in range(9))
        begun = time.perf_counter()
        filled(one, LARGE)
        took = time.perf_counter() - begun
        before = held(one)
        sample = list(flows(LARGE))[:: max(1, LARGE // 200)]
        where = owners(one.gets(segment(each, 80, ACK) for each in sample))
        full = sorted(moved() for _ in range(9))
        assert owners(one.gets(segment(each, 80, ACK) for each in sample)) == where
        with capsys.disabled():
            print(
                f"\n{LARGE} in {took:.1f} s; repair: {[round(x * 1000, 1) for x in empty]} ms empty, {[round(x * 1000, 1) for x in full]} ms full; {before}"
            )
        for each, wait in zip(entry.destinations, WAITS, strict=True):
            down = replace(each, weight=0)
            with one.node.inside():
                assert played(RemoveDestination(service=KEY, key=each.key)) == ()
                begun = time.perf_counter()
                time.sleep(wait)
                slept = time.perf_counter() - begun
                assert played(AddDestination(service=KEY, destination=down)) == ()
            left = held(one).get(str(each.address), 0)
            time.sleep(1)
            with capsys.disabled():
                print(
                    f"wait {wait * 1000:.0f} ms ({slept * 1000:.0f}): {left} of {before[str(each.address)]} left"
                )
