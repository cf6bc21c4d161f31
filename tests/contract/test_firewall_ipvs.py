"""Connection tracking and what IPVS sends on: what leaves for the real servers is untracked with the rendered rules."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from anycast.config.load import loads
from anycast.core.dataplane.ipvs import ServiceEntry, Table
from anycast.core.values.configuration import Scheduler, Tunnel, TunnelType
from anycast.render.iptables import iptables_rules
from lab.firewall import has_legacy_tables
from tests.contract.namespaces import run
from tests.contract.tables import server
from tests.contract.test_ipvs_flows import BALANCER, KEYS, Node, node

pytestmark = pytest.mark.lab


@pytest.fixture(autouse=True)
def _has_legacy_tables() -> None:
    if not has_legacy_tables():
        pytest.skip("this kernel has no legacy tables of iptables")


FLOWS = range(20000, 20020)
# Not what the kernel says of itself on a link, as neighbours and groups of IPv6.
STATES = """\
*filter
-A OUTPUT ! -p ipv6-icmp -o servers0 -m conntrack --ctstate UNTRACKED
-A OUTPUT ! -p ipv6-icmp -o servers0 -m conntrack ! --ctstate UNTRACKED
COMMIT
"""
_COUNTED = re.compile(r"\[(\d+):\d+\] -A OUTPUT .*?(! )?--ctstate UNTRACKED")
TUNNELS = {
    "dr": None,
    "ipip": Tunnel(),
    "gue": Tunnel(type=TunnelType.GUE, port=6080),
    "gre": Tunnel(type=TunnelType.GRE),
}
CONFIG = """\
node: {{name: lb1}}
bgp:
  local_as: 65001
  router_id: 10.1.0.2
  next_hop: {{ipv6: "fd01::2"}}
  neighbors: [{{address: 10.1.0.1, remote_as: 65000, families: [ipv4, ipv6]}}]
vips:
  logs:
    address: [192.0.2.1, "2001:db8::1"]
    port: 514
    protocol: udp
    servers: {{a: [10.9.0.1, "fd09::1"]}}
    check: tcp
    {forwarding}
"""


def _table(version: int, tunnel: Tunnel | None) -> Table:
    one = server("10.9.0.1" if version == 4 else "fd09::1", 514, tunnel=tunnel)
    return {KEYS[version]: ServiceEntry(scheduler=Scheduler.RR, destinations=(one,))}


def _counted(one: Node, program: str) -> dict[str, int]:
    with one.inside():
        saved = run(f"{program}-legacy-save", "-c", "-t", "filter")
    return {"tracked" if other else "untracked": int(packets) for packets, other in _COUNTED.findall(saved)}


@pytest.mark.parametrize("kind", TUNNELS)
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("conntrack", ["0", "1"])
def test_what_leaves_for_the_real_servers_is_untracked(version: int, kind: str, conntrack: str) -> None:
    tunnel = TUNNELS[kind]
    forwarding = "" if tunnel is None else f"forwarding: tunnel\n    tunnel: {kind}"
    rules = iptables_rules(loads(CONFIG.format(forwarding=forwarding)).config)
    program = "iptables" if version == 4 else "ip6tables"
    key = KEYS[version]
    with node() as one:
        with one.inside():
            Path("/proc/sys/net/ipv4/vs/conntrack").write_text(conntrack)
            run(f"{program}-legacy-restore", stdin=STATES)
        one.become(_table(version, tunnel))
        one.send(FLOWS, key)
        before = _counted(one, program)
        # Without the rules a wrapped packet is a flow of its own to connection tracking, whatever IPVS was told.
        tracked = tunnel is not None or conntrack == "1"
        assert before == {"untracked": 0 if tracked else len(FLOWS), "tracked": len(FLOWS) if tracked else 0}
        with one.inside():
            run(f"{program}-legacy-restore", "--noflush", stdin=rules)
        one.send(range(21000, 21000 + len(FLOWS)), key)
        after = _counted(one, program)
        assert after == {**before, "untracked": before["untracked"] + len(FLOWS)}


MARK = "*raw\n-A PREROUTING -p udp --dport 9 -j CT --notrack\nCOMMIT\n"  # what says that a packet has come
CONNTRACK = Path("/proc/sys/net/netfilter")
OWN_PORT = 179


@contextlib.contextmanager
def full_table_of_tracked_connections(one: Node, version: int) -> Iterator[None]:
    """Connections with the balancer itself take every place, so none of them can be given to another packet."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    limit = CONNTRACK / "nf_conntrack_max"  # one for all namespaces, to be written in the first
    before = limit.read_text()
    with contextlib.ExitStack() as held:
        with one.inside():
            listening = held.enter_context(socket.create_server((BALANCER[version], OWN_PORT), family=family))
        with one.sender():
            for _ in range(8):
                held.enter_context(socket.create_connection((BALANCER[version], OWN_PORT), 100.0))
                held.enter_context(listening.accept()[0])
        with one.inside():
            taken = (CONNTRACK / "nf_conntrack_count").read_text()
        assert int(taken) >= 8
        held.callback(limit.write_text, before)
        limit.write_text(taken)
        yield


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("conntrack", ["0", "1"])
def test_a_full_table_of_tracked_connections_stops_every_packet_but_those_that_are_notrack(
    version: int, conntrack: str
) -> None:
    rules = iptables_rules(loads(CONFIG.format(forwarding="")).config)
    program = "iptables" if version == 4 else "ip6tables"
    key = KEYS[version]
    fresh = range(22000, 22000 + len(FLOWS))
    with node() as one:
        with one.inside():
            Path("/proc/sys/net/ipv4/vs/conntrack").write_text(conntrack)
            run(f"{program}-legacy-restore", stdin=STATES + MARK)
        one.become(_table(version, None))

        def passed(flows: range) -> int:
            before = sum(_counted(one, program).values())
            one.send(flows, key)
            return sum(_counted(one, program).values()) - before

        if conntrack == "0":  # with 1 each has a place, and the table is to be filled by others
            assert passed(FLOWS) == len(FLOWS)
        with full_table_of_tracked_connections(one, version):
            assert [passed(FLOWS), passed(fresh)] == [0, 0]  # of old connections too
            with one.inside():
                run(f"{program}-legacy-restore", "--noflush", stdin=rules)
            assert [passed(FLOWS), passed(fresh)] == [len(FLOWS), len(fresh)]


def test_the_address_of_the_configuration_is_that_of_the_table() -> None:
    assert {one.address for one in KEYS.values()} == {ip_address("192.0.2.1"), ip_address("2001:db8::1")}
