from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.config.changes import changes
from anycast.config.load import loads
from anycast.core.model import Config

FULL = Path(__file__).parents[3].joinpath("examples", "full.yaml").read_text(encoding="utf-8")
RENDER = "render ExaBGP's configuration again and restart ExaBGP"


def config(*replacements: tuple[str, str]) -> Config:
    text = FULL
    for old, new in replacements:
        assert old in text, old
        text = text.replace(old, new, 1)
    return loads(text, hostname="lb1").config


EDITS: list[tuple[str, str, tuple[str, ...]]] = [
    ("name: lb1 ", "name: lb2 ", ("node: name lb1 -> lb2: restart the agent",)),
    (
        "/run/anycast ",
        "/run/x ",
        (f"node: runtime_dir /run/anycast -> /run/x: restart the agent and {RENDER}",),
    ),
    ("ipvs: shared", "ipvs: exclusive", ("ipvs: shared -> exclusive",)),
    ("sysctls: manage", "sysctls: check", ("sysctls: manage -> check",)),
    ("lease_ttl: 2s", "lease_ttl: 700ms", ("timing: lease_ttl 2s -> 700ms",)),
    ("local_as: 65001", "local_as: 65002", (f"bgp: local_as 65001 -> 65002: {RENDER}",)),
    ("next_hop: {ipv4: 10.2.1.1, ", "next_hop: {", ("bgp: next_hop_v4 10.2.1.1 -> default",)),
    (
        "[ipv4] ",
        "[ipv4, ipv6] ",
        (f"bgp: neighbor 10.2.1.254 changed (families [ipv4] -> [ipv4, ipv6]): {RENDER}",),
    ),
    ("change-me", "changed", (f"bgp: neighbor 10.2.1.254 changed (password): {RENDER}",)),
    (
        "    - address: 10.2.1.254",
        "    - {address: 10.2.1.9, remote_as: 65000}\n    - address: 10.2.1.254",
        (f"bgp: neighbor 10.2.1.9 added: {RENDER}",),
    ),
    ("addresses: [10.9.2.3", "weight: 0, addresses: [10.9.2.3", ("pool web: server rs3 weight 1 -> 0",)),
    (
        "      - {name: rs3,",
        "      - {name: rs5, addresses: [10.9.2.5]}\n      - {name: rs3,",
        ("pool web: server rs5 added",),
    ),
    ("      - 10.9.2.1 ", "      # ", ("pool web: server 10.9.2.1 removed",)),
    ("[10.9.2.11, 10.9.2.12]", "[10.9.2.12, 10.9.2.11]", ("pool syslog: servers in another order",)),
    ("med: 100", "med: 200", ("vip web: med 100 -> 200",)),
    ("    med: 100\n", "", ("vip web: med 100 -> default",)),
    ('["65000:100"]', "[]", ("vip web: communities [65000:100] -> []",)),
    (
        "192.0.2.2\n",
        "192.0.2.22\n",
        (
            "vip syslog: addresses [192.0.2.2] -> [192.0.2.22]",
            f"vips: the addresses this node may announce changed: {RENDER}",
        ),
    ),
    (
        "scheduler: wlc",
        "scheduler: rr",
        (
            "vip metrics: service tcp/80 scheduler wlc -> rr",
            "vip metrics: service tcp/9090 scheduler wlc -> rr",
        ),
    ),
    ("ports: [80, 9090]", "ports: [80]", ("vip metrics: service tcp/9090 removed",)),
    ('high: "50%"', 'high: "100%"', ("vip web: service tcp/80 quorum low 1, high 1 -> low 1, high 2",)),
    (
        "path: /health,",
        "path: /up, port: 8080,",
        (
            "vip web: service tcp/80 check http GET /health expecting 2xx -> http GET /up on port 8080 expecting 2xx",
        ),
    ),
    (
        "verify: false",
        "timeout: 3",
        (
            "vip web: service tcp/443 check https GET / for www.example.net without verifying expecting 2xx -> https GET / for www.example.net expecting 2xx, timeout 1s -> 3s",
        ),
    ),
]


@pytest.mark.parametrize(("old", "new", "lines"), EDITS)
def test_an_edit_is_told_in_words(old: str, new: str, lines: tuple[str, ...]) -> None:
    assert changes(config(), config((old, new))) == lines


def test_a_vip_that_comes_or_goes_is_told_once() -> None:
    without = FULL[: FULL.index("  metrics:\n    address")]
    less = loads(without, hostname="lb1").config
    assert changes(config(), less) == (
        "pool metrics: no longer served",
        "vip metrics: removed",
        f"vips: the addresses this node may announce changed: {RENDER}",
    )
    assert changes(less, config())[:2] == ("pool metrics: served", "vip metrics: added")


def test_equal_configurations_have_no_changes() -> None:
    assert changes(config(), config()) == ()


def test_passwords_are_not_told() -> None:
    assert "chang" not in "".join(changes(config(), config(("change-me", "changed")))).replace(
        "changed (password)", ""
    )


@given(st.sets(st.integers(0, len(EDITS) - 1), max_size=3))
def test_every_difference_is_told_and_nothing_else(picked: set[int]) -> None:
    text = FULL
    for n in picked:
        text = text.replace(EDITS[n][0], EDITS[n][1], 1)
    edited = loads(text, hostname="lb1").config
    assert bool(changes(config(), edited)) == (config() != edited)
