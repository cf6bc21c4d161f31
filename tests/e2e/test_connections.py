"""What connections notice of changes to the table: nothing, on any node."""

from __future__ import annotations

import signal

import pytest

from lab.topology import VIP4, VIPS
from tests.e2e.site import NODES, Site, until

pytestmark = pytest.mark.lab
CONNECTIONS = 600


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


_LAST = """echo 0 > /proc/sys/net/ipv4/vs/expire_nodest_conn
ipvsadm -R <<END
-d -t {service} -r {server}
-a -t {service} -r {server} -g -w 1
END"""


def test_ten_repairs_of_the_order_under_load_break_nothing(site: Site) -> None:
    for node in NODES:
        with site.edit(node) as config:
            config["timing"]["reconcile"] = "200ms"
        site.reload(node)
    with site.lab.load(CONNECTIONS) as load:
        load.mark()
        for repair in range(10):
            server = f"10.9.2.{repair % 3 + 1}:80"
            for node in NODES:
                before = site.metric(node, 'anycast_kernel_repairs_total{kind="order"}')
                # A deletion by somebody else ends connections, unless this sysctl is 0: the repair is what is looked at.
                site.lab.exec(node, "sh", "-c", _LAST.format(service=f"{VIP4}:80", server=server))
                until(
                    lambda node=node, before=before: (
                        site.metric(  # type: ignore[misc]
                            node, 'anycast_kernel_repairs_total{kind="order"}'
                        )
                        > before
                    ),
                    f"{node} to repair the order",
                )
                site.holds(node, site.table)
        stats = load.wait_answered()
    assert (stats["connections"], stats["broken"], stats["moved"]) == (CONNECTIONS, 0, 0), stats["errors"]


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


def _original(site: Site, node: str) -> object:
    import yaml

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
