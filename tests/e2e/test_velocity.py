"""A limit of the fleet: a node that fails alone takes its routes back, and what all nodes lose alike takes them from nobody."""

from __future__ import annotations

import pytest

from lab.topology import VIP4
from tests.e2e.site import NODES, Site, until
from tests.e2e.test_last_resort import checks_are_dropped, stands

pytestmark = pytest.mark.lab


def limited(site: Site) -> None:
    """The nodes hear one another, and one of them may go."""
    for node in NODES:
        with site.edit(node) as config:
            config["nodes"] = {one: {"fleet": {"listen": f"10.9.1.{one[-1]}:9645"}} for one in NODES}
            config["fleet"] = {"view": "peers", "interval": "1s", "velocity": 1}
        site.reload(node)
    for node in NODES:
        until(lambda node=node: heard(site, node) == set(NODES) - {node}, f"{node} to hear the others")  # type: ignore[misc]


def heard(site: Site, node: str) -> set[str]:
    fleet = site.answers(node).get("fleet") or {}
    return {one["name"] for one in fleet.get("nodes", ()) if one["belief"] == "heard"}


def standing(site: Site, node: str) -> bool:
    return "withdrawals_limited" in [one["kind"] for one in site.answers(node)["standing"]]


def test_what_all_nodes_lose_alike_takes_the_vip_from_nobody_and_is_an_alarm(site: Site) -> None:
    limited(site)
    before = site.route_events()
    with checks_are_dropped(site):
        for node in NODES:
            assert stands(site, node, "drain")["last_resort"] is True
        for node in NODES:
            until(lambda node=node: standing(site, node), f"{node} to say that it would take it back")  # type: ignore[misc]
        site.routed(NODES)
        assert site.served()
        assert set(site.paths(VIP4)) == set(NODES)
    for node in NODES:
        assert stands(site, node, "yes")["last_resort"] is False
        assert not standing(site, node)
    assert all(one.next_hops for one in site.lab.watch().events[before:]), "the router was without a route"


def test_one_node_that_fails_alone_takes_it_back_and_the_next_one_does_not(site: Site) -> None:
    limited(site)
    with checks_are_dropped(site, ["lb1"]):
        until(lambda: set(site.paths(VIP4)) == {"lb2", "lb3"}, "lb1 to take it back")
        site.routed(["lb2", "lb3"])
        with checks_are_dropped(site, ["lb2"]):
            used_up = "lb1 may have taken it back"
            until(lambda: used_up in site.vip("lb2")["detail"], "lb2 to say that the limit is used up")
            site.routed(["lb3"])
            assert set(site.paths(VIP4)) == {"lb2", "lb3"}
        stands(site, "lb2", "yes")
    site.routed(NODES)
