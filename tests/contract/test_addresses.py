"""VIP addresses in a real kernel, and what it tells when somebody changes them."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from anycast.core.dataplane.kernel import AddAddress, RemoveAddress
from anycast.core.values.configuration import Address
from anycast.kernel import interface_watch, netlink
from anycast.kernel.errors import KernelUnavailable
from tests.contract.namespaces import closing_kernel, network_namespace, run
from tests.contract.tables import played, snapshot

pytestmark = pytest.mark.lab

V4, V6 = ip_address("192.0.2.1"), ip_address("2001:db8::1")
OURS = frozenset({V4, V6})


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    with network_namespace():
        yield


def read(interface: str = "lo") -> frozenset[Address]:
    return snapshot(interface).addresses


def add_both() -> None:
    assert played(*(AddAddress(address=address) for address in (V4, V6))) == ()


def shown(interface: str = "lo") -> dict[str, dict[str, object]]:
    (link,) = json.loads(run("ip", "-j", "addr", "show", "dev", interface))
    return {f"{one['local']}/{one['prefixlen']}": one for one in link["addr_info"]}


def test_addresses_are_added_as_single_hosts_and_read_back() -> None:
    add_both()
    assert {"192.0.2.1/32", "2001:db8::1/128"} < set(shown())
    assert read() >= OURS


def test_an_ipv6_vip_is_usable_at_once_and_deprecated() -> None:
    add_both()
    six = shown()["2001:db8::1/128"]
    assert (six["nodad"], six["deprecated"], six["preferred_life_time"]) == (True, True, 0)
    assert "tentative" not in six


def test_no_traffic_of_the_nodes_own_leaves_with_a_vip() -> None:
    run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "router0")
    for name in ("up0", "router0"):
        run("ip", "link", "set", name, "up")
    run("ip", "addr", "add", "fd00::1/64", "dev", "up0", "nodad")
    run(
        "ip", "route", "add", "default", "dev", "up0"
    )  # unnumbered: lo is where the kernel looks for a source
    run("ip", "-6", "route", "add", "default", "via", "fd00::fe")
    add_both()
    for target, vip in (("198.51.100.1", "192.0.2.1"), ("2001:db8:ffff::1", "2001:db8::1")):
        assert f"src {vip}" not in run("ip", "route", "get", target)


def test_a_vip_that_is_there_already_is_no_failure() -> None:
    add_both()
    add_both()


def test_a_vip_with_another_prefix_length_counts_as_there_and_is_removed_as_it_is() -> None:
    run("ip", "addr", "add", "192.0.2.1/24", "dev", "lo")
    run("ip", "addr", "add", "2001:db8::1/64", "dev", "lo", "nodad")
    assert read() >= OURS
    assert played(RemoveAddress(address=V4), RemoveAddress(address=V6)) == ()
    assert not read() & OURS


def test_removed_addresses_are_gone_and_others_stay() -> None:
    before = read()
    add_both()
    assert played(RemoveAddress(address=V4), RemoveAddress(address=V6)) == ()
    assert read() == before


def test_removing_what_is_not_there_is_no_failure() -> None:
    assert played(RemoveAddress(address=V4), RemoveAddress(address=V6)) == ()


def test_addresses_of_other_interfaces_do_not_count() -> None:
    run("ip", "link", "add", "vip0", "type", "dummy")
    run("ip", "link", "set", "vip0", "up")
    add_both()
    assert not read("vip0") & OURS
    assert played(AddAddress(address=V4), interface="vip0") == ()
    assert "192.0.2.1/32" in shown("vip0")


def test_a_missing_interface_is_named_by_reading_and_by_writing() -> None:
    with pytest.raises(KernelUnavailable, match=r"interface vip0 does not exist: create it"):
        read("vip0")
    (failure,) = played(AddAddress(address=V4), interface="vip0")
    assert failure.text.startswith("add address 192.0.2.1 to vip0: interface vip0 does not exist")


@pytest.mark.parametrize("interface", ["lo", "vip0"])
def test_an_interface_that_is_down_is_unavailable_with_the_command_to_bring_it_up(interface: str) -> None:
    run("ip", "link", "add", "vip0", "type", "dummy")
    run("ip", "link", "set", "vip0", "up")
    run("ip", "link", "set", interface, "down")
    with pytest.raises(KernelUnavailable, match=f"run `ip link set {interface} up`"):
        read("vip0")


def test_ipv6_that_is_switched_off_is_told_with_the_command_to_switch_it_on() -> None:
    run("sysctl", "-qw", "net.ipv6.conf.lo.disable_ipv6=1")
    (failure,) = played(AddAddress(address=V6))
    assert "sysctl -w net.ipv6.conf.lo.disable_ipv6=0" in failure.text


async def next_of(heard: asyncio.Event) -> None:
    async with asyncio.timeout(30):
        await heard.wait()
    heard.clear()


@pytest.mark.parametrize(
    "by_hand",
    [
        "ip addr del 192.0.2.1/32 dev lo",
        "ip addr del 2001:db8::1/128 dev lo",
        "ip addr add 192.0.2.9/32 dev lo",
        "ip link set lo down",
    ],
)
def test_a_change_by_hand_is_noticed(by_hand: str) -> None:
    async def story() -> None:
        heard = asyncio.Event()
        async with closing_kernel() as kernel:
            watching = asyncio.create_task(kernel.watch(lambda _: heard.set()))
            await next_of(heard)  # it listens
            run(*by_hand.split())
            await next_of(heard)
            watching.cancel()

    add_both()
    asyncio.run(story())


def test_an_interface_made_anew_is_noticed() -> None:
    async def story() -> None:
        heard = asyncio.Event()
        async with closing_kernel("vip0") as kernel:
            watching = asyncio.create_task(kernel.watch(lambda _: heard.set()))
            await next_of(heard)
            for step in ("add vip0 type dummy", "set vip0 up", "del vip0", "add vip0 type dummy"):
                run("ip", "link", *step.split())
                await next_of(heard)
            watching.cancel()

    asyncio.run(story())


def test_more_changes_than_the_socket_holds_are_a_change_and_the_next_is_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listening = asyncio.Event()

    def small(protocol: int, *, groups: int) -> socket.socket:
        line = open_socket(protocol, groups=groups)
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the kernel makes it its least
        listening.set()
        return line

    async def story() -> None:
        heard = asyncio.Event()
        async with closing_kernel() as kernel:
            watching = asyncio.create_task(kernel.watch(lambda _: heard.set()))
            await next_of(listening)
            await next_of(heard)
            flood = "".join(f"addr add 10.7.0.{number}/32 dev lo\n" for number in range(1, 200))
            run("ip", "-batch", "-", stdin=flood)
            await next_of(listening)  # again, on a new socket
            await next_of(heard)
            run("ip", "addr", "add", "192.0.2.9/32", "dev", "lo")
            await next_of(heard)
            watching.cancel()

    open_socket = netlink.open_socket
    monkeypatch.setattr(interface_watch, "open_socket", small)
    asyncio.run(story())
