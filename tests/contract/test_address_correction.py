"""An address that somebody else has added or written anew becomes one of ours in its place: the node never lacks it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import struct
import time
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anycast.core.dataplane.kernel import AddAddress, CorrectAddress, RemoveAddress
from anycast.core.values.configuration import Address
from anycast.kernel import addresses, netlink, sysctl
from anycast.kernel.netlink_codec import attributes, messages
from tests.contract.namespaces import network_namespace, run
from tests.contract.tables import played

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")

V4, OTHER4, V6 = ip_address("192.0.2.1"), ip_address("192.0.2.2"), ip_address("2001:db8::1")
ROUTE_GROUPS = 0x40 | 0x400  # of IPv4 and IPv6
NEW_ROUTE, LOCAL_TABLE, LOCAL, DESTINATION = 24, 255, 2, 1


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


def own() -> Counter[str]:
    """How many routes make each IPv4 or IPv6 address the node's own: by another source it has another one."""
    found = [
        json.loads(run("ip", each, "-j", "route", "show", "table", "local", "type", "local"))
        for each in ("-4", "-6")
    ]
    return Counter(one["dst"] for part in found for one in part)


def until_own(*addresses: Address) -> Counter[str]:
    """An IPv6 address is it some time after it was added."""
    there = own()
    while not all(there[str(one)] for one in addresses):
        time.sleep(0.01)
        there = own()
    return there


@contextlib.contextmanager
def owned_throughout(*kept: Address) -> Iterator[None]:
    """The addresses are the node's own at every moment of the block."""
    there = until_own(*kept)
    with netlink.open_socket(0, groups=ROUTE_GROUPS) as line:
        yield
        while True:
            try:
                data = line.recv(65536)
            except BlockingIOError:
                break
            for message in messages(data):
                _, length, _, _, table, _, _, sort = struct.unpack_from("=8B", data, message.start)
                packed = attributes(data, message.start + 12, message.end).get(DESTINATION, b"")
                if (table, sort, length) != (LOCAL_TABLE, LOCAL, len(packed) * 8):
                    continue
                address = str(ip_address(packed))
                there[address] += 1 if message.kind == NEW_ROUTE else -1
                assert there[address] > 0 or ip_address(address) not in kept, address


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
    with owned_throughout(V4, V6):
        corrected(V4, V6)
    assert shown() == OURS
    assert plain() == frozenset()


def test_a_wide_ipv4_address_on_lo_becomes_a_single_host_and_its_network_is_no_longer_local() -> None:
    run("ip", "addr", "add", "192.0.2.1/24", "dev", "lo")
    run("ip", "addr", "add", "192.0.2.1/31", "dev", "lo", "scope", "link")
    assert plain() == {V4}
    corrected(V4)
    assert shown() == {"192.0.2.1/32": OURS["192.0.2.1/32"]}
    assert "local 192.0.2.0/24" not in run("ip", "route", "show", "table", "local")


@pytest.fixture(params=["0", "1"])
def promoted(request: pytest.FixtureRequest) -> str:
    """Whether the kernel keeps the other addresses of a network when the first of them goes."""
    value: str = request.param
    for name in ("all", "lo"):
        run("sysctl", "-qw", f"net.ipv4.conf.{name}.promote_secondaries={'0' if name == 'all' else value}")
    return value


WIDE = ["192.0.2.1/24", "192.0.2.2/24", "192.0.2.3/24"]


def locals_of(interface: str = "lo") -> list[str]:
    """All IPv4 addresses with their prefix lengths."""
    (link,) = json.loads(run("ip", "-4", "-j", "addr", "show", "dev", interface))
    return sorted(f"{one['local']}/{one['prefixlen']}" for one in link["addr_info"])


def put(*words: str, interface: str = "lo") -> None:
    for each in words:
        run("ip", "addr", "add", *each.split(), "dev", interface)


