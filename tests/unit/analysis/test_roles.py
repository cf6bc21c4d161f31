"""Roles and attributes that do nothing, or not what was meant."""

from __future__ import annotations

import re

import pytest

from anycast.config.load import loads
from anycast.config.problem import ConfigError
from anycast.core.values.configuration import Export


def text(vip: str, remote_as: int = 65000) -> str:
    return f"""\
bgp: {{local_as: 65001, router_id: 10.2.1.1, neighbors: [{{address: 10.2.1.254, remote_as: {remote_as}}}]}}
vips: {{web: {{address: 192.0.2.1, port: 80, servers: [10.9.2.1]{vip}}}}}
"""


def warned(vip: str, remote_as: int = 65000) -> list[str]:
    return [str(one) for one in loads(text(vip, remote_as), "f", hostname="lb1").warnings]


@pytest.mark.parametrize("remote_as", [65000, 65001])
@pytest.mark.parametrize(
    "vip",
    [
        "",
        ", when_unhealthy: last_resort",
        ", role: primary",
        ", role: backup",
        ", role: backup, med: 7",
        ", med: 7",
    ],
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
        (
            ", when_unhealthy: last_resort, as_path_prepend: 4",
            65000,
            "as_path_prepend",
            "prefers it to this node while it is healthy (write less than 4)",
        ),
        (
            ", when_unhealthy: last_resort, check: {type: tcp, fall: 1}",
            65000,
            "when_unhealthy",
            "lose their clients one after the other (write fall: 2 or more",
        ),
        (", role: backup, communities: [graceful-shutdown]", 65000, "communities", "a primary that drains"),
    ],
)
def test_what_does_nothing_or_the_contrary_is_told(vip: str, remote_as: int, place: str, what: str) -> None:
    (found,) = warned(vip, remote_as)
    assert f"vips.web.{place}: " in found
    assert what in found


@pytest.mark.parametrize(("more", "count"), [("local: true", 1), ("servers: [10.9.2.1]", 0)])
def test_a_last_resort_of_what_the_node_itself_serves_is_told(more: str, count: int) -> None:
    vip = "web: {address: 192.0.2.1, port: 80, when_unhealthy: last_resort, MORE}".replace("MORE", more)
    told = loads(re.sub("web: .*}}", vip + "}", text("", 65000)), "f", hostname="lb1").warnings
    assert ["its own program fails the check" in str(one) for one in told] == [True] * count


@pytest.mark.parametrize(
    ("bgp", "vip", "told"),
    [
        ("", "role: backup", []),
        (
            "bgp: {local_as: 65001, router_id: 10.2.1.1, weight: 3, neighbors: []}",
            "",
            ["bgp.weight: OSPF alone carries the routes, and the nodes"],
        ),
        ("", "as_path_prepend: 1, med: 7", ["vips.web.med: OSPF alone carries the routes, and has"]),
    ],
)
def test_what_ospf_alone_does_not_carry_is_told(bgp: str, vip: str, told: list[str]) -> None:
    found = loads(
        f"""
speaker: {{type: kernel-table, ospf: {{interfaces: eth1, router_id: 10.2.1.1}}}}
vips: {{web: {{address: 192.0.2.1, port: 80, servers: [10.9.2.1], {vip}}}}}
{bgp}
""",
        "f",
        hostname="lb1",
    ).warnings
    assert len(found) == len(told)
    assert all(what in str(one) for what, one in zip(told, found, strict=True))


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


def exported(export: str, vips: str = "web", remote_as: int = 65000) -> str:
    names = "".join(
        f"  {name}: {{address: 192.0.2.{n}, port: 80, servers: [10.9.2.1]}}\n"
        for n, name in enumerate(vips.split(), 1)
    )
    return f"""\
bgp:
  local_as: 65001
  router_id: 10.2.1.1
  neighbors:
    - {{address: 10.2.1.254, remote_as: {remote_as}, export: {export}}}
vips:
{names}"""


def test_an_export_is_written_short_or_with_what_differs() -> None:
    config = loads(
        exported(
            '[web, {vips: ["dns-*"], med: 7, communities: no-export, extended_communities: ["rt:1:2"]}]',
            "web dns-a",
        ),
        "f",
        hostname="lb1",
    )
    assert config.warnings == ()
    assert config.config.bgp.neighbors[0].export == (
        Export(vips=("web",)),
        Export(vips=("dns-*",), med=7, communities=("65535:65281",), extended_communities=("target:1:2",)),
    )
    assert loads(exported("web"), hostname="lb1").config.bgp.neighbors[0].export == (Export(vips=("web",)),)


@pytest.mark.parametrize(
    ("export", "vips", "remote_as", "what"),
    [
        ("[web, wbe]", "web", 65000, "export[1].vips: there is no VIP wbe"),
        (
            '["*", {vips: web, med: 7}]',
            "web",
            65000,
            "export[1].vips: the lines before it name all of these VIPs",
        ),
        ("[{vips: web, local_preference: 7}]", "web", 65000, "is sent no local preference"),
        ("[{vips: web, as_path_prepend: 2}]", "web", 65001, "would be a loop: nothing is prepended"),
    ],
)
def test_a_line_of_an_export_that_does_nothing_is_told(
    export: str, vips: str, remote_as: int, what: str
) -> None:
    (found,) = loads(exported(export, vips, remote_as), "f", hostname="lb1").warnings
    assert what in str(found)


@pytest.mark.parametrize(
    ("export", "vips", "what"),
    [
        ("[web]", "web mail", "vips.mail: no router that carries IPv4 gets it"),
        ("[]", "web", "export: nothing is announced to this router"),
        ("[{med: 7}]", "web", "export[0].vips: it is missing"),
        ("[we b]", "web", "export[0]: 'we b' is not a name of VIPs"),
        (
            "[{vips: web, communities: [1:70000]}]",
            "web",
            "export[0].communities[0]: '1:70000' is not a community",
        ),
        (f"[{', '.join(['web'] * 17)}]", "web", "export: there are 17 lines"),
    ],
)
def test_an_export_that_cannot_be_meant_is_a_mistake(export: str, vips: str, what: str) -> None:
    with pytest.raises(ConfigError) as error:
        loads(exported(export, vips), "f", hostname="lb1")
    assert what in str(error.value.problems[0])


def test_there_is_an_end_to_different_exports() -> None:
    """Each is looked at for every VIP when the configuration changes."""
    neighbors = "".join(
        f"    - {{address: 10.2.{n}.254, remote_as: 65000, export: [{{vips: web, med: {n}}}]}}\n"
        for n in range(17)
    )
    whole = exported("[web]").replace(
        "    - {address: 10.2.1.254, remote_as: 65000, export: [web]}\n", neighbors
    )
    with pytest.raises(ConfigError, match="17 different exports"):
        loads(whole, "f", hostname="lb1")
