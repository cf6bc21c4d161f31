from __future__ import annotations

import functools
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.config.changes import BFD_ROUTERS, LEARN_OTHER, changes
from anycast.config.load import loads
from anycast.core.rendering import LEARN, digest
from anycast.core.values.configuration import Config, Export, Role

FULL = Path(__file__).parents[3].joinpath("examples", "full.yaml").read_text(encoding="utf-8")
RENDER = "waits for ExaBGP: `systemctl reload anycast-exabgp`"
RESTART_EXABGP = (
    "`anycast maintenance on --wait`, `systemctl restart anycast-exabgp`, `anycast maintenance off`"
)
RESTARTED = (
    "a restart of ExaBGP: `anycast maintenance on --wait`, `systemctl restart anycast-exabgp`, "
    "`anycast maintenance off`"
)
BFD = "render the configuration of bfdd and of the routers again (`anycast render frr-bfd`, `router-…`)"


@functools.cache
def config(*replacements: tuple[str, str]) -> Config:
    text = FULL
    for old, new in replacements:
        assert old in text, old
        text = text.replace(old, new, 1)
    return loads(text, hostname="lb1").config


EDITS: list[tuple[str, str, tuple[str, ...]]] = [
    ("  pager: ", "  other: ", ("hook pager: removed", "hook other: added")),
    (
        "https://pager.example.net/v1/anycast",
        "https://pager.example.net/v2/anycast",
        ("hook pager: other url",),
    ),
    (
        "https://pager.example.net/v1/anycast",
        "https://pager.example.org/v1/anycast",
        ("hook pager: other url, host pager.example.net -> pager.example.org",),
    ),
    ("  view_mark: 1179", "  view_mark: 7", ("bgp: view_mark 1179 -> 7",)),
    (
        "      view: true ",
        "      view: false ",
        (f"bgp: neighbor 10.2.1.254 changed (view true -> false): {RENDER}",),
    ),
    ("X-Team: edge", "X-Team: core", ("hook pager: other headers",)),
    (
        "token_file: /etc/anycast/pager.token ",
        "token_env: PAGER ",
        ("hook pager: token /etc/anycast/pager.token -> $PAGER",),
    ),
    ("secret_env: PAGER_SECRET ", "", ("hook pager: signature $PAGER_SECRET -> none",)),
    ("limit: 20 ", "limit: 30 ", ("hook pager: limit 20 -> 30",)),
    ("timeout: 10s", "timeout: 5s", ("hook pager: timeout 10s -> 5s",)),
    ("--tag, anycast", "--tag, other", ("hook syslog: other argv",)),
    (
        "argv: [/usr/bin/logger, --tag, anycast]",
        "url: http://127.0.0.1:8080/",
        ("hook syslog: command /usr/bin/logger -> webhook to 127.0.0.1:8080",),
    ),
    ("name: lb1 ", "name: lb2 ", ("node: name lb1 -> lb2: restart the agent",)),
    (
        "/run/anycast ",
        "/run/x ",
        (f"node: runtime_dir /run/anycast -> /run/x: restart the agent; and {RESTARTED}",),
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
    (
        "ttl_security: false",
        "ttl_security: 2",
        (
            f"bgp: neighbor 10.2.1.254 changed (ttl_security none -> 2): {RENDER}",
            f"bgp: neighbor 10.2.1.254 bfd over one hop -> over several hops: {BFD}",
        ),
    ),
    (
        "      port: 179",
        "      port: 1790",
        (f"bgp: neighbor 10.2.1.254 changed (port 179 -> 1790): {RENDER}",),
    ),
    ("  weight: 1 ", "  weight: 7 ", ("bgp: weight 1 -> 7",)),
    (
        "listen_port: 179",
        "listen_port: 1790",
        (f"bgp: listen_port 179 -> 1790: waits for a restart of ExaBGP: {RESTART_EXABGP}",),
    ),
    (
        "bfd: {interval: 150ms}",
        "bfd: false",
        (f"bgp: neighbor 10.2.1.254 bfd 3 x 150ms -> none: {BFD}",),
    ),
    (
        "multiplier: 3 ",
        "multiplier: 5 ",
        (
            f"bgp: neighbor 10.2.1.254 bfd 3 x 150ms -> 5 x 150ms: {BFD}",
            f"bgp: neighbor fd00:2:1::fe bfd 3 x 100ms -> 5 x 100ms: {BFD}",
        ),
    ),
    ("addresses: [10.9.2.3", "weight: 0, addresses: [10.9.2.3", ("pool web: server rs3 weight 1 -> 0",)),
    (
        "      - {name: rs3,",
        "      - {name: rs5, addresses: [10.9.2.5]}\n      - {name: rs3,",
        ("pool web: server rs5 added", "pool web: about 21 % of the flows will go to other real servers"),
    ),
    (
        "      - 10.9.2.1 ",
        "      # ",
        (
            "pool web: server 10.9.2.1 removed",
            "pool web: about 0.3 % of the flows of the real servers that stay will go to other real servers",
        ),
    ),
    ("quiet_rate: 1 ", "quiet_rate: 50 ", ("timing: quiet_rate 1 -> 50",)),
    ("quiet_limit: 30s", "quiet_limit: 2m", ("timing: quiet_limit 30s -> 120s",)),
    ("server_drain: 60s", "server_drain: 5m", ("timing: server_drain 60s -> 300s",)),
    (
        "  tcp: 15m",
        "  tcp: 30m",
        ("timeouts: tcp 900s, tcp_fin 120s, udp 300s -> tcp 1800s, tcp_fin 120s, udp 300s",),
    ),
    (
        "  interface: eth1",
        "  interface: eth2",
        (
            "connection_sync: id 1 on eth1, 224.0.0.81 port 8848, ttl 1 -> id 1 on eth2, 224.0.0.81 port 8848, ttl 1",
        ),
    ),
    (
        "upper_threshold: 1000",
        "upper_threshold: 2000",
        ("pool metrics: server m1 upper_threshold 1000 -> 2000",),
    ),
    (
        "        lower_threshold: 800",
        "        # ",
        ("pool metrics: server m1 lower_threshold 800 -> 0",),
    ),
    (
        "{type: gue, port: 6080, checksum: csum}",
        "gre",
        ("vip web: service mark/7 tunnel gue port 6080 csum -> gre",),
    ),
    (
        "ipv4_prefix: 24",
        "ipv4_prefix: 32",
        ("vip web: service mark/7 persistence 300s for each /24 and /64 -> 300s for each /32 and /64",),
    ),
    (
        "        persistence:",
        "        # ",
        ("vip web: service mark/7 persistence 300s for each /24 and /64 -> none",),
    ),
    ("one_packet: true", "one_packet: false", ("vip syslog: service udp/514 one_packet true -> false",)),
    (
        "expire_failed: 60s",
        "expire_failed: never",
        ("vip web: service tcp/80 expire_failed 60s -> never",),
    ),
    (
        "server_capacity: {bits: 1G, new_connections: 5k, limit: 80%}",
        "server_capacity: {bits: 2G}",
        (
            "vip web: service tcp/80 server_capacity bits 1e+09, new_connections 5000, limit 0.8 -> bits 2e+09, limit 0.7",
        ),
    ),
    (
        "- mark: 7",
        "- mark: 8",
        ("vip web: service mark/7 removed", "vip web: service mark/8 added"),
    ),
    ("[10.9.2.11, 10.9.2.12]", "[10.9.2.12, 10.9.2.11]", ("pool syslog: servers in another order",)),
    ("med: 100", "med: 200", ("vip web: med 100 -> 200",)),
    ("    med: 100\n", "", ("vip web: med 100 -> default",)),
    ('["65000:100"]', "[]", ("vip web: communities [65000:100] -> []",)),
    (
        "192.0.2.2\n",
        "192.0.2.22\n",
        ("vip syslog: addresses [192.0.2.2] -> [192.0.2.22]",),
    ),
    (
        "scheduler: wlc\n    forwarding: nat",
        "scheduler: rr\n    forwarding: nat",
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
    )
    assert changes(less, config())[:2] == ("pool metrics: served", "vip metrics: added")


def named(
    vip: str, pool: str, *, address: str = "192.0.2.1", server: str = "10.9.2.1", med: int = 1
) -> Config:
    return loads(
        f"""
bgp: {{local_as: 65001, router_id: 10.2.1.1, neighbors: [{{address: 10.2.1.254, remote_as: 65000}}]}}
pools:
  {pool}: {{servers: [{server}, 10.9.2.2]}}
  other: {{servers: [10.9.2.1]}}
vips:
  {vip}: {{addresses: [{address}, 192.0.2.9], med: {med}, port: 80, pool: {pool}}}
  other: {{address: 192.0.2.5, port: 80, pool: other}}
""",
        hostname="lb1",
    ).config


def test_a_vip_of_another_name_with_an_address_of_the_old_one_is_renamed() -> None:
    assert changes(named("web", "p"), named("www", "p")) == ("VIP web is renamed to www",)


def test_what_else_differs_is_told_under_the_new_name() -> None:
    assert changes(named("web", "p"), named("www", "p", address="192.0.2.2", med=2)) == (
        "VIP web is renamed to www",
        "vip www: addresses [192.0.2.1, 192.0.2.9] -> [192.0.2.2, 192.0.2.9]",
        "vip www: med 1 -> 2",
    )


def test_a_port_that_goes_from_ipvs_to_the_node_itself_costs_its_connections_and_is_told() -> None:
    text = """
bgp: {local_as: 65001, router_id: 10.2.1.1, neighbors: [{address: 10.2.1.254, remote_as: 65000}]}
vips: {dns: {address: 192.0.2.1, port: 53, WHO}}
"""
    old, new = (
        loads(text.replace("WHO", who), hostname="lb1").config
        for who in ("servers: [10.9.2.1]", "local: true")
    )
    told = "vip dns: tcp/53 goes from IPVS to this node itself: connections of IPVS end at once: reload in maintenance"
    assert told in changes(old, new)
    assert told not in changes(new, old)


def test_another_export_is_told_and_needs_no_restart() -> None:
    old = named("web", "p")
    (router,) = old.bgp.neighbors
    export = (Export(vips=("web",), med=7, communities=("1:2",)), Export(vips=("*",)))
    new = replace(old, bgp=replace(old.bgp, neighbors=(replace(router, export=export),)))
    assert changes(old, new) == ("bgp: neighbor 10.2.1.254 export all -> [web med 7 communities ['1:2'], *]",)
    assert digest(old.bgp) == digest(new.bgp)


def test_another_role_is_told() -> None:
    old = named("web", "p")
    new = replace(old, vips=(replace(old.vips[0], role=Role.BACKUP, as_path_prepend=2), old.vips[1]))
    assert changes(old, new) == ("vip web: role primary -> backup", "vip web: as_path_prepend default -> 2")


def test_a_pool_of_another_name_whose_servers_serve_the_same_is_renamed() -> None:
    assert changes(named("web", "p"), named("web", "q")) == ("pool p is renamed to q",)
    assert changes(named("web", "p"), named("www", "q")) == (
        "pool p is renamed to q",
        "VIP web is renamed to www",
    )
    assert changes(named("web", "p"), named("web", "q", server="10.9.2.7"))[:3] == (
        "pool p is renamed to q",
        "pool q: server 10.9.2.1 removed",
        "pool q: server 10.9.2.7 added",
    )


def test_nothing_is_renamed_without_a_common_address_or_where_the_old_name_is_still_there() -> None:
    old, new = named("web", "p"), named("www", "q")
    apart = replace(new.vips[0], addresses=(IPv4Address("192.0.2.77"),))
    lines = changes(old, replace(new, vips=(apart, new.vips[1])))
    assert "vip web: removed" in lines
    assert "pool p: no longer served" in lines  # no service of the same VIP has it
    both = replace(old, vips=(*old.vips, replace(apart, name="www")))
    assert "vip www: added" in changes(old, both)
    assert not any("renamed" in line for line in (*lines, *changes(old, both)))


def test_sections_that_come_or_go_are_told() -> None:
    start, end = FULL.index("timeouts: "), FULL.index("bgp:\n")
    bare = loads(FULL[:start] + FULL[end:], hostname="lb1").config
    assert changes(bare, config()) == (
        "timeouts: left as they are -> tcp 900s, tcp_fin 120s, udp 300s",
        "connection_sync: none -> id 1 on eth1, 224.0.0.81 port 8848, ttl 1",
        "fleet: none -> etcd",
    )
    assert changes(config(), bare) == (
        "timeouts: tcp 900s, tcp_fin 120s, udp 300s -> left as they are",
        "connection_sync: id 1 on eth1, 224.0.0.81 port 8848, ttl 1 -> none",
        "fleet: etcd -> none",
    )


def pooled(number: int, *, weight: int = 1, second: str = "web", scheduler: str = "mh") -> Config:
    """A VIP of two services on `number` real servers; the last one has the weight."""
    servers = "".join(f"      - 10.9.{n // 250}.{n % 250 + 1}\n" for n in range(number - 1))
    return loads(
        f"""
bgp: {{local_as: 65001, router_id: 10.2.1.1, neighbors: [{{address: 10.2.1.254, remote_as: 65000}}]}}
pools:
  web:
    servers:
{servers}      - {{name: last, address: 10.9.99.1, weight: {weight}}}
  other: {{servers: [10.8.0.1, 10.8.0.2]}}
vips:
  web:
    address: 192.0.2.1
    services:
      - {{port: 80, pool: web, scheduler: {scheduler}}}
      - {{port: 443, pool: {second}, scheduler: {scheduler}}}
""",
        hostname="lb1",
    ).config


def test_the_flows_that_move_are_told_once_for_a_pool() -> None:
    assert changes(pooled(20), pooled(20, weight=2)) == (
        "pool web: server last weight 1 -> 2",
        "pool web: about 6.1 % of the flows will go to other real servers",
    )


def test_where_the_scheduler_is_no_maglev_no_share_is_known() -> None:
    without = changes(pooled(20, scheduler="wlc"), pooled(20, weight=2, scheduler="wlc"))
    assert without == ("pool web: server last weight 1 -> 2",)
    assert not any("flows" in line for line in changes(pooled(20), pooled(20, weight=2, scheduler="wlc")))


def test_a_server_drained_by_weight_moves_no_flow_where_weights_are_one() -> None:
    assert changes(pooled(20), pooled(20, weight=0)) == ("pool web: server last weight 1 -> 0",)


def test_another_pool_moves_every_flow_of_its_service() -> None:
    assert changes(pooled(3), pooled(3, second="other")) == (
        "pool other: served",
        "vip web: service tcp/443 pool web -> other",
        "vip web: service tcp/443: about 100 % of the flows will go to other real servers",
    )


def test_no_figure_is_worked_out_for_very_many_servers() -> None:
    assert changes(pooled(501), pooled(502))[-1] == "pool web: flows will go to other real servers"


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


SPEAKER_EDITS = [
    (
        "type: exabgp ",
        "type: kernel-table ",
        "type exabgp -> kernel-table: start anycast-table, and stop the other",
    ),
    (
        "table: 1179",
        "table: 1180",
        "table 1179 -> 1180: restart anycast-table; waits for BIRD: `anycast render bird",
    ),
    ("user: anycast-table", "user: x", "user anycast-table -> x: restart the agent and anycast-table"),
    ("daemon: bird", "daemon: other", "daemon bird -> other: restart anycast-table"),
]


def test_attributes_that_bird_does_not_have_yet_are_told_with_the_command() -> None:
    table = ("type: exabgp ", "type: kernel-table ")
    origin = ("origin: igp ", "origin: egp ")
    before, after = config(table), config(table, origin)
    waits = (
        f"attributes of web: waits for BIRD: {LEARN}; until then announced with the old ones, or not at all"
    )
    assert changes(before, after) == ("vip web: origin igp -> egp", waits)
    other = ("daemon: bird", "daemon: other")
    (_, line) = changes(config(table, other), config(table, other, origin))
    assert LEARN_OTHER in line
    assert changes(config(), config(origin)) == ("vip web: origin igp -> egp",)
    assert not [
        line for line in changes(before, config(table, ("weight: 1 ", "weight: 2 "))) if "attributes" in line
    ]


def test_ospf_and_a_session_are_told_as_they_are_written() -> None:
    ospf = "# ospf: {interfaces: [eth1]"
    (line,) = changes(
        config(("type: exabgp ", "type: kernel-table ")),
        config(("type: exabgp ", "type: kernel-table "), (ospf, ospf[2:])),
    )
    assert line.startswith(
        "speaker: ospf none -> area 0.0.0.0 on eth1, hello 1s, dead 4s, router_id 10.2.1.1: waits for BIRD"
    )
    line, _ = changes(config(), config(("ttl_security: false", "multihop: 4")))
    assert line.startswith("bgp: neighbor 10.2.1.254 changed (multihop none -> 4): waits for ExaBGP")
    assert changes(config(), config(("weight: 1 ", "# weight: 1 "))) == ("bgp: weight 1 -> none",)


@pytest.mark.parametrize(("old", "new", "told"), SPEAKER_EDITS)
def test_a_change_of_the_speaker_says_what_it_needs(old: str, new: str, told: str) -> None:
    (line,) = changes(config(), config((old, new)))
    assert line.startswith(f"speaker: {told}")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("local_as: 65001", "local_as: 65002", "local_as 65001 -> 65002: {}"),
        ("next_hop: {ipv4: 10.2.1.1", "next_hop: {ipv4: 10.2.1.2", "next_hop_v4 10.2.1.1 -> 10.2.1.2: {}"),
    ],
)
@pytest.mark.parametrize("daemon", ["bird", "other"])
def test_a_change_of_a_session_that_a_daemon_has_needs_no_exabgp(
    old: str, new: str, told: str, daemon: str
) -> None:
    table = (("type: exabgp ", "type: kernel-table "), ("daemon: bird", f"daemon: {daemon}"))
    (line,) = changes(config(*table), config(*table, (old, new)))
    needs = {"bird": f"waits for BIRD: {LEARN}", "other": LEARN_OTHER}
    assert line == f"bgp: {told.format(needs[daemon])}"


