"""Connection tracking and the packet filter, as the doctor reads and judges them. Against real rules: tests/contract."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.cli import rules
from anycast.core.values.configuration import Config, Forwarding
from anycast.doctor import ruleset
from anycast.doctor.facts import Facts, Modules
from anycast.doctor.filter import iptables, nft
from anycast.doctor.filter.rules import NotUnderstoodError, Table
from anycast.doctor.filter.walk import Budget, Packet, SpentError, through
from anycast.doctor.finding import Code, Severity
from anycast.doctor.findings import findings
from anycast.doctor.gather import gather, read_rules
from anycast.render.iptables import iptables_rules
from tests.unit.doctor.node import CONFIG, GOOD, codes, config, found, serving, sysctls

LOADED = Modules(loaded=frozenset({"nf_tables"}))
USUAL = """\
*filter
:INPUT ACCEPT [0:0]
-A INPUT -m conntrack --ctstate INVALID -j DROP
COMMIT
"""


def tracking(count: int, conntrack: str = "0") -> Facts:
    return sysctls(
        net__netfilter__nf_conntrack_count=str(count),
        net__netfilter__nf_conntrack_max="262144",
        net__ipv4__vs__conntrack=conntrack,
        net__ipv4__ip_forward="1",
    )


def test_a_node_that_tracks_connections_is_told_to_leave_the_vips_out() -> None:
    one = found(tracking(1234), Code.CONNTRACK_RULES)
    assert one.severity is Severity.INFO
    assert "(1,234 of 262,144)" in one.text
    assert "FIN and RST of clients" in one.text
    assert "notrack" in one.fix
    assert Code.CONNTRACK_RULES not in codes(tracking(0))
    assert Code.CONNTRACK_RULES not in codes(GOOD)


def test_masqueraded_services_behind_rules_want_their_connections_tracked() -> None:
    nat = serving(forwarding=Forwarding.NAT)
    one = found(tracking(7), Code.CONNTRACK_RULES, nat)
    assert "the answers of masqueraded real servers" in one.text
    assert "net.ipv4.vs.conntrack=1" in one.fix
    assert Code.CONNTRACK_RULES not in codes(tracking(7, conntrack="1"), nat)


MIXED = CONFIG + "  cam: {address: 192.0.2.2, port: 80, servers: ['10.9.2.1:8080'], forwarding: nat}\n"


def test_a_node_with_both_is_told_of_both() -> None:
    def said(conntrack: str) -> dict[str, str]:
        every = findings(tracking(7, conntrack), config(MIXED))
        return {one.text: one.fix for one in every if one.code is Code.CONNTRACK_RULES}

    (nat, sysctl), (direct, notrack) = said("0").items()
    assert "the answers of masqueraded real servers" in nat
    assert sysctl.endswith("the VIPs of all other services must be notrack then")
    assert "FIN and RST of clients" in direct
    assert "notrack" in notrack
    assert list(said("1")) == [direct]


@pytest.mark.parametrize(
    ("count", "severity", "says"),
    [(209_714, None, ""), (209_716, Severity.WARNING, "nearly full"), (262_144, Severity.ERROR, "full")],
)
def test_a_table_of_tracked_connections_that_fills_up_is_told_of_in_time(
    count: int, severity: Severity | None, says: str
) -> None:
    untracked = f"*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -d 192.0.2.1 -j CT --notrack\nCOMMIT\n{USUAL}"
    for text, vips in ((USUAL, "every packet of 192.0.2.1, "), (untracked, ""), (None, "VIPs that are not")):
        tables = filtering(text).packet_filter if text else None
        facts = replace(tracking(count), packet_filter=tables)
        if severity is None:
            assert Code.CONNTRACK_FULL not in codes(facts)
            continue
        one = found(facts, Code.CONNTRACK_FULL)
        assert one.severity is severity
        assert f"is {says} ({count:,} of 262,144)" in one.text
        assert (vips in one.text) == ("notrack for the VIPs" in one.fix) or not vips
        assert ("every packet of" in one.text) == bool(vips)
        assert "net.netfilter.nf_conntrack_max" in one.fix


def test_stateful_rules_cannot_rest_on_what_passes_one_way() -> None:
    one = found(sysctls(net__ipv4__vs__conntrack="1"), Code.VS_CONNTRACK)
    assert "stateful rules cannot rest on it" in one.text
    assert "notrack" in one.fix


def filtering(text: str, family: int = 4) -> Facts:
    tables = tuple(table for _, table in iptables.tables(text, family, "iptables-legacy-save"))
    return replace(GOOD, packet_filter=tables)


def test_a_node_without_rules_has_nothing_to_say() -> None:
    assert codes(replace(GOOD, packet_filter=())) == set()


def test_a_rule_that_drops_closes_is_named_with_the_services() -> None:
    one = found(filtering(USUAL), Code.FIREWALL_DROPS)
    assert one.severity is Severity.WARNING
    assert "`iptables-legacy -t filter -A INPUT -m conntrack --ctstate INVALID -j DROP`" in one.text
    assert "192.0.2.1:80/tcp" in one.text
    assert one.changes == ()


MARKED = CONFIG.replace("port: 80, servers", "services: [{mark: 7, check: {type: tcp, port: 80}}], servers")
MANGLE = "*mangle\n:PREROUTING ACCEPT\n-A PREROUTING -d 192.0.2.1/32 -p tcp -j {}\nCOMMIT\n"


@pytest.mark.parametrize(
    ("target", "set_there"),
    [
        ("MARK --set-xmark 0x7/0xffffffff", True),
        ("MARK --set-mark 7", True),
        ("MARK --set-xmark 0x8/0xffffffff", False),
        ("MARK --set-xmark 0x1/0x3", True),  # who knows what was there before
        ("CONNMARK --restore-mark", True),
        ("CONNMARK --set-xmark 0x7/0xffffffff", False),
        ("ACCEPT", False),
        ("LOG --log-prefix mark", False),
    ],
)
def test_a_firewall_mark_that_no_rule_sets_is_named(target: str, *, set_there: bool) -> None:
    facts = filtering(MANGLE.format(target))
    assert (Code.MARK_UNSET not in codes(facts, config(MARKED))) is set_there
    assert Code.MARK_UNSET not in codes(facts)
    one = found(filtering(MANGLE.format(target), family=6), Code.MARK_UNSET, config(MARKED))
    assert one.severity is Severity.WARNING
    assert "sets the firewall mark 7 of web (IPv4)" in one.text
    assert Code.MARK_UNSET not in codes(replace(GOOD, packet_filter=None), config(MARKED))


@pytest.mark.parametrize("family", ["inet", "netdev"])
@pytest.mark.parametrize(
    ("value", "set_there"),
    [(7, True), (8, False), ({"ct": {"key": "mark"}}, True), ({"map": {"key": 1, "data": "@marks"}}, True)],
)
def test_a_mark_of_nftables_may_be_set_anywhere(family: str, value: object, *, set_there: bool) -> None:
    statement = {"mangle": {"key": {"meta": {"key": "mark"}}, "value": value}}
    place = {"family": family, "table": "t"}
    chain = {"chain": {**place, "name": "c", "type": "filter", "hook": "prerouting", "prio": -150}}
    rule = {"rule": {**place, "chain": "c", "handle": 2, "expr": [{"counter": None}, statement]}}
    tables, _ = nft.tables(json.dumps({"nftables": [chain, rule]}))
    facts = replace(GOOD, packet_filter=tuple(tables))
    assert (Code.MARK_UNSET not in codes(facts, config(MARKED))) is set_there


def test_rules_that_were_not_all_read_are_judged_by_what_is_counted() -> None:
    facts = replace(tracking(7), packet_filter=None)
    assert Code.FIREWALL_DROPS not in codes(facts)
    assert Code.CONNTRACK_RULES in codes(facts)


def test_masqueraded_services_that_somebody_keeps_from_tracking_lose_their_answers() -> None:
    rules = (
        "*raw\n:PREROUTING ACCEPT\n-A PREROUTING -d 192.0.2.0/24 -j CT --notrack\nCOMMIT\n"
        "*filter\n:FORWARD DROP\n-A FORWARD -m conntrack --ctstate INVALID -j DROP\n"
        "-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT\nCOMMIT\n"
    )
    nat = serving(forwarding=Forwarding.NAT)
    sysctls = tracking(7, "1").sysctls
    one = found(replace(filtering(rules), sysctls=sysctls), Code.FIREWALL_DROPS, nat)
    assert "--ctstate INVALID -j DROP` drops answers of 192.0.2.1:80/tcp" in one.text
    assert one.severity is Severity.ERROR
    assert one.fix.startswith("no notrack for these services")
    plain = filtering(rules.replace(" -d 192.0.2.0/24", " -d 198.51.100.0/24"))
    assert Code.FIREWALL_DROPS not in codes(replace(plain, sysctls=sysctls), nat)


CLOSED = "*filter\n:FORWARD DROP\n{}COMMIT\n"
ESTABLISHED = "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n"
TRACKED = "`sysctl -w net.ipv4.vs.conntrack=1`, and for the next boot in /etc/sysctl.d/60-anycast.conf"


def test_answers_that_a_closed_forward_chain_drops_for_want_of_a_state_need_the_sysctl() -> None:
    nat = serving(forwarding=Forwarding.NAT)
    facts = replace(filtering(CLOSED.format(ESTABLISHED)), sysctls=tracking(7).sysctls)
    one = found(facts, Code.FIREWALL_DROPS, nat)
    assert "the policy of chain" in one.text
    assert "drops answers of 10.9.2.1:80/tcp" in one.text
    assert one.fix == TRACKED
    assert Code.FIREWALL_DROPS not in codes(replace(facts, sysctls=tracking(7, "1").sysctls), nat)


def test_answers_that_a_closed_forward_chain_drops_in_any_case_need_a_rule_too_which_goes_by_their_state() -> (
    None
):
    nat = serving(forwarding=Forwarding.NAT)
    facts = replace(filtering(CLOSED.format("")), sysctls=tracking(7).sysctls)
    one = found(facts, Code.FIREWALL_DROPS, nat)
    accept = "a rule before it that accepts them: `anycast render nftables --accept forward`, or `iptables --accept`"
    assert one.fix == f"{TRACKED}; {accept}"
    tracks = tracking(7, "1").sysctls
    assert found(replace(facts, sysctls=tracks), Code.FIREWALL_DROPS, nat).fix == accept
    rules = loaded(("iptables-save", nat), accept=True).packet_filter
    assert rules is not None
    assert Code.FIREWALL_DROPS not in codes(replace(facts, packet_filter=rules, sysctls=tracks), nat)


def test_what_is_lost_of_masqueraded_services_is_not_cured_by_notrack() -> None:
    nat = serving(forwarding=Forwarding.NAT)
    facts = replace(filtering(USUAL), sysctls=tracking(7).sysctls)
    one = found(facts, Code.FIREWALL_DROPS, nat)
    assert "drops FIN, RST and path MTU messages of 192.0.2.1:80/tcp" in one.text
    assert one.fix == TRACKED


@pytest.mark.parametrize("rules", [USUAL, CLOSED.format(ESTABLISHED)])
def test_the_sysctl_is_not_set_before_the_vips_of_others_are_notrack(rules: str) -> None:
    """It would take every new connection of theirs behind such rules."""
    facts = replace(filtering(rules), sysctls=tracking(7).sysctls)
    one = found(facts, Code.FIREWALL_DROPS, config(MIXED))
    assert one.fix.startswith("notrack for the VIPs: `anycast render nftables`")
    assert one.fix.endswith(
        f"for those without masquerading; after that, for the masqueraded ones, {TRACKED}"
    )


def test_the_hook_of_the_rule_that_is_missing_is_named() -> None:
    one = found(filtering("*filter\n:INPUT DROP\nCOMMIT\n"), Code.FIREWALL_DROPS)
    assert one.fix == (
        "a rule before it that accepts them, whatever their state: `anycast render nftables --accept input`, "
        "or `iptables --accept`"
    )


def loaded(*configs: tuple[str, Config], accept: bool = False) -> Facts:
    """A node with rules that were rendered, with iptables alone, for this configuration of a family."""
    tables = []
    for program, one in configs:
        family = 6 if "ip6" in program else 4
        lines = iptables_rules(one, accept=accept).splitlines()
        mine = [line.removeprefix(f"-{family} ") for line in lines if not line.startswith(f"-{10 - family} ")]
        text = "\n".join(line.replace("-I ", "-A ") for line in mine)
        text = text.replace("*raw", "*raw\n:PREROUTING ACCEPT\n:OUTPUT ACCEPT")
        text = text.replace("*filter", "*filter\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT")
        tables += [table for _, table in iptables.tables(text, family, program)]
    return replace(GOOD, packet_filter=tuple(tables))


ROUTER = "neighbors: [{address: 10.2.1.254, remote_as: 65000}]"
SIX = 'next_hop: {ipv6: "fd01::2"}\n  ' + ROUTER.replace("65000", "65000, families: [ipv4, ipv6]")
MORE = (
    CONFIG.replace(ROUTER, SIX)
    + '  new: {address: ["192.0.2.9", "2001:db8::9"], port: 53, protocol: udp, servers: [10.9.2.1, "fd09::1"], check: icmp}\n'
    + "  far: {address: 192.0.2.8, port: 80, servers: [10.9.2.1], forwarding: tunnel}\n"
)


@pytest.mark.parametrize("accept", [False, True])
def test_rendered_rules_that_miss_what_is_configured_are_named(*, accept: bool) -> None:
    both = ("iptables-save", "ip6tables-save")
    old = loaded(*((program, config()) for program in both), accept=accept)
    assert Code.FIREWALL_OUTDATED not in codes(old)
    one = found(old, Code.FIREWALL_OUTDATED, config(MORE))
    assert one.severity is Severity.WARNING
    assert (
        "do not cover 192.0.2.8:80/tcp, 192.0.2.9:53/udp, [2001:db8::9]:53/udp, the real server 10.9.2.1:"
        in one.text
    )
    assert ("--accept --update" in one.fix) == accept
    assert "`ip6tables-restore --noflush" in one.fix
    new = loaded(*((program, config(MORE)) for program in both), accept=accept)
    assert Code.FIREWALL_OUTDATED not in codes(new, config(MORE))
    assert Code.FIREWALL_OUTDATED not in codes(new)  # for a VIP that is not there they do no harm
    # Of the two programs one was forgotten.
    one = found(loaded((both[0], config(MORE)), accept=accept), Code.FIREWALL_OUTDATED, config(MORE))
    assert "do not cover [2001:db8::9]:53/udp: " in one.text


def test_rendered_rules_of_before_a_service_was_masqueraded_are_named() -> None:
    one = found(
        loaded(("iptables-save", config())), Code.FIREWALL_OUTDATED, serving(forwarding=Forwarding.NAT)
    )
    assert "take out of connection tracking, though it is masqueraded, 192.0.2.1:80/tcp" in one.text


def test_answers_that_rendered_rules_do_not_accept_are_named() -> None:
    nat = serving(forwarding=Forwarding.NAT)
    facts = loaded(("iptables-save", nat), accept=True)
    assert Code.FIREWALL_OUTDATED not in codes(facts, nat)
    other = serving(forwarding=Forwarding.NAT, text=CONFIG.replace("10.9.2.2", "10.9.2.7"))
    one = found(facts, Code.FIREWALL_OUTDATED, other)
    assert "do not cover the real server 10.9.2.7:80/tcp: " in one.text


def test_a_mark_that_is_masqueraded_beside_one_that_is_not_loses_its_answers() -> None:
    """With the rules as they are rendered, which is warned of there too."""
    services = (
        "[{mark: 7, check: {type: tcp, port: 80}}, {mark: 8, forwarding: nat, check: {type: tcp, port: 80}}]"
    )
    asked = config(CONFIG.replace("port: 80, servers", f"services: {services}, servers"))
    ours = loaded(("iptables-save", asked)).packet_filter
    own = filtering("*filter\n:FORWARD ACCEPT\n-A FORWARD -m conntrack --ctstate INVALID -j DROP\nCOMMIT\n")
    facts = replace(
        own, packet_filter=(*(ours or ()), *(own.packet_filter or ())), sysctls=tracking(7, "1").sysctls
    )
    one = found(facts, Code.FIREWALL_DROPS, asked)
    assert "drops answers of 192.0.2.1 (firewall mark)" in one.text
    assert "unless the VIP has a firewall mark" in one.fix
    assert Code.FIREWALL_OUTDATED not in codes(facts, asked)


def test_a_rule_that_may_accept_stands_beside_one_that_drops_for_a_state() -> None:
    one = found(
        filtering(USUAL.replace("-A INPUT -m", "-A INPUT -s 10.0.0.0/8 -j ACCEPT\n-A INPUT -m")),
        Code.FIREWALL_DROPS,
    )
    assert (
        "unless `iptables-legacy -t filter -A INPUT -s 10.0.0.0/8 -j ACCEPT` accepts them before" in one.text
    )


def test_a_chain_that_logs_and_drops_what_a_state_sends_there_drops_for_that_state() -> None:
    text = USUAL.replace(
        "-j DROP", "-j LOGDROP\n-A LOGDROP -m limit --limit 5/min -j LOG\n-A LOGDROP -j DROP"
    )
    one = found(filtering(text.replace("COMMIT", ":LOGDROP - [0:0]\nCOMMIT")), Code.FIREWALL_DROPS)
    assert "-A LOGDROP -j DROP` drops FIN, RST and path MTU messages" in one.text
    assert "notrack" in one.fix


@pytest.mark.parametrize(
    "rule",
    [
        "-A INPUT -s 10.0.0.0/8 -m conntrack --ctstate INVALID -j DROP",
        "-A INPUT ! -i lo -p tcp -m tcp ! --dport 80 -j DROP",
        "-A INPUT -i lan+ -j DROP",
        "-A INPUT -m set --match-set banned src -j DROP",
        "-A INPUT -m hashlimit --hashlimit-above 5/sec --hashlimit-name a -j DROP",
        "-A INPUT -p tcp -m tcp --tcp-flags FIN,SYN,RST,PSH,ACK,URG NONE -j DROP",
        '-A INPUT -j LOG --log-prefix "a -j DROP"',
        "-A INPUT -p icmp -m icmp --icmp-type 8 -j DROP",
    ],
)
def test_a_rule_for_others_is_no_loss(rule: str) -> None:
    found = codes(filtering(f"*filter\n:INPUT ACCEPT [0:0]\n{rule}\nCOMMIT\n"))
    assert Code.FIREWALL_DROPS not in found
    assert (Code.CONNTRACK_RULES in found) == ("conntrack" in rule)


def test_chains_that_call_each_other_and_more_rules_than_there_is_time_for_end() -> None:
    text = "*filter\n:INPUT ACCEPT\n:A -\n:B -\n-A INPUT -j A\n-A A -j B\n-A B -j A\n-A B -g A\nCOMMIT\n"
    assert codes(filtering(text)) == set()
    packet = Packet(family=4, values={}, tracked="new")
    (table,) = (one for _, one in iptables.tables(text, 4, "iptables-save"))
    with pytest.raises(SpentError):
        through([table], "input", packet, Budget(left=3))


# What is read.


def say(root: Path, program: str, text: str = "", *, status: int = 0, then: str = "") -> None:
    file = root / "usr/sbin" / program
    file.parent.mkdir(parents=True, exist_ok=True)
    file.with_suffix(".text").write_text(text)
    file.write_text(f"#!/bin/sh\ncat {file.with_suffix('.text')}\n{then}\nexit {status}\n")
    file.chmod(0o755)


def names(root: Path, text: str, file: str = "ip_tables_names") -> None:
    (root / "proc/net").mkdir(parents=True, exist_ok=True)
    (root / "proc/net" / file).write_text(text)


def read(root: Path, modules: Modules = LOADED, **limits: Any) -> tuple[tuple[Table, ...] | None, list[str]]:
    tables, unread = ruleset.read(root, modules, **limits)
    return tables, [f"{one.what}: {one.why}" for one in unread]


NOTHING = json.dumps({"nftables": [{"metainfo": {}}]})


def test_where_the_kernel_has_no_filter_no_program_is_asked(tmp_path: Path) -> None:
    assert read(tmp_path, Modules(available=frozenset({"nf_tables"}))) == ((), [])
    names(tmp_path, "")
    assert read(tmp_path, Modules()) == ((), [])


def test_what_may_not_be_loaded_is_not_loaded_by_asking(tmp_path: Path) -> None:
    nobody_knows = Modules(built_in=None, available=None)
    say(tmp_path, "nft", NOTHING)
    assert read(tmp_path, nobody_knows) == ((), [])  # a kernel without modules
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/modules").write_text("")
    tables, (why,) = read(tmp_path, nobody_knows)
    assert tables is None
    assert why == "rules of nftables: nf_tables may not be loaded, and asking would load it"


@pytest.mark.parametrize(
    ("prepare", "why"),
    [
        (lambda _: None, "there is no program nft"),
        (
            lambda root: say(
                root, "nft", status=1, then="echo 'Operation not permitted (you must be root)' >&2"
            ),
            "nft: Operation not permitted (you must be root)",
        ),
        (lambda root: say(root, "nft", status=7), "nft: exit status 7"),
        (lambda root: say(root, "nft", then="sleep 60"), "nft did not end within 0.5 s"),
        (lambda root: say(root, "nft", "x" * 3_000_000, then="sleep 60"), "nft says more than 2 MiB"),
        (lambda root: say(root, "nft", "no JSON"), "what it says was not understood (JSONDecodeError"),
        (lambda root: say(root, "nft", "[]"), "what it says was not understood (TypeError"),
    ],
    ids=["no program", "no rights", "failed", "hangs", "endless", "no JSON", "another"],
)
def test_what_could_not_be_seen_is_said(prepare: Any, why: str, tmp_path: Path) -> None:
    prepare(tmp_path)
    tables, (said,) = read(tmp_path, most=2 * 1024 * 1024, deadline=0.5 if "0.5" in why else 60.0)
    assert tables is None
    assert said.startswith(f"rules of nftables: {why}")


def test_tables_of_iptables_nft_are_asked_of_iptables(tmp_path: Path) -> None:
    rule = {
        "family": "ip",
        "table": "filter",
        "chain": "INPUT",
        "handle": 3,
        "expr": [{"xt": {"name": "conntrack"}}],
    }
    say(tmp_path, "nft", json.dumps({"nftables": [{"rule": rule}]}))
    _, (why,) = read(tmp_path)
    assert why == "rules of nftables: there is no program iptables-nft-save"
    say(tmp_path, "iptables-nft-save", "*nat\nCOMMIT\n" + USUAL)
    tables, unread = read(tmp_path)
    assert unread == []
    assert tables is not None
    assert [one.families for one in tables] == [frozenset({4})]
    assert tables[0].stateful


def test_legacy_tables_are_asked_for_where_there_are_some(tmp_path: Path) -> None:
    say(tmp_path, "nft", NOTHING)
    names(tmp_path, "filter\n")
    names(tmp_path, "", "ip6_tables_names")
    _, (why,) = read(tmp_path)
    assert why == "rules of iptables: the tables filter are there, and no program iptables-legacy-save"
    say(tmp_path, "xtables-nft-multi", "*filter\nCOMMIT\n")
    (tmp_path / "usr/sbin/iptables-save").symlink_to("xtables-nft-multi")
    assert read(tmp_path) == (None, [why])
    (tmp_path / "usr/sbin/iptables-save").unlink()
    say(tmp_path, "iptables-save", USUAL)
    tables, unread = read(tmp_path)
    assert (len(tables or ()), unread) == (1, [])
    say(tmp_path, "iptables-legacy-save", USUAL)
    tables, unread = read(tmp_path)
    assert (len(tables or ()), unread) == (1, [])
    say(tmp_path, "iptables-legacy-save", USUAL.replace("-m conntrack --ctstate INVALID", "-d 300.1.1.1"))
    tables, (why,) = read(tmp_path)
    assert tables is None
    assert "not understood" in why


def test_what_a_reload_sees_is_what_can_be_read(tmp_path: Path) -> None:
    """As the agent's user, who may not read which legacy tables there are."""
    table = json.dumps(
        {"nftables": [{"chain": {"family": "inet", "table": "anycast", "name": "prerouting"}}]}
    )
    say(tmp_path, "nft", table)
    (tmp_path / "sys/module/nf_tables").mkdir(parents=True)
    names(tmp_path, "raw\n")
    assert asyncio.run(gather(config(), tmp_path)).packet_filter is None
    (one,) = read_rules(tmp_path, deadline=60.0)
    assert "prerouting" in one.chains
    (file := tmp_path / "anycast.yaml").write_text(CONFIG)
    (warning,) = rules.outdated(file, tmp_path)
    assert "do not cover 192.0.2.1:80/tcp" in warning
    say(tmp_path, "nft", NOTHING)
    assert list(rules.outdated(file, tmp_path)) == []


