"""The status as one line for Nagios: what is critical, what is a warning, and the figures."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from anycast import __version__
from anycast.cli import text
from anycast.cli.nagios import State, report, unknown
from anycast.core import events as ev
from anycast.core.in_force import AS_WRITTEN, InForce
from anycast.core.maintenance.stages import Maintenance
from anycast.core.values.report import NeighborState
from anycast.ops.status import document
from anycast.ops.strain import Strain
from tests.unit.ops.node import CONFIG, REFUSED, ROUTER, ROUTER6, Node, healthy

ON = Maintenance(reason="new | disks", by="root", since=1_800_000_000.0)


def said(node: Node, *, force: InForce = AS_WRITTEN) -> tuple[State, str]:
    return report(
        document(node.state, now=node.now, wall=time.time(), version=__version__, pid=1, force=force)
    )


def test_all_is_well_in_one_line_with_its_figures() -> None:
    state, line = said(healthy())
    text, figures = line.split(" | ")
    assert (state, text) == (State.OK, "ANYCAST OK: 2 of 2 VIPs acknowledged by ExaBGP")
    assert figures == (
        "announced=2;;;0;2 servers=10;;;0;10 sessions=2;;;0;2 connections=0;;;0 maintenance=0;;;0"
    )


def test_a_vip_that_is_not_announced_is_critical_and_says_why() -> None:
    node = healthy()
    node.probe("10.9.2.1", "10.9.2.2")
    node.report()
    state, line = said(node)
    assert state is State.CRITICAL
    assert line.startswith("ANYCAST CRITICAL: web not announced (below_quorum: ")
    assert "; mail not announced (below_quorum: " in line
    assert "; 0 of 2 VIPs acknowledged by ExaBGP | announced=0;;;0;2 " in line
    assert " servers=4;;;0;10 " in line


def test_no_plugin_and_no_kernel_are_critical() -> None:
    node = healthy()
    node.send(ev.PluginLost(source=1))
    assert said(node)[0] is State.CRITICAL
    assert "no plugin is connected" in said(node)[1]
    node = healthy()
    node.send(ev.KernelFailed(reason="no right to it"))
    assert said(node)[0] is State.CRITICAL
    assert "ANYCAST CRITICAL: kernel unavailable: no right to it" in said(node)[1]


def test_what_somebody_did_on_purpose_is_a_warning() -> None:
    node = healthy()
    node.send(ev.MaintenanceSet(scope="web", entry=ON))
    node.report()
    state, line = said(node)
    assert state is State.WARNING
    # A bar would begin the figures.
    assert line.startswith("ANYCAST WARNING: web in maintenance (new / disks); ")
    assert line.count("|") == 1
    assert line.endswith("maintenance=1;;;0")


def test_a_server_that_is_down_behind_a_vip_that_is_up_is_a_warning() -> None:
    node = healthy()
    node.probe("fd00:9:2::1")
    state, line = said(node)
    assert state is State.WARNING
    assert "web tcp/80: 1 of 4 servers down (rs1); web tcp/443: 1 of 4 servers down (rs1); 2 of 2" in line


def test_a_drained_server_is_told_as_drained_and_not_as_down() -> None:
    node = healthy()
    node.send(ev.MaintenanceSet(scope="web/rs1", entry=ON))
    state, line = said(node)
    assert state is State.WARNING
    assert "web/rs1 drained (new / disks); " in line
    assert "servers down" not in line


def test_a_check_that_cannot_run_and_a_refused_reload_are_warnings() -> None:
    node = healthy()
    node.probe("10.9.2.1", unknown=True)
    assert said(node)[0] is State.WARNING
    assert "checks could not run" in said(node)[1]
    state, line = said(healthy(), force=REFUSED)
    assert state is State.WARNING
    assert "the changed configuration was refused, the previous one is in force: anycast.yaml:4:19: " in line


def test_a_node_without_vips_is_no_success() -> None:
    state, line = said(healthy(replace(CONFIG, vips=())))
    assert state is State.WARNING
    assert "no VIP is configured; 0 of 0 VIPs acknowledged" in line


def test_one_session_of_two_is_a_warning_and_none_is_critical() -> None:
    both = tuple(replace(one, families=frozenset({4, 6})) for one in CONFIG.bgp.neighbors)
    node = healthy(replace(CONFIG, bgp=replace(CONFIG.bgp, neighbors=both)))
    up = NeighborState(address=ROUTER, state="up", changed=node.now)
    node.report(neighbors=(up, NeighborState(address=ROUTER6, state="down", changed=node.now)))
    assert said(node)[0] is State.WARNING
    assert f"session {ROUTER6} down (carries ipv4 and ipv6); " in said(node)[1]
    assert " sessions=1;;;0;2 " in said(node)[1]
    node.report(neighbors=())
    assert said(node)[0] is State.CRITICAL
    assert f"session {ROUTER6}" not in said(node)[1]


def test_a_family_without_a_session_is_critical_for_the_vips_that_have_it() -> None:
    node = healthy()
    up = NeighborState(address=ROUTER, state="up", changed=node.now)
    node.report(neighbors=(up, NeighborState(address=ROUTER6, state="down", changed=node.now)))
    state, line = said(node)
    assert state is State.CRITICAL
    assert f"web not announced (healthy: no BGP session that carries IPv6 is up ({ROUTER6} down)); " in line
    assert "; 1 of 2 VIPs acknowledged by ExaBGP" in line


def test_an_exabgp_that_does_not_answer_is_critical() -> None:
    node = healthy()
    node.report(silent_since=node.now)
    node.now += 4.0
    state, line = said(node)
    assert state is State.CRITICAL
    assert line.startswith(
        "ANYCAST CRITICAL: ExaBGP (pid 4711) has not answered for 4 s: routers drop its routes within the hold time; web "
        "not known to be announced ("
    )
    assert "does not answer" not in line, "what stands is said once"
    assert " sessions=0;;;0;2 " in line


def test_of_many_problems_five_are_told_and_the_rest_counted() -> None:
    node = healthy()
    for scope in ("", "web", "mail", "web/rs1", "web/rs2", "mail/rs1", "mail/rs2"):
        node.send(ev.MaintenanceSet(scope=scope, entry=ON))
    _, line = said(node)
    assert line.count("new / disks") == 5
    assert "; and 2 more; " in line


@pytest.mark.parametrize("why", ["no agent answers", "two\nlines | a bar"])
def test_unknown_is_one_line_without_figures(why: str) -> None:
    state, line = unknown(why)
    assert state == 3
    assert line.startswith("ANYCAST UNKNOWN: ")
    assert "\n" not in line
    assert "|" not in line


def test_an_overload_is_a_warning_that_says_what_took_long() -> None:
    node = healthy()
    overload = Strain().took("a reload", 1.25, ttl=2.0, now=node.now).overload
    found = document(
        node.state, now=node.now, wall=time.time(), version=__version__, pid=1, overload=overload
    )
    state, line = report(found)
    assert state is State.WARNING
    assert "the agent is overloaded: a reload took 1.25 s" in line
    told = text.status(found, colour=False)
    assert "the agent is overloaded: a reload took 1.25 s of 0.67 s (once) (for 1s)" in told
