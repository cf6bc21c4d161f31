from __future__ import annotations

import functools
import json
import os
import re
import stat
import tomllib
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.cli.main import main
from anycast.config.load import load, loads
from anycast.core.values.configuration import Bfd, Config, Neighbor
from anycast.core.values.software import Daemon, software
from anycast.render.frr_bfd import frr_bfd_conf
from anycast.render.router import Router, doubts, router, short
from anycast.render.router import software as runs
from anycast.render.routers import ROUTERS

ROOT = Path(__file__).parents[3]
GOLDEN = Path(__file__).parent / "golden"
FULL = ROOT / "examples" / "full.yaml"

each = pytest.mark.parametrize("name", ROUTERS)
passwords = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="\"'\\\\;"), min_size=1, max_size=79
)


@functools.cache
def _full() -> Config:
    return load(FULL, hostname="lb1").config


def config(**bgp: object) -> Config:
    """The full example, its section bgp changed."""
    full = _full()
    return replace(full, bgp=replace(full.bgp, **bgp))  # type: ignore[arg-type]


def with_neighbor(**changes: object) -> Config:
    """The full example with its first neighbor changed, and no other."""
    return config(neighbors=(replace(config().bgp.neighbors[0], **changes),))  # type: ignore[arg-type]


def named(name: str) -> Config:
    full = config()
    return replace(full, node=replace(full.node, name=name))


def rendered(name: str, *configs: Config, version: str | None = None) -> str:
    """`version`: what the router runs; None: what all versions take."""
    runs = None if version is None else software(f"{name} {version}")
    return ROUTERS[name](router(configs, software=runs))


@each
def test_what_is_rendered_is_what_was_reviewed(name: str) -> None:
    assert rendered(name, config()) == (GOLDEN / f"router-{name}.conf").read_text(encoding="ascii")


@pytest.mark.parametrize(
    ("name", "version"), [("frr", "10.4"), ("frr", "10.8"), ("gobgp", "4.6"), ("openbgpd", "8.8")]
)
def test_what_is_rendered_for_a_newer_version_is_what_was_reviewed(name: str, version: str) -> None:
    text = (GOLDEN / f"router-{name}-{version}.conf").read_text(encoding="ascii")
    assert rendered(name, config(), version=version) == text


@pytest.mark.parametrize(
    ("version", "strict", "resilient"),
    [
        (None, False, False),
        ("8.4.4", False, False),
        ("10.3-3+deb13u1", False, False),
        ("10.4", True, False),
        ("10.7.1", True, False),
        ("10.10", True, True),
        ("11", True, True),
    ],
)
def test_frr_is_given_what_its_version_takes(version: str | None, *, strict: bool, resilient: bool) -> None:
    text = rendered("frr", config(), version=version)
    assert (" neighbor 10.2.1.1 bfd strict\n" in text) is strict
    assert bool(re.search("^zebra nexthop-group resilience ", text, re.MULTILINE)) is resilient


@pytest.mark.parametrize(("version", "takes_away"), [(None, True), ("8.4.4", True), ("10.3", False)])
def test_who_has_an_frr_that_takes_ipv6_routes_away_is_told_what_cures_it(
    version: str | None, *, takes_away: bool
) -> None:
    full = config()
    only = replace(full, bgp=replace(full.bgp, neighbors=full.bgp.neighbors[:1]))
    assert ("--v6-rr-semantics" in rendered("frr", full, version=version)) is takes_away
    assert {family for one in router([only]).nodes for family in one.families} == {4}
    assert "--v6-rr-semantics" not in rendered("frr", only, version=version)


def test_a_resilient_group_gives_a_node_that_returns_its_share() -> None:
    """Without an unbalanced-timer the kernel waits for buckets that are idle, and under traffic none is."""
    line = next(
        line for line in rendered("frr", config(), version="10.8").splitlines() if line.startswith("zebra ")
    )
    found = re.fullmatch(
        r"zebra nexthop-group resilience buckets (\d+) idle-timer (\d+) unbalanced-timer (\d+)", line
    )
    assert found
    buckets, idle, unbalanced = map(int, found.groups())
    assert 1 <= buckets <= 256
    assert 0 < idle < unbalanced <= 60


