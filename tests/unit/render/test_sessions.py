"""Sessions that are not the plain one: other ports, far away, link-local, reflected, and nodes without a line of their own."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path

import pytest

from anycast.config.load import load
from anycast.core.values.configuration import Bfd, Config, Neighbor
from anycast.core.values.software import software
from anycast.render.exabgp import exabgp_conf, exabgp_env
from anycast.render.frr_bfd import frr_bfd_conf
from anycast.render.router import doubts, router
from anycast.render.routers import ROUTERS

FULL = Path(__file__).parents[3] / "examples" / "full.yaml"
LINK = {
    "address": IPv6Address("fe80::1"),
    "local_address": IPv6Address("fe80::2"),
    "interface": "eth0",
    "remote_interface": "swp1",
    "families": frozenset({4, 6}),
    "extended_next_hop": True,
}

each = pytest.mark.parametrize("name", ROUTERS)


def node(*neighbors: Neighbor, name: str = "lb1", **bgp: object) -> Config:
    full = load(FULL, hostname="lb1").config
    return replace(
        full,
        node=replace(full.node, name=name),
        bgp=replace(full.bgp, neighbors=neighbors, weight=None, **bgp),  # type: ignore[arg-type]
    )


def neighbor(**changes: object) -> Neighbor:
    four = Neighbor(address=IPv4Address("10.2.1.254"), remote_as=65000, local_address=IPv4Address("10.2.1.1"))
    return replace(four, **changes)  # type: ignore[arg-type]


def exabgp(*neighbors: Neighbor) -> list[str]:
    text = exabgp_conf(node(*neighbors), command="/usr/bin/anycast")
    return [line.strip().partition("  #")[0] for line in text.splitlines()]


def rendered(name: str, *configs: Config, ranges: tuple[str, ...] = (), version: str = "") -> str:
    runs = software(f"{name} {version}") if version else None
    return ROUTERS[name](router(configs, software=runs, ranges=[ip_network(one) for one in ranges]))


def test_what_is_not_written_is_not_rendered() -> None:
    lines = " ".join(exabgp(neighbor()))
    for word in ("connect ", "ttl", "nexthop", "source-interface", "listen "):
        assert word not in lines
    assert "tcp_port" not in exabgp_env(node(neighbor()))


def test_exabgp_dials_another_port_over_several_hops() -> None:
    lines = exabgp(neighbor(port=1790, multihop=4))
    assert "connect 1790;" in lines
    assert "outgoing-ttl 4;" in lines


def test_exabgp_listens_at_another_port_where_179_is_taken() -> None:
    one = node(neighbor(passive=True), listen_port=1790)
    assert "exabgp_tcp_port=1790\n" in exabgp_env(one)
    text = exabgp_conf(one, command="/usr/bin/anycast")
    assert "    listen 1790;\n" in text
    assert "    connect 179;" in text, "else it would dial 1790 too"


@pytest.mark.parametrize(("hops", "least"), [(1, 255), (3, 253), (254, 2)])
def test_exabgp_takes_nothing_from_further_away(hops: int, least: int) -> None:
    lines = exabgp(neighbor(ttl_security=hops))
    assert {"outgoing-ttl 255;", f"incoming-ttl {least};", "listen 179;"} <= set(lines)


def listening(*neighbors: Neighbor) -> list[str]:
    """The neighbors that set the least TTL of ExaBGP's one socket for a local address."""
    found, at = [], ""
    for line in exabgp(*neighbors):
        at = line.split()[1] if line.startswith("neighbor ") else at
        found += [at] if line.startswith("listen ") else []
    return found


def test_of_several_neighbors_the_one_furthest_away_decides_what_the_socket_takes() -> None:
    near, far = (
        neighbor(address=IPv4Address(f"10.2.1.{n}"), ttl_security=hops) for n, hops in ((253, 1), (254, 3))
    )
    assert listening(near, far) == ["10.2.1.254"]
    assert listening(far, near) == ["10.2.1.254"]