def test_the_other_addresses_of_its_network_stay_and_so_does_what_the_kernel_does_with_them(
    promoted: str,
) -> None:
    put(*WIDE)
    corrected(V4)
    assert locals_of() == ["127.0.0.1/8", "192.0.2.1/32", "192.0.2.2/24", "192.0.2.3/24"]
    assert run("sysctl", "-n", "net.ipv4.conf.lo.promote_secondaries").strip() == promoted


def test_vips_that_share_a_network_are_the_nodes_own_all_the_time(promoted: str) -> None:
    del promoted
    put(*WIDE)
    with owned_throughout(V4, OTHER4):
        corrected(V4, OTHER4)
    assert locals_of() == ["127.0.0.1/8", "192.0.2.1/32", "192.0.2.2/32", "192.0.2.3/24"]


def test_one_that_is_removed_takes_no_other_along(promoted: str) -> None:
    put(*WIDE)
    assert asyncio.run(addresses.remove("lo", [V4])) == {}
    assert locals_of() == ["127.0.0.1/8", "192.0.2.2/24", "192.0.2.3/24"]
    assert run("sysctl", "-n", "net.ipv4.conf.lo.promote_secondaries").strip() == promoted


def test_where_the_others_cannot_be_kept_it_stays_and_the_setting_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def read_only(name: str, value: str) -> None:
        raise OSError(errno.EROFS, f"{name}={value}")

    put("192.0.2.1/24", "192.0.2.2/24")
    monkeypatch.setattr(sysctl, "write", read_only)
    (failure,) = played(CorrectAddress(address=V4))
    assert "sysctl -w net.ipv4.conf.lo.promote_secondaries=1" in failure.text
    assert locals_of() == ["127.0.0.1/8", "192.0.2.1/24", "192.0.2.1/32", "192.0.2.2/24"]
    (failure,) = played(RemoveAddress(address=V4))
    assert "sysctl -w net.ipv4.conf.lo.promote_secondaries=1" in failure.text


@pytest.mark.parametrize("neighbour", ["192.0.2.0/31", "192.0.2.1/31", "192.0.2.0/30"])
def test_a_neighbour_with_a_narrow_network_hinders_nothing_and_stays(neighbour: str) -> None:
    """The kernel refuses two scopes in one network."""
    put(neighbour, "192.0.2.1/32")
    with owned_throughout(V4, ip_address(neighbour.partition("/")[0])):
        corrected(V4)
    assert locals_of() == sorted({"127.0.0.1/8", neighbour, "192.0.2.1/32"} - {"192.0.2.1/31"})
    assert shown()["192.0.2.1/32"] == OURS["192.0.2.1/32"]
    assert plain() == frozenset()


@pytest.mark.parametrize(
    "by_hand",
    [
        ["192.0.2.1 peer 192.0.2.9/32", "2001:db8::1 peer 2001:db8::9/128"],
        ["192.0.2.1 peer 192.0.2.9/24", "2001:db8::1 peer 2001:db8::9/64"],
        ["192.0.2.1 peer 192.0.2.9/32 scope host", "2001:db8::1/128"],
        ["192.0.2.1/32", "192.0.2.1 peer 192.0.2.9/32", "192.0.2.1 peer 192.0.2.9/31"],
        ["192.0.2.1/24 scope host"],
    ],
)
def test_on_lo_it_is_a_single_host_without_a_peer(by_hand: list[str]) -> None:
    put(*by_hand)
    assert V4 in plain()
    with owned_throughout(V4, *plain()):
        corrected(*plain())
    assert locals_of() == ["127.0.0.1/8", "192.0.2.1/32"]
    assert "peer" not in run("ip", "-4", "addr", "show", "dev", "lo")
    assert shown()["192.0.2.1/32"] == OURS["192.0.2.1/32"]
    assert plain() == frozenset()


def test_a_peer_on_a_link_is_the_operators_network_and_stays() -> None:
    uplink()
    put("192.0.2.1 peer 192.0.2.9/32", interface="up0")
    assert plain("up0") == frozenset()


