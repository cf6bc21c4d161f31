"""What is kept of a run on another platform, and which kernel a lab is told."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lab import platforms, suites
from lab.errors import LabError
from lab.machine import Place, choose, uml
from lab.platforms import Row, _row, counts, keep

REPORT = """<testsuites><testsuite>
<testcase name="test_a[frr-ebgp]"/><testcase name="test_a[ebgp-frr@sid]"><failure message="x"/></testcase>
<testcase name="test_b[frr@sid]"><skipped/></testcase><testcase name="test_c"><error/></testcase>
</testsuite></testsuites>"""


def row(tests: str, on: str, passed: int) -> Row:
    return Row(tests=tests, on=on, passed=passed, failed=0, skipped=0, day="2026-01-01")


def test_a_report_is_counted_whole_and_by_parameter(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(REPORT)
    assert counts(report) == {"passed": 1, "failed": 2, "skipped": 1}
    assert counts(report, "frr") == {"passed": 1}
    assert counts(report, "frr@sid") == {"failed": 1, "skipped": 1}


def test_a_row_says_what_was_run_and_which_tests_failed(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(REPORT)
    found = _row("unit", "Debian 13", report)
    assert re.fullmatch(r"[0-9a-f]{8}\+?", found.commit)
    assert found.failures == ("test_a[ebgp-frr@sid]", "test_c")
    line = platforms.page("", [found, row("unit", "Debian 12", 1)]).splitlines()
    assert line[3].endswith(f"| 2: `test_a[ebgp-frr@sid]`, `test_c` | 1 | {found.day} | {found.commit} |")
    assert line[4].endswith("| 1 | 0 | 0 | 2026-01-01 | not kept |")
    many = "".join(f'<testcase name="test_{n}"><failure/></testcase>' for n in range(9))
    report.write_text(f"<testsuite>{many}</testsuite>")
    assert "`test_4` and 4 more |" in platforms.page("", [_row("unit", "Debian 13", report)])


def test_a_run_takes_the_place_of_the_one_before_and_of_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platforms, "RESULTS", tmp_path / "platforms.json")
    monkeypatch.setattr(platforms, "PAGE", tmp_path / "platforms.md")
    (tmp_path / "platforms.md").write_text(f"# Head\n{platforms.BEGIN}\n{platforms.END}\nfoot\n")
    keep([row("unit", "Debian 12", 1), row("unit", "Debian 13", 2)])
    keep([row("unit", "Debian 13", 3)])
    text = (tmp_path / "platforms.md").read_text()
    assert [line.split(" | ")[1:3] for line in text.splitlines() if line.startswith("| unit")] == [
        ["Debian 12", "1"],
        ["Debian 13", "3"],
    ]
    assert text.startswith("# Head\n")
    assert text.endswith(f"{platforms.END}\nfoot\n")


def test_all_that_can_be_asked_of_every_router_is_asked_of_all_that_are_here() -> None:
    by_router = re.compile(r"\bSOFTWARE\b|\bevery\(|\btable\.DEBIANS\b")
    tests = (suites.CHECKOUT / "tests/contract").glob("test_*.py")
    found = {str(one.relative_to(suites.CHECKOUT)) for one in tests if by_router.search(one.read_text())}
    assert found == {*platforms.OF_ROUTERS}


def test_the_page_is_what_the_results_give() -> None:
    rows = [Row(**one) for one in json.loads(platforms.RESULTS.read_text())]
    text = platforms.PAGE.read_text()
    assert platforms.page(text, rows) == text


def test_a_lab_is_told_the_kernel_of_another_debian(tmp_path: Path) -> None:
    env = {"ANYCAST_UML": str(tmp_path)}
    with pytest.raises(LabError, match=r"no usr/bin/linux.uml in it: python -m lab.suites makes it"):
        uml(env)
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/linux.uml").touch()
    (tmp_path / "usr/lib/uml/modules/7.2.7").mkdir(parents=True)
    choice = choose(env)
    assert (choice.place, choice.reason.endswith("User-Mode-Linux 7.2.7")) == (Place.UML, True)
    command = uml(env).command(["quiet"])
    assert command[0] == "unshare"
    assert command[-3:] == ["rootfstype=hostfs", f"rootflags={suites.OURS}/", "quiet"]
