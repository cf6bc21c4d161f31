"""Every key of every kind of check: what the core gets, and what is said of a mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from anycast.config.changes import changes
from anycast.config.load import loads
from anycast.config.problem import ConfigError
from anycast.config.schema.checks import CHECKS
from anycast.core.dataplane.members import uses
from anycast.core.health.aim import targets_of
from anycast.core.index import indexed
from anycast.core.values import checks as kinds
from anycast.core.values.configuration import (
    Check,
    CheckKind,
    HoldDown,
    HttpCheck,
    Leaf,
    Rule,
    Target,
    TcpCheck,
)
from anycast.core.values.described import Percent
from anycast.core.vip.requirements import requirements

FULL = Path(__file__).parents[3].joinpath("examples", "full.yaml").read_text(encoding="utf-8")


def text(check: str) -> str:
    return f"""\
bgp:
  local_as: 65001
  router_id: 10.2.1.1
  neighbors: [{{address: 10.2.1.254, remote_as: 65000}}]
vips:
  web: {{address: 192.0.2.1, port: 80, check: c, servers: [10.9.2.1]}}
checks:
  c: {check}
"""


def check_of(check: str) -> Check:
    found = loads(text(check), hostname="lb1").config.vips[0].services[0].pool.check
    assert isinstance(found, Check)
    return found


def kind_of(check: str) -> CheckKind:
    return check_of(check).kind


def problems(check: str) -> list[str]:
    """What is wrong with the check, without the file's name; its first column is 6."""
    with pytest.raises(ConfigError) as caught:
        loads(text(check), "f", hostname="lb1")
    return [str(problem).removeprefix("f:8:") for problem in caught.value.problems]


def test_every_key_of_every_kind_stands_in_the_full_example() -> None:
    written: dict[str, set[str]] = {}
    found = [yaml.safe_load(FULL)]
    while found:
        here = found.pop()
        if isinstance(here, dict):
            found += here.values()
            if isinstance(here.get("type"), str):
                written.setdefault(here["type"], set()).update(here)
        elif isinstance(here, list):
            found += here
    common = set(CHECKS["tcp"].model_fields) - {"quiet"}
    assert {"to", "full_size"} <= written["tcp"]
    common |= {"headers_env", "token_env"}  # in a comment at the top
    written["tcp"] |= {"headers_env", "token_env"}
    for name, kind in CHECKS.items():
        shown = written.get("https" if name == "http" else name, set())
        assert set(kind.model_fields) - common <= shown, name
    assert common <= set().union(*written.values())


