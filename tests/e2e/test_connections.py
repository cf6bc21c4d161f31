"""What connections notice of changes to the table: nothing, on any node."""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from lab import kernel_view
from lab.topology import VIP4, VIPS
from tests.e2e.site import NODES, PATIENCE, Site, until

pytestmark = pytest.mark.lab
CONNECTIONS = 600
ROUNDS = 10 if os.environ.get("ANYCAST_LONG") else 4  # on each of three nodes


def _tables(site: Site, node: str) -> dict[str, str]:
    return {
        f"{service['name']} {one['address']}": one["fingerprint"]
        for service in site.vip(node)["services"]
        for one in service["tables"]
    }


def test_nodes_of_different_pasts_send_2000_flows_to_the_same_real_servers(site: Site) -> None:
    quiet = _tables(site, "lb1")
    # lb1 sees rs2 die, and its agent starts while rs2 is dead and rs3 is gone from the file.
    site.lab.kill("lb3", "agent", signal.SIGSTOP)
    site.lab.kill("rs2", "server")
    until(lambda: site.weights("lb1", 2) == {0}, "rs2 to be down on lb1")
    with site.edit("lb1") as config:
        config["pools"]["web"]["servers"].pop(2)
    site.lab.kill("lb1", "agent")
    site.lab.start("lb1", "agent")
    site.answers("lb1")
    until(lambda: site.weights("lb1", 3) == set(), "rs3 to be gone from lb1")
    # lb2 is emptied by hand, out of order besides.
    site.lab.exec("lb2", "ipvsadm", "-C")
    site.holds("lb2", site.table_of("lb2"))
    site.lab.config("lb1").write_text(site.original["lb1"])
    site.reload("lb1")
    site.lab.start("rs2", "server")
    site.lab.kill("lb3", "agent", signal.SIGCONT)
    for node in NODES:
        site.holds(node, site.table)
        until(lambda node=node: _tables(site, node) == quiet, f"{node} to show the table of before")  # type: ignore[misc]
    mappings = []
    for node in NODES:
        site.only(node)
        mappings.append(site.mapping())
    assert len(mappings[0]) == 2000
    assert len(set(mappings[0].values())) == 4
    differ = [flow for flow in mappings[0] if len({each[flow] for each in mappings}) > 1]
    assert differ == []


# Of somebody who deletes a real server and adds it again, which puts it at the end. That would end its connections: the
# repair is what is looked at, so for these milliseconds the sysctl is 0, and the agent does not see it.
_LAST = """kill -STOP {agent}
echo 0 > /proc/sys/net/ipv4/vs/expire_nodest_conn
ipvsadm -R <<END
-d -t {service} -r {server}
-a -t {service} -r {server} -g -w 1
END
echo 1 > /proc/sys/net/ipv4/vs/expire_nodest_conn
kill -CONT {agent}"""


def test_repairs_of_the_order_under_load_break_nothing(site: Site) -> None:
    with site.lab.load(CONNECTIONS) as load:
        load.mark()
        began = time.monotonic()
        counted = 'anycast_kernel_repairs_total{kind="order"}'
        before = {node: site.metric(node, counted) for node in NODES}
        for repair in range(ROUNDS):
            server = f"10.9.2.{repair % 3 + 1}:80"
            for node in NODES:
                agent = site.lab.process(node, "agent")
                assert agent is not None
                script = _LAST.format(service=f"{VIP4}:80", server=server, agent=agent.pid)
                site.lab.exec(node, "sh", "-c", script)
            for node in NODES:
                site.holds(node, site.table)
        for node in NODES:  # dear here, so it is asked for once
            until(
                lambda node=node: site.metric(node, counted) >= before[node] + ROUNDS,  # type: ignore[misc]
                f"{node} to count its repairs",
            )
        stats = load.wait_answered()
        moved = [event for event in site.lab.watch().events if event.monotonic >= began]
    # With its route elsewhere a connection would meet a table that is being changed on another node.
    told = (stats["errors"], moved)
    assert (stats["connections"], stats["broken"], stats["moved"]) == (CONNECTIONS, 0, 0), told


