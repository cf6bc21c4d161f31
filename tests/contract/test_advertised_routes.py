"""The IPv6 default route that the kernel has from a router's advertisements, and forwarding, which would delete it."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import os
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from anycast.core.dataplane.kernel import SetSysctl
from anycast.kernel import advertised, sysctl
from anycast.kernel.adapter import Kernel
from anycast.kernel.advertised import Default
from tests.contract.namespaces import network_namespace, run

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")

FORWARD = SetSysctl(name=advertised.FORWARDING, value="1")
NEW_ROUTE, DEL_ROUTE, ROUTES = 24, 25, 0x400


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    with network_namespace():
        run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "router0")
        run("sysctl", "-qw", "net.ipv6.conf.up0.router_solicitations=0")
        for name in ("router0", "up0"):
            run("sysctl", "-qw", f"net.ipv6.conf.{name}.dad_transmits=0")
            run("ip", "link", "set", name, "up")
        yield


def routes() -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(run("ip", "-6", "-j", "route", "show", "default"))
    return found


def advertise() -> None:
    """The router says for how long it is one, and its prefix; until the kernel has taken it."""
    prefix = ipaddress.ip_address("2001:db8:1::").packed
    body = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
    body += struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 86400, 14400, 0) + prefix
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as line:
        line.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        index = socket.if_nametoindex("router0")
        line.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        deadline = time.monotonic() + 30
        while not routes():
            assert time.monotonic() < deadline, "no advertisement was taken"
            with contextlib.suppress(OSError):  # it has no address yet
                line.sendto(body, ("ff02::1", 0, 0, index))
            time.sleep(0.05)


def forward() -> list[str]:
    return [failure.text for failure in asyncio.run(Kernel("lo").play([FORWARD]))]


def value(name: str) -> str | None:
    return sysctl.read([name])[name]


def test_forwarding_deletes_the_route_and_one_over_one_of_any_interface_too() -> None:
    """What the rest is for."""
    for name in ("all", "router0"):
        advertise()
        for _ in range(2 if name == "router0" else 1):
            run("sysctl", "-qw", f"net.ipv6.conf.{name}.forwarding=1")
        assert routes() == []
        run("sysctl", "-qw", f"net.ipv6.conf.{name}.forwarding=0")


def test_the_agent_forwards_and_the_route_is_never_gone() -> None:
    advertise()
    line = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    with line:
        line.bind((0, ROUTES))
        line.setblocking(False)
        assert forward() == []
        kinds = set()
        while True:
            try:
                kinds.add(struct.unpack_from("=IH", line.recv(65536))[1])
            except BlockingIOError:
                break
    assert DEL_ROUTE not in kinds
    assert len(routes()) == 1
    assert value("net.ipv6.conf.up0.accept_ra") == "2"
    assert value(advertised.FORWARDING) == "1"
    assert forward() == [], "and again"
    assert len(routes()) == 1


def test_where_the_interface_cannot_be_made_safe_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    advertise()
    write = sysctl.write

    def refusing(name: str, value: str) -> None:
        if name.endswith("accept_ra"):
            raise OSError(30, "Read-only file system")
        write(name, value)

    monkeypatch.setattr(sysctl, "write", refusing)
    (text,) = forward()
    assert "set net.ipv6.conf.up0.accept_ra=2 first (Read-only file system)" in text
    assert value(advertised.FORWARDING) == "0"
    assert len(routes()) == 1


def test_an_interface_whose_advertisements_another_program_takes_is_left_alone() -> None:
    run("sysctl", "-qw", "net.ipv6.conf.up0.accept_ra=0")
    run("ip", "-6", "route", "add", "default", "via", "fe80::1", "dev", "up0", "proto", "ra")
    assert forward() == []
    assert value("net.ipv6.conf.up0.accept_ra") == "0"
    assert len(routes()) == 1


def test_a_value_that_is_there_already_is_not_written() -> None:
    run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1", "net.ipv6.conf.up0.accept_ra=1")
    run("sysctl", "-qw", "net.ipv6.conf.up0.forwarding=0")
    advertise()
    sysctl.write(advertised.FORWARDING, "1")
    assert len(routes()) == 1
    run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
    assert routes() == []


def test_default_routes_are_told_with_all_their_interfaces() -> None:
    run("ip", "link", "add", "up1", "type", "veth", "peer", "name", "router1")
    for name in ("router1", "up1"):
        run("ip", "link", "set", name, "up")
    two = ["nexthop", "via", "fe80::1", "dev", "up0", "nexthop", "via", "fe80::2", "dev", "up1"]
    run("ip", "-6", "route", "add", "default", "metric", "50", *two)
    run("ip", "-6", "route", "add", "default", "via", "fe80::3", "dev", "up1", "metric", "60", "proto", "ra")
    run("ip", "-6", "route", "add", "2001:db8:7::/48", "dev", "up0")
    both = Default(("up0", "up1"), 50, advertised=False)
    single = Default(("up1",), 60, advertised=True)
    assert asyncio.run(advertised.defaults()) == [both, single]
    assert asyncio.run(advertised.defaults(advertised=True)) == [single]
