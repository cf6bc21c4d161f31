"""The source addresses of the node's own traffic, routes from router advertisements, and strict reverse paths of IPv6."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface

import pytest

from anycast.core.dataplane.kernel import SetSysctl
from anycast.core.values.configuration import Config, Forwarding
from anycast.doctor.demands import FORWARDING6
from anycast.doctor.facts import DefaultRoute, Facts, Route, conf
from anycast.doctor.finding import Code, Severity
from anycast.doctor.findings import findings
from anycast.doctor.sources import strict_rules
from tests.unit.doctor.node import GOOD, LAN0, LO, ROUTER, SERVERS, UP0, codes, config, found, serving

VIP, VIP6, OWN, OWN6 = map(ip_address, ("192.0.2.1", "2001:db8:ffff::1", "10.255.0.1", "2001:db8:eeee::1"))
RESOLVER = ip_address("10.0.0.53")
HELD = replace(LO, addresses=(ip_interface("192.0.2.1/32"), ip_interface("10.255.0.1/32")))


def leaving(source: str, *targets: str) -> Facts:
    """The node's own packets to these targets have this source."""
    to = [ip_address(one) for one in targets] or [ROUTER, *SERVERS]
    routes = {one: Route(interface="up0", mtu=1500, source=ip_address(source)) for one in to}
    return replace(GOOD, routes={**GOOD.routes, **routes}, interfaces=(HELD, UP0, LAN0))


def unnumbered() -> Config:
    """The sessions have no source of their own."""
    asked = config()
    neighbors = tuple(replace(one, local_address=None) for one in asked.bgp.neighbors)
    return replace(asked, bgp=replace(asked.bgp, neighbors=neighbors))


class TestSources:
    @pytest.mark.parametrize(
        ("source", "words"),
        [
            ("192.0.2.1", "192.0.2.1, the address of VIP web: the answers go to whichever node"),
            ("0.0.0.0", "0.0.0.0, for no address of this node may be a source of IPv4"),
            ("10.99.0.1", "10.99.0.1, which no interface of this node has"),
        ],
    )
    def test_one_that_brings_no_answers_is_an_error(self, source: str, words: str) -> None:
        one = found(leaving(source), Code.SOURCE_ADDRESS, unnumbered())
        assert one.severity is Severity.ERROR
        assert words in one.text
        assert "neighbor 10.2.1.254 and real server 10.9.2.1, 10.9.2.2" in one.text

    def test_what_to_type_and_where_it_lasts_are_told(self) -> None:
        fix = found(leaving("192.0.2.1"), Code.SOURCE_ADDRESS, unnumbered()).fix
        assert fix.startswith("`ip address add ADDRESS/32 dev lo`, with an IPv4 address of this node's own")
        assert (
            "`up ip address add ADDRESS/32 dev lo` under `iface lo inet loopback` in /etc/network/interfaces"
            in fix
        )
        assert fix.endswith("`ip route get 10.2.1.254` shows what the kernel takes")
        fix = found(leaving("10.99.0.1"), Code.SOURCE_ADDRESS, unnumbered()).fix
        assert fix.startswith("`ip address add 10.99.0.1 dev lo`, if it is this node's; otherwise")
        assert "for the next boot in the file that sets it" in fix

    def test_an_address_of_the_nodes_own_is_right(self) -> None:
        assert codes(leaving("10.255.0.1"), unnumbered()) == set()

    def test_a_session_with_a_source_of_its_own_does_not_ask_the_kernel(self) -> None:
        facts = leaving("192.0.2.1", str(ROUTER))
        assert Code.SOURCE_ADDRESS in codes(facts, unnumbered())
        neighbors = tuple(replace(one, local_address=OWN) for one in config().bgp.neighbors)
        asked = replace(config(), bgp=replace(config().bgp, neighbors=neighbors))
        assert codes(facts, asked) == set()

    def test_a_resolver_alone_is_a_warning(self) -> None:
        facts = replace(leaving("192.0.2.1", str(RESOLVER)), resolvers=(RESOLVER,))
        one = found(facts, Code.SOURCE_ADDRESS)
        assert one.severity is Severity.WARNING
        assert "resolver 10.0.0.53 leaves with the source 192.0.2.1" in one.text

    def test_what_is_this_nodes_own_needs_none(self) -> None:
        facts = replace(leaving("192.0.2.1", "127.0.0.53"), resolvers=(ip_address("127.0.0.53"),))
        routes = {one: replace(way, local=True) for one, way in facts.routes.items() if way is not None}
        assert codes(replace(facts, routes=routes)) == set()

    def test_without_interfaces_and_without_an_answer_nothing_is_said(self) -> None:
        assert codes(replace(leaving("10.99.0.1"), interfaces=None), unnumbered()) == set()
        assert codes(GOOD) == set()


def advertised(*, accept_ra: str = "1", forwarding: str = "0") -> Facts:
    settings = {
        conf("up0", "accept_ra", family=6): accept_ra,
        conf("up0", "forwarding", family=6): forwarding,
        FORWARDING6: forwarding,
    }
    return replace(GOOD, advertised=frozenset({"up0"}), sysctls={**GOOD.sysctls, **settings})


def masquerading(*, managed: bool = True) -> Config:
    return replace(serving(addresses=(VIP6,), forwarding=Forwarding.NAT), manage_sysctls=managed)


