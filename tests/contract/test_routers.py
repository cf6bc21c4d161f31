"""Both ends from one file: the real ExaBGP and four kinds of router, each with what `anycast render` writes."""

from __future__ import annotations

import os
import signal
import time
from ipaddress import ip_network
from pathlib import Path

import pytest

from anycast.analysis.routers import GOBGP_BFD
from anycast.config.load import load, loads
from anycast.core.values.configuration import Config
from anycast.core.values.route import Prefix, Route, drained
from anycast.core.values.software import Daemon
from anycast.core.values.software import Software as Runs
from anycast.render.router import router
from anycast.render.routers import ROUTERS
from tests.contract import bgp
from tests.contract.bgp import NODE4, PATIENCE, ROUTER4
from tests.contract.pair import COMMUNITY, NODE_B, V4, V6, config, pair, second_node
from tests.contract.routers import SOFTWARE, Bird, Frr, GoBgp, Software, until

pytestmark = [pytest.mark.bgp, pytest.mark.skipif(bool(bgp.missing()), reason=bgp.missing() or "")]

ROOT = Path(__file__).parents[2]
OTHERS = [ip_network("10.99.0.2/32"), ip_network("10.99.0.0/31"), ip_network("fd00:99::2/128")]


def installed(software: type[Software]) -> Runs:
    version = software.number()
    assert version is not None, software.says_its_version()
    return Runs(daemon=Daemon(software.name), version=version)


each = pytest.mark.parametrize("software", SOFTWARE, ids=lambda one: one.id())


@each
@pytest.mark.parametrize("name", ["minimal", "full"])
def test_the_daemon_takes_what_is_rendered(software: type[Software], name: str, tmp_path: Path) -> None:
    if software.missing():
        pytest.skip(f"no {software.program} here")
    _checked(software, [load(ROOT / "examples" / f"{name}.yaml", hostname="lb1").config], tmp_path)


@each
def test_the_daemon_takes_two_nodes_with_every_option(software: type[Software], tmp_path: Path) -> None:
    if software.missing():
        pytest.skip(f"no {software.program} here")
    first = config(tmp_path, bfd="{interval: 50ms, multiplier: 255}", name="x" * 63, vips="10.99.0.1")
    second = loads(
        f"""
node: {{name: "4.5"}}
bgp:
  local_as: 4200000001
  router_id: 10.90.0.6
  neighbors: [{{address: {ROUTER4}, remote_as: 65000, bfd: {{interval: 60s}}}}]
vips: {{web: {{address: 10.99.0.1, port: 80, servers: [10.9.2.1]}}}}
""",
        hostname="lb2",
    ).config
    _checked(software, [first, second], tmp_path)


@each
def test_the_daemon_would_refuse_a_mistake(software: type[Software], tmp_path: Path) -> None:
    if software.missing():
        pytest.skip(f"no {software.program} here")
    conf = tmp_path / "router.conf"
    text = ROUTERS[software.name](router([config(tmp_path)]))
    conf.write_text(text.replace(*software.mistake))
    conf.chmod(0o600)
    done = software.check(conf)
    assert done.returncode != 0 or "rror" in done.stdout + done.stderr


def _checked(software: type[Software], configs: list[Config], folder: Path) -> None:
    """What is rendered for any version, and for the one that is here."""
    for runs in (None, installed(software)):
        conf = folder / "router.conf"
        conf.write_text(ROUTERS[software.name](router(configs, software=runs)))
        conf.chmod(0o600)
        done = software.check(conf)
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        assert "rror" not in said
        assert "Unknown" not in said


@each
@pytest.mark.parametrize("sessions", ["ebgp", "ibgp"])
def test_the_router_takes_the_vips_and_nothing_else_and_moves_away_from_a_draining_node(
    software: type[Software], sessions: str
) -> None:
    if software.missing():
        pytest.skip(f"no {software.program} here")
    with pair(software, ibgp=sessions == "ibgp") as one:
        vips = [Route(prefix=V4, communities=(COMMUNITY,)), Route(prefix=V6, communities=(COMMUNITY,))]
        one.node.want(*(Route(prefix=prefix) for prefix in OTHERS))
        one.accepted(*(Route(prefix=prefix) for prefix in OTHERS), *vips)
        for prefix in (V4, V6):
            path = one.router.path(prefix)
            assert path is not None
            assert path.communities == {COMMUNITY}
            assert path.local_pref in (None, 100)
        assert [one.router.paths(prefix) for prefix in OTHERS] == [[]] * len(OTHERS)

        one.node.want(*map(drained, vips))
        for prefix in (V4, V6):

            def last(prefix: Prefix = prefix) -> bool:
                path = one.router.path(prefix)
                return path is not None and path.local_pref in (0, 1) and "65535:0" in path.communities

            until(last, f"{prefix} as the last resort")

        one.accepted(*vips)
        one.node.want()
        for prefix in (V4, V6):
            until(lambda prefix=prefix: not one.router.paths(prefix), f"no {prefix} at the router")  # type: ignore[misc]


