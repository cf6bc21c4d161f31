"""The clock and routing daemons, as the doctor judges them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from anycast.doctor.finding import Code, Severity
from tests.unit.doctor.node import CONFIG, GOOD, codes, config, found


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


TABLE = config(CONFIG + "speaker: kernel-table\n")


def test_a_bird_that_is_to_announce_must_run() -> None:
    assert "`systemctl start bird`" in found(GOOD, Code.NO_BIRD, TABLE).fix
    assert Code.NO_BIRD not in codes(replace(GOOD, programs=frozenset({"bird"})), TABLE)
    other = config(CONFIG + "speaker: {type: kernel-table, daemon: other}\n")
    assert Code.NO_BIRD not in codes(GOOD, other)
    assert Code.NO_BIRD not in codes(GOOD)


BFD = config(CONFIG.replace("  neighbors: [", "  bfd: true\n  hold_time: 3\n  neighbors: ["))


def test_a_bfdd_that_is_to_answer_the_routers_must_run() -> None:
    one = found(GOOD, Code.NO_BFDD, BFD)
    assert one.severity is Severity.WARNING
    assert one.text.startswith("no bfdd runs here, and BFD is configured with 10.2.1.254: ")
    assert "the hold time of 3 s" in one.text
    assert "anycast render frr-bfd" in one.fix
    assert Code.NO_BFDD not in codes(replace(GOOD, programs=frozenset({"bfdd"})), BFD)


def test_only_neighbors_with_bfd_need_a_bfdd_and_bird_has_its_own() -> None:
    of_one = config(
        CONFIG.replace(
            "remote_as: 65000}", "remote_as: 65000}, {address: 10.2.1.253, remote_as: 65000, bfd: true}"
        )
    )
    assert "BFD is configured with 10.2.1.253: " in found(GOOD, Code.NO_BFDD, of_one).text
    assert Code.NO_BFDD not in codes(GOOD)
    of_bird = config(
        CONFIG.replace("  neighbors: [", "  bfd: true\n  neighbors: [") + "speaker: kernel-table\n"
    )
    assert Code.NO_BFDD not in codes(GOOD, of_bird)
    of_no_bfd = config(
        CONFIG.replace("remote_as: 65000}", "remote_as: 65000, bfd: true, software: openbgpd 9.3}")
    )
    assert Code.NO_BFDD not in codes(GOOD, of_no_bfd)


def test_bird_does_not_mind_the_clock() -> None:
    facts = replace(GOOD, programs=frozenset({"bird", "systemd-timesyn"}), clock_steps="chrony.conf:3")
    assert Code.CLOCK_STEPS not in codes(facts, TABLE)
