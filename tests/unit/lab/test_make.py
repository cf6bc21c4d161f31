"""The targets that run several things, one after another: what fails hides nothing, and is named at the end."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from lab import suites

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make here")

# In the place of every program: writes down what it was told, and fails where the pattern FAIL is in that.
PROGRAM = """\
#!/bin/sh
echo "${0##*/} $*" >>ran
! echo "$*" | grep -qEe "$FAIL"
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Our Makefile in a folder where no program is the real one."""
    shutil.copy(suites.CHECKOUT / "Makefile", tmp_path)
    for name in (".venv/bin/python", "build/venv-audit/bin/pip-audit", "lab/install"):
        program = tmp_path / name
        program.parent.mkdir(parents=True)
        program.write_text(PROGRAM)
        program.chmod(0o755)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / ".venv/.installed").touch()
    for name in ("packaging/requirements-a.txt", "packaging/requirements-b.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "findings").mkdir()
    for name in ("one", "two"):
        (tmp_path / f"findings/{name}.sh").write_text(f"exec .venv/bin/python finding {name}\n")
    return tmp_path


def run(checkout: Path, target: str, fail: str) -> tuple[int, str, list[str]]:
    """The status, what was complained of, and what the programs were told."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["make", "--no-print-directory", "--directory", str(checkout), target, "APART="],
        capture_output=True,
        text=True,
        check=False,
        env=inherited | {"FAIL": fail},
    )
    ran = (checkout / "ran").read_text().splitlines()
    return done.returncode, done.stderr, [line for line in ran if not line.startswith("install")]


@pytest.mark.parametrize(
    ("target", "fail", "all_of_it", "complaint"),
    [
        (
            "test-kernels",
            "kernel (here|sid)",
            ["python -m lab.suites", *(f"python -m lab.platforms kernel {one}" for one in ("here", "trixie", "sid"))],
            "failed on the kernels: here sid\n",
        ),
        (
            "platforms",
            "here unit contract|kernel here",
            [
                "python -m lab.platforms here unit contract",
                "python -m lab.platforms suite trixie lint unit contract",
                "python -m lab.platforms suite sid lint unit contract",
                "python -m lab.suites",
                "python -m lab.platforms routers",
                "python -m lab.suites",
                *(f"python -m lab.platforms kernel {one}" for one in ("here", "trixie", "sid")),
            ],
            "failed: test-here test-kernels\n",
        ),
        (
            "audit",
            "-a.txt",
            [
                f"pip-audit --strict --disable-pip --require-hashes --requirement packaging/requirements-{one}.txt"
                for one in ("a", "b")
            ],
            "vulnerabilities or no answer: packaging/requirements-a.txt\n",
        ),
        (
            "findings",
            "one",
            ["python finding one", "python finding two"],
            "not as stated in its head: findings/one.sh\n",
        ),
    ],
)  # fmt: skip
def test_what_fails_hides_nothing_and_is_named_at_the_end(
    checkout: Path, target: str, fail: str, all_of_it: list[str], complaint: str
) -> None:
    status, said, ran = run(checkout, target, fail)
    assert ran == all_of_it
    assert complaint in said
    assert status != 0


@pytest.mark.parametrize("target", ["test-kernels", "platforms", "audit", "findings"])
def test_what_fails_nowhere_succeeds(checkout: Path, target: str) -> None:
    assert run(checkout, target, "nothing")[0] == 0
