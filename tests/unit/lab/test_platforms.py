"""What is kept of a run on another platform, and which kernel a lab is told."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from lab import platforms, suites
from lab.errors import LabError
from lab.machine import Place, choose, uml
from lab.platforms import LONGEST, NAMED, Row, commit_of, keep, row_of

REPORT = """<testsuites><testsuite>
<testcase classname="tests.contract.test_bfd" name="test_a[frr-ebgp]"/>
<testcase classname="tests.contract.test_bfd" name="test_a[ebgp-frr@sid]"><failure message="x"/></testcase>
<testcase classname="tests.contract.test_bfd" name="test_b[frr@sid]"><skipped/></testcase>
<testcase classname="tests.unit.test_it.TestAll" name="test_c"><error/></testcase>
</testsuite></testsuites>"""


def row(tests: str, on: str, passed: int) -> Row:
    return Row(tests=tests, on=on, passed=passed, failed=0, skipped=0, day="2026-01-01")


def made_of(folder: Path, xml: str, parameter: str = "") -> Row:
    report = folder / "report.xml"
    report.write_text(xml)
    return row_of(report, "unit", "Debian 13", "0123abcd", parameter)


@pytest.mark.parametrize(
    ("parameter", "counted", "failures"),
    [
        ("", (1, 2, 1), ("tests/contract/test_bfd.py::test_a[ebgp-frr@sid]", "tests/unit/test_it.py::TestAll::test_c")),
        ("frr", (1, 0, 0), ()),
        ("frr@sid", (0, 1, 1), ("tests/contract/test_bfd.py::test_a[ebgp-frr@sid]",)),
    ],
)  # fmt: skip
def test_a_report_is_counted_and_names_what_failed_whole_and_by_parameter(
    tmp_path: Path, parameter: str, counted: tuple[int, int, int], failures: tuple[str, ...]
) -> None:
    row = made_of(tmp_path, REPORT, parameter)
    assert (row.passed, row.failed, row.skipped) == counted
    assert row.failures == failures


def test_a_file_that_could_not_be_read_is_named(tmp_path: Path) -> None:
    xml = '<testsuite><testcase classname="" name="tests.unit.test_it"><error message="collection failure"/></testcase></testsuite>'
    assert made_of(tmp_path, xml).failures == ("tests.unit.test_it",)


def line(row: Row) -> str:
    """Of the row in the page."""
    return platforms.page("", [row]).splitlines()[3]


def test_of_many_that_failed_the_first_are_named_and_the_others_counted(tmp_path: Path) -> None:
    failed = [
        f'<testcase classname="tests.unit.test_it" name="test_{n}"><failure/></testcase>' for n in range(8)
    ]
    row = made_of(tmp_path, f"<testsuite>{''.join(failed)}</testsuite>")
    assert len(row.failures) == NAMED == 5
    named = ", ".join(f"`tests/unit/test_it.py::test_{n}`" for n in range(5))
    assert line(row).endswith(f" | 0 | 8: {named} and 3 more | 0 | {row.day} | 0123abcd |")


def test_a_name_breaks_no_table_and_is_no_longer_than_a_line(tmp_path: Path) -> None:
    xml = f'<testcase classname="test_it" name="test_a[x|`y`{"z" * 200}]"><failure/></testcase>'
    cell = line(made_of(tmp_path, f"<testsuite>{xml}</testsuite>")).split(" | ")[3]
    assert cell.startswith(r"1: `test_it.py::test_a[x\|'y'zz")
    assert cell.endswith("z…`")
    assert len(cell) == LONGEST + len(r"1: `\`")


def test_a_row_from_before_commits_were_kept_says_so() -> None:
    old = Row(tests="unit", on="Debian 13", passed=3, failed=2, skipped=1, day="2026-01-01")
    assert line(old) == "| unit | Debian 13 | 3 | 2, names not kept | 1 | 2026-01-01 | not kept |"
    assert line(replace(old, failed=0)) == "| unit | Debian 13 | 3 | 0 | 1 | 2026-01-01 | not kept |"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of git with one commit."""
    (tmp_path / "file").write_text("one\n")
    (tmp_path / "docs").mkdir()
    for name in ("platforms.json", "platforms.md"):
        (tmp_path / "docs" / name).touch()
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    for words in (["init", "--quiet"], ["add", "."], [*identity, "commit", "--quiet", "--message", "one"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    return tmp_path


needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="no git here")


@needs_git
@pytest.mark.parametrize(
    ("written", "mark"),
    [(None, ""), ("file", "+"), ("new", "+"), ("docs/platforms.json", ""), ("docs/platforms.md", "")],
)
def test_a_commit_has_a_mark_where_something_else_was_run(
    checkout: Path, written: str | None, mark: str
) -> None:
    if written:
        (checkout / written).write_text("two\n")
    commit = commit_of(checkout)
    head = (checkout / ".git" / (checkout / ".git/HEAD").read_text().split()[1]).read_text()
    assert commit.endswith("+") == bool(mark)
    assert head.startswith(commit.removesuffix("+"))


@needs_git
def test_a_folder_without_git_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(LabError, match=rf"git -C {tmp_path} rev-parse .*: .*not a git repository"):
        commit_of(tmp_path)


def test_what_failed_keeps_no_result_of_another_part_from_being_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kept: list[str] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        report = next(word for word in command if word.startswith("--junitxml="))
        Path(report.removeprefix("--junitxml=")).write_text(REPORT)
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(platforms, "REPORTS", tmp_path)
    monkeypatch.setattr(platforms, "commit_of", lambda _: "0123abcd+")
    monkeypatch.setattr(platforms, "keep", lambda rows: kept.extend(f"{r.tests} {r.commit}" for r in rows))
    monkeypatch.setattr(subprocess, "run", run)
    assert platforms.run_here(["unit", "contract"], []) == 1
    assert kept == ["unit 0123abcd+", "contract 0123abcd+"]


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
