"""A large reload is worked off in parts; each part is a configuration."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

from hypothesis import given
from hypothesis import strategies as st

from anycast.core.reload import in_slices
from anycast.core.values.configuration import Announce, Config, Vip
from tests.fakes import Node, addresses, up, vip
from tests.property.worlds import CONFIGS, config


def many(*numbers: int) -> Config:
    return config(*(vip(f"v{number}", number=number) for number in numbers))


def names(found: Config) -> list[str]:
    return [one.name for one in found.vips]


def test_what_is_small_is_one_part() -> None:
    old, new = many(1), many(1, 2)
    assert in_slices(old, new, 1000) == [new]


def test_what_goes_and_what_changes_come_before_what_is_new() -> None:
    old = many(1, 2, 3)
    (first, second, _) = old.vips
    new = config(first, vip("v2", number=2, servers=(1, 2)), vip("v8", number=8), vip("v9", number=9))
    parts = in_slices(old, new, 1)
    assert [names(part) for part in parts] == [
        ["v1", "v2", "v3"],
        ["v1", "v2"],
        ["v1", "v2", "v8"],
        ["v1", "v2", "v8", "v9"],
    ]
    assert parts[-1] == new
    assert all(part.vips[0] is first for part in parts)
    assert second not in parts[0].vips


def test_vips_between_which_an_address_moves_change_together() -> None:
    old = config(vip("web", number=1), vip("log", number=2), vip("old", number=3))
    new = config(vip("web", number=2), vip("log", number=1), vip("new", number=4))
    first, *others = in_slices(old, new, 1)
    assert {one.name: one.addresses for one in first.vips} == {
        "web": addresses(2)[:1],
        "log": addresses(1)[:1],
        "old": addresses(3)[:1],
    }
    assert len(others) == 2


@given(old=st.sampled_from(CONFIGS), new=st.sampled_from(CONFIGS), most=st.integers(1, 20))
def test_no_part_has_an_address_twice_and_the_last_is_what_was_asked_for(
    old: Config, new: Config, most: int
) -> None:
    parts = in_slices(old, new, most)
    assert parts[-1] == new
    for part in parts:
        held = [address for one in part.vips for address in one.addresses]
        assert len(held) == len(set(held))
        marks = [
            (s.mark, a.version)
            for one in part.vips
            for s in one.services
            if s.mark
            for a in one.addresses[:1]
        ]
        assert len(marks) == len(set(marks))


def test_what_stays_is_not_moved_by_a_reload_in_parts() -> None:
    node = up(vip("web", number=1), vip("log", number=2))
    kept: list[int] = []
    old = node.state.config
    new = config(old.vips[0], *(vip(f"v{number}", number=number) for number in range(3, 20)))
    for part in in_slices(old, new, 5):
        node.reload(*part.vips)
        kept.append(len([one for one in node.routes if one.network_address == addresses(1)[0]]))
    assert set(kept) == {1}
    assert isinstance(node, Node)


def test_vips_between_which_a_prefix_moves_are_changed_together_and_others_of_it_are_not() -> None:
    def wide(number: int, prefix: str) -> Vip:
        return replace(vip(f"v{number}", number=number), announce=(Announce(prefix=ip_network(prefix)),))

    one, two, three = "192.0.2.0/28", "192.0.2.16/28", "192.0.2.32/28"
    old = config(wide(1, one), wide(17, two), wide(18, two), wide(33, three))
    # The first goes from v1 to v2. Of the second one VIP is left out, and of the third the VIP is another object.
    new = config(wide(2, one), old.vips[1], wide(33, three))
    first, *others = in_slices(old, new, 1)
    assert {"v2", "v17", "v18", "v33"} == set(names(first))
    assert len(others) == 2
