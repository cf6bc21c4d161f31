"""The logging site stands, and a drained balancer loses no message of any protocol. All faults are `make logs`."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from lab.logs import Story, report, run
from lab.logs_plan import PROTOCOLS, options

pytestmark = pytest.mark.lab


def test_a_drain_loses_no_message_of_any_protocol(tmp_path: Path) -> None:
    if not os.environ.get("ANYCAST_LAB_GUEST"):
        pytest.skip("runs inside the lab")
    for program in ("rsyslogd", "nginx"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} here: ./lab/install")
    story = Story()
    run(options(faults="drain", machines=3), story)
    report(options(faults="drain"), story, tmp_path / "logs.json", tmp_path / "logs.svg", "")
    found = json.loads((tmp_path / "logs.json").read_text())
    assert [row["protocol"] for row in found["rows"]] == list(PROTOCOLS)
    for row in found["rows"]:
        assert row["count"]["sent"] > 0, row
        assert (row["count"]["lost"], row["straight"]["lost"], row["wrong"]) == (0, 0, []), row
        assert sum(row["spread"].values()) == pytest.approx(1.0, abs=0.01)
    assert (tmp_path / "logs.svg").read_text().startswith("<svg")