@pytest.mark.parametrize("version", [None, "8.4", "10.4", "10.8"])
def test_frr_keeps_its_next_hop_objects(version: str | None) -> None:
    """Without them FRR 8.4 sends IPv4 with an IPv6 next hop into nothing."""
    lines = rendered("frr", config(), version=version).splitlines()
    assert not [line for line in lines if "nexthop kernel enable" in line and not line.startswith("!")]


def test_the_timers_of_bfd_are_where_frr_saves_them() -> None:
    """`write memory` leaves out what `neighbor … bfd 3 100 100` has set."""
    text = rendered("frr", config())
    assert not re.search(r"^ neighbor \S+ bfd \d", text, re.MULTILINE)
    profiles = re.findall(r"^ neighbor \S+ bfd profile (\S+)$", text, re.MULTILINE)
    assert profiles == ["ANYCAST-3x150", "ANYCAST-3x100"]
    for name in profiles:
        assert text.count(f"\n profile {name}\n") == 1


def test_the_first_as_is_enforced_between_different_ones_only() -> None:
    assert " neighbor 10.2.1.1 enforce-first-as\n" in rendered("frr", config())
    assert "enforce-first-as" not in rendered(
        "frr", replace(config(), bgp=replace(config().bgp, local_as=65000))
    )


def _fleet(nodes: int) -> list[Config]:
    """Nodes with two sessions each, both of which carry IPv4."""
    first, second = (
        replace(one, families=frozenset({4}), password=None, password_from=None)
        for one in config().bgp.neighbors
    )
    return [
        replace(
            named(f"lb{n}"),
            bgp=replace(
                config().bgp,
                neighbors=(
                    replace(first, local_address=IPv4Address("10.2.4.0") + n),
                    replace(second, local_address=IPv6Address("fd00:2:4::") + n),
                ),
            ),
        )
        for n in range(nodes)
    ]


@pytest.mark.parametrize(("nodes", "paths"), [(1, 64), (32, 64), (33, 66), (64, 128), (65, 128)])
def test_every_session_has_a_place_among_the_paths(nodes: int, paths: int) -> None:
    """FRR counts the second session of a node from 10.3 on."""
    text = rendered("frr", *_fleet(nodes), version="10.3")
    assert re.findall(r"^  maximum-paths (?:ibgp )?(\d+)$", text, re.MULTILINE) == [str(paths)] * 2


def test_more_sessions_than_frr_has_paths_are_told_of() -> None:
    def told(nodes: int) -> list[str]:
        configs = _fleet(nodes)
        one = router(configs, software=software("frr"))
        return [what for what in doubts(configs, one) if "sessions" in what]

    assert told(64) == []
    (what,) = told(65)
    assert what.startswith("130 sessions carry IPv4, and FRR may use 128 paths")


@pytest.mark.parametrize(
    ("weights", "version", "told"),
    [
        ((3, 1), "8.4", []),
        (
            (1, None),
            "10.3",
            [
                "lb1 has no bgp.weight: FRR 10.3 then weighs all nodes alike (write one for every node, or for none)"
            ],
        ),
        ((None, None), "10.3", []),
        (
            (1000, 1000, 1),
            "8.4",
            [
                (
                    "lb2 gets 1.01% of the flows, not 0.05%: FRR 8.4 rounds weights to whole percents, 1 at the least"
                    " (write weights that are nearer to one another)"
                )
            ],
        ),
        (
            (1000, 1),
            "10.7",
            [
                (
                    "lb1 gets 0.39% of the flows, not 0.10%: FRR 10.7 counts in 255ths of the largest weight, 1 at the least"
                    " (write weights that are nearer to one another)"
                )
            ],
        ),
    ],
)
def test_what_becomes_of_weights_is_told_where_it_is_something_else(
    weights: tuple[int | None, ...], version: str, told: list[str]
) -> None:
    configs = [
        replace(one, bgp=replace(one.bgp, weight=weight))
        for one, weight in zip(_fleet(len(weights)), weights, strict=True)
    ]
    runs = software(f"frr {version}")
    found = [*doubts(configs, router(configs, software=runs))]
    assert [what for what in found if "weigh" in what] == told


