"""Whatever short form is written, the configuration is that of the long form."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from anycast.config.load import loads
from anycast.config.problem import ConfigError
from anycast.config.schema.scalars import duration
from anycast.core.values.checks import DnsCheck
from anycast.core.values.configuration import Check, Config, Rule

EXAMPLES = sorted(Path(__file__).parents[3].joinpath("examples").glob("*.yaml"))
BGP = """\
bgp:
  local_as: 65001
  router_id: 10.2.1.1
  neighbors: [{address: 10.2.1.254, remote_as: 65000}, {address: 'fd00::fe', remote_as: 65000, local_address: 'fd00::1'}]
"""
WEB = "vips: {w: {address: 192.0.2.1, port: 80, servers: [10.9.2.1], %s}}"
CHECK = "vips: {w: {address: 192.0.2.1, port: 80, servers: [10.9.2.1], check: {%s}}}"
NODE = "node: {require: [{%s}]}"

PAIRS = [
    # one where several may stand, and the reverse
    (CHECK % "type: http, expect: 200", CHECK % "type: http, expect: [200]"),
    (CHECK % "type: dns, name: a., answer: 192.0.2.80", CHECK % "type: dns, name: a., answer: [192.0.2.80]"),
    (CHECK % "type: banner, steps: {expect: '^2'}", CHECK % "type: banner, steps: [{expect: '^2'}]"),
    (CHECK % "type: all, of: tcp", CHECK % "type: all, of: [{type: tcp}]"),
    (CHECK % "type: command, argv: /bin/true 'a b' c", CHECK % "type: command, argv: [/bin/true, a b, c]"),
    (CHECK % "type: tcp, hold_down: true", CHECK % "type: tcp, hold_down: {}"),
    (CHECK % "type: relp, tls: yes", CHECK % "type: relp, tls: {}"),
    (WEB % "communities: 65000:1", WEB % "communities: ['65000:1']"),
    (WEB % "communities: [no-export]", WEB % "communities: ['65535:65281']"),
    (WEB % "flags: mh-fallback", WEB % "flags: [mh-fallback]"),
    (WEB % "require: {type: carrier, interface: lo}", WEB % "require: [{type: carrier, interface: lo}]"),
    (WEB % "quorum: '100%'", WEB % "quorum: {low: '100%'}"),
    (WEB % "quorum: 1", WEB % "quorum: {low: 1}"),
    (WEB % "persistence: 5m", WEB % "persistence: {timeout: 5m}"),
    (WEB % "persistence: true", WEB % "persistence: {}"),
    (WEB % "persistence: no", WEB % "require: []"),
    (WEB % "tunnel: gre", WEB % "tunnel: {type: gre}, forwarding: tunnel"),
    (
        "vips: {w: {address: [192.0.2.1, '2001:db8::1'], port: 80, servers: {a: [10.9.2.1, 'fd00:9::1']}}}",
        (
            "vips: {w: {addresses: [192.0.2.1, '2001:db8::1'], port: 80, "
            "servers: [{name: a, addresses: [10.9.2.1, 'fd00:9::1']}]}}"
        ),
    ),
    (
        "vips: {w: {addresses: 192.0.2.1/32, ports: 80, servers: 10.9.2.1}}",
        "vips: {w: {addresses: [192.0.2.1], ports: [80], servers: [10.9.2.1]}}",
    ),
    (
        "vips: {w: {address: '[2001:db8::1]', port: 80, forwarding: nat, servers: '[fd00:9::1]:8080'}}",
        "vips: {w: {address: '2001:db8::1', port: 80, forwarding: nat, servers: [{address: 'fd00:9::1', port: 8080}]}}",
    ),
    (
        "vips: {w: {address: 192.0.2.1, port: 80, servers: {a: 10.9.2.1, b: {address: 10.9.2.2}}}}",
        (
            "vips: {w: {address: 192.0.2.1, port: 80, "
            "servers: [{name: a, address: 10.9.2.1}, {name: b, address: 10.9.2.2}]}}"
        ),
    ),
    (
        "vips: {w: {address: 192.0.2.1, port: 80, servers: [{a: 10.9.2.1}, {address: 10.9.2.2}]}}",
        "vips: {w: {address: 192.0.2.1, port: 80, servers: [{name: a, address: 10.9.2.1}, 10.9.2.2]}}",
    ),
    (
        "pools: {p: [10.9.2.1]}\nvips: {w: {address: 192.0.2.1, port: 80, pool: p}}",
        "pools: {p: {servers: [10.9.2.1]}}\nvips: {w: {address: 192.0.2.1, port: 80, pool: p}}",
    ),
    ("node: lb7", "node: {name: lb7}"),
    ("node: {require: {type: file, path: /a}}", NODE % "type: file, path: /a"),
    ("connection_sync: eth1", "connection_sync: {interface: eth1}"),
    ("hooks: {h: https://a.example/x}", "hooks: {h: {url: https://a.example/x}}"),
    ("hooks: {h: /bin/logger -t x}", "hooks: {h: {argv: [/bin/logger, -t, x]}}"),
    ("hooks: {h: [/bin/logger]}", "hooks: {h: {argv: [/bin/logger]}}"),
    (
        "hooks: {h: {argv: [/bin/logger], events: server.up}}",
        "hooks: {h: {argv: [/bin/logger], events: [server.up]}}",
    ),
    # names, numbers, words
    (WEB % "protocol: TCP, scheduler: Maglev", WEB % "protocol: tcp, scheduler: mh"),
    (WEB % "forwarding: masq", WEB % "forwarding: nat"),
    (WEB % "forwarding: DSR", WEB % "forwarding: dr"),
    (WEB % "med: '100'", WEB % "med: 100"),
    (WEB % "expire_failed: 1h30m", WEB % "expire_failed: 90m"),
    (CHECK % "type: HTTP, method: head, path: health", CHECK % "type: http, method: HEAD, path: /health"),
    (
        CHECK % "type: http, headers: {Host: a.example, X: 1}",
        CHECK % "type: http, host: a.example, headers: {X: '1'}",
    ),
    (
        CHECK % "type: http, expect: [200-204, 3XX]",
        CHECK % "type: http, expect: [200, 201, 202, 203, 204, 3xx]",
    ),
    (CHECK % "type: tcp, port: https, rise: '2'", CHECK % "type: tcp, port: 443, rise: 2"),
    (
        CHECK % "type: tcp, interval: 2 s, timeout: 500 msec",
        CHECK % "type: tcp, interval: 2s, timeout: 500ms",
    ),
    (
        CHECK % "type: dns, name: a., rcode: noerror, record: aaaa",
        CHECK % "type: dns, name: a., record: AAAA",
    ),
    (NODE % "type: memory, min_free: 256 mib", NODE % "type: memory, min_free: 256MiB"),
    (NODE % "type: load, max: '2'", NODE % "type: load, max: 2"),
    (NODE % "type: gateway, family: IPv6", NODE % "type: gateway, family: ipv6"),
    ("node: {listen: 'localhost:9644'}", "node: {listen: '127.0.0.1:9644'}"),
    # the name of a type is a check
    (WEB % "check: http", WEB % "check: {type: http}"),
    (
        "checks: {tcp: {type: http}}\n" + WEB % "check: tcp",
        "checks: {tcp: {type: http}}\n" + WEB % "check: {type: http}",
    ),
    # ports
    (
        "vips: {w: {address: 192.0.2.1, ports: [http, 8000-8002, '9000, 9001'], servers: [10.9.2.1]}}",
        "vips: {w: {address: 192.0.2.1, ports: [80, 8000, 8001, 8002, 9000, 9001], servers: [10.9.2.1]}}",
    ),
    (
        "vips: {w: {address: 192.0.2.1, ports: [53/udp, tcp/53], servers: [10.9.2.1], check: tcp}}",
        (
            "pools: {w: {servers: [10.9.2.1], check: tcp}}\nvips: {w: {address: 192.0.2.1, services: "
            "[{port: 53, protocol: udp, pool: w}, {port: 53, protocol: tcp, pool: w}]}}"
        ),
    ),
    (
        "vips: {w: {address: 192.0.2.1, port: 53, protocol: [udp, tcp], servers: [10.9.2.1], check: tcp}}",
        "vips: {w: {address: 192.0.2.1, ports: [53/udp, 53/tcp], servers: [10.9.2.1], check: tcp}}",
    ),
    # once for all services
    (
        (
            "pools: {p: [10.9.2.1]}\nvips: {w: {address: 192.0.2.1, pool: p, scheduler: wlc, forwarding: nat, quorum: 1, "
            "check: http, persistence: 5m, services: [80, {port: 443, check: tcp, scheduler: rr, persistence: false}]}}"
        ),
        (
            "pools: {p: [10.9.2.1]}\nvips: {w: {address: 192.0.2.1, services: ["
            "{port: 80, pool: p, scheduler: wlc, forwarding: nat, check: {type: http}, persistence: {timeout: 5m}}, "
            "{port: 443, pool: p, scheduler: rr, forwarding: nat, check: {type: tcp}}]}}"
        ),
    ),
    (
        "vips: {w: {address: 192.0.2.1, servers: [10.9.2.1], one_packet: false, services: [80, {port: 53/udp, check: udp}]}}",
        (
            "pools: {w: [10.9.2.1]}\nvips: {w: {address: 192.0.2.1, pool: w, services: "
            "[{port: 80}, {port: 53, protocol: udp, check: {type: udp}, one_packet: false}]}}"
        ),
    ),
    (
        "vips: {w: {address: 192.0.2.1, servers: [10.9.2.1], one_packet: true, services: [80, {port: 53/udp, check: udp}]}}",
        (
            "pools: {w: [10.9.2.1]}\nvips: {w: {address: 192.0.2.1, pool: w, services: "
            "[{port: 80}, {port: 53, protocol: udp, check: {type: udp}, one_packet: true}]}}"
        ),
    ),
    (
        "vips: {w: {address: 192.0.2.1, servers: [10.9.2.1], flags: mh-fallback, services: [80, {port: 81, scheduler: rr}]}}",
        (
            "pools: {w: [10.9.2.1]}\nvips: {w: {address: 192.0.2.1, pool: w, services: "
            "[{port: 80, flags: [mh-fallback]}, {port: 81, scheduler: rr}]}}"
        ),
    ),
]
BGP_PAIRS = [
    (
        "{local_as: AS65001, router_id: 10.2.1.1, remote_as: 65000, neighbors: 10.2.1.254}",
        "{local_as: 65001, router_id: 10.2.1.1, neighbors: [{address: 10.2.1.254, remote_as: 65000}]}",
    ),
    (
        "{local_as: 1, local_address: [10.2.1.1, 'fd00::1'], remote_as: 2, neighbors: [10.2.1.254, 'fd00::fe'], bfd: yes}",
        (
            "{local_as: 1, router_id: 10.2.1.1, bfd: true, neighbors: [{address: 10.2.1.254, remote_as: 2, "
            "local_address: 10.2.1.1}, {address: 'fd00::fe', remote_as: 2, local_address: 'fd00::1'}]}"
        ),
    ),
    (
        (
            "{local_as: 1, router_id: 10.2.1.1, hold_time: 30s, next_hop: 'fd00::1', "
            "neighbors: {address: 10.2.1.254, remote_as: 2, families: [IPv4, 6]}}"
        ),
        (
            "{local_as: 1, router_id: 10.2.1.1, hold_time: 30, next_hop: {ipv6: 'fd00::1'}, "
            "neighbors: [{address: 10.2.1.254, remote_as: 2, families: [ipv4, ipv6]}]}"
        ),
    ),
    (
        "{local_as: 1, router_id: 10.2.1.1, remote_as: 2, password: a, neighbors: [10.2.1.2, {address: 10.2.1.3, password: b}]}",
        (
            "{local_as: 1, router_id: 10.2.1.1, neighbors: [{address: 10.2.1.2, remote_as: 2, password: a}, "
            "{address: 10.2.1.3, remote_as: 2, password: b}]}"
        ),
    ),
    (
        (
            "{local_as: 1, router_id: 10.2.1.1, remote_as: 2, password_file: /a, "
            "neighbors: [10.2.1.2, {address: 10.2.1.3, password: b}, {address: 10.2.1.4, password_env: C}]}"
        ),
        (
            "{local_as: 1, router_id: 10.2.1.1, remote_as: 2, neighbors: [{address: 10.2.1.2, password_file: /a}, "
            "{address: 10.2.1.3, password: b}, {address: 10.2.1.4, password_env: C}]}"
        ),
    ),
]


def config(text: str) -> Config:
    return loads(text, hostname="lb1").config


@pytest.mark.parametrize(("short", "long"), PAIRS)
def test_a_short_form_is_the_long_one(short: str, long: str) -> None:
    assert config(f"{BGP}{short}\n") == config(f"{BGP}{long}\n")


@pytest.mark.parametrize(("short", "long"), BGP_PAIRS)
def test_what_is_said_once_for_all_neighbors_is_said_for_each(short: str, long: str) -> None:
    assert config(f"bgp: {short}\n") == config(f"bgp: {long}\n")


def lists_of_one(node: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where one value stands in a list; not a real server in the list of its addresses."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        if (
            isinstance(value, list)
            and len(value) == 1
            and isinstance(key, str)
            and not isinstance(value[0], list)
        ):
            yield (*path, key)
        yield from lists_of_one(value, (*path, key))


def without_list(tree: Any, path: tuple[str | int, ...]) -> Any:
    changed = copy.deepcopy(tree)
    here = changed
    for part in path[:-1]:
        here = here[part]
    (here[path[-1]],) = here[path[-1]]
    return changed


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda path: path.name)
def test_a_list_of_one_needs_no_list(file: Path) -> None:
    tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    right = config(yaml.safe_dump(tree))
    for path in lists_of_one(tree):
        assert config(yaml.safe_dump(without_list(tree, path))) == right, path


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda path: path.name)
def test_one_value_may_stand_in_a_list(file: Path) -> None:
    """Where the format has lists: those of the fields that any example writes as one."""
    lists = {
        "addresses",
        "answer",
        "communities",
        "expect",
        "families",
        "of",
        "port",
        "ports",
        "protocol",
        "require",
    }
    tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    right = config(yaml.safe_dump(tree))

    def listed(node: Any, *, served: bool) -> Any:
        """`served`: a VIP or a service, whose port may be several."""
        if isinstance(node, list):
            return [listed(one, served=served) for one in node]
        if not isinstance(node, dict):
            return node
        wanted = lists if served else lists - {"port"}
        if node.get("type") not in ("http", "https"):
            wanted = wanted - {"expect"}
        return {
            key: [value] if key in wanted and not isinstance(value, list) else listed(value, served=False)
            for key, value in node.items()
        }

    tree["vips"] = {
        name: {
            **listed({key: one for key, one in vip.items() if key != "services"}, served=True),
            **({"services": listed(vip["services"], served=True)} if "services" in vip else {}),
        }
        for name, vip in tree["vips"].items()
    }
    tree["checks"] = {name: listed(check, served=False) for name, check in tree.get("checks", {}).items()}
    assert config(yaml.safe_dump(tree)) == right


@given(
    st.integers(0, 99),
    st.integers(0, 59),
    st.integers(0, 59),
    st.sampled_from(["", " "]),
    st.sampled_from(
        [("h", "m", "s"), ("hours", "min", "sec"), ("H", "M", "S"), ("hr", "minutes", "Seconds")]
    ),
)
def test_a_time_is_the_sum_of_its_parts(
    hours: int, minutes: int, seconds: int, blank: str, units: tuple[str, str, str]
) -> None:
    numbers = (hours, minutes, seconds)
    text = " ".join(f"{number}{blank}{unit}" for number, unit in zip(numbers, units, strict=True))
    assert duration(0, 10**9).parse(text) == hours * 3600 + minutes * 60 + seconds


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (WEB % "expire_failed: 5 x", "vips.w.expire_failed: '5 x' is not a time"),
        (WEB % "expire_failed: 1h 2", "vips.w.expire_failed: '1h 2' is not a time"),
        (
            "vips: {w: {address: 192.0.2.0/24, port: 80, servers: [10.9.2.1]}}",
            "vips.w.address: '192.0.2.0/24' is a prefix",
        ),
        (
            "vips: {w: {address: 192.0.2.1, ports: 1-5000, servers: [10.9.2.1]}}",
            "vips.w.ports: these are 5000 ports",
        ),
        (
            "vips: {w: {address: 192.0.2.1, ports: '1-200, 300-398', servers: [10.9.2.1]}}",
            "vips.w.ports: these are 299 ports",
        ),
        (
            "vips: {w: {address: 192.0.2.1, port: 53/tpc, servers: [10.9.2.1]}}",
            "vips.w.port: '53/tpc' is not a port",
        ),
        (
            "vips: {w: {address: 192.0.2.1, port: 9-8, servers: [10.9.2.1]}}",
            "vips.w.port: '9-8' is not a range of ports",
        ),
        (
            "vips: {w: {address: 192.0.2.1, port: [80, http], servers: [10.9.2.1]}}",
            "tcp/80 is at vips.w.port[0] already",
        ),
        ("vips: {w: {address: 192.0.2.1, port: 80, servers: {adress: 10.9.2.1}}}", "did you mean address?"),
        (
            WEB % "persistence: no, one_packet: yes",
            "vips.w.one_packet: a packet of tcp cannot be served by itself",
        ),
        (CHECK % 'type: command, argv: "/bin/true \'a"', "argv: a quote is not closed in this command"),
        (WEB % "check: dns", "vips.w.check.name: it is missing (write the name to ask for)"),
        (
            "vips: {w: {address: 192.0.2.1, servers: [10.9.2.1], port: 80, services: [81]}}",
            "vips.w.port: this belongs to a",
        ),
    ],
)
def test_what_could_mean_two_things_is_still_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(f"{BGP}{text}\n", hostname="lb1")
    assert said in str(caught.value)


def test_what_is_said_once_is_complained_of_once_where_it_stands() -> None:
    text = (
        f"{BGP}vips: {{w: {{address: 192.0.2.1, servers: [10.9.2.1], quorum: 3, services: [80, 443, 25]}}}}\n"
    )
    with pytest.raises(ConfigError) as caught:
        loads(text, "f", hostname="lb1")
    (problem,) = caught.value.problems
    assert str(problem).startswith("f:5:53: vips.w.quorum.low: 3 usable servers can never be reached")


def written(text: str) -> Config:
    return config(f"{BGP}{text}\n")


def test_a_service_may_have_servers_of_its_own() -> None:
    short = written(
        "vips: {w: {address: 192.0.2.1, forwarding: nat, check: tcp, services: ["
        "{port: 80, servers: ['10.9.2.1:8080']}, {port: 443, servers: ['10.9.2.1:8443'], check: https},"
        "{port: 443, protocol: udp, servers: [10.9.2.1], check: {type: udp}}]}}"
    )
    long = written(
        "pools: {w-80: {servers: [{address: 10.9.2.1, port: 8080}]}, "
        "w-443: {servers: [{address: 10.9.2.1, port: 8443}], check: https},"
        "w-443-udp: {servers: [10.9.2.1], check: {type: udp}}}\n"
        "vips: {w: {address: 192.0.2.1, forwarding: nat, services: [{port: 80, pool: w-80, check: tcp}, "
        "{port: 443, pool: w-443}, {port: 443, protocol: udp, pool: w-443-udp}]}}"
    )
    assert short == long


def test_servers_and_a_pool_of_one_service_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="both pool and servers are written"):
        written(
            "pools: {p: {servers: [10.9.2.1]}}\n"
            "vips: {w: {address: 192.0.2.1, services: [{port: 80, pool: p, servers: [10.9.2.1]}]}}"
        )


def test_a_question_is_sent_as_the_service_is() -> None:
    text = "vips: {w: {address: 192.0.2.1, port: 53, protocol: [udp, tcp], servers: [10.9.2.1], check: %s}}"

    def sent(check: str) -> list[str | None]:
        (vip,) = written(text % check).vips
        kinds = [one.pool.check.kind for one in vip.services if isinstance(one.pool.check, Check)]
        return [kind.transport for kind in kinds if isinstance(kind, DnsCheck)]

    assert sent("{type: dns, name: example.net}") == [None, "tcp"]
    assert sent("{type: dns, name: example.net, transport: udp}") == ["udp", "udp"]
    (vip,) = written(text % "{type: all, of: [{type: dns, name: x}, {type: tcp}]}").vips
    rule = vip.services[1].pool.check
    assert isinstance(rule, Rule)
    assert [
        getattr(part.check.kind, "transport", "") for part in rule.parts if isinstance(part.check, Check)
    ] == [
        "tcp",
        "",
    ]


def test_gue_comes_at_its_own_port() -> None:
    (vip,) = written(WEB % "tunnel: gue").vips
    assert str(vip.services[0].tunnel) == "gue port 6080"
    (vip,) = written(WEB % "tunnel: {type: gue, port: 6081}").vips
    assert str(vip.services[0].tunnel) == "gue port 6081"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hooks: {a: {argv: [/bin/true], events: [vip.down]}}", "write vip.verdict_changed"),
        ("hooks: {a: {argv: [/bin/true], events: all}}", "write the kinds, as in"),
        ("hooks: {a: {url: 'https://a/', token: x}}", "name the file that holds it"),
        (WEB % "sorry_server: 10.9.2.9", "sorry is its name"),
        (WEB % "check: smtp", "{type: banner"),
        (WEB % "check: {type: ping}", "write {type: icmp}"),
        (WEB % "weights: [1, 2]", "a weight belongs to a server"),
    ],
)
def test_what_people_expect_and_is_elsewhere_is_named(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        written(text)
    assert any(said in str(problem) for problem in caught.value.problems)


def test_the_speaker_needs_no_bgp_where_ospf_carries_the_routes() -> None:
    text = """
speaker: {type: kernel-table, ospf: {interfaces: [eth1, eth2], router_id: 10.2.1.1, area: 7}}
vips: {web: {addresses: [192.0.2.1, "2001:db8::1"], port: 80, servers: [{name: a, addresses: [10.9.2.1, "fd00::1"]}]}}
"""
    config = loads(text, hostname="lb1").config
    assert config.bgp.neighbors == ()
    assert str(config.bgp.router_id) == "10.2.1.1"
    assert config.speaker.ospf is not None
    assert str(config.speaker.ospf.area) == "0.0.0.7"
    assert (
        loads(
            text.replace("kernel-table, ospf", "kernel-table, table: 77, ospf"), hostname="lb1"
        ).config.speaker.table
        == 77
    )


def test_the_name_of_a_speaker_alone_is_enough() -> None:
    text = """
speaker: kernel-table
bgp: {local_as: 65001, router_id: 10.2.1.1, neighbors: [{address: 10.2.1.254, remote_as: 65000}]}
vips: {web: {address: 192.0.2.1, port: 80, servers: [10.9.2.1]}}
"""
    speaker = loads(text, hostname="lb1").config.speaker
    assert (speaker.is_table, speaker.table, str(speaker.daemon)) == (True, 1179, "bird")
