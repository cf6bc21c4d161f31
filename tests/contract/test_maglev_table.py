"""The computed Maglev table against the kernel's: it names the real server of every flow."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from anycast.analysis import maglev
from anycast.analysis.maglev import Entry
from anycast.core.dataplane.ipvs import MAGLEV_SLOTS
from tests.contract.namespaces import network_namespace, run

pytestmark = pytest.mark.lab

PORT = 53
FLOWS = range(20000, 20400)
VIP = {4: "192.0.2.1", 6: "2001:db8::1"}
CLIENT = {4: "10.1.0.1", 6: "fd00:9::1"}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    with network_namespace():
        addresses = (
            f"{CLIENT[4]}/16 dev d0",
            f"{CLIENT[6]}/64 dev d0 nodad",
            f"{VIP[4]}/32 dev lo",
            f"{VIP[6]}/128 dev lo nodad",
        )
        lines = ["link add d0 type dummy", "link set d0 up", *(f"addr add {one}" for one in addresses), ""]
        run("ip", "-batch", "-", stdin="\n".join(lines))
        yield


def four(*weights: int) -> list[Entry]:
    return [Entry(ip_address(f"10.1.5.{n}"), PORT, weight) for n, weight in enumerate(weights, 1)]


def six(*weights: int) -> list[Entry]:
    return [Entry(ip_address(f"fd00:9::{n:x}"), PORT, weight) for n, weight in enumerate(weights, 2)]


def spelt(address: str) -> str:
    return f"[{address}]:{PORT}" if ":" in address else f"{address}:{PORT}"


def serve(servers: tuple[Entry, ...], version: int) -> None:
    lines = [f"-A -u {spelt(VIP[version])} -s mh -b mh-port,mh-fallback"]
    lines += [f"-a -u {spelt(VIP[version])} -r {spelt(str(e.address))} -i -w {e.weight}" for e in servers]
    run("ipvsadm", "-R", stdin="\n".join(lines) + "\n")


def kernels(version: int) -> dict[int, str]:
    """The real server of each flow, by the client's port."""
    for port in FLOWS:
        with socket.socket(FAMILY[version], socket.SOCK_DGRAM) as client:
            client.bind((CLIENT[version], port))
            client.sendto(b"x", (VIP[version], PORT))
    found: dict[int, str] = {}
    for line in Path("/proc/net/ip_vs_conn").read_text("ascii").splitlines()[1:]:
        words = line.split()
        raw = words[5].strip("[]")
        found[int(words[2], 16)] = str(ip_address(raw if ":" in raw else bytes.fromhex(raw)))
    return found


def computed(servers: tuple[Entry, ...], version: int) -> dict[int, str]:
    owners = maglev.table(servers, version)
    client = maglev._folded(ip_address(CLIENT[version]), version)
    slots = {port: maglev.siphash(maglev._OFFSET_KEY, client + port) % MAGLEV_SLOTS for port in FLOWS}
    return {port: str(servers[owners[slot]].address) for port, slot in slots.items()}


@pytest.mark.parametrize(
    ("servers", "version"),
    [
        pytest.param(four(1, 1, 1, 1), 4, id="4 alike"),
        pytest.param(four(2, 3, 7), 4, id="small weights"),
        pytest.param(four(*[100] * 19, 1), 4, id="weights that are rounded"),
        pytest.param(four(*[100] * 99, 99), 4, id="weights that leave some with nothing"),
        pytest.param(six(*[1] * 10), 6, id="IPv6"),
        pytest.param(six(*[1] * 10), 4, id="IPv6 behind IPv4"),
        pytest.param([*four(*[1] * 5), *six(*[1] * 5)], 4, id="both behind IPv4"),
        pytest.param([*four(*[1] * 5), *six(*[1] * 5)], 6, id="both behind IPv6"),
    ],
)
def test_the_computed_table_is_the_kernels(servers: list[Entry], version: int) -> None:
    serve(tuple(servers), version)
    assert kernels(version) == computed(tuple(servers), version)
