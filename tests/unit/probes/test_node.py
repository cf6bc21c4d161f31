from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.core.health.phase import Fault, Outcome, Result
from anycast.core.values.checks import (
    FileCheck,
    GatewayCheck,
    IpvsConnectionsCheck,
    LoadCheck,
    MemoryCheck,
)
from anycast.core.values.configuration import HERE
from anycast.core.values.described import Percent
from anycast.entries import GROWS, Entries, kernel_limit
from anycast.memory import meminfo
from anycast.probes import node
from anycast.probes.run import probe
from tests.unit.probes.peers import run, target


def here(kind: object, *, timeout: float = 30.0) -> tuple[Outcome, str]:
    result: Result = run(kind, 0, address=str(HERE), timeout=timeout)  # type: ignore[arg-type]
    return result.outcome, result.detail


VETH = pytest.mark.skipif(
    subprocess.run(
        ["unshare", "-rn", "ip", "link", "add", "va", "type", "veth", "peer", "name", "vb"],
        capture_output=True,
        check=False,
    ).returncode
    != 0,
    reason="needs network namespaces and veth",
)

_CARRIER = """
import sys
from anycast.core.values.checks import CarrierCheck
from tests.unit.probes.peers import run
for name in sys.argv[1:]:
    result = run(CarrierCheck(interface=name), 0, address="0.0.0.0")
    print(result.outcome, result.detail)
"""