KINDS: list[tuple[str, CheckKind]] = [
    (
        "{type: http, headers: {X-Check: 'a b'}, body: '^ok'}",
        HttpCheck(tls=False, headers=(("X-Check", "a b"),), body="^ok"),
    ),
    (
        "{type: https, sni: a.example, ca: /a.pem, certificate: /b.pem, key: /c.pem, expiry_warning: 14d}",
        HttpCheck(
            tls=True,
            sni="a.example",
            ca="/a.pem",
            certificate="/b.pem",
            key="/c.pem",
            expiry_warning=14 * 86400.0,
        ),
    ),
    ("{type: http, keep_alive: true}", HttpCheck(tls=False, keep_alive=True)),
    ("{type: tcp, to: server, port: 81}", TcpCheck(port=81)),
    ("{type: tcp, quiet: 500ms}", kinds.TcpQuietCheck(quiet=0.5)),
    ("{type: tcp, quiet: 950ms}", kinds.TcpQuietCheck(quiet=0.95)),
    ("{type: tcp, timeout: 60ms, quiet: 30ms}", kinds.TcpQuietCheck(quiet=0.03)),
    ("{type: tcp, to: vip}", TcpCheck()),
    ("{type: tcp, to: vip, quiet: 500ms}", kinds.TcpQuietCheck(quiet=0.5)),
    ("{type: http, to: vip, port: 81, full_size: false}", HttpCheck(tls=False, port=81)),
    ("{type: idle, port: 81}", kinds.IdleCheck(port=81)),
    ("{type: udp}", kinds.UdpCheck(quiet=0.2)),
    ("{type: udp, timeout: 100ms}", kinds.UdpCheck(quiet=0.05)),
    ("{type: udp, send: grün, expect: '^x'}", kinds.UdpCheck(send="grün".encode(), expect="^x")),
    ("{type: udp, send_hex: '0C 01', expect_hex: '02'}", kinds.UdpCheck(send=b"\x0c\x01", prefix=b"\x02")),
    (
        "{type: banner, steps: [{expect: '^220'}, {send: QUIT}, {send: \"a\\n\"}]}",
        kinds.BannerCheck(steps=(kinds.Expect("^220"), kinds.Send(b"QUIT\r\n"), kinds.Send(b"a\n"))),
    ),
    ("{type: syslog, port: 6514, tls: true}", kinds.SyslogCheck(port=6514, tls=kinds.Tls())),
    ("{type: syslog, quiet: 50ms}", kinds.SyslogCheck(quiet=0.05)),
    ("{type: syslog, timeout: 100ms}", kinds.SyslogCheck(quiet=0.05)),
    ("{type: syslog, transport: udp, proof_port: 5140}", kinds.SyslogCanaryCheck(proof_port=5140)),
    ("{type: syslog, transport: udp, proof_file: /x}", kinds.SyslogCanaryCheck(proof_file="/x")),
    (
        "{type: relp, tls: {sni: a.b, verify: false}}",
        kinds.RelpCheck(tls=kinds.Tls(sni="a.b", verify=False)),
    ),
    ("{type: dns, name: www.example.net}", kinds.DnsCheck(name="www.example.net.", transport="tcp")),
    (
        "{type: dns, name: x., record: AAAA, answer: ['2001:db8::1'], transport: tcp, port: 53}",
        kinds.DnsCheck(name="x.", record="AAAA", answer=("2001:db8::1",), transport="tcp", port=53),
    ),
    (
        "{type: dns, name: bücher.example, rcode: NXDOMAIN}",
        kinds.DnsCheck(name="xn--bcher-kva.example.", rcode="NXDOMAIN", transport="tcp"),
    ),
    (
        "{type: dns, name: x, record: MX, answer: ['10 mail.example.net']}",
        kinds.DnsCheck(name="x.", record="MX", answer=("10 mail.example.net.",), transport="tcp"),
    ),
    ("{type: grpc}", kinds.GrpcCheck()),
    (
        "{type: grpc, service: a.B, authority: x.y, tls: true}",
        kinds.GrpcCheck(service="a.B", authority="x.y", tls=kinds.Tls()),
    ),
    ("{type: icmp}", kinds.IcmpCheck()),
    ("{type: carrier, interface: eth0}", kinds.CarrierCheck(interface="eth0")),
    ("{type: gateway}", kinds.GatewayCheck()),
    ("{type: gateway, family: ipv6, by: neighbor}", kinds.GatewayCheck(family=6, by="neighbor")),
    ("{type: load, max: 2, minutes: 15}", kinds.LoadCheck(max=2.0, minutes=15)),
    ("{type: memory, min_free: 256MiB}", kinds.MemoryCheck(min_free=256 << 20)),
    ("{type: memory, min_free: 5%}", kinds.MemoryCheck(min_free=Percent(5))),
    ("{type: file, path: /a b, present: false}", kinds.FileCheck(path="/a b", present=False)),
    ("{type: ipvs_connections, max: 1000000}", kinds.IpvsConnectionsCheck(max=1_000_000)),
    (
        "{type: ipvs_connections, max: 9, limit: 80%}",
        kinds.IpvsConnectionsCheck(max=9, limit=Percent(80)),
    ),
    ("{type: ipvs_connections, max: 250%}", kinds.IpvsConnectionsCheck(max=Percent(250))),
]


@pytest.mark.parametrize(("written", "kind"), KINDS)
def test_what_is_written_is_what_the_core_gets(written: str, kind: CheckKind) -> None:
    assert kind_of(written) == kind