@pytest.mark.parametrize("sync", [True, False])
def test_a_server_is_added_and_then_a_balancer_is_lost(site: Site, sync: bool) -> None:  # noqa: FBT001
    """With connection sync nothing breaks. Without it some do: that is what it is for."""
    for node in NODES:
        with site.edit(node) as config:
            config["pools"]["web"]["servers"].pop(3)
            if sync:
                config["connection_sync"] = {"interface": "lan0", "id": 9}
        site.reload(node)
    for node in NODES:
        until(lambda node=node: site.weights(node, 4) == set(), f"rs4 to leave {node}")  # type: ignore[misc]
        if sync:
            until(
                lambda node=node: len(site.status(node)["kernel"]["connection_sync"]) == 2,  # type: ignore[misc]
                f"both daemons to run on {node}",
            )
    with site.lab.load(CONNECTIONS) as load:
        flows = site.live()
        assert len(flows) == CONNECTIONS
        for node in NODES if sync else ():
            until(lambda node=node: site.knows(node, flows), f"{node} to know all connections")  # type: ignore[misc]
        for node in NODES:
            with site.edit(node) as config:
                config["pools"]["web"] = _original(site, node)
            site.reload(node)
        for node in NODES:
            until(lambda node=node: site.weights(node, 4) == {1}, f"rs4 to be in use on {node}")  # type: ignore[misc]
        load.mark()
        site.lab.kill("lb1", "exabgp")
        site.routed(["lb2", "lb3"])
        meanwhile = load.stats()
        load.mark()
        afterwards = load.wait_answered()
    broken = meanwhile["broken"] + afterwards["broken"]
    assert meanwhile["connections"] == CONNECTIONS
    assert (broken == 0) == sync, (meanwhile, afterwards)


def _synced(site: Site, settle: Callable[[dict[str, Any]], None]) -> None:
    """Connection sync on every node, with what else is changed of their configurations; both daemons run."""
    for node in NODES:
        with site.edit(node) as config:
            config["connection_sync"] = {"interface": "lan0", "id": 9}
            settle(config)
        site.reload(node)
    for node in NODES:
        until(
            lambda node=node: len(site.status(node)["kernel"]["connection_sync"]) == 2,  # type: ignore[misc]
            f"both daemons to run on {node}",
        )


