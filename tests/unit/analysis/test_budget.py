from __future__ import annotations

import functools
import re
from dataclasses import replace
from ipaddress import IPv6Address
from pathlib import Path

import pytest

from anycast.analysis.budget import GUARDIAN, STUCK, WORDS, Assumed, Budget, Kind, budget
from anycast.config.load import load, loads
from anycast.core.values.configuration import Config
from anycast.plugin import conversation, guardian, link, loop

ROOT = Path(__file__).parents[3]
DOC = ROOT / "docs" / "budget.md"

FILE = """\
bgp: {local_as: 65001, router_id: 10.2.1.1, HOLD neighbors: [{address: 10.2.1.254, remote_as: 65000}]}
TIMING
vips:
  web:
    address: 192.0.2.1
    port: 80
    PROTOCOL
    check: {type: tcp, port: 80, interval: 1s, fast_interval: 100ms, timeout: 300ms, fall: 3}
    servers: [10.9.2.1, 10.9.2.2]
"""


@functools.cache
def config(hold: str = "", timing: str = "", protocol: str = "", check: str = "") -> Config:
    text = FILE.replace("HOLD", hold).replace("TIMING", timing).replace("PROTOCOL", protocol)
    if check:
        text = re.sub(r"check: \{.*\}", f"check: {{type: tcp, port: 80, {check}}}", text)
    return loads(text, hostname="lb1").config


def spelt(found: Budget, kind: Kind) -> list[str]:
    return [" + ".join(map(str, one.terms)) for one in found.outages if one.kind is kind]


def worst(found: Budget, kind: Kind) -> float:
    """Seconds; 0 where the configuration has nothing of the kind."""
    return max((one.seconds for one in found.outages if one.kind is kind), default=0.0)


def codes(found: Budget) -> set[str]:
    return {one.code for one in found.concerns}


SUMS = [
    (Kind.SERVER_DIES, "1 s interval + 2 x 0.1 s fast interval + 0.05 s kernel", 1.25),
    (Kind.SERVER_HANGS, "1 s interval + 2 x 0.1 s fast interval + 3 x 0.3 s timeout + 0.05 s kernel", 2.15),
    (Kind.SERVICE_DIES, "1 s interval + 2 x 0.1 s fast interval + 0.05 s lease + 0.2 s router", 1.45),
    (
        Kind.SERVICE_HANGS,
        "1 s interval + 2 x 0.1 s fast interval + 3 x 0.3 s timeout + 0.05 s lease + 0.2 s router",
        2.35,
    ),
    (
        Kind.UNPROVEN,
        "1 s interval + 0.3 s timeout + 3 s the last proof lasts + 0.05 s lease + 0.2 s router",
        4.55,
    ),
    (Kind.AGENT_DIES, "2 s lease TTL + 0.05 s plugin and ExaBGP + 0.2 s router", 2.25),
    (Kind.PLUGIN_DIES, "0.2 s respawn and withdraw + 0.2 s router", 0.4),
    (Kind.PLUGIN_HANGS, "2.5 s watchdog + 0.2 s router", 2.7),
    (Kind.EXABGP_DIES, "0.2 s router", 0.2),
    (Kind.EXABGP_HANGS, "7.5 s plugin ends it + 0.2 s router", 7.7),
    (Kind.NODE_DIES, "9 s hold time + 0.2 s router", 9.2),
    (Kind.LINK_DOWN, "0.02 s carrier + 0.2 s router", 0.22),
    (Kind.PACKETS_LOST, "9 s hold time + 0.2 s router", 9.2),
    (Kind.ROUTER_RESTARTS, "2 s start of its BGP daemon + 2 x 2 s until it dials + 0.2 s router", 6.2),
    (Kind.ROUTER_DEAF, "9 s hold time + 1 s its connection is ended + 0.2 s router", 10.2),
]


@pytest.mark.parametrize(("kind", "terms", "seconds"), SUMS)
def test_a_failure_lasts_as_long_as_its_terms(kind: Kind, terms: str, seconds: float) -> None:
    found = budget(config())
    assert spelt(found, kind) == [terms]
    assert worst(found, kind) == pytest.approx(seconds)