def test_what_flaps_is_held_down_only_where_it_is_written() -> None:
    assert check_of("{type: tcp}").hold_down is None
    assert check_of("{type: tcp, hold_down: {}}").hold_down == HoldDown()
    written = "{type: tcp, hold_down: {half_life: 15m, suppress: 2, reuse: 0.75, max_hold: 30m}}"
    expected = HoldDown(half_life=900.0, suppress=2.0, reuse=0.75, max_hold=1800.0)
    assert check_of(written).hold_down == expected
    assert check_of("{type: tcp, hold_down: {half_life: 10s}}").hold_down == HoldDown(
        half_life=10.0, max_hold=40.0
    )


def test_a_result_counts_for_three_intervals_or_as_long_as_is_written() -> None:
    assert check_of("{type: tcp, interval: 4s}").proof_lasts == 12.0
    assert check_of("{type: tcp, interval: 4s, unproven_after: 4s}").proof_lasts == 4.0


MISTAKES = [
    (
        "{type: tcp, interval: 3s, unproven_after: 2999ms}",
        "48: checks.c.unproven_after: it is shorter than the interval of 3s (write the interval or more",
    ),
    (
        "{type: tcp, hold_down: {reuse: 3}}",
        "29: checks.c.hold_down: reuse is not below suppress (write a smaller",
    ),
    (
        "{type: tcp, hold_down: {suppress: 30}}",
        "29: checks.c.hold_down: a penalty that reaches suppress takes longer than 240s to decay to reuse (write",
    ),
    (
        "{type: tcp, hold_down: {reuse: no}}",
        "37: checks.c.hold_down.reuse: 'no' is not a penalty (write a number",
    ),
    ('{type: http, headers: {X: "a\\nb"}}', "32: checks.c.headers.X: a header cannot have this value (write"),
    ("{type: http, headers: {X: 1.5}}", "32: checks.c.headers.X: 1.5 is not text (write it in quotes)"),
    ("{type: http, headers: {'a b': x}}", "36: checks.c.headers['a b']: 'a b' is not a header's name (write"),
    (
        "{type: http, host: y, headers: {Host: x}}",
        "38: checks.c.headers.Host: the check writes this header itself (write host",
    ),
    (
        "{type: http, body: '('}",
        "25: checks.c.body: it is no regular expression: missing ): ( (write RE2 syntax:",
    ),
    (
        "{type: http, body: 'x', method: HEAD}",
        "19: checks.c.body: the answer to HEAD has no body (write method: GET,",
    ),
    (
        "{type: http, body: 'x', keep_alive: true}",
        "30: checks.c.keep_alive: the connection is not kept if the body is read (remove this line,",
    ),
    ("{type: https, key: /c.pem}", "3: checks.c.certificate: it is missing, and there is a key (write"),
    (
        "{type: https, verify: false, ca: /c}",
        "35: checks.c.ca: nothing is verified with verify: false (remove one",
    ),
    ("{type: https, ca: c.pem}", "24: checks.c.ca: 'c.pem' is not a file's absolute path (write one, as in"),
    ("{type: https, sni: a..b}", "25: checks.c.sni: 'a..b' is not a server's name (write one, as in"),
    ("{type: https, expiry_warning: 14 moons}", "36: checks.c.expiry_warning: '14 moons' is not a time that"),
    (
        "{type: udp, send: a, send_hex: '00'}",
        "27: checks.c.send_hex: send is written too (keep one of the two)",
    ),
    ("{type: udp, send_hex: '0'}", "28: checks.c.send_hex: '0' is not hexadecimal (write pairs of digits"),
    (
        "{type: udp, expect: x, quiet: 1s}",
        "29: checks.c.quiet: it is for checks that expect no reply (remove it",
    ),
    (
        "{type: udp, quiet: 1s}",
        "25: checks.c.quiet: it is not shorter than the timeout (write at most 950ms, or a longer timeout)",
    ),
    (
        "{type: tcp, quiet: 2s, to: vip}",
        "25: checks.c.quiet: it is not shorter than the timeout (write at most 950ms, or a longer timeout)",
    ),
    (
        "{type: syslog, quiet: 1s}",
        "28: checks.c.quiet: it is not shorter than the timeout (write at most 950ms, or a longer timeout)",
    ),
    *(
        (
            f"{{type: {kind}, quiet: 951ms}}",
            f"{22 + len(kind)}: checks.c.quiet: it leaves 49ms of the timeout: working servers would fail by chance (write",
        )
        for kind in ("tcp", "tcp, to: vip", "udp", "syslog")
    ),
    (
        "{type: tcp, timeout: 60ms, quiet: 31ms}",
        "40: checks.c.quiet: it leaves 29ms of the timeout: working servers would fail by chance (write at most 30ms, or a",
    ),
    (
        "{type: syslog, transport: udp, quiet: 1s, proof_port: 1}",
        "37: checks.c.quiet: over UDP there is no connection to leave open (write transport: tcp",
    ),
    (
        "{type: banner, steps: [{send: x}]}",
        "28: checks.c.steps: nothing is expected, so the check proves no more than tcp does (write a step",
    ),
    ("{type: banner}", "3: checks.c.steps: there is no step (write"),
    (
        "{type: banner, steps: [{}]}",
        "29: checks.c.steps[0]: a step is either expect or send (write one of them",
    ),
    ("{type: banner, steps: [{expect: '['}]}", "38: checks.c.steps[0].expect: it is no regular expression: "),
    (
        "{type: relp, tls: false}",
        "24: checks.c.tls: false is not a way to speak TLS (write true, or a mapping",
    ),
    (
        "{type: relp, tls: {key: /c}}",
        "19: checks.c.tls.certificate: it is missing, and there is a key (write",
    ),
    (
        "{type: syslog, transport: udp}",
        "32: checks.c.transport: over UDP nothing confirms that a message arrived (write",
    ),
    (
        "{type: syslog, transport: udp, proof_port: 1, proof_file: /a}",
        "52: checks.c.proof_file: proof_port is written too (keep one of the two)",
    ),
    (
        "{type: syslog, proof_port: 1}",
        "21: checks.c.proof_port: over TCP no message is sent (write transport: udp",
    ),
    (
        "{type: syslog, transport: udp, tls: true, proof_port: 1}",
        "37: checks.c.tls: UDP has no TLS (write transport: tcp, or remove the line)",
    ),
    (
        "{type: tcp, to: vips}",
        "22: checks.c.to: 'vips' is not a choice here (did you mean vip? write server or vip)",
    ),
    (
        "{type: tcp, to: vip, address: 10.9.2.1}",
        "27: checks.c.address: with to: vip the VIP is asked for at each real server (remove one",
    ),
    (
        "{type: tcp, address: 'a.example'}",
        "27: checks.c.address: 'a.example' is not an IP address (write one",
    ),
]


