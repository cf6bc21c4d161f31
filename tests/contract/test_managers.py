"""The real networkd, NetworkManager, ifupdown2 and firewalld beside the agent: after each of their actions the VIPs are there
as the agent adds them; the doctor names the program, and with its lines the program does no more harm.

The Debians are made by `python -m lab.hosts`; one that is not there is passed over.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from anycast.cli.client import OPS_SOCKET
from lab.hosts import Host

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root"),
    pytest.mark.timeout(180),
]

CONFIG = """\
node: {{name: lb1, runtime_dir: {0}/run, state_dir: {0}/state}}
bgp:
  local_as: 65001
  router_id: 10.2.1.1
  next_hop: {{ipv6: "fd00::1"}}
  neighbors: [{{address: 10.2.1.254, remote_as: 65000, families: [ipv4, ipv6]}}]
vips:
  web: {{address: [192.0.2.1, "2001:db8:ffff::1"], port: 80, servers: [10.9.2.1, {{address: "fd00:9::1"}}]}}
"""
OURS = {("192.0.2.1", 32): ("host", True, False), ("2001:db8:ffff::1", 128): ("global", True, True)}
LO_FILE = "[Match]\nName=lo\n[Network]\nAddress=10.255.0.1/32\n"
DOCTOR = """\
import asyncio, json, sys
from pathlib import Path
from anycast.config.load import load
from anycast.doctor.findings import findings
from anycast.doctor.gather import gather
config = load(Path(sys.argv[1])).config
found = findings(asyncio.run(gather(config, Path(sys.argv[2]))), config)
print(json.dumps([[one.code, one.severity, one.text, one.fix] for one in found]))
"""


@dataclass
class Node:
    host: Host
    config: Path
    log: Path

    def vips(self) -> dict[tuple[str, int], tuple[str, bool, bool]]:
        """Scope, whether it is for ever, whether it is deprecated; by address and prefix length."""
        (link,) = json.loads(self.host.ours("ip", "-j", "addr", "show", "dev", "lo"))
        return {
            (one["local"], one["prefixlen"]): (
                one["scope"],
                one["valid_life_time"] == 2**32 - 1,
                one.get("deprecated", False),
            )
            for one in link["addr_info"]
            if one["local"] in {address for address, _ in OURS}
        }

    def settles(self) -> None:
        """Until both are there as ours, and stay for a moment: what a program does after its answer has happened."""
        deadline, held = time.monotonic() + 30, 0
        while held < 5:
            held = held + 1 if self.vips() == OURS else 0
            assert time.monotonic() < deadline, f"{self.vips()}\n{self.log.read_text()[-2000:]}"
            time.sleep(0.1)

    def repairs(self) -> int:
        """How often the agent has put an address right that somebody else had changed."""
        socket = str(self.config.parent / "run" / OPS_SOCKET)
        again = ("--retry", "60", "--retry-delay", "1", "--retry-all-errors")
        words = ("curl", "-s", *again, "--unix-socket", socket, "http://localhost/metrics")
        text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        found = re.search(r'^anycast_kernel_repairs_total\{kind="address"\} (\d+)', text, re.MULTILINE)
        assert found is not None, text
        return int(found[1])

    def finding(self, code: str) -> tuple[str, str, str] | None:
        """Severity, text and fix of the one of that code."""
        argv = [sys.executable, "-c", DOCTOR, str(self.config), str(self.host.root)]
        found = [rest for name, *rest in json.loads(self.host.ours(*argv)) if name == code]
        assert len(found) <= 1, found
        return tuple(found[0]) if found else None

    def acts(self, *commands: str) -> list[int]:
        """Each, and the VIPs are right again. How many addresses were put right after each."""
        right = []
        for command in commands:
            before = self.repairs()
            self.host.run("sh", "-c", command)
            self.settles()
            right.append(self.repairs() - before)
        return right


@pytest.fixture
def node(machine: Host, tmp_path: Path) -> Node:
    """A node on which the agent is to be started once the program beside it runs."""
    config = tmp_path / "anycast.yaml"
    config.write_text(CONFIG.format(tmp_path))
    (tmp_path / "run").mkdir()
    (tmp_path / "state").mkdir()
    return Node(machine, config, tmp_path / "log")


@pytest.fixture
def agent(node: Node) -> Iterator[None]:
    yield from agents(node)


def agents(node: Node) -> Iterator[None]:
    command = [sys.executable, "-m", "lab.address_agent", "agent", "--config", str(node.config)]
    with node.log.open("w") as log:
        running = subprocess.Popen(node.host.beside(*command), stdout=log, stderr=log)
    try:
        node.settles()
        yield
    finally:
        running.kill()
        running.wait()


@pytest.fixture
def networkd(node: Node) -> Iterator[Node]:
    node.host.write("/etc/systemd/network/10-lo.network", LO_FILE)
    start_networkd(node.host)
    for _ in agents(node):
        yield node


def start_networkd(machine: Host) -> None:
    machine.start("/usr/lib/systemd/systemd-networkd")
    machine.until("sh", "-c", "networkctl list | grep -q 'lo .*configured'")


RESTART_NETWORKD = (
    "pkill -x systemd-network; while pgrep -x systemd-network; do sleep 0.05; done; "
    "setsid /usr/lib/systemd/systemd-networkd >>/tmp/log 2>&1 </dev/null & "
    "until networkctl list | grep -q 'lo .*configured'; do sleep 0.05; done"
)
NETWORKD_ACTIONS = (
    "echo Address=10.255.0.2/32 >>/etc/systemd/network/10-lo.network; networkctl reload",
    "networkctl reconfigure lo",
    RESTART_NETWORKD,
)


def test_networkd_takes_the_vips_and_with_its_cure_no_more(networkd: Node) -> None:
    spares = "252" in networkd.host.run("networkctl", "--version").partition("\n")[0]
    right = networkd.acts(*NETWORKD_ACTIONS)
    assert all(right) is not spares, right
    found = networkd.finding("networkd_addresses")
    assert found is not None
    severity, text, fix = found
    assert severity == ("info" if spares else "warning")
    assert "/etc/systemd/network/10-lo.network" in text
    assert "`KeepConfiguration=yes` in /etc/systemd/network/10-lo.network.d/anycast.conf" in fix
    cure = "/etc/systemd/network/10-lo.network.d/anycast.conf"
    networkd.host.write(cure, "[Network]\nKeepConfiguration=yes\n")
    networkd.acts("networkctl reload")
    assert networkd.finding("networkd_addresses") is None
    assert not any(networkd.acts(*NETWORKD_ACTIONS))


def test_networkd_with_static_keeps_one_family_and_the_doctor_says_which(networkd: Node) -> None:
    cure = "/etc/systemd/network/10-lo.network.d/anycast.conf"
    networkd.host.write(cure, "[Network]\nKeepConfiguration=static\n")
    networkd.acts("networkctl reload")
    found = networkd.finding("networkd_addresses")
    assert found is not None
    assert "takes the IPv6 VIPs (KeepConfiguration=static keeps the others) away" in found[1]


UPLINK = "[Match]\nName=up1\n[Network]\nAddress=10.1.0.2/24\n"
FOREIGN = {"blackhole 203.0.113.0/24", "203.0.113.0/24 via 10.1.0.1 dev up1"}
SWITCH = re.compile(r"`(ManageForeign\w+=no)`")


def kept(machine: Host) -> set[str]:
    """Of the routes of another program, those that outlive a change of the uplink's file."""
    for route in FOREIGN:
        machine.ours("ip", "route", "replace", *route.split(), "proto", "bird", "metric", str(len(route)))
    machine.run("sh", "-c", "echo '# again' >>/etc/systemd/network/up1.network; networkctl reload")
    # What it takes away it takes away before it says that it is done.
    machine.until("sh", "-c", "sleep 1; networkctl list | grep -q 'up1 .*configured'")
    there = machine.ours("ip", "route", "show")
    return {route for route in FOREIGN if f"{route} proto bird" in there}


