"""`anycast doctor` on a real kernel with IPVS: it sees what is there, repairs what it may, and the kernel agrees."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from anycast.cli.main import main
from lab import private
from tests.contract.namespaces import network_namespace, run, unshare_mounts

pytestmark = pytest.mark.lab

CONFIG = """\
bgp:
  local_as: 65001
  router_id: 10.2.1.1
  neighbors: [{address: 10.2.1.254, remote_as: 65000, local_address: 10.2.1.1}]
vips:
  web: {address: 192.0.2.1, port: 80, forwarding: tunnel, servers: [10.9.2.1, 10.9.2.2]}
"""
# The doctor writes below /etc: in a mount namespace of its own, where that is an empty memory of the test.
FOLDERS = ("/etc/sysctl.d", "/etc/modules-load.d", "/etc/modprobe.d")


@pytest.fixture(autouse=True)
def _node() -> Iterator[None]:
    links = """\
link add up0 mtu 1500 type veth peer name router0
link set up0 up
link set router0 up
addr add 10.2.1.1/24 dev up0
route add 10.9.0.0/16 via 10.2.1.254
"""
    with network_namespace():
        run("ip", "-batch", "-", stdin=links)
        for name in ("all", "up0"):
            Path(f"/proc/sys/net/ipv4/conf/{name}/rp_filter").write_text("0")
        yield


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "anycast.yaml"
    path.write_text(CONFIG)
    return path


def doctor(file: Path, *options: str, user: int | None = None) -> tuple[int, dict[str, Any]]:
    """In a thread, which is spared the seconds that a start of Python takes here. As another user: as it is started."""
    argv = ["doctor", "--json", "--config", str(file), *options]
    if user is not None:
        return _as_user(user, argv)
    with contextlib.redirect_stdout(io.StringIO()) as said, ThreadPoolExecutor(1) as pool:
        code = pool.submit(_here, argv).result()
    return code, json.loads(said.getvalue())


def _here(argv: list[str]) -> int:
    unshare_mounts()  # for this thread alone
    for folder in FOLDERS:
        private.mount("tmpfs", folder)
    return main(argv)


def _as_user(user: int, argv: list[str]) -> tuple[int, dict[str, Any]]:
    mounts = "".join(f"mount -t tmpfs tmpfs {folder} && " for folder in FOLDERS)
    entry = ["unshare", "--mount", "sh", "-c", f'{mounts} exec "$0" "$@"']
    as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    done = subprocess.run(
        [*entry, *as_user, sys.executable, "-m", "anycast", *argv], capture_output=True, check=False
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def texts(document: dict[str, Any], code: str) -> list[str]:
    return [one["text"] for one in document["findings"] if one["code"] == code]


def setting(name: str) -> str:
    return run("sysctl", "-n", name).strip()


def test_a_strict_uplink_is_found_made_loose_and_found_no_more(file: Path) -> None:
    run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1")
    code, before = doctor(file)
    assert code == 1
    assert texts(before, "rp_filter_strict")
    _, document = doctor(file, "--fix", "--yes")
    assert document["fix"]["failures"] == []
    assert "rp_filter_strict" not in {one["code"] for one in document["fix"]["remaining"]}
    assert (setting("net.ipv4.conf.up0.rp_filter"), setting("net.ipv4.conf.all.rp_filter")) == ("2", "1")
    _, after = doctor(file)
    assert not texts(after, "rp_filter_strict")


def test_the_kernel_takes_every_sysctl_that_is_offered(file: Path) -> None:
    """A new namespace has the kernel's defaults of IPVS, which are not ours."""
    _, document = doctor(file, "--fix", "--yes")
    assert set(document["fix"]["sysctls"]) >= {"net.ipv4.vs.sloppy_tcp", "net.ipv4.vs.schedule_icmp"}
    for name, value in document["fix"]["sysctls"].items():
        assert setting(name) == value


def test_the_sysctls_written_are_what_the_kernels_own_tool_reads(file: Path, tmp_path: Path) -> None:
    run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1")
    _, document = doctor(file, "--fix", "--yes")
    (written,) = (one for one in document["fix"]["files"] if one["path"] == "/etc/sysctl.d/60-anycast.conf")
    copy = tmp_path / "60-anycast.conf"
    copy.write_text(written["content"])
    run("sysctl", "-qw", "net.ipv4.conf.up0.rp_filter=0", "net.ipv4.vs.sloppy_tcp=0")
    run("sysctl", "-q", "-p", str(copy))
    assert (setting("net.ipv4.conf.up0.rp_filter"), setting("net.ipv4.vs.sloppy_tcp")) == ("2", "1")


