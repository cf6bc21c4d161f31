"""What three agents of one file show of one another: `anycast fleet`, what stands, and the metrics, as processes."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

from tests.contract.fleet import ROOT, Node, fleet, waits

PORT = 21940


def shown(node: Node, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "anycast", "fleet", "--socket", str(node.control), *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.stdout if done.returncode == 0 else ""


def states(node: Node) -> dict[str, str]:
    """By name, how each stands."""
    text = shown(node, "--json")
    return {one["name"]: one["seen"] for one in json.loads(text)["nodes"]} if text else {}


def silent(node: Node) -> list[str]:
    standing = node.status().get("standing", ())
    return [one["about"] for one in standing if one["kind"] == "fleet_node_silent"]


def test_a_node_that_is_killed_is_gone_stands_and_comes_back(tmp_path: Path) -> None:
    with fleet(tmp_path, port=PORT) as found:
        lb1, lb3 = found["lb1"], found["lb3"]
        all_heard = {"lb1": "here", "lb2": "heard", "lb3": "heard"}
        waits(lambda: states(lb1) == all_heard)
        text = shown(lb1)
        assert text.startswith("fleet of 3 nodes, 3 known, as lb1 sees it (view: peers)\n")
        assert silent(lb1) == []
        lb3.kill()
        waits(lambda: states(lb1).get("lb3") == "gone")
        assert "! lb3 is gone, not heard for " in shown(lb1)
        waits(lambda: silent(lb1) == ["lb3"], 60)
        began = [one for one in lb1.named("condition.began") if one["kind"] == "fleet_node_silent"]
        assert [one["about"] for one in began] == ["lb3"]
        with urllib.request.urlopen(f"http://127.0.9.1:{PORT}/metrics", timeout=30) as answer:
            metrics = answer.read().decode()
        assert 'anycast_fleet_node_heard{node="lb3"} 0.0' in metrics
        assert 'anycast_fleet_node_heard{node="lb2"} 1.0' in metrics
        lb3.start(found.config)
        waits(lambda: states(lb1) == all_heard, 60)
        waits(lambda: silent(lb1) == [])
