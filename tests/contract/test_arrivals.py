"""Packets that come in for what the node itself serves, counted by a packet socket of the real kernel."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from anycast.core.values.configuration import Address
from anycast.kernel.arrivals import Arrivals
from tests.contract.namespaces import entered, made_namespace, run

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a network namespace")

VIP, OTHER, VIP6 = ip_address("192.0.2.53"), ip_address("192.0.2.54"), ip_address("2001:db8:99::53")


@dataclass(frozen=True)
class Place:
    node: int  # namespaces
    client: int


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with made_namespace() as node, made_namespace() as client:
        with entered(node):
            there = f"/proc/{os.getpid()}/fd/{client}"
            run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "down0", "netns", there)
            run("ip", "addr", "add", "10.255.0.1/24", "dev", "up0")
            run("ip", "-6", "addr", "add", "fd00:255::1/64", "dev", "up0", "nodad")
            run("ip", "link", "set", "up0", "up")
            for address in (VIP, OTHER, VIP6):
                run("ip", "addr", "add", str(address), "dev", "lo")
        with entered(client):
            run("ip", "addr", "add", "10.255.0.2/24", "dev", "down0")
            run("ip", "-6", "addr", "add", "fd00:255::2/64", "dev", "down0", "nodad")
            run("ip", "link", "set", "down0", "up")
            run("ip", "route", "add", "192.0.2.0/24", "via", "10.255.0.1")
            run("ip", "-6", "route", "add", "2001:db8:99::/64", "via", "fd00:255::1")
        yield Place(node, client)


def send(namespace: int, address: Address, number: int) -> None:
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    with entered(namespace), socket.socket(family, socket.SOCK_DGRAM) as sock:
        for _ in range(number):
            sock.sendto(b"?" * 100, (str(address), 53))


def test_what_comes_in_for_each_set_is_counted_and_nothing_else_is(place: Place) -> None:
    wanted = {"dns": (VIP, VIP6), "": (VIP, OTHER, VIP6)}
    counts = Arrivals()
    with entered(place.node):
        assert counts.read(wanted) == {"dns": 0, "": 0}
    send(place.client, VIP, 500)  # far more than the sockets hold
    send(place.client, VIP6, 300)
    send(place.client, OTHER, 7)
    send(place.node, VIP, 11)  # the node's own checks come over lo
    with entered(place.client):
        run("ping", "-c", "3", "-i", "0.01", str(VIP))
        run("ping", "-c", "3", "-i", "0.01", str(VIP6))
    try:
        with entered(place.node):
            assert counts.read(wanted) == {"dns": 800, "": 807}
            assert counts.read(wanted) == {"dns": 800, "": 807}
            assert counts.read({"dns": (VIP, VIP6)}) == {"dns": 800}
            assert counts.read({"dns": (VIP,)}) == {"dns": 0}, "of another set the count begins anew"
    finally:
        counts.close()


def test_a_connection_is_counted_by_its_packets(place: Place) -> None:
    counts = Arrivals()
    with entered(place.node):
        assert counts.read({"": (VIP,)}) == {"": 0}
    with entered(place.client), socket.socket() as sock:
        assert sock.connect_ex((str(VIP), 53)), "nobody listens"
    with entered(place.node):
        assert counts.read({"": (VIP,)}) == {"": 1}
    counts.close()


@pytest.mark.parametrize("version", [4, 6])
def test_thousands_of_addresses_are_counted_together(place: Place, version: int) -> None:
    """More than one program has room for; of far more nothing is counted, for every packet is compared with all."""
    many: list[Address] = (
        [IPv4Address(f"203.0.{n // 250}.{n % 250}") for n in range(3000)]
        if version == 4
        else [IPv6Address(f"2001:db8:77::{n:x}") for n in range(900)]
    )
    last = VIP if version == 4 else VIP6
    counts = Arrivals()
    with entered(place.node):
        assert counts.read({"": (*many, last)}) == {"": 0}
    send(place.client, last, 5)
    with entered(place.node):
        assert counts.read({"": (*many, last)}) == {"": 5}
        assert counts.read({"": (*many, *many, last)}) == {}
    counts.close()


def test_without_the_right_to_it_nothing_is_counted_and_nothing_is_broken(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> socket.socket:
        raise PermissionError(1, "Operation not permitted")

    counts = Arrivals()
    with entered(place.node):
        monkeypatch.setattr(socket, "socket", refused)
        assert counts.read({"": (VIP,)}) == {}
        monkeypatch.undo()
        assert counts.read({"": (VIP,)}) == {"": 0}
    counts.close()
