"""`anycast simulate` as it is typed."""

from __future__ import annotations

import json
import sys

import pytest

pytest.importorskip("numpy")

from anycast.cli.main import main


def test_each_step_is_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "leave:2", "server-add:2", "--flows", "10k"]) == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == [
        "STEP",
        "NODES",
        "OTHER",
        "NODE",
        "OTHER",
        "CHOICE",
        "BROKEN",
        "LOST",
        "WITH",
        "SERVER",
        "OF",
        "A",
        "NODE",
    ]
    assert first.startswith("leave:2")
    assert second.startswith("server-add:2")


def test_programs_get_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "leave:1", "--json", "--weights", "1,2", "--sync", "--flows", "1000"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["servers"], found["sync"], found["nodes"]) == (2, True, 3)
    assert [one["step"] for one in found["steps"]] == ["leave:1"]


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["leave:9"], "which of the 3 nodes?"),
        (["leave:1", "--nodes", "2000"], "from 1 to 1,000 balancers"),
        (["leave:1", "--flows", "1G"], "from 1 to 10,000,000 flows"),
        (["leave:1", "--node-weights", "1,2"], "2 weights for 3 balancers"),
        (["leave:1", "--weights", "1,2,3", "--servers", "2"], "--weights has 3 weights for 2 real servers"),
        (["leave:1", "--servers", "2.5"], "from 1 to 1,000 real servers, not 2.5"),
        (["leave:1", "--drifted", "1.5"], "--drifted is a whole number, not 1.5"),
        (["server-add:997"], "server-add:997': there can be up to 1,000 real servers, and there are 4"),
        (["server-add:1=0"], "a weight is from 1 to 65,535"),
        (["server-add:1=65536"], "a weight is from 1 to 65,535"),
        (["leave:1", "--drifted", "4"], "are more than all 3 balancers"),
        (["server-add:0"], "how many real servers? (write server-add, or server-add:3)"),
        (["server-add:1,2"], "how many real servers?"),
        (["leave:1", "--seed", "-1"], "--seed is 0 or more, not -1"),
        (["leave:1", "--fill-again"], "--fill-again is of --router resilient, not of hash-threshold"),
        (["leave:1", "--router", "hrw", "--node-weights", "1,1,2"], "knows no weights"),
    ],
)
def test_what_cannot_be_simulated_is_told(
    argv: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", *argv]) == 2
    assert why in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--weights", "--node-weights"])
def test_a_weight_that_no_real_server_or_path_can_have_is_wrong_usage(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["simulate", "leave:1", option, "1,2,65536"])
    assert "no list of weights from 1 to 65,535" in capsys.readouterr().err


def test_a_new_real_server_may_have_a_weight_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    shares = []
    for step in ("server-add:1", "server-add:1=12"):
        assert main(["simulate", step, "--flows", "10k", "--json"]) == 0
        (found,) = json.loads(capsys.readouterr().out)["steps"]
        assert found["step"] == step
        shares.append(found["elsewhere"])
    assert shares == [pytest.approx(1 / 5, abs=0.02), pytest.approx(12 / 16, abs=0.02)]


def test_more_than_the_memory_there_is_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("anycast.memory.available", lambda: 2**20)
    assert main(["simulate", "leave:1", "--flows", "1M"]) == 2
    assert "1,000,000 flows take 68 MiB, and 1 MiB are available" in capsys.readouterr().err


def test_without_numpy_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    monkeypatch.delitem(sys.modules, "anycast.analysis.simulate", raising=False)
    assert main(["simulate", "leave:1"]) == 2
    assert "numpy is needed" in capsys.readouterr().err
