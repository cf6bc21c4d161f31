"""Runs tests on other Debians, routers and kernels, and keeps in docs/platforms.md what was run on what.

`python -m lab.platforms suite trixie unit contract`: a clone of this checkout in a Debian of that suite. `here unit`: on
this machine. `routers`: the contract tests of routers, with all there are. `kernel trixie`: IPVS and end to end in that
suite's User-Mode-Linux; words after `--` go to pytest.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lab import suites
from lab.errors import LabError
from lab.machine import uml
from lab.suites import CHECKOUT

RESULTS = CHECKOUT / "docs" / "platforms.json"
PAGE = CHECKOUT / "docs" / "platforms.md"
REPORTS = CHECKOUT / "build" / "platforms"
INNER = "/srv/anycast"  # where the clone is in a suite's root
OUTCOMES = ("passed", "failed", "skipped")
NAMED = 5  # failed tests in a row; of more the number is told
LONGEST = 120  # characters of a test's name: a parameter may be a whole document

PARTS = {
    "lint": "ruff check && {bin}ruff format --check && {bin}mypy && {bin}lint-imports",
    "unit": "python -m pytest tests/unit tests/property",
    "contract": "python -m pytest tests/contract -m 'not lab'",
}

OF_ROUTERS = (
    "tests/contract/test_routers.py",
    "tests/contract/test_bfd.py",
    "tests/contract/test_frr_zebra.py",
    "tests/contract/test_preference.py",
    "tests/contract/test_sessions.py",
    "tests/contract/test_view.py",
    "tests/contract/test_weights.py",
    "tests/contract/test_kernel_table.py",
    "tests/contract/test_bird_rendered.py",
)
"""The tests that have the router's software as a parameter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What came of one run. `tests`: which; `on`: the platform, with versions.

    `commit`: short, with "+" if there was more than that; "" in a row from before it was kept. `failures`: the names
    of the first NAMED tests that failed.
    """

    tests: str
    on: str
    passed: int
    failed: int
    skipped: int
    day: str
    commit: str = ""
    failures: Sequence[str] = ()


def cases(report: Path, parameter: str = "") -> Iterator[tuple[str, str]]:
    """Name and outcome of each test of a JUnit report; with `parameter` only of tests with that parameter."""
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 - pytest wrote it here
        name = str(case.get("name"))
        if parameter and parameter not in name.partition("[")[2].removesuffix("]").split("-"):
            continue
        outcome = {child.tag for child in case} & {"failure", "error", "skipped"}
        yield (
            _node_id(case.get("classname") or "", name),
            "skipped" if outcome == {"skipped"} else "failed" if outcome else "passed",
        )


def _node_id(place: str, name: str) -> str:
    """What pytest takes for the test. `place`: dotted, of the file and perhaps a class; "" if it was not even read."""
    words = place.split(".")
    file = next((at for at, word in enumerate(words, 1) if word.startswith("test_")), 0)
    return "::".join(["/".join(words[:file]) + ".py", *words[file:], name]) if file else name


def keep(rows: Sequence[Row]) -> None:
    """Into the results, in the place of those of the same tests on the same platform; then the page is written anew."""
    known = [Row(**row) for row in json.loads(RESULTS.read_text())] if RESULTS.exists() else []
    new = {(row.tests, row.on) for row in rows}
    kept = sorted(
        [*(row for row in known if (row.tests, row.on) not in new), *rows],
        key=lambda row: (row.tests, row.on),
    )
    RESULTS.write_text(json.dumps([asdict(row) for row in kept], indent=1) + "\n")
    PAGE.write_text(page(PAGE.read_text() if PAGE.exists() else "", kept))


BEGIN, END = "<!-- results: python -m lab.platforms -->", "<!-- end of results -->"


def page(text: str, rows: Sequence[Row]) -> str:
    """`text` with the table of the results between its marks."""
    lines = ["| tests | on | passed | failed | skipped | day | commit |", "|---|---|--:|--:|--:|---|---|"]
    lines += [
        f"| {r.tests} | {r.on} | {r.passed} | {_failed(r)} | {r.skipped} | {r.day} | {r.commit or 'not kept'} |"
        for r in rows
    ]
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{chr(10).join(lines)}\n{END}{rest.partition(END)[2]}"


def _failed(row: Row) -> str:
    if not row.failed:
        return "0"
    if not row.failures:
        return f"{row.failed}, names not kept"
    more = row.failed - len(row.failures)
    return f"{row.failed}: {', '.join(map(_shown, row.failures))}{f' and {more} more' if more else ''}"


def _shown(name: str) -> str:
    """In a table and as code."""
    short = name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
    return "`" + short.replace("`", "'").replace("|", r"\|") + "`"


def row_of(report: Path, tests: str, on: str, commit: str, parameter: str = "") -> Row:
    """Of a JUnit report; with `parameter` of its tests with that parameter alone."""
    found = list(cases(report, parameter))
    counted = Counter(outcome for _, outcome in found)
    return Row(
        tests=tests,
        on=on,
        day=time.strftime("%Y-%m-%d"),
        commit=commit,
        failures=tuple(name for name, outcome in found if outcome == "failed")[:NAMED],
        **{one: counted[one] for one in OUTCOMES},
    )


def commit_of(checkout: Path) -> str:
    """The commit that is there, short, and "+" if the files are not what it has. Raises LabError."""
    commit = _git(checkout, "rev-parse", "--short=8", "HEAD").strip()
    return f"{commit}+" if _changed(checkout) else commit


def _changed(checkout: Path) -> bool:
    """The results are no change: the runs themselves write them."""
    results = [f":(exclude){path.relative_to(CHECKOUT)}" for path in (RESULTS, PAGE)]
    return bool(_git(checkout, "status", "--porcelain", "--", ".", *results))


def _git(checkout: Path, *argv: str) -> str:
    """What git says. Raises LabError."""
    command = ["git", "-C", str(checkout), *argv]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise LabError(f"lab.platforms: {error}; install git") from error
    if done.returncode:
        raise LabError(f"lab.platforms: {shlex.join(command)}: {done.stderr.strip()}")
    return done.stdout


def _report(name: str) -> Path:
    REPORTS.mkdir(parents=True, exist_ok=True)
    report = REPORTS / f"{name}.xml"
    report.unlink(missing_ok=True)
    return report


def _keep_run(report: Path, tests: str, on: str, commit: str, status: int) -> int:
    """A run that has no report ended before its tests did: nothing is kept of it."""
    if not report.exists():
        print(f"lab.platforms: {tests} on {on}: no result", file=sys.stderr)
        return status or 1
    row = row_of(report, tests, on, commit)
    if row.passed + row.failed:
        keep([row])
    print(f"lab.platforms: {tests} on {on}: {row.passed} passed, {row.failed} failed, {row.skipped} skipped")
    return status


# --- other suites -------------------------------------------------------------------------------------------


def run_suite(suite: str, parts: Sequence[str], words: Sequence[str]) -> int:
    """In a clone of this checkout's last commit. Returns the first status that is not 0."""
    root = suites.make(suite)
    _clone(root)
    _environment(root)
    commit = commit_of(root / INNER.lstrip("/"))
    status = 0
    for part in parts:
        said = subprocess.run(
            suites.enter(root, ["sh", "-c", ". /etc/os-release; cat /etc/debian_version; /srv/anycast/.venv/bin/python -V"]),
            capture_output=True, text=True, check=True, env=suites.environment(),
        ).stdout.split()  # fmt: skip
        on = f"Debian {said[0]}, {' '.join(said[1:])}"
        report = _report(f"{suite}-{part}")
        inner = root / "report.xml"
        inner.unlink(missing_ok=True)
        command = PARTS[part].format(bin=".venv/bin/")
        command = f"cd {INNER} && PYTHONPATH={INNER} .venv/bin/{command}"
        if part != "lint":
            command += f" --junitxml=/report.xml {shlex.join(words)}"
        done = subprocess.run(
            suites.isolated(root, ["sh", "-c", command]),
            check=False,
            env=suites.environment(),
            stdin=subprocess.DEVNULL,
        )
        if part == "lint":
            print(f"lab.platforms: lint on {on}: status {done.returncode}")
        else:
            if inner.exists():
                shutil.move(inner, report)
            _keep_run(report, part, on, commit, done.returncode)
        status = status or done.returncode
    return status