def test_the_size_of_the_connection_table_is_the_kernels(file: Path) -> None:
    with Path("/proc/net/ip_vs").open(encoding="ascii") as table:
        size = int(table.readline().partition("size=")[2].rstrip(")\n"))
    # Since Linux 7.1 that is the present size of a table that grows: 0 without connections.
    size = size or 1 << int(Path("/sys/module/ip_vs/parameters/conn_tab_bits").read_text())
    _, document = doctor(file, "--connections", "1")
    (text,) = texts(document, "conn_tab")
    assert f" {size:,} buckets" in text


def test_the_mtu_of_a_route_counts_before_that_of_its_interface(file: Path) -> None:
    (wide,) = texts(doctor(file)[1], "tunnel_mtu")
    assert "10.9.2.1, 10.9.2.2: MTU 1500 of up0 less 20 of ipip leaves 1480" in wide
    run("ip", "route", "replace", "10.9.0.0/16", "via", "10.2.1.254", "mtu", "1400")
    (narrow,) = texts(doctor(file)[1], "tunnel_mtu")
    assert "MTU 1400" in narrow


def test_a_route_that_is_missing_is_found(file: Path) -> None:
    run("ip", "route", "del", "10.9.0.0/16")
    (text,) = texts(doctor(file)[1], "no_route")
    assert "10.9.2.1, 10.9.2.2" in text


def test_a_vip_of_the_link_is_found_and_arp_made_quiet(file: Path) -> None:
    run("ip", "addr", "add", "192.0.2.200/24", "dev", "up0")
    before = next(one for one in doctor(file)[1]["findings"] if one["code"] == "vip_on_link")
    assert before["severity"] == "warning"
    _, document = doctor(file, "--fix", "--yes")
    after = next(one for one in document["fix"]["remaining"] if one["code"] == "vip_on_link")
    assert after["severity"] == "info"


def test_services_of_others_are_found_and_stay(file: Path) -> None:
    run("ipvsadm", "-A", "-t", "192.0.2.77:5060", "-s", "rr")
    run("ipvsadm", "-A", "-f", "7", "-s", "rr")
    run("ipvsadm", "-A", "-t", "192.0.2.1:80", "-s", "rr")
    (text,) = texts(doctor(file, "--fix", "--yes")[1], "ipvs_foreign")
    assert "mark 7 IPv4 and tcp 192.0.2.77:5060" in text or "mark 7 IPv4, tcp 192.0.2.77:5060" in text
    assert "192.0.2.1:80" not in text
    assert run("ipvsadm", "-Sn").count("-A ") == 3


def test_a_user_without_rights_gets_what_can_be_read_and_the_reason_for_the_rest(file: Path) -> None:
    file.chmod(0o644)
    for folder in (file.parent, file.parent.parent, file.parent.parent.parent):
        folder.chmod(0o755)
    code, document = doctor(file, "--connections", "1000000000", user=65534)
    assert code == 1
    assert texts(document, "no_net_admin")
    assert texts(document, "conn_tab_small")
    (table,) = (text for text in texts(document, "unchecked") if text.startswith("the IPVS table"))
    assert "CAP_NET_ADMIN" in table


def test_a_loopback_that_is_down_is_found(file: Path) -> None:
    run("ip", "link", "set", "lo", "down")
    assert texts(doctor(file)[1], "lo_down")


def test_vips_in_a_vrf_are_not_found_by_an_uplink_outside_of_it(file: Path) -> None:
    subprocess.run(["modprobe", "-q", "vrf"], check=False)
    links = """\
link add red type vrf table 10
link set red up
link add vips type dummy
link set vips up master red
addr add 192.0.2.1/32 dev vips
"""
    made = subprocess.run(["ip", "-batch", "-"], input=links, capture_output=True, text=True, check=False)
    if "Unknown device type" in made.stderr:
        pytest.skip("this kernel has no VRFs")
    assert made.returncode == 0, made.stderr
    file.write_text(f"node: {{interface: vips}}\n{CONFIG}")
    assert "vrf_interface" in {one["code"] for one in doctor(file)[1]["findings"]}
    # What it says: who comes by the other interface is told that there is no such network.
    way = ["ip", "-json", "route", "get", "192.0.2.1", "from", "10.2.1.254", "iif"]
    outside, inside = (
        subprocess.run([*way, link], capture_output=True, text=True, check=False) for link in ("up0", "vips")
    )
    assert (outside.returncode, inside.returncode) == (2, 0), (outside, inside)
    run("ip", "link", "set", "up0", "master", "red")
    run("ip", "route", "add", "default", "dev", "up0")
    assert "vrf_interface" not in {one["code"] for one in doctor(file)[1]["findings"]}