def test_a_neighbor_without_ttl_security_is_not_shut_out_by_another() -> None:
    plain = neighbor(address=IPv4Address("10.2.1.253"))
    assert listening(neighbor(ttl_security=1), plain) == []
    assert listening(neighbor(ttl_security=1, passive=True), plain) == []
    assert listening(neighbor(ttl_security=1), replace(plain, passive=True)) == ["10.2.1.253"]
    elsewhere = replace(plain, local_address=IPv4Address("10.2.2.1"))
    assert listening(neighbor(ttl_security=1), elsewhere) == ["10.2.1.254"]


def test_a_session_of_link_local_addresses_is_dialled_only() -> None:
    one = neighbor(**LINK)
    assert {"source-interface eth0;", "nexthop { ipv4 unicast ipv6; }"} <= set(exabgp(one))
    assert "exabgp_tcp_bind=10.2.1.1\n" in exabgp_env(node(one, neighbor()))


def test_the_router_says_the_same_of_the_session() -> None:
    one = node(neighbor(multihop=4, port=1790, remote_as=65001, route_reflector=True), listen_port=1179)
    frr, bird, gobgp, openbgpd = (rendered(name, one) for name in ("frr", "bird", "gobgp", "openbgpd"))
    assert " neighbor 10.2.1.1 port 1179\n" in frr
    assert " neighbor 10.2.1.1 update-source 10.2.1.254\n" in frr
    assert "  neighbor 10.2.1.1 route-reflector-client\n" in frr
    assert "add `-p 1790`" in frr
    assert "    local 10.2.1.254 port 1790 as 65001;\n" in bird
    assert "    neighbor 10.2.1.1 port 1179 as 65001;\n    multihop 4;\n" in bird
    assert "    rr client;\n" in bird
    document = tomllib.loads(gobgp)
    assert document["global"]["config"]["port"] == 1790
    (session,) = document["neighbors"]
    assert session["transport"]["config"] == {"local-address": "10.2.1.254", "remote-port": 1179}
    assert session["route-reflector"]["config"]["route-reflector-client"] is True
    assert "listen on 10.2.1.254 port 1790\n" in openbgpd
    assert "\tport 1179\n" in openbgpd
    assert "\troute-reflector\n" in openbgpd


def test_hops_are_of_sessions_between_two_as() -> None:
    """Within one AS a router expects its neighbors anywhere."""
    for remote_as, there in ((65000, True), (65001, False)):
        one = node(neighbor(multihop=4, remote_as=remote_as))
        assert (" neighbor 10.2.1.1 ebgp-multihop 4\n" in rendered("frr", one)) is there
        assert ("\tmultihop 4\n" in rendered("openbgpd", one)) is there
        (session,) = tomllib.loads(rendered("gobgp", one))["neighbors"]
        assert ("ebgp-multihop" in session) is there
        assert "    multihop 4;\n" in rendered("bird", one)


def test_ttl_security_is_at_both_ends() -> None:
    near, far = (node(neighbor(ttl_security=hops)) for hops in (1, 3))
    assert " neighbor 10.2.1.1 ttl-security hops 3\n" in rendered("frr", far)
    assert "    multihop 3;\n    ttl security on;\n" in rendered("bird", far)
    assert "    direct;\n    ttl security on;\n" in rendered("bird", near)
    (session,) = tomllib.loads(rendered("gobgp", far))["neighbors"]
    assert session["ttl-security"]["config"] == {"enabled": True, "ttl-min": 253}
    assert "\tttl-security yes\n" in rendered("openbgpd", near)
    assert "ttl-security" not in rendered("openbgpd", far)


def test_a_link_local_node_is_named_with_the_routers_interface() -> None:
    one = node(neighbor(**LINK))
    frr = rendered("frr", one)
    assert " neighbor fe80::2 interface swp1\n" in frr
    assert " neighbor fe80::2 capability extended-nexthop\n" in frr
    bird = rendered("bird", one)
    assert '    interface "swp1";\n' in bird
    assert "        extended next hop on;\n" in bird
    assert "neighbor fe80::2%swp1 {\n" in rendered("openbgpd", one)
    with pytest.raises(ValueError, match="fe80::1 is link-local: write remote_interface"):
        router([node(neighbor(**LINK | {"remote_interface": ""}))])


def test_no_version_of_gobgp_is_asked_for_where_none_has_bfd() -> None:
    text = rendered("gobgp", node(neighbor(bfd=Bfd(), multihop=4)))
    assert "# No BFD: GoBGP has it on its own links alone" in text
    assert "write --gobgp VERSION" not in text
    assert "write --gobgp VERSION" in rendered("gobgp", node(neighbor(bfd=Bfd())))


