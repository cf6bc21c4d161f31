"""Every example is right as it stands: `check` passes it, `budget` works it out, and what is rendered of it is whole."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest
import yaml

from anycast.cli.main import main
from anycast.config.load import load
from anycast.render import passwords

ROOT = Path(__file__).parents[3]
EXAMPLES = [
    *sorted(ROOT.joinpath("examples").glob("*.yaml")),
    *sorted(ROOT.joinpath("examples", "nodes").glob("*.yaml")),
]
NODES = [path for path in EXAMPLES if path.name != "common.yaml"]
NEEDS = [
    *(
        "web",
        "dns",
        "syslog",
        "two-routers",
        "two-fabrics",
        "ipv6",
        "dual-stack",
        "nat",
        "tunnel",
        "primary-backup",
        "ab",
        "weighted",
        "sorry",
    ),
    *("nodes/lb1", "fleet", "http-host", "https-ca", "ports", "unnumbered", "internet-dns"),
]


@pytest.mark.parametrize("need", NEEDS)
def test_every_need_has_an_example_that_the_readme_names(need: str) -> None:
    assert f"examples/{need}.yaml" in ROOT.joinpath("README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("file", NODES, ids=lambda path: path.stem)
def test_an_example_is_right(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passwords, "read", lambda _: b"secret-of-a-test")
    monkeypatch.setattr(socket, "gethostname", lambda: "lb1")
    assert main(["check", str(file)]) == 0
    assert main(["budget", "--config", str(file)]) == 0
    if load(file, hostname="lb1").config.speaker.is_table:
        return
    assert main(["render", "exabgp", "--config", str(file)]) == 0
    rendered = capsys.readouterr().out
    assert rendered.count("neighbor ") >= len(load(file, hostname="lb1").config.bgp.neighbors)
    router = str(load(file, hostname="lb1").config.bgp.neighbors[0].address)
    assert main(["render", "router-frr", "--config", str(file), "--neighbor", router]) == 0


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_explains_itself(file: Path) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    assert any(line.startswith("# ") and len(line) > 30 for line in lines)
    assert file.name == "full.yaml" or len(lines) <= 50
    assert file.name == "full.yaml" or all(len(line) <= 120 for line in lines)


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_holds_no_address_of_anybodys(file: Path) -> None:
    """Those of documentation, and private ones."""
    text = file.read_text(encoding="utf-8")
    for address in re.findall(r"\b\d+\.\d+\.\d+\.\d+\b", text):
        assert address.startswith(("192.0.2.", "198.51.100.", "203.0.113.", "10.", "127.", "224.0.0.")), (
            address
        )
    for address in re.findall(r'"?\b([0-9a-f]{4}(?::[0-9a-f]*){2,})', text):
        assert address.startswith(("2001:db8:", "fd00:", "fe80:")), address


def test_the_nodes_of_a_fleet_differ_in_what_is_their_own() -> None:
    first, second = (
        yaml.safe_load(path.read_text(encoding="utf-8")) for path in NODES if path.parent.name == "nodes"
    )
    assert {key for key in first if first[key] != second[key]} == {"node", "bgp"}
    assert [set(tree["bgp"]) for tree in (first, second)] == [{"router_id"}] * 2
