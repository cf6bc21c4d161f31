"""Another Debian in a folder: what it is made with is installed first, and what fails is told in words."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from lab import hosts, platforms, suites
from lab.errors import LabError


def test_what_makes_a_debian_is_installed_before_it_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, ...]] = []

    def run(*argv: str) -> None:
        ran.append(argv)
        if "debootstrap" in argv:
            raise LabError("lab: the network is away")

    monkeypatch.setattr(suites, "_run", run)
    monkeypatch.setattr(suites, "CHECKOUT", tmp_path)
    with pytest.raises(LabError, match="the network is away"):
        suites.complete(tmp_path / "build/trixie", "trixie", ["git"], "git", lambda _: None)
    assert [argv[:3] for argv in ran] == [
        (str(tmp_path / "lab/install"), "debian"),
        ("unshare", "--mount", "debootstrap"),
    ]


def test_a_debian_is_completed_where_more_is_wanted_than_it_was_made_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, ...]] = []
    monkeypatch.setattr(suites, "_run", lambda *argv: ran.append(argv))
    monkeypatch.setattr(hosts, "PLACE", tmp_path)
    there = tmp_path / "sid"
    there.mkdir()
    (there / ".ready").write_text("ca-certificates")
    assert hosts.make("sid") == there
    assert [argv[argv.index("apt-get") :][:3] for argv in ran] == [
        ("apt-get", "-qq", "update"),
        ("apt-get", "-qq", "install"),
    ]
    assert {"systemd", "firewalld"} <= {*ran[1]}
    ran.clear()
    assert hosts.make("sid") == there
    assert ran == []


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("sh", "-c", "echo no space >&2; exit 3"), "no space\nlab: sh -c .*: it failed with status 3"),
        (("/no/such/program", "--there"), "lab: /no/such/program --there: .*No such file"),
    ],
)
def test_a_program_that_fails_or_is_not_there_is_named_with_what_it_said(
    argv: tuple[str, ...], said: str
) -> None:
    with pytest.raises(LabError, match=said):
        suites._run(*argv)


@pytest.mark.parametrize("verb", [suites.main, hosts.main, lambda words: platforms.main(["suite", *words])])
def test_what_cannot_be_made_is_an_exit_status_and_no_traceback(
    verb: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def make(suite: str) -> Path:
        raise LabError(f"lab: no {suite} here")

    monkeypatch.setattr(suites, "make", make)
    monkeypatch.setattr(hosts, "make", make)
    assert callable(verb)
    assert verb(["trixie"]) == 1
    assert capsys.readouterr().err == "lab: no trixie here\n"


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        ("contract", {"routers", "browser", "bench", "etcd", "tests"}),
        ("contract-all", {"routers"}),
        ("test-kernels", {"bench", "bird"}),
        ("e2e", {"bench", "bird"}),
        ("findings", {"routers", "bench", "etcd"}),
        ("audit", set()),
        ("package", set()),
        ("test-package", {"package"}),
        ("bench-scale", {"routers"}),
    ],
)
def test_a_target_installs_the_programs_it_runs(target: str, wanted: set[str]) -> None:
    argv = ["make", "--dry-run", "--no-print-directory", "--directory", str(suites.CHECKOUT), target]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    calls = [line.split()[1:] for line in said if line.startswith("./lab/install")]
    assert [] in calls, "the lab's own programs"
    assert {word for words in calls for word in words} == wanted


def test_the_installer_refuses_a_word_it_does_not_know() -> None:
    argv = [str(suites.CHECKOUT / "lab/install"), "bench", "rooters"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "rooters: expected bench, bird" in done.stderr
