"""A process of a node dies, hangs, leaves or comes back: what the router and the clients see of it."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
from collections.abc import Iterator

import pytest

from lab import netns
from lab.control import What
from lab.topology import VIPS
from tests.e2e.site import NODES, OPS_PORT, Site, until

pytestmark = pytest.mark.lab
PROGRAMS = "anycast_kernel_programs_total"


def test_a_killed_agent_costs_its_node_the_route_and_nobody_a_connection(site: Site) -> None:
    with site.lab.load(120) as load:
        load.mark()
        site.lab.kill("lb2", "agent")
        site.routed(["lb1", "lb3"])
        assert site.table_of("lb2") == site.table
        assert set(VIPS) <= site.addresses("lb2")
        site.lab.start("lb2", "agent")
        site.routed(NODES)
        stats = load.wait_answered()
    assert (stats["broken"], stats["moved"]) == (0, 0), stats["errors"]
    assert site.table_of("lb2") == site.table
    assert site.metric("lb2", PROGRAMS) == 0, "taken over: there was nothing to change"


def test_a_hung_agent_costs_its_node_the_route_until_it_goes_on(site: Site) -> None:
    site.lab.kill("lb2", "agent", signal.SIGSTOP)
    try:
        site.routed(["lb1", "lb3"])
        assert site.lab.alive("lb2", "agent")
    finally:
        site.lab.kill("lb2", "agent", signal.SIGCONT)
    site.routed(NODES)


@contextlib.contextmanager
def _unanswered(site: Site, node: str) -> Iterator[None]:
    """What the node sends to the real servers gets lost: its checks wait."""
    hosts = [
        interface.partition("/")[0]
        for server in site.lab.topology.servers
        for interface in server.interfaces["lan0"]
    ]
    for host in hosts:
        link = ("lladdr", "02:00:00:00:00:99", "dev", "lan0", "nud", "permanent")
        site.lab.exec(node, "ip", "neighbor", "replace", host, *link)
    try:
        yield
    finally:
        for host in hosts:
            site.lab.exec(node, "ip", "neighbor", "delete", host, "dev", "lan0")


def test_real_servers_in_use_keep_their_weight_until_a_check_has_spoken(site: Site) -> None:
    site.lab.kill("lb3", "agent")
    with site.edit("lb3") as config:
        patient = {"type": "http", "port": 80, "path": "/health", "interval": "30s", "timeout": "20s"}
        config["pools"]["web"]["check"] = patient
        config["vips"]["web"]["services"][1]["check"] = dict(patient)
    with _unanswered(site, "lb3"):
        site.lab.start("lb3", "agent")
        until(lambda: site.answers("lb3")["kernel"]["available"], "the kernel to be read")
        assert site.vip("lb3")["reason"] == "starting"
        assert site.vip("lb3")["detail"] == "16 checks without a result yet"
        assert site.table_of("lb3") == site.table
        assert site.metric("lb3", PROGRAMS) == 0
    site.ready("lb3")
    assert site.metric("lb3", PROGRAMS) == 0


def test_an_agent_that_is_told_to_stop_withdraws_first_and_leaves_the_kernel_standing(site: Site) -> None:
    assert site.terminate("lb1", "agent") == 0
    site.routed(["lb2", "lb3"])
    assert {event["prefix"] for event in site.logged("lb1", "route.withdrawn", 2)} == set(VIPS)
    assert [event["withdrawn"] for event in site.logged("lb1", "agent.stopped")] == [True]
    assert site.table_of("lb1") == site.table
    assert set(VIPS) <= site.addresses("lb1")
    asked = site.lab.node_cli("lb1", "status")
    assert asked.returncode == 3
    assert "no agent answers" in asked.stderr
    # The VIPs stand on the interface already when it starts.
    site.lab.start("lb1", "agent")
    site.routed(NODES)
    assert site.metric("lb1", PROGRAMS) == 0


def test_an_agent_back_within_its_lease_is_not_noticed_by_the_router(site: Site) -> None:
    with site.edit("lb1") as config:
        config["timing"]["lease_ttl"] = "30s"
    seq = site.status("lb1")["plugins"][0]["seq"]
    site.reload("lb1")
    until(lambda: site.status("lb1")["plugins"][0]["seq"] > seq, "the longer lease to be in force")
    quiet = site.route_events()
    site.lab.kill("lb1", "agent")
    site.lab.start("lb1", "agent")
    site.ready("lb1")
    assert site.lab.watch().events[quiet:] == []


def test_an_agent_that_crashes_over_and_over_is_held_longer_each_time(site: Site) -> None:
    with site.edit("lb1") as config:
        config["timing"]["start_hold_limit"] = "16s"  # longer than the ops process takes to start
    site.terminate("lb1", "agent")  # what was before is forgotten
    site.lab.start("lb1", "agent")
    for _ in range(5):
        until(lambda: site.answers("lb1")["kernel"]["available"], "the kernel to be read")
        site.lab.kill("lb1", "agent")
        site.lab.start("lb1", "agent")
    until(lambda: site.answers("lb1")["vips"][0]["stable_s"] is not None, "the hold to begin")
    assert site.vip("lb1")["reason"] == "starting"
    assert "(5 crashes in 10 min)" in site.vip("lb1")["detail"]
    told = site.logged("lb1", "agent.start_held", 4)
    assert [(event["seconds"], event["crashes"]) for event in told] == [(2, 2), (4, 3), (8, 4), (16, 5)]
    site.ready("lb1")
    site.routed(NODES)
    assert site.vip("lb1")["hold_s"] is None


def test_a_second_agent_on_a_node_does_not_start_even_after_a_sweep_of_the_lock(site: Site) -> None:
    lock = site.lab.run / "lb1" / "agent.lock"
    lock.unlink()
    until(lock.exists, "the lock to be taken again")
    done = site.lab.node_cli("lb1", "agent", "--config", str(site.lab.config("lb1")))
    assert done.returncode == 75
    assert "another agent runs" in done.stderr
    assert site.vip("lb1")["announced"]


def test_without_exabgp_the_agent_serves_is_not_ready_and_says_why(site: Site) -> None:
    with site.lab.load(120) as load:
        load.mark()
        site.lab.kill("lb3", "exabgp")
        site.routed(["lb1", "lb2"])
        stats = load.wait_answered()
    assert stats["broken"] == 0, stats["errors"]
    site.lab.kill("lb3", "agent")
    site.lab.start("lb3", "agent")
    until(lambda: site.answers("lb3")["vips"][0]["reason"] == "healthy", "lb3 to be healthy")
    code, body = site.http("lb3", "/readyz")
    assert code == 503
    assert "no plugin is connected (is ExaBGP running" in body
    assert site.http("lb3", "/livez")[0] == 200
    code, body = site.http("lb3", "/vips/web")
    assert code == 503
    assert body.startswith("not announced: healthy: no plugin is connected")
    shown = site.lab.node_cli("lb3", "status")
    assert shown.returncode == 0
    assert "no plugin connected" in shown.stdout
    site.lab.start("lb3", "exabgp")
    site.routed(NODES)


def test_an_exabgp_that_stands_still_with_its_plugin_is_told_of_everywhere_and_comes_back(
    site: Site,
) -> None:
    """A frozen unit, a paused container: nobody ends it, the routers drop its routes, and BGP looks up on the node."""
    with _still(site, "lb3"):
        assert "exabgp_silent" in [event["kind"] for event in site.logged("lb3", "condition.began")]
        vip = site.vip("lb3")
        assert (vip["announced"], vip["obstacle_reason"]) == (False, "exabgp_silent")
        status = site.status("lb3")
        assert {each["state"] for each in status["neighbors"]} == {"unknown"}
        assert "exabgp_silent" in [each["kind"] for each in status["standing"]]
        code, body = site.http("lb3", "/readyz")
        assert code == 503
        assert "ExaBGP's plugin has not answered for" in body
        assert site.metric("lb3", "anycast_exabgp_oldest_command_seconds") > 0
        nagios = site.lab.node_cli("lb3", "status", "--nagios")
        assert (nagios.returncode, nagios.stdout.startswith("ANYCAST CRITICAL: the plugin of ExaBGP")) == (
            2,
            True,
        )
        assert "is announced is not known" in site.lab.node_cli("lb3", "why", "web").stdout
        site.routed(["lb1", "lb2"])
    site.routed(NODES)
    site.ready("lb3")
    assert "exabgp_silent" in [event["kind"] for event in site.logged("lb3", "condition.ended")]
    assert site.lab.alive("lb3", "exabgp")


@contextlib.contextmanager
def _still(site: Site, node: str) -> Iterator[None]:
    """ExaBGP, its plugin and the plugin's guardian stand still in the block."""
    names: tuple[What, ...] = ("guardian", "plugin", "exabgp")
    still = [one for one in (site.lab.process(node, what) for what in names) if one is not None]
    assert len(still) == len(names)
    for one in still:
        one.send(signal.SIGSTOP)
    try:
        yield
    finally:
        for one in reversed(still):
            one.send(signal.SIGCONT)


