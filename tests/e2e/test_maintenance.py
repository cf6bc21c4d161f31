"""An operator takes a node, or one VIP of it, out and brings it back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

import pytest

from lab.topology import VIP4, VIP6, VIPS
from tests.e2e.site import NODES, PATIENCE, Document, Site, until

pytestmark = pytest.mark.lab
V4, V6 = VIPS
CONNECTIONS, NEW_A_SECOND = 600, 200
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


def test_a_whole_drain_under_new_connections_breaks_none_and_fails_none(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    with site.lab.load(CONNECTIONS, probes=NEW_A_SECOND, ready_timeout=PATIENCE) as load:
        load.mark()
        out = site.lab.node_cli("lb1", "maintenance", "on", "--reason", "new kernel", "--wait", timeout=120.0)
        assert out.returncode == 0, out.stderr
        during = load.wait_answered(PATIENCE)
        (entry,) = site.status("lb1")["maintenance"]
        stages = site.logged("lb1", "maintenance.stage_changed", 3)
        load.mark()
        assert site.lab.node_cli("lb1", "maintenance", "off").returncode == 0
        site.routed(NODES)
        after = load.wait_answered(PATIENCE)
    figures = [_figures(words, stats) for words, stats in (("off", after), ("on", during))]
    told = ", ".join(f"{one['stage']} after {one['after_s']:g} s ({one['why']})" for one in stages)
    with capsys.disabled():
        print("", *figures, f"stages: {told}; {out.stderr.splitlines()[-1]}", sep="\n")
    for stats in (during, after):
        assert (stats["connections"], stats["broken"], stats["moved"]) == (CONNECTIONS, 0, 0), stats["errors"]
        assert stats["probes"]["failed"] == 0, stats["probes"]["errors"]
        assert min(stats["probes"]["by_family"].values()) > 0
    assert (entry["stage"], entry["packets_per_s"]) == ("down", pytest.approx(0.0, abs=1.0))
    assert [(one["stage"], one["why"]) for one in stages] == [
        ("withdrawn", "drained"),
        ("quiet", "withdrawn"),
        ("down", "quiet"),
    ]


def _figures(act: str, stats: Document) -> str:
    probes = stats["probes"]
    tried = probes["ok"] + probes["failed"]
    families = ", ".join(f"IPv{family} {count}" for family, count in probes["by_family"].items())
    return (
        f"maintenance {act}: {stats['broken']} of {stats['connections']} connections broken, "
        f"longest wait {stats['longest_pause']:.2f} s; "
        f"{probes['failed']} of {tried} new connections failed ({families} served)"
    )


def test_packets_that_still_come_keep_the_node_from_being_down(site: Site) -> None:
    """A router that does not follow: the client's packets are sent to lb1 whatever BGP says."""
    with site.edit("lb1") as config:
        config["timing"] |= {"quiet_limit": "10m"}
    site.reload("lb1")
    with _always_by(site, "lb1"):
        with site.lab.load(20, interval=0.05):
            site.maintenance("lb1", on=True, now=True)
            until(lambda: site.vip("lb1")["stage"] == "quiet", "lb1 to wait for silence")
            until(lambda: (site.vip("lb1")["packets_per_s"] or 0.0) > 10.0, "the packets to be counted")
            assert site.vip("lb1")["stage"] == "quiet"
        until(lambda: site.vip("lb1")["stage"] == "down", "lb1 to be down once they have ended")


