"""The announcer, the kernel's table, BIRD and a router: what the router's kernel has, whatever ends or hangs on the node.

With this machine's BIRD; `make contract-all` tries every BIRD there is here.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from anycast.core.rendering import table_digest
from anycast.core.values.route import Prefix, Route, drained
from anycast.render.bird import bird_conf
from tests.contract import table
from tests.contract.pair import V4, V6
from tests.contract.routers import Software, until
from tests.contract.table import Site

pytestmark = [pytest.mark.bgp, pytest.mark.skipif(bool(table.missing()), reason=table.missing() or "")]

BOTH = (Route(prefix=V4), Route(prefix=V6))
LONG = 120.0  # seconds; a lease that a test does not see the end of


@pytest.fixture(
    scope="module",
    params=[(kind, debian) for debian in table.DEBIANS for kind in ("bgp", "ospf")],
    ids=lambda param: f"{param[0]}-{table.name(param[1])}",
)
def around(request: pytest.FixtureRequest) -> Iterator[Site]:
    kind, debian = request.param
    with table.site(ospf=kind == "ospf", debian=debian) as one:
        yield one


@pytest.fixture
def site(around: Site) -> Iterator[Site]:
    """Both VIPs are announced, under a lease that is renewed."""
    around.agent.settled(around.agent.grant(*BOTH))
    around.forwarded(V4, V6)
    yield around
    around.running()
    around.agent.settled(around.agent.grant(*BOTH))
    around.forwarded(V4, V6)


def test_what_is_leased_is_at_the_router_and_what_is_not_leased_goes(site: Site) -> None:
    assert site.rows() == [
        f"blackhole {V4.network_address} proto 179 metric 10",
        f"blackhole {V6.network_address} dev lo proto 179 metric 10 pref medium",
    ]
    site.agent.settled(site.agent.grant(owned=[V4, V6]))
    site.gone(V4, V6)
    assert site.rows() == []


def is_last_resort_now(site: Site) -> None:
    assert [row for row in site.rows() if "metric 20" not in row] == []
    if site.router is None:
        until(lambda: "16000000" in table.ospf_routes(site) or None, "the last resort by OSPF")
    else:
        software = site.router
        for prefix in (V4, V6):
            until(lambda prefix=prefix: is_last_resort(software, prefix) or None, "the last resort")  # type: ignore[misc]


def test_a_drain_never_takes_the_route_away(site: Site) -> None:
    began = time.monotonic()
    site.agent.settled(site.agent.grant(*map(drained, BOTH)))
    is_last_resort_now(site)
    site.agent.settled(site.agent.grant(*BOTH))
    assert not site.was_away(V4, began)
    assert not site.was_away(V6, began)


def test_a_last_resort_comes_up_where_nothing_was_announced(site: Site) -> None:
    """`when_unhealthy: last_resort`, at a start in a failure that all nodes share; and back to what is usual."""
    site.agent.settled(site.agent.grant(owned=[V4, V6]))
    site.gone(V4, V6)
    site.agent.settled(site.agent.grant(*map(drained, BOTH)))
    site.forwarded(V4, V6)
    began = time.monotonic()
    is_last_resort_now(site)
    site.agent.settled(site.agent.grant(*BOTH))
    assert not site.was_away(V4, began)
    assert not site.was_away(V6, began)


def test_the_routes_of_an_agent_that_dies_go_with_its_lease(site: Site) -> None:
    site.agent.close()
    site.gone(V4, V6)
    site.agent.open()


def test_the_routes_of_an_announcer_that_is_killed_go_and_come_back(site: Site) -> None:
    site.agent.settled(site.agent.grant(*BOTH, ttl=LONG))
    before, cleared = site.running(), site.unit.cleared
    with site.unit.holding():
        before.send(signal.SIGKILL)
        site.gone(V4, V6)
        until(lambda: site.unit.cleared == cleared + 1, "what the unit runs after an end to have run")
    site.forwarded(V4, V6)  # by the next one
    assert site.running() != before


def test_the_routes_of_an_announcer_that_stands_still_go(site: Site) -> None:
    """Though its lease would last: nothing but the watchdog notices."""
    site.agent.settled(site.agent.grant(*BOTH, ttl=LONG))
    with site.unit.holding():
        site.running().send(signal.SIGSTOP)
        site.gone(V4, V6)
    site.forwarded(V4, V6)


def test_an_announcer_that_ends_removes_what_it_has_written(site: Site) -> None:
    with site.unit.holding():
        site.running().send(signal.SIGTERM)
        site.gone(V4, V6)
    site.forwarded(V4, V6)


def test_the_first_act_of_a_life_is_to_remove_what_the_one_before_has_left(site: Site) -> None:
    """Where nothing ran after its end."""
    site.ip(
        "route", "add", "blackhole", "10.99.7.7/32", "table", str(table.TABLE), "proto", "179", "metric", "10"
    )
    site.running().send(signal.SIGKILL)
    until(lambda: not [row for row in site.rows() if "10.99.7.7" in row], "the rest to go")
    site.forwarded(V4, V6)


def test_what_somebody_removes_from_the_table_is_back_by_itself(site: Site) -> None:
    site.ip("route", "flush", "table", str(table.TABLE))
    until(lambda: len(site.rows()) == 2, "both in the table")
    site.forwarded(V4, V6)


def test_routes_of_others_are_left_alone_and_are_not_announced(site: Site) -> None:
    other = ("blackhole", "10.99.8.8/32", "table", str(table.TABLE), "proto", "static", "metric", "5")
    site.ip("route", "add", *other)
    try:
        site.running().send(signal.SIGKILL)  # the next one looks at once
        report = site.agent.wait(lambda report: "10.99.8.8/32" in report.trouble)
        assert "are left alone" in report.trouble
        site.agent.settled(site.agent.grant(*BOTH))
        assert [row for row in site.rows() if "10.99.8.8" in row]
        learned = site.bird.ask("show route table anycast4")
        assert str(V4) in learned
        assert "10.99.8.8" not in learned
    finally:
        site.ip("route", "del", *other)


def test_a_route_of_another_in_the_place_of_ours_is_named(site: Site) -> None:
    site.agent.settled(site.agent.grant(owned=[V4, V6]))
    other = ("blackhole", str(V4), "table", str(table.TABLE), "proto", "static", "metric", "10")
    site.ip("route", "add", *other)
    try:
        site.agent.grant(*BOTH)
        report = site.agent.wait(lambda report: bool(report.failed) and V6 in report.announced)
        assert [one.prefix for one in report.failed] == [V4]
        assert "is not ours: it is left alone" in report.failed[0].why
    finally:
        site.ip("route", "del", *other)
    site.agent.settled(site.agent.grant(*BOTH))


def test_a_bird_that_is_killed_is_noticed_and_its_routes_go_and_come_back(site: Site) -> None:
    killed = time.monotonic()
    site.bird.send(signal.SIGKILL)
    if site.router is not None:  # by OSPF the routers wait for the dead interval
        until(lambda: site.was_away(V4, killed), "the route to leave the router")
    report = site.agent.wait(lambda report: len(report.failed) == 2)
    assert "BIRD does not run" in report.failed[0].why
    assert {one.state for one in report.neighbors} == {"down"}
    assert report.announced == {V4, V6}  # in the table
    site.bird.start(bird_conf(site.config))
    site.agent.wait(lambda report: not report.failed)
    site.forwarded(V4, V6)
    up(site)


def test_a_bird_that_stands_still_owes_an_answer(site: Site) -> None:
    site.bird.send(signal.SIGSTOP)
    try:
        site.agent.wait(lambda report: report.silent_since is not None)
    finally:
        site.bird.send(signal.SIGCONT)
    site.agent.wait(lambda report: report.silent_since is None)
    up(site)


def test_a_bird_that_does_not_learn_is_told_of(site: Site) -> None:
    whole = bird_conf(site.config)
    site.bird.load(whole.replace("import filter anycast_learned4;", "import none;"))
    try:
        report = site.agent.wait(lambda report: bool(report.failed))
        assert [one.prefix for one in report.failed] == [V4]
        assert "BIRD has not learned it from the table 1179" in report.failed[0].why
    finally:
        site.bird.load(whole)
    site.agent.wait(lambda report: not report.failed)


def test_bird_says_which_configuration_it_has(site: Site) -> None:
    report = site.agent.wait(lambda report: bool(report.rendered))
    assert report.rendered == table_digest(site.config)
    assert report.daemon.startswith("BIRD ")


def is_last_resort(software: Software, prefix: Prefix) -> bool:
    path = software.path(prefix)
    return path is not None and "65535:0" in path.communities


def up(site: Site) -> None:
    site.agent.wait(lambda report: sum(one.state == "up" for one in report.neighbors) == 2)
