"""From lease to the router's kernel table and back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from anycast.core.values.route import Route, drained
from tests.contract import bgp
from tests.contract.bgp import NODE4, NODE6, NODE_AS, VIPS4, VIPS6, Node, Site

pytestmark = [pytest.mark.bgp, pytest.mark.skipif(bool(bgp.missing()), reason=bgp.missing() or "")]

V4, V6 = VIPS4[0], VIPS6[0]
BOTH = (Route(prefix=V4), Route(prefix=V6))


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with bgp.site() as one:
        yield one


@pytest.fixture
def node(site: Site) -> Iterator[Node]:
    with bgp.node(site, own=[V4, V6]) as one:
        yield one


def test_a_leased_route_is_in_the_routers_kernel_with_the_node_as_next_hop(node: Node) -> None:
    node.want(*BOTH)
    node.router.wait_for(V4, V6)


def test_a_route_that_leaves_the_lease_leaves_the_router(node: Node) -> None:
    node.want(*BOTH)
    node.router.wait_for(V4, V6)
    report = node.want(Route(prefix=V6))
    assert report.announced == {V6}
    node.router.wait_without(V4)
    node.barrier()
    assert node.router.has(V6)


def test_a_lease_that_runs_out_takes_its_routes_along(node: Node) -> None:
    node.want(*BOTH)
    node.router.wait_for(V4, V6)
    node.want(*BOTH, ttl=0.5, renew=False)
    node.router.wait_without(V4, V6)
    report = node.agent.wait(lambda report: report.lease_expired and not report.announced)
    assert not report.failed


def test_a_lease_after_one_that_ran_out_announces_again(node: Node) -> None:
    node.want(*BOTH, ttl=0.5, renew=False)
    node.agent.wait(lambda report: report.lease_expired and not report.announced)
    node.want(*BOTH)
    node.router.wait_for(V4, V6)


def test_the_attributes_arrive_and_a_drain_makes_the_route_the_last_resort(node: Node) -> None:
    route = Route(prefix=V4, med=100, communities=("65001:7",), large_communities=("65001:1:2",))
    node.want(route)
    node.barrier()
    path = node.router.path(V4)
    assert (path["metric"], path["community"]["string"]) == (100, "65001:7")
    assert path["largeCommunity"]["string"] == "65001:1:2"
    node.want(drained(route))
    node.barrier()
    path = node.router.path(V4)
    assert path["community"]["list"] == ["65001:7", "gracefulShutdown"]
    assert path["locPrf"] == 0
    node.want(route)
    node.barrier()
    assert node.router.path(V4)["community"]["string"] == "65001:7"
    node.want()
    node.router.wait_without(V4)


def test_the_as_path_is_our_own_number_alone_and_no_next_hop_of_the_other_family_is_offered(
    node: Node,
) -> None:
    """OpenBGPD ends the session for either, and again at each reconnect: docs/behaviours.md, Q03 and Q04."""
    node.want(*BOTH)
    node.barrier()
    for prefix in (V4, V6):
        path = node.router.path(prefix)
        assert path["aspath"]["string"] == str(NODE_AS)
        assert "extendedCommunity" not in path
    for end in (NODE4, NODE6):
        offered = node.router.neighbor(end)["neighborCapabilities"].get("extendedNexthop", "")
        assert "eceived" not in str(offered)