@pytest.mark.parametrize(
    ("sysctl", "value"),
    [("run_estimation", "0"), ("est_cpulist", ""), ("est_nice", "19"), ("est_nice", "-20")],
)
def test_however_the_kernel_counts_packets_the_limit_decides_while_they_come(
    site: Site, sysctl: str, value: str
) -> None:
    """With the first two it counts none and goes on saying that none came; `est_nice` makes it count late or soon."""
    there = f"/proc/sys/net/ipv4/vs/{sysctl}"
    known = site.lab.exec("lb1", "cat", there, check=False)
    if known.returncode:
        pytest.skip(f"this kernel has no {sysctl}")
    with site.edit("lb1") as config:
        config["timing"] |= {"quiet_limit": "12s"}
    site.reload("lb1")
    site.lab.exec("lb1", "sh", "-c", f"echo {value} > {there}")
    try:
        assert site.lab.exec("lb1", "cat", there).stdout.strip() == value
        with _always_by(site, "lb1"), site.lab.load(20, interval=0.05):
            site.maintenance("lb1", on=True, now=True)
            until(lambda: site.vip("lb1")["stage"] == "down", "the limit to pass")
    finally:
        site.lab.exec("lb1", "sh", "-c", f"echo {known.stdout.strip()} > {there}")
    last = site.logged("lb1", "maintenance.stage_changed", 2)[-1]
    why = "the limit has passed"
    if sysctl != "est_nice":
        why += ", and packets could not be counted"
    assert (last["stage"], last["why"]) == ("down", why)


@contextmanager
def _always_by(site: Site, node: str) -> Iterator[None]:
    """The router sends the packets for the IPv4 VIP there, whatever BGP says."""
    one = next(each for each in site.lab.topology.balancers if each.name == node)
    site.lab.exec("r1", "ip", "route", "add", f"{VIP4}/32", "via", one.node4, "table", "99")
    site.lab.exec("r1", "ip", "rule", "add", "to", VIP4, "table", "99", "priority", "99")
    try:
        yield
    finally:
        site.lab.exec("r1", "ip", "rule", "del", "to", VIP4, "table", "99", "priority", "99")
        site.lab.exec("r1", "ip", "route", "flush", "table", "99")


def test_the_file_takes_the_node_out_and_only_its_removal_brings_it_back(site: Site) -> None:
    file = site.lab.run / "lb1" / "maintenance"
    file.write_text("new disks\n")
    try:
        site.routed(["lb2", "lb3"])
        (entry,) = site.status("lb1")["maintenance"]
        assert (entry["source"], entry["by"], entry["reason"]) == ("file", "file", "new disks")
        refused = site.lab.node_cli("lb1", "maintenance", "off")
        assert refused.returncode == 1
        assert f"a file {file} (remove it)" in refused.stderr
        assert site.status("lb1")["maintenance"] != []
    finally:
        file.unlink()
    site.routed(NODES)


def test_a_maintenance_with_an_end_brings_the_node_back_after_a_restart_of_the_agent(site: Site) -> None:
    done = site.lab.node_cli("lb1", "maintenance", "on", "--for", "15s", "--now")
    assert done.returncode == 0, done.stderr
    assert "then back into service" in done.stdout
    site.routed(["lb2", "lb3"])
    site.lab.kill("lb1", "agent")
    site.lab.start("lb1", "agent")
    site.routed(NODES)
    assert [event["why"] for event in site.logged("lb1", "maintenance.ended")] == ["its time is over"]
    assert json.loads((site.lab.run / "lb1" / "state" / "maintenance.json").read_text())["maintenance"] == {}


def test_a_drain_before_a_stop_takes_the_node_out_and_the_next_agent_is_in_service(site: Site) -> None:
    with site.lab.load(120) as load:
        load.mark()
        done = site.lab.node_cli("lb1", "drain", "--wait", "--timeout", "2m", timeout=150.0)
        assert done.returncode == 0, done.stderr
        assert site.lab.router_routes() == dict.fromkeys(VIPS, ("lb2", "lb3"))
        assert site.terminate("lb1", "agent") == 0
        site.lab.start("lb1", "agent")
        site.routed(NODES)
        stats = load.wait_answered(PATIENCE)
    assert stats["broken"] == 0, stats["errors"]
    assert site.answers("lb1")["maintenance"] == []


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
