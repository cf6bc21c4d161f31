"""Programs that a launcher starts are as those that `subprocess` starts itself."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.launcher import Launcher

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("gcc") is None, reason="needs root and gcc: lab/install brings it"
)


@pytest.fixture(scope="module")
def shared() -> Iterator[Launcher]:
    launcher = Launcher()
    yield launcher
    launcher.close()


@pytest.fixture(autouse=True)
def launcher(shared: Launcher, monkeypatch: pytest.MonkeyPatch) -> Launcher:
    monkeypatch.setattr("subprocess._fork_exec", subprocess._fork_exec)  # type: ignore[attr-defined]
    shared.take_over()
    return shared


def test_the_program_is_a_child_with_its_streams_directory_environment_and_status(tmp_path: Path) -> None:
    script = "cat; echo $PPID $GIVEN $(pwd) >&2; exit 3"
    environment = {**os.environ, "GIVEN": "b=c"}
    data = b"x" * 300_000
    done = subprocess.run(
        ["sh", "-c", script], input=data, capture_output=True, check=False, cwd=tmp_path, env=environment
    )
    assert (done.returncode, done.stdout) == (3, data)
    assert done.stderr.decode().split() == [str(os.getpid()), "b=c", str(tmp_path)]


def test_without_any_it_has_those_of_this_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIVEN", "here")
    told = subprocess.run(["sh", "-c", "echo $GIVEN $(pwd)"], stdout=subprocess.PIPE, text=True, check=True)
    assert told.stdout.split() == ["here", str(tmp_path)]


def test_it_has_the_descriptors_it_is_given_and_no_others() -> None:
    own, its = os.pipe()
    told = f"import os; os.write({its}, b'x'); print(*os.listdir('/proc/self/fd'))"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", told],
        pass_fds=[its],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    os.close(its)
    assert os.read(own, 10) == b"x"
    os.close(own)
    found = set(map(int, done.stdout.split()))
    assert found > {0, 1, 2, its}
    assert len(found) == 5, "one more is that of the look itself"


def test_a_session_of_its_own(launcher: Launcher) -> None:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as process:
        assert os.getsid(process.pid) == process.pid != launcher.process.pid
        process.kill()
    assert process.returncode < 0


@pytest.mark.parametrize(
    ("argv", "cwd", "error"),
    [
        ("nosuch-program", "/", FileNotFoundError),
        ("/etc/passwd", "/", PermissionError),
        ("true", "/nosuch", FileNotFoundError),
    ],
)
def test_what_cannot_be_run_is_told_as_ever(argv: str, cwd: str, error: type[OSError]) -> None:
    with pytest.raises(error):
        subprocess.run([argv], cwd=cwd, check=False)


def test_it_is_in_the_network_namespace_of_the_thread_that_asks() -> None:
    def here() -> str:
        return subprocess.run(
            ["readlink", "/proc/self/ns/net"], stdout=subprocess.PIPE, text=True, check=True
        ).stdout

    from tests.contract.namespaces import network_namespace

    before = here()
    with network_namespace():
        inside = here()
        assert inside.strip() == os.readlink("/proc/thread-self/ns/net")
    assert before.strip() == os.readlink("/proc/self/ns/net") != inside.strip()


def test_something_out_of_the_ordinary_is_left_to_subprocess_itself() -> None:
    done = subprocess.run(["sh", "-c", "umask"], umask=0o27, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == "0027\n"


def test_a_fork_of_this_process_starts_its_own() -> None:
    if (fork := os.fork()) == 0:
        with contextlib.suppress(BaseException):
            os._exit(subprocess.run(["sh", "-c", "exit 7"], check=False).returncode)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1]) == 7
