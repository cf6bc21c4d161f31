"""The fault matrix runs, and finds no broken connection. When routes go is measured by `make chaos`, not here.

With ANYCAST_LONG=1 several faults in one run.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from lab.chaos import Story, report, run
from lab.chaos_plan import options

pytestmark = pytest.mark.lab


LONG = bool(os.environ.get("ANYCAST_LONG"))
FAULTS = {
    "exabgp": ["drain", "exabgp-kill"] if LONG else ["drain"],
    "bird": ["drain", "bird-kill", "announcer-kill"] if LONG else ["drain"],
}


@pytest.mark.parametrize("speaker", FAULTS)
def test_faults_break_nothing_and_are_in_the_table_the_json_and_the_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], speaker: str
) -> None:
    if not os.environ.get("ANYCAST_LAB_GUEST"):
        pytest.skip("runs inside the lab")
    if speaker == "bird" and shutil.which("bird") is None:
        pytest.skip("no BIRD here: ./lab/install bird")
    faults = FAULTS[speaker]
    chosen = options(faults=",".join(reversed(faults)), nodes=2, connections=60, speaker=speaker)
    story = Story()
    run(chosen, story)
    report(chosen, story, tmp_path / "chaos.json", tmp_path / "chaos.svg", "")
    found = json.loads((tmp_path / "chaos.json").read_text())
    assert [row["fault"] for row in found["rows"]] == faults
    for row in found["rows"]:
        assert (row["connections"], row["broken"], row["moved"]) == (60, 0, 0), row
        assert row["route_gone_s"] > 0
        assert row["wrong"] == []
        assert row["new_connections"] > row["new_failed"] == 0
        assert row["shares_before"][row["where"]] > 0 == row["shares_after"][row["where"]]
    said = capsys.readouterr().out
    assert all(re.search(rf"^{fault} +lb\d  60", said, re.MULTILINE) for fault in faults)
    root = ET.fromstring((tmp_path / "chaos.svg").read_text())  # noqa: S314
    assert any(
        (text.text or "").startswith("drain lb1") for text in root.iter("{http://www.w3.org/2000/svg}text")
    )
