"""How packets come to the VIPs and go on to the real servers."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_interface

import pytest

from anycast.core.dataplane.kernel import SetSysctl
from anycast.core.values.configuration import Config, Forwarding, TunnelType
from anycast.doctor.demands import addresses_to_reach, overhead
from anycast.doctor.facts import Facts, Interface, Route, conf
from anycast.doctor.finding import Code, Severity
from anycast.doctor.findings import findings
from tests.unit.doctor.node import CONFIG, GOOD, LAN0, LO, ROUTER, SERVERS, UP0, codes, config, found, serving

TUNNEL = serving(forwarding=Forwarding.TUNNEL)
JUMBO = 9000


def with_interfaces(*interfaces: Interface) -> Facts:
    return replace(GOOD, interfaces=interfaces)


def with_settings(facts: Facts = GOOD, **values: str) -> Facts:
    """`up0__arp_ignore="1"`."""
    named = {conf(*name.split("__")): value for name, value in values.items()}
    return replace(facts, sysctls={**facts.sysctls, **named})


def with_routes(mtu: int, *, interface: str = "lan0", gateway: str | None = None) -> Facts:
    way = Route(interface=interface, mtu=mtu, gateway=ip_address(gateway) if gateway else None)
    return replace(GOOD, routes=dict.fromkeys(SERVERS, way))


class TestInterfaces:
    def test_a_loopback_that_is_down_is_an_error(self) -> None:
        assert found(with_interfaces(replace(LO, up=False), UP0), Code.LO_DOWN).fix == "ip link set lo up"

    def test_the_interface_of_the_vips_must_be_there(self) -> None:
        elsewhere = replace(config(), node=replace(config().node, interface="vip0"))
        one = found(GOOD, Code.INTERFACE_MISSING, elsewhere)
        assert one.severity is Severity.ERROR
        assert "ip link add vip0 type dummy" in one.fix

    def test_the_interface_of_the_vips_must_be_up(self) -> None:
        elsewhere = replace(config(), node=replace(config().node, interface="vip0"))
        facts = with_interfaces(LO, Interface(name="vip0", up=False, mtu=1500, kind="dummy"))
        assert found(facts, Code.INTERFACE_DOWN, elsewhere).fix == "ip link set vip0 up"

    def test_an_ipv6_vip_needs_ipv6_on_its_interface(self) -> None:
        off = replace(GOOD, sysctls={**GOOD.sysctls, "net.ipv6.conf.lo.disable_ipv6": "1"})
        both = serving(addresses=(ip_address("192.0.2.1"), ip_address("2001:db8::1")))
        assert "2001:db8::1" in found(off, Code.IPV6_OFF, both).text
        assert codes(off) == set()

    def test_interfaces_that_could_not_be_read_are_not_missing(self) -> None:
        assert codes(replace(GOOD, interfaces=None)) == set()


class TestVips:
    def test_a_vip_on_another_interface_is_to_be_taken_away_there(self) -> None:
        facts = with_interfaces(LO, replace(UP0, addresses=(ip_interface("192.0.2.1/32"),)))
        assert found(facts, Code.VIP_ELSEWHERE).fix == "ip addr del 192.0.2.1/32 dev up0"

    def test_many_vips_on_another_interface_are_one_finding_with_examples(self) -> None:
        vips = tuple(ip_address(f"192.0.2.{number}") for number in range(1, 61))
        held = tuple(ip_interface(f"{address}/32") for address in vips)
        facts = with_interfaces(LO, replace(UP0, addresses=held))
        one = found(facts, Code.VIP_ELSEWHERE, serving(addresses=vips))
        assert one.text.startswith("60 addresses of VIPs are on up0, and node.interface is lo")
        assert one.text.endswith("192.0.2.5 and 55 more")
        assert one.fix == "`ip addr del 192.0.2.1/32 dev up0`, and so on for each"

    def test_of_many_vips_it_is_said_how_many_routes_a_router_must_take(self) -> None:
        many = tuple(ip_address(f"192.0.2.{number}") for number in range(100))
        one = found(GOOD, Code.PREFIXES, serving(addresses=many))
        assert one.severity is Severity.INFO
        assert (
            "may announce 100 IPv4 routes to 10.2.1.254: a router that takes fewer ends the session"
            in one.text
        )
        assert "maximum-prefix" in one.fix
        assert codes(GOOD, serving(addresses=many[:99])) == set()

    def test_a_vip_on_another_interface_does_not_put_itself_on_its_link(self) -> None:
        facts = with_interfaces(LO, replace(UP0, addresses=(*UP0.addresses, ip_interface("192.0.2.1/24"))))
        assert codes(facts) == {Code.VIP_ELSEWHERE}

    def test_a_vip_with_the_prefix_of_its_network_takes_the_network(self) -> None:
        facts = with_interfaces(replace(LO, addresses=(ip_interface("192.0.2.1/24"),)), UP0)
        one = found(facts, Code.VIP_PREFIX_WIDE)
        assert "makes all of 192.0.2.0/24 this node's own" in one.text
        assert one.fix.startswith("ip addr del 192.0.2.1/24 dev lo")

    def test_a_vip_as_the_agent_adds_it_is_right(self) -> None:
        assert codes(with_interfaces(replace(LO, addresses=(ip_interface("192.0.2.1/32"),)), UP0)) == set()


ON_LINK = with_interfaces(LO, replace(UP0, addresses=(*UP0.addresses, ip_interface("192.0.2.200/24"))))


class TestVipOnLink:
    def test_neighbours_that_ask_by_arp_are_answered_by_every_balancer(self) -> None:
        one = found(ON_LINK, Code.VIP_ON_LINK)
        assert one.severity is Severity.WARNING
        assert one.text.startswith("web 192.0.2.1: within 192.0.2.0/24 of up0")
        assert one.changes == (
            SetSysctl(name="net.ipv4.conf.up0.arp_ignore", value="1"),
            SetSysctl(name="net.ipv4.conf.up0.arp_announce", value="2"),
        )

    @pytest.mark.parametrize("place", ["all", "up0"])
    def test_settings_that_keep_quiet_count_for_all_or_for_the_interface(self, place: str) -> None:
        quiet = with_settings(ON_LINK, **{f"{place}__arp_ignore": "1", f"{place}__arp_announce": "2"})
        assert found(quiet, Code.VIP_ON_LINK).severity is Severity.INFO

    def test_only_what_is_missing_is_set(self) -> None:
        (change,) = found(with_settings(ON_LINK, all__arp_ignore="1"), Code.VIP_ON_LINK).changes
        assert change == SetSysctl(name="net.ipv4.conf.up0.arp_announce", value="2")

    def test_an_interface_on_which_nobody_asks_is_no_finding(self) -> None:
        _, up0 = ON_LINK.interfaces or ()
        assert codes(replace(ON_LINK, interfaces=(LO, replace(up0, neighbours=False)))) == set()

    def test_an_interface_that_is_down_is_no_finding(self) -> None:
        _, up0 = ON_LINK.interfaces or ()
        assert codes(replace(ON_LINK, interfaces=(LO, replace(up0, up=False)))) == set()

    def test_on_the_interface_that_carries_the_vips_no_setting_helps(self) -> None:
        there = replace(config(), node=replace(config().node, interface="up0"))
        one = found(ON_LINK, Code.VIP_ON_LINK, there)
        assert (one.severity, one.changes) == (Severity.WARNING, ())
        assert "interface: lo" in one.fix

    def test_ipv6_answers_for_no_other_interface_and_needs_no_setting(self) -> None:
        facts = with_interfaces(LO, replace(UP0, addresses=(ip_interface("2001:db8::200/64"),)))
        assert (
            found(facts, Code.VIP_ON_LINK, serving(addresses=(ip_address("2001:db8::1"),))).severity
            is Severity.INFO
        )

    def test_the_dot_of_a_vlan_is_a_slash_in_its_sysctls(self) -> None:
        facts = with_interfaces(LO, replace(UP0, name="up0.7", addresses=(ip_interface("192.0.2.200/24"),)))
        facts = replace(facts, sysctls={**facts.sysctls, conf("up0.7", "arp_ignore"): "0"})
        change = found(facts, Code.VIP_ON_LINK).changes[0]
        assert change == SetSysctl(name="net.ipv4.conf.up0/7.arp_ignore", value="1")


class TestReversePath:
    @pytest.mark.parametrize(
        ("every", "own", "strict"),
        [("1", "0", True), ("0", "1", True), ("2", "1", False), ("1", "2", False), ("0", "0", False)],
    )
    def test_of_all_and_the_interface_the_greater_counts(self, every: str, own: str, *, strict: bool) -> None:
        facts = with_settings(all__rp_filter=every, up0__rp_filter=own)
        assert (Code.RP_FILTER_STRICT in codes(facts)) is strict

    def test_an_uplink_is_made_loose_and_nothing_else(self) -> None:
        one = found(with_settings(all__rp_filter="1"), Code.RP_FILTER_STRICT)
        assert one.changes == (SetSysctl(name="net.ipv4.conf.up0.rp_filter", value="2"),)

    @pytest.mark.parametrize(("up", "strict"), [(True, True), (False, False)])
    def test_a_tunnel_that_is_up_counts_too(self, *, up: bool, strict: bool) -> None:
        facts = with_settings(
            with_interfaces(LO, UP0, Interface(name="tunl0", up=up, mtu=1480, kind="ipip", neighbours=False)),
            tunl0__rp_filter="1",
        )
        assert (Code.RP_FILTER_STRICT in codes(facts)) is strict

    def test_ipv6_knows_no_such_filter(self) -> None:
        facts = with_settings(all__rp_filter="1")
        assert Code.RP_FILTER_STRICT not in codes(facts, serving(addresses=(ip_address("2001:db8::1"),)))


def announcing(hop: str, *, remote_as: int = 65000) -> Config:
    asked = config()
    neighbors = tuple(
        replace(one, remote_as=remote_as, families=frozenset({4, 6})) for one in asked.bgp.neighbors
    )
    address = ip_address(hop)
    four, six = (address, None) if isinstance(address, IPv4Address) else (None, address)
    return replace(asked, bgp=replace(asked.bgp, neighbors=neighbors, next_hop_v4=four, next_hop_v6=six))


class TestNextHops:
    @pytest.mark.parametrize("hop", ["10.2.1.99", "fd00::1"])
    def test_one_that_no_interface_has_is_an_error(self, hop: str) -> None:
        one = found(GOOD, Code.NEXT_HOP_MISSING, announcing(hop))
        assert one.severity is Severity.ERROR
        assert f"no interface of this node has {hop}" in one.text
        assert codes(GOOD, announcing(hop)) == {Code.NEXT_HOP_MISSING}

    def test_one_in_the_network_shared_with_the_router_is_right(self) -> None:
        assert codes(GOOD, announcing("10.2.1.1")) == set()

    def test_one_on_another_link_than_the_router_is_warned_of(self) -> None:
        one = found(GOOD, Code.NEXT_HOP_OFF_LINK, announcing("10.9.1.1"))
        assert one.severity is Severity.WARNING
        assert "10.9.1.1 is in no network that this node shares with 10.2.1.254" in one.text

    def test_for_the_other_family_the_link_counts(self) -> None:
        six = ip_interface("fd00::1/64")
        assert (
            codes(
                with_interfaces(LO, replace(UP0, addresses=(*UP0.addresses, six)), LAN0),
                announcing("fd00::1"),
            )
            == set()
        )
        elsewhere = with_interfaces(LO, UP0, replace(LAN0, addresses=(*LAN0.addresses, six)))
        assert codes(elsewhere, announcing("fd00::1")) == {Code.NEXT_HOP_OFF_LINK}

    @pytest.mark.parametrize(
        "facts",
        [
            replace(
                GOOD, routes={**GOOD.routes, ROUTER: Route(interface="up0", mtu=1500, gateway=SERVERS[0])}
            ),
            replace(GOOD, routes={**GOOD.routes, ROUTER: None}),
            replace(GOOD, interfaces=None),
        ],
    )
    def test_where_the_shared_network_cannot_be_known_nothing_is_said(self, facts: Facts) -> None:
        assert codes(facts, announcing("10.9.1.1")) == set()

    def test_within_one_as_a_next_hop_need_not_be_on_the_link(self) -> None:
        assert codes(GOOD, announcing("10.9.1.1", remote_as=65001)) == set()


class TestReachability:
    def test_a_real_server_without_a_route_is_named_with_its_service(self) -> None:
        facts = replace(GOOD, routes={**GOOD.routes, SERVERS[0]: None})
        one = found(facts, Code.NO_ROUTE)
        assert one.text == "web tcp/80: there is no route to the real servers 10.9.2.1"

    def test_direct_routing_does_not_pass_a_router(self) -> None:
        one = found(with_routes(1500, gateway="10.9.0.254"), Code.DR_BEHIND_ROUTER)
        assert "10.9.2.1, 10.9.2.2 are behind 10.9.0.254 on lan0" in one.text

    @pytest.mark.parametrize("forwarding", [Forwarding.NAT, Forwarding.TUNNEL])
    def test_other_forwarding_passes_routers(self, forwarding: Forwarding) -> None:
        facts = with_routes(JUMBO, gateway="10.9.0.254")
        facts = replace(facts, sysctls={**facts.sysctls, "net.ipv4.ip_forward": "1"})
        assert codes(facts, serving(forwarding=forwarding)) == set()

    def test_the_ways_to_all_real_servers_and_routers_are_asked_for(self) -> None:
        assert addresses_to_reach(config()) == {*SERVERS, ROUTER}

    def test_of_a_link_local_router_no_route_is_asked_for(self) -> None:
        """There is one for each link."""
        one = config()
        far = replace(one.bgp.neighbors[0], address=ip_address("fe80::1"), interface="lan0")
        assert addresses_to_reach(replace(one, bgp=replace(one.bgp, neighbors=(far,)))) == {*SERVERS}


class TestTunnels:
    @pytest.mark.parametrize(
        ("kind", "outer", "checksum", "bytes_added"),
        [
            (TunnelType.IPIP, 4, False, 20),
            (TunnelType.IPIP, 6, False, 40),
            (TunnelType.GRE, 4, False, 24),
            (TunnelType.GRE, 4, True, 28),
            (TunnelType.GRE, 6, False, 44),
            (TunnelType.GUE, 4, False, 32),
            (TunnelType.GUE, 6, False, 52),
            (TunnelType.GUE, 4, True, 40),
        ],
    )
    def test_each_tunnel_adds_its_headers(
        self, kind: TunnelType, outer: int, *, checksum: bool, bytes_added: int
    ) -> None:
        assert overhead(kind, outer, checksum=checksum) == bytes_added

    def test_an_mtu_that_does_not_hold_the_tunnel_gives_the_segment_size(self) -> None:
        one = found(GOOD, Code.TUNNEL_MTU, TUNNEL)
        assert "MTU 1500 of lan0 less 20 of ipip leaves 1480" in one.text
        assert "MSS 1440" in one.text
        assert one.fix.startswith("`ip link set lan0 mtu 1520`")
        assert "on every real server" in one.fix
        assert "ip saddr { 192.0.2.1 } tcp flags syn tcp option maxseg size set 1440" in one.fix

    def test_ipv6_has_larger_headers_outside_and_inside(self) -> None:
        servers = [ip_address("fd00:9::1")]
        facts = replace(GOOD, routes=dict.fromkeys(servers, Route(interface="lan0", mtu=1500)))
        one = found(facts, Code.TUNNEL_MTU, v6_tunnel())
        assert "less 40 of ipip leaves 1460" in one.text
        assert "ip6 saddr { 2001:db8::1 } tcp flags syn tcp option maxseg size set 1400" in one.fix

    @pytest.mark.parametrize(("mtu", "is_found"), [(1519, True), (1520, False)])
    def test_an_mtu_that_holds_the_tunnel_is_no_finding(self, mtu: int, *, is_found: bool) -> None:
        assert (Code.TUNNEL_MTU in codes(with_routes(mtu), TUNNEL)) is is_found

    def test_ways_that_differ_are_found_one_by_one(self) -> None:
        narrow = Route(interface="up0", mtu=1400)
        facts = replace(GOOD, routes={**GOOD.routes, SERVERS[0]: narrow})
        texts = [one.text for one in findings(facts, TUNNEL) if one.code is Code.TUNNEL_MTU]
        assert [text.split(":")[0] for text in texts] == ["tunnel to 10.9.2.1", "tunnel to 10.9.2.2"]

    def test_a_real_server_on_the_node_itself_needs_no_tunnel(self) -> None:
        here = Route(interface="lo", mtu=1500, local=True)
        assert codes(replace(GOOD, routes=dict.fromkeys(SERVERS, here)), TUNNEL) == set()

    def test_without_a_tunnel_the_mtu_is_the_clients_business(self) -> None:
        assert codes(with_routes(1280)) == set()

    def test_what_the_real_servers_have_to_do_is_said_once(self) -> None:
        one = found(GOOD, Code.TUNNEL_REAL_SERVERS, TUNNEL)
        assert one.severity is Severity.INFO
        assert "modprobe ipip" in one.fix

    @pytest.mark.parametrize(
        ("vip", "server", "tunnel", "words"),
        [
            ("192.0.2.1", "10.9.2.1", "ipip", "`modprobe ipip && ip link set tunl0 up`"),
            ("2001:db8::1", "10.9.2.1", "ipip", "ip link set sit0 up"),
            ("2001:db8::1", "fd00:9::1", "ipip", "`modprobe ip6_tunnel && ip link set ip6tnl0 up`"),
            ("192.0.2.1", "fd00:9::1", "ipip", "ip -6 tunnel change ip6tnl0 mode any"),
            ("192.0.2.1", "fd00:9::1", "{type: gue, port: 6080}", "ip -6 fou add port 6080 gue`, and `modprobe"),
            ("2001:db8::1", "10.9.2.1", "{type: gue, port: 6080}", "ip fou add port 6080 gue`, and `modprobe sit"),
            ("192.0.2.1", "10.9.2.1", "gre", "gre1 type gre local ADDRESS remote any && ip link set gre1 up`"),
            ("192.0.2.1", "fd00:9::1", "{type: gre, checksum: csum}", "gre1 type ip6gre local ADDRESS remote any icsum &&"),
        ],
    )  # fmt: skip
    def test_what_they_have_to_do_depends_on_both_families(
        self, vip: str, server: str, tunnel: str, words: str
    ) -> None:
        text = CONFIG.replace("192.0.2.1", f"'{vip}'").replace(
            "[10.9.2.1, 10.9.2.2]", f"['{server}'], forwarding: tunnel, tunnel: {tunnel}"
        )
        six = ", {address: 'fd00:2::fe', remote_as: 65000, local_address: 'fd00:2::1'}]"
        text = text.replace("remote_as: 65000}]", "remote_as: 65000}" + six)
        assert words in found(GOOD, Code.TUNNEL_REAL_SERVERS, config(text)).fix


def v6_tunnel() -> Config:
    return config(
        "bgp:\n  local_as: 65001\n  router_id: 10.2.1.1\n"
        "  neighbors: [{address: 'fd00:2::fe', remote_as: 65000, local_address: 'fd00:2::1'}]\n"
        "vips:\n  web: {address: '2001:db8::1', port: 80, forwarding: tunnel, servers: ['fd00:9::1']}\n"
    )


def test_lan_settings_of_a_good_node_are_not_looked_at() -> None:
    """The filter of an interface that leads to no router is its owner's business."""
    assert codes(with_settings(lan0__rp_filter="1")) == set()
    assert LAN0.up
