"""What commands say of VIPs that the node itself serves."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from anycast.analysis.budget import Kind, budget
from anycast.analysis.capacity import demand
from anycast.cli import nagios, text
from anycast.cli.main import main
from anycast.cli.overview import is_wrong
from anycast.config.changes import changes
from anycast.core.values.configuration import Check, Local, Protocol, TcpCheck, Vip
from anycast.ops import status
from tests.unit.ops.node import CONFIG, Node, healthy

CHECK = Check(kind=TcpCheck(), fall=1)
DNS = Vip(
    name="dns",
    addresses=(ip_address("192.0.2.53"),),
    services=(),
    local=(Local(protocol=Protocol.UDP, port=53, check=CHECK), Local(port=53)),
)
ALONE = replace(CONFIG, vips=(DNS,))


def document(node: Node) -> dict[str, object]:
    return status.document(node.state, now=node.now, wall=1_800_000_000.0, version="1", pid=2)


def test_the_status_has_a_table_of_its_own_and_none_of_ipvs() -> None:
    node = healthy(ALONE)
    shown = text.status(document(node), colour=False)
    assert "ON THIS NODE" in shown
    assert "SCHEDULER" not in shown
    (udp, tcp) = (line.split() for line in shown.splitlines() if line.startswith("dns  ") and "/53" in line)
    assert udp[1:4] == ["udp/53", "192.0.2.53:53", "up"]
    assert tcp[1:4] == ["tcp/53", "-", "-"], "it has no check of its own"
    assert "SCHEDULER" in text.status(
        document(healthy(replace(CONFIG, vips=(*CONFIG.vips, DNS)))), colour=False
    )


def test_monitoring_is_told_what_fails_on_the_node() -> None:
    node = healthy(ALONE)
    assert not is_wrong(status.document(node.state, now=node.now, wall=1.0, version="1", pid=2)["vips"][0])
    node.probe("192.0.2.53")
    node.report()
    found, line = nagios.report(document(node))
    assert found == 2
    assert "dns not announced (local_check_failed: udp/53 at 192.0.2.53: refused)" in line
    assert "dns udp/53 on this node: refused" in line


def test_a_reload_says_what_of_it_changes() -> None:
    other = replace(CHECK, kind=TcpCheck(port=5353))
    new = replace(DNS, local=(replace(DNS.local[0], check=other), Local(port=853)))
    told = changes(ALONE, replace(ALONE, vips=(new,)))
    assert told == (
        "vip dns: local service tcp/53 removed",
        "vip dns: local service tcp/853 added",
        "vip dns: local service udp/53 check tcp -> tcp on port 5353",
    )


def test_it_has_its_place_in_the_budget_and_its_checks_cost_what_others_cost() -> None:
    found = {one.kind: one.scopes for one in budget(ALONE).outages}
    assert found[Kind.SERVICE_DIES] == found[Kind.SERVICE_HANGS] == ("dns udp/53",)
    assert Kind.SERVER_DIES not in found
    assert demand(ALONE).servers == 0
    assert demand(ALONE).checks == 0.5


def test_its_checks_can_be_run_by_the_name_of_the_vip(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "anycast.yaml"
    file.write_text(
        "bgp: {local_as: 65001, router_id: 10.2.1.1, neighbors: [{address: 10.2.1.254, remote_as: 65000}]}\n"
        "checks: {mine: {type: tcp, timeout: 100ms}}\n"
        "vips: {dns: {address: 127.1.2.3, port: 9, local: true, check: mine}}\n".replace(
            "127.1.2.3", "192.0.2.53"
        )
    )
    for name in ("dns", "mine"):
        assert main(["probe", name, "--config", str(file)]) == 1
        assert "tcp/9 at 192.0.2.53" in capsys.readouterr().out