@each
def test_a_prefix_around_the_vips_is_taken_and_no_part_of_it(software: type[Software]) -> None:
    if software.missing():
        pytest.skip(f"no {software.program} here")
    wide = [ip_network("10.99.0.0/24"), ip_network("fd00:99::/48")]
    others = [V4, V6, ip_network("10.99.0.0/25"), ip_network("10.98.0.0/15"), ip_network("fd00:99::/64")]
    with pair(software, announce=", ".join(map(str, wide))) as one:
        one.node.want(*(Route(prefix=prefix) for prefix in others))
        one.node.want(*(Route(prefix=prefix) for prefix in (*others, *wide)))
        for prefix in wide:
            until(lambda prefix=prefix: one.router.path(prefix), f"{prefix} at the router")  # type: ignore[misc]
        assert [one.router.paths(prefix) for prefix in others] == [[]] * len(others)


@each
def test_a_changed_filter_meets_the_standing_routes(software: type[Software]) -> None:
    if software.missing():
        pytest.skip(f"no {software.program} here")
    with pair(software, vips="10.98.0.1, 10.99.0.1, fd00:99::1") as one:
        one.accepted(Route(prefix=V4), Route(prefix=V6))
        sessions = one.node.up()
        conf = one.folder / "rendered.conf"
        full = conf.read_text()
        conf.write_text(ROUTERS[software.name](router([config(one.folder, vips="10.98.0.1, fd00:99::1")])))
        one.router.load(conf)
        until(lambda: not one.router.paths(V4), f"no {V4} at the router")
        assert one.router.path(V6)
        conf.write_text(full)
        one.router.load(conf)
        until(lambda: one.router.paths(V4), f"{V4} at the router again")
        now = one.node.agent.wait(lambda report: report.seq > sessions.seq)
        assert [n.changed for n in now.neighbors] == [n.changed for n in sessions.neighbors], (
            "a session was reset"
        )


@each
def test_a_router_that_restarts_has_its_routes_back(software: type[Software]) -> None:
    if software.missing():
        pytest.skip(f"no {software.program} here")
    with pair(software) as one:
        one.accepted(Route(prefix=V4), Route(prefix=V6))
        one.router.stop()
        one.router.processes.clear()
        began = time.monotonic()
        one.router.start(one.folder / "rendered.conf")
        for prefix in (V4, V6):
            until(lambda prefix=prefix: one.router.path(prefix), f"{prefix} at the router")  # type: ignore[misc]
        print(f"{software.name} restarted: both routes are back after {time.monotonic() - began:.1f} s")


@each
def test_an_exabgp_that_is_gone_takes_its_routes_out_of_the_router(software: type[Software]) -> None:
    """No graceful restart: the hold time is 3 s, and the routes do not wait for it either."""
    if software.missing():
        pytest.skip(f"no {software.program} here")
    with pair(software) as one:
        one.accepted(Route(prefix=V4), Route(prefix=V6))
        one.node.exabgp.end(grace=0.0)
        for prefix in (V4, V6):
            until(lambda prefix=prefix: not one.router.paths(prefix), f"no {prefix} at the router")  # type: ignore[misc]


@each
def test_a_draining_node_gives_its_flows_to_the_other_one(software: type[Software]) -> None:
    """Only FRR acts on 65535:0 by itself: on the others this is what the rendered filter does."""
    if software.missing():
        pytest.skip(f"no {software.program} here")
    with pair(software) as one:
        vip = Route(prefix=V4)
        one.accepted(vip, Route(prefix=V6))
        with second_node(one) as other:
            other.want(vip)
            until(lambda: len(one.router.paths(V4)) == 2, "both paths at the router")
            assert one.router.best(V4) == NODE4 or software in (Frr, GoBgp)  # these two stay with the older
            if software in (Frr, Bird):
                one.table.wait(str(V4), [NODE4, NODE_B], PATIENCE)
            one.node.want(drained(vip), Route(prefix=V6))
            until(lambda: one.router.best(V4) == NODE_B, "the other node as the only choice")
            if software in (Frr, Bird):
                one.table.wait(str(V4), [NODE_B], PATIENCE)
            one.node.want(vip, Route(prefix=V6))
            other.want(drained(vip))
            until(lambda: one.router.best(V4) == NODE4, "the first node as the only choice")
            one.node.want(drained(vip), Route(prefix=V6))
            until(
                lambda: {path.local_pref for path in one.router.paths(V4)} <= {0, 1},
                "both as the last resort, and still there",
            )
            assert len(one.router.paths(V4)) == 2