def test_quiet_connections_stay_known_to_all_nodes(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """A packet every twelve seconds of a timeout of forty: as one every four and a half minutes of the usual fifteen."""
    _synced(site, lambda config: config.update(timeouts={"tcp": "40s", "tcp_fin": "40s", "udp": "40s"}))
    with site.lab.load(300, interval=12.0, deadline=30.0) as load:
        flows = site.live()
        assert len(flows) == 300
        for node in NODES:
            until(lambda node=node: site.knows(node, flows), f"{node} to know all connections")  # type: ignore[misc]
        end, shares = time.monotonic() + 45.0, list[float]()
        while time.monotonic() < end:
            shares += [len(flows & kernel_view.known(node)) / len(flows) for node in NODES]
            time.sleep(0.2)  # a look is dear here
        site.lab.kill("lb1", "exabgp")
        site.routed(["lb2", "lb3"])
        load.mark()
        after = load.wait_answered(PATIENCE)
    with capsys.disabled():
        print(
            f"\nquiet connections: {statistics.mean(shares):.1%} of them known to a node on average, at least "
            f"{min(shares):.1%}; {after['broken']} of 300 broken"
        )
    assert (after["connections"], after["broken"], after["moved"]) == (300, 0, 0), after["errors"]
    # A lost message is made up for by the next. Told of by their packets ("3 10"), they would be known two thirds of the time.
    assert statistics.mean(shares) > 0.9


def test_a_server_behind_tunnels_is_added_with_weight_0_everywhere_first_and_nothing_is_lost(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    """Node by node. With its weight at once, what one node tells the next of it is dropped there."""
    for number in range(1, 5):
        for device in ("tunl0", "ip6tnl0"):
            site.lab.exec(f"rs{number}", "ip", "link", "set", device, "up")
            site.lab.exec(f"rs{number}", "sh", "-c", f"echo 0 > /proc/sys/net/ipv4/conf/{device}/rp_filter")
        site.lab.exec(f"rs{number}", "sh", "-c", "echo 0 > /proc/sys/net/ipv4/conf/all/rp_filter")

    def without(config: dict[str, Any]) -> None:
        config["pools"]["web"]["servers"].pop(3)
        config["vips"]["web"]["forwarding"] = "tunnel"

    def added(weight: int) -> None:
        for node in NODES:
            with site.edit(node) as config:
                servers = config["pools"]["web"]["servers"][:3]
                config["pools"]["web"]["servers"] = [*servers, _servers(site, node)[3] | {"weight": weight}]
            site.reload(node)
            until(lambda node=node: site.weights(node, 4) == {weight}, f"rs4 on {node}")  # type: ignore[misc]

    _synced(site, without)
    with site.lab.load(CONNECTIONS, probes=50) as load:
        added(0)
        added(1)
        load.fill()
        # Some that were opened since are rs4's.
        with site.lab.load(CONNECTIONS // 2) as later:
            flows = site.live()
            for node in NODES:
                until(lambda node=node: site.knows(node, flows), f"{node} to know all connections")  # type: ignore[misc]
            load.mark()
            later.mark()
            site.lab.kill("lb1", "exabgp")
            site.routed(["lb2", "lb3"])
            stats = [one.wait_answered(PATIENCE) for one in (load, later)]
    broken = [one["broken"] for one in stats]
    with capsys.disabled():
        print(
            f"\na server added behind tunnels, then a node lost: {broken[0]} of {CONNECTIONS} and {broken[1]} of {CONNECTIONS // 2} broken"
        )
    assert "rs4" in stats[1]["servers"]
    assert broken == [0, 0], [one["errors"] for one in stats]


def _servers(site: Site, node: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(site.original[node])["pools"]["web"]["servers"]
    return found


def _original(site: Site, node: str) -> object:
    return yaml.safe_load(site.original[node])["pools"]["web"]


def test_a_link_that_was_down_gets_its_ipv6_address_back(site: Site) -> None:
    for node in ("lb1",):
        site.lab.exec(node, "ip", "link", "add", "vip0", "type", "dummy")
        site.lab.exec(node, "ip", "link", "set", "vip0", "up")
        with site.edit(node) as config:
            config["node"]["interface"] = "vip0"
        site.lab.kill(node, "agent")
        site.lab.start(node, "agent")
        site.ready(node)
        try:
            site.lab.exec(node, "ip", "link", "set", "vip0", "down")
            site.routed(["lb2", "lb3"])
            assert site.vip(node)["reason"] == "kernel_unavailable"
            assert "vip0 is down" in site.vip(node)["detail"]
            site.lab.exec(node, "ip", "link", "set", "vip0", "up")
            site.ready(node)
            assert VIPS[1] in site.lab.exec(node, "ip", "-br", "address", "show", "vip0").stdout
            site.routed(NODES)
        finally:
            site.lab.config(node).write_text(site.original[node])
            site.lab.kill(node, "agent")
            site.lab.exec(node, "ip", "link", "del", "vip0")
            site.lab.start(node, "agent")


def test_a_sysctl_changed_by_hand_is_set_again_and_counted(site: Site) -> None:
    before = site.metric("lb1", 'anycast_kernel_repairs_total{kind="sysctl"}')
    site.lab.exec("lb1", "sysctl", "-qw", "net.ipv4.vs.sloppy_tcp=0")
    until(
        lambda: site.metric("lb1", 'anycast_kernel_repairs_total{kind="sysctl"}') == before + 1,
        "the repair to be counted",
    )
    assert site.lab.exec("lb1", "sysctl", "-n", "net.ipv4.vs.sloppy_tcp").stdout == "1\n"
    assert "sysctl" in site.logged("lb1", "kernel.drifted")[0]["kinds"]


def test_a_sysctl_that_is_not_ours_to_set_takes_the_route_away_with_a_reason(site: Site) -> None:
    with site.edit("lb1") as config:
        config["sysctls"] = "check"
    site.lab.kill("lb1", "agent")
    site.lab.start("lb1", "agent")
    try:
        site.ready("lb1")
        site.lab.exec("lb1", "sysctl", "-qw", "net.ipv4.vs.sloppy_tcp=0")
        site.routed(["lb2", "lb3"])
        vip = site.vip("lb1")
        assert vip["reason"] == "kernel_differs"
        assert "net.ipv4.vs.sloppy_tcp is 0, 1 is needed" in vip["detail"]
        site.lab.exec("lb1", "sysctl", "-qw", "net.ipv4.vs.sloppy_tcp=1")
        site.ready("lb1")
    finally:
        site.lab.config("lb1").write_text(site.original["lb1"])
        site.lab.kill("lb1", "agent")
        site.lab.start("lb1", "agent")
