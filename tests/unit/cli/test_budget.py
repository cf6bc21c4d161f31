from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from anycast.cli.main import main

FULL = Path(__file__).parents[3] / "examples" / "full.yaml"


def run(*argv: str) -> int:
    return main(["budget", "--config", str(FULL), *argv])


def test_every_failure_is_told_with_its_sum(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    out, err = capsys.readouterr()
    assert err == ""
    (line,) = [line for line in out.splitlines() if line.startswith("agent crashes")]
    assert re.split(r" {2,}", line) == [
        "agent crashes or hangs",
        "node",
        "2.25 s",
        "2 s lease TTL + 0.05 s plugin and ExaBGP + 0.2 s router",
    ]
    assert "web tcp/80 sorry, web tcp/443, web tcp/8443 and 4 more" in out
    assert "warning: fragments: " in out


def test_what_this_node_is_a_backup_for_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    file = FULL.parent / "primary-backup.yaml"
    assert main(["budget", "--config", str(file)]) == 0
    assert "\nbackup here: mail: while a primary announces the VIP, a failure" in capsys.readouterr().out
    assert main(["budget", "--config", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["backups"] == ["mail"]


def test_a_sorry_pool_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    file = FULL.parent / "sorry.yaml"
    assert main(["budget", "--config", str(file)]) == 0
    assert "\nsorry pool here: shop: where the real servers" in capsys.readouterr().out
    assert main(["budget", "--config", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sorries"] == ["shop"]


def test_which_vips_stay_on_as_the_last_resort_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "anycast.yaml"
    text = (FULL.parent / "primary-backup.yaml").read_text()
    file.write_text(text.replace("role: backup", "when_unhealthy: last_resort  #", 1))
    assert main(["budget", "--config", str(file)]) == 0
    assert "\nlast resort here: mail: where the real servers" in capsys.readouterr().out
    assert main(["budget", "--config", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["last_resorts"] == ["mail"]


def test_a_limit_that_is_exceeded_is_a_negative_answer(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--max", "20s") == 0
    assert run("--max", "2500ms") == 1
    assert capsys.readouterr().err == (
        f"{FULL}: longer than 2.5 s: server_dies, server_hangs, service_dies, service_hangs, requirement_fails, "
        "unproven, plugin_hangs, exabgp_hangs, router_restarts, router_deaf\n"
    )


def test_what_is_assumed_can_be_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--router", "1s", "--watchdog", "0", "--graceful-restart", "2m", "--hash", "addresses") == 0
    out = capsys.readouterr().out
    assert "3.75 s    2.75 s guardian + 1 s router" in out
    assert "121.00 s  120 s graceful restart + 1 s router" in out
    assert "fragments" not in out
    assert "warning: no_watchdog: " in out


def test_programs_get_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--json", "--watchdog", "0", "--max", "2.5") == 1
    out, err = capsys.readouterr()
    assert err == ""
    document = json.loads(out, parse_constant=pytest.fail)
    assert (document["max"], document["ok"]) == (2.5, False)
    (hung,) = [one for one in document["outages"] if one["kind"] == "plugin_hangs"]
    assert (hung["seconds"], hung["exceeds"], hung["scopes"]) == (2.95, True, ["node"])
    (agent,) = [one for one in document["outages"] if one["kind"] == "agent_dies"]
    assert agent == {
        "kind": "agent_dies",
        "what": "agent crashes or hangs",
        "scopes": ["node"],
        "seconds": 2.25,
        "terms": [
            {"count": 1, "seconds": 2.0, "what": "lease TTL"},
            {"count": 1, "seconds": 0.05, "what": "plugin and ExaBGP"},
            {"count": 1, "seconds": 0.2, "what": "router"},
        ],
        "exceeds": False,
    }
    assert {one["code"] for one in document["warnings"]} == {"no_watchdog", "fragments"}


@pytest.mark.parametrize("text", ["", "-1", "soon", "1d", "1e3", "nan"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(f"--max={text}")


def test_a_configuration_with_problems_is_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "anycast.yaml"
    file.write_text("bgp: {local_as: none}\n")
    assert main(["budget", "--config", str(file)]) == 78
    assert "bgp.local_as" in capsys.readouterr().err
    assert main(["budget", "--config", str(file), "--json"]) == 78
    assert not json.loads(capsys.readouterr().out)["ok"]