def test_an_idle_check_notices_silence_by_keepalives_and_then_fails_as_others_do() -> None:
    text = FILE.replace("HOLD", "").replace("TIMING", "").replace("PROTOCOL", "").replace("tcp", "idle")
    found = budget(loads(text.replace("interval: 1s", "interval: 10s"), hostname="lb1").config)
    assert spelt(found, Kind.SERVER_HANGS) == [
        (
            "10 s keepalive + 3 x 5 s keepalive without an answer + 10 s interval + 2 x 0.1 s fast interval + "
            "3 x 0.3 s timeout + 0.05 s kernel"
        )
    ]


def test_a_router_that_cannot_dial_is_back_when_exabgp_dials() -> None:
    one = config()
    (first, *rest) = one.bgp.neighbors
    for changes in ({"ttl_security": 1}, {"address": IPv6Address("fe80::1")}):
        far = replace(first, **changes)
        found = budget(replace(one, bgp=replace(one.bgp, neighbors=(far, *rest))))
        terms = "2 s start of its BGP daemon + 60 s until ExaBGP dials + 0.2 s router"
        assert terms in spelt(found, Kind.ROUTER_RESTARTS)


def test_a_router_on_no_link_of_the_nodes_does_not_see_the_carrier_go() -> None:
    plain = config()
    (near,) = plain.bgp.neighbors
    routers = ((replace(near, multihop=4), True), (replace(near, ttl_security=2), True), (near, False))
    for router, far in routers:
        found = budget(replace(plain, bgp=replace(plain.bgp, neighbors=(router,))))
        assert (spelt(found, Kind.LINK_DOWN) == spelt(found, Kind.PACKETS_LOST)) is far


def test_a_kind_that_the_configuration_knows_nothing_of_is_not_told() -> None:
    assert {one.kind for one in budget(config()).outages} == {kind for kind, _, _ in SUMS}
    assert worst(budget(config()), Kind.REQUIREMENT_FAILS) == 0


def test_with_bfd_a_dead_node_is_out_sooner_and_a_hung_exabgp_is_not() -> None:
    found = budget(config("bfd: true,"))
    assert spelt(found, Kind.NODE_DIES) == spelt(found, Kind.PACKETS_LOST) == ["3 x 0.1 s BFD + 0.2 s router"]
    assert spelt(found, Kind.EXABGP_HANGS) == ["7.5 s plugin ends it + 0.2 s router"]


@pytest.mark.parametrize(
    ("bfd", "receive", "terms", "said"),
    [
        ("{interval: 100ms, multiplier: 3}", 0.3, "3 x 0.3 s BFD", {"router_bfd"}),  # FRR's default
        ("{interval: 100ms, multiplier: 3}", 0.01, "3 x 0.1 s BFD", set()),  # BIRD's
        ("{interval: 300ms, multiplier: 2}", 0.3, "2 x 0.3 s BFD", set()),
        ("{interval: 100ms, multiplier: 3}", 1.0, "3 s hold time", {"router_bfd", "slow_bfd"}),
    ],
)
def test_a_router_with_bfd_timers_of_its_own_counts_by_the_slower_interval_and_the_nodes_multiplier(
    bfd: str, receive: float, terms: str, said: set[str]
) -> None:
    found = budget(config(f"hold_time: 3, bfd: {bfd},"), Assumed(bfd_receive=receive))
    assert spelt(found, Kind.NODE_DIES) == spelt(found, Kind.PACKETS_LOST) == [f"{terms} + 0.2 s router"]
    assert codes(found) == said


