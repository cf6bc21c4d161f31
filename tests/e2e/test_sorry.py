"""The sorry pool serves while all real servers are dead: the router always has the route, and the flows have their places."""

from __future__ import annotations

import pytest

from lab.topology import VIP4, VIP6
from tests.e2e.site import NODES, PATIENCE, Document, Site, until

pytestmark = pytest.mark.lab

REAL = ("rs1", "rs2", "rs3")
PORTS = range(20000, 20003)
DRAIN = 120  # seconds


def with_sorry(site: Site) -> None:
    """The fourth real server stands by for the other three."""
    for node in NODES:
        with site.edit(node) as config:
            web = config["pools"]["web"]
            # With a port: at that of UDP nobody answers HTTP.
            config["pools"]["sorry"] = {
                "check": web["check"] | {"port": 80},
                "servers": [web["servers"].pop()],
            }
            config["vips"]["web"]["sorry"] = "sorry"
            config["timing"]["server_drain"] = f"{DRAIN}s"
        site.reload(node)
    for node in NODES:
        until(lambda node=node: site.weights(node, 4) == {0}, f"{node} to have rs4 stand by")  # type: ignore[misc]


def until_weights(site: Site, node: str, wanted: list[int]) -> None:
    """Of all four real servers, behind every service."""
    sets = [{weight} for weight in wanted]
    until(lambda: [site.weights(node, n) for n in (1, 2, 3, 4)] == sets, f"{node} to have weights {wanted}")


def stands(site: Site, node: str, reason: str, patience: float = PATIENCE) -> Document:
    def look() -> Document | None:
        (vip,) = site.answers(node)["vips"]
        return vip if vip["reason"] == reason and vip["announced"] else None

    return until(look, f"{node} to say {reason}", patience)


def test_dead_real_servers_are_stood_in_for_and_everything_is_as_before_once_they_are_back(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    with_sorry(site)
    table, flows = site.table_of("lb1"), site.mapping(PORTS)
    assert "rs4" not in flows.values()
    before = site.route_events()

    # One real server dies: only what it had goes elsewhere, and nothing to the sorry pool.
    site.lab.kill("rs1", "server")
    for node in NODES:
        until(lambda node=node: site.weights(node, 1) == {0}, f"{node} to give rs1 weight 0")  # type: ignore[misc]
    fewer = site.mapping(PORTS)
    assert {flow for flow in flows if fewer[flow] != flows[flow]} == {f for f in flows if flows[f] == "rs1"}
    assert "rs4" not in fewer.values()

    for server in REAL[1:]:
        site.lab.kill(server, "server")
    for node in NODES:
        vip = stands(site, node, "sorry")
        assert (vip["advertise"], vip["last_resort"]) == ("drain", True)
        until_weights(site, node, [0, 0, 0, 1])
    assert {site.http_server(VIP4), site.http_server(VIP6), *site.mapping(PORTS).values()} == {"rs4"}
    said = site.lab.node_cli("lb1", "why", "web").stdout
    assert "web is served by the sorry pool since " in said
    assert site.metric("lb1", 'anycast_service_sorry{family="ipv4",service="tcp/80",vip="web"}') == 1

    # Whoever is connected to the sorry pool stays there when the real servers are back, whichever node is first.
    with site.lab.load(120, probes=20) as load:
        load.mark()
        for server in REAL:
            site.lab.start(server, "server")
        for node in NODES:
            until_weights(site, node, [1, 1, 1, 0])
        left = load.wait_answered()
        assert (left["broken"], left["moved"]) == (0, 0), left["errors"]
        assert "rs4" not in site.mapping(PORTS).values(), "new clients have real servers"
        assert site.vip("lb1")["reason"] == "sorry"
    # A connection that was closed at another node stands here until `server_drain` is over.
    for node in NODES:
        assert stands(site, node, "healthy", PATIENCE + DRAIN)["last_resort"] is False
    site.routed(NODES)
    assert site.mapping(PORTS) == flows, "every flow has its place again"
    for node in NODES:
        site.holds(node, table)
    events = site.lab.watch().events[before:]
    with capsys.disabled():
        print(
            f"\n{left['connections']} connections to the sorry pool: {left['broken']} broken; new clients: {left['probes']}"
        )
        print(f"{len(events)} changes of next hops, none without one: {all(one.next_hops for one in events)}")
    assert all(one.next_hops for one in events), "the router was without a route"


def test_one_node_that_alone_has_lost_the_real_servers_gives_its_clients_to_the_others(site: Site) -> None:
    with_sorry(site)
    with site.edit("lb1") as config:
        for check in (config["pools"]["web"]["check"], config["vips"]["web"]["services"][1]["check"]):
            check["port"] = 81  # nobody listens there
    site.reload("lb1")
    stands(site, "lb1", "sorry")
    site.routed(["lb2", "lb3"])
    assert set(site.mapping(PORTS).values()) <= set(REAL), "nobody is served by the sorry pool"


def test_where_the_sorry_pool_is_dead_too_the_vip_is_withdrawn_and_it_comes_back_by_itself(
    site: Site,
) -> None:
    with_sorry(site)
    for server in (*REAL, "rs4"):
        site.lab.kill(server, "server")
    site.routed([])
    site.lab.start("rs4", "server")
    site.routed(NODES)
    assert site.http_server(VIP4) == "rs4"
    site.lab.kill("lb1", "agent")
    site.lab.start("lb1", "agent")
    stands(site, "lb1", "sorry")
    for server in REAL:
        site.lab.start(server, "server")
