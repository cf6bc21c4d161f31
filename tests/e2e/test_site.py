"""The site itself: what the fault scenarios rest on. Runs inside the lab's kernel."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import netns
from lab.control import Lab
from lab.errors import LabError
from lab.topology import VIP4, VIP6, VIPS, topology

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(not os.environ.get("ANYCAST_LAB_GUEST"), reason="runs inside the lab"),
]
NODES = ["lb1", "lb2", "lb3"]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    lab = Lab(topology())
    lab.build(daemons=False)
    for node in NODES:
        _balance(lab, node)
    yield lab
    lab.down()


def _balance(lab: Lab, node: str) -> None:
    """IPVS as the agent would set it up, by hand."""
    rules = []
    for family, vip in enumerate((VIP4, f"[{VIP6}]")):
        for protocol, port in (("-t", 80), ("-u", 514)):
            rules.append(f"-A {protocol} {vip}:{port} -s mh -b mh-port,mh-fallback")
            for server in lab.topology.servers:
                address = server.interfaces["lan0"][family].partition("/")[0]
                address = f"[{address}]" if family else address
                rules.append(f"-a {protocol} {vip}:{port} -r {address}:{port} -g")
    with netns.inside(node):
        subprocess.run(["ipvsadm", "-R"], input="\n".join([*rules, ""]), text=True, check=True)
        Path("/proc/sys/net/ipv4/vs/sloppy_tcp").write_text("1")
    for vip in VIPS:
        lab.exec(node, "ip", "addr", "replace", vip, "dev", "lo")


def test_removing_one_of_three_next_hops_breaks_no_connection_of_either_family(lab: Lab) -> None:
    lab.set_routes(NODES)
    with lab.load(600) as load:
        assert load.ready["broken"] == 0
        assert [load.ready["by_family"][family]["connections"] for family in "46"] == [300, 300]
        load.mark()
        lab.set_routes(["lb2", "lb3"])
        for vip in VIPS:
            lab.wait_route(vip, ["lb2", "lb3"], timeout=10)
        during = load.stats()
        load.mark()
        after = load.wait_answered()
    for stats in (during, after):
        assert (stats["broken"], stats["moved"]) == (0, 0), stats


def test_datagrams_reach_a_real_server_in_both_families(lab: Lab) -> None:
    lab.set_routes(NODES)
    for family, vip in ((socket.AF_INET, VIP4), (socket.AF_INET6, VIP6)):
        with netns.open_socket("cl", family, socket.SOCK_DGRAM) as sock:
            sock.settimeout(10)
            sock.connect((vip, 514))
            sock.send(b"hello")
            assert sock.recv(100).startswith(b"rs")


def test_a_killed_process_is_gone_and_comes_back_only_when_started(lab: Lab) -> None:
    lab.kill("rs1", "server")
    assert not lab.alive("rs1", "server")
    with pytest.raises(LabError, match="does not run"):
        lab.kill("rs1", "server")
    lab.start("rs1", "server")
    assert lab.alive("rs1", "server")
    with pytest.raises(LabError, match="runs already"):
        lab.start("rs1", "server")


def test_a_stopped_process_counts_as_alive(lab: Lab) -> None:
    lab.kill("rs2", "server", signal.SIGSTOP)
    assert lab.alive("rs2", "server")
    lab.restart("rs2", "server")
    assert lab.alive("rs2", "server")


def test_a_failing_command_in_a_node_is_told_with_what_it_said(lab: Lab) -> None:
    with pytest.raises(LabError, match=r"lb1: ip link set nosuch up: exit status 1: .*nosuch"):
        lab.exec("lb1", "ip", "link", "set", "nosuch", "up")


def test_down_leaves_nothing(lab: Lab) -> None:
    """Last in this file: it takes the site away."""
    process = lab.process("rs3", "server")
    lab.down()
    assert process is not None
    assert not process.alive()
    assert not lab.run.exists()
    assert not {path.name for path in netns.PLACE.iterdir()} & {node.name for node in lab.topology.nodes}
    lab.down()