def test_bfdd_is_told_of_another_router_where_bfd_goes_by_it() -> None:
    near = ("ttl_security: false", "ttl_security: true")
    other = ("      software: frr 10.7 ", "      software: bird 2.0 ")
    assert f"bgp: neighbor 10.2.1.254 bfd over several hops -> over one hop: {BFD}" in changes(
        config(near), config(near, other)
    )
    assert not any(" bfd over " in line for line in changes(config(), config(other)))
    table = ("type: exabgp ", "type: kernel-table ")
    assert not any(" bfd over " in line for line in changes(config(table), config(table, near)))


def test_bfd_of_bird_is_its_own() -> None:
    table = ("type: exabgp ", "type: kernel-table ")
    (line,) = changes(config(table), config(table, ("bfd: {interval: 150ms}", "bfd: false")))
    assert line.endswith(f": waits for BIRD: {LEARN}; {BFD_ROUTERS}")


UDP = ", protocol: udp, check: {type: tcp, port: 80}"


def _forwarding(way: str, server: str = "10.9.2.1", *, more: str = "") -> Config:
    return loads(
        f"""\
bgp: {{local_as: 65001, router_id: 10.2.1.1, neighbors: [{{address: 10.2.1.254, remote_as: 65000}}]}}
vips: {{web: {{address: 192.0.2.1, port: 80, servers: [{server}], forwarding: {way}{more}}}}}
""",
        hostname="lb1",
    ).config


@pytest.mark.parametrize(
    ("before", "after", "is_told"),
    [
        (_forwarding("dr"), _forwarding("tunnel"), True),
        (_forwarding("nat"), _forwarding("dr"), True),
        (_forwarding("tunnel"), _forwarding("nat"), False),
        (_forwarding("dr"), _forwarding("tunnel", "10.9.2.2"), False),
        (_forwarding("dr"), _forwarding("nat", "{name: a, address: 10.9.2.1, port: 8080}"), False),
        (
            _forwarding("dr", more=UDP),
            _forwarding("tunnel", more=UDP),
            False,
        ),
    ],
)
def test_connections_that_another_forwarding_of_the_same_real_servers_leaves_hanging_are_told(
    before: Config,
    after: Config,
    is_told: bool,  # noqa: FBT001
) -> None:
    told = [line for line in changes(before, after) if " forwarding " in line]
    assert len(told) == 1
    assert (": connections hang where real servers keep address and port (change" in told[0]) == is_told