@pytest.mark.parametrize(("written", "said"), MISTAKES)
def test_a_mistake_is_told_once_with_its_place(written: str, said: str) -> None:
    (found,) = problems(written)
    assert found.startswith(said), found


def test_a_check_with_an_address_of_its_own_is_one_target_for_all_servers() -> None:
    config = loads(
        text("{type: tcp, address: 10.9.9.9, port: 25}").replace("[10.9.2.1]", "[10.9.2.1, 10.9.2.2]")
    ).config
    (target,) = indexed(config).targets
    assert (str(target.address), target.port) == ("10.9.9.9", 25)


def rule_of(check: str, more: str = "") -> Rule[Leaf]:
    found = loads(text(check) + more, hostname="lb1").config.vips[0].services[0].pool.check
    assert isinstance(found, Rule)
    return found


def test_rules_are_made_of_named_and_written_checks_and_of_rules() -> None:
    rule = rule_of(
        "{type: all, of: [d, {type: any, of: [e, {type: icmp}]}]}", "  d: {type: tcp}\n  e: {type: bgp}\n"
    )
    assert rule.needed == 2
    assert [member.name for member in rule.parts] == ["d", "any"]
    inner = rule.parts[1].check
    assert isinstance(inner, Rule)
    assert (inner.needed, [member.name for member in inner.parts]) == (1, ["e", "icmp"])
    assert inner.parts[0].check == kinds.BgpSession()