def _clone(root: Path) -> None:
    """What is not committed is left out."""
    place = root / INNER.lstrip("/")
    if not place.exists():
        _git(CHECKOUT, "clone", "--quiet", "--no-hardlinks", str(CHECKOUT), str(place))
    _git(place, "fetch", "--quiet", str(CHECKOUT), "HEAD")
    _git(place, "reset", "--quiet", "--hard", "FETCH_HEAD")
    if _changed(CHECKOUT):
        print("lab.platforms: what is not committed is left out", file=sys.stderr)


def _environment(root: Path) -> None:
    """The virtual environment, with the network of this machine, its certificates and its settings of pip."""
    stamp = root / INNER.lstrip("/") / ".venv/.installed"
    project = root / INNER.lstrip("/") / "pyproject.toml"
    if stamp.exists() and stamp.read_text() == project.read_text():
        return
    script = f"""
cd {INNER} && test -x .venv/bin/python || python3 -m venv .venv
.venv/bin/pip install --quiet --upgrade 'pip>=25.1' && .venv/bin/pip install --quiet --editable '.[dns,grpc,regex,simulate]' --group dev
"""
    told = {name: value for name, value in os.environ.items() if re.match(r"PIP_|SSL_CERT|REQUESTS_CA", name)}
    certificates = f'mount --bind /etc/ssl/certs {shlex.quote(str(root))}/etc/ssl/certs && exec "$@"'
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", certificates, "sh"]
    subprocess.run(
        [*argv, *suites.enter(root, ["sh", "-ec", script])], check=True, env=suites.environment() | told
    )
    stamp.write_text(project.read_text())