def _of(
    name: str, number: int, *, role: str = "primary", vip: str = "web", local_as: int = 65001, bgp: str = ""
) -> Config:
    """A node with one VIP."""
    address = {"web": "192.0.2.1", "mail": "192.0.2.25"}[vip]
    return loads(
        f"""
node: {name}
bgp:
  {{local_as: {local_as}, router_id: 10.2.1.{number}, neighbors: [{{address: 10.2.1.254, remote_as: 65000}}], {bgp}}}
vips: {{{vip}: {{address: {address}, port: 80, check: tcp, servers: [10.9.2.1], role: {role}}}}}
"""
    ).config


def _doubts(*configs: Config, runs: str = "frr 10.3") -> list[str]:
    return [*doubts(configs, router(configs, software=software(runs)))]


def test_weights_count_among_nodes_that_share_the_flows_of_a_vip() -> None:
    first, second = _of("lb1", 1, bgp="weight: 3"), _of("lb2", 2, bgp="weight: 1")
    assert _doubts(first, second, _of("lb3", 3, role="backup")) == [], "a backup has none of them"
    assert _doubts(first, second, _of("lb3", 3, vip="mail")) == []
    (told,) = _doubts(first, second, _of("lb3", 3))
    assert told.startswith("lb3 has no bgp.weight")


def test_backups_of_nobody_are_told_of() -> None:
    backups = [_of("lb1", 1, role="backup"), _of("lb2", 2, role="backup")]
    (told,) = _doubts(*backups)
    assert told.startswith("web: role: backup on every node of these")
    assert _doubts(*backups, _of("lb3", 3)) == []
    assert _doubts(backups[0]) == [], "of the other nodes nothing is known"


def test_nodes_that_do_not_mark_their_paths_are_told_of() -> None:
    seen = _of("lb1", 1, bgp="view: true")
    assert _doubts(seen, _of("lb2", 2, bgp="view: true")) == []
    (told,) = _doubts(seen, _of("lb2", 2))
    assert told.startswith("lb2 has no bgp.view, and others do")
    (told,) = _doubts(seen, _of("lb2", 2, bgp="view: true, view_mark: 5"))
    assert told.startswith("the nodes have bgp.view_mark 5, 1179")
    elsewhere = _of("lb2", 2)
    elsewhere = replace(elsewhere, bgp=replace(elsewhere.bgp, neighbors=()))
    one = router([seen, elsewhere], software=software("frr 10.3"))
    assert [*doubts([seen, elsewhere], one)] == [], "it sends this router nothing"


def test_a_gobgp_that_sends_nothing_back_is_told_of() -> None:
    seen = _of("lb1", 1, bgp="view: true")
    (told,) = _doubts(seen, _of("lb2", 2, bgp="view: true"), runs="gobgp 4.8")
    assert told.startswith("GoBGP sends nothing back to nodes of one AS")
    assert _doubts(seen, _of("lb2", 2, bgp="view: true", local_as=65002), runs="gobgp 4.8") == []


@pytest.mark.parametrize(
    ("version", "there"), [(None, False), ("3.36", False), ("4.5", False), ("4.6", True)]
)
def test_gobgp_has_bfd_from_the_version_that_has_it(version: str | None, *, there: bool) -> None:
    document = tomllib.loads(rendered("gobgp", config(), version=version))
    assert [one.get("bfd", {}).get("config") for one in document["neighbors"]] == [
        {
            "enabled": True,
            "desired-minimum-tx-interval": interval,
            "required-minimum-receive": interval,
            "detection-multiplier": 3,
        }
        if there
        else None
        for interval in (150_000, 100_000)
    ]


@pytest.mark.parametrize("far", [{"multihop": 3}, {"ttl_security": 2}])
def test_gobgp_is_given_no_bfd_with_a_node_that_is_further_away(far: dict[str, int]) -> None:
    text = rendered("gobgp", with_neighbor(**far), version="4.8")
    (one,) = tomllib.loads(text)["neighbors"]
    assert "bfd" not in one
    assert "# No BFD: " in text
    assert "bfd" in tomllib.loads(rendered("gobgp", with_neighbor(), version="4.8"))["neighbors"][0]


