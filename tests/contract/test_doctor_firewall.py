"""What the doctor says of rules that are really loaded, by nft and by both kinds of iptables."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from anycast.cli import rules
from anycast.config.load import load, loads
from anycast.core.values.configuration import Config
from anycast.doctor import ruleset
from anycast.doctor.facts import Facts, Modules
from anycast.doctor.finding import Code, Finding, Severity
from anycast.doctor.firewall import firewall
from anycast.render.firewall import Hook
from anycast.render.iptables import iptables_rules
from anycast.render.nftables import nftables_accept, nftables_conf
from tests.contract.namespaces import network_namespace, run

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="no nft: lab/install brings it"),
]

FIREWALLD = sorted((Path(__file__).parent / "firewalld").glob("*.json"))  # `nft -j list ruleset`

BGP = """\
node: {name: lb1}
bgp: {local_as: 65001, router_id: 10.2.1.1, neighbors: [{address: 10.2.1.254, remote_as: 65000}]}
vips:
"""
DIRECT = BGP + "  web: {address: 192.0.2.1, port: 80, servers: [10.9.2.1], check: tcp}\n"
TUNNEL = (
    BGP
    + "  web: {address: 192.0.2.1, port: 80, servers: [10.9.2.1], check: tcp, forwarding: tunnel, tunnel: gue}\n"
)
NAT = BGP + "  web: {address: 192.0.2.1, port: 80, servers: ['10.9.2.1:8080'], check: tcp, forwarding: nat}\n"
DNS = (
    BGP
    + "  dns: {address: 192.0.2.1, port: 53, protocol: udp, servers: [10.9.2.1], check: {type: dns, name: a.example}}\n"
)
BUILT_IN = Modules(built_in=frozenset({"nf_tables"}), available=frozenset())


def rules_of(text: str) -> None:
    run("nft", "-f", "-", stdin=text)


def iptables(backend: str, text: str) -> None:
    for family, icmp in (("ip", "icmp"), ("ip6", "ipv6-icmp")):
        run(f"{family}tables-{backend}-restore", stdin=text.replace("ICMP", icmp))


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    with network_namespace():
        yield


def said(config: Config, *, conntrack: str = "0") -> list[Finding]:
    tables, unread = ruleset.read(Path("/"), BUILT_IN)
    assert unread == []
    sysctls = {
        "net.ipv4.vs.conntrack": conntrack,
        "net.netfilter.nf_conntrack_count": "7",
        "net.netfilter.nf_conntrack_max": "1000",
    }
    facts = Facts(
        release="6.1", root=True, sysctls=sysctls, packet_filter=tables, uplinks=frozenset({"up0", "up1"})
    )
    return list(firewall(facts, config))


def drops(config: str, *, conntrack: str = "0") -> list[str]:
    return [
        one.text for one in said(loads(config).config, conntrack=conntrack) if one.code is Code.FIREWALL_DROPS
    ]


USUAL = """
table inet own {
    chain input {
        type filter hook input priority filter; policy drop;
        ct state invalid drop
        ct state established,related accept
        iif lo accept
        tcp dport { 80, 179 } accept
        meta l4proto { icmp, icmpv6 } accept
    }
}
"""
OLD = """\
*filter
:INPUT DROP
:FORWARD ACCEPT
:OUTPUT ACCEPT
-A INPUT -m conntrack --ctstate INVALID -j DROP
-A INPUT -m state --state RELATED,ESTABLISHED -j ACCEPT
-A INPUT -i lo -j ACCEPT
-A INPUT -p ICMP -j ACCEPT
-A INPUT -p tcp -m multiport --dports 80,179 -j ACCEPT
-A INPUT -j REJECT
COMMIT
"""
SYNS = "-A INPUT -p tcp -m multiport --dports 80,179 -j ACCEPT"
WAYS: dict[str, Callable[[], None]] = {
    "nft": partial(rules_of, USUAL),
    "iptables-legacy": partial(iptables, "legacy", OLD),
    "iptables-nft": partial(iptables, "nft", OLD),
}


@pytest.mark.parametrize("load_rules", WAYS.values(), ids=WAYS)
def test_the_usual_firewall_loses_closes_and_with_tracking_everything(load_rules: Callable[[], None]) -> None:
    load_rules()
    (one,) = drops(DIRECT)
    assert "INVALID -j DROP`" in one or "`ct state invalid drop` (inet own input, handle " in one
    assert "drops FIN, RST and path MTU messages of 192.0.2.1:80/tcp" in one
    (one,) = drops(DIRECT, conntrack="1")
    assert "drops data, FIN, RST and path MTU messages" in one


@pytest.mark.parametrize("load_rules", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("rendered", ["nftables", "iptables-legacy", "iptables-nft"])
@pytest.mark.parametrize("conntrack", ["0", "1"])
def test_with_the_rendered_rules_nothing_is_said(
    load_rules: Callable[[], None], rendered: str, conntrack: str
) -> None:
    load_rules()
    for text in (DIRECT, TUNNEL):
        config = loads(text).config
        if rendered == "nftables":
            rules_of(nftables_conf(config))
        else:
            for family in ("ip", "ip6"):
                run(f"{family}{rendered[2:]}-restore", "--noflush", stdin=iptables_rules(config))
        assert said(config, conntrack=conntrack) == []


EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))


def render(kind: str, config: Config) -> None:
    if kind == "nftables":
        rules_of(nftables_conf(config))
        return
    backend, _, options = kind.partition(" ")
    rules = iptables_rules(config, accept=options == "--accept")
    for family in ("ip", "ip6"):
        run(f"{family}tables-{backend}-restore", "--noflush", stdin=rules)


KINDS = ["nftables", "legacy", "nft", "legacy --accept", "nft --accept"]


def outdated(config: Config) -> list[str]:
    return [one.text for one in said(config) if one.code is Code.FIREWALL_OUTDATED]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda one: one.stem)
def test_what_has_just_been_rendered_and_loaded_covers_every_example(example: Path, kind: str) -> None:
    config = load(example, hostname="lb1").config
    render(kind, config)
    assert outdated(config) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_mark_beside_a_masqueraded_port_is_covered(kind: str) -> None:
    services = "[{mark: 7, check: {type: tcp, port: 80}}, {port: 81, forwarding: nat, check: tcp}]"
    config = loads(BGP + f"  web: {{address: 192.0.2.1, servers: [10.9.2.1], services: {services}}}\n").config
    rules_of(USUAL)
    assert [one for one in said(config, conntrack="1") if one.code is Code.MARK_UNSET] != []
    rules_of(
        "table inet marks { chain pre { type filter hook prerouting priority mangle;"
        " ip daddr 192.0.2.1 tcp dport { 80, 443 } meta mark set 7; }; }"
    )
    render(kind, config)
    assert [one for one in said(config, conntrack="1") if one.code is not Code.FIREWALL_DROPS] == []
    assert outdated(loads(DIRECT.replace("2.1,", "2.9,")).config) != []


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_chains_that_nothing_jumps_to_are_named_with_the_lines_that_do(backend: str) -> None:
    """As when `--accept` comes with an update, or an update is loaded where nothing was."""
    config = loads(DIRECT).config
    render(backend, config)
    for family in ("ip", "ip6"):
        update = iptables_rules(config, accept=True, update=True)
        run(f"{family}tables-{backend}-restore", "--noflush", stdin=update)
    (one,) = (one for one in said(config) if one.code is Code.FIREWALL_OUTDATED)
    assert one.text.startswith("nothing jumps to ANYCAST-FORWARD, ANYCAST-INPUT, ANYCAST-OUTPUT: ")
    lines = [line.strip("`") for line in one.fix.split(", ")]
    assert len(lines) == 6
    for line in lines:
        run(*line.split())
    assert said(config) == []


@pytest.mark.parametrize("kind", KINDS)
def test_rules_of_before_the_configuration_changed_are_named(kind: str) -> None:
    more = (
        DIRECT
        + "  more: {address: 192.0.2.2, services: [{port: 80}, {port: 81}], servers: [10.9.2.2], check: tcp}\n"
        + "  far: {address: 192.0.2.3, port: 80, servers: [10.9.2.3], check: tcp, forwarding: tunnel}\n"
    )
    assert outdated(loads(more).config) == []  # no rules of ours
    render(kind, loads(DIRECT).config)
    assert outdated(loads(DIRECT).config) == []
    (one,) = outdated(loads(more).config)
    assert (
        "do not cover 192.0.2.2:80/tcp, 192.0.2.2:81/tcp, 192.0.2.3:80/tcp, the real server 10.9.2.3: " in one
    )
    (one,) = outdated(loads(NAT).config)[-1:]
    assert "though it is masqueraded, 192.0.2.1:80/tcp" in one


def test_a_reload_says_that_rules_are_to_be_rendered_again(tmp_path: Path) -> None:
    (file := tmp_path / "anycast.yaml").write_text(DIRECT)
    rules_of(USUAL)
    assert list(rules.outdated(file)) == []
    render("nftables", loads(DIRECT).config)
    assert list(rules.outdated(file)) == []
    file.write_text(DIRECT.replace("port: 80", "services: [{port: 80}, {port: 443}]"))
    (one,) = rules.outdated(file)
    assert (
        "do not cover 192.0.2.1:443/tcp: the configuration has changed since; render the firewall rules again: `anycast render nftables -o"
        in one
    )
    file.write_text("vips: [")
    assert list(rules.outdated(file)) == []
    file.unlink()
    assert list(rules.outdated(file)) == []


def test_rules_that_ask_for_new_connections_lose_what_is_untracked() -> None:
    """As on many a node: notrack alone would make it worse, and the doctor says what is missing."""
    iptables("legacy", OLD.replace(SYNS, "-A INPUT -p tcp -m state --state NEW --dport 80 -j ACCEPT"))
    config = loads(DIRECT).config
    (one,) = drops(DIRECT)
    assert "FIN, RST" in one
    run("iptables-legacy-restore", "--noflush", stdin=iptables_rules(config))
    (finding,) = said(config)
    assert finding.severity is Severity.ERROR
    assert "-A INPUT -j REJECT" in finding.text
    assert "drops SYN, data, FIN and RST" in finding.text
    assert "--accept" in finding.fix
    run("iptables-legacy-restore", "--noflush", stdin=iptables_rules(config, accept=True))
    assert said(config) == []


def test_what_is_accepted_before_any_state_passes_and_is_told_of_the_tables_bound(tmp_path: Path) -> None:
    config = loads(DIRECT).config
    own = []
    hooks: tuple[Hook, ...] = ("input", "output")
    for hook in hooks:
        file = tmp_path / f"{hook}.nft"
        file.write_text(nftables_accept(config, hook))
        chain = f'type filter hook {hook} priority filter; policy drop;\n include "{file}"\n ct state invalid drop\n'
        own.append(f"chain {hook} {{\n {chain} }}\n")
    rules_of("table inet own {\n" + "".join(own) + "}\n")
    (one,) = said(config)
    assert one.code is Code.CONNTRACK_RULES
    assert "(7 of 1,000)" in one.text
    assert "192.0.2.1" in one.text


def test_an_output_chain_that_knows_nothing_of_direct_routing_is_named() -> None:
    rules_of(
        "table inet own { chain out { type filter hook output priority 0; policy drop; ct state established accept; }; }"
    )
    (one,) = drops(DIRECT)
    assert "the policy of chain inet own out drops SYN, data, FIN and RST" in one
    (one,) = drops(TUNNEL)
    assert "wrapped packets" in one
    assert "the real server 10.9.2.1" in one


def test_masquerading_behind_stateful_forward_rules_needs_the_sysctl() -> None:
    rules_of(
        USUAL
        + "table ip fw { chain forward { type filter hook forward priority 0; policy drop;\n"
        + " ct state vmap { invalid : drop, established : accept, related : accept }\n }\n}\n"
    )
    found = [one for one in said(loads(NAT).config) if "answers" in one.text]
    assert [one.severity for one in found] == [Severity.ERROR]
    assert "ip fw forward, handle" in found[0].text
    assert "10.9.2.1:8080/tcp" in found[0].text
    assert "net.ipv4.vs.conntrack=1" in found[0].fix
    assert said(loads(NAT).config, conntrack="1") == []


def test_new_but_no_syn_is_a_drop_for_a_state_too() -> None:
    rules_of(
        "table inet own { chain input { type filter hook input priority 0; policy accept;\n"
        "tcp flags & (fin|syn|rst|ack) != syn ct state new counter log drop\n }\n}\n"
    )
    (one,) = drops(DIRECT)
    assert "drops data of 192.0.2.1:80/tcp" in one
    rules_of(nftables_conf(loads(DIRECT).config))
    assert drops(DIRECT) == []


@pytest.mark.parametrize(
    "rule",
    [
        "ip saddr 10.0.0.0/8 accept",  # who the clients are is not known
        "meta mark 7 accept",
        "tcp dport 80 ip saddr 10.0.0.0/8 accept",
        "iifname { up0, up1 } tcp dport 80 accept",
        "iifname up* accept",
        "iifname vmap { up0 : jump world, up1 : goto world, lo : accept }",
        "ip daddr . tcp dport { 192.0.2.0/24 . 80-90, 192.0.2.7 . 22 } accept",
        "tcp dport vmap { 22 : drop, 80 : accept }",
        "meta nfproto ipv4 meta l4proto 6 th dport 80 accept",
        "ip daddr @vips accept",
        "tcp dport != { 80, 443 } drop",
        "ct mark 3 drop",
        "ip saddr @banned drop",
        "ct state new limit rate over 10/second drop",
    ],
)
def test_what_may_pass_or_is_for_others_is_not_told_as_lost(rule: str) -> None:
    drop = "accept" if rule.endswith("drop") else "drop"
    rules_of(
        "table inet own {\n"
        " set vips { type ipv4_addr; flags interval; elements = { 192.0.2.0/28 }; }\n"
        " set banned { type ipv4_addr; flags timeout; elements = { 198.51.100.1 timeout 1h }; }\n"
        " chain world { tcp dport 80 accept; }\n"
        f" chain input {{ type filter hook input priority 0; policy {drop};\n iif lo accept\n {rule}\n"
        " meta l4proto icmp icmp type { echo-request, destination-unreachable } limit rate 4/second accept\n }\n}\n"
    )
    assert drops(DIRECT) == []


def test_what_is_for_other_ports_and_interfaces_does_not_save_ours() -> None:
    rules_of(
        "table inet own { chain input { type filter hook input priority 0; policy drop;\n"
        "iifname lan0 accept\ntcp dport { 22, 443 } accept\nip daddr 192.0.2.2 accept\nip6 nexthdr tcp accept\n"
        "udp dport 80 accept\nmeta l4proto icmp accept\n }\n}\n"
    )
    (one,) = drops(DIRECT)
    assert "the policy of chain inet own input drops SYN, data, FIN and RST of 192.0.2.1:80/tcp" in one


def test_datagrams_are_lost_by_a_closed_port_and_not_by_their_state() -> None:
    rules_of(USUAL)
    (one,) = [text for text in drops(DNS) if "drops packets" in text]
    assert "the policy of chain inet own input drops packets of 192.0.2.1:53/udp" in one


@pytest.mark.parametrize("recorded", FIREWALLD, ids=lambda one: one.stem)
def test_firewalld_loses_closes_until_the_vips_are_untracked(recorded: Path) -> None:
    """What each version has loaded for a public zone with up0 and port 80."""
    run("nft", "-j", "-f", str(recorded))
    (one,) = drops(DIRECT)
    assert "`ct state invalid drop` (inet firewalld filter_INPUT, handle " in one
    assert "drops FIN and RST of 192.0.2.1:80/tcp" in one.replace(
        "FIN, RST and path MTU messages", "FIN and RST"
    )
    rules_of(nftables_conf(loads(DIRECT).config))
    assert drops(DIRECT) == []
    closed, invalid = sorted(
        drops(DIRECT.replace("port: 80", "port: 81")), key=lambda text: "invalid" in text
    )
    assert "inet firewalld filter_" in closed
    assert "drops SYN and data of" in closed
    assert "drops FIN and RST of" in invalid


def test_nothing_is_changed_by_looking() -> None:
    rules_of(USUAL)
    iptables("nft", OLD)
    before = run("nft", "-a", "list", "ruleset")
    drops(DIRECT)
    assert run("nft", "-a", "list", "ruleset") == before
