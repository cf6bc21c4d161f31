"""Where the rest of a prefix goes that VIPs announce."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from anycast.core.values.configuration import Announce, Config
from anycast.doctor.demands import addresses_to_reach, sysctls_to_read
from anycast.doctor.facts import Route
from anycast.doctor.finding import Code, Severity
from anycast.doctor.wide import of_the_rest
from tests.unit.doctor.node import GOOD, ROUTER, codes, config, found

REST = ip_address("192.0.2.254")


def announcing(prefix: str = "192.0.2.0/24") -> Config:
    one = config()
    vips = tuple(replace(vip, announce=(Announce(prefix=ip_network(prefix)),)) for vip in one.vips)
    return replace(one, vips=vips)


def test_an_address_of_it_that_is_no_vip_is_asked_for() -> None:
    assert of_the_rest(announcing()) == {ip_network("192.0.2.0/24"): REST}
    assert REST in addresses_to_reach(announcing())
    assert of_the_rest(announcing("192.0.2.0/31")) == {}
    assert of_the_rest(announcing("192.0.2.0/30")) == {ip_network("192.0.2.0/30"): ip_address("192.0.2.2")}


@pytest.mark.parametrize("route", [None, Route(interface="lo", mtu=65536, local=True)])
def test_what_ends_here_is_right(route: Route | None) -> None:
    facts = replace(GOOD, routes={**GOOD.routes, REST: route})
    assert Code.WIDE_PREFIX not in codes(facts, announcing())


def test_what_goes_back_to_the_router_is_an_error_with_the_command() -> None:
    facts = replace(GOOD, routes={**GOOD.routes, REST: Route(interface="up0", mtu=1500, gateway=ROUTER)})
    one = found(facts, Code.WIDE_PREFIX, announcing())
    assert one.severity is Severity.ERROR
    assert (
        "192.0.2.0/24 and for no VIP in it (192.0.2.254 was asked for) leaves by up0, so it comes back"
        in one.text
    )
    assert "`ip route add unreachable 192.0.2.0/24 proto 178 metric 4000000000`" in one.fix


def test_what_goes_to_a_link_does_not_come_back() -> None:
    facts = replace(GOOD, routes={**GOOD.routes, REST: Route(interface="lan0", mtu=1500)})
    assert "comes back" not in found(facts, Code.WIDE_PREFIX, announcing()).text


def test_a_node_that_does_not_forward_drops_it() -> None:
    routes = {**GOOD.routes, REST: Route(interface="up0", mtu=1500, gateway=ROUTER)}
    facts = replace(GOOD, routes=routes, sysctls={**GOOD.sysctls, "net.ipv4.ip_forward": "0"})
    assert Code.WIDE_PREFIX not in codes(facts, announcing())
    assert "net.ipv4.ip_forward" in sysctls_to_read(announcing())
