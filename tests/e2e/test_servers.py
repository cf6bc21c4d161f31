"""Real servers die and come back."""

from __future__ import annotations

import pytest

from tests.e2e.site import NODES, Site, is_server, until

pytestmark = pytest.mark.lab


def test_a_dead_real_server_keeps_its_place_with_weight_0_on_every_node(site: Site) -> None:
    site.lab.kill("rs2", "server")
    for node in NODES:
        until(lambda node=node: site.weights(node, 2) == {0}, f"{node} to give rs2 weight 0")  # type: ignore[misc]
    drained = {
        service: [line.removesuffix("1") + "0" if is_server(2, line) else line for line in lines]
        for service, lines in site.table.items()
    }
    assert [site.table_of(node) for node in NODES] == [drained] * 3
    assert site.served()
    site.lab.start("rs2", "server")
    for node in NODES:
        site.holds(node, site.table)


def test_without_any_real_server_every_node_withdraws(site: Site) -> None:
    servers = [server.name for server in site.lab.topology.servers]
    for server in servers:
        site.lab.kill(server, "server")
    site.routed([])
    for node in NODES:
        # The weights are being written while the verdict falls: then that is the reason, for a moment.
        until(lambda node=node: site.vip(node)["reason"] == "below_quorum", f"{node} to say why")  # type: ignore[misc]
        assert "0 of 4 usable, 1 needed" in site.vip(node)["detail"]
        assert site.vip(node)["advertise"] == "no"
    assert site.http("lb1", "/vips/web")[0] == 503
    for server in servers:
        site.lab.start(server, "server")
    site.routed(NODES)
    assert site.served()


def test_a_tripwire_tells_of_a_dead_server_that_no_check_would_ask_for_an_hour(site: Site) -> None:
    with site.edit("lb1") as config:
        slow = {"interval": "1h", "fast_interval": "200ms"}
        config["pools"]["web"]["check"] |= slow | {"tripwire": True}
        config["vips"]["web"]["services"][1]["check"] |= slow
    site.reload("lb1")
    servers = [server.name for server in site.lab.topology.servers]

    def stand() -> bool:
        wires = site.status("lb1")["tripwires"]
        return wires is not None and wires["standing"] == wires["wanted"] == 2 * len(servers)

    until(stand, "a tripwire to every address of a real server")
    site.lab.kill("rs2", "server")
    until(lambda: site.weights("lb1", 2) == {0}, "lb1 to give rs2 weight 0")
    until(lambda: site.status("lb1")["tripwires"]["ends"]["deadly"] >= 1, "the end of a tripwire to be told")
    assert site.vip("lb1")["announced"]
    for server in servers:
        if server != "rs2":
            site.lab.kill(server, "server")
    site.routed([])
    until(lambda: site.vip("lb1")["reason"] == "below_quorum", "lb1 to say why")


def test_a_drained_server_gets_no_new_clients_on_this_node_and_comes_back(site: Site) -> None:
    with site.edit(
        "lb1"
    ) as config:  # connections of other tests that went on over other nodes are its no more
        config["pools"]["web"]["servers"].pop(1)
    site.reload("lb1")
    until(lambda: site.weights("lb1", 2) == set(), "rs2 to leave lb1")
    site.lab.config("lb1").write_text(site.original["lb1"])
    site.reload("lb1")
    site.holds("lb1", site.table)
    drained = site.lab.node_cli("lb1", "drain-server", "web/rs2", "--reason", "disk", "--wait")
    assert drained.returncode == 0, drained.stderr
    assert "web/rs2: drained: no new clients" in drained.stdout
    assert "web/rs2: drained after" in drained.stderr
    assert (site.weights("lb1", 2), site.weights("lb2", 2)) == ({0}, {1})
    (entry,) = site.status("lb1")["maintenance"]
    assert (entry["scope"], entry["stage"], entry["reason"]) == ("web/rs2", "drained", "disk")
    assert site.metric(
        "lb1", 'anycast_server_drained{address="10.9.2.2",server="rs2",service="tcp/80",vip="web"}'
    )
    back = site.lab.node_cli("lb1", "undrain-server", "web/rs2")
    assert back.returncode == 0, back.stderr
    site.holds("lb1", site.table)


def test_the_drain_of_a_server_outlives_the_agent(site: Site) -> None:
    site.maintenance("lb1", on=True, vip="web/rs2")
    site.lab.kill("lb1", "agent")
    site.lab.start("lb1", "agent")
    site.ready_but_for("lb1", "web/rs2")
    assert site.weights("lb1", 2) == {0}
    site.maintenance("lb1", on=False, vip="web/rs2")
    site.holds("lb1", site.table)


def test_the_last_real_servers_are_drained_only_by_force(site: Site) -> None:
    for server in ("rs1", "rs2", "rs3"):
        site.maintenance("lb1", on=True, vip=f"web/{server}")
    refused = site.lab.node_cli("lb1", "drain-server", "web/rs4")
    assert refused.returncode == 1
    assert "too few real servers are left for web tcp/80 IPv4" in refused.stderr
    unknown = site.lab.node_cli("lb1", "drain-server", "web/rs9")
    assert (unknown.returncode, "there is no real server" in unknown.stderr) == (1, True)
    forced = site.lab.node_cli("lb1", "drain-server", "web/rs4", "--force")
    assert forced.returncode == 0, forced.stderr
    site.routed(["lb2", "lb3"])
    for server in ("rs1", "rs2", "rs3", "rs4"):
        site.maintenance("lb1", on=False, vip=f"web/{server}")


def test_a_server_dropped_from_the_file_finishes_its_connections_first(site: Site) -> None:
    # So many that each node has some of both families to that server: of 60, one node in twelve had none.
    with site.lab.load(240) as load:
        for node in NODES:
            with site.edit(node) as config:
                config["pools"]["web"]["servers"].pop(1)
                config["timing"]["server_drain"] = "1h"
            site.reload(node)
        for node in NODES:
            until(lambda node=node: site.weights(node, 2) == {0}, f"rs2 to be drained on {node}")  # type: ignore[misc]
        load.mark()
        stats = load.wait_answered()
        assert (stats["broken"], stats["moved"]) == (0, 0), stats["errors"]
        (service,) = [one for one in site.vip("lb1")["services"] if one["name"] == "tcp/80"]
        assert {one["address"] for one in service["removing"]} == {"10.9.2.2", "fd00:9::2:2"}
    for node in NODES:
        until(lambda node=node: site.weights(node, 2) == set(), f"rs2 to leave {node}")  # type: ignore[misc]


def test_datagrams_of_one_source_port_do_not_stick_to_a_dead_server(site: Site) -> None:
    flows = site.mapping(range(21000, 21001))
    dead = "rs2"
    assert dead in flows.values()
    site.lab.kill(dead, "server")
    for node in NODES:
        until(lambda node=node: site.weights(node, 2) == {0}, f"{node} to give rs2 weight 0")  # type: ignore[misc]
    after = site.mapping(range(21000, 21001))
    assert dead not in after.values()
    assert {flow: server for flow, server in flows.items() if server != dead}.items() <= after.items()
    site.lab.start(dead, "server")
    for node in NODES:
        site.holds(node, site.table)
