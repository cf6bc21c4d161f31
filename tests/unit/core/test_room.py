"""A real server is drained only while the others have the room for its connections."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from anycast.core.dataplane.ipvs import Connections, Destination
from anycast.core.values.configuration import Pool
from anycast.core.vip.room import too_full
from tests.fakes import Node, up, vip
from tests.property.worlds import CHECK, busied, server


def with_limits(*uppers: int, connections: tuple[int, ...], ports: tuple[int, ...] = (80,)) -> Node:
    """Real servers with these limits; each has so many connections, half of them established."""
    servers = tuple(replace(server(number), upper=upper) for number, upper in enumerate(uppers, 1))
    node = up(vip(ports=ports, pool=Pool(name="web", servers=servers, check=CHECK)))
    places = [ip_address(f"10.9.2.{number}") for number in range(1, len(uppers) + 1)]

    def held(one: Destination, _: Connections) -> Connections:
        whole = connections[places.index(one.address)]
        return Connections(active=whole // 2, inactive=whole - whole // 2)

    node.kernel = busied(node.kernel, held)
    node.kernel_changed()
    return node


def test_two_of_three_at_their_limits_have_no_room_for_the_third() -> None:
    node = with_limits(400, 400, 400, connections=(300, 300, 350))
    assert too_full(node.state, "web/rs3") == (
        "web tcp 192.0.2.1:80 has 950 connections, and its other 2 real servers take 800 (upper_threshold)",
    )


def test_the_room_of_all_others_counts() -> None:
    node = with_limits(400, 600, 400, connections=(400, 200, 400))
    assert too_full(node.state, "web/rs3") == ()


def test_the_last_but_one_is_told_apart() -> None:
    node = with_limits(400, 400, connections=(300, 101))
    assert too_full(node.state, "web/rs2") == (
        "web tcp 192.0.2.1:80 has 401 connections, and its other real server takes 400 (upper_threshold)",
    )


@pytest.mark.parametrize("uppers", [(0, 1, 1), (0, 0, 0)])
def test_a_real_server_without_a_limit_takes_all(uppers: tuple[int, ...]) -> None:
    node = with_limits(*uppers, connections=(300, 300, 300))
    assert too_full(node.state, "web/rs3") == ()


def test_one_that_is_drained_already_has_no_room_and_leaves_none() -> None:
    node = with_limits(400, 400, 400, connections=(300, 300, 100))
    node.maintain("web/rs2")
    assert too_full(node.state, "web/rs2") == ()
    assert too_full(node.state, "web/rs3") == ()
    node = with_limits(400, 400, 400, connections=(350, 0, 100))
    node.maintain("web/rs2")
    assert len(too_full(node.state, "web/rs3")) == 1


def test_each_service_has_its_own_connections() -> None:
    node = with_limits(400, 400, connections=(300, 300), ports=(80, 443))
    assert len(too_full(node.state, "web/rs1")) == 2
    assert too_full(node.state, "mail/rs1") == ()
