"""`anycast hook test`, and what `anycast check` says of hooks."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

import anycast
from anycast.cli.exits import ExitCode
from anycast.cli.main import main

SCHEMA = json.loads(
    Path(anycast.__file__).parent.joinpath("notify", "payload.schema.json").read_text("utf-8")
)
CONFIG = """\
node: {name: lb1}
bgp:
  local_as: 65001
  router_id: 10.2.1.1
  neighbors: [{address: 10.2.1.254, remote_as: 65000}]
hooks:
  good: {argv: [/bin/sh, -c, "read line; echo $ANYCAST_VIP $ANYCAST_TEST"]}
  bad: {argv: [/bin/sh, -c, "echo no; exit 3"]}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "anycast.yaml"
    file.write_text(CONFIG)
    return file


def test_it_runs_once_with_a_sample_and_shows_what_happened(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["hook", "test", "good", "--config", str(config)]) == ExitCode.OK
    out = capsys.readouterr().out
    assert out.startswith("hook good: command /bin/sh\n{")
    assert out.splitlines()[-1].startswith("ok after ")
    assert out.endswith(" s: exit status 0: web 1\n")


def test_the_same_for_programs(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hook", "test", "bad", "--config", str(config), "--json"]) == ExitCode.NEGATIVE
    body = json.loads(capsys.readouterr().out)
    assert (body["hook"], body["result"], body["detail"]) == ("bad", "failed", "exit status 3: no")
    jsonschema.Draft202012Validator(SCHEMA).validate(body["payload"])
    assert (body["payload"]["node"], body["payload"]["test"]) == ("lb1", True)


def test_a_hook_that_is_not_there_is_said_with_those_that_are(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["hook", "test", "god", "--config", str(config)]) == ExitCode.NEGATIVE
    assert f"no hook god in {config}: did you mean good? it has good, bad" in capsys.readouterr().err


def test_check_warns_of_a_hook_whose_program_only_the_node_may_have(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(config)]) == ExitCode.OK
    config.write_text(CONFIG.replace("/bin/sh", "/nowhere/sh", 1))
    assert main(["check", str(config)]) == ExitCode.OK
    said = capsys.readouterr().err
    assert "warning: hooks.good.argv[0]: there is no program /nowhere/sh on this machine" in said
    assert "an agent without it refuses the configuration" in said
