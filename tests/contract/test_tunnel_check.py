"""The check to the VIP by a tunnel: a balancer, a router, and real servers that unwrap, do not, or drop what they have unwrapped.

The balancer's IPVS serves the VIP by the same tunnels.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

import pytest

from anycast.core.dataplane.ipvs import ServiceEntry, ServiceKey
from anycast.core.health.phase import Outcome, Result
from anycast.core.values.checks import DnsCheck, TcpCheck, TcpQuietCheck, UdpCheck
from anycast.core.values.configuration import (
    Check,
    CheckKind,
    HttpCheck,
    Protocol,
    Scheduler,
    Target,
    Tunnel,
    TunnelChecksum,
    TunnelType,
)
from anycast.probes.datagram import UNREACHABLE
from anycast.probes.finding import Progress
from anycast.probes.run import probe
from tests.contract.namespaces import entered, made_namespace, run
from tests.contract.tables import desired, established, server

pytestmark = pytest.mark.lab

PORT, GUE_PORT = 80, 5555
VIP = {4: "192.0.2.1", 6: "2001:db8::1"}
NEAR = {4: "10.9.1.", 6: "fd09:1::"}
FAR = {4: "10.9.2.", 6: "fd09:2::"}
MASK = {4: 24, 6: 64}
LENGTH = {4: 32, 6: 128}
# Of the real servers, by the last digit of their address.
GOOD, WITHOUT_VIP, WRAPPED, STRICT, ROUTER = 1, 2, 3, 4, 254
FAMILIES = pytest.mark.parametrize("version", [4, 6])
IPIP = Tunnel()
GUE = Tunnel(type=TunnelType.GUE, port=GUE_PORT)
GRE = Tunnel(type=TunnelType.GRE)
TUNNELS = pytest.mark.parametrize("tunnel", [IPIP, GUE, GRE], ids=lambda one: one.type)


@dataclass(frozen=True)
class Site:
    balancer: int
    router: int
    hosts: dict[int, int]  # namespaces


def _ip(*words: str) -> None:
    run("ip", *words)


def _add(address: str, mask: int, device: str) -> None:
    _ip("addr", "add", f"{address}/{mask}", "dev", device, *(["nodad"] if ":" in address else []))


def _write(name: str, value: str) -> None:
    with open(f"/proc/sys/net/{name}", "w", encoding="ascii") as file:
        file.write(value)


def _joined(namespace: int, device: str, far: int, name: str) -> None:
    """A link from the namespace's device to the other namespace's."""
    with entered(namespace):
        where = f"/proc/{os.getpid()}/fd/{far}"
        _ip("link", "add", device, "type", "veth", "peer", "name", name, "netns", where)
        _ip("link", "set", device, "up")


def _hold() -> None:
    for version, vip in VIP.items():
        _add(vip, LENGTH[version], "lo")


def _unwrap(number: int) -> None:
    """What docs/checks.md and `anycast doctor` say of a real server, for all tunnels at once."""
    for device in ("all", "default"):
        _write(f"ipv4/conf/{device}/rp_filter", "0")
    _ip("-6", "tunnel", "change", "ip6tnl0", "mode", "any")
    for device in ("tunl0", "sit0", "ip6tnl0"):
        _ip("link", "set", device, "up")
    _ip("fou", "add", "port", str(GUE_PORT), "gue")
    _ip("-6", "fou", "add", "port", str(GUE_PORT), "gue")
    for kind, version in (("gre", 4), ("ip6gre", 6)):
        any_ = "any" if version == 4 else "::"
        _ip("link", "add", f"{kind}1", "type", kind, "local", f"{FAR[version]}{number}", "remote", any_)
        _ip("link", "set", f"{kind}1", "up")
    for device in ("tunl0", "sit0", "gre1"):
        _write(f"ipv4/conf/{device}/rp_filter", "0")


@contextlib.contextmanager
def _serving() -> Iterator[None]:
    """HTTP over TCP, an echo over UDP, on every address."""
    listener = socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)
    echo = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    echo.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    echo.bind(("::", PORT))
    echo.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    last = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    last.connect(("::1", PORT))  # in this namespace

    def answer(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            if connection.recv(4096):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                connection.recv(1)

    def serve() -> None:
        with contextlib.suppress(OSError):  # shut down
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    def reply() -> None:
        while True:
            data, told, _, peer = echo.recvmsg(4096, 256)
            if data == b"end":
                return
            # From the address that was asked, by whatever interface leads back.
            (level, kind, where) = told[0]
            echo.sendmsg([data], [(level, kind, where[:16] + bytes(4))], 0, peer)

    threads = [threading.Thread(target=one) for one in (serve, reply)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        with last:
            last.send(b"end")
        for thread in threads:
            thread.join()
        listener.close()
        echo.close()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    for module in ("ipip", "sit", "ip6_tunnel", "ip_gre", "ip6_gre", "fou", "fou6"):
        run("modprobe", module)
    with contextlib.ExitStack() as stack:
        balancer, router = (stack.enter_context(made_namespace()) for _ in range(2))
        _joined(balancer, "up0", router, "near")
        hosts = {}
        with entered(router):
            _ip("link", "add", "far", "type", "bridge")
            _ip("link", "set", "far", "up")
            _ip("link", "set", "near", "up")
            for version in (4, 6):
                _add(f"{NEAR[version]}{ROUTER}", MASK[version], "near")
                _add(f"{FAR[version]}{ROUTER}", MASK[version], "far")
            _write("ipv4/ip_forward", "1")
            _write("ipv6/conf/all/forwarding", "1")
        with entered(balancer):
            _hold()
            for version in (4, 6):
                _add(f"{NEAR[version]}1", MASK[version], "up0")
                _ip(f"-{version}", "route", "add", "default", "via", f"{NEAR[version]}{ROUTER}")
        for number in (GOOD, WITHOUT_VIP, WRAPPED, STRICT):
            hosts[number] = host = stack.enter_context(made_namespace())
            _joined(host, "lan", router, f"port{number}")
            with entered(router):
                _ip("link", "set", f"port{number}", "master", "far", "up")
            with entered(host):
                for version in (4, 6):
                    _add(f"{FAR[version]}{number}", MASK[version], "lan")
                    _ip(f"-{version}", "route", "add", "default", "via", f"{FAR[version]}{ROUTER}")
                if number != WITHOUT_VIP:
                    _hold()
                if number != WRAPPED:
                    _unwrap(number)
                if number == STRICT:
                    _write("ipv4/conf/all/rp_filter", "1")
                stack.enter_context(_serving())
        with entered(balancer):
            for number in hosts:
                for version in (4, 6):
                    run("ping", "-c", "1", "-w", "30", f"{FAR[version]}{number}")
        yield Site(balancer=balancer, router=router, hosts=hosts)


def check(
    site: Site,
    number: int,
    tunnel: Tunnel,
    version: int = 4,
    *,
    kind: CheckKind | None = None,
    outer: int | None = None,
    timeout: float = 10.0,
    port: int = PORT,
    full_size: bool = True,
    steps: list[str] | None = None,
) -> Result:
    made = Check(kind=kind or TcpCheck(), to_vip=True, full_size=full_size, timeout=timeout)
    target = Target(
        address=ip_address(f"{FAR[outer or version]}{number}"),
        port=port,
        check=made,
        vip=ip_address(VIP[version]),
        tunnel=tunnel,
    )
    told = steps if steps is not None else []
    with entered(site.balancer):
        return asyncio.run(probe(target, Progress(tell=told.append)))


@TUNNELS
@pytest.mark.parametrize("outer", [4, 6])
@FAMILIES
def test_a_server_that_unwraps_and_holds_the_vip_is_ok(
    site: Site, version: int, outer: int, tunnel: Tunnel
) -> None:
    steps: list[str] = []
    result = check(site, GOOD, tunnel, version, outer=outer, steps=steps)
    assert (result.outcome, result.detail) == (Outcome.OK, ""), steps
    assert any(step.endswith("bytes came through") for step in steps)


@FAMILIES
def test_every_kind_asks_by_the_tunnel(site: Site, version: int) -> None:
    echo = UdpCheck(send=b"canary", expect="^canary$")
    for kind in (HttpCheck(tls=False, body="ok"), TcpQuietCheck(quiet=0.1), echo):
        result = check(site, GOOD, GUE, version, kind=kind)
        assert (result.outcome, result.detail) == (Outcome.OK, ""), kind
    closed = check(site, GOOD, GUE, version, kind=UdpCheck(), port=81)
    assert (closed.outcome, closed.detail) == (Outcome.FAIL, UNREACHABLE)
    foreign = check(
        site, GOOD, GUE, version, kind=DnsCheck(name="example.net.", transport="udp"), timeout=0.5
    )
    assert foreign.outcome is Outcome.FAIL  # its own question comes back
    shown = f"{VIP[4]}:81" if version == 4 else f"[{VIP[6]}]:81"
    refused = check(site, GOOD, GUE, version, port=81)
    assert refused.detail == f"connection refused ({shown} at {FAR[version]}{GOOD})"


_WHY = {
    TunnelType.IPIP: "unreachable",
    TunnelType.GRE: "unreachable",
    TunnelType.GUE: "port unreachable",
}


@TUNNELS
@FAMILIES
def test_a_server_that_does_not_unwrap_is_named_at_once(site: Site, version: int, tunnel: Tunnel) -> None:
    result = check(site, WRAPPED, tunnel, version)
    assert result.outcome is Outcome.FAIL
    address = f"{FAR[version]}{WRAPPED}"
    assert result.detail.startswith(f"{address} does not unwrap {tunnel.type}")
    assert f"{_WHY[tunnel.type]}): is its tunnel interface up?" in result.detail


@TUNNELS
@FAMILIES
def test_a_server_without_the_vip_is_named(site: Site, version: int, tunnel: Tunnel) -> None:
    result = check(site, WITHOUT_VIP, tunnel, version, timeout=2.0)
    address = f"{FAR[version]}{WITHOUT_VIP}"
    assert (result.outcome, result.detail) == (
        Outcome.FAIL,
        (
            f"no answer within 2.0 s: {address} unwraps {tunnel.type} and answers by its own address: is {VIP[version]} on lo "
            "there?"
        ),
    )


@TUNNELS
def test_a_strict_rp_filter_is_named(site: Site, tunnel: Tunnel) -> None:
    result = check(site, STRICT, tunnel, timeout=2.0)
    assert (result.outcome, result.detail) == (
        Outcome.FAIL,
        (
            f"no answer within 2.0 s: {FAR[4]}{STRICT} answers, but not to what comes by {tunnel.type}: does it drop that, by "
            "rp_filter 1 on the tunnel's interface or on all, or by a firewall?"
        ),
    )


@TUNNELS
@FAMILIES
def test_a_path_that_is_too_narrow_is_named_with_the_size(site: Site, version: int, tunnel: Tunnel) -> None:
    with entered(site.router):
        _ip("link", "set", "far", "mtu", "1400")
    try:
        result = check(site, GOOD, tunnel, version)
        small = check(site, GOOD, tunnel, version, full_size=False)
    finally:
        with entered(site.router):
            _ip("link", "set", "far", "mtu", "1500")
    router = f"{NEAR[version]}{ROUTER}"
    assert result.outcome is Outcome.FAIL
    assert result.detail.endswith(
        f" bytes, 1500 in the tunnel, does not get through to {FAR[version]}{GOOD}: {router} has an MTU of 1400"
    )
    assert small.outcome is Outcome.OK


@FAMILIES
def test_a_path_that_drops_what_is_too_large_in_silence_is_named_with_the_size(
    site: Site, version: int
) -> None:
    with entered(site.hosts[GOOD]):
        _ip("link", "set", "lan", "mtu", "1400")
    try:
        result = check(site, GOOD, IPIP, version, timeout=1.0)
    finally:
        with entered(site.hosts[GOOD]):
            _ip("link", "set", "lan", "mtu", "1500")
            _ip(f"-{version}", "route", "replace", "default", "via", f"{FAR[version]}{ROUTER}")
    outer = 1420 if version == 4 else 1440
    assert (result.outcome, result.detail) == (
        Outcome.FAIL,
        (
            f"no answer to a packet of 1400 bytes, {outer} in the tunnel, within 1.0 s: a small one passes, so the path to "
            f"{FAR[version]}{GOOD} is too narrow"
        ),
    )


def _state() -> list[str]:
    seen = [
        run("ip", *words.split())
        for words in ("-o link", "rule", "-6 rule", "route show table all", "-6 route show table all")
    ]
    with open("/proc/thread-self/net/ip_vs", encoding="ascii") as file:
        return [*seen, file.read()]


def test_nothing_is_left_on_the_node_and_ipvs_takes_no_notice(site: Site) -> None:
    with entered(site.balancer):
        _serve(IPIP)
        before = _state()
    for number in (GOOD, WITHOUT_VIP, WRAPPED):
        for version in (4, 6):
            check(site, number, IPIP, version, timeout=0.3)
    with entered(site.balancer):
        assert _state() == before
        with open("/proc/thread-self/net/ip_vs_conn", encoding="ascii") as file:
            assert len(file.readlines()) == 1


def _serve(tunnel: Tunnel) -> None:
    established(
        desired(
            {
                ServiceKey(protocol=Protocol.TCP, address=ip_address(VIP[version]), port=PORT): ServiceEntry(
                    scheduler=Scheduler.RR,
                    destinations=(server(f"{FAR[version]}{GOOD}", PORT, tunnel=tunnel),),
                )
                for version in (4, 6)
            }
        )
    )


def _told_apart(packet: bytes, version: int, kind: TunnelType) -> tuple[int, bytes]:
    """Protocol, and the headers of the tunnel, but what each packet has its own of: ports, lengths, sums."""
    at = 20 if version == 4 else 40
    protocol = packet[9] if version == 4 else packet[6]
    fragment = packet[6:8] if version == 4 else b""
    size = {TunnelType.IPIP: 0, TunnelType.GUE: 12, TunnelType.GRE: 4}[kind]
    head = packet[at : at + size]
    if kind is TunnelType.GUE:
        head = head[2:4] + (b"\0\0" if head[6:8] == b"\0\0" else b"sum") + head[8:]
    return protocol, fragment + head


@pytest.mark.parametrize("checksum", [TunnelChecksum.NONE, TunnelChecksum.FULL])
@TUNNELS
@FAMILIES
def test_packets_are_wrapped_as_ipvs_wraps_them(
    site: Site, version: int, tunnel: Tunnel, checksum: TunnelChecksum
) -> None:
    if tunnel.type is not TunnelType.IPIP:
        tunnel = Tunnel(type=tunnel.type, port=tunnel.port, checksum=checksum)
    seen = []
    with entered(site.router):
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
        tap.bind(("near", 3))
    with tap:
        tap.settimeout(10)

        def first() -> bytes:
            while True:
                packet = tap.recv(2048)
                to = packet[16:20] if version == 4 else packet[24:40]
                if packet[0] >> 4 == version and to == ip_address(f"{FAR[version]}{GOOD}").packed:
                    kinds = (4, 41, 47, 17)
                    if (packet[9] if version == 4 else packet[6]) in kinds:
                        return packet

        with entered(site.balancer):
            _serve(tunnel)
            family = socket.AF_INET if version == 4 else socket.AF_INET6
            with socket.socket(family, socket.SOCK_STREAM) as client:
                client.setblocking(False)
                client.bind((f"{NEAR[version]}1", 0))
                client.connect_ex((VIP[version], PORT))
                seen.append(first())
            while True:
                tap.settimeout(0.5)
                try:
                    tap.recv(2048)
                except TimeoutError:
                    break
        tap.settimeout(10)
        check(site, GOOD, tunnel, version, timeout=0.5)
        seen.append(first())
    theirs, ours = (_told_apart(packet, version, tunnel.type) for packet in seen)
    assert ours == theirs