@VETH
def test_an_interface_is_well_when_it_is_up_and_has_a_carrier() -> None:
    setup = """
        ip link set lo up
        ip link add va type veth peer name vb; ip link set va up; ip link set vb up
        ip link add vc type veth peer name vd; ip link set vc up
        "$@" lo va vc vd none
    """
    done = subprocess.run(
        ["unshare", "-rn", "sh", "-ec", setup, "sh", sys.executable, "-c", _CARRIER],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.splitlines() == [
        *("ok ", "ok "),
        "fail vc has no carrier",
        "fail vd is set down",
        "fail none is not there",
    ]


def test_the_load_is_compared_per_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (8.0, 4.0, 1.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert here(LoadCheck(max=2.0)) == (Outcome.OK, "")
    assert here(LoadCheck(max=1.5)) == (Outcome.FAIL, "load 2.00 per processor, at most 1.5 is fine")
    assert here(LoadCheck(max=0.5, minutes=15)) == (Outcome.OK, "")


def test_memory_is_compared_with_an_amount_or_a_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "PROC", tmp_path)
    (tmp_path / "meminfo").write_text(
        "MemTotal:        1048576 kB\nMemFree: 1 kB\nMemAvailable:     102400 kB\n"
    )
    assert here(MemoryCheck(min_free=100 << 20)) == (Outcome.OK, "")
    assert here(MemoryCheck(min_free=101 << 20)) == (
        Outcome.FAIL,
        "100 MiB of memory available, 101 MiB needed",
    )
    assert here(MemoryCheck(min_free=Percent(9)))[0] is Outcome.OK
    assert here(MemoryCheck(min_free=Percent(10)))[0] is Outcome.FAIL
    (tmp_path / "meminfo").write_text("nonsense")
    assert here(MemoryCheck(min_free=1))[0] is Outcome.UNKNOWN


def test_a_file_must_be_there_or_must_not(tmp_path: Path) -> None:
    there, gone = str(tmp_path), str(tmp_path / "gone")
    assert here(FileCheck(path=there)) == (Outcome.OK, "")
    assert here(FileCheck(path=gone, present=False)) == (Outcome.OK, "")
    assert here(FileCheck(path=gone)) == (Outcome.FAIL, f"{gone} is not there")
    assert here(FileCheck(path=there, present=False)) == (Outcome.FAIL, f"{there} is there")
    assert here(FileCheck(path="/etc/passwd/x"))[0] is Outcome.FAIL


def test_a_file_on_a_dead_mount_fails_without_a_pile_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    mended = threading.Event()

    def stat(path: str) -> bool:
        mended.wait(30)
        return True

    async def story() -> list[str]:
        kind = target(FileCheck(path="/dead/mount"), 0, timeout=0.05)
        first, second = (await probe(kind)).detail, (await probe(kind)).detail
        mended.set()
        while third := (await probe(target(FileCheck(path="/dead/mount"), 0))).detail:  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # a thread tells nobody of its end
        return [first, second, third]

    monkeypatch.setattr(node, "_look", stat)
    assert asyncio.run(story()) == [
        "no answer about /dead/mount within 0.05 s",
        "an earlier look at /dead/mount hangs: is it on a dead mount?",
        "",
    ]


ROUTES = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth1\t00000000\t0101010A\t0003\t0\t0\t200\t00000000\t0\t0\t0
eth0\t00000000\tFE01020A\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth0\t0001020A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
tun0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0
"""
ROUTES6 = (
    f"{'0' * 32} 00 {'0' * 32} 00 fe80{'0' * 27}1 00000400 00000001 00000000 00000003 eth0\n"
    f"{'0' * 32} 00 {'0' * 32} 00 {'0' * 32} ffffffff 00000001 00000000 00200200 lo\n"
)


def test_the_default_gateway_is_the_one_with_the_lowest_metric(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net/route").write_text(ROUTES)
    assert node.default_gateway(tmp_path, 6) is None
    (tmp_path / "net/ipv6_route").write_text(ROUTES6)
    assert node.default_gateway(tmp_path, 4) == (ip_address("10.2.1.254"), "eth0")
    assert node.default_gateway(tmp_path, 6) == (ip_address("fe80::1%eth0"), "eth0")


def test_without_a_default_route_the_gateway_check_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "PROC", tmp_path)
    (tmp_path / "net").mkdir()
    (tmp_path / "net/route").write_text(ROUTES.splitlines()[0] + "\n")
    assert here(GatewayCheck())[1] == "there is no default route with a gateway for IPv4"
    assert here(GatewayCheck(family=6))[0] is Outcome.FAIL


IP_VS = """\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  C0000201:0050 mh  (mh-port,mh-fallback)
  -> 0A090202:0050      Route   1      3          4
  -> 0A090201:0050      Route   1      10         0
TCP  [2001:0db8:0099:0000:0000:0000:0000:0001]:0050 mh
  -> [fd00:0009:0002:0000:0000:0000:0000:0001]:0050      Route   1      1          2
"""


def test_connections_are_counted_over_all_services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "PROC", tmp_path)
    monkeypatch.setattr(node, "TABLE_BITS", tmp_path / "none")
    assert here(IpvsConnectionsCheck(max=1))[0] is Outcome.UNKNOWN
    (tmp_path / "net").mkdir()
    (tmp_path / "net/ip_vs").write_text(IP_VS)
    bits = tmp_path / "conn_tab_bits"
    assert node.ipvs_connections(tmp_path, bits) == (20, 0, 4096)
    bits.write_text("16\n")  # from 7.1 on `size=` is the size of now
    assert node.ipvs_connections(tmp_path, bits) == (20, 0, 65536)
    assert here(IpvsConnectionsCheck(max=20)) == (Outcome.OK, "")
    assert here(IpvsConnectionsCheck(max=19)) == (Outcome.FAIL, "20 connections, at most 19 are fine")
    assert here(IpvsConnectionsCheck(max=Percent(1)))[0] is Outcome.OK
    (tmp_path / "net/ip_vs").write_text("")
    assert here(IpvsConnectionsCheck(max=1))[0] is Outcome.UNKNOWN


def test_masqueraded_connections_count_twice_of_a_share_where_they_take_two_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Since Linux 7.1, whose table grows."""
    bits = tmp_path / "conn_tab_bits"
    monkeypatch.setattr(node, "PROC", tmp_path)
    monkeypatch.setattr(node, "TABLE_BITS", bits)
    (tmp_path / "net").mkdir()
    (tmp_path / "net/ip_vs").write_text(IP_VS.replace("Route", "Masq ", 1))
    bits.write_text("8\n")
    assert here(IpvsConnectionsCheck(max=Percent(8))) == (Outcome.OK, "")
    grows = tmp_path / GROWS
    grows.parent.mkdir(parents=True)
    grows.write_text("-4\n")
    assert here(IpvsConnectionsCheck(max=Percent(11))) == (Outcome.OK, "")
    assert here(IpvsConnectionsCheck(max=Percent(10))) == (
        Outcome.FAIL,
        "27 places in the table (7 masqueraded connections take two each), at most 25 are fine",
    )
    assert here(IpvsConnectionsCheck(max=20)) == (Outcome.OK, "")


def test_the_size_of_now_of_a_table_that_grows_is_no_size_to_take_a_share_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bits = tmp_path / "conn_tab_bits"
    monkeypatch.setattr(node, "PROC", tmp_path)
    monkeypatch.setattr(node, "TABLE_BITS", bits)
    (tmp_path / "net").mkdir()
    (tmp_path / "net/ip_vs").write_text(IP_VS.replace("size=4096", "size=256"))
    assert here(IpvsConnectionsCheck(max=Percent(1)))[0] is Outcome.FAIL  # that size is the whole table
    grows = tmp_path / GROWS
    grows.parent.mkdir(parents=True)
    grows.write_text("-4\n")
    for text in (None, "", "many\n"):
        if text is not None:
            bits.write_text(text)
        assert here(IpvsConnectionsCheck(max=Percent(1))) == (
            Outcome.UNKNOWN,
            f"the check could not run: {bits} does not say how far the table may grow: give `max` as a number",
        )
        assert here(IpvsConnectionsCheck(max=20)) == (Outcome.OK, "")
        assert here(IpvsConnectionsCheck(max=19))[0] is Outcome.FAIL
    bits.write_text("12\n")
    assert here(IpvsConnectionsCheck(max=Percent(1)))[0] is Outcome.OK


def test_what_the_kernels_limit_leaves_counts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Since Linux 7.2, where its limit can be reached."""
    monkeypatch.setattr(node, "PROC", tmp_path)
    monkeypatch.setattr(node, "TABLE_BITS", tmp_path / "none")
    now = [0.0]
    monkeypatch.setattr(node, "ENTRIES", Entries(tmp_path, lambda: now[0]))
    (tmp_path / "net").mkdir()
    (tmp_path / "net/ip_vs").write_text(IP_VS)
    limit, status = tmp_path / "sys/net/ipv4/vs/conn_max", tmp_path / "net/ip_vs_status"
    limit.parent.mkdir(parents=True)
    limit.write_text(f"{2**30}\n")
    assert here(IpvsConnectionsCheck(max=100)) == (Outcome.OK, "")
    limit.write_text("100\n")
    assert here(IpvsConnectionsCheck(max=100))[0] is Outcome.UNKNOWN
    for held, kind in (
        (90, IpvsConnectionsCheck(max=100)),
        (50, IpvsConnectionsCheck(max=100, limit=Percent(50))),
    ):
        status.write_text(f"Conns:\t{held}\nConn buckets:\t4096 (12 bits, lfactor 0)\n")
        now[0] += 1
        assert here(kind) == (Outcome.OK, "")
        status.write_text(f"Conns:\t{held + 1}\n")
        now[0] += 1
        assert here(kind) == (
            Outcome.FAIL,
            f"{held + 1} of 100 that net.ipv4.vs.conn_max allows, {held}% of them are fine",
        )
    status.write_text("Conns:\t1\n")
    limit.write_text("21\n")
    now[0] += 1
    assert here(IpvsConnectionsCheck(max=100))[0] is Outcome.FAIL  # 20, by the real servers
    limit.write_text("0\n")
    assert here(IpvsConnectionsCheck(max=100)) == (
        Outcome.FAIL,
        "net.ipv4.vs.conn_max is 0: the kernel takes no connection at all",
    )


_STORY = """
import asyncio, sys
from ipaddress import ip_address
from anycast.core.values.checks import GatewayCheck
from tests.unit.probes.peers import run
for words in sys.argv[1:]:
    address, interface, way = words.split()
    kind = GatewayCheck(
        address=None if address == "-" else ip_address(address),
        interface=None if interface == "-" else interface,
        by=way,
    )
    result = run(kind, 0, address="0.0.0.0", timeout=5.0 if way == "neighbor" else 0.5)
    print(result.outcome, result.detail)
"""


@VETH
@pytest.mark.parametrize("family", [4, 6])
def test_a_gateway_is_reached_by_an_echo_or_by_its_neighbor_entry(family: int) -> None:
    net, mask = ("10.77.0.", 24) if family == 4 else ("fd77::", 64)
    setup = f"""
        ip link set lo up
        unshare -n sleep 60 & peer=$!
        while [ "$(readlink /proc/$peer/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
        ip link add va type veth peer name vb netns $peer
        nsenter -t $peer -n ip address add {net}1/{mask} dev vb nodad
        nsenter -t $peer -n ip link set vb up
        ip address add {net}2/{mask} dev va nodad
        ip link set va up
        ip route add default via {net}1
        "$@"
        kill $peer
    """
    if family == 4:
        setup = setup.replace(" nodad", "")
    asked = [f"{net}1 - ping", f"{net}1 va neighbor", f"{net}9 - ping", f"{net}9 va neighbor"]
    asked += ["- - ping", "- - neighbor"] if family == 4 else []
    done = subprocess.run(
        ["unshare", "-rn", "sh", "-ec", setup, "sh", sys.executable, "-c", _STORY, *asked],
        capture_output=True,
        text=True,
        check=True,
        timeout=90,
    )
    lines = done.stdout.splitlines()
    assert lines[:2] == ["ok ", "ok "]
    assert lines[2].startswith("fail ")
    assert lines[3].startswith(f"fail {net}9 is ")
    assert lines[4:] == ["ok "] * (len(asked) - 4)


@given(st.text(max_size=200))
def test_nothing_in_proc_can_break_the_reader(text: str) -> None:
    class Folder:
        def __truediv__(self, _: str) -> Folder:
            return self

        def read_text(self, *_: str) -> str:
            return text

        def exists(self) -> bool:
            return True

    readers: list[Callable[[Any], object]] = [
        meminfo,
        lambda folder: node.ipvs_connections(folder, folder),
        kernel_limit,
    ]
    for reader in readers:
        try:
            reader(Folder())
        except ValueError as error:
            assert "does not say" in str(error)  # noqa: PT017


def test_a_gateway_by_an_interface_that_is_not_there_is_a_missing_link() -> None:
    kind = GatewayCheck(address=ip_address("127.0.0.1"), interface="absent0", by="neighbor")
    result = run(kind, 0, address=str(HERE))
    assert (result.outcome, result.fault) == (Outcome.UNKNOWN, Fault.LINK)
