"""A real server is drained only while the others have the room for its connections."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from anycast.core.dataplane.ipvs import COUNTED, COUNTERS, Connections, Destination, Key
from anycast.core.dataplane.traffic import WINDOW
from anycast.core.fleet.values import Capacity
from anycast.core.state import Reading, State
from anycast.core.values.configuration import Pool, Quorum
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


def carrying(*new: float, capacity: Capacity, weights: tuple[int, ...] = ()) -> State:
    """Each real server gets so many connections a second, with ten packets of 600 bytes each."""
    many = weights or (1,) * len(new)
    servers = tuple(server(number, weight) for number, weight in enumerate(many, 1))
    pool = Pool(name="web", servers=servers, check=CHECK)
    return counted(up(vip(pool=pool, server_capacity=capacity, quorum=Quorum())).state, *new)


def counted(state: State, *new: float) -> State:
    """As two readings have it that are five seconds apart."""
    traffic: list[dict[Key, bytes]] = [{}, {}]
    assert state.kernel.snapshot is not None
    table = state.kernel.snapshot.table
    for key in table:
        for number, seconds in enumerate((100, 105)):
            each = [[round(seconds * one * factor) for factor in (1, 10, 0, 6000, 0)] for one in new]
            traffic[number][key] = b"".join(COUNTED.pack(*row) for row in ([0] * COUNTERS, *each))
    readings = tuple(Reading(10.0 + 5 * n, table, one) for n, one in enumerate(traffic))
    return replace(state, kernel=replace(state.kernel, readings=readings))


TEN = Capacity(new_connections=100, limit=0.8)


def test_what_a_server_carries_comes_to_the_others_by_their_weights() -> None:
    state = carrying(30, 40, 60, capacity=TEN)
    assert too_full(state, "web/rs1") == ()
    # 40 and half of 60 are 70; the other gets as much, and had 30.
    assert too_full(state, "web/rs3") == ()
    state = carrying(30, 60, 60, capacity=TEN)
    assert too_full(state, "web/rs3") == (
        "web/rs2 would stand at 90% of 100 new connections/s, limit 80%, as a server of web tcp/80",
    )


def test_a_server_with_more_weight_gets_more_of_it() -> None:
    state = carrying(30, 30, 60, capacity=TEN, weights=(3, 1, 1))
    assert too_full(state, "web/rs3") == ()
    state = carrying(40, 30, 60, capacity=TEN, weights=(3, 1, 1))
    assert too_full(state, "web/rs3") == (
        "web/rs1 would stand at 85% of 100 new connections/s, limit 80%, as a server of web tcp/80",
    )


def test_connections_that_there_are_count_too() -> None:
    pool = Pool(name="web", servers=(server(1), server(2), server(3)), check=CHECK)
    node = up(vip(pool=pool, server_capacity=Capacity(connections=1000, limit=0.5)))
    node.kernel = busied(node.kernel, lambda _, __: Connections(active=100, inactive=250))
    node.wait(10.0)
    assert too_full(node.state, "web/rs1") == (
        "web/rs2 would stand at 52% of 1k connections, limit 50%, as a server of web tcp/80",
    )


def test_what_is_not_measured_yet_is_not_taken_for_nothing() -> None:
    node = up(vip(server_capacity=TEN))
    assert too_full(node.state, "web/rs1") == (
        "what the real servers of web tcp 192.0.2.1:80 carry is not known yet (server_capacity)",
    )
    node.wait(20.0)
    assert too_full(node.state, "web/rs1") == ()


def test_counters_that_have_begun_anew_are_no_negative_load() -> None:
    state = carrying(30, 60, 60, capacity=TEN)
    first, last = state.kernel.readings
    back = replace(
        state, kernel=replace(state.kernel, readings=(replace(last, at=1.0), replace(first, at=6.0)))
    )
    assert len(too_full(back, "web/rs3")) == 1


def test_the_last_real_server_has_nobody_whom_it_could_push() -> None:
    assert too_full(carrying(90, 0, capacity=TEN, weights=(1, 0)), "web/rs1") == ()


def test_readings_are_kept_for_as_long_as_a_rate_needs_them() -> None:
    node = up()
    node.wait(200.0)
    readings = node.state.kernel.readings
    assert 2 <= len(readings) <= 4
    assert readings[-1].at - readings[0].at >= WINDOW
