"""`anycast plan` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from anycast.cli.main import main

FLEET = Path(__file__).parents[3] / "examples" / "fleet.yaml"


def test_the_load_with_one_node_less_is_a_negative_answer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--nodes", "2", "--busy", "45%", "--clients", "5000"]) == 1
    out = capsys.readouterr().out
    assert "1 (1 missing)" in out
    assert "above the limit of 70%" in out
    assert "nodes needed to stay at 70%: 2, 3 with 1 missing, 4 with 2 missing" in out
    assert "not said: how many connections there are at once" in out
    assert main(["plan", "--nodes", "16", "--busy", "45%"]) == 0


def test_a_fleets_file_says_how_many_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", str(FLEET), "--connections", "30k", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["nodes"] == 3
    assert {one["code"] for one in found["figures"]} >= {"memory", "table", "sync", "slots"}
    assert main(["plan", "--busy", "10%"]) == 2
    assert "how many balancers are there?" in capsys.readouterr().err


def test_the_capacity_that_the_file_names_counts_unless_an_option_says_another(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for options, carries in ([], 10e9), (["--capacity-bits", "20G"], 20e9):
        main(["plan", "--config", str(FLEET), "--bits", "6G", "--json", *options])
        found = json.loads(capsys.readouterr().out)
        assert [one["share"] for one in found["loads"]] == [
            one["busiest"] / carries for one in found["loads"]
        ]
        assert not any("--capacity" in one for one in found["lacking"])


def test_a_picture_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options in (["--busy", "45%"], []):
        main(["plan", "--nodes", "2", *options, "--svg", str(tmp_path / "plan.svg")])
        root = ET.parse(tmp_path / "plan.svg").getroot()  # noqa: S314 - our own
        assert root.tag.endswith("svg")
        texts = [one.text for one in root.iter() if one.tag.endswith("text")]
        assert ("limit 70%" in texts) is bool(options)
    capsys.readouterr()


def test_a_picture_or_a_status_that_no_file_can_be_is_told_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["plan", "--nodes", "3", "--busy", "20%"]
    for option, file, why in (
        (
            "--svg",
            tmp_path / "none" / "plan.svg",
            "cannot be written: No such file or directory (name another file)",
        ),
        ("--svg", tmp_path, "cannot be written: Is a directory"),
        ("--status", tmp_path / "none", "No such file or directory (name a file that can be read)"),
    ):
        assert main([*argv, option, str(file)]) == 2
        told = capsys.readouterr()
        assert told.out == ""
        assert told.err.startswith(f"anycast: plan: {file}")
        assert why in told.err


def test_one_balancer_alone_never_holds_and_it_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--nodes", "1", "--busy", "45%"]) == 1
    assert "warning: with one node less nothing serves: there is one" in capsys.readouterr().out
    assert main(["plan", "--nodes", "1", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["holds"]
    assert len(found["warnings"]) == 1


def test_running_nodes_tell_what_they_carry(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rates = {"packets_in_per_s": 400_000.0, "bits_in_per_s": 3_000_000_000, "connections_per_s": 100.0}
    file = tmp_path / "lb1.json"
    vips = [{"services": [{"servers": [{"active": 40, "inactive": 2}], "kept": [], "removing": []}]}]
    file.write_text(json.dumps({"traffic": {"rates": rates}, "vips": vips}))
    argv = ["plan", "--nodes", "2", "--status", str(file), "--capacity-packets", "500k"]
    assert main([*argv, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [one["mean"] for one in found["loads"] if one["resource"] == "connections"] == [21, 42]
    assert [one["mean"] for one in found["loads"] if one["resource"] == "packets"] == [200_000, 400_000]
    assert not any("--connections" in one for one in found["lacking"])
    assert ["the status of 1 node" in one for one in found["warnings"]] == [True]
    for bad, why in (("[]", "no status document"), ("{", "no status document"), ("{}", "has no rates")):
        file.write_text(bad)
        assert main(argv) == 2
        told = capsys.readouterr().err
        assert told.startswith(f"anycast: plan: {file}: ")
        assert why in told


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["--nodes", "0"], "is not a number of nodes from 1 to 64"),
        (["--nodes", "2", "--busy", "101%"], "is not from 1% to 100%"),
        (["--nodes", "2", "--busy", "0"], "is not from 1% to 100%"),
        (
            ["--nodes", "2", "--busy", "0.45"],
            "is not from 1% to 100% (write 45%)",
        ),  # 45 %, or not half a percent?
        (["--nodes", "2", "--bits", "0G"], "is not a number above 0"),
        (["--nodes", "2", "--clients", "viele"], "is not a number above 0"),
    ],
)
def test_what_is_no_figure_is_wrong_usage(
    argv: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["plan", *argv])
    assert why in capsys.readouterr().err
