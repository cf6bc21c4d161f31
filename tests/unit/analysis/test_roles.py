"""Roles and attributes that do nothing, or not what was meant."""

from __future__ import annotations

import pytest

from anycast.config.load import loads
from anycast.config.problem import ConfigError


def text(vip: str, remote_as: int = 65000) -> str:
    return f"""\
bgp: {{local_as: 65001, router_id: 10.2.1.1, neighbors: [{{address: 10.2.1.254, remote_as: {remote_as}}}]}}
vips: {{web: {{address: 192.0.2.1, port: 80, servers: [10.9.2.1]{vip}}}}}
"""


def warned(vip: str, remote_as: int = 65000) -> list[str]:
    return [str(one) for one in loads(text(vip, remote_as), "f", hostname="lb1").warnings]


@pytest.mark.parametrize("remote_as", [65000, 65001])
@pytest.mark.parametrize(
    "vip", ["", ", role: primary", ", role: backup", ", role: backup, med: 7", ", med: 7"]
)
def test_what_is_usual_is_not_warned_of(vip: str, remote_as: int) -> None:
    """Which role the other nodes have is not known, so nothing is said of it."""
    assert warned(vip, remote_as) == []


@pytest.mark.parametrize(
    ("vip", "remote_as", "place", "what"),
    [
        (", local_preference: 50", 65000, "local_preference", "no router is of this node's own AS"),
        (", as_path_prepend: 2", 65001, "as_path_prepend", "would be a loop: nothing is prepended"),
        (", role: backup, local_preference: 100", 65001, "local_preference", "the higher one is preferred"),
        (", role: backup, communities: [graceful-shutdown]", 65000, "communities", "a primary that drains"),
    ],
)
def test_what_does_nothing_or_the_contrary_is_told(vip: str, remote_as: int, place: str, what: str) -> None:
    (found,) = warned(vip, remote_as)
    assert f"vips.web.{place}: " in found
    assert what in found


def test_of_many_vips_with_the_same_the_first_is_named() -> None:
    more = "".join(
        f", {name}: {{address: 192.0.2.{n}, port: 80, servers: [10.9.2.1], local_preference: 7}}"
        for n, name in enumerate("abc", 5)
    )
    whole = text("").rstrip()[:-1] + more + "}\n"
    (found,) = loads(whole, "f", hostname="lb1").warnings
    assert "vips.a.local_preference" in str(found)


def test_a_backup_without_a_longer_path_is_a_mistake_between_two_as_alone() -> None:
    with pytest.raises(ConfigError, match="a backup without a longer AS path is as good as a primary"):
        loads(text(", role: backup, as_path_prepend: 0"), "f", hostname="lb1")
    assert warned(", role: backup, as_path_prepend: 0", 65001) == []
