"""A reload of ExaBGP with a configuration that is good: which sessions it touches, and what the others keep."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import pytest

from anycast.cli.exits import ExitCode
from anycast.cli.main import main
from anycast.config.load import loads
from anycast.core.rendering import setups
from anycast.core.values.configuration import Bgp, Config, Neighbor
from anycast.core.values.report import Report
from anycast.core.values.route import Route
from anycast.render.exabgp import exabgp_conf
from tests.contract import bgp
from tests.contract.bgp import (
    EXABGP,
    NODE4,
    NODE6,
    NODE_AS,
    ROUTER4,
    ROUTER6,
    ROUTER_AS,
    VIPS4,
    VIPS6,
    Node,
    Site,
)

pytestmark = [pytest.mark.bgp, pytest.mark.skipif(bool(bgp.missing()), reason=bgp.missing() or "")]

V4, V6 = VIPS4[0], VIPS6[0]
BOTH = (Route(prefix=V4), Route(prefix=V6))
PATIENCE = 75.0  # seconds: ExaBGP pauses up to 60 between two attempts to connect
CUT_OFF = "203.0.113.77"  # there is no way to it

OF4 = Neighbor(address=ip_address(ROUTER4), remote_as=ROUTER_AS)
OF6 = Neighbor(address=ip_address(ROUTER6), remote_as=ROUTER_AS, local_address=ip_address(NODE6))
WHOLE = Bgp(local_as=NODE_AS, router_id=IPv4Address(NODE4), neighbors=(OF4, OF6), hold_time=3)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with bgp.site() as one:
        yield one


@pytest.fixture
def node(site: Site) -> Iterator[Node]:
    with bgp.node(site, own=[V4, V6]) as one:
        one.up()
        one.want(*BOTH)
        one.router.wait_for(V4, V6)
        _reload(one, WHOLE)  # the harness writes neighbors otherwise, so this ends the sessions
        one.barrier()
        yield one


def _events(node: Node, end: str) -> tuple[int, int]:
    """How often the session was established and dropped."""
    one = node.router.neighbor(end)
    return int(one["connectionsEstablished"]), int(one["connectionsDropped"])


def _reload(node: Node, wanted: Bgp) -> Report:
    """As `systemctl reload` does it. The report after which ExaBGP has it."""
    before = node.agent.wait(lambda report: bool(report.setups))
    assert _told_to_read(node, wanted, within=PATIENCE) == ExitCode.OK
    after = node.agent.wait(
        lambda report: report.loaded != before.loaded and frozenset(report.setups) == setups(wanted)
    )
    assert (after.pid, after.exabgp_pid) == (before.pid, before.exabgp_pid)
    return after


def _told_to_read(node: Node, wanted: Bgp, *, within: float) -> int:
    """Written beside, validated, put in its place, ExaBGP told. Returns the exit status."""
    report = node.agent.wait(lambda report: bool(report.setups))
    run = re.search(r"^    run (.*);$", node.conf(), re.MULTILINE)
    assert run is not None
    config = replace(_config(), bgp=wanted)
    text = exabgp_conf(config, command="anycast")
    new = _validated(node, re.sub(r"^    run .*;$", f"    run {run[1]};", text, flags=re.MULTILINE))
    words = ["exabgp-reload", "--new", new, "--pid", report.exabgp_pid, "--within", f"{within}s"]
    return main([*map(str, words), str(new.with_name("exabgp.conf"))])


def _config() -> Config:
    text = f"""\
