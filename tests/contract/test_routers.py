"""Both ends from one file: the real ExaBGP and four kinds of router, each with what `anycast render` writes."""

from __future__ import annotations

import time
from ipaddress import ip_network
from pathlib import Path

import pytest

from anycast.config.load import load, loads
from anycast.core.values.configuration import Config
from anycast.core.values.route import Prefix, Route, drained
from anycast.render.router import router
from anycast.render.routers import ROUTERS
from tests.contract import bgp
from tests.contract.bgp import ROUTER4
from tests.contract.pair import COMMUNITY, V4, V6, config, pair
from tests.contract.routers import SOFTWARE, Software, until

pytestmark = [pytest.mark.bgp, pytest.mark.skipif(bool(bgp.missing()), reason=bgp.missing() or "")]

ROOT = Path(__file__).parents[2]
OTHERS = [ip_network("10.99.0.2/32"), ip_network("10.99.0.0/31"), ip_network("fd00:99::2/128")]

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
    conf = folder / "router.conf"
    conf.write_text(ROUTERS[software.name](router(configs)))
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
