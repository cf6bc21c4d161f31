"""Every tunnel end to end: a client uploads to a real server that unwraps as `anycast doctor` tells it to.

A client, a balancer and a real server are namespaces. The real server answers the client over a link of their own.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import product
from pathlib import Path

import pytest

from anycast.core.dataplane.ipvs import ServiceEntry, ServiceKey
from anycast.core.dataplane.kernel import IPVS_SYSCTLS
from anycast.core.values.configuration import Protocol, Scheduler, Tunnel, TunnelChecksum, TunnelType
from anycast.doctor.packets import at_real_servers
from anycast.kernel import sysctl
from tests.contract.namespaces import entered, made_namespace, run
from tests.contract.tables import desired, established, server

pytestmark = pytest.mark.lab

PORT, GUE_PORT = 80, 6080
UPLOAD = 200_000  # bytes
PATIENCE = 120.0  # seconds
VIP = {4: "192.0.2.1", 6: "2001:db8::1"}
SERVER = {4: "10.9.0.1", 6: "fd09::1"}
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
NONE, FULL, REMOTE = TunnelChecksum.NONE, TunnelChecksum.FULL, TunnelChecksum.REMOTE
TUNNELS = [
    (TunnelType.IPIP, NONE),
    *((TunnelType.GUE, checksum) for checksum in (NONE, FULL, REMOTE)),
    *((TunnelType.GRE, checksum) for checksum in (NONE, FULL)),
]
# The segments fit into every tunnel: nothing is lost, so that what is sent again was damaged.
CLIENT = """\
addr add 10.1.0.1/24 dev up0
addr add fd01::1/64 dev up0 nodad
addr add 10.2.0.1/24 dev back0
addr add fd02::1/64 dev back0 nodad
route add 192.0.2.1 via 10.1.0.2 advmss 1300
route add 2001:db8::1 via fd01::2 advmss 1300
"""
BALANCER = """\
addr add 10.1.0.2/24 dev up0
addr add fd01::2/64 dev up0 nodad
addr add 10.9.0.254/24 dev lan0
addr add fd09::fe/64 dev lan0 nodad
addr add 192.0.2.1/32 dev lo
addr add 2001:db8::1/128 dev lo nodad
"""
REAL_SERVER = """\
addr add 10.9.0.1/24 dev lan0
addr add fd09::1/64 dev lan0 nodad
addr add 10.2.0.2/24 dev back0
addr add fd02::2/64 dev back0 nodad
addr add 192.0.2.1/32 dev lo
addr add 2001:db8::1/128 dev lo nodad
route add 10.1.0.0/24 via 10.2.0.1 advmss 1300
route add fd01::/64 via fd02::1 advmss 1300
"""


@dataclass(frozen=True)
class Site:
    client: int  # namespaces
    balancer: int
    server: int


def _cable(name: str, there: int) -> str:
    """From the namespace that runs it to `there`."""
    return f"link add {name} type veth peer name {name} netns /proc/{os.getpid()}/fd/{there}\n"


def _up(*names: str) -> str:
    return "".join(f"link set {name} up\n" for name in names)


@contextlib.contextmanager
def site() -> Iterator[Site]:
    with made_namespace() as client, made_namespace() as balancer, made_namespace() as real_server:
        for namespace in (client, balancer, real_server):
            with entered(namespace):
                # Without a link-local address no neighbour is asked for, and for a second there is none.
                sysctl.write("net.ipv6.conf.default.accept_dad", "0")
        # Few programs, which are dear here. A route comes once both ends of its cable are up.
        for namespace, lines in (
            (client, _cable("up0", balancer) + _cable("back0", real_server) + _up("up0", "back0")),
            (balancer, _cable("lan0", real_server) + _up("up0", "lan0") + BALANCER),
            (real_server, _up("lan0", "back0") + REAL_SERVER),
            (client, CLIENT),
        ):
            with entered(namespace):
                run("ip", "-batch", "-", stdin=lines)
        with entered(balancer):
            for name, value in IPVS_SYSCTLS.items():
                sysctl.write(name, value)
            sysctl.write("net.ipv4.vs.pmtu_disc", "1")
        yield Site(client, balancer, real_server)


def serve(vip: int, outer: int, tunnel: Tunnel) -> None:
    """The balancer's table: one service of the family `vip`, one real server of the family `outer`."""
    key = ServiceKey(protocol=Protocol.TCP, address=ip_address(VIP[vip]), port=PORT)
    entry = ServiceEntry(scheduler=Scheduler.RR, destinations=(server(SERVER[outer], PORT, tunnel=tunnel),))
    established(desired({key: entry}))


def unwrap(vip: int, outer: int, tunnel: Tunnel) -> None:
    """What the doctor says, word for word."""
    advice = at_real_servers(tunnel.type, vip, outer, checksum=tunnel.checksum is FULL, port=tunnel.port)
    commands = re.findall("`([^`]+)`", advice)
    assert commands
    for command in commands:
        run("sh", "-ec", command.replace("ADDRESS", SERVER[outer]))


def counters() -> Mapping[str, int]:
    """Of this namespace: `Tcp.InCsumErrors` and the like."""
    found: dict[str, int] = {}
    lines = Path("/proc/thread-self/net/snmp").read_text().splitlines()
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        section, *keys = names.split()
        found |= {f"{section}{key}": int(value) for key, value in zip(keys, values.split()[1:], strict=True)}
    for line in Path("/proc/thread-self/net/snmp6").read_text().splitlines():
        key, value = line.split()
        found[key] = int(value)
    return found


def upload(site: Site, version: int) -> int:
    """Bytes that have come to the real server by the VIP, by its own word."""
    with entered(site.server):
        listener = socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True)
    listener.settimeout(PATIENCE)

    def count() -> None:
        with contextlib.suppress(OSError), listener.accept()[0] as line:
            line.settimeout(PATIENCE)
            number = 0
            while data := line.recv(65536):
                number += len(data)
            line.sendall(str(number).encode())

    thread = threading.Thread(target=count)
    thread.start()
    try:
        with entered(site.client):
            line = socket.socket(FAMILIES[version])
        with line:
            line.settimeout(PATIENCE)
            line.connect((VIP[version], PORT))
            line.sendall(bytes(UPLOAD))
            line.shutdown(socket.SHUT_WR)
            return int(line.recv(100))
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


@pytest.mark.parametrize(("kind", "checksum"), TUNNELS)
@pytest.mark.parametrize(("vip", "outer"), list(product((4, 6), repeat=2)))
def test_an_upload_through_a_tunnel_is_whole_and_undamaged(
    kind: TunnelType, checksum: TunnelChecksum, vip: int, outer: int
) -> None:
    """Remote checksum offload alone damages what GRO or a client's TSO has merged: `anycast check` warns of it."""
    tunnel = Tunnel(type=kind, port=GUE_PORT if kind is TunnelType.GUE else 0, checksum=checksum)
    with site() as made:
        with entered(made.balancer):
            serve(vip, outer, tunnel)
        with entered(made.server):
            unwrap(vip, outer, tunnel)
        assert upload(made, vip) == UPLOAD
        with entered(made.server):
            found = counters()
    damaged = {name: found[name] for name in ("Tcp:InCsumErrors", "Udp:InCsumErrors", "Udp6InCsumErrors")}
    if checksum is REMOTE:
        assert damaged["Tcp:InCsumErrors"] > 0
    else:
        assert damaged == dict.fromkeys(damaged, 0)
