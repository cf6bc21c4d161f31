"""What a configuration may take away from the one before it without a word."""

from __future__ import annotations

from dataclasses import replace

import pytest

from anycast.config.load import loads
from anycast.core.removal import Census, census, removes_nothing, suspicions, too_many
from anycast.core.values.described import Percent

HALF = Percent(50)


def served(vips: int, servers: int = 4, **more: object) -> Census:
    found = Census(
        vips=frozenset(f"192.0.2.{n}" for n in range(1, vips + 1)),
        servers=frozenset(f"10.9.2.{n}" for n in range(1, servers + 1)),
    )
    return replace(found, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("gone", "before", "most", "refused"),
    [
        (0, 0, 50, False),
        (0, 4, 50, False),
        (1, 1, 50, True),  # the only one
        (1, 2, 50, False),
        (2, 2, 50, True),
        (1, 3, 1, False),  # one of several may always go
        (2, 3, 50, True),
        (2, 4, 50, False),
        (3, 4, 50, True),
        (3, 4, 75, False),
        (4, 4, 99, True),
        (4, 4, 100, False),
        (1, 1, 100, False),
    ],
)
def test_how_many_are_too_many(gone: int, before: int, most: int, *, refused: bool) -> None:
    assert too_many(gone, before, Percent(most)) is refused


def test_nothing_is_said_of_what_stays_or_comes() -> None:
    assert suspicions(served(2), served(2)) == ()
    assert suspicions(served(2), served(9, 9)) == ()
    assert suspicions(served(0, 0), served(2)) == ()
    assert suspicions(served(0, 0), served(0, 0)) == ()


def test_no_vip_left_is_told_whatever_may_be_removed() -> None:
    (said,) = suspicions(served(2, max_removed=Percent(100)), served(0, 0))
    assert said == "no VIP would be left: 2 of 2 VIP addresses (192.0.2.1, 192.0.2.2) would be removed"


def test_too_many_vips_and_servers_are_told_with_the_first_of_them_and_the_limit() -> None:
    vips, servers = suspicions(served(9, 10), served(1, 2))
    assert vips == (
        "8 of 9 VIP addresses (192.0.2.2, 192.0.2.3, 192.0.2.4, 192.0.2.5, 192.0.2.6 and 3 more) would be removed, "
        "and node.max_removed is 50%"
    )
    assert servers.startswith("8 of 10 addresses of real servers (10.9.2.10, 10.9.2.3, ")


def test_the_limit_is_that_of_the_configuration_in_force() -> None:
    before, after = served(4, max_removed=Percent(75)), served(1, max_removed=Percent(1))
    assert suspicions(before, after) == ()
    assert len(suspicions(after, replace(after, vips=frozenset({"192.0.2.99"})))) == 1


def test_a_conf_d_that_is_empty_all_at_once_may_take_nothing_along() -> None:
    before = served(9, parts=3)
    (said,) = suspicions(before, served(8, parts=0))
    assert said == "conf.d has no file any more (it had 3), and something would be removed: is it mounted?"
    assert suspicions(before, served(9, parts=0)) == ()  # it was all moved to the main file
    assert suspicions(before, served(8, parts=1)) == ()


def test_a_file_whose_last_line_has_lost_its_end_may_be_cut_off() -> None:
    (said,) = suspicions(served(2), served(2, unended=frozenset({"web.yaml"})))
    assert said.startswith("the last line of web.yaml has no end any more: it may be cut off")
    always = served(2, unended=frozenset({"web.yaml"}))
    assert suspicions(always, always) == ()  # somebody writes so


def test_a_quick_look_tells_whether_anything_goes() -> None:
    text = """
bgp: {local_as: 65001, router_id: 10.2.1.1, neighbors: [{address: 10.2.1.254, remote_as: 65000}]}
vips:
  web: {address: 192.0.2.1, port: 80, servers: [10.9.2.1, 10.9.2.2]}
  mail: {address: 192.0.2.2, port: 25, servers: [10.9.2.3]}
"""
    before = loads(text, hostname="lb1").config
    for old, new, nothing in (
        ("web:", "www:", True),  # another name
        ("10.9.2.2]", "10.9.2.2, 10.9.2.4]", True),
        ("10.9.2.1, 10.9.2.2]", "10.9.2.2]", False),
        ("192.0.2.1,", "192.0.2.9,", False),
        ("port: 80", "port: 81", True),
    ):
        changed = loads(text.replace(old, new), hostname="lb1").config
        after = replace(changed, vips=(changed.vips[0], before.vips[1]))  # the same object, as after a reload
        assert removes_nothing(before, after) is nothing, new
    assert removes_nothing(before, before)
    assert not removes_nothing(before, replace(before, vips=before.vips[:1]))


def test_what_is_counted_are_addresses_however_often_a_pool_is_used() -> None:
    config = loads(
        """
node: {max_removed: 25%}
bgp:
  local_as: 65001
  router_id: 10.2.1.1
  neighbors:
    - {address: 10.2.1.254, remote_as: 65000}
    - {address: "fd00::1", remote_as: 65000, local_address: "fd00::2"}
pools: {web: {servers: [10.9.2.1, 10.9.2.2]}}
vips:
  web:
    addresses: [192.0.2.1, 192.0.2.2]
    services: [{port: 80, pool: web}, {port: 443, pool: web}]
""",
        hostname="lb1",
    ).config
    assert census(config, parts=2, unended=["a.yaml"]) == Census(
        vips=frozenset({"192.0.2.1", "192.0.2.2"}),
        servers=frozenset({"10.9.2.1", "10.9.2.2"}),
        parts=2,
        unended=frozenset({"a.yaml"}),
        max_removed=Percent(25),
    )


FLEET = frozenset({"lb1", "lb2", "lb3", "lb4"})


@pytest.mark.parametrize(
    ("after", "told"),
    [
        (FLEET, 0),
        (FLEET - {"lb4"}, 0),
        (FLEET - {"lb3", "lb4"}, 0),  # half of them
        (frozenset({"lb1"}), 1),
        (frozenset(), 1),
    ],
)
def test_nodes_of_a_fleet_go_as_vips_do(after: frozenset[str], told: int) -> None:
    assert len(suspicions(Census(nodes=FLEET), Census(nodes=after))) == told


def test_a_file_that_names_nodes_for_the_first_time_is_nothing_strange() -> None:
    assert suspicions(Census(), Census(nodes=FLEET)) == ()


def test_the_last_nodes_never_go_without_a_word() -> None:
    anything = Percent(100)
    before = Census(nodes=FLEET, max_removed=anything)
    assert suspicions(before, Census(nodes=frozenset({"lb1"}), max_removed=anything)) == ()
    (told,) = suspicions(before, Census(max_removed=anything))
    assert "the file names no nodes any more (it had 4)" in told
