"""The check to the VIP: a balancer that holds the VIP, real servers that hold it, do not, or do not listen.

All are namespaces on one link, the balancer in the middle of it. Its IPVS serves the VIP, as it would be.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

import pytest

from anycast.core.dataplane.ipvs import ServiceEntry, ServiceKey
from anycast.core.health.phase import Outcome, Result
from anycast.core.values.checks import TcpCheck, TcpQuietCheck
from anycast.core.values.configuration import Check, Protocol, Scheduler, Target
from anycast.probes.closes import CLOSED
from anycast.probes.finding import Progress
from anycast.probes.links import fault
from anycast.probes.run import probe
from anycast.probes.wire import wire
from tests.contract.namespaces import entered, made_namespace, run
from tests.contract.tables import desired, established, server
from tests.unit.probes.peers import open_descriptors

pytestmark = pytest.mark.lab

PORT = 80
VIP = {4: "192.0.2.1", 6: "2001:db8::1"}
SECOND = {4: "192.0.2.2", 6: "2001:db8::2"}
NET = {4: "10.9.2.", 6: "fd09:2::"}
MASK = {4: 24, 6: 64}
LENGTH = {4: 32, 6: 128}
# Of the real servers, by the last digit of their address.
GOOD, WITHOUT_VIP, SILENT, FORWARDING, GONE, ROUTER, BALANCER = 1, 2, 3, 4, 8, 253, 254
FAMILIES = pytest.mark.parametrize("version", [4, 6])


@dataclass(frozen=True)
class Site:
    balancer: int
    hosts: dict[int, int]  # namespaces


@contextlib.contextmanager
def _host(balancer: int, number: int) -> Iterator[int]:
    """A namespace on the link, with its addresses of both families."""
    with made_namespace() as host:
        with entered(host):
            where = f"/proc/{os.getpid()}/fd/{balancer}"
            run("ip", "link", "add", "lan", "type", "veth", "peer", "name", f"port{number}", "netns", where)
            for version in (4, 6):
                nodad = ["nodad"] if version == 6 else []
                run("ip", "addr", "add", f"{NET[version]}{number}/{MASK[version]}", "dev", "lan", *nodad)
            run("ip", "link", "set", "lan", "up")
        with entered(balancer):
            run("ip", "link", "set", f"port{number}", "master", "lan", "up")
        yield host


def _hold(vips: dict[int, str]) -> None:
    for version, vip in vips.items():
        nodad = ["nodad", "preferred_lft", "0"] if version == 6 else []
        run("ip", "addr", "add", f"{vip}/{LENGTH[version]}", "dev", "lo", *nodad)


def _serve() -> None:
    established(
        desired(
            {
                ServiceKey(protocol=Protocol.TCP, address=ip_address(VIP[version]), port=PORT): ServiceEntry(
                    scheduler=Scheduler.RR, destinations=(server(f"{NET[version]}{GOOD}"),)
                )
                for version in (4, 6)
            }
        )
    )
    with open("/proc/sys/net/ipv4/vs/sloppy_tcp", "w", encoding="ascii") as file:
        file.write("1")


def _quiet_arp() -> None:
    for name, value in (("arp_ignore", 1), ("arp_announce", 2)):
        with open(f"/proc/sys/net/ipv4/conf/all/{name}", "w", encoding="ascii") as file:
            file.write(str(value))


def _forward() -> None:
    for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        with open(f"/proc/sys/net/{name}", "w", encoding="ascii") as file:
            file.write("1")


@contextlib.contextmanager
def _listening() -> Iterator[None]:
    """A server that takes every connection."""
    with _listener(PORT, 64) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):  # shut down
                while True:
                    listener.accept()[0].close()

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def _listener(port: int, backlog: int) -> socket.socket:
    return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=backlog)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with contextlib.ExitStack() as stack:
        balancer = stack.enter_context(made_namespace())
        with entered(balancer):
            run("ip", "link", "add", "lan", "type", "bridge")
            for version in (4, 6):
                nodad = ["nodad"] if version == 6 else []
                run("ip", "addr", "add", f"{NET[version]}{BALANCER}/{MASK[version]}", "dev", "lan", *nodad)
            run("ip", "link", "set", "lan", "up")
            _hold(VIP)
            _hold(SECOND)
            _serve()
        numbers = (GOOD, WITHOUT_VIP, SILENT, FORWARDING, ROUTER)
        hosts = {number: stack.enter_context(_host(balancer, number)) for number in numbers}
        for number in (GOOD, SILENT):
            with entered(hosts[number]):
                _quiet_arp()
                _hold(VIP)
        for number in (GOOD, WITHOUT_VIP, FORWARDING):
            with entered(hosts[number]):
                stack.enter_context(_listening())
        # A host that does not hold the VIP and sends what is for it on, by a router to a real server that does.
        with entered(hosts[FORWARDING]):
            _forward()
            for version in (4, 6):
                run("ip", f"-{version}", "route", "add", VIP[version], "via", f"{NET[version]}{ROUTER}")
        with entered(hosts[ROUTER]):
            _forward()
            for version in (4, 6):
                run("ip", f"-{version}", "route", "add", VIP[version], "via", f"{NET[version]}{GOOD}")
        with entered(balancer):
            for version in (4, 6):
                run(
                    "ip",
                    f"-{version}",
                    "route",
                    "add",
                    f"{'10.99.0.0/16' if version == 4 else 'fd99::/64'}",
                    "via",
                    f"{NET[version]}{ROUTER}",
                )
            for number in numbers:
                for version in (4, 6):
                    _wait(lambda at=f"{NET[version]}{number}": _is_there(at), 60)  # type: ignore[misc]
        yield Site(balancer=balancer, hosts=hosts)


def _is_there(address: str) -> bool:
    """A link that was made just now takes its time on a busy machine, longer than a neighbor has for its answer."""
    done = subprocess.run(["ping", "-c", "1", "-W", "1", address], stdout=subprocess.DEVNULL, check=False)
    return done.returncode == 0


def check(
    site: Site,
    address: str,
    vip: str,
    timeout: float = 10.0,
    steps: list[str] | None = None,
    *,
    port: int = PORT,
    quiet: float = 0.0,
) -> Result:
    target = Target(
        address=ip_address(address),
        port=port,
        check=Check(kind=TcpQuietCheck(quiet=quiet) if quiet else TcpCheck(), to_vip=True, timeout=timeout),
        vip=ip_address(vip),
    )
    told = steps if steps is not None else []
    with entered(site.balancer):
        before = open_descriptors()
        result = asyncio.run(probe(target, Progress(tell=told.append)))
        _wait(lambda: open_descriptors() <= before)
    return result


def _wait(condition: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@FAMILIES
def test_an_ordinary_connection_ends_at_the_balancer_itself(site: Site, version: int) -> None:
    with entered(site.balancer), pytest.raises(OSError, match=r"refused|timed out"):
        socket.create_connection((VIP[version], PORT), 1)


@FAMILIES
def test_a_server_that_holds_the_vip_and_listens_is_ok_with_every_step_told(site: Site, version: int) -> None:
    steps: list[str] = []
    result = check(site, f"{NET[version]}{GOOD}", VIP[version], steps=steps)
    assert (result.outcome, result.detail) == (Outcome.OK, "")
    assert [step.split(" from ")[0] for step in steps if " in the neighbor table" not in step][1:] == [
        "SYN sent",
        "SYN-ACK received",
        "handshake complete",
        "ACK and RST sent",
    ]


@FAMILIES
def test_a_server_that_hangs_is_seen_once_its_accept_queue_is_full(site: Site, version: int) -> None:
    backlog = 3
    with entered(site.hosts[GOOD]), _listener(8080, backlog):
        found = [
            check(site, f"{NET[version]}{GOOD}", VIP[version], 1.0, port=8080).outcome
            for _ in range(backlog + 2)
        ]
    assert found == [Outcome.OK] * (backlog + 1) + [Outcome.FAIL]


@FAMILIES
def test_a_server_that_closes_at_once_fails_with_quiet_and_one_that_does_not_is_ok(
    site: Site, version: int
) -> None:
    """The first closes what it accepts; the second leaves it where it is."""
    closing = check(site, f"{NET[version]}{GOOD}", VIP[version], quiet=8.0)
    assert (closing.outcome, closing.detail) == (Outcome.FAIL, CLOSED)
    with entered(site.hosts[GOOD]), _listener(8081, 8):
        left_open = check(site, f"{NET[version]}{GOOD}", VIP[version], port=8081, quiet=0.2)
    assert (left_open.outcome, left_open.detail) == (Outcome.OK, "")


@FAMILIES
def test_a_server_without_the_vip_does_not_answer(site: Site, version: int) -> None:
    steps: list[str] = []
    result = check(site, f"{NET[version]}{WITHOUT_VIP}", VIP[version], 1.0, steps)
    assert result.outcome is Outcome.FAIL
    # Without a way to it the kernel of the server says so over IPv6.
    assert result.detail.endswith(f": is {VIP[version]} on lo of the server?")
    assert steps.count("SYN sent again") == 2 or "ICMP" in steps[-1]


@FAMILIES
def test_a_server_with_another_vip_only_does_not_answer(site: Site, version: int) -> None:
    assert check(site, f"{NET[version]}{GOOD}", SECOND[version], 0.5).outcome is Outcome.FAIL


@FAMILIES
def test_a_server_that_does_not_listen_refuses(site: Site, version: int) -> None:
    address, vip = f"{NET[version]}{SILENT}", VIP[version]
    shown = f"{vip}:80" if version == 4 else f"[{vip}]:80"
    result = check(site, address, vip)
    assert (result.outcome, result.detail) == (Outcome.FAIL, f"connection refused ({shown} at {address})")


@FAMILIES
def test_what_a_host_without_the_vip_sends_on_to_one_that_has_it_proves_nothing(
    site: Site, version: int
) -> None:
    assert check(site, f"{NET[version]}{FORWARDING}", VIP[version], 1.0).outcome is Outcome.FAIL


@FAMILIES
def test_a_server_that_is_not_there_has_no_link_address(site: Site, version: int) -> None:
    address = f"{NET[version]}{GONE}"
    result = check(site, address, VIP[version], 1.5)
    assert (result.outcome, result.detail) == (
        Outcome.FAIL,
        f"no link address of {address} on lan within 1.5 s",
    )
    later = check(site, address, VIP[version], 20.0)
    assert later.detail == f"{address} does not answer on the link lan: it has no link address"


@FAMILIES
def test_a_server_behind_a_gateway_is_a_failure_in_words(site: Site, version: int) -> None:
    address = "10.99.0.1" if version == 4 else "fd99::1"
    result = check(site, address, VIP[version])
    assert result.outcome is Outcome.FAIL
    assert "is not on the link: direct routing cannot reach it through a gateway" in result.detail


@FAMILIES
def test_the_server_is_left_without_a_half_open_connection(site: Site, version: int) -> None:
    for _ in range(5):
        assert check(site, f"{NET[version]}{GOOD}", VIP[version]).outcome is Outcome.OK
    with entered(site.hosts[GOOD]):
        _wait(lambda: run("ss", "-Htan", "state", "all", "exclude", "listening") == "", 5)


@FAMILIES
def test_ipvs_takes_no_notice(site: Site, version: int) -> None:
    def connections() -> list[str]:
        with entered(site.balancer), open("/proc/thread-self/net/ip_vs_conn", encoding="ascii") as file:
            return file.readlines()

    def own() -> int:
        address = ip_address(f"{NET[version]}{BALANCER}")
        word = f"{int(address):08X}" if version == 4 else f"[{address.exploded}]"
        return sum(word in line for line in connections())

    for number in (GOOD, SILENT, WITHOUT_VIP):
        check(site, f"{NET[version]}{number}", VIP[version], 0.3)
    assert own() == 0


@FAMILIES
def test_an_old_entry_of_the_neighbor_table_is_replaced(site: Site, version: int) -> None:
    address = f"{NET[version]}{GOOD}"
    with entered(site.balancer):
        run("ip", "neigh", "replace", address, "lladdr", "02:00:00:00:00:99", "dev", "lan", "nud", "stale")
    assert check(site, address, VIP[version], 1.0).outcome is Outcome.FAIL
    _wait(lambda: check(site, address, VIP[version], 1.0).outcome is Outcome.OK, 30)


@FAMILIES
def test_an_interface_of_our_own_that_is_down_proves_nothing(site: Site, version: int) -> None:
    address = f"{NET[version]}{GOOD}"
    others = [f"port{number}" for number in site.hosts]
    with entered(site.balancer):
        for port in others:
            run("ip", "link", "set", port, "down")  # so that the bridge has no carrier
        _wait(lambda: fault("lan") is not None)
    try:
        result = check(site, address, VIP[version], 0.5)
        assert result.outcome is Outcome.UNKNOWN
        assert "this node's own interface lan is down" in result.detail or "Network is down" in result.detail
    finally:
        with entered(site.balancer):
            for port in others:
                run("ip", "link", "set", port, "up")
            _wait(lambda: fault("lan") is None)
            for number in site.hosts:
                run("ping", "-c1", "-w10", f"{NET[version]}{number}")


@FAMILIES
def test_a_hundred_checks_at_once_do_not_take_each_others_answers(site: Site, version: int) -> None:
    async def story() -> list[str]:
        targets = [
            Target(
                address=ip_address(f"{NET[version]}{number}"),
                port=PORT,
                check=Check(kind=TcpCheck(), to_vip=True, timeout=10.0),
                vip=ip_address(VIP[version]),
            )
            for number in (GOOD, SILENT)
        ]
        found = await asyncio.gather(*(probe(target) for target in targets * 50))
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return [f"{one.outcome} {one.detail.split(' (')[0]}".rstrip() for one in found]

    with entered(site.balancer):
        assert asyncio.run(story()) == ["ok", "fail connection refused"] * 50


def test_the_event_loop_does_not_stand_while_the_kernel_closes_a_packet_socket(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []

    def close(descriptor: int) -> None:
        os.close(descriptor)
        closed.append(threading.current_thread().name)

    monkeypatch.setattr(wire, "close", close)
    check(site, f"{NET[4]}{GOOD}", VIP[4])
    _wait(lambda: closed == ["aside"])


def test_a_cancelled_check_leaves_nothing_open(site: Site) -> None:
    async def story() -> None:
        target = Target(
            address=ip_address(f"{NET[4]}{WITHOUT_VIP}"),
            port=PORT,
            check=Check(kind=TcpCheck(), to_vip=True, timeout=10.0),
            vip=ip_address(VIP[4]),
        )
        sent = asyncio.Event()

        def told(step: str) -> None:
            if step.startswith("SYN"):
                sent.set()

        task = asyncio.create_task(probe(target, Progress(tell=told)))
        await sent.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with entered(site.balancer):
        before = open_descriptors()
        asyncio.run(story())
        _wait(lambda: open_descriptors() <= before)


_UNPRIVILEGED = """
import asyncio
from ipaddress import ip_address
from anycast.core.values.checks import TcpCheck
from anycast.core.dataplane.ipvs import ServiceEntry, ServiceKey
from anycast.core.values.configuration import Check, Protocol, Scheduler, Target
from anycast.probes.run import probe
from anycast.probes.wire import wire
target = Target(address=ip_address("10.9.2.1"), port=80, check=Check(kind=TcpCheck(), to_vip=True), vip=ip_address("192.0.2.1"))
result = asyncio.run(probe(target))
print(result.outcome, result.detail)
"""


def test_without_the_right_to_it_the_check_says_what_it_needs(site: Site) -> None:
    with entered(site.balancer):
        done = subprocess.run(
            ["setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw", sys.executable, "-c", _UNPRIVILEGED],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
    assert done.stdout == (
        "unknown the check could not run: to: vip needs CAP_NET_RAW "
        "(AmbientCapabilities=CAP_NET_RAW in the agent's unit)\n"
    )