def test_weights_and_what_is_needed_come_through() -> None:
    rule = rule_of(
        "{type: at_least, needed: 3, of: [{check: d, weight: 2}, {type: icmp}]}", "  d: {type: tcp}\n"
    )
    assert (rule.needed, [member.weight for member in rule.parts]) == (3, [2, 1])


def test_a_check_that_is_used_before_it_is_written_is_found() -> None:
    assert (
        rule_of("{type: all, of: [later]}", "  later: {type: any, of: [last]}\n  last: {type: tcp}\n").needed
        == 1
    )


def test_a_ring_of_rules_is_told_once() -> None:
    with pytest.raises(ConfigError) as caught:
        loads(text("{type: all, of: [d]}") + "  d: {type: any, of: [c]}\n", "f", hostname="lb1")
    (problem,) = caught.value.problems
    assert problem.what == "it contains itself: c -> d -> c"


REQUIRING = """\
node: {require: %s}
bgp:
  local_as: 65001
  router_id: 10.2.1.1
  neighbors: [{address: 10.2.1.254, remote_as: 65000}]
checks:
  tcp: {type: tcp}
  aimed: {type: tcp, address: 10.1.1.1, port: 25}
  both: {type: all, of: [aimed, tcp]}
vips:
  web:
    address: 192.0.2.1
    require: [aimed]
    services: [{port: 80, pool: p, require: [{type: load, max: 4}]}]
pools:
  p: {servers: [10.9.2.1]}
"""


def _said(checks: str) -> list[str]:
    written = text("{type: tcp}\n  t: {type: tcp}\n" + checks)
    with pytest.raises(ConfigError) as told:
        loads(written, hostname="lb1")
    return [problem.what for problem in told.value.problems]


@pytest.mark.parametrize("count", [9, 300, 1500])
def test_rules_in_one_another_have_an_end(count: int) -> None:
    chain = "".join(f"  c{n}: {{type: all, of: [c{n + 1}]}}\n" for n in range(count))
    found = _said(f"{chain}  c{count}: {{type: tcp}}\n")
    assert set(found) == {"rules are in one another more than 8 deep"}


def test_rules_in_one_another_have_the_same_end_whichever_is_written_first() -> None:
    chain = "".join(f"  c{n}: {{type: all, of: [c{n + 1}]}}\n" for n in reversed(range(9)))
    assert _said("  c9: {type: tcp}\n" + chain) == ["rules are in one another more than 8 deep"]


def test_a_rule_of_rules_is_measured_by_the_checks_it_comes_to() -> None:
    threes = "".join(f"  c{n}: {{type: all, of: [{', '.join([f'c{n + 1}'] * 3)}]}}\n" for n in range(7))
    [said] = _said(f"{threes}  c7: {{type: tcp}}\n")
    assert said == "the rule comes to 729 checks, each counted as often as it is in it"
    wide = f"  c0: {{type: all, of: [{', '.join(['t'] * 257)}]}}\n"
    assert _said(wide) == ["the rule comes to 257 checks, each counted as often as it is in it"]


def test_the_node_a_vip_and_a_service_can_require_checks() -> None:
    config = loads(REQUIRING % "[{type: carrier, interface: eth0}, {type: bgp}]", hostname="lb1").config
    found = [(one.scope, len(targets_of(one.check))) for one in requirements(config)]
    assert found == [("node", 1), ("vip web", 1), ("vip web tcp/80", 1)]


