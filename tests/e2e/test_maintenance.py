"""An operator takes a node, or one VIP of it, out and brings it back."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest

from lab.topology import VIP6, VIPS
from tests.e2e.site import Site, until

pytestmark = pytest.mark.lab
V4, V6 = VIPS
OUT = {"withdrawn", "quiet", "down"}


def test_a_node_in_maintenance_breaks_no_connection_says_why_and_comes_back(site: Site) -> None:
    with site.lab.load(120) as load:
        load.mark()
        done = site.lab.node_cli("lb1", "maintenance", "on", "--reason", "new kernel")
        assert done.returncode == 0, done.stderr
        assert "node: maintenance on" in done.stdout
        site.routed(["lb2", "lb3"])
        during = load.wait_answered()
        shown = site.lab.node_cli("lb1", "maintenance", "status").stdout
        as_json = json.loads(site.lab.node_cli("lb1", "status", "--json").stdout)
        load.mark()
        assert site.lab.node_cli("lb1", "maintenance", "off").returncode == 0
        site.routed(["lb1", "lb2", "lb3"])
        after = load.wait_answered()
    assert (during["broken"], after["broken"]) == (0, 0), (during["errors"], after["errors"])
    (vip,) = as_json["vips"]
    assert (vip["advertise"], vip["reason"]) == ("no", "node_maintenance")
    assert vip["stage"] in OUT
    (entry,) = as_json["maintenance"]
    assert (entry["scope"], entry["reason"], entry["by"]) == ("", "new kernel", "root")
    assert all(word in shown for word in ("node", "root", "new kernel"))
    assert site.status("lb1")["maintenance"] == []


def test_maintenance_is_kept_over_a_restart_of_the_agent(site: Site) -> None:
    site.maintenance("lb1", on=True, reason="new kernel")
    site.routed(["lb2", "lb3"])
    assert site.terminate("lb1", "agent") == 0
    quiet = site.route_events()
    site.mark("lb1")
    site.lab.start("lb1", "agent")
    until(lambda: site.answers("lb1")["ready"]["ready"], "lb1 to be up, in maintenance")
    vip = site.vip("lb1")
    assert (vip["advertise"], vip["reason"], vip["announced"]) == ("no", "node_maintenance", False)
    assert site.status("lb1")["maintenance"][0]["reason"] == "new kernel"
    assert site.logged("lb1", "maintenance.kept")
    assert site.route_events() == quiet
    site.maintenance("lb1", on=False)
    site.routed(["lb1", "lb2", "lb3"])


def test_one_vip_in_maintenance_leaves_the_others_of_the_node(site: Site) -> None:
    with site.edit("lb1") as config:
        web = config["vips"]["web"]
        web["addresses"].remove(VIP6)
        config["vips"]["web6"] = deepcopy(web) | {"addresses": [VIP6]}
    quiet = site.route_events()
    site.reload("lb1")
    site.maintenance("lb1", on=True, vip="web6")
    site.routed(["lb2", "lb3"], V6)
    assert site.lab.router_routes()[V4] == ("lb1", "lb2", "lb3")
    assert site.vip("lb1", "web6")["reason"] == "vip_maintenance"
    assert site.vip("lb1", "web")["announced"]
    assert [event.prefix for event in site.lab.watch().events[quiet:]] == [V6]
    refused = site.lab.node_cli("lb1", "maintenance", "on", "--vip", "nosuch")
    assert refused.returncode == 1
    assert "configured: web, web6" in refused.stderr
    ended = site.lab.node_cli("lb1", "maintenance", "off", "--vip", "web6")
    assert ended.returncode == 0
    assert "VIP web6: maintenance off" in ended.stdout
    site.routed(["lb1", "lb2", "lb3"])


def test_draining_is_announced_as_the_last_resort_before_the_withdraw(site: Site) -> None:
    with site.edit("lb1") as config:
        config["timing"]["drain"] = "10m"
    site.reload("lb1")
    site.maintenance("lb1", on=True)
    site.routed(["lb2", "lb3"])  # already the community moves the clients
    assert site.paths(V4) == {"lb1": ["graceful-shutdown"], "lb2": [], "lb3": []}
    assert (site.vip("lb1")["stage"], site.vip("lb1")["announced"]) == ("draining", True)
    with site.edit("lb1") as config:
        config["timing"]["drain"] = "0s"
    site.reload("lb1")
    until(lambda: site.paths(V4).keys() == {"lb2", "lb3"}, "lb1's path to be withdrawn")
    assert site.vip("lb1")["stage"] in OUT


def test_a_node_that_cannot_read_what_maintenance_it_was_in_stays_in_maintenance(site: Site) -> None:
    site.terminate("lb3", "agent")
    site.mark("lb3")
    (site.lab.run / "lb3" / "state" / "maintenance.json").write_text('{"version": 1, "mainten')
    site.lab.start("lb3", "agent")
    until(lambda: site.answers("lb3")["ready"]["ready"], "lb3 to be up, in maintenance")
    (entry,) = site.status("lb3")["maintenance"]
    assert "maintenance.json" in entry["reason"]
    assert "`anycast maintenance off`" in entry["reason"]
    assert [event["level"] for event in site.logged("lb3", "maintenance.damaged")] == ["error"]
    assert site.lab.router_routes() == dict.fromkeys(VIPS, ("lb1", "lb2"))
    site.maintenance("lb3", on=False)
    site.routed(["lb1", "lb2", "lb3"])
