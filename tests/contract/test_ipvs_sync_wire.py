"""Connection sync on the wire: how often connections with a packet a second are announced, and what the doctor hears of it.

By default few connections for a moment. docs/measurements.md was made with ANYCAST_SYNC_CONNECTIONS=5000 and
ANYCAST_SYNC_SECONDS=60, which takes some minutes, and measures the processor's time too: `pytest -s -m lab`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from anycast.core.dataplane.ipvs import AddDestination, RemoveDestination, ServiceEntry
from anycast.core.dataplane.kernel import EXPIRE_NODEST, SYNC_SYSCTLS, StartSync, SyncRole
from anycast.core.values.configuration import ConnectionSync, Forwarding
from anycast.doctor import multicast
from anycast.doctor.facts import Heard
from anycast.kernel import sysctl
from tests.contract.namespaces import run
from tests.contract.tables import played
from tests.contract.test_ipvs_behaviours import (
    ACK,
    CLIENTS_OF,
    VIP,
    Flow,
    Seen,
    nodes,
    owners,
    segment,
    service,
    table,
    told,
)
from tests.contract.test_ipvs_flows import FAMILIES

pytestmark = pytest.mark.lab
CONNECTIONS = int(os.environ.get("ANYCAST_SYNC_CONNECTIONS", "100"))
SECONDS = int(os.environ.get("ANYCAST_SYNC_SECONDS", "6"))  # of the measuring, and of sync_refresh_period
SLICES = 10  # of a second
ROUNDS = 20  # packets of each connection, one after the other
BY_PACKETS = {"net.ipv4.vs.sync_threshold": "3 10", "net.ipv4.vs.sync_refresh_period": "0"}
BY_TIME = {**SYNC_SYSCTLS, "net.ipv4.vs.sync_refresh_period": str(SECONDS)}
EVERY_PACKET = {"net.ipv4.vs.sync_threshold": "0 1", "net.ipv4.vs.sync_refresh_period": "0"}
SYNC = ConnectionSync(interface="sync0", id=5)
_EVERYTHING = 3  # ETH_P_ALL: also what leaves
_SO_RCVBUFFORCE = 33


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of `SECONDS`."""

    packets: int
    announcements: int
    datagrams: int
    bytes: int  # with the IP header

    def __str__(self) -> str:
        each = 1 / SECONDS
        return (
            f"{self.packets * each:.0f} packets/s: {self.announcements * each:.1f} announcements/s in "
            f"{self.datagrams * each:.2f} datagrams/s, {self.bytes * each:.0f} bytes/s"
        )


@contextlib.contextmanager
def _synced(
    sysctls: Mapping[str, str], *, daemons: bool = True
) -> Iterator[tuple[Seen, Seen, socket.socket]]:
    """Two nodes, the second hears the first; and what is heard."""
    key = service(4)
    with nodes(key, table(key, 4)) as (first, second), contextlib.ExitStack() as stack:
        with second.node.inside():
            there = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        stack.callback(os.close, there)
        with first.node.inside():
            peer = ("peer", "name", "sync0", "netns", f"/proc/{os.getpid()}/fd/{there}")
            run("ip", "link", "add", "sync0", "type", "veth", *peer)
        for number, one, role in ((1, first, SyncRole.MASTER), (2, second, SyncRole.BACKUP)):
            with one.node.inside():
                lines = f"link set sync0 up\naddr add 10.3.0.{number}/24 dev sync0\n"
                run("ip", "-batch", "-", stdin=lines)
                for name, value in sysctls.items():
                    sysctl.write(name, value)
                if daemons:
                    assert played(StartSync(role=role, sync=SYNC)) == ()
        with second.node.inside():
            line = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_EVERYTHING))
        with line:
            line.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 26)
            line.bind(("sync0", _EVERYTHING))
            line.setblocking(False)
            yield first, second, line


