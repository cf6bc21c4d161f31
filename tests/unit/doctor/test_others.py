"""Connection tracking, the clock and routing daemons, as the doctor judges them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from anycast.core.values.configuration import Forwarding
from anycast.doctor.facts import Facts
from anycast.doctor.finding import Code, Severity
from tests.unit.doctor.node import GOOD, codes, found, serving, sysctls


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
    assert one.fix == "if there is such a rule: `sysctl -w net.ipv4.vs.conntrack=1`"
    assert Code.CONNTRACK_RULES not in codes(tracking(7, conntrack="1"), nat)
    both = replace(nat, vips=(*nat.vips, *serving().vips))
    fix = found(tracking(7), Code.CONNTRACK_RULES, both).fix
    assert "net.ipv4.vs.conntrack=1`, and for the VIPs of the services without nat a chain of" in fix
    assert fix.count("notrack") == 1


def test_stateful_rules_cannot_rest_on_what_passes_one_way() -> None:
    one = found(sysctls(net__ipv4__vs__conntrack="1"), Code.VS_CONNTRACK)
    assert "stateful rules cannot rest on it" in one.text
    assert "notrack" in one.fix


def test_a_chrony_that_may_set_the_clock_at_any_time_is_warned_of() -> None:
    one = found(replace(GOOD, clock_steps="/etc/chrony/chrony.conf:3 (makestep 1 -1)"), Code.CLOCK_STEPS)
    assert one.severity is Severity.WARNING
    assert one.text.startswith(
        "/etc/chrony/chrony.conf:3 (makestep 1 -1) lets chrony set the clock at any time"
    )
    assert "ends every BGP session" in one.text


def test_timesyncd_is_told_of() -> None:
    one = found(replace(GOOD, programs=frozenset({"systemd-timesyn"})), Code.CLOCK_STEPS)
    assert one.severity is Severity.INFO
    assert Code.CLOCK_STEPS not in codes(replace(GOOD, programs=frozenset({"chronyd"})))


@pytest.mark.parametrize("name", ["bgpd", "ospfd", "bird", "gobgpd"])
def test_a_routing_daemon_beside_the_agent_is_told_of(name: str) -> None:
    one = found(replace(GOOD, programs=frozenset({name, "zebra", "bfdd"})), Code.ROUTING_DAEMON)
    assert one.text.startswith(
        f"{name} runs on this node: to it a VIP is a connected route, whatever its scope"
    )
    assert Code.ROUTING_DAEMON not in codes(replace(GOOD, programs=frozenset({"zebra", "bfdd", "exabgp"})))