def test_one_that_is_the_peer_of_another_address_is_refused_with_the_reason_and_nothing_changes() -> None:
    put("10.0.0.1 peer 192.0.2.1/32")
    (failure,) = played(AddAddress(address=V4))
    assert "another address of lo has it as its peer" in failure.text
    assert locals_of() == ["10.0.0.1/32", "127.0.0.1/8"]
    put("192.0.2.1/32")
    (failure,) = played(CorrectAddress(address=V4))
    assert "another address of lo has it as its peer" in failure.text
    assert locals_of() == ["10.0.0.1/32", "127.0.0.1/8", "192.0.2.1/32"]


@pytest.mark.parametrize("cut", range(5))
def test_cut_off_anywhere_the_node_has_the_address_and_the_next_correction_ends_it(
    monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    write, left = netlink.Netlink.write, iter(range(cut))

    async def some(self: netlink.Netlink, framed: netlink.Framed, count: int = 1) -> dict[int, int]:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return await write(self, framed, count)

    put("192.0.2.1/32", "192.0.2.1/24")
    with monkeypatch.context() as patched:
        patched.setattr(netlink.Netlink, "write", some)
        try:
            corrected(V4)
        except KeyboardInterrupt:
            assert V4 in plain()
    assert V4 in asyncio.run(addresses.read("lo")).addresses
    corrected(V4)
    assert locals_of() == ["127.0.0.1/8", "192.0.2.1/32"]
    assert plain() == frozenset()


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
    until_own(V6, ip_address("2001:db8:eeee::1"))
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


def entries() -> dict[tuple[str, str, int], str]:
    """The scope of each IPv4 address of lo, by address, peer and prefix length."""
    (link,) = json.loads(run("ip", "-4", "-j", "addr", "show", "dev", "lo"))
    return {
        (one["local"], one.get("address", ""), one["prefixlen"]): one["scope"] for one in link["addr_info"]
    }


def of(found: dict[tuple[str, str, int], str], address: str) -> dict[tuple[str, str, int], str]:
    return {each: scope for each, scope in found.items() if each[0] == address}


POOL = st.sampled_from([str(V4 + number) for number in range(-1, 3)])
PUT = st.tuples(
    POOL, st.none() | POOL, st.sampled_from([24, 30, 31, 32]), st.sampled_from(["global", "host"])
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(put=st.lists(PUT, min_size=1, max_size=7), promoted=st.sampled_from("01"))
def test_whatever_is_there_the_others_stay_and_no_vip_is_absent(
    put: list[tuple[str, str | None, int, str]], promoted: str
) -> None:
    run("ip", "addr", "flush", "dev", "lo")
    run("sysctl", "-qw", "net.ipv4.conf.all.promote_secondaries=0")
    run("sysctl", "-qw", f"net.ipv4.conf.lo.promote_secondaries={promoted}")
    for address, peer, prefix, scope in put:
        named = [f"{address}/{prefix}"] if peer is None else [address, "peer", f"{peer}/{prefix}"]
        with contextlib.suppress(AssertionError):  # the kernel does not take every two together
            run("ip", "addr", "add", *named, "scope", scope, "dev", "lo")
    vips = {V4, OTHER4}
    before = entries()
    # Of addresses that are one another's peers the kernel may list one that it does not take for the node's own.
    mine = own()
    there = {one for one in vips if mine[str(one)]}
    others = {each for each in before if ip_address(each[0]) not in vips}
    right = {one for one in map(str, vips) if of(before, one) == {(one, "", 32): "host"}}
    with owned_throughout(*there):
        failed = asyncio.run(addresses.correct("lo", sorted(vips, key=int)))
    now = entries()
    assert {each for each in now if ip_address(each[0]) not in vips} == others
    taken = {peer for _, peer, prefix in now if prefix == 32}  # of a VIP that was refused itself too
    assert {str(one) for one in failed} == taken & set(map(str, vips)) - right
    for vip in map(str, vips - failed.keys()):
        assert of(now, vip) == {(vip, "", 32): "host"}
    assert run("sysctl", "-n", "net.ipv4.conf.lo.promote_secondaries").strip() == promoted
