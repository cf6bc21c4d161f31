"""Routes on their way out, and the tables of the machines."""

from __future__ import annotations

import itertools
from dataclasses import replace
from ipaddress import ip_network

import pytest

from anycast.core import events as ev
from anycast.core import withdrawal
from anycast.core.dataplane import proof
from anycast.core.step import STOP_PATIENCE
from anycast.core.values.report import Report
from anycast.core.values.standing import Condition
from anycast.core.vip import lifecycle
from anycast.core.withdrawal import PATIENCE, Phase, Plugins, Withdrawal, followed
from tests.fakes import TTL, Node, route, up, vip

WEB, LOG = ip_network("192.0.2.1/32"), ip_network("192.0.2.2/32")
ASKED = Withdrawal(left=frozenset({WEB, LOG}), seq=5, runs_out=12.0)


def test_every_table_is_total() -> None:
    assert set(withdrawal.NEXT) == set(itertools.product(withdrawal.Phase, withdrawal.Signal))
    assert set(lifecycle.NEXT) == set(itertools.product(lifecycle.Life, lifecycle.Signal))
    assert set(proof.NEXT) == set(itertools.product(proof.Proof, proof.Reading))


def test_only_what_is_said_after_the_lease_without_them_acknowledges() -> None:
    for report, left in (
        (None, {WEB, LOG}),
        (Report(seq=4), {WEB, LOG}),
        (Report(seq=5, announced=frozenset({WEB})), {WEB}),
        (Report(seq=6, announced=frozenset({WEB, LOG})), {WEB, LOG}),
    ):
        after = followed(ASKED, Plugins(reports={1: report}), settle=1.0, now=10.0)
        assert after.left == left
        assert after.phase is Phase.ASKED
    done = followed(ASKED, Plugins(reports={1: Report(seq=5)}), settle=1.0, now=10.0)
    assert not done.left
    assert (done.phase, done.since) == (Phase.GONE, 10.0)
    assert followed(done, Plugins(), settle=1.0, now=11.0).phase is Phase.SETTLED


def test_every_plugin_must_acknowledge() -> None:
    plugins = Plugins(reports={1: Report(seq=5), 2: Report(seq=5, announced=frozenset({LOG}))})
    assert followed(ASKED, plugins, settle=1.0, now=10.0).left == {LOG}


def test_a_lost_plugin_and_a_silent_one_are_waited_for_by_their_lease() -> None:
    lost = Plugins(reports={}, lost_until=12.0 + PATIENCE)
    silent = Plugins(reports={1: None})
    for plugins in (lost, silent):
        assert followed(ASKED, plugins, settle=1.0, now=12.0 + PATIENCE - 0.1).phase is Phase.ASKED
        assert followed(ASKED, plugins, settle=1.0, now=12.0 + PATIENCE).phase is Phase.GONE


def test_of_an_exabgp_that_stands_still_the_routers_keep_the_routes_for_the_hold_time() -> None:
    kept = Plugins(reports={1: Report(seq=4)}, still_until=100.0)
    assert followed(ASKED, kept, settle=1.0, now=99.9).phase is Phase.ASKED
    assert followed(ASKED, kept, settle=1.0, now=100.0).phase is Phase.GONE
    acknowledged = replace(kept, reports={1: Report(seq=5)})
    assert followed(ASKED, acknowledged, settle=1.0, now=10.0).phase is Phase.GONE


def test_a_refused_route_holds_up_no_other() -> None:
    node = up(vip(), vip("log", number=2))
    node.maintain("web", skip_drain=True)
    assert node.lease is not None
    # ExaBGP goes on refusing something about the other route.
    node.send(
        ev.PluginReported(
            source=1, report=Report(seq=node.lease.seq, announced=frozenset({LOG}), pending=frozenset({LOG}))
        )
    )
    node.wait(1.0)
    assert node.stage("web") == "quiet"


def test_a_stop_after_the_plugin_was_lost_does_not_say_that_all_is_withdrawn() -> None:
    node = up()
    node.send(ev.PluginLost(source=1))
    node.send(ev.StopRequested())
    node.wait(STOP_PATIENCE)
    assert node.exit == ev.Exit(clean=False)
    (stopped,) = node.events("agent.stopped")
    assert (stopped.fields["withdrawn"], stopped.fields["left"]) == (False, ["192.0.2.1/32"])
    assert node.owned is not None
    assert node.owned.lease_ttl == TTL


def test_a_stop_that_was_acknowledged_leaves_no_lease_to_wait_for() -> None:
    node = up()
    node.send(ev.StopRequested())
    node.acknowledge()
    assert node.exit == ev.Exit(clean=True)
    assert node.owned is not None
    assert node.owned.lease_ttl == 0.0


def test_an_agent_that_was_displaced_leaves_the_routes_to_its_successor() -> None:
    node = up()
    lease = node.lease
    node.send(ev.StopRequested(displaced=True))
    assert node.exit == ev.Exit(clean=False)
    assert node.lease is lease
    assert node.routes == [route(1)]


@pytest.mark.parametrize("settle", [0.0, 3.0])
def test_each_phase_says_when_time_alone_ends_it(settle: float) -> None:
    assert ASKED.wakes_at(settle) == ASKED.gives_up_at == 12.0 + PATIENCE
    gone = followed(ASKED, Plugins(), settle=settle, now=10.0)
    assert gone.wakes_at(settle) == (None if settle == 0.0 else 13.0)


def test_what_a_router_does_not_take_is_not_gone_before_its_session_is_ended() -> None:
    deaf = Plugins(reports={1: Report(seq=5)}, deaf_until=20.0)
    waits = followed(ASKED, deaf, settle=1.0, now=10.0)
    assert (waits.phase, waits.left) == (Phase.ASKED, ASKED.left)
    assert followed(ASKED, deaf, settle=1.0, now=19.9).phase is Phase.ASKED
    assert followed(ASKED, deaf, settle=1.0, now=20.0).phase is Phase.GONE
    assert followed(ASKED, replace(deaf, deaf_until=5.0), settle=1.0, now=10.0).phase is Phase.GONE
    gone = replace(ASKED, phase=Phase.GONE, since=10.0)
    assert followed(gone, deaf, settle=1.0, now=11.0).phase is Phase.GONE
    assert followed(gone, deaf, settle=1.0, now=20.0).phase is Phase.SETTLED


def test_a_drain_waits_for_a_router_that_takes_nothing_at_most_for_the_hold_time() -> None:
    def draining() -> Node:
        node = up(vip())
        text = "the router takes nothing"
        node.send(ev.ConditionSet(kind=Condition.ROUTER_DEAF, text=text, about="10.2.1.254"))
        node.maintain("web", skip_drain=True)
        assert node.lease is not None
        node.send(ev.PluginReported(source=1, report=Report(seq=node.lease.seq)))
        return node

    node = draining()
    began = node.now
    while node.stage("web") == "withdrawn":
        node.wait(1.0)
    assert node.now - began >= node.state.config.bgp.hold_time
    other = draining()
    other.wait(2.0)
    assert other.stage("web") == "withdrawn"
    other.send(ev.ConditionSet(kind=Condition.ROUTER_DEAF, about="10.2.1.254"))
    other.wait(1.5)
    assert other.stage("web") == "quiet"