def test_the_node_is_read_with_its_rules(tmp_path: Path) -> None:
    say(tmp_path, "nft", NOTHING)
    (tmp_path / "sys/module/nf_tables").mkdir(parents=True)
    assert asyncio.run(gather(config(), tmp_path)).packet_filter == ()
    (tmp_path / "usr/sbin/nft").unlink()
    facts = asyncio.run(gather(config(), tmp_path))
    assert facts.packet_filter is None
    assert [one.why for one in facts.unread if one.what == "rules of nftables"] == ["there is no program nft"]


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["rule", "expr", "@a", "ip", "daddr", "accept", "x"]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(
            ["rule", "chain", "set", "family", "table", "name", "handle", "expr", "match", "left", "right", "op", "vmap",
             "key", "data", "payload", "protocol", "field", "ct", "concat", "elem", "val", "prefix", "addr", "len", "range",
             "&", "|", "jump", "target", "hook", "prio", "type", "policy"]
        ),
        inner,
        max_size=5,
    ),
    max_leaves=40,
)  # fmt: skip


@given(st.lists(_json, max_size=6))
def test_whatever_nft_says_is_rules_or_not_understood(listed: list[object]) -> None:
    with contextlib.suppress(NotUnderstoodError):
        nft.tables(json.dumps({"nftables": listed}))


_words = st.sampled_from(
    [
        "-A",
        "INPUT",
        "-j",
        "-g",
        "ACCEPT",
        "DROP",
        "X",
        "!",
        "-d",
        "192.0.2.1",
        "-p",
        "tcp",
        "--dport",
        "80",
        "80:90",
        "-m",
        "--ctstate",
        "INVALID",
        "--tcp-flags",
        "SYN",
        "ALL",
        "-",
        "--icmp-type",
        "3/4",
        "any",
        "'",
    ]
)


@given(st.lists(st.lists(_words, max_size=9).map(" ".join), max_size=6))
def test_whatever_iptables_says_is_rules_or_not_understood(lines: list[str]) -> None:
    text = "\n".join(["*filter", ":INPUT DROP [0:0]", *(f"-A INPUT {line}" for line in lines), "COMMIT"])
    try:
        tables = [one for _, one in iptables.tables(text, 4, "iptables-save")]
    except NotUnderstoodError:
        return
    packet = Packet(family=4, values={"protocol": 6, "tcp.flags": 2}, tracked="new")
    with contextlib.suppress(SpentError):  # of chains that jump to each other
        through(tables, "input", packet, Budget())
