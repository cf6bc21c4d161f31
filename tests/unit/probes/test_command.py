from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from errno import ENOSYS
from pathlib import Path

import pytest

from anycast.core.health.phase import Outcome, Result
from anycast.core.values.configuration import CommandCheck
from anycast.probes.run import probe
from tests.unit.probes.peers import has_children, open_descriptors, run, target


@pytest.fixture(autouse=True)
def _nothing_stays_behind() -> Iterator[None]:
    gc.collect()  # what tests before have left open and nobody holds
    before = open_descriptors()
    yield
    assert not has_children()
    # Fewer: threads of tests before have ended meanwhile.
    assert open_descriptors() <= before


def sh(script: str) -> CommandCheck:
    return CommandCheck(argv=("/bin/sh", "-c", script))


def test_exit_status_0_is_ok_whatever_the_program_says() -> None:
    result = run(sh("echo fine; echo fine >&2"))
    assert (result.outcome, result.detail) == (Outcome.OK, "")
    assert result.took > 0


@pytest.mark.parametrize(
    ("script", "detail"),
    [
        ("exit 2", "exit status 2"),
        ("echo lag is 30 s; echo more; exit 3", "exit status 3: lag is 30 s"),
        ("echo no route >&2; exit 1", "exit status 1: no route"),
        ("printf '\\n \\n  late\\n'; exit 1", "exit status 1: late"),
        ("printf 'a\\033[31mb\\r\\n'; exit 1", "exit status 1: a [31mb"),
        ("printf '\\377x'; exit 1", "exit status 1: \ufffdx"),
        ("kill -SEGV $$", "killed by SIGSEGV"),
        ("kill -40 $$", "killed by signal 40"),
    ],
)
def test_another_end_fails_and_says_how_and_the_first_line_of_output(script: str, detail: str) -> None:
    result = run(sh(script))
    assert (result.outcome, result.detail) == (Outcome.FAIL, detail)


def test_the_first_line_is_cut_at_200_bytes() -> None:
    assert run(sh("printf 'x%.0s' $(seq 500); exit 1")).detail == "exit status 1: " + "x" * 200


def test_a_flood_of_output_does_not_block_the_program() -> None:
    assert run(sh("echo first; head -c 3000000 /dev/zero; exit 4")).detail == "exit status 4: first"


def test_the_program_knows_whom_it_checks_and_nothing_of_the_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYCAST_TEST_SECRET", "s")
    kind = CommandCheck(argv=("/bin/sh", "-c", "env -u PWD -u _ -u SHLVL | sort | tr '\\n' ' '; exit 1"))
    result = asyncio.run(probe(target(kind, 8443, address="2001:db8::1")))
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert result.detail == f"exit status 1: ANYCAST_ADDRESS=2001:db8::1 ANYCAST_PORT=8443 PATH={path}"


def test_the_arguments_reach_the_program_as_they_are() -> None:
    kind = CommandCheck(argv=("/bin/sh", "-c", 'echo "$1"; exit 1', "sh", "$(id) ; 'a  b'"))
    assert run(kind).detail == "exit status 1: $(id) ; 'a  b'"


_WITH_INPUT = """
import asyncio
from tests.unit.probes.peers import target
from anycast.core.values.configuration import CommandCheck
from anycast.probes.run import probe
kind = CommandCheck(argv=("/bin/sh", "-c", "cat; exit 1"))
print(asyncio.run(probe(target(kind))).detail)
"""


def test_standard_input_is_empty_and_not_the_agents() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WITH_INPUT], input="x", capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "exit status 1\n"


@pytest.mark.parametrize(
    ("content", "mode", "advice"),
    [
        (None, 0, "install it or correct the path"),
        ("#!/bin/sh\n", 0o644, "chmod +x"),
        ("#!/no/such/interpreter\n", 0o755, "the interpreter in its first line"),
        ("exit 0\n", 0o755, "begin a script with #!/bin/sh"),
    ],
)
def test_a_program_that_cannot_be_started_fails_and_says_what_to_do(
    tmp_path: Path, content: str | None, mode: int, advice: str
) -> None:
    program = tmp_path / "check"
    if content is not None:
        program.write_text(content)
        program.chmod(mode)
    result = run(CommandCheck(argv=(str(program),)))
    assert result.outcome is Outcome.FAIL
    assert result.detail.startswith(f"no such program: {program}: ")
    assert advice in result.detail