def test_what_a_killed_plugin_left_is_withdrawn_by_the_next_before_any_lease(site: Site) -> None:
    site.lab.kill("lb1", "agent", signal.SIGSTOP)
    try:
        site.lab.kill("lb1", "plugin")
        site.routed(["lb2", "lb3"])
    finally:
        site.lab.kill("lb1", "agent", signal.SIGCONT)
    site.routed(NODES)


def test_a_killed_plugin_comes_back_by_itself_and_nobody_loses_a_connection(site: Site) -> None:
    with site.lab.load(120) as load:
        load.mark()
        site.lab.kill("lb1", "plugin")
        site.logged("lb1", "plugin.connected")
        site.ready("lb1")
        site.routed(NODES)
        stats = load.wait_answered()
    assert stats["broken"] == 0, stats["errors"]
    assert len(site.logged("lb1", "plugin.lost")) == 1
    assert {event["prefix"] for event in site.logged("lb1", "route.announced", 2)} == set(VIPS)


def test_a_swept_runtime_directory_is_furnished_again_and_found_by_the_plugin(site: Site) -> None:
    folder = site.lab.run / "lb1"
    quiet = site.route_events()
    for name in ("lease.sock", "control.sock"):
        (folder / name).unlink()
    shutil.rmtree(folder / "plugin")
    until(
        lambda: all((folder / name).exists() for name in ("lease.sock", "control.sock", "plugin")),
        "the sockets to be back",
    )
    site.logged("lb1", "socket.rebound", 2)
    assert site.vip("lb1")["announced"]
    assert site.lab.watch().events[quiet:] == []
    site.mark("lb1")
    site.lab.kill("lb1", "plugin")
    site.logged("lb1", "plugin.connected")
    site.routed(NODES)


def test_a_taken_ops_port_keeps_no_route_down(site: Site) -> None:
    site.terminate("lb2", "agent")
    site.mark("lb2")
    with netns.open_socket("lb2", socket.AF_INET, socket.SOCK_STREAM) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", OPS_PORT))
        taken.listen()
        site.lab.start("lb2", "agent")
        site.routed(NODES)
        assert len(site.logged("lb2", "ops.unavailable")) == 1
        assert site.lab.node_cli("lb2", "status").returncode == 0
    site.logged("lb2", "ops.listening")
    assert site.http("lb2", "/livez")[0] == 200