def test_the_version_is_what_the_nodes_say_and_the_oldest_of_it() -> None:
    def of(*words: str) -> str:
        configs = [with_neighbor(software=software(one)) for one in words]
        return str(runs(configs, Daemon.FRR))

    assert of("frr 10.4") == "FRR 10.4"
    assert of("frr 10.4", "frr 8.4.4") == "FRR 8.4"
    assert of("frr 10.4", "frr") == "FRR"
    assert of("bird 3.1") == "FRR"
    assert str(runs([config()], Daemon.FRR, version=(10, 8))) == "FRR 10.8"


def test_what_a_router_does_not_do_is_told_when_it_is_rendered(capsys: pytest.CaptureFixture[str]) -> None:
    def said(*words: str) -> list[str]:
        assert main(["render", *words, "--config", str(FULL)]) == 0
        lines = capsys.readouterr().err.splitlines()
        other = "warning: lb1: its configuration says that this router runs FRR 10.7"
        assert (other in lines) is (words[0] != "router-frr")
        weight = [line for line in lines if line.startswith("warning: lb1: weight: ")]
        assert bool(weight) is (words[0] != "router-frr")
        return [line for line in lines if line not in (other, *weight)]

    assert said("router-frr") == []
    assert said("router-frr", "--frr", "8.4") == []
    assert said("router-frr", "--frr", "7.5") == [
        "warning: FRR 7.5 was not tried: 8.4 is the oldest that was"
    ]
    assert said("router-bird", "--bird", "3.1") == []
    assert said("router-gobgp", "--gobgp", "4.8") == []
    (old,) = said("router-gobgp", "--gobgp", "3.36")
    assert old.startswith(
        "warning: lb1: bfd: GoBGP 3.36 has no BFD, which came with 4.6: it keeps the routes of"
    )
    (none,) = said("router-openbgpd")
    assert none.startswith("warning: lb1: bfd: OpenBGPD has no BFD: ")


def test_a_router_that_is_said_to_run_something_else_is_told_of() -> None:
    configs = [with_neighbor(software=software("bird 3.1"))]
    assert [*doubts(configs, router(configs, software=software("frr 10.4")))] == [
        "lb1: its configuration says that this router runs BIRD 3.1"
    ]


def test_what_is_no_version_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["render", "router-frr", "--frr", "newest", "--config", str(FULL)])
    assert "'newest' is not a version (write it as in 10.4)" in capsys.readouterr().err


def test_what_is_rendered_for_bfdd_is_what_was_reviewed() -> None:
    assert frr_bfd_conf(config()) == (GOLDEN / "frr-bfd.conf").read_text(encoding="ascii")


@each
def test_every_vip_is_accepted_by_its_full_length_and_no_shorter(name: str) -> None:
    text = rendered(name, config())
    found = set(re.findall(r"[0-9a-f:.]+/[0-9]+", text))
    assert found == {"192.0.2.1/32", "192.0.2.2/32", "192.0.2.3/32", "192.0.2.53/32", "2001:db8:99::1/128"}


@each
def test_vips_that_announce_a_prefix_around_them_are_accepted_by_that_alone(name: str) -> None:
    text = rendered(name, load(ROOT / "examples" / "internet-dns.yaml", hostname="lb1").config)
    assert set(re.findall(r"[0-9a-f:.]+/[0-9]+", text)) == {"192.0.2.0/24", "2001:db8:53::/48"}
    assert text.count("192.0.2.0/24") == 1


@each
def test_a_session_carries_the_families_of_its_neighbor(name: str) -> None:
    both = rendered(name, with_neighbor(families=frozenset({4, 6})))
    one = rendered(name, with_neighbor(families=frozenset({4})))
    assert "2001:db8:99::1/128" in both
    assert "2001:db8:99::1/128" not in one


@each
def test_a_node_without_a_vip_of_a_family_may_announce_nothing_of_it(name: str) -> None:
    both = with_neighbor(families=frozenset({4, 6}))
    four = tuple(
        replace(vip, addresses=tuple(a for a in vip.addresses if a.version == 4)) for vip in both.vips
    )
    text = rendered(name, replace(both, vips=four))
    assert "/128" not in text
    if name == "frr":
        assert "ipv6 prefix-list ANYCAST-lb1-6 seq 5 deny any" in text
    if name == "bird":
        assert "filter 'anycast_lb1_ipv6' {\n    reject;\n}" in text


