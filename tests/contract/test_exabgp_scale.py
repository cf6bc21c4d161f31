"""A thousand routes, and five thousand: what moves all of them, and what moves one."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from ipaddress import ip_network

import pytest

from anycast.core.values.report import Report
from anycast.core.values.route import Prefix, Route, drained
from lab import waiting
from lab.routewatch import RouteTable
from tests.contract import bgp
from tests.contract.bgp import Node, Site
from tests.contract.routers import until

pytestmark = [pytest.mark.bgp, pytest.mark.skipif(bool(bgp.missing()), reason=bgp.missing() or "")]

PATIENCE = (
    90.0  # seconds: ExaBGP takes a fraction of a millisecond for each route, and other programs the rest
)
COUNTS = (1000, 5000)
VIPS = tuple(ip_network(f"10.98.{n // 256}.{n % 256}/32") for n in range(1, max(COUNTS) + 1))
LONG = 300.0  # seconds; a lease that a busy machine does not see the end of


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with bgp.site() as one:
        yield one


@pytest.fixture(scope="module")
def table(site: Site) -> Iterator[RouteTable]:
    one = RouteTable([str(prefix) for prefix in VIPS], {}, site.router.place)
    yield one
    one.close()


@pytest.fixture(params=COUNTS)
def routes(request: pytest.FixtureRequest) -> tuple[Route, ...]:
    return tuple(Route(prefix=prefix, communities=("65001:7",)) for prefix in VIPS[: request.param])


@pytest.fixture
def node(site: Site, routes: tuple[Route, ...]) -> Iterator[Node]:
    own = [route.prefix for route in routes]
    with bgp.node(site, own=own, sessions=[bgp.BOTH_SESSIONS[0]]) as one:
        yield one


def settled(node: Node, routes: Sequence[Route], own: Sequence[Route]) -> Report:
    number = node.agent.grant(*routes, owned=[route.prefix for route in own], ttl=LONG)
    return node.agent.wait(lambda report: report.seq >= number and not report.pending, PATIENCE)


def has(table: RouteTable, routes: Sequence[Route]) -> None:
    """Until the router has these, and no others."""
    wanted = {str(route.prefix) for route in routes}
    waiting.until(lambda: set(table.read()) == wanted, f"{len(wanted)} routes at the router", PATIENCE)


def test_all_come_and_go_and_one_of_them_by_itself(
    node: Node, routes: tuple[Route, ...], table: RouteTable
) -> None:
    every = frozenset[Prefix](route.prefix for route in routes)
    assert settled(node, routes, routes).announced == every
    has(table, routes)

    before = node.agent.wait(lambda report: True)
    report = settled(node, (drained(routes[0]), *routes[1:]), routes)
    assert report.announced == every
    until(lambda: node.router.path(routes[0].prefix).get("locPrf") == 0, "the last resort")
    report = settled(node, routes[1:], routes)
    assert report.announced == every - {routes[0].prefix}
    has(table, routes[1:])
    assert report.acks - before.acks < 50, "one route costs a command or two"

    assert settled(node, [drained(route) for route in routes], routes).announced == every
    assert settled(node, (), routes).announced == frozenset()
    has(table, ())


def test_all_go_with_the_lease_and_come_back_with_the_agent_and_with_the_router(
    node: Node, routes: tuple[Route, ...], table: RouteTable
) -> None:
    settled(node, routes, routes)
    has(table, routes)

    node.router.vtysh("clear bgp *")
    until(lambda: node.router.sessions(bgp.NODE4) > 1, "another session")
    has(table, routes)

    node.agent.grant(*routes, ttl=1.0, renew=False)
    node.agent.wait(lambda report: report.lease_expired and not report.announced, PATIENCE)
    has(table, ())
    settled(node, routes, routes)
    has(table, routes)

    node.agent.close()
    node.agent.open()
    report = settled(node, routes, routes)
    assert report.announced == frozenset(route.prefix for route in routes)
    os.kill(report.pid, signal.SIGKILL)
    node.agent.wait(
        lambda new: new.pid != report.pid and new.announced == report.announced and not new.pending, PATIENCE
    )
    has(table, routes)
    settled(node, (), routes)
    has(table, ())