SAFE = SetSysctl(name="net.ipv6.conf.up0.accept_ra", value="2")


class TestAdvertisedRoutes:
    @pytest.mark.parametrize("managed", [True, False])
    def test_forwarding_comes_after_what_keeps_the_route(self, *, managed: bool) -> None:
        asked = masquerading(managed=managed)
        one = found(advertised(), Code.ADVERTISED_ROUTE, asked)
        assert (one.changes, one.severity) == ((SAFE,), Severity.INFO if managed else Severity.WARNING)
        assert "deletes it at once and for good" in one.text
        assert "net.ipv6.conf.up0.accept_ra=2" in one.fix
        forward = next(
            each
            for each in findings(advertised(), asked)
            if each.code is Code.SYSCTL_DIFFERS and FORWARDING6 in each.text
        )
        assert forward.changes == (SAFE, SetSysctl(name=FORWARDING6, value="1"))

    def test_where_it_is_forwarded_already_the_route_ends_with_its_lifetime(self) -> None:
        one = found(advertised(forwarding="1"), Code.ADVERTISED_ROUTE)
        assert one.severity is Severity.WARNING
        assert "takes no more of them" in one.text

    @pytest.mark.parametrize("value", ["0", "2"])
    def test_what_is_safe_or_of_another_program_is_no_finding(self, value: str) -> None:
        assert Code.ADVERTISED_ROUTE not in codes(advertised(accept_ra=value), masquerading())

    def test_a_node_that_forwards_nothing_may_take_them(self) -> None:
        assert codes(advertised()) == set()


def rule(*expressions: object, family: str = "inet", table: str = "firewalld") -> dict[str, object]:
    found = {
        "rule": {"family": family, "table": table, "chain": "filter_PREROUTING", "expr": list(expressions)}
    }
    return {"nftables": [{"metainfo": {"json_schema_version": 1}}, found]}


def fib(*flags: str, right: object = False, op: str = "==") -> dict[str, object]:
    return {"match": {"op": op, "left": {"fib": {"result": "oif", "flags": list(flags)}}, "right": right}}


def protocol(name: str) -> dict[str, object]:
    return {"match": {"op": "==", "left": {"meta": {"key": "nfproto"}}, "right": name}}


DROP = {"drop": None}


class TestStrictRules:
    @pytest.mark.parametrize(
        "document",
        [
            rule(protocol("ipv6"), fib("saddr", "mark", "iif"), DROP),
            rule(fib("saddr", "iif", right="0"), {"counter": {"packets": 0, "bytes": 0}}, DROP),
            rule(fib("saddr", "iif"), {"reject": {}}, family="ip6"),
            rule(fib("saddr", "iif"), {"jump": {"target": "away"}}),
        ],
    )
    def test_one_that_asks_for_the_same_interface_back_is_found(self, document: dict[str, object]) -> None:
        (where,) = strict_rules(document)
        assert where.endswith("chain filter_PREROUTING")

    @pytest.mark.parametrize(
        "document",
        [
            rule(protocol("ipv6"), fib("saddr", "mark"), DROP),  # loose
            rule(protocol("ipv4"), fib("saddr", "iif"), DROP),
            rule(fib("saddr", "iif"), DROP, family="ip"),
            rule(fib("saddr", "iif"), {"accept": None}),
            rule(fib("saddr", "iif", op="!="), DROP),
            {},
            {"nftables": "?"},
            {"nftables": [{"rule": {"family": "inet", "expr": [{"match": {"left": 7}}, "drop"]}}]},
        ],
    )
    def test_others_and_what_is_no_ruleset_are_none(self, document: dict[str, object]) -> None:
        assert strict_rules(document) == ()


STRICT = replace(
    GOOD,
    strict_reverse_path6=("table inet firewalld, chain filter_PREROUTING",),
    default_routes6=(DefaultRoute(interfaces=("up0", "up1")),),
)


class TestStrictReversePath:
    def test_two_next_hops_lose_about_half(self) -> None:
        one = found(STRICT, Code.RP_FILTER_STRICT6, serving(addresses=(VIP6,)))
        assert one.severity is Severity.WARNING
        assert (
            "up0, up1: packets of clients whose way back is by the other one, about half of each" in one.text
        )
        assert "IPv6_rpfilter=loose" in one.fix

    def test_two_routes_lose_one_of_the_uplinks(self) -> None:
        two = (DefaultRoute(interfaces=("up0",)), DefaultRoute(interfaces=("up1",), metric=2048))
        one = found(replace(STRICT, default_routes6=two), Code.RP_FILTER_STRICT6, serving(addresses=(VIP6,)))
        assert "every packet that comes in by another than the one with the lowest metric" in one.text

    def test_of_rules_that_are_not_firewallds_the_rule_is_the_cure(self) -> None:
        own = replace(STRICT, strict_reverse_path6=("table inet mine, chain pre",))
        assert "without `iif`" in found(own, Code.RP_FILTER_STRICT6, serving(addresses=(VIP6,))).fix

    def test_one_uplink_or_no_ipv6_vip_loses_nothing(self) -> None:
        single = replace(STRICT, default_routes6=(DefaultRoute(interfaces=("up0",)),))
        assert Code.RP_FILTER_STRICT6 not in codes(single, serving(addresses=(VIP6,)))
        assert Code.RP_FILTER_STRICT6 not in codes(STRICT)
