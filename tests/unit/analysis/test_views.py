"""What must be right for the routers' view."""

from __future__ import annotations

from dataclasses import replace

import pytest

from anycast.config.load import loads
from anycast.config.problem import ConfigError
from anycast.core.preference import Routers
from anycast.core.prefixes import host_route
from anycast.core.rendering import differing, digest, sessions, setups, table_digest
from anycast.core.values.configuration import Config
from anycast.render.bird import bird_conf

AS = 65001


def text(bgp: str = "view: true, software: frr", neighbor: str = "", vip: str = "") -> str:
    return f"""\
bgp: {{local_as: {AS}, router_id: 0.0.0.7, {bgp}, neighbors: [{{address: 10.2.1.254, remote_as: 65000{neighbor}}}]}}
vips: {{web: {{address: 192.0.2.1, port: 80, servers: [10.9.2.1]{vip}}}}}
"""


def config(**parts: str) -> Config:
    return loads(text(**parts), "f", hostname="lb1").config


def communities(one: Config) -> tuple[str, ...]:
    vip = one.vips[0]
    address = vip.addresses[0]
    route = Routers(one.bgp).route(vip, host_route(address), drain=False)
    assert route is not None
    return route.large_communities


def test_the_mark_has_the_nodes_as_and_its_router_id_and_stands_behind_the_vips_own() -> None:
    assert communities(config()) == (f"{AS}:1179:7",)
    assert communities(config(vip=', large_communities: ["1:2:3"]')) == ("1:2:3", f"{AS}:1179:7")
    assert communities(config(bgp="view: true, view_mark: 5, software: frr")) == (f"{AS}:5:7",)


def test_without_a_view_there_is_no_mark() -> None:
    assert communities(config(bgp="view: false")) == ()
    assert communities(config(bgp="hold_time: 9")) == ()
    assert communities(config(neighbor=", view: false")) == ()
    assert communities(config(bgp="view: false, software: frr", neighbor=", view: true")) == (f"{AS}:1179:7",)


@pytest.mark.parametrize(
    ("parts", "place"),
    [
        ({"vip": ', large_communities: ["1:2:3", "9:1179:1"]'}, "vips.web.large_communities"),
        (
            {"neighbor": ', export: [{vips: "*", large_communities: ["9:1179:1"]}]'},
            "bgp.neighbors[0].export[0].large_communities",
        ),
    ],
)
def test_a_community_that_reads_as_a_mark_is_refused(parts: dict[str, str], place: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**parts)
    assert f"{place}: 9:1179:1 reads as the mark of the node" in str(caught.value)
    for bgp in ("view: true, view_mark: 1180, software: frr", "view: false"):
        config(bgp=bgp, **parts)


def test_where_nobody_says_what_a_router_runs_its_silence_proves_nothing_and_that_is_told() -> None:
    (warning,) = loads(text(bgp="view: true"), "f", hostname="lb1").warnings
    assert "write bgp.software" in str(warning)
    for bgp in ("view: true, software: frr", "view: true, software: bird", "view: false"):
        assert loads(text(bgp=bgp), "f", hostname="lb1").warnings == ()


def test_a_router_of_the_nodes_own_as_is_warned_of() -> None:
    one = text().replace("remote_as: 65000", f"remote_as: {AS}")
    (warning,) = loads(one, "f", hostname="lb1").warnings
    assert "sends back nothing, unless it is a route reflector" in str(warning)


def test_exabgp_is_outdated_by_a_view_and_not_by_a_release_that_knows_views() -> None:
    """An ExaBGP that was rendered before there were views runs on with the same digest."""
    off, on = config(bgp="view: false"), config()
    assert digest(off.bgp) == digest(replace(off.bgp, view_mark=5))
    assert digest(off.bgp) == "104d5b306f8e43fa"
    assert digest(off.bgp) != digest(on.bgp)


def test_exabgp_is_not_outdated_by_another_mark_for_that_comes_with_the_lease() -> None:
    assert digest(config().bgp) == digest(config(bgp="view: true, view_mark: 5").bgp)


def test_a_plan_and_exabgps_own_word_tell_whether_a_session_has_the_view() -> None:
    off, on = config(bgp="view: false").bgp, config().bgp
    assert list(map(str, sessions(off, on))) == ["neighbor 10.2.1.254 changed (view false -> true)"]
    assert setups(off) == {f"10.2.1.254 65000 {AS} 0.0.0.7 0.0.0.7 9 4"}
    assert setups(on) == {f"10.2.1.254 65000 {AS} 0.0.0.7 0.0.0.7 9 4 on"}
    assert list(map(str, differing(setups(on), setups(off)))) == [
        "neighbor 10.2.1.254 changed (view none -> on)"
    ]


def test_with_bird_as_the_speaker_there_is_no_view_which_is_told_and_bird_itself_marks_the_paths() -> None:
    table = text(bgp="view: true") + "speaker: kernel-table\n"
    loaded = loads(table, "f", hostname="lb1")
    (warning,) = loaded.warnings
    assert "bgp.neighbors[0].view: speaker: kernel-table announces for this node" in str(warning)
    assert "stays unknown" in str(warning)
    assert communities(loaded.config) == ()  # else no VIP would be announced before BIRD lists it
    assert "bgp_large_community.add((65001, 1179, 7));" in bird_conf(loaded.config)
    without = loads(table.replace("view: true", "view: false"), "f", hostname="lb1")
    assert without.warnings == ()
    assert "large_community" not in bird_conf(without.config)
    assert table_digest(without.config) != table_digest(loaded.config)