node: {{name: lb1}}
bgp: {{local_as: 65001, router_id: 10.0.0.1, neighbors: [{{address: 10.0.0.2, remote_as: 65000}}]}}
vips: {{web: {{address: {V4.network_address}, port: 80, servers: [10.9.2.1]}}}}
"""
    return loads(text).config


def _validated(node: Node, text: str) -> Path:
    """Raises CalledProcessError."""
    file = Path(node.journal).parents[1] / "exabgp.conf.new"
    file.write_text(text)
    subprocess.run([EXABGP, "validate", file], check=True, capture_output=True)
    return file


def test_what_exabgp_tells_of_its_sessions_is_what_is_rendered(node: Node) -> None:
    for wanted in (
        WHOLE,
        replace(WHOLE, neighbors=(replace(OF4, families=frozenset({4, 6})), OF6)),
        replace(WHOLE, neighbors=(replace(OF4, passive=True, local_address=ip_address(NODE4)),)),
    ):
        assert len(_reload(node, wanted).setups) == len(wanted.neighbors)


def test_a_neighbor_that_comes_has_all_routes_and_one_that_goes_takes_none_but_its_own(node: Node) -> None:
    before = _events(node, NODE4)
    _reload(node, replace(WHOLE, neighbors=(OF4,)))
    node.router.wait_without(V6)
    assert node.router.has(V4)
    _reload(node, WHOLE)
    node.router.wait_for(V4, V6)
    node.barrier()
    assert _events(node, NODE4) == before


def test_a_neighbor_that_changes_is_the_only_one_whose_session_ends(node: Node) -> None:
    before = _events(node, NODE4), _events(node, NODE6)
    for change in (True, False):
        _reload(node, replace(WHOLE, neighbors=(replace(OF4, passive=change), OF6)))
        node.router.wait_for(V4, V6)
        node.barrier()
    assert _events(node, NODE6) == before[1]
    assert _events(node, NODE4) > before[0]
    assert node.router.has(V4)


def test_another_port_and_another_ttl_are_taken_by_a_reload(node: Node) -> None:
    """The router dials nobody, listens at 179 alone and has no `ttl security`. The other session notices nothing."""
    before = _events(node, NODE6)
    passive = f"neighbor {NODE4} passive"
    node.router.vtysh("configure terminal", f"router bgp {ROUTER_AS}", passive)
    try:
        for other in (replace(OF4, port=1790), replace(OF4, multihop=9), replace(OF4, ttl_security=1)):
            _reload(node, replace(WHOLE, neighbors=(other, OF6)))
            if other.multihop:
                node.router.wait_for(V4)
            else:
                node.router.wait_without(V4)
        assert _events(node, NODE6) == before
    finally:
        node.router.vtysh("configure terminal", f"router bgp {ROUTER_AS}", f"no {passive}")


def test_a_password_is_taken_by_a_reload_and_taken_back_by_another(node: Node) -> None:
    """The router has none: with one at this end the session is down, and the other notices nothing."""
    before = _events(node, NODE6)
    _reload(node, replace(WHOLE, neighbors=(replace(OF4, password="long-secret"), OF6)))
    node.router.wait_without(V4)
    assert node.router.has(V6)
    _reload(node, WHOLE)
    node.router.wait_for(V4, V6)
    assert _events(node, NODE6) == before


def test_a_setting_for_all_ends_every_session_and_all_come_back_with_their_routes(node: Node) -> None:
    before = _events(node, NODE4)
    _reload(node, replace(WHOLE, hold_time=9))
    node.agent.wait(lambda report: sum(one.state == "up" for one in report.neighbors) == 2, PATIENCE)
    node.router.wait_for(V4, V6)
    node.barrier()
    assert _events(node, NODE4) > before


def test_a_vip_that_was_withdrawn_stays_so_over_a_reload(node: Node) -> None:
    node.want(Route(prefix=V6))
    node.router.wait_without(V4)
    _reload(node, replace(WHOLE, hold_time=9))
    node.router.wait_for(V6)
    node.barrier()
    assert not node.router.has(V4)


def test_a_file_that_exabgp_would_not_take_is_found_before_it_is_put_in_its_place(node: Node) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        _validated(node, node.conf().replace("hold-time 3;", "hold-time soon;"))


def test_a_reload_that_is_not_taken_says_for_which_router_and_is_taken_once_nothing_waits(
    site: Site, node: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    before = _events(node, NODE4), _events(node, NODE6)
    cut_off = Neighbor(address=ip_address(CUT_OFF), remote_as=ROUTER_AS)
    with_it = replace(WHOLE, neighbors=(OF4, OF6, cut_off))
    loaded = _reload(node, with_it).loaded
    node.want(Route(prefix=V4))
    assert _told_to_read(node, WHOLE, within=3.0) == ExitCode.NEGATIVE
    told = capsys.readouterr().err
    assert f"and {CUT_OFF} has no session" in told
    assert "systemctl restart anycast-exabgp" in told
    report = node.agent.wait(lambda report: frozenset(report.setups) == setups(with_it))
    assert report.loaded == loaded
    with _refusing(site, CUT_OFF):  # an attempt to connect that fails ends what waits
        _reload(node, WHOLE)
    node.router.wait_without(V6)
    assert node.router.has(V4)
    node.want(*BOTH)
    node.barrier()
    assert (_events(node, NODE4), _events(node, NODE6)) == before


def test_the_question_whether_a_file_was_read_brings_no_password_into_the_log_of_exabgp(site: Site) -> None:
    """Its answer has the password. These settings are rendered: docs/install.md."""
    quiet = {
        "exabgp_log_level": "DEBUG",
        "exabgp_log_configuration": "false",
        "exabgp_log_all": "false",
    }
    with bgp.node(site, own=[V4, V6], env=quiet) as node:
        node.up()
        secret = replace(OF6, password="long-secret")
        _reload(node, replace(WHOLE, neighbors=(OF4, secret)))
        _reload(node, replace(WHOLE, hold_time=9, neighbors=(OF4, secret)))
        log = node.log.read_text()
    assert f"show neighbor {ROUTER6} configuration" in log
    assert "long-secret" not in log


@contextlib.contextmanager
def _refusing(site: Site, address: str) -> Iterator[None]:
    """Who connects to it is refused."""

    def on_lo(verb: str) -> None:
        subprocess.run(["ip", "-n", site.place, "address", verb, f"{address}/32", "dev", "lo"], check=True)

    on_lo("add")
    try:
        yield
    finally:
        on_lo("del")