def test_a_path_through_a_file_is_no_such_program_either(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run(CommandCheck(argv=(f"{tmp_path}/file/check",)))
    assert (result.outcome, "no such program" in result.detail) == (Outcome.FAIL, True)


class Witness:
    """A FIFO that the program and its children hold open for writing: it ends when the last of them is gone."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    async def line(self) -> bytes:
        """What was written, or nothing once every writer is gone."""
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._fd, readable.set)
        await readable.wait()
        loop.remove_reader(self._fd)
        return os.read(self._fd, 100)

    def close(self) -> None:
        os.close(self._fd)


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[Witness]:
    made = Witness(tmp_path / "witness")
    yield made
    made.close()


def with_grandchildren(witness: Witness, then: str) -> CommandCheck:
    return sh(f"exec 3>{witness.path}; sleep 1000 & (sleep 1000 & sleep 1000) & echo started >&3; {then}")


def test_a_timeout_ends_the_program_and_all_its_children(witness: Witness) -> None:
    async def story() -> Result:
        task = asyncio.create_task(probe(target(with_grandchildren(witness, "wait"), timeout=1.0)))
        assert await witness.line() == b"started\n"
        result = await task
        assert await witness.line() == b""
        return result

    result = asyncio.run(story())
    assert (result.outcome, result.detail) == (Outcome.FAIL, "no exit within 1.0 s")


def test_a_cancelled_run_ends_the_program_and_all_its_children(witness: Witness) -> None:
    async def story() -> None:
        task = asyncio.create_task(probe(target(with_grandchildren(witness, "wait"))))
        assert await witness.line() == b"started\n"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not has_children()
        assert await witness.line() == b""

    asyncio.run(story())


def test_what_a_finished_program_left_running_is_ended_and_does_not_delay_the_result(
    witness: Witness,
) -> None:
    async def story() -> Result:
        result = await probe(target(with_grandchildren(witness, "exit 0")))
        assert await witness.line() == b"started\n"
        assert await witness.line() == b""
        return result

    assert asyncio.run(story()).outcome is Outcome.OK


def test_a_program_that_closes_its_output_early_is_still_waited_for() -> None:
    assert run(sh("exec >&- 2>&-; sleep 0.05; exit 5")).detail == "exit status 5"


def test_a_program_that_cannot_be_watched_is_ended_and_proves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(_pid: int, _flags: int = 0) -> int:
        raise OSError(ENOSYS, "")

    monkeypatch.setattr(os, "pidfd_open", refused)
    result = run(sh("sleep 1000"))
    assert result.outcome is Outcome.UNKNOWN
    assert "ENOSYS" in result.detail


def test_a_program_that_ignores_sigterm_is_ended_too() -> None:
    assert (
        run(sh("trap '' TERM INT HUP; while :; do sleep 1; done"), timeout=0.3).detail
        == "no exit within 0.3 s"
    )


def test_many_runs_at_once_are_all_reaped() -> None:
    async def story() -> list[Result]:
        return await asyncio.gather(*(probe(target(sh(f"exit {n}"))) for n in range(20)))

    details = [result.detail for result in asyncio.run(story())]
    assert details == ["", *(f"exit status {n}" for n in range(1, 20))]


_CHILD_STATUS_IGNORED = """
import asyncio, signal
from tests.unit.probes.peers import target
from anycast.core.values.configuration import CommandCheck
from anycast.probes.run import probe
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print(asyncio.run(probe(target(CommandCheck(argv=("/bin/false",))))).detail)
"""


def test_an_agent_that_was_started_without_the_status_of_its_children_has_that_of_programs() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _CHILD_STATUS_IGNORED],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("exit status 1\n", "")


_NO_FORK = """
import asyncio, os, resource
from tests.unit.probes.peers import target
from anycast.core.values.configuration import CommandCheck
from anycast.probes.run import probe
os.setgid(65534)
os.setuid(65534)
resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
result = asyncio.run(probe(target(CommandCheck(argv=("/bin/true",)))))
print(result.outcome, result.detail)
"""


@pytest.mark.skipif(
    os.geteuid() != 0, reason="the limit of processes does not bind root: needs to become another user"
)
def test_a_failed_fork_proves_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _NO_FORK], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith("unknown the check could not run")
    assert "EAGAIN" in done.stdout
