"""The source addresses that the kernel takes, as the doctor asks for them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from anycast.doctor import network
from tests.contract.namespaces import network_namespace, run

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")

FAR4, FAR6 = ip_address("198.51.100.1"), ip_address("2001:4860::9")


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    """A node without addresses on its link, and the VIPs as the agent adds them."""
    with network_namespace():
        run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "router0")
        for name in ("up0", "router0"):
            run("sysctl", "-qw", f"net.ipv6.conf.{name}.dad_transmits=0")
            run("ip", "link", "set", name, "up")
        run("ip", "-4", "route", "add", "default", "via", "inet6", "fe80::1", "dev", "up0")
        run("ip", "-6", "route", "add", "default", "via", "fe80::1", "dev", "up0")
        run("ip", "addr", "add", "192.0.2.1/32", "dev", "lo", "scope", "host")
        vip6 = "2001:db8:ffff::1/128 dev lo nodad preferred_lft 0 valid_lft forever"
        run("ip", "addr", "add", *vip6.split())
        yield


def sources() -> list[str]:
    routes = asyncio.run(network.read_routes([FAR4, FAR6], ()))
    return [str(way.source) for way in routes.values() if way is not None]


def test_with_the_vips_alone_ipv4_has_none_and_ipv6_takes_the_vip() -> None:
    assert sources() == ["0.0.0.0", "2001:db8:ffff::1"]


def test_with_addresses_of_its_own_it_takes_those() -> None:
    run("ip", "addr", "add", "10.255.0.1/32", "dev", "lo")
    run("ip", "addr", "add", "2001:db8:eeee::1/128", "dev", "lo", "nodad")
    assert sources() == ["10.255.0.1", "2001:db8:eeee::1"]


def test_a_route_keeps_a_source_that_the_node_has_no_more() -> None:
    run("ip", "addr", "add", "2001:db8:eeee::1/128", "dev", "lo", "nodad")
    words = ["default", "via", "fe80::1", "dev", "up0", "src", "2001:db8:eeee::1"]
    run("ip", "-6", "route", "replace", *words)
    run("ip", "link", "set", "lo", "down")
    run("ip", "link", "set", "lo", "up")
    assert sources()[1] == "2001:db8:eeee::1"
    assert "2001:db8:eeee::1" not in run("ip", "addr", "show", "dev", "lo")