def test_gobgp_has_bfd_with_a_neighbor_on_its_link_whatever_ttl_it_wants() -> None:
    text = rendered("gobgp", node(neighbor(bfd=Bfd(), ttl_security=1)), version="4.8")
    (session,) = tomllib.loads(text)["neighbors"]
    assert session["bfd"]["config"]["enabled"] is True
    assert "No BFD" not in text


@pytest.mark.parametrize(
    ("runs", "remote_as", "several"),
    [("frr 8.4", 65000, True), ("frr 8.4", 65001, False), ("bird 2.0", 65000, False), (None, 65000, False)],
)
def test_bfd_beside_ttl_security_is_as_the_router_speaks_it(
    runs: str | None, remote_as: int, *, several: bool
) -> None:
    """FRR takes every session of two AS with ttl_security for one of several hops."""
    settings = {"bfd": Bfd(), "ttl_security": 1, "remote_as": remote_as}
    text = frr_bfd_conf(node(neighbor(software=software(runs) if runs else None, **settings)))
    assert (" peer 10.2.1.254 multihop local-address 10.2.1.1\n" in text) is several


def test_an_frr_that_the_node_does_not_know_of_is_told_of_where_its_bfd_differs() -> None:
    def said(**settings: object) -> list[str]:
        one = node(neighbor(bfd=Bfd(), ttl_security=1, **settings))
        return [*doubts([one], router([one], software=software("frr 10.4")))]

    (doubt,) = said()
    assert doubt.startswith("lb1: software: FRR speaks BFD of several hops in this session")
    assert "(write software: frr under the neighbor, and render frr-bfd again)" in doubt
    assert said(software=software("frr")) == said(remote_as=65001) == []


def test_frr_is_given_no_bfd_that_cannot_come_up() -> None:
    """With `strict` there would be no session."""
    text = rendered("frr", node(neighbor(**LINK, bfd=Bfd(), ttl_security=1)), version="10.4")
    assert " bfd profile " not in text
    assert " bfd strict" not in text
    assert "! No BFD with fe80::2: FRR speaks BFD of several hops where ttl_security is" in text
    assert " bfd strict\n" in rendered("frr", node(neighbor(**LINK, bfd=Bfd())), version="10.4")
    its = node(neighbor(**LINK, bfd=Bfd(), ttl_security=1, software=software("frr 10.4")))
    assert " multihop " not in frr_bfd_conf(its), "bfdd takes no interface beside it"


def test_frr_has_no_bfd_beside_ttl_security_with_nodes_in_a_range() -> None:
    """8.4 speaks that of one hop there, the newest that of several."""

    def of(**settings: object) -> tuple[str, list[str]]:
        one = node(neighbor(bfd=Bfd(), software=software("frr"), **settings))
        there = router([one], software=software("frr 8.4"), ranges=[ip_network("10.2.1.0/24")])
        return ROUTERS["frr"](there), [*doubts([one], there)]

    text, (doubt,) = of(ttl_security=1)
    assert " bfd profile " not in text
    assert "! No BFD with ANYCAST-range1: " in text
    assert doubt.startswith("10.2.1.0/24: bfd: with ttl_security FRR speaks BFD of one hop or of several")
    for settings in ({}, {"ttl_security": 1, "remote_as": 65001}, {"ttl_security": 2}):
        text, told = of(**settings)
        assert " neighbor ANYCAST-range1 bfd profile ANYCAST-3x100\n" in text
        assert told == []


def test_bfd_is_told_of_hops_and_of_links() -> None:
    text = frr_bfd_conf(node(neighbor(multihop=4, bfd=Bfd()), neighbor(**LINK, bfd=Bfd())))
    assert " peer 10.2.1.254 multihop local-address 10.2.1.1\n" in text
    assert " peer fe80::1 local-address fe80::2 interface eth0\n" in text


