"""The verbs about a file, of a fleet: for this machine, for a node that is named, or for each."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from anycast.agent.answers import PlanAnswer
from anycast.cli import configuration
from anycast.cli.main import main
from anycast.core.in_force import InForce
from anycast.core.planned import Plan
from tests.unit.cli.test_node import against
from tests.unit.ops.node import Node, Operator, healthy
from tests.unit.ops.test_metrics import scrape

FLEET = """\
nodes:
  lb1: 10.2.1.1
  lb2: {bgp: {router_id: 10.2.1.2, neighbors: [10.2.2.254]}}
bgp: {local_as: 65001, remote_as: 65000, bfd: true, neighbors: [10.2.1.254]}
checks: {mine: {type: command, argv: [/no/such/program]}}
vips: {web: {address: 192.0.2.1, ports: [80, 443], servers: [10.9.2.1], check: mine}}
"""


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def named(name: str) -> None:
        monkeypatch.setattr(socket, "gethostname", lambda: name)

    named("laptop")
    return named


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.yaml"
    path.write_text(FLEET)
    return path


def test_check_looks_at_every_node_and_sums_the_fleet_up(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(file)]) == 0
    said = capsys.readouterr()
    fingerprint = said.out.split()[3].rstrip(",")
    assert said.out == (
        f"{file}: ok: configuration {fingerprint}, 2 nodes, 1 VIP, 2 services, 1 real server, 2 neighbors\n"
    )
    assert said.err.count("/no/such/program") == 1
    assert main(["check", "--json", str(file)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["nodes"], document["fingerprint"], document["neighbors"]) == (
        ["lb1", "lb2"],
        fingerprint,
        2,
    )


def test_check_of_one_node_is_of_that_one(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--node", "lb2", str(file)]) == 0
    assert ", node lb2, 1 VIP, 2 services, 1 real server, 1 neighbor\n" in capsys.readouterr().out
    file.write_text(FLEET.replace("10.2.1.1", "nonsense"))
    assert main(["check", "--node", "lb2", str(file)]) == 0
    assert main(["check", str(file)]) == 78
    capsys.readouterr()
    assert main(["check", "--node", "lb3", str(file)]) == 78
    assert (
        "'lb3' is not among the nodes (--node) (did you mean lb2? there are lb1, lb2)"
        in capsys.readouterr().err
    )


def test_problems_say_which_nodes_they_concern(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(FLEET.replace("router_id: 10.2.1.2, ", "").replace("[80, 443]", "[80, 99999]"))
    assert main(["check", str(file)]) == 78
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith(f"{file}:4:1: lb2: bgp.router_id: it is missing") for line in lines)
    assert any(line.startswith(f"{file}:6:46: vips.web.ports[1]: 99999") for line in lines)
    assert main(["check", "--json", str(file)]) == 78
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert [one["nodes"] for one in problems] == [["lb2"], []]


def test_what_must_be_on_a_machine_is_asked_of_the_one_that_is_a_node(
    file: Path, host: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    own = "lb2: {bgp: {password_file: /no/secret, "
    file.write_text(FLEET.replace("lb2: {bgp: {", own))
    for machine, number in (("laptop", 1), ("lb1", 0), ("LB2.example.net", 1)):
        host(machine)
        assert main(["check", str(file)]) == 0
        assert capsys.readouterr().err.count("/no/secret") == number


def test_render_is_for_this_machine_or_for_a_node_that_is_named(
    file: Path, host: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["render", "exabgp", "--config", str(file)]) == 78
    assert "host name 'laptop' is none of the nodes" in capsys.readouterr().err
    assert main(["render", "exabgp", "--config", str(file), "--node", "lb2"]) == 0
    named = capsys.readouterr().out
    assert "neighbor 10.2.2.254" in named
    host("lb2")
    assert main(["render", "exabgp", "--config", str(file)]) == 0
    assert capsys.readouterr().out == named


def test_a_router_is_rendered_for_all_nodes_or_for_those_that_are_named(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(FLEET.replace(", neighbors: [10.2.2.254]", ""))
    for options, nodes in (
        ([], ["lb1", "lb2"]),
        (["--node", "lb2"], ["lb2"]),
        (["--node", "lb2", "--node", "lb1"], ["lb1", "lb2"]),
    ):
        assert main(["render", "router-frr", "--config", str(file), *options]) == 0
        said = capsys.readouterr().out
        assert [node for node in ("lb1", "lb2") if f"anycast node {node}" in said] == nodes


@pytest.mark.parametrize(
    "argv",
    [
        ["budget", "--config", "FILE"],
        ["render", "frr-bfd", "--config", "FILE"],
        ["render", "nftables", "--config", "FILE"],
        ["render", "iptables", "--config", "FILE"],
    ],
    ids=" ".join,
)
def test_every_verb_that_reads_the_file_takes_a_node(
    argv: list[str], file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [str(file) if word == "FILE" else word for word in argv]
    assert main(argv) == 78
    assert "is none of the nodes" in capsys.readouterr().err
    assert main([*argv, "--node", "lb1"]) == 0


@pytest.mark.parametrize(
    "argv", [["doctor"], ["probe", "mine"], ["hook", "test", "pager"], ["status"], ["reload"]], ids=" ".join
)
def test_a_node_that_is_not_in_the_file_is_told_by_each(
    argv: list[str], file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*argv, "--config", str(file), "--node", "lb9"]) == 78
    assert "'lb9' is not among the nodes" in capsys.readouterr().err


def test_a_large_fleet_keeps_the_configuration_of_one_node(file: Path) -> None:
    nodes = configuration._Nodes("lb2.example.net")
    configuration._loaded(file, nodes, None)
    assert nodes.loaded is not None
    assert nodes.loaded.config.node.name == "lb2"


def test_a_plan_names_the_node_that_is_meant(file: Path, tmp_path: Path) -> None:
    operator = Operator(healthy())
    operator.planned = PlanAnswer(ok=True, plan=Plan())
    path = tmp_path / "control.sock"
    done = against(
        operator,
        path,
        ("check", "--against-running", "--node", "lb2", str(file)),
        ("check", "--against-running", str(file)),
        ("reload", "--dry-run", "--node", "lb1"),
    )
    assert [(one.code, one.out.splitlines()[-1]) for one in done] == [(0, "nothing would change")] * 3
    assert [wish.node for wish in operator.plans] == ["lb2", None, "lb1"]


def fleet_node() -> Node:
    node = healthy()
    node.force = replace(InForce(), fingerprint="0123456789abcdef", nodes=("lb1", "lb2"))
    return node


def test_the_status_tells_what_is_in_force(tmp_path: Path) -> None:
    done = against(Operator(fleet_node()), tmp_path / "control.sock", ("status",), ("status", "--json"))
    assert "  configuration 0123456789abcdef, of a fleet of 2 nodes" in done[0].out.splitlines()
    config = json.loads(done[1].out)["config"]
    assert (config["fingerprint"], config["nodes"]) == ("0123456789abcdef", ["lb1", "lb2"])
    (alone,) = against(Operator(healthy()), tmp_path / "other.sock", ("status",))
    assert "configuration" not in alone.out


def test_so_does_the_metric() -> None:
    assert 'anycast_config_info{fingerprint="0123456789abcdef",nodes="2"} 1.0' in scrape(fleet_node())
    assert 'anycast_config_info{fingerprint="",nodes="0"} 1.0' in scrape(healthy())