@each
def test_without_a_password_the_session_has_none(name: str) -> None:
    statement = re.compile(r"^\s*(neighbor \S+ |auth-|tcp md5sig )?password ", re.MULTILINE)
    assert statement.search(rendered(name, with_neighbor(password="x")).replace("password =", "password "))
    assert not statement.search(
        rendered(name, with_neighbor(password=None)).replace("password =", "password ")
    )


@each
@given(password=passwords)
def test_a_password_stands_there_whole(name: str, password: str) -> None:
    text = rendered(name, with_neighbor(password=password))
    if name == "gobgp":
        assert tomllib.loads(text)["neighbors"][0]["config"]["auth-password"] == password
    elif name == "frr":
        assert f" neighbor 10.2.1.1 password {password}\n" in text
    else:
        assert f'password "{password}"' in text


@each
@pytest.mark.parametrize("password", ['a"b', "a b", "a\nb", "a;b", "ä", "", "x" * 81])
def test_a_password_that_would_end_early_is_refused(name: str, password: str) -> None:
    with pytest.raises(ValueError, match="a password cannot stand"):
        rendered(name, with_neighbor(password=password))


@each
@pytest.mark.parametrize("node", ["a b", "a\nrouter bgp 1", "a'b", 'a"b', "a{b", "a;b", "", "-a", "ä"])
def test_a_name_that_is_no_word_is_refused(name: str, node: str) -> None:
    with pytest.raises(ValueError, match="cannot stand in a router's configuration"):
        rendered(name, named(node))


def test_openbgpd_is_not_given_a_password_it_does_not_take() -> None:
    with pytest.raises(ValueError, match=r"OpenBGPD takes passwords of 79 characters, the one for .* has 80"):
        rendered("openbgpd", with_neighbor(password="x" * 80))


def test_gobgp_needs_a_router_id() -> None:
    six = with_neighbor(address=IPv6Address("fd00::fe"), local_address=IPv6Address("fd00::1"))
    with pytest.raises(ValueError, match="write --router-id"):
        ROUTERS["gobgp"](router([six]))
    one = router([six], router_id=IPv4Address("192.0.2.254"))
    assert tomllib.loads(ROUTERS["gobgp"](one))["global"]["config"]["router-id"] == "192.0.2.254"


def test_what_gobgp_reads_is_what_was_meant() -> None:
    document = tomllib.loads(rendered("gobgp", config()))
    assert document["global"]["config"] == {"as": 65000, "router-id": "10.2.1.254"}
    assert [one["config"]["neighbor-address"] for one in document["neighbors"]] == ["10.2.1.1", "fd00:2:1::1"]
    assert [one["timers"]["config"]["hold-time"] for one in document["neighbors"]] == [9, 9]
    assert not any(one["graceful-restart"]["config"]["enabled"] for one in document["neighbors"])


def test_frr_and_bird_have_bfd_where_the_node_has() -> None:
    bfd = with_neighbor(bfd=Bfd(interval=0.05, multiplier=4))
    none = with_neighbor(bfd=None)
    assert " neighbor 10.2.1.1 bfd profile ANYCAST-4x50\n" in rendered("frr", bfd)
    assert "    bfd { interval 50 ms; multiplier 4; };\n" in rendered("bird", bfd)
    assert "protocol bfd" in rendered("bird", bfd)
    assert not re.search(r"^ neighbor .* bfd ", rendered("frr", none), re.MULTILINE)
    assert "protocol bfd" not in rendered("bird", none)
    with pytest.raises(ValueError, match="no neighbor has BFD"):
        frr_bfd_conf(none)


@each
def test_several_nodes_are_written_once_each_with_what_they_share_once(name: str) -> None:
    second = replace(
        named("lb2"),
        bgp=replace(
            config().bgp,
            local_as=65002,
            neighbors=(
                Neighbor(
                    address=IPv4Address("10.2.2.254"), remote_as=65000, local_address=IPv4Address("10.2.2.1")
                ),
            ),
        ),
    )
    text = rendered(name, config(), second)
    assert "For the router with the addresses 10.2.1.254, fd00:2:1::fe, 10.2.2.254." in text
    assert "10.2.2.1" in text
    assert "65002" in text
    for once in ("router bgp 65000", "protocol bfd", "[global.config]", "AS 65000\n"):
        assert text.count(once) <= 1