@pytest.mark.parametrize(
    ("require", "said"),
    [
        (
            "[tcp]",
            "f:1:18: node.require[0]: a check of tcp needs a real server to check, and there is none here (write",
        ),
        ("[both]", "f:1:18: node.require[0]: a check of tcp needs a real server to check"),
        ("[{type: icmp}]", "f:1:18: node.require[0]: a check of icmp needs a real server to check"),
        (
            "[{type: http, address: 10.1.1.1}]",
            "f:1:18: node.require[0]: a check of http needs a real server to check",
        ),
        ("[zzz]", "f:1:18: node.require[0]: there is no check named 'zzz'"),
        ("aimde", "f:1:17: node.require: there is no check named 'aimde' (did you mean aimed?)"),
    ],
)
def test_what_is_required_must_know_where_to_look(require: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(REQUIRING % require, "f", hostname="lb1")
    (problem,) = caught.value.problems
    assert str(problem).startswith(said), problem


def test_changes_of_rules_and_requirements_are_told() -> None:
    plain = loads(REQUIRING % "[]", hostname="lb1").config
    more = loads((REQUIRING % "[aimed]").replace("[{type: load, max: 4}]", "[]"), hostname="lb1").config
    assert changes(plain, more) == (
        "node: require none -> 1 of aimed",
        "vip web: service tcp/80 require 1 of load -> none",
    )
    assert changes(plain, loads((REQUIRING % "[]").replace("max: 4", "max: 5"), hostname="lb1").config) == (
        "vip web: service tcp/80 require 1 of load, with other settings",
    )


HELD = """\
bgp:
  local_as: 65001
  router_id: 10.2.1.1
  neighbors:
    - {address: 10.2.1.254, remote_as: 65000, families: [ipv4, ipv6]}
  next_hop: {ipv6: "fd00::1"}
checks:
  held: {type: tcp, to: vip}
pools:
  web: {check: held, servers: [{name: rs1, addresses: [10.9.2.1, "fd09::1"]}]}
vips:
  web:
    addresses: [192.0.2.1, 192.0.2.2, "2001:db8::1"]
    services:
      - {port: 80, pool: web}
      - {port: 443, pool: web, check: {type: tcp, to: vip, port: 80}}
"""


def held(old: str = "", new: str = "") -> str:
    assert old in HELD
    return HELD.replace(old, new, 1) if old else HELD


def test_each_address_of_the_vip_of_a_servers_family_is_a_target_and_all_must_hold() -> None:
    config = loads(held(), hostname="lb1").config
    index = indexed(config)
    names = index.names_of(index.targets)
    assert {(str(one.address), one.port, str(one.vip)) for one in names} == {
        ("10.9.2.1", 80, "192.0.2.1"),
        ("10.9.2.1", 80, "192.0.2.2"),
        ("fd09::1", 80, "2001:db8::1"),
    }
    assert {name.users for name in names.values()} == {("web tcp/80", "web tcp/443")}
    four, six = (use.check for use in list(uses(config))[:2])
    assert isinstance(four, Rule)
    assert (four.needed, [part.name for part in four.parts]) == (2, ["192.0.2.1", "192.0.2.2"])
    assert isinstance(six, Target)


def test_a_check_to_the_vip_can_be_a_part_of_a_rule() -> None:
    config = loads(
        held("{type: tcp, to: vip}", "{type: all, of: [{type: icmp}, {type: tcp, to: vip}]}")
    ).config
    rule = next(iter(uses(config))).check
    assert isinstance(rule, Rule)
    inner = rule.parts[1].check
    assert isinstance(inner, Rule)
    assert [part.name for part in inner.parts] == ["192.0.2.1", "192.0.2.2"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "- {port: 80, pool: web}",
            "- {port: 80, pool: web, forwarding: nat}",
            (
                "f:15:43: vips.web.services[0].forwarding: with nat the VIP is in no packet that a real server gets, and "
                "their check is to: vip: a check without it sends what IPVS would (write the check without to: vip, or "
                "forwarding: dr or tunnel)"
            ),
        ),
        (
            "- {port: 80, pool: web}",
            "- {mark: 7, pool: web}",
            (
                "f:15:16: vips.web.services[0].mark: packets with a mark arrive at any port, and the check has no port of its "
                "own (write a check with a port, or a command)"
            ),
        ),
        (
            "    services:",
            "    require: [held]\n    services:",
            (
                "f:14:15: vips.web.require[0]: a check with to: vip needs a real server, and there is none here (move it "
                "to the check of the service, or write it without to: vip)"
            ),
        ),
    ],
)
def test_where_a_check_to_the_vip_cannot_be_is_told_once(old: str, new: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(held(old, new), "f", hostname="lb1")
    assert [str(problem) for problem in caught.value.problems] == [said]


def test_a_check_to_the_vip_is_told_of_in_words() -> None:
    old, new = (loads(held("to: vip", to), hostname="lb1").config for to in ("to: server", "to: vip"))
    assert changes(old, new) == ("vip web: service tcp/80 check to_vip false -> true",)


WITHOUT_CONNECTION = "without TCP there is no connection that could stay open"
NO_TRIPWIRE = [
    ("{type: udp, tripwire: true}", WITHOUT_CONNECTION),
    ("{type: icmp, tripwire: true}", WITHOUT_CONNECTION),
    ("{type: command, argv: [/bin/true], tripwire: true}", WITHOUT_CONNECTION),
    ("{type: idle, tripwire: true}", "an idle check is a tripwire by itself"),
    ("{type: tcp, to: vip, tripwire: true}", "this node has the VIP itself"),
    ("{type: dns, name: a.example, transport: udp, tripwire: true}", "a question over UDP"),
    ("{type: syslog, transport: udp, proof_port: 5140, tripwire: true}", "a message over UDP"),
]


@pytest.mark.parametrize(("check", "said"), NO_TRIPWIRE)
def test_a_tripwire_that_cannot_be_is_refused_with_the_reason(check: str, said: str) -> None:
    (problem,) = problems(check)
    assert "tripwire: " in problem
    assert said in problem
    assert "remove" in problem


ASKED = """\
  a: {{address: 192.0.2.2, port: 53, protocol: {protocol}, check: {check}, servers: [10.9.2.1]}}
checks:
  c: {{type: tcp, port: 53}}
  q: {{type: dns, name: a.example, tripwire: true}}
  both: {{type: all, of: [q, c]}}
"""


def warned(protocol: str, check: str) -> list[str]:
    """Of a second VIP whose check is `check`."""
    head, _, _ = text("tcp").partition("checks:")
    return [
        str(one)
        for one in loads(head + ASKED.format(protocol=protocol, check=check), "f", hostname="lb1").warnings
        if "tripwire" in str(one)
    ]


@pytest.mark.parametrize("check", ["q", "both"])
def test_a_tripwire_of_questions_that_go_over_udp_alone_is_told_of(check: str) -> None:
    (warning,) = warned("udp", check)
    assert warning == (
        "f:10:45: checks.q.tripwire: nothing asks this over TCP, and a question over UDP has no connection that could stay "
        "open (write transport: tcp, or protocol: [udp, tcp] for the service, or remove the line)"
    )


@pytest.mark.parametrize(("protocol", "check"), [("tcp", "q"), ("[udp, tcp]", "both"), ("udp", "c")])
def test_a_tripwire_of_questions_that_go_over_tcp_too_or_are_not_asked_is_right(
    protocol: str, check: str
) -> None:
    assert warned(protocol, check) == []


def test_a_tripwire_of_what_is_required_is_told_of_for_no_service_says_how_it_is_sent() -> None:
    required = "{type: dns, name: a.example, address: 10.9.2.1, port: 53, tripwire: true}"
    found = loads(text("{type: tcp}") + f"node: {{require: [{required}]}}\n", "f", hostname="lb1").warnings
    assert ["require[0].tripwire: nothing asks this over TCP" in str(one) for one in found] == [True]


@pytest.mark.parametrize("key", ["to: vip", "to: server", "full_size: true"])
def test_a_check_that_asks_nothing_at_a_port_is_not_aimed_at_the_vip(key: str) -> None:
    for kind in ("idle", "icmp", "command, argv: [/bin/true]"):
        (problem,) = problems(f"{{type: {kind}, {key}}}")
        assert "only a check that asks something at a port can go to the VIP" in problem
        assert not {"to", "full_size"} & set(CHECKS[kind.partition(",")[0]].model_fields)


def test_a_check_over_tcp_may_have_a_tripwire() -> None:
    for kind in (
        "tcp",
        "http",
        "https",
        "relp",
        "syslog",
        "dns, name: a.example",
        "banner, steps: [{expect: a}]",
    ):
        loaded = loads(text(f"{{type: {kind}, tripwire: true}}"), "f", hostname="lb1")
        (pool,) = {
            service.pool.name: service.pool for vip in loaded.config.vips for service in vip.services
        }.values()
        assert isinstance(pool.check, Check)
        assert pool.check.tripwire
