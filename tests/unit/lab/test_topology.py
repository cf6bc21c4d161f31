from __future__ import annotations

from collections import Counter
from ipaddress import ip_address, ip_interface

import pytest

from lab.topology import LAN, VIPS, Role, topology


@pytest.mark.parametrize(("balancers", "servers"), [(1, 1), (3, 4), (32, 99)])
def test_every_link_ends_at_an_interface_and_every_interface_has_one_link(
    balancers: int, servers: int
) -> None:
    site = topology(balancers, servers)
    ends = Counter(end for link in site.links for end in link if end[0] != LAN)
    interfaces = {(node.name, name) for node in site.nodes for name in node.interfaces if name != "lo"}
    assert ends == Counter(interfaces)


def test_no_two_machines_share_an_address_but_the_vips() -> None:
    addresses = Counter(
        a for node in topology(9, 99).nodes for all_ in node.interfaces.values() for a in all_
    )
    assert {a for a, count in addresses.items() if count > 1} == set(VIPS)


def test_every_gateway_is_an_address_of_the_router_on_a_link_of_the_node() -> None:
    site = topology()
    router = {ip_interface(a).ip for addresses in site.node("r1").interfaces.values() for a in addresses}
    for node in site.nodes:
        networks = [ip_interface(a).network for addresses in node.interfaces.values() for a in addresses]
        for gateway in map(ip_address, node.gateways):
            assert gateway in router
            assert any(gateway in network for network in networks)


def test_the_router_hashes_ports_in_both_families() -> None:
    sysctls = topology().node("r1").sysctls
    assert [sysctls[f"net.{ip}.fib_multipath_hash_policy"] for ip in ("ipv4", "ipv6")] == ["1", "1"]


def test_only_real_servers_hold_the_vip_from_the_start() -> None:
    holders = {node.role for node in topology().nodes if "lo" in node.interfaces}
    assert holders == {Role.SERVER}


@pytest.mark.parametrize(("balancers", "servers"), [(0, 4), (33, 4), (3, 0), (3, 100)])
def test_a_size_the_addresses_do_not_allow_is_refused(balancers: int, servers: int) -> None:
    with pytest.raises(ValueError, match="1 to 32 balancers"):
        topology(balancers, servers)


def test_an_unknown_node_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(KeyError, match=r"lb9.*cl, r1, lb1"):
        topology().node("lb9")
