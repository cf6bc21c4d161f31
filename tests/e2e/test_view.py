"""A router that sends back what it has of a node's VIPs, and refuses one of them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest

from lab.topology import ROUTER_AS, VIPS
from tests.e2e.site import NODES, Site, until

pytestmark = pytest.mark.lab
V4, V6 = VIPS
ROUTER = ("configure terminal", f"router bgp {ROUTER_AS}")
ALARM = "advertised_but_not_received"


def exabgp_reads(site: Site, node: str) -> None:
    """Its file as the node's configuration has it, without another start."""
    folder = site.lab.config(node).parent
    conf, new = folder / "exabgp.conf", folder / "exabgp.conf.new"
    before = conf.read_bytes()
    site.lab.render(node)
    new.write_bytes(conf.read_bytes())
    conf.write_bytes(before)
    exabgp = site.lab.process(node, "exabgp")
    assert exabgp is not None
    done = site.lab.node_cli(
        node, "exabgp-reload", "--new", str(new), "--pid", str(exabgp.pid), "--within", "100s", str(conf)
    )
    assert done.returncode == 0, done.stderr


@contextlib.contextmanager
def sends_back(site: Site) -> Iterator[None]:
    """All sessions carry the VIPs back. A path that nobody has marked may be anybody's, so it is all nodes."""

    def at_the_router(no: str) -> None:
        for balancer in site.lab.topology.balancers:
            for end, version in ((balancer.node4, 4), (balancer.node6, 6)):
                site.lab.vtysh(
                    *ROUTER,
                    f"address-family ipv{version} unicast",
                    f"{no}neighbor {end} addpath-tx-all-paths",
                    f"{no}neighbor {end} soft-reconfiguration inbound",
                    f"{no}neighbor {end} route-map VIP{version}-IN out",
                )

    try:
        at_the_router("")
        for node in NODES:
            with site.edit(node) as config:
                config["bgp"] |= {"view": True, "software": "frr"}
            planned = site.lab.node_cli(node, "reload", "--dry-run")
            assert planned.returncode == 10
            assert planned.stdout.count("changed (view false -> true): waits for ExaBGP") == 2, planned.stdout
            site.reload(node)
            assert site.standing(node) == ["exabgp_outdated"]
            exabgp_reads(site, node)
        yield
    finally:
        at_the_router("no ")
        for node in NODES:
            site.lab.config(node).write_text(site.original[node])
            site.reload(node)
            exabgp_reads(site, node)


def receipts(site: Site) -> dict[str, tuple[str, int]]:
    """What lb1 says of each of its routes at the router, and how many other nodes have one."""
    return {
        one["prefix"]: (router["receipt"], router["others"])
        for one in site.vip("lb1")["prefixes"]
        for router in one["routers"]
    }


def test_a_vip_that_the_router_refuses_from_one_node_is_an_alarm_until_it_is_taken(site: Site) -> None:
    (lb1,) = [one for one in site.lab.topology.balancers if one.name == "lb1"]
    router = lb1.router4
    with sends_back(site):
        both = {V4: ("received", 2), V6: ("received", 2)}
        until(lambda: receipts(site) == both, "both VIPs of all nodes to come back")
        site.routed(NODES)
        assert site.standing("lb1") == []
        filtered = f"neighbor {lb1.node4} prefix-list REFUSED in"
        for seq, what in ((5, f"deny {V4}"), (10, "permit any")):
            site.lab.vtysh("configure terminal", f"ip prefix-list REFUSED seq {seq} {what}")
        try:
            site.lab.vtysh(*ROUTER, "address-family ipv4 unicast", filtered)
            site.routed(["lb2", "lb3"], V4)
            began = time.monotonic()
            until(lambda: site.standing("lb1") == [ALARM], "the alarm")
            print(f"refused by the router: seen {time.monotonic() - began:.1f} s after the route was gone")
            assert receipts(site) == both | {V4: ("not_received", 2)}
            (event,) = site.logged("lb1", "route.not_received")
            assert (event["prefix"], event["neighbor"]) == (V4, router)
            told = site.lab.node_cli("lb1", "why", "web").stdout
            assert f"{V4} at {router}: NOT received" in told
            assert site.vip("lb1")["announced"], "what the router does with it changes no verdict"
            assert all(ALARM not in site.standing(node) for node in NODES[1:])
        finally:
            site.lab.vtysh(*ROUTER, "address-family ipv4 unicast", f"no {filtered}")
            site.lab.vtysh("configure terminal", "no ip prefix-list REFUSED")
        site.routed(NODES, V4)
        until(lambda: site.standing("lb1") == [], "the end of the alarm")
        assert receipts(site) == both
        assert [one["prefix"] for one in site.logged("lb1", "route.received")] == [V4]
