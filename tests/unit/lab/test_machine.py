from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lab.errors import LabError
from lab.machine import Place, choose

CHECKOUT = Path(__file__).resolve().parents[3]
PAYLOAD = b"0123456789abcdef" * 40_000  # more than every window and buffer on the way

namespaces = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def lab_run(
    *argv: str, stdin: bytes = b"", options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[bytes]:
    """`python -m lab run` in namespaces of this kernel: the same code as with User-Mode-Linux but for the boot."""
    env = {k: v for k, v in os.environ.items() if k != "ANYCAST_LAB_GUEST"} | {"ANYCAST_LAB": "namespaces"}
    command = [sys.executable, "-m", "lab", "run", *options, "--", *argv]
    return subprocess.run(
        command, input=stdin, capture_output=True, env=env, cwd=CHECKOUT, check=False, timeout=60
    )


def test_inside_the_lab_nothing_is_booted() -> None:
    assert choose({"ANYCAST_LAB_GUEST": "1", "ANYCAST_LAB": "uml"}).place is Place.INSIDE


def test_the_operator_decides() -> None:
    assert choose({"ANYCAST_LAB": "namespaces"}).place is Place.NAMESPACES


def test_a_misspelt_decision_is_refused() -> None:
    with pytest.raises(LabError, match="ANYCAST_LAB=docker: expected namespaces or uml"):
        choose({"ANYCAST_LAB": "docker"})


@namespaces
@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143)]
)
def test_the_commands_exit_status_is_handed_back(script: str, status: int) -> None:
    assert lab_run("sh", "-c", script).returncode == status


@namespaces
def test_a_program_that_is_not_there_is_told_and_has_status_127() -> None:
    done = lab_run("no-such-program")
    assert done.returncode == 127
    assert b"no-such-program: No such file" in done.stderr


@namespaces
def test_streams_come_through_whole_and_apart() -> None:
    done = lab_run("sh", "-c", "cat; echo done >&2", stdin=PAYLOAD)
    assert hashlib.md5(done.stdout).digest() == hashlib.md5(PAYLOAD).digest()  # noqa: S324
    assert done.stderr.splitlines()[-1] == b"done"


@namespaces
def test_a_command_that_reads_nothing_may_be_sent_anything() -> None:
    assert lab_run("sleep", "0.1", stdin=PAYLOAD).returncode == 0


@namespaces
def test_a_daemon_left_behind_does_not_keep_the_command_from_ending() -> None:
    done = lab_run("sh", "-c", "sleep 1000 & echo started")
    assert (done.returncode, done.stdout) == (0, b"started\n")


@namespaces
def test_a_command_that_takes_too_long_is_ended_with_124() -> None:
    done = lab_run("sleep", "1000", options=("--timeout", "0.5"))
    assert done.returncode == 124
    assert b"sleep: no end after 0.5 s" in done.stderr


@namespaces
def test_nothing_made_inside_is_left_outside() -> None:
    name = f"labtest{os.getpid()}"
    assert lab_run("ip", "netns", "add", name).returncode == 0
    assert name not in subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout


@namespaces
@pytest.mark.parametrize(
    "folder", ["/etc", "/etc/modprobe.d", "/var/lib", "/var/tmp", "/root", "/usr/local/bin", "/run"]
)
def test_what_is_written_inside_is_not_on_the_machine(folder: str) -> None:
    file = Path(folder, f"labtest{os.getpid()}")
    assert lab_run("sh", "-c", f"mkdir -p {folder} && echo x >{file} && cat {file}").stdout == b"x\n"
    assert not file.exists()


@namespaces
def test_the_machines_programs_cannot_be_changed_inside() -> None:
    done = lab_run("touch", f"/usr/bin/labtest{os.getpid()}")
    assert (done.returncode, b"Read-only file system" in done.stderr) == (1, True)


@namespaces
def test_what_a_command_writes_where_it_was_started_is_kept(tmp_path: Path) -> None:
    assert lab_run("sh", "-c", f"echo x >{tmp_path}/file").returncode == 0
    assert (tmp_path / "file").read_text() == "x\n"


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run(
        [sys.executable, "-m", "lab", "which"],
        stdout=theirs,
        stderr=subprocess.PIPE,
        cwd=CHECKOUT,
        check=False,
    )
    os.close(theirs)
    assert (done.returncode, done.stderr) == (141, b"")


@namespaces
def test_a_killed_lab_takes_its_processes_with_it() -> None:
    env = {**os.environ, "ANYCAST_LAB": "namespaces"}
    env.pop("ANYCAST_LAB_GUEST", None)
    # The inner command's stdout is a pipe of ours that nobody else holds: its end is the end of the process.
    ours, theirs = os.pipe()
    mark = f"sleep 1000 # labtest{os.getpid()}"
    runner = subprocess.Popen(
        [sys.executable, "-m", "lab", "run", "--", "sh", "-c", f"echo up; {mark}"],
        stdout=theirs, stderr=subprocess.DEVNULL, env=env, cwd=CHECKOUT,
    )  # fmt: skip
    os.close(theirs)
    with open(ours, "rb") as output:
        assert output.readline() == b"up\n"
        inside = [pid for pid in filter(str.isdigit, os.listdir("/proc")) if mark in _command_line(pid)]
        inside = [pid for pid in inside if pid != str(runner.pid)]
        assert inside
        watched = [os.pidfd_open(int(pid)) for pid in inside]
        runner.kill()
        runner.wait()
    for fd in watched:
        with open(fd, "rb", buffering=0) as ended:
            _, failed = _wait(ended.fileno())
            assert not failed


def _command_line(pid: str) -> str:
    try:
        return Path("/proc", pid, "cmdline").read_text().replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _wait(fd: int) -> tuple[bool, bool]:
    import select

    ready = bool(select.select([fd], [], [], 10)[0])
    return ready, not ready