def test_what_frr_saves_has_the_timers_of_bfd_in_it() -> None:
    """`write memory` writes no numbers of `neighbor … bfd 3 100 100`: after a restart they would be 300 ms."""
    with pair(Frr, bfd="{interval: 50ms, multiplier: 5}") as one:
        frr = one.router
        assert isinstance(frr, Frr)
        saved = frr.saved()
        frr.stop()
        frr.processes.clear()
        conf = one.folder / "rendered.conf"
        conf.write_text(saved)
        frr.start(conf)
        until(lambda: frr.bfd(NODE4).get("status") == "up", "BFD up at the router")
        told = frr.bfd(NODE4)
        assert [told[name] for name in ("detect-multiplier", "receive-interval", "transmit-interval")] == [
            5,
            50,
            50,
        ]


def test_a_file_that_frr_loads_again_takes_no_route_away() -> None:
    """A list is deleted and written again; FRR looks at the routes later, also with `bgp route-map delay-timer 0`."""
    with pair(Frr, vips="10.98.0.1, 10.99.0.1, fd00:99::1") as one:
        one.accepted(Route(prefix=V4), Route(prefix=V6))
        one.forwarded(V4)
        one.forwarded(V6)
        conf = one.folder / "rendered.conf"
        rendered = conf.read_text()
        conf.write_text("bgp route-map delay-timer 0\n")
        one.router.load(conf)
        before = len(one.table.events)
        conf.write_text(rendered)
        one.router.load(conf)
        # With 0 a change is looked at only if the timer of an earlier one runs still.
        conf.write_text("bgp route-map delay-timer 1\n")
        one.router.load(conf)
        conf.write_text(ROUTERS["frr"](router([config(one.folder, vips="10.98.0.1, 10.99.0.1")])))
        one.router.load(conf)
        one.gone(V6)
        assert [event for event in one.table.events[before:] if event.prefix == str(V4)] == []


def test_a_frr_session_waits_for_nothing_before_it_sends() -> None:
    """No advertisement interval unless somebody writes one; from 10.6 on it would hold back withdrawals too."""
    with pair(Frr) as one:
        frr = one.router
        assert isinstance(frr, Frr)
        told = frr.neighbor(NODE4)
        assert told["minBtwnAdvertisementRunsTimerMsecs"] == 0
        assert str(told["gracefulRestartInfo"]["localGrMode"]).rstrip("*") == "Disable"


@pytest.mark.skipif(Frr.missing(), reason="no FRR here")
def test_a_strict_frr_does_without_a_node_whose_bfd_is_gone() -> None:
    """Without `strict` the session comes straight back, and its routes with it."""
    runs = installed(Frr)
    if not runs.since(10, 4):
        pytest.skip(f"bfd strict came with FRR 10.4, here is {runs}")
    with pair(Frr, bfd="{interval: 100ms, multiplier: 3}", runs=runs) as one:
        frr = one.router
        assert isinstance(frr, Frr)
        one.accepted(Route(prefix=V4), Route(prefix=V6))
        one.forwarded(V4)
        until(lambda: frr.bfd(NODE4).get("status") == "up", "BFD up at the router")
        # FRR counts in seconds, and takes no notice of a failure in the one in which the session came up.
        until(lambda: int(frr.neighbor(NODE4)["bgpTimerUpMsec"]) >= 2000, "a session of two seconds")
        one.bfd[1].end(grace=0.0)
        one.gone(V4)
        failed = int(frr.neighbor(NODE4)["connectionsEstablished"])
        until(lambda: frr.bfd(NODE4).get("status") == "down", "BFD down at the router")
        assert frr.neighbor(NODE4)["bgpState"] != "Established"
        assert int(frr.neighbor(NODE4)["connectionsEstablished"]) == failed


@pytest.mark.skipif(GoBgp.missing(), reason="no GoBGP here")
def test_gobgp_by_itself_notices_a_frozen_node() -> None:
    runs = installed(GoBgp)
    if not runs.since(*GOBGP_BFD):
        pytest.skip(f"BFD came with GoBGP 4.6, here is {runs}")
    with pair(GoBgp, bfd="{interval: 100ms, multiplier: 3}", runs=runs) as one:
        gobgp = one.router
        assert isinstance(gobgp, GoBgp)
        one.accepted(Route(prefix=V4), Route(prefix=V6))
        until(lambda: gobgp.bfd(NODE4), "BFD up at the router")
        pids = one.processes()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        until(lambda: not gobgp.paths(V4), f"no {V4} at the router")
        assert not gobgp.bfd(NODE4)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
