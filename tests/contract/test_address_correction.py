"""An address that somebody else has added or written anew becomes one of ours in its place: the node never lacks it."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from anycast.core.values.configuration import Address
from anycast.kernel import addresses, netlink
from anycast.kernel.netlink_codec import attributes, messages
from tests.contract.namespaces import network_namespace, run

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")

V4, OTHER4, V6 = ip_address("192.0.2.1"), ip_address("192.0.2.2"), ip_address("2001:db8::1")
ROUTE_GROUPS = 0x40 | 0x400  # of IPv4 and IPv6
DEL_ROUTE, LOCAL_TABLE, DESTINATION = 25, 255, 1


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    with network_namespace():
        yield


def shown(interface: str = "lo") -> dict[str, tuple[str, object]]:
    """Scope and preferred lifetime of each address, by address and prefix length."""
    (link,) = json.loads(run("ip", "-j", "addr", "show", "dev", interface))
    return {
        f"{one['local']}/{one['prefixlen']}": (one["scope"], one["preferred_life_time"])
        for one in link["addr_info"]
        if one["local"] in map(str, (V4, OTHER4, V6))
    }


FOREVER = 2**32 - 1
OURS = {"192.0.2.1/32": ("host", FOREVER), "2001:db8::1/128": ("global", 0)}


def corrected(*asked: Address, interface: str = "lo") -> None:
    assert asyncio.run(addresses.correct(interface, list(asked))) == {}


def plain(interface: str = "lo") -> frozenset[Address]:
    return asyncio.run(addresses.read(interface)).plain & {V4, OTHER4, V6}


def routes_lost(line: socket.socket) -> list[bytes]:
    """The node's own addresses that were no longer its own at some moment."""
    found: list[bytes] = []
    while True:
        try:
            data = line.recv(65536)
        except BlockingIOError:
            return found
        for message in messages(data):
            table = struct.unpack_from("=BBBBB", data, message.start)[4]
            if message.kind == DEL_ROUTE and table == LOCAL_TABLE:
                found.append(attributes(data, message.start + 12, message.end)[DESTINATION])


@pytest.mark.parametrize(
    "by_hand",
    [
        ["192.0.2.1/32", "2001:db8::1/128"],
        ["192.0.2.1/32 scope link", "2001:db8::1/128 valid_lft 3600 preferred_lft 1800"],
        ["192.0.2.1/32 scope host valid_lft 3600 preferred_lft 3600", "2001:db8::1/128 preferred_lft 1800"],
        ["192.0.2.1/32 label lo:1", "2001:db8::1/128 valid_lft 3600 preferred_lft 0"],
    ],
)
def test_it_gets_scope_and_lifetimes_of_ours_and_is_the_nodes_own_all_the_time(by_hand: list[str]) -> None:
    for words in by_hand:
        run("ip", "addr", "add", *words.split(), "dev", "lo")
    assert plain() == {V4, V6}
    line = netlink.open_socket(0, groups=ROUTE_GROUPS)
    with line:
        corrected(V4, V6)
        assert routes_lost(line) == []
    assert shown() == OURS
    assert plain() == frozenset()


def test_a_wide_ipv4_address_on_lo_becomes_a_single_host_and_its_network_is_no_longer_local() -> None:
    run("ip", "addr", "add", "192.0.2.1/24", "dev", "lo")
    run("ip", "addr", "add", "192.0.2.1/31", "dev", "lo", "scope", "link")
    assert plain() == {V4}
    corrected(V4)
    assert shown() == {"192.0.2.1/32": OURS["192.0.2.1/32"]}
    assert "local 192.0.2.0/24" not in run("ip", "route", "show", "table", "local")


def test_a_wide_ipv4_address_on_a_link_is_the_operators_network_and_stays() -> None:
    uplink()
    run("ip", "addr", "add", "192.0.2.1/24", "dev", "up0")
    assert plain("up0") == frozenset()


def test_a_wide_ipv6_address_keeps_its_prefix() -> None:
    run("ip", "addr", "add", "2001:db8::1/64", "dev", "lo")
    corrected(V6)
    assert shown() == {"2001:db8::1/64": ("global", 0)}


def test_other_addresses_stay_as_they_are() -> None:
    run("ip", "addr", "add", "192.0.2.1/32", "dev", "lo")
    run("ip", "addr", "add", "192.0.2.2/32", "dev", "lo")
    corrected(V4)
    assert shown() == {"192.0.2.1/32": ("host", FOREVER), "192.0.2.2/32": ("global", FOREVER)}


def test_one_that_has_gone_meanwhile_is_added() -> None:
    corrected(V4, V6)
    assert shown() == OURS


def test_one_that_somebody_else_was_faster_to_add_is_put_right_by_adding_it() -> None:
    run("ip", "addr", "add", "192.0.2.1/32", "dev", "lo")
    run("ip", "addr", "add", "2001:db8::1/128", "dev", "lo")
    assert asyncio.run(addresses.add("lo", [V4, V6])) == {}
    assert shown() == OURS
    assert asyncio.run(addresses.add("lo", [V4, V6])) == {}
    assert shown() == OURS


def test_the_node_leaves_with_its_own_addresses_again() -> None:
    uplink()
    run("ip", "addr", "add", "192.0.2.1/32", "dev", "lo")
    run("ip", "addr", "add", "10.255.0.1/32", "dev", "lo")
    run("ip", "addr", "add", "2001:db8:eeee::1/128", "dev", "lo")
    run("ip", "addr", "add", "2001:db8::1/128", "dev", "lo")  # of equals IPv6 takes the one added last
    run("ip", "route", "add", "default", "dev", "up0")
    run("ip", "-6", "route", "add", "default", "dev", "up0")
    far = ("198.51.100.1", "2001:4860::9")
    assert [source(one) for one in far] == ["192.0.2.1", "2001:db8::1"]
    corrected(V4, V6)
    assert [source(one) for one in far] == ["10.255.0.1", "2001:db8:eeee::1"]


def uplink() -> None:
    run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1")
    for name in ("up0", "up1"):
        run("ip", "link", "set", name, "up")


def source(target: str) -> str:
    found: str = json.loads(run("ip", "-j", "route", "get", target))[0]["prefsrc"]
    return found


def test_many_are_corrected_and_each_that_is_refused_is_named() -> None:
    many = [OTHER4 + number for number in range(300)] + [V6 + number for number in range(300)]
    run("ip", "-batch", "-", stdin="".join(f"addr add {one} dev lo\n" for one in many))
    refused = ip_address("ff02::1")  # multicast

    async def story() -> None:
        assert (await addresses.read("lo")).plain >= frozenset(many)
        assert list(await addresses.correct("lo", [*many, refused])) == [refused]
        assert not (await addresses.read("lo")).plain & frozenset(many)

    asyncio.run(story())
