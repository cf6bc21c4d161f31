"""Alert rules and dashboard: they speak of metrics that exist, and fire when they should."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from anycast.cli.parser import parser
from anycast.core import events as ev
from anycast.core.dataplane.kernel import KINDS
from anycast.core.hooks import Tally
from anycast.core.maintenance.stages import Stage
from anycast.core.values.configuration import Check, Local, Part, Rule, TcpCheck
from anycast.core.values.fleet import Fleet, PeerAt
from anycast.core.values.standing import Condition
from anycast.core.vip.decide import Reason
from anycast.ops.load import Meter
from anycast.ops.source import Probes
from tests.unit.ops.fleet import TEN, Steady, heard
from tests.unit.ops.flows import carry, steady
from tests.unit.ops.node import CONFIG, Node, healthy
from tests.unit.ops.test_metrics import scrape

PACKAGING = Path(__file__).parents[3] / "packaging"
RULES = PACKAGING / "prometheus" / "anycast.rules.yml"
STORIES = PACKAGING / "prometheus" / "anycast.test.yml"
DASHBOARD = PACKAGING / "grafana" / "anycast.json"
OF_PROMETHEUS = frozenset({"instance", "job"})

promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool: lab/install brings it")


def node() -> Node:
    """One of everything there are metrics of."""
    rule = Rule(needed=1, parts=(Part(name="db", check=Check(kind=TcpCheck(port=1), address=None)),))
    local = (Local(port=8080, check=Check(kind=TcpCheck())),)
    vips = (replace(CONFIG.vips[0], require=rule, local=local), *CONFIG.vips[1:])
    neighbors = tuple(replace(one, view=True) for one in CONFIG.bgp.neighbors)
    bgp = replace(CONFIG.bgp, neighbors=neighbors)
    fleet = Fleet(peers=(PeerAt(name="lb2"),), capacity=TEN)
    node = healthy(replace(CONFIG, require=rule, vips=vips, bgp=bgp, fleet=fleet))
    node.hooks = {"pager": Tally()}
    node.probes = {"tcp": Probes().runs}
    carry(node, steady(1.0))
    node.meter = Meter(Steady(1e6))
    node.send(ev.FleetHeard(peers={"lb2": heard(node, "lb2")}))
    return node


def known() -> dict[str, set[str]]:
    """The labels of each metric, by the names of its samples."""
    found: dict[str, set[str]] = {"up": set()}
    for family in text_string_to_metric_families(scrape(node())):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


KNOWN = known()
VALUES: dict[str, set[str]] = {"reason": {*Reason}, "stage": {*Stage}, "kind": {*KINDS, *Condition}}


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load(RULES.read_text("utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


def panels() -> Iterator[tuple[str, str]]:
    document = json.loads(DASHBOARD.read_text("utf-8"))
    for panel in document["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for annotation in document["templating"]["list"][1:]:
        yield annotation["name"], annotation["definition"].removeprefix("label_values(").rpartition(",")[0]
    yield from ((one["name"], one["expr"]) for one in document["annotations"]["list"])


EXPRESSIONS = [
    *((str(rule.get("alert") or rule["record"]), str(rule["expr"])) for rule in rules()),
    *panels(),
]
RECORDED = {rule["record"] for rule in rules() if "record" in rule}


def mistakes(expression: str) -> list[str]:
    """What an expression speaks of that there is not."""
    found: list[str] = []
    for record in RECORDED:
        expression = expression.replace(record, "")
    every = OF_PROMETHEUS | {"le"} | set().union(*KNOWN.values())
    for name, selector in re.findall(r"\b((?:anycast|process)_[a-z0-9_]+|up)\b(?:\{([^}]*)\})?", expression):
        if name not in KNOWN:
            found.append(f"no metric {name}")
            continue
        for label, _, text in re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', selector):
            if label not in KNOWN[name] | OF_PROMETHEUS:
                found.append(f"{name} has no label {label}")
            if label in VALUES and not set(text.split("|")) <= VALUES[label]:
                found.append(f"{label} is never {text}")
    for clause in re.findall(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)", expression):
        found += [f"no label {label}" for label in re.findall(r"\w+", clause) if label not in every]
    return found


@pytest.mark.parametrize(("title", "expression"), EXPRESSIONS)
def test_what_is_spoken_of_exists(title: str, expression: str) -> None:
    assert mistakes(expression) == []


@pytest.mark.parametrize(
    ("expression", "mistake"),
    [
        ("anycast_vip_announce == 0", "no metric anycast_vip_announce"),
        ('anycast_vip_announced{server="a"}', "anycast_vip_announced has no label server"),
        ('anycast_vip_verdict{reason="ill"}', "reason is never ill"),
        ("sum by (vipp) (anycast_vip_announced)", "no label vipp"),
        ("anycast_hook_runs == 0", "no metric anycast_hook_runs"),
    ],
)
def test_what_does_not_exist_is_found(expression: str, mistake: str) -> None:
    assert mistakes(expression) == [mistake]


def test_every_alert_says_what_to_do_first_with_a_command_there_is() -> None:
    verbs = next(action.choices for action in parser()._actions if action.dest == "verb")
    assert isinstance(verbs, dict)
    for rule in rules():
        if "alert" not in rule:
            continue
        about = rule["annotations"]
        assert set(about) == {"summary", "description"}, rule["alert"]
        commands = re.findall(r"`([^`]+)`", about["description"])
        assert commands or "Look at" in about["description"], rule["alert"]
        for command in commands:
            if command.startswith("anycast "):
                assert command.split()[1] in verbs, command
        labels = {*re.findall(r"\$labels\.(\w+)", about["summary"] + about["description"])}
        assert labels <= OF_PROMETHEUS | set().union(*KNOWN.values()), rule["alert"]


# Prometheus restores an alert that waits for its grace period (10 m) or longer. What waits less begins anew when it is
# restarted; a `for` of 3 minutes is over again before Alertmanager takes the alert for resolved (3 m 19 s were measured).
ANEW, RESTORED = 3 * 60, 10 * 60  # seconds


def waits(rule: dict[str, Any]) -> int:
    number, unit = re.fullmatch(r"(\d+)([smh])", str(rule.get("for", "0s"))).groups()  # type: ignore[union-attr]
    return int(number) * {"s": 1, "m": 60, "h": 3600}[unit]


def test_a_restart_of_prometheus_tells_of_no_end_that_is_none() -> None:
    false = [rule["alert"] for rule in rules() if "alert" in rule and ANEW < waits(rule) < RESTORED]
    assert false == []


def test_the_document_says_how_long_each_alert_waits() -> None:
    text = (PACKAGING.parent / "docs" / "monitoring.md").read_text("utf-8")
    rows = [row for row in text.splitlines() if row.startswith("| Anycast")]
    for rule in rules():
        if "for" in rule and not rule["alert"].startswith("AnycastMaintenance"):
            (row,) = [row for row in rows if re.search(rf"\b{rule['alert']}\b", row.split("|")[1])]
            assert re.search(rf"\bfor {rule['for'][:-1]} {rule['for'][-1]}\b", row), rule["alert"]


def test_every_alert_fires_in_one_of_the_stories() -> None:
    fired = set(re.findall(r'alertname="(\w+)"', STORIES.read_text("utf-8")))
    assert fired == {rule["alert"] for rule in rules() if "alert" in rule}


@promtool
@pytest.mark.parametrize("what", [["check", "rules", RULES.name], ["test", "rules", STORIES.name]])
def test_promtool_is_content(what: list[str]) -> None:
    done = subprocess.run(["promtool", *what], cwd=RULES.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@promtool
def test_prometheus_understands_the_dashboard(tmp_path: Path) -> None:
    made = [{"record": f"panel:{n}", "expr": expression} for n, (_, expression) in enumerate(panels())]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": made}]}))
    done = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