def test_a_router_with_several_addresses_is_told_apart_by_them() -> None:
    one, two = IPv4Address("10.2.1.254"), IPv6Address("fd00:2:1::fe")
    assert [s.local for s in router([config()], only=[one]).sessions] == [one]
    assert [s.local for s in router([config()], only=[one, two]).sessions] == [one, two]
    with pytest.raises(ValueError, match=r"no node has the neighbor 10\.9\.9\.9"):
        router([config()], only=[one, IPv4Address("10.9.9.9")])


def test_neighbors_of_several_routers_are_not_rendered_as_one() -> None:
    first, second = config().bgp.neighbors
    with pytest.raises(ValueError, match="AS numbers 65000, 65010: name those of one with --neighbor"):
        router([config(neighbors=(first, replace(second, remote_as=65010)))])
    with pytest.raises(ValueError, match=r"the address 10\.2\.1\.1 is there twice: write --neighbor"):
        router([config(neighbors=(first, replace(first, address=IPv4Address("10.2.1.253"))))])
    with pytest.raises(ValueError, match="the node's name lb1 is there twice"):
        router([config(), config()])


@given(st.text("abc._-", min_size=1, max_size=63), st.text("abc._-", min_size=1, max_size=63))
def test_a_name_made_short_is_short_and_still_its_own(one: str, other: str) -> None:
    assert len(short(one)) <= 40
    assert (short(one) == short(other)) == (one == other)


def test_the_limit_of_prefixes_leaves_room_for_the_vips() -> None:
    full = config()
    vips = tuple(
        replace(full.vips[0], addresses=(IPv4Address("10.0.0.0") + number,)) for number in range(600)
    )
    one: Router = router([replace(full, vips=vips)])
    assert (one.nodes[0].most(4), one.nodes[0].most(6)) == (1200, 1000)


@pytest.mark.parametrize("daemon", ["frr-bfd", *(f"router-{name}" for name in ROUTERS)])
def test_a_rendered_file_is_for_those_who_need_it_alone(daemon: str, tmp_path: Path) -> None:
    output = tmp_path / "file.conf"
    output.write_text("old")
    output.chmod(0o644)
    assert main(["render", daemon, "--config", str(FULL), "-o", str(output)]) == 0
    assert stat.S_IMODE(output.stat().st_mode) == (
        0o640 if daemon == "frr-bfd" and os.geteuid() == 0 and _frr() else 0o600
    )
    assert "anycast render" in output.read_text()


def _frr() -> bool:
    import pwd

    return any(user.pw_name == "frr" for user in pwd.getpwall())


def test_what_cannot_be_rendered_is_said_with_the_files_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["render", "router-frr", "--config", str(FULL), "--neighbor", "10.9.9.9"]) == 78
    assert capsys.readouterr().err == f"{FULL}: no node has the neighbor 10.9.9.9\n"
    with pytest.raises(SystemExit, match="2"):
        main(["render", "router-frr", "--config", str(FULL), "--neighbor", "nobody"])


def test_several_files_are_rendered_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    second = tmp_path / "lb2.yaml"
    second.write_text(
        FULL.read_text(encoding="utf-8")
        .replace("name: lb1 ", "name: lb2 ")
        .replace("10.2.1.1\n", "10.2.1.2\n")
        .replace("10.2.1.1 ", "10.2.1.2 ")
        .replace('"fd00:2:1::1"', '"fd00:2:1::2"')
    )
    assert main(["render", "router-gobgp", "--config", str(FULL), "--config", str(second)]) == 0
    document = tomllib.loads(capsys.readouterr().out)
    assert [one["config"]["neighbor-address"] for one in document["neighbors"]] == [
        "10.2.1.1",
        "fd00:2:1::1",
        "10.2.1.2",
        "fd00:2:1::2",
    ]
    assert json.dumps(document["global"]["apply-policy"]["config"]["import-policy-list"]) == json.dumps(
        ["lb1-ipv4", "lb1-ipv6", "lb2-ipv4", "lb2-ipv6"]
    )
