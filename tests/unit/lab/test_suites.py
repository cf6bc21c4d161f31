"""Another Debian in a folder: what it is made with is installed first, and what fails is told in words."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType

import pytest

from lab import hosts, platforms, suites
from lab.errors import LabError
from lab.locks import alone


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


def test_a_debian_that_cannot_be_made_keeps_no_other_from_being_made(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def make(suite: str) -> Path:
        if suite == "trixie":
            raise LabError("lab: no trixie here")
        return Path(suite)

    assert suites.made(make, ["trixie", "sid"]) == 1
    assert capsys.readouterr() == ("sid\n", "lab: no trixie here\n")


class Debians:
    """In the place of what makes and fills a Debian: folders, and what was run in them."""

    def __init__(self, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.checkout = checkout
        self.ran: list[str] = []
        (checkout / "lab").mkdir()
        (checkout / "lab/install").write_text("one\n")
        monkeypatch.setattr(suites, "CHECKOUT", checkout)
        monkeypatch.setattr(suites, "PLACE", checkout / "build/debian")
        monkeypatch.setattr(hosts, "PLACE", checkout / "build/hosts")
        monkeypatch.setattr(suites, "_begun", self.begun)
        monkeypatch.setattr(suites, "install", self.install)

    def begun(self, place: Path, suite: str, packages: Sequence[str]) -> Path:
        new = place.with_suffix(".new")
        (new / "etc/apt/apt.conf.d").mkdir(parents=True)
        self.ran.append(f"made {suite} with {' '.join(packages)}")
        return new

    def install(self, place: Path, *argv: str) -> None:
        assert place.is_dir()
        self.ran.append(" ".join(argv))

    def taken(self) -> list[str]:
        ran, self.ran = self.ran, []
        return ran


@pytest.fixture
def debians(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Debians:
    return Debians(tmp_path, monkeypatch)


INSTALL = "apt-get -qq install --no-install-recommends --no-upgrade"


def test_a_debian_is_made_once(debians: Debians) -> None:
    assert hosts.make("sid") == debians.checkout / "build/hosts/sid"
    first, programs = " ".join(hosts._FIRST), " ".join(hosts._PROGRAMS)
    assert debians.taken() == [f"made sid with {first}", f"{INSTALL} {programs}", "apt-get clean"]
    assert hosts.there("sid")
    hosts.make("sid")
    assert debians.taken() == []


@pytest.mark.parametrize(
    ("module", "name"), [(hosts, "_PROGRAMS"), (hosts, "_FIRST"), (suites, "_WHAT"), (suites, "_FIRST")]
)
def test_a_debian_is_completed_when_the_list_of_its_programs_has_changed(
    debians: Debians, monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str
) -> None:
    place = module.make("sid")
    debians.taken()
    monkeypatch.setattr(module, name, (*getattr(module, name), "more"))
    assert module.make("sid") == place
    ran = debians.taken()
    assert ran[0] == "apt-get -qq update"
    assert any(line.endswith(" more") for line in ran)
    assert not any(line.startswith("made") for line in ran)
    module.make("sid")
    assert debians.taken() == []


def test_a_debian_is_completed_when_the_installer_or_what_a_suite_has_besides_has_changed(
    debians: Debians, monkeypatch: pytest.MonkeyPatch
) -> None:
    suites.make("sid")
    assert f"{INSTALL} bird3" in debians.taken()
    (debians.checkout / "lab/install").write_text("two\n")
    suites.make("sid")
    assert "apt-get -qq update" in debians.taken()
    monkeypatch.setattr(suites, "_OTHERS", {"sid": ("bird4",)})
    suites.make("sid")
    assert f"{INSTALL} bird4" in debians.taken()


def test_a_debian_that_could_not_be_completed_is_completed_the_next_time(
    debians: Debians, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts.make("sid")
    monkeypatch.setattr(hosts, "_PROGRAMS", ("more",))

    def away(place: Path, *argv: str) -> None:
        raise LabError("lab: the network is away")

    with monkeypatch.context() as patch:
        patch.setattr(suites, "install", away)
        with pytest.raises(LabError, match="the network is away"):
            hosts.make("sid")
    debians.taken()
    hosts.make("sid")
    assert f"{INSTALL} more" in debians.taken()


def test_of_two_that_make_a_debian_the_second_waits_and_has_nothing_to_do(
    debians: Debians, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is at it until the second is seen to wait."""
    begins, waits = threading.Event(), threading.Event()
    begun = debians.begun

    def slow(place: Path, suite: str, packages: Sequence[str]) -> Path:
        begins.set()
        assert waits.wait(30)
        return begun(place, suite, packages)

    def lock(path: Path, _: Callable[[], None]) -> AbstractContextManager[None]:
        return alone(path, waits.set)

    monkeypatch.setattr(suites, "_begun", slow)
    monkeypatch.setattr(suites, "alone", lock)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(hosts.make, "sid")
        assert begins.wait(30)
        second = pool.submit(hosts.make, "sid")
        assert first.result(30) == second.result(30)
    assert [line for line in debians.ran if line.startswith("made")] == [
        f"made sid with {' '.join(hosts._FIRST)}"
    ]


def test_a_lock_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(LabError, match=f"lab: {tmp_path}/file/sid.lock: "),
        alone(tmp_path / "file/sid.lock", lambda: None),
    ):
        pass


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        ("contract", {"routers", "browser", "bench", "etcd", "tests"}),
        ("contract-all", {"routers"}),
        ("test-here", {"routers", "browser", "bench", "etcd", "tests"}),
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
