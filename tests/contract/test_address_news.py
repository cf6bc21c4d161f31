"""The addresses of an interface by what the kernel announces, as after a program that wrote some of them."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from ipaddress import ip_address

import pytest

from anycast.core.values.configuration import Address
from anycast.kernel import addresses, netlink
from anycast.kernel.addresses import Held
from tests.contract.namespaces import network_namespace, run

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")

LINK = (
    "ip link add vip0 type veth peer name vip1",
    "ip link set vip0 addrgenmode none",
    "ip link set vip0 up",
    "ip link set vip1 up",
)
V4, OTHER4, V6 = ip_address("192.0.2.1"), ip_address("192.0.2.2"), ip_address("2001:db8::1")


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    with network_namespace():
        for command in LINK:
            run(*command.split())
        while json.loads(run("ip", "-j", "link", "show", "vip0"))[0]["operstate"] != "UP":
            time.sleep(0.01)  # which the kernel announces too
        yield


def told(
    act: Callable[[], Awaitable[object]],
    *,
    before: frozenset[Address] = frozenset(),
    plain: frozenset[Address] = frozenset(),
) -> addresses.Held | None:
    """What is known after `act`, during which V4 and V6 may have been removed by us."""

    async def story() -> addresses.Held | None:
        news = addresses.News("vip0")
        try:
            news.begin()
            await act()
            return await news.after(Held(before, plain), frozenset({V4, V6}))
        finally:
            news.close()

    return asyncio.run(story())


async def by_hand(*words: str) -> None:
    run("ip", "addr", *words)


def test_without_announcements_it_is_what_was_known() -> None:
    async def nothing() -> None:
        pass

    held = told(nothing, before=frozenset({V4}), plain=frozenset({V4}))
    assert held == Held(frozenset({V4}), frozenset({V4}))


def test_what_is_added_and_removed_by_us_is_followed() -> None:
    async def write() -> None:
        assert await addresses.add("vip0", [V4, OTHER4]) == {}
        assert await addresses.remove("vip0", [V4]) == {}

    assert told(write, before=frozenset({V6})) == Held(frozenset({V6, OTHER4}))


def test_what_somebody_else_adds_is_followed() -> None:
    held = told(lambda: by_hand("add", "192.0.2.2/32", "dev", "vip0"))
    assert held == Held(frozenset({OTHER4}), frozenset({OTHER4}))


def test_what_somebody_else_puts_right_has_to_be_read() -> None:
    """It may be there a second time, and plain as before."""
    run("ip", "addr", "add", "2001:db8::1/128", "dev", "vip0", "nodad")
    right = ("change", "2001:db8::1/128", "dev", "vip0", "preferred_lft", "0")
    assert told(lambda: by_hand(*right), before=frozenset({V6}), plain=frozenset({V6})) is None
    assert V6 not in asyncio.run(addresses.read("vip0")).plain


def test_what_somebody_else_removes_has_to_be_read() -> None:
    """It may be there with another prefix length as well."""
    run("ip", "addr", "add", "192.0.2.2/24", "dev", "vip0")
    run("ip", "addr", "add", "192.0.2.2/32", "dev", "vip0")
    assert told(lambda: by_hand("del", "192.0.2.2/24", "dev", "vip0"), before=frozenset({OTHER4})) is None
    assert OTHER4 in asyncio.run(addresses.read("vip0")).addresses


def test_other_interfaces_do_not_count() -> None:
    held = told(lambda: by_hand("add", "192.0.2.2/24", "dev", "lo"), before=frozenset({V6}))
    assert held == Held(frozenset({V6}))


@pytest.mark.parametrize(
    "commands", [["ip link set vip0 down"], ["ip link del vip0", *LINK]], ids=["down", "made anew"]
)
def test_after_a_change_of_the_interface_everything_has_to_be_read(commands: list[str]) -> None:
    async def change() -> None:
        for command in commands:
            run(*command.split())

    assert told(change) is None


def test_after_announcements_were_lost_everything_has_to_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netlink, "_RECEIVE_BUFFER", 1)
    monkeypatch.setattr(netlink, "_SO_RCVBUFFORCE", 8)  # SO_RCVBUF

    async def many() -> None:
        lines = "".join(f"addr add {OTHER4 + number} dev vip0\n" for number in range(200))
        run("ip", "-batch", "-", stdin=lines)

    assert told(many) is None


def test_before_it_has_begun_it_tells_nothing() -> None:
    async def story() -> Held | None:
        return await addresses.News("vip0").after(Held(frozenset()), frozenset())

    assert asyncio.run(story()) is None


def test_an_ipv6_address_can_be_asked_for_as_soon_as_it_was_added() -> None:
    """It is announced later."""

    async def story() -> Held:
        assert await addresses.add("vip0", [V6]) == {}
        return await addresses.usable_of("vip0", [V6, V6 + 1])

    assert asyncio.run(story()) == Held(frozenset({V6}))


def test_thousands_are_written_and_read_and_each_that_is_refused_is_named() -> None:
    many = [OTHER4 + number for number in range(1000)] + [V6 + number for number in range(300)]
    refused = ip_address("ff02::1")  # multicast

    async def story() -> None:
        assert list(await addresses.add("vip0", [*many[:100], refused, *many[100:]])) == [refused]
        assert await addresses.add("vip0", many[:3]) == {}
        found, plain = await addresses.read("vip0", alike=many)
        assert not plain & frozenset(many)
        assert found >= frozenset(many)
        assert {id(one) for one in found} >= set(map(id, many))
        assert await addresses.remove("vip0", [*many, refused]) == {}
        assert not (await addresses.read("vip0")).addresses & frozenset(many)

    asyncio.run(story())


def test_an_address_is_removed_with_every_prefix_length() -> None:
    for prefix in (24, 28, 32):
        run("ip", "addr", "add", f"{V4}/{prefix}", "dev", "vip0")
    run("ip", "addr", "add", f"{V6}/64", "dev", "vip0", "nodad")
    assert asyncio.run(addresses.remove("vip0", [V4, V6, OTHER4])) == {}
    assert not asyncio.run(addresses.read("vip0")).addresses & {V4, V6}
