"""The configuration changes under way: as a difference, or not at all."""

from __future__ import annotations

import copy
import json
import signal
import time

import pytest

from lab.topology import VIP6, VIPS
from tests.e2e.site import NODES, Document, Site, is_server, until

pytestmark = pytest.mark.lab
V4, V6 = VIPS


def _drop(config: Document, server: str) -> None:
    pool = config["pools"]["web"]
    pool["servers"] = [one for one in pool["servers"] if one["name"] != server]


def test_a_broken_file_changes_nothing_and_is_explained_with_line_and_column(site: Site) -> None:
    file = site.lab.config("lb1")
    file.write_text(file.read_text().replace("port: 80\n", "port: eighty\n", 1))
    line = next(n for n, text in enumerate(file.read_text().splitlines(), 1) if "eighty" in text)
    column = file.read_text().splitlines()[line - 1].index("eighty") + 1
    quiet = site.route_events()
    done = site.lab.node_cli("lb1", "reload")
    assert done.returncode == 78
    assert f"anycast.yaml:{line}:{column}: " in done.stderr
    assert "eighty" in done.stderr
    assert "not applied" in done.stderr
    assert site.table_of("lb1") == site.table
    assert site.lab.watch().events[quiet:] == []
    assert site.metric("lb1", "anycast_config_last_reload_successful") == 0
    assert [event["level"] for event in site.logged("lb1", "config.rejected")] == ["error"]


def test_a_server_less_and_again_one_more_is_a_difference_that_no_connection_notices(site: Site) -> None:
    quiet = site.route_events()
    for node in NODES:
        with site.edit(node) as config:
            _drop(config, "rs2")
    done = site.lab.node_cli("lb1", "reload")
    assert done.returncode == 0, done.stderr
    assert "rs2" in done.stdout
    for node in NODES[1:]:
        site.reload(node)
    less = {
        service: [line for line in lines if not is_server(2, line)] for service, lines in site.table.items()
    }
    for node in NODES:
        site.holds(node, less)
        # Weight 0 behind each of four services; and it is removed as its connections are gone.
        assert site.logged(node, "kernel.programmed", 2)[0]["operations"] == 4
        assert len(site.logged(node, "server.removed", 4)) == 4
    with site.lab.load(120) as load:
        load.mark()
        for node in NODES:
            site.lab.config(node).write_text(site.original[node])
            site.reload(node)
        for node in NODES:
            site.holds(node, site.table)
        stats = load.wait_answered()
    assert (stats["broken"], stats["moved"]) == (0, 0), stats["errors"]
    assert site.lab.watch().events[quiet:] == []


def test_an_address_that_leaves_the_file_loses_its_route_before_the_kernel(site: Site) -> None:
    with site.edit("lb1") as config:
        config["vips"]["web"]["addresses"].remove(VIP6)
        config["timing"]["settle"] = "10m"
    site.reload("lb1")
    site.routed(["lb2", "lb3"], V6)
    assert V6 in site.addresses("lb1")
    assert site.table_of("lb1") == site.table
    with site.edit("lb1") as config:
        config["timing"]["settle"] = "0s"
    site.reload("lb1")
    until(lambda: V6 not in site.addresses("lb1"), "the address to leave the interface")
    until(lambda: len(site.table_of("lb1")) == 2, "its services to leave the kernel")
    assert site.lab.router_routes()[V4] == NODES
    assert V4 in site.addresses("lb1")


def _sessions(site: Site) -> dict[str, tuple[int, int]]:
    """Of each of the router's sessions how often it was established and dropped."""
    shown = json.loads(site.lab.vtysh("show bgp neighbors json"))
    return {
        address: (one["connectionsEstablished"], one["connectionsDropped"]) for address, one in shown.items()
    }