def test_networkd_takes_the_routes_of_a_daemon_beside_it_and_with_its_cures_no_more(node: Node) -> None:
    machine = node.host
    for words in ("link add up1 type veth peer name router1", "link set up1 up", "link set router1 up"):
        machine.ours("ip", *words.split())
    machine.write("/etc/systemd/network/up1.network", UPLINK)
    machine.start("/usr/lib/systemd/systemd-networkd")
    machine.until("sh", "-c", "networkctl list | grep -q 'up1 .*configured'")
    machine.run("cp", "/bin/sleep", "/tmp/bird")
    machine.start("/tmp/bird", "600")
    assert kept(machine) == set()
    found: list[list[str]] = []
    for _ in range(3):  # what one cure leaves is the next finding
        argv = [sys.executable, "-c", DOCTOR, str(node.config), str(machine.root)]
        found = [rest for name, *rest in json.loads(machine.ours(*argv)) if name == "networkd_routes"]
        if not found:
            break
        for _, _, fix in found:
            if switches := SWITCH.findall(fix):
                lines = "\n".join(["[Network]", *switches, ""])
                machine.write("/etc/systemd/networkd.conf.d/anycast.conf", lines)
            else:
                assert "`KeepConfiguration=static` in a drop-in of /etc/systemd/network/up1.network" in fix
                cure = "[Network]\nKeepConfiguration=static\n"
                machine.write("/etc/systemd/network/up1.network.d/anycast.conf", cure)
        machine.run("sh", "-c", RESTART_NETWORKD.replace("lo .*", "up1 .*"))
    assert not found
    assert kept(machine) == FOREIGN


@pytest.fixture
def manager(node: Node) -> Iterator[Node]:
    node.host.start("/usr/sbin/NetworkManager", "--no-daemon")
    node.host.until("sh", "-c", "nmcli device | grep -q '^lo .*connected'")
    for _ in agents(node):
        yield node


