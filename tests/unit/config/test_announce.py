"""`announce`: prefixes wider than a host route, as written, as the core has them, and what is said against them."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from anycast.config.changes import changes
from anycast.config.load import loads
from anycast.config.problem import ConfigError
from anycast.core.prefixes import prefix_of, prefixes_of
from anycast.core.values.configuration import Announce, Config, Needs

NET, NET6 = ip_network("192.0.2.0/24"), ip_network("2001:db8:53::/48")
BGP = "bgp: {local_as: 65001, router_id: 10.2.1.1, local_address: [10.2.1.1, 'fd00::1'], remote_as: 65000, neighbors: [10.2.1.254, 'fd00::fe']}\n"


def text(*vips: str, bgp: str = BGP) -> str:
    """VIPs ns1, ns2 and so on, each with what is written of it."""
    lines = (f"  ns{n}: {{local: true, port: 53/tcp, {vip}}}\n" for n, vip in enumerate(vips, 1))
    return f"{bgp}vips:\n{''.join(lines)}"


def config(*vips: str, bgp: str = BGP) -> Config:
    return loads(text(*vips, bgp=bgp), hostname="lb1").config


def problems(*vips: str, bgp: str = BGP) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config(*vips, bgp=bgp)
    return [str(one) for one in caught.value.problems]


def warned(*vips: str) -> list[str]:
    return [str(one) for one in loads(text(*vips), hostname="lb1").warnings]


@pytest.mark.parametrize(
    "written",
    [
        "announce: 192.0.2.0/24",
        "announce: [192.0.2.0/24]",
        "announce: {prefix: 192.0.2.0/24}",
        "announce: [{prefix: 192.0.2.0/24, needs: any}]",
    ],
)
def test_each_way_of_writing_it_says_the_same(written: str) -> None:
    (vip,) = config(f"address: 192.0.2.53, {written}").vips
    assert vip.announce == (Announce(prefix=NET, needs=Needs.ANY),)


def test_an_address_that_is_in_none_keeps_its_host_route_and_two_in_one_have_one() -> None:
    addresses = "[192.0.2.53, 192.0.2.54, '2001:db8:53::1', 198.51.100.1]"
    (vip,) = config(f"address: {addresses}, announce: [192.0.2.0/24, '2001:db8:53::/48']").vips
    assert prefixes_of(vip) == (NET, NET6, ip_network("198.51.100.1/32"))
    assert prefix_of(vip, ip_address("192.0.2.54")) == NET


def test_a_host_route_that_is_written_is_what_there_is_without_it() -> None:
    (vip,) = config("address: 192.0.2.53, announce: 192.0.2.53/32").vips
    assert vip.announce == ()


@pytest.mark.parametrize(
    ("vip", "words"),
    [
        ("address: 192.0.2.53, announce: 192.0.3.0/24", "no address of the VIP is in 192.0.3.0/24 (write the prefix that the VIP is in, as in 192.0.2.0/24)"),
        ("address: 192.0.2.53, announce: 192.0.2.53/24", "has bits behind its length (write 192.0.2.0/24)"),
        ("address: 192.0.2.53, announce: 192.0.2.53", "has no length"),
        ("address: 192.0.2.53, announce: 192.0.0.0/7", "is wider than /8"),
        ("address: 192.0.2.53, announce: nonsense/24", "is not a prefix"),
        ("address: 192.0.2.53, announce: nonsense", "is not a prefix"),
        ("address: 192.0.2.53, announce: 192.0.2.0/255.255.255.0", "is not a prefix"),
        ("address: 'fe80::1', announce: 'fe80::%eth0/64'", "is not a prefix"),
        (f"address: 192.0.2.53, announce: [{', '.join(['192.0.2.0/24'] * 65)}]", "these are 65 prefixes (write 64 at most"),
        ("address: 192.0.2.53, announce: {needs: all}", "it is missing"),
        ("address: 192.0.2.53, announce: {prefix: 192.0.2.0/24, needs: most}", "is not a choice here (write any or all)"),
        ("address: 192.0.2.53, announce: [192.0.2.0/24, 192.0.2.0/25]", "192.0.2.0/25 and 192.0.2.0/24 overlap"),
        ("address: 10.2.1.5, announce: 10.2.1.0/24", "10.2.1.254, a neighbor, is in 10.2.1.0/24"),
        ("address: 10.2.1.5, announce: 10.2.1.0/28", "10.2.1.1, this node's own address, is in 10.2.1.0/28"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(vip: str, words: str) -> None:
    assert words in " ".join(problems(vip))


def test_a_next_hop_in_it_is_refused() -> None:
    bgp = BGP.replace("remote_as", "next_hop: 192.0.2.9, remote_as")
    assert (
        "192.0.2.9, the next hop, is in 192.0.2.0/24"
        in problems("address: 192.0.2.53, announce: 192.0.2.0/24", bgp=bgp)[0]
    )


@pytest.mark.parametrize(
    ("second", "differs"),
    [
        ("announce: {prefix: 192.0.2.0/24, needs: all}", "needs"),
        ("announce: 192.0.2.0/24, med: 7", "med"),
        ("announce: 192.0.2.0/24, role: backup", "role"),
        ("announce: 192.0.2.0/24, communities: ['65000:1']", "communities"),
        ("announce: {prefix: 192.0.2.0/24, needs: all}, med: 7, role: backup", "needs and role and med"),
    ],
)
def test_vips_that_share_one_must_agree(second: str, differs: str) -> None:
    (found,) = problems("address: 192.0.2.53, announce: 192.0.2.0/24", f"address: 192.0.2.54, {second}")
    assert f"ns1 announces 192.0.2.0/24 too, which is one route, and {differs} " in found
    assert "vips.ns2.announce" in found


def test_vips_that_share_one_must_go_to_the_same_routers() -> None:
    bgp = BGP.replace("[10.2.1.254,", "[{address: 10.2.1.254, export: [ns1]},")
    (found, *_) = [
        one
        for one in problems(
            "address: 192.0.2.53, announce: 192.0.2.0/24",
            "address: 192.0.2.54, announce: 192.0.2.0/24",
            bgp=bgp,
        )
        if "which is one route" in one
    ]
    assert "what the neighbor 10.2.1.254 gets (export) is another there" in found


def test_two_that_agree_are_no_news() -> None:
    assert (
        warned("address: 192.0.2.53, announce: 192.0.2.0/24", "address: 192.0.2.54, announce: 192.0.2.0/24")
        == []
    )


@pytest.mark.parametrize(
    ("vips", "words"),
    [
        (["address: 192.0.2.53, announce: 192.0.2.0/24", "address: 192.0.2.54"], "192.0.2.54 of ns2 is in 192.0.2.0/24 and announces 192.0.2.54/32"),
        (["address: 192.0.2.53, announce: 192.0.2.0/25", "address: 192.0.3.54, announce: 192.0.2.0/23"], "it is a part of 192.0.2.0/23, which ns2 announces"),
        (["address: 9.0.2.53, announce: 9.0.2.0/25"], "take nothing longer than /24: 9.0.2.0/25"),
        (["address: '2a01:100::53', announce: '2a01:100::/64'"], "take nothing longer than /48: 2a01:100::/64"),
    ],
)  # fmt: skip
def test_what_is_rarely_meant_is_said_once(vips: list[str], words: str) -> None:
    assert sum(words in one for one in warned(*vips)) == 1


def test_a_real_server_in_it_is_told() -> None:
    file = f"{BGP}vips: {{web: {{address: 192.0.2.1, announce: 192.0.2.0/24, port: 80, servers: [192.0.2.9]}}}}\n"
    (found,) = [str(one) for one in loads(file, hostname="lb1").warnings]
    assert "the real server 192.0.2.9 is in 192.0.2.0/24" in found


def test_a_server_of_a_sorry_pool_in_it_is_told_too() -> None:
    web = "{address: 192.0.2.1, announce: 192.0.2.0/24, port: 80, servers: [10.9.2.1], sorry: page}"
    file = f"{BGP}pools: {{page: {{check: {{type: tcp, port: 80}}, servers: [192.0.2.9]}}}}\nvips: {{web: {web}}}\n"
    assert any("the real server 192.0.2.9 is in" in str(one) for one in loads(file, hostname="lb1").warnings)


def test_a_reload_says_what_is_announced_otherwise() -> None:
    before, after = (
        config("address: 192.0.2.53"),
        config("address: 192.0.2.53, announce: {prefix: 192.0.2.0/24, needs: all}"),
    )
    assert [one for one in changes(before, after) if "announce" in one] == [
        "vip ns1: announce [] -> [192.0.2.0/24 needs all]"
    ]


def test_a_daemon_that_learns_the_table_must_be_told_of_a_new_one() -> None:
    speaker = f"speaker: kernel-table\n{BGP}"
    before = config("address: 192.0.2.53", bgp=speaker)
    after = config("address: 192.0.2.53, announce: 192.0.2.0/24", bgp=speaker)
    (found,) = [one for one in changes(before, after) if "wider" in one]
    assert found.startswith(
        "the prefix of ns1, wider than a host route: waits for BIRD: `anycast render bird"
    )
    assert not [one for one in changes(after, before) if "wider" in one]


def test_an_empty_list_is_not_taken_for_nothing_to_announce() -> None:
    (said,) = problems("address: 192.0.2.53, announce: []")
    assert "vips.ns1.announce: there is no prefix in it (leave it out" in said


def test_a_prefix_that_cannot_be_read_is_told_alone() -> None:
    (said,) = problems("address: 192.0.2.53, announce: [192.0.2.0/99]")
    assert "no prefix in it" not in said
