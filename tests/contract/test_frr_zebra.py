"""How a router's zebra writes its kernel's table. docs/failures.md, docs/routers.md."""

from __future__ import annotations

import signal
import socket
from contextlib import closing
from ipaddress import ip_address, ip_network

import pytest

from anycast.core.values.route import Route
from lab import netns
from lab.routewatch import RTM_DELROUTE, RTM_NEWROUTE, messages, route_of
from tests.contract import bgp
from tests.contract.bgp import NODE6
from tests.contract.pair import NODE_B, V4, V6, pair, second_network
from tests.contract.routers import Frr, every, until

pytestmark = [pytest.mark.bgp, pytest.mark.skipif(bool(bgp.missing()), reason=bgp.missing() or "")]


@pytest.mark.parametrize("frr", every([Frr]), ids=lambda one: one.id())
def test_without_zebra_a_withdrawn_route_stays_in_the_routers_kernel(frr: type[Frr]) -> None:
    """A node sees its session up and its withdraw acknowledged; the packets that still come are all it can notice."""
    with pair(frr) as one:
        one.accepted(Route(prefix=V4), Route(prefix=V6))
        one.forwarded(V4)
        zebra, *_ = one.router.processes
        zebra.send(signal.SIGKILL)  # at SIGTERM it would take its routes along
        assert zebra.wait(bgp.PATIENCE)
        report = one.node.want(Route(prefix=V6))
        assert V4 not in report.announced
        until(lambda: not one.router.path(V4), "the withdraw at bgpd")
        assert one.router.up()
        one.forwarded(V4)


V6_REPLACES = "--v6-rr-semantics"
REPLACES_SINCE = (10, 3)  # the oldest that was seen to do it by itself
OTHER4, OTHER6 = ip_address(NODE_B), ip_address(NODE6) + 1
_ROUTE_EVENTS = 0x40 | 0x400  # IPv4 and IPv6


@pytest.mark.parametrize("options", [(), (V6_REPLACES,)], ids=["as-installed", "told"])
@pytest.mark.parametrize("frr", every([Frr]), ids=lambda one: one.id())
def test_an_ipv6_route_that_changes_is_taken_away_first_unless_zebra_is_told(
    frr: type[Frr], options: tuple[str, ...]
) -> None:
    told = type(frr.__name__, (frr,), {"zebra": options})
    with pair(told) as one:
        second_network(one.places)
        one.accepted(Route(prefix=V4), Route(prefix=V6))
        one.forwarded(V4)
        one.forwarded(V6)
        place = one.places.router
        with closing(
            netns.open_socket(place, socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        ) as heard:
            heard.bind((0, _ROUTE_EVENTS))
            heard.settimeout(bgp.PATIENCE)
            one.node.want(Route(prefix=V4, next_hop=OTHER4), Route(prefix=V6, next_hop=OTHER6))
            events: list[tuple[int, str]] = []
            while not {(RTM_NEWROUTE, str(V4)), (RTM_NEWROUTE, str(V6))} <= set(events):
                events += [
                    (kind, str(ip_network(route[0])))
                    for kind, message in messages(heard.recv(262144))
                    if kind in (RTM_NEWROUTE, RTM_DELROUTE) and (route := route_of(message))
                ]
    gone = {prefix for kind, prefix in events if kind == RTM_DELROUTE}
    number = frr.number()
    assert number is not None
    assert gone == ({str(V6)} if number < REPLACES_SINCE and not options else set())