# --- this machine -------------------------------------------------------------------------------------------


def this_machine() -> str:
    told = dict(re.findall(r'^(\w+)="?([^"\n]*)', Path("/etc/os-release").read_text(), re.MULTILINE))
    version = Path("/etc/debian_version")
    name = f"Debian {version.read_text().strip()}" if version.exists() else told.get("PRETTY_NAME", "?")
    return f"{name}, Python {platform.python_version()}"


def run_here(parts: Sequence[str], words: Sequence[str]) -> int:
    status = 0
    for part in parts:
        report, commit = _report(f"here-{part}"), commit_of(CHECKOUT)
        command = [sys.executable, *shlex.split(PARTS[part])[1:], f"--junitxml={report}", *words]
        done = subprocess.run(command, cwd=CHECKOUT, check=False)
        status = _keep_run(report, part, this_machine(), commit, done.returncode) or status
    return status


def run_routers(words: Sequence[str]) -> int:
    """The contract tests of routers with all that are here: this machine's and those of `make routers`."""
    os.environ["ANYCAST_ROUTERS"] = "all"
    from tests.contract.routers import SOFTWARE

    report, commit = _report("routers"), commit_of(CHECKOUT)
    command = [sys.executable, "-m", "pytest", *OF_ROUTERS, f"--junitxml={report}", *words]
    done = subprocess.run(command, cwd=CHECKOUT, check=False)
    if not report.exists():
        return done.returncode or 1
    rows = [
        row_of(report, "routers", f"{one.label()}, {this_machine()}", commit, one.id()) for one in SOFTWARE
    ]
    keep(rows)
    for row in rows:
        print(f"lab.platforms: {row.on}: {row.passed} passed, {row.failed} failed, {row.skipped} skipped")
    return done.returncode


def run_kernel(suite: str, words: Sequence[str]) -> int:
    """The tests of the lab in the User-Mode-Linux of that suite; `here`: this machine's."""
    env = {**os.environ, "ANYCAST_LAB": "uml"}
    if suite != "here":
        env["ANYCAST_UML"] = str(suites.make(suite))
    release = uml(env).release()
    report, commit = _report(f"kernel-{suite}"), commit_of(CHECKOUT)
    tests = [word for word in words if word.startswith("tests/")] or ["tests/contract", "tests/e2e"]
    others = [word for word in words if not word.startswith("tests/")]
    command = [sys.executable, "-m", "lab", "run", "--", sys.executable, "-m", "pytest", *tests, "-m", "lab"]
    done = subprocess.run([*command, f"--junitxml={report}", *others], cwd=CHECKOUT, env=env, check=False)
    said = shlex.join(_which(words))
    name = f"lab: `{said}`" if said else "lab"
    return _keep_run(report, name, f"User-Mode-Linux {release}, {this_machine()}", commit, done.returncode)


def _which(words: Sequence[str]) -> list[str]:
    """Those of pytest's words that choose tests."""
    return [
        word
        for word, before in zip(words, ("", *words), strict=False)
        if word[0] != "-" or word in ("-k", "-m")
        if before not in ("--timeout", "-p", "-n")
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    words = arguments[cut + 1 :]
    parser = argparse.ArgumentParser(prog="python -m lab.platforms", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("suite")
    one.add_argument("suite")
    one.add_argument("parts", nargs="*", choices=[*PARTS, []])
    one = verbs.add_parser("here")
    one.add_argument("parts", nargs="+", choices=PARTS)
    verbs.add_parser("routers")
    verbs.add_parser("kernel").add_argument("suite")
    told = parser.parse_args(arguments[:cut])
    try:
        match told.verb:
            case "suite":
                return run_suite(told.suite, told.parts or ["lint", "unit"], words)
            case "here":
                return run_here(told.parts, words)
            case "routers":
                return run_routers(words)
            case _:
                return run_kernel(told.suite, words)
    except LabError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
