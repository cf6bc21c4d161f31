"""What the doctor says where the node itself serves VIPs: nothing of IPVS, and of sockets that clients get no answer from."""

from __future__ import annotations

import sys
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from anycast.core.values.configuration import Address, Config
from anycast.doctor.facts import Modules
from anycast.doctor.finding import Code, Severity
from anycast.doctor.findings import findings
from anycast.doctor.gather import read_files
from tests.unit.doctor.node import CONFIG, GOOD, config

LOCAL = """\
bgp: {local_as: 65001, router_id: 10.2.1.1, neighbors: [{address: 10.2.1.254, remote_as: 65000}]}
vips:
  dns: {address: 192.0.2.53, port: 53/udp, local: true, check: {type: dns, name: www.example.net.}}
"""
VIP, ANY, ANY6 = ip_address("192.0.2.53"), ip_address("0.0.0.0"), ip_address("::")
# As the kernel writes them where the first byte of a number is the last in memory.
UDP = """\
   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  101: 350200C0:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1 2 0 0
  102: 00000000:0202 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1 2 0 0
"""
UDP6 = """\
  sl  local_address                         remote_address                        st tx_queue rx_queue
  7: B80D0120000099000000000053000000:0035 00000000000000000000000000000000:0000 07 00000000:00000000
  8: nonsense
"""


def local() -> Config:
    return config(LOCAL)


def test_a_kernel_without_ipvs_is_well_where_no_vip_needs_it() -> None:
    without = replace(GOOD, modules=Modules(), conn_tab_bits=None, sysctls={}, initial_user_namespace=False)
    assert {one.code for one in findings(without, local()) if one.severity is not Severity.INFO} == set()
    assert Code.MODULE_MISSING in {one.code for one in findings(without, config(CONFIG))}


def test_a_firewall_that_tracks_connections_sees_both_directions_and_nothing_is_said() -> None:
    counted = {
        **GOOD.sysctls,
        "net.netfilter.nf_conntrack_count": "7",
        "net.netfilter.nf_conntrack_max": "65536",
    }
    facts = replace(GOOD, sysctls=counted, packet_filter=None)
    assert Code.CONNTRACK_RULES not in {one.code for one in findings(facts, local())}
    assert Code.CONNTRACK_RULES in {one.code for one in findings(facts, config(CONFIG))}


def test_a_file_that_loads_a_module_which_there_is_not_is_named() -> None:
    facts = replace(GOOD, modules=Modules(by_file=frozenset({"ip_vs"})), conn_tab_bits=None)
    (found,) = (one for one in findings(facts, local()) if one.code is Code.MODULE_UNNEEDED)
    assert "/etc/modules-load.d" in found.fix
    by_unit = replace(facts, modules=Modules(by_unit=frozenset({"ip_vs"})))
    assert Code.MODULE_UNNEEDED not in {one.code for one in findings(by_unit, local())}
    assert Code.MODULE_UNNEEDED not in {one.code for one in findings(GOOD, local())}


@pytest.mark.parametrize(
    ("bound", "told"),
    [
        ({(ANY, 53)}, True),
        ({(ANY6, 53)}, True),
        ({(ANY, 53), (VIP, 53)}, False),
        ({(VIP, 53)}, False),
        ({(ANY, 54)}, False),
    ],
)
def test_a_udp_socket_on_the_wildcard_is_named_for_clients_may_get_no_answer(
    bound: set[tuple[Address, int]], *, told: bool
) -> None:
    found = findings(replace(GOOD, bound=frozenset(bound)), local())
    assert (Code.LOCAL_WILDCARD in {one.code for one in found}) is told


@pytest.mark.skipif(sys.byteorder != "little", reason="the files above are little-endian")
def test_the_sockets_are_read_where_they_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "proc/net").mkdir(parents=True)
    (tmp_path / "proc/net/udp").write_text(UDP)
    (tmp_path / "proc/net/udp6").write_text(UDP6)
    expected = frozenset({(VIP, 53), (ANY, 514), (ip_address("2001:db8:99::53"), 53)})
    assert read_files(local(), tmp_path).bound == expected
    assert read_files(config(CONFIG), tmp_path).bound is None
