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