@pytest.mark.parametrize(
    ("software", "bfd"),
    [
        ("openbgpd 9.3", False),
        ("gobgp 3.36", False),
        ("gobgp", False),  # it may be an old one
        ("gobgp 4.8", True),
        ("frr 8.4", True),
        ("bird 2.0", True),
    ],
)
def test_a_router_that_speaks_no_bfd_notices_a_dead_node_after_the_hold_time(
    software: str, *, bfd: bool
) -> None:
    found = budget(config(f"hold_time: 5, bfd: true, software: {software},"))
    terms = "3 x 0.1 s BFD" if bfd else "5 s hold time"
    assert spelt(found, Kind.NODE_DIES) == spelt(found, Kind.PACKETS_LOST) == [f"{terms} + 0.2 s router"]
    assert codes(found) == (set() if bfd else {"no_bfd"})
    if not bfd:
        (told,) = found.concerns
        assert told.do == "write bgp.hold_time: 3"
        assert (
            codes(budget(config(f"hold_time: 3, software: {software},"), Assumed(bfd_receive=0.3))) == set()
        )


@pytest.mark.parametrize(("software", "bfd"), [("gobgp 4.8", False), ("frr 8.4", True), ("bird 2.0", True)])
@pytest.mark.parametrize("hops", ["multihop: 4", "ttl_security: 2"])
def test_a_router_without_bfd_over_several_hops_notices_a_dead_node_after_the_hold_time(
    software: str, hops: str, *, bfd: bool
) -> None:
    text = FILE.replace("HOLD", f"hold_time: 5, bfd: true, software: {software},").replace("TIMING", "")
    text = text.replace("PROTOCOL", "").replace("remote_as: 65000}", f"remote_as: 65000, {hops}}}")
    found = budget(loads(text, hostname="lb1").config)
    terms = "3 x 0.1 s BFD" if bfd else "5 s hold time"
    assert spelt(found, Kind.NODE_DIES) == spelt(found, Kind.LINK_DOWN) == [f"{terms} + 0.2 s router"]
    assert codes(found) == (set() if bfd else {"no_bfd"})


def test_bfd_that_is_slower_than_the_hold_time_changes_nothing() -> None:
    found = budget(config("hold_time: 3, bfd: {interval: 1s},"))
    assert spelt(found, Kind.NODE_DIES) == ["3 s hold time + 0.2 s router"]
    assert "slow_bfd" in codes(found)


def test_of_a_long_hold_time_a_hung_exabgp_gets_what_the_plugin_allows() -> None:
    found = budget(config("hold_time: 90,"))
    assert spelt(found, Kind.EXABGP_HANGS) == ["7.5 s plugin ends it + 0.2 s router"]
    assert spelt(found, Kind.NODE_DIES) == ["90 s hold time + 0.2 s router"]
    assert {"long_hold", "no_bfd"} <= codes(found)


def test_graceful_restart_is_added_to_every_end_of_a_session() -> None:
    found = budget(config("bfd: true,"), Assumed(graceful_restart=120.0))
    assert spelt(found, Kind.EXABGP_DIES) == ["120 s graceful restart + 0.2 s router"]
    assert spelt(found, Kind.NODE_DIES) == ["3 x 0.1 s BFD + 120 s graceful restart + 0.2 s router"]
    assert "graceful_restart" in codes(found)


def test_without_a_watchdog_the_plugins_guardian_ends_exabgp() -> None:
    found = budget(config(), Assumed(watchdog=0.0))
    assert spelt(found, Kind.PLUGIN_HANGS) == ["2.75 s guardian + 0.2 s router"]
    assert "no_watchdog" in codes(found)


def test_a_sound_configuration_has_nothing_to_complain_of() -> None:
    assert codes(budget(config("hold_time: 3, bfd: true,"))) == set()


CONCERNS = [
    ("hold_time: 11,", "", "", "", "long_hold"),
    ("hold_time: 90, bfd: true,", "", "", "", "long_hold"),
    ("hold_time: 3,", "", "", "", "no_bfd"),
    ("hold_time: 3, bfd: {interval: 300ms, multiplier: 10},", "", "", "", "slow_bfd"),
    ("hold_time: 3, bfd: true,", "timing: {lease_ttl: 4s}", "", "", "lease_outlives_hold"),
    ("hold_time: 3, bfd: true,", "", "", "interval: 6s, fall: 2", "slow_checks"),
    ("hold_time: 3, bfd: true,", "", "", "fall: 1", "nervous_checks"),
    ("hold_time: 3, bfd: true,", "", "protocol: udp", "", "fragments"),
]