@each
def test_nodes_in_a_range_have_no_line_of_their_own(name: str) -> None:
    secret = None if name == "openbgpd" else "secret"
    nodes = [
        node(neighbor(local_address=IPv4Address(f"10.2.1.{n}"), password=secret), name=f"lb{n}")
        for n in (1, 2)
    ]
    text = rendered(name, *nodes, ranges=("10.2.1.0/25",))
    assert "10.2.1.0/25" in text
    assert "10.2.1.1 " not in text.replace("10.2.1.1,", "")
    assert "lb1" not in text
    assert text.count("secret") == (0 if name == "openbgpd" else 1)
    assert "192.0.2.1/32" in text
    assert ("\tpassive " in text) is (name == "openbgpd"), "the others dial nobody there by themselves"


@each
def test_a_node_outside_the_range_is_written_as_before(name: str) -> None:
    nodes = [node(neighbor(local_address=IPv4Address(f"10.2.1.{n}")), name=f"lb{n}") for n in (1, 201)]
    text = rendered(name, *nodes, ranges=("10.2.1.0/25",))
    assert "10.2.1.201" in text
    assert "lb201" in text


def test_a_range_takes_nodes_of_several_as() -> None:
    nodes = [
        node(neighbor(local_address=IPv4Address(f"10.2.1.{n}")), name=f"lb{n}", local_as=65000 + n)
        for n in (1, 2)
    ]
    assert " neighbor ANYCAST-range1 remote-as external\n" in rendered("frr", *nodes, ranges=("10.2.1.0/25",))
    assert "    neighbor range 10.2.1.0/25 external;\n" in rendered("bird", *nodes, ranges=("10.2.1.0/25",))
    assert "remote-as" not in rendered("openbgpd", *nodes, ranges=("10.2.1.0/25",))
    with pytest.raises(ValueError, match=r"GoBGP takes nodes of one AS number in a range"):
        rendered("gobgp", *nodes, ranges=("10.2.1.0/25",))


def test_a_range_is_written_as_its_nodes_are() -> None:
    one = node(neighbor(), name="lb1")
    other = node(neighbor(local_address=IPv4Address("10.2.1.2"), password="x"), name="lb2")
    with pytest.raises(ValueError, match=r"10\.2\.1\.0/25 are not alike \(password\)"):
        rendered("frr", one, other, ranges=("10.2.1.0/25",))
    with pytest.raises(ValueError, match=r"no node has an address in the range 10\.9\.0\.0/16"):
        rendered("frr", one, ranges=("10.9.0.0/16",))
    with pytest.raises(ValueError, match="lb1 waits for the router"):
        rendered("frr", node(neighbor(passive=True)), ranges=("10.2.1.0/25",))


def test_a_router_has_one_port() -> None:
    two = node(
        neighbor(),
        neighbor(address=IPv4Address("10.2.2.254"), local_address=IPv4Address("10.2.2.1"), port=1790),
    )
    with pytest.raises(
        ValueError, match="a router listens at one port, and this one is said to do so at 179, 1790"
    ):
        router([two])


def test_what_openbgpd_does_otherwise_is_told() -> None:
    def said(one: Neighbor, version: str) -> list[str]:
        configs = [node(one)]
        runs = software(f"openbgpd {version}".strip())
        return [*doubts(configs, router(configs, software=runs))]

    six = neighbor(
        address=IPv6Address("fd00::fe"),
        local_address=IPv6Address("fd00::1"),
        families=frozenset({4, 6}),
        extended_next_hop=True,
    )
    (what,) = said(six, "7.7")
    assert "extended_next_hop: OpenBGPD before 8.8 ends the session" in what
    assert said(six, "8.8") == []
    (what,) = said(neighbor(ttl_security=2), "9.3")
    assert "ttl_security: OpenBGPD has ttl_security with neighbors on its own links alone" in what


def test_a_range_with_a_password_is_refused_where_it_would_take_nobody() -> None:
    one = node(neighbor(password="x"))
    with pytest.raises(ValueError, match="OpenBGPD on Linux takes no connection with a password"):
        rendered("openbgpd", one, ranges=("10.2.1.0/25",))

    def said(version: str) -> list[str]:
        runs = software(f"gobgp {version}".strip())
        return [*doubts([one], router([one], software=runs, ranges=[ip_network("10.2.1.0/25")]))]

    for version in ("", "3.10"):
        (what,) = said(version)
        assert "GoBGP before 3.36 (3.10 was tried) takes no connection with a password from a range" in what
    assert said("3.36") == []