MANAGER_ACTIONS = (
    "nmcli networking off",
    "nmcli networking on",
    "nmcli device reapply lo",
    "nmcli connection up lo",
    "nmcli connection modify lo +ipv4.addresses 10.255.0.9/32",
    "nmcli connection down lo",
    "nmcli connection up lo",
    # Now that it has activated lo, this takes the interface down.
    "nmcli networking off; sleep 2; nmcli networking on",
)


def test_network_manager_changes_the_vips_and_with_its_cure_no_more(manager: Node) -> None:
    right = manager.acts(*MANAGER_ACTIONS)
    assert all(right[each] for each in (0, 2, 5)), right
    argv = [sys.executable, "-c", DOCTOR, str(manager.config), str(manager.host.root)]
    found = [rest for name, *rest in json.loads(manager.host.ours(*argv)) if name == "network_manager"]
    assert len(found) == 2, "it manages lo, and it has stored the VIPs"
    assert "/etc/NetworkManager/system-connections/lo.nmconnection has 2 VIPs" in found[1][1]
    conf = "[keyfile]\nunmanaged-devices=interface-name:lo\n"
    manager.host.write("/etc/NetworkManager/conf.d/anycast.conf", conf)
    manager.acts(
        "pkill -HUP -x NetworkManager; while nmcli device | grep '^lo .*connected'; do sleep 0.05; done; sleep 1; "
        "ip link set lo up",  # it takes down what it has activated
        "rm /etc/NetworkManager/system-connections/lo.nmconnection && nmcli connection reload",
    )
    assert manager.finding("network_manager") is None
    harmless = [f"{action} || true" for action in MANAGER_ACTIONS if "modify" not in action]
    assert not any(manager.acts(*harmless))


def test_a_restart_of_network_manager_touches_nothing(manager: Node) -> None:
    restart = (
        "pkill -x NetworkManager; while pgrep -x NetworkManager; do sleep 0.05; done; "
        "setsid NetworkManager --no-daemon >>/tmp/log 2>&1 </dev/null & "
        "until nmcli device | grep '^lo .*connected'; do sleep 0.05; done"
    )
    assert not any(manager.acts(restart, "nmcli connection reload"))


STANZAS = (
    "auto lo\niface lo inet loopback\n",
    "auto lo\niface lo inet loopback\n\taddress 10.255.0.1/32\n\niface lo inet6 loopback\n",
)


@pytest.mark.parametrize("stanzas", STANZAS)
def test_ifupdown2_takes_the_ipv6_vips_and_with_its_cure_no_more(
    node: Node, agent: None, stanzas: str
) -> None:
    del agent
    node.host.write("/etc/network/interfaces", stanzas)
    assert all(node.acts("ifreload -a", "ifup lo"))
    found = node.finding("ifupdown2")
    assert found is not None
    assert "/etc/network/interfaces:2" in found[1]
    cured = stanzas.replace("loopback\n", "loopback\n\taddress-purge no\n")
    node.host.write("/etc/network/interfaces", cured)
    assert node.finding("ifupdown2") is None
    assert not any(node.acts("ifreload -a", "ifup lo"))


def test_a_bounce_of_lo_brings_all_of_them_back(node: Node, agent: None) -> None:
    del agent
    said = node.acts(
        "ip link set lo down; ip link set lo up", "ip link set lo down; sleep 2; ip link set lo up"
    )
    assert len(said) == 2


def two_uplinks(machine: Host) -> None:
    for number in (1, 2):
        machine.ours("ip", "link", "add", f"up{number}", "type", "veth", "peer", "name", f"router{number}")
        for name in (f"up{number}", f"router{number}"):
            machine.ours("ip", "link", "set", name, "up")
    hops = [word for number in (1, 2) for word in ("nexthop", "via", "fe80::1", "dev", f"up{number}")]
    machine.ours("ip", "-6", "route", "add", "default", *hops)


def nft_of(machine: Host) -> None:
    """The doctor runs with this machine's files, and asks the nft of that Debian."""
    program = machine.root / "usr/sbin/nft"
    program.rename(program.with_name("nft.real"))
    program.write_text(f'#!/bin/sh\nexec chroot {machine.root} nft.real "$@"\n')
    program.chmod(0o755)


def test_firewalld_is_strict_with_ipv6_until_it_is_told_otherwise(node: Node) -> None:
    two_uplinks(node.host)
    nft_of(node.host)
    assert node.finding("rp_filter_strict6") is None
    node.host.start("firewalld", "--nofork", "--nopid")
    node.host.until("firewall-cmd", "--state")
    found = node.finding("rp_filter_strict6")
    assert found is not None
    assert "table inet firewalld" in found[1]
    assert "about half of each" in found[1]
    old = node.host.run("firewall-cmd", "--version").startswith("1.")
    value = "no" if old else "loose"
    node.host.run("sed", "-i", f"s/^IPv6_rpfilter=.*/IPv6_rpfilter={value}/", "/etc/firewalld/firewalld.conf")
    node.host.run("firewall-cmd", "--complete-reload")
    assert node.finding("rp_filter_strict6") is None
