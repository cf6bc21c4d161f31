"""A VIP that stays on as the last resort: what all nodes lose alike takes it from nobody, what one loses moves its traffic."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

import pytest

from lab import firewall
from lab.topology import VIP4
from tests.e2e.site import NODES, Document, Site, until

pytestmark = pytest.mark.lab


def staying(site: Site) -> None:
    """Checks that take much less to rise than one that hangs takes to be asked again: the first server is well alone."""
    for node in NODES:
        with site.edit(node) as config:
            config["vips"]["web"]["when_unhealthy"] = "last_resort"
            quick = {"interval": "1s", "timeout": "1s", "fall": 3, "rise": 2, "fast_interval": "200ms"}
            config["pools"]["web"]["check"] |= quick
            config["vips"]["web"]["services"][1]["check"] |= quick
        site.reload(node)


def checks_are_dropped(site: Site, nodes: Sequence[str] = NODES) -> contextlib.AbstractContextManager[None]:
    if not firewall.has_legacy_tables():
        pytest.skip("this kernel has no legacy tables of iptables")
    return firewall.checks_dropped(site.lab, nodes)


def stands(site: Site, node: str, advertise: str) -> Document:
    def look() -> Document | None:
        (vip,) = site.answers(node)["vips"]
        return vip if vip["advertise"] == advertise and vip["announced"] else None

    return until(look, f"{node} to advertise: {advertise}")


def test_a_failure_of_all_checks_on_all_nodes_breaks_no_connection_and_takes_no_route(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    staying(site)
    flows = site.mapping(range(20000, 20001))
    with site.lab.load(240) as load:
        load.mark()
        before = site.route_events()
        with checks_are_dropped(site):
            for node in NODES:
                vip = stands(site, node, "drain")
                assert (vip["last_resort"], vip["reason"], vip["level"]) == (True, "below_quorum", "critical")
            site.routed(NODES)
            failing = load.wait_answered()
            assert all("graceful-shutdown" in " ".join(said).lower() for said in site.paths(VIP4).values())
            assert site.metric("lb1", 'anycast_vip_last_resort{vip="web"}') == 1
            for node in NODES:
                site.holds(node, site.table)
            assert site.mapping(range(20000, 20001)) == flows
            assert site.served()
            load.mark()
        for node in NODES:
            assert stands(site, node, "yes")["last_resort"] is False
        site.routed(NODES)
        recovering = load.wait_answered()
    events = site.lab.watch().events[before:]
    with capsys.disabled():
        print()
        for words, stats in (("all checks fail", failing), ("and are well again", recovering)):
            print(
                f"{words}: {stats['broken']} of {stats['connections']} connections broken, {stats['moved']} moved"
            )
        print(f"{len(events)} changes of next hops, none without one: {all(one.next_hops for one in events)}")
    assert all(one.next_hops for one in events), "the router was without a route"
    for stats in (failing, recovering):
        assert (stats["broken"], stats["moved"]) == (0, 0), stats["errors"]
    for node in NODES:
        site.holds(node, site.table)


def test_one_node_whose_checks_alone_fail_loses_its_traffic_and_breaks_nothing(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    staying(site)
    with site.lab.load(240) as load:
        load.mark()
        began = time.monotonic()
        with checks_are_dropped(site, ["lb1"]):
            events = site.routed(["lb2", "lb3"])
            stands(site, "lb1", "drain")
            assert set(site.paths(VIP4)) == set(NODES), "the router has its route, and uses it for nobody"
            alone = load.wait_answered()
            load.mark()
        site.routed(NODES)
        back = load.wait_answered()
    with capsys.disabled():
        print()
        took = max(event.monotonic for event in events) - began
        print(f"the routers use the others alone after {took:.2f} s")
        for words, stats in (("one fails alone", alone), ("and is back", back)):
            print(
                f"{words}: {stats['broken']} of {stats['connections']} connections broken, {stats['moved']} moved"
            )
    for stats in (alone, back):
        assert (stats["broken"], stats["moved"]) == (0, 0), stats["errors"]


def test_what_is_the_nodes_own_still_withdraws_from_the_last_resort(site: Site) -> None:
    staying(site)
    with checks_are_dropped(site):
        for node in NODES:
            stands(site, node, "drain")
        site.maintenance("lb1", on=True)
        site.routed(["lb2", "lb3"])
        site.maintenance("lb1", on=False)
        site.routed(NODES)
        assert site.vip("lb1")["last_resort"] is True
        site.lab.kill("lb2", "agent")
        site.routed(["lb1", "lb3"])
        site.lab.start("lb2", "agent")
        site.routed(NODES)
        assert stands(site, "lb2", "drain")["last_resort"] is True