def _sends(first: Seen, seconds: int, ramp: int) -> Iterator[int]:
    """A packet a second of each connection; how many, each tenth. They begin over the first `ramp` seconds."""
    flows = [(CLIENTS_OF[4] + number // 50_000, 10_000 + number % 50_000) for number in range(CONNECTIONS)]
    packets = [segment(flow, 80, ACK) for flow in flows]
    with first.node.sender():
        line = socket.socket(FAMILIES[4], socket.SOCK_RAW, socket.IPPROTO_RAW)
    with line:
        start = time.monotonic()
        for number in range(seconds * SLICES):
            begun = min(CONNECTIONS, CONNECTIONS * (number + 1) // (ramp * SLICES))
            mine = packets[:begun][number % SLICES :: SLICES]
            for one in mine:
                line.sendto(one, (str(VIP[4]), 0))
            yield len(mine)
            time.sleep(max(0.0, start + (number + 1) / SLICES - time.monotonic()))


def cost(sysctls: Mapping[str, str], ramp: int) -> Cost:
    with _synced(sysctls) as (first, second, line):
        packets = announcements = datagrams = size = 0
        for number, count in enumerate(_sends(first, ramp + SECONDS, ramp)):
            packets += count
            for one in _taken(line):
                if told(one, SYNC.port):
                    announcements += len(told(one, SYNC.port))
                    datagrams += 1
                    size += len(one)
            first.taken() if number % SLICES == 0 else None
            if number == ramp * SLICES - 1:
                packets = announcements = datagrams = size = 0
        with second.node.inside():
            known = len(Path("/proc/thread-self/net/ip_vs_conn").read_text().splitlines()) - 1
    assert known == CONNECTIONS
    return Cost(packets=packets, announcements=announcements, datagrams=datagrams, bytes=size)


@pytest.mark.timeout(120 + 5 * SECONDS)
def test_connections_are_announced_by_time_at_a_fraction_of_what_packets_cost(
    capsys: pytest.CaptureFixture[str],
) -> None:
    by_packets = cost(BY_PACKETS, min(10, SECONDS))
    by_time = cost(BY_TIME, SECONDS)
    with capsys.disabled():
        print(f"\n{CONNECTIONS} connections\n3 10: {by_packets}\n3 0, refresh {SECONDS} s: {by_time}")
    assert by_time.announcements < CONNECTIONS * 1.5
    if SECONDS >= 10:
        assert by_time.announcements * 3 < by_packets.announcements
        assert by_time.bytes * 3 < by_packets.bytes


def _flood(*, daemons: bool) -> tuple[float, int]:
    """Seconds that many packets of the connections take, as fast as they go, and how many were announced."""
    flows = [(CLIENTS_OF[4] + number // 50_000, 10_000 + number % 50_000) for number in range(CONNECTIONS)]
    packets = [segment(flow, 80, ACK) for flow in flows]
    with _synced(EVERY_PACKET, daemons=daemons) as (first, second, heard):
        heard.close()  # listening costs, too
        with first.node.sender():
            line = socket.socket(FAMILIES[4], socket.SOCK_RAW, socket.IPPROTO_RAW)
        with line:
            for one in packets:
                line.sendto(one, (str(VIP[4]), 0))
            first.taken()
            before, begun = _received(second), time.perf_counter()
            for _ in range(ROUNDS):
                for one in packets:
                    line.sendto(one, (str(VIP[4]), 0))
            return time.perf_counter() - begun, _received(second) - before


def _received(second: Seen) -> int:
    """Announcements, by the bytes that have come: each datagram has its head, and 36 bytes for each."""
    with second.node.inside():
        lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
    size, datagrams = next(map(int, line.split()[1:3]) for line in lines if line.split()[0] == "sync0:")
    return (size - datagrams * (14 + 20 + 8 + 8)) // 36


@pytest.mark.skipif(SECONDS < 10, reason="a measurement, which takes minutes")
@pytest.mark.timeout(1200)
def test_what_an_announcement_costs_both_nodes_together(capsys: pytest.CaptureFixture[str]) -> None:
    """One processor does everything here: what takes longer with sync is what sync takes of it."""
    pairs = [(_flood(daemons=False), _flood(daemons=True)) for _ in range(5)]
    plain, (synced, announced) = min(each for each, _ in pairs), min(each for _, each in pairs)
    each = (synced - plain[0]) / announced
    with capsys.disabled():
        print(f"\n{pairs}\n{each * 1e6:.1f} us for an announcement, of {announced}")


def _taken(line: socket.socket) -> Iterator[bytes]:
    with contextlib.suppress(BlockingIOError):
        while True:
            yield line.recv(65535)


@pytest.mark.parametrize("sync_id", [SYNC.id, 9])
def test_the_doctor_hears_what_another_balancer_announces_beside_the_kernels_own_daemon(sync_id: int) -> None:
    sync = replace(SYNC, id=sync_id)
    with _synced(EVERY_PACKET) as (first, second, _), ThreadPoolExecutor(1) as pool:

        def listening() -> Heard:
            with second.node.inside():
                return asyncio.run(multicast.listen(sync, own=("10.3.0.2",), moment=6))

        there = pool.submit(listening)
        sent = sum(_sends(first, 5, 1))
        heard = there.result()
        with second.node.inside():
            known = Path("/proc/thread-self/net/ip_vs_conn").read_text().count("\nTCP")
    assert sent
    assert known == CONNECTIONS
    assert heard.ids == {SYNC.id: {"10.3.0.1"}}
    servers = {str(one.server) for _, one in heard.announced}
    assert servers == (
        {str(one.address) for one in table(service(4), 4).destinations} if sync == SYNC else set()
    )


def _until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


@contextlib.contextmanager
def _told_of_the_last_server(
    there: ServiceEntry, here: ServiceEntry
) -> Iterator[tuple[Seen, Seen, list[Flow]]]:
    """The first node has the table `there` and tells the second, which has `here`, of the last server's flows."""
    key, last = service(4), there.destinations[-1].address
    with _synced(EVERY_PACKET) as (first, second, _):
        first.node.become({key: there})
        second.node.become({key: here})
        first.gets(segment(flow, 80, ACK) for flow in FLOWS)
        _until(lambda: len(second.node.flows()) == len(FLOWS), "the second node to be told of all")
        flows = [(address, port) for address, port in FLOWS if second.node.flows()[port] == last]
        assert flows
        yield first, second, flows


FLOWS: list[Flow] = [(CLIENTS_OF[4], 10_000 + number) for number in range(100)]
ALL = table(service(4), 4)
TUNNELS = replace(
    ALL, destinations=tuple(replace(one, forwarding=Forwarding.TUNNEL) for one in ALL.destinations)
)
WITHOUT = replace(ALL, destinations=ALL.destinations[:-1])


def test_a_connection_to_a_server_that_is_not_here_goes_on_with_direct_routing() -> None:
    last = ALL.destinations[-1].address
    with _told_of_the_last_server(ALL, WITHOUT) as (_, second, flows):
        assert owners(second.gets(segment(flow, 80, ACK) for flow in flows)) == dict.fromkeys(flows, last)


def test_a_connection_to_a_server_that_is_not_here_is_dropped_in_a_tunnel_until_it_is_told_of_again() -> None:
    """Also once the server is here. So it is added everywhere with weight 0 first."""
    without = replace(TUNNELS, destinations=TUNNELS.destinations[:-1])
    with _told_of_the_last_server(TUNNELS, without) as (first, second, flows):
        assert second.gets(segment(flow, 80, ACK) for flow in flows) == []
        second.node.become({service(4): TUNNELS})
        assert second.gets(segment(flow, 80, ACK) for flow in flows) == []
        first.gets(segment(flow, 80, ACK) for flow in flows)
        _until(
            lambda: len(second.gets(segment(flow, 80, ACK) for flow in flows)) == len(flows),
            "the first node's next message to be taken in",
        )


def test_a_server_that_was_removed_on_one_node_comes_back_with_what_the_others_tell() -> None:
    last = ALL.destinations[-1].address
    with _told_of_the_last_server(ALL, ALL) as (first, second, flows):
        second.node.become({service(4): WITHOUT})
        _until(lambda: last not in second.node.flows().values(), "its connections to be ended")
        first.gets(segment(flow, 80, ACK) for flow in flows)
        _until(
            lambda: list(second.node.flows().values()).count(last) == len(flows), "them to be told of again"
        )
        assert owners(second.gets(segment(flow, 80, ACK) for flow in flows)) == dict.fromkeys(flows, last)


@pytest.mark.parametrize("expire", ["0", "1"], ids=["repair of the order", "end of a failed server"])
def test_what_is_told_of_while_a_server_is_put_back_is_dropped_in_a_tunnel_until_it_is_told_of_again(
    expire: str,
) -> None:
    """Both remove the server and add it again. What was known before goes on after a repair."""
    key, last = service(4), TUNNELS.destinations[-1]
    later = [(address, port + len(FLOWS)) for address, port in FLOWS]
    with _told_of_the_last_server(TUNNELS, TUNNELS) as (first, second, before):
        with second.node.inside():
            sysctl.write(EXPIRE_NODEST, expire)
            assert played(RemoveDestination(service=key, key=last.key)) == ()
        first.gets(segment(flow, 80, ACK) for flow in later)
        mine = [(address, port) for address, port in later if first.node.flows()[port] == last.address]
        assert mine
        _until(
            lambda: set(second.node.flows()) >= {port for _, port in later},
            "the second node to be told of all",
        )
        with second.node.inside():
            assert played(AddDestination(service=key, destination=last)) == ()
        if expire == "0":
            assert len(second.gets(segment(flow, 80, ACK) for flow in before)) == len(before)
        assert second.gets(segment(flow, 80, ACK) for flow in mine) == []
        first.gets(segment(flow, 80, ACK) for flow in mine)
        _until(
            lambda: len(second.gets(segment(flow, 80, ACK) for flow in mine)) == len(mine),
            "the first node's next message to be taken in",
        )