@pytest.mark.parametrize(("hold", "timing", "protocol", "check", "code"), CONCERNS)
def test_a_concern_is_raised_where_it_belongs_and_alone(
    hold: str, timing: str, protocol: str, check: str, code: str
) -> None:
    found = codes(budget(config(hold, timing, protocol, check)))
    assert found == {code} | ({"no_bfd"} if "bfd" not in hold else set())


def test_concerns_end_at_their_limits() -> None:
    assert codes(budget(config("hold_time: 10, bfd: true,"))) == set()
    assert codes(budget(config("hold_time: 3, bfd: true,", "timing: {lease_ttl: 3s}"))) == set()
    assert codes(budget(config("hold_time: 3, bfd: true,", check="interval: 5s, fall: 2"))) == set()
    udp = config("hold_time: 3, bfd: true,", protocol="protocol: udp")
    assert codes(budget(udp, Assumed(hashes_ports=False))) == set()


def test_what_has_the_same_sum_is_told_once_with_all_its_places() -> None:
    full = budget(load(ROOT / "examples" / "full.yaml", hostname="lb1").config)
    (required,) = [one for one in full.outages if one.kind is Kind.REQUIREMENT_FAILS]
    assert required.scopes == ("node", "web", "web tcp/80")
    nodes = [one for one in full.outages if one.kind is Kind.NODE_DIES]
    assert [one.scopes for one in nodes] == [("10.2.1.254",), ("fd00:2:1::fe",)]
    assert len({(one.kind, one.terms) for one in full.outages}) == len(full.outages)


def test_what_a_node_serves_itself_is_no_last_resort_of_real_servers() -> None:
    text = FILE.replace("HOLD", "").replace("TIMING", "").replace("PROTOCOL", "when_unhealthy: last_resort")
    assert budget(loads(text, hostname="lb1").config).last_resorts == ("web",)
    text = text.replace("servers: [10.9.2.1, 10.9.2.2]", "local: true")
    assert budget(loads(text, hostname="lb1").config).last_resorts == ()


def test_a_sorry_pool_is_told_with_what_its_check_costs() -> None:
    found = budget(load(ROOT / "examples" / "sorry.yaml", hostname="lb1").config)
    assert found.sorries == ("shop",)
    dies = [one for one in found.outages if one.kind is Kind.SERVER_DIES]
    assert any(scope.endswith(" sorry") for one in dies for scope in one.scopes)
    plain = budget(load(ROOT / "examples" / "fleet.yaml", hostname="lb1").config)
    assert plain.sorries == ()


def test_a_limit_is_kept_by_what_equals_it() -> None:
    found = budget(config("hold_time: 3, bfd: true,"))
    dead = worst(found, Kind.NODE_DIES)
    assert dead == pytest.approx(0.5)
    assert Kind.NODE_DIES not in {one.kind for one in found.above(0.5)}
    assert Kind.NODE_DIES in {one.kind for one in found.above(0.499)}


def test_what_this_program_and_its_units_fix_is_what_is_summed() -> None:
    assert conversation.PING + conversation.SILENCE + link.KILL_AFTER + 2 * loop.IDLE == STUCK
    assert guardian.PATIENCE + guardian.TICK == GUARDIAN
    unit = ROOT.joinpath("packaging", "systemd", "anycast-exabgp.service").read_text(encoding="utf-8")
    assert f"WatchdogSec={Assumed().watchdog:g}\n" in unit


def test_the_document_explains_every_kind_and_every_concern() -> None:
    text = DOC.read_text(encoding="utf-8")
    source = ROOT.joinpath("anycast", "analysis", "budget.py").read_text(encoding="utf-8")
    words = [*Kind, *re.findall(r'code="(\w+)"', source)]
    assert [word for word in words if f"`{word}`" not in text] == []
    assert set(WORDS) == set(Kind)