def test_a_vip_that_goes_and_one_that_comes_are_planned_and_touch_no_session(site: Site) -> None:
    sessions = _sessions(site)
    with site.edit("lb1") as config:
        config["vips"]["web"]["addresses"].remove(VIP6)
        config["timing"]["settle"] = "0s"
    planned = site.lab.node_cli("lb1", "reload", "--dry-run")
    assert planned.returncode == 10
    assert f"{V6} web withdrawn its address is removed" in " ".join(planned.stdout.split())
    assert site.lab.router_routes()[V6] == NODES
    site.reload("lb1")
    site.routed(["lb2", "lb3"], V6)
    until(lambda: V6 not in site.addresses("lb1"), "the address to leave the interface")
    with site.edit("lb1") as config:
        config["vips"]["six"] = {**copy.deepcopy(config["vips"]["web"]), "addresses": [VIP6]}
    checked = site.lab.node_cli("lb1", "reload", "--dry-run", "--json")
    assert checked.returncode == 10
    assert [one["way"] for one in json.loads(checked.stdout)["plan"]["routes"]] == ["coming"]
    began = time.monotonic()
    done = site.lab.node_cli("lb1", "reload")
    took = time.monotonic()
    assert done.returncode == 0, done.stderr
    assert "ExaBGP" not in done.stdout
    at = max(event.monotonic for event in site.routed(NODES, V6))
    print(
        f"in the router's table {at - began:.2f} s after the command began, {at - took:.2f} s after its end"
    )
    assert _sessions(site) == sessions
    assert site.standing("lb1") == []
    nothing = site.lab.node_cli("lb1", "reload", "--dry-run")
    assert (nothing.returncode, nothing.stdout) == (0, "nothing would change\n")


def test_sighup_is_a_reload(site: Site) -> None:
    with site.edit("lb2") as config:
        _drop(config, "rs4")
    site.lab.kill("lb2", "agent", signal.SIGHUP)
    until(lambda: site.weights("lb2", 4) == set(), "rs4 to leave lb2")
    assert "rs4" in str(site.logged("lb2", "config.applied")[0]["changes"])


def test_a_changed_lease_ttl_withdraws_nothing(site: Site) -> None:
    quiet = site.route_events()
    for ttl in ("1s", "30s"):
        with site.edit("lb1") as config:
            config["timing"]["lease_ttl"] = ttl
        seq = site.status("lb1")["plugins"][0]["seq"]
        site.reload("lb1")
        until(lambda seq=seq: site.status("lb1")["plugins"][0]["seq"] > seq, "a lease of that length")  # type: ignore[misc]
    assert site.lab.watch().events[quiet:] == []


def test_an_emptied_file_is_refused_and_every_route_stays(site: Site) -> None:
    with site.edit("lb1") as config:
        config["vips"] = {}
    quiet = site.route_events()
    done = site.lab.node_cli("lb1", "reload")
    assert done.returncode == 78
    assert "no VIP would be left" in done.stderr
    assert "--allow-removal" in done.stderr
    assert site.table_of("lb1") == site.table
    assert site.lab.watch().events[quiet:] == []
    assert site.standing("lb1") == ["reload_refused"]
    done = site.lab.node_cli("lb1", "status", "--nagios")
    assert done.returncode == 1
    assert "no VIP would be left" in done.stdout


def test_an_agent_with_a_damaged_file_announces_what_it_did_before(site: Site) -> None:
    file = site.lab.config("lb1")
    file.write_text(file.read_text() + "vips: [")
    site.lab.kill("lb1", "agent")
    site.lab.start("lb1", "agent")
    site.ready("lb1")
    site.routed(NODES)
    assert site.table_of("lb1") == site.table
    assert site.standing("lb1") == ["last_good"]
    assert site.logged("lb1", "config.last_good_used")[0]["level"] == "error"
    file.write_text(site.original["lb1"])
    site.reload("lb1")
    assert site.standing("lb1") == []


def test_what_nobody_confirms_goes_back_by_itself(site: Site) -> None:
    with site.edit("lb1") as config:
        _drop(config, "rs2")
    done = site.lab.node_cli("lb1", "reload", "--confirm-within", "5s")
    assert done.returncode == 0, done.stderr
    assert "on trial" in done.stderr
    assert site.standing("lb1") == ["confirmation_awaited"]
    assert site.logged("lb1", "config.gone_back")[0]["why"] == "not_confirmed"
    site.holds("lb1", site.table)
    assert site.standing("lb1") == ["gone_back"]
