"""From lease to the router's kernel table and back."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from anycast.core.values.route import Route, drained
from tests.contract import bgp
from tests.contract.bgp import NODE4, NODE6, NODE_AS, VIPS4, VIPS6, Node, Router, Site

pytestmark = [pytest.mark.bgp, pytest.mark.skipif(bool(bgp.missing()), reason=bgp.missing() or "")]

V4, V6 = VIPS4[0], VIPS6[0]
NEW4, NEW6 = VIPS4[1], VIPS6[1]  # on no command line
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


def _session_events(router: Router) -> list[int]:
    """How often each session of the node was established and dropped."""
    neighbors = [router.neighbor(end) for end in (NODE4, NODE6)]
    return [int(one[f"connections{what}"]) for one in neighbors for what in ("Established", "Dropped")]


def test_vips_that_come_change_and_go_need_no_other_exabgp_and_touch_no_session(node: Node) -> None:
    first = node.up()
    node.want(*BOTH)
    node.router.wait_for(V4, V6)
    before = _session_events(node.router)
    node.want(*BOTH, Route(prefix=NEW4), Route(prefix=NEW6))
    node.router.wait_for(V4, V6, NEW4, NEW6)
    node.want(*BOTH, Route(prefix=NEW4, med=70), Route(prefix=NEW6))
    node.barrier()
    assert node.router.path(NEW4)["metric"] == 70
    report = node.want(Route(prefix=V6), Route(prefix=NEW6))
    node.router.wait_without(V4, NEW4)
    node.barrier()
    assert node.router.has(V6)
    assert node.router.has(NEW6)
    assert _session_events(node.router) == before
    assert (report.exabgp_pid, report.pid) == (first.exabgp_pid, first.pid)


def test_a_vip_of_no_command_line_is_withdrawn_by_the_next_plugin_and_not_announced_if_it_was_removed(
    node: Node,
) -> None:
    node.up()
    first = node.want(*BOTH, Route(prefix=NEW4), ttl=60.0)
    node.router.wait_for(V4, V6, NEW4)
    node.agent.close()
    os.kill(first.pid, signal.SIGKILL)
    node.router.wait_without(V4, V6, NEW4)  # by its journal; nobody has told it anything
    node.agent.grant(*BOTH)
    node.agent.open()
    node.want(*BOTH)
    node.router.wait_for(V4, V6)
    node.barrier()
    assert not node.router.has(NEW4)


def test_a_vip_of_which_no_journal_is_left_is_withdrawn_once_the_agent_says_that_it_is_owned(
    node: Node,
) -> None:
    node.up()
    first = node.want(*BOTH, Route(prefix=NEW4))
    node.router.wait_for(V4, V6, NEW4)
    node.journal.unlink()
    node.agent.grant(*BOTH, owned=[V4, V6, NEW4])
    os.kill(first.pid, signal.SIGKILL)
    node.agent.wait(lambda report: report.pid != first.pid and not report.pending)
    node.router.wait_without(NEW4)
    node.router.wait_for(V4, V6)
