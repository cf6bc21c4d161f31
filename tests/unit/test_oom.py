"""The kernel's OOM killer, by the files it writes; tests/packaging has a real one."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from anycast import oom
from anycast.core.health.phase import Outcome
from anycast.core.hooks import Command, Ending, Hook
from anycast.core.values.configuration import CommandCheck
from anycast.notify.notice import SAMPLE, payload
from anycast.notify.run import run as run_hook
from anycast.probes import programs
from anycast.probes.forker import Forker
from tests.unit.probes.peers import run

EVENTS = "low 0\nhigh 0\nmax 7\noom 3\noom_kill {}\noom_group_kill 5\n"


class Group:
    """A control group of the test in the place of this process's."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.events = folder / "system.slice/anycast-agent.service/memory.events"
        self.events.parent.mkdir(parents=True)
        self.membership = folder / "membership"
        self.membership.write_text("1:name=systemd:/\n0::/system.slice/anycast-agent.service\n")
        self.kills(0)
        patch.setattr(oom, "_MOUNT", str(folder))
        patch.setattr(oom, "_CGROUP", str(self.membership))
        patch.setattr(programs, "_launch", _forker_here)

    def kills(self, count: int) -> None:
        self.events.write_text(EVENTS.format(count))


def _forker_here() -> tuple[socket.socket, asyncio.Future[int | None]]:
    """A forker in a thread of this process, for which the group holds too."""
    os.environ.setdefault("PATH", "/usr/bin:/bin")
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    ended: asyncio.Future[int | None] = loop.create_future()

    def work() -> None:
        Forker(theirs, 200).serve()
        loop.call_soon_threadsafe(ended.set_result, 0)

    threading.Thread(target=work).start()
    return ours, ended


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Group:
    return Group(tmp_path, monkeypatch)


def sh(script: str) -> CommandCheck:
    return CommandCheck(argv=("/bin/sh", "-c", script))


def counted(group: Group, script: str) -> CommandCheck:
    """The program's own hand stands for the kernel's."""
    return sh(f"printf '{EVENTS.format(1)}' >{group.events}; {script}")


def test_processes_that_the_kernel_took_are_counted(group: Group) -> None:
    assert oom.kills() == 0
    group.kills(12)
    assert oom.kills() == 12


@pytest.mark.parametrize("membership", ["", "4:memory:/a\n", "0::/elsewhere\n"])
def test_where_the_kernel_does_not_tell_nothing_is_known(group: Group, membership: str) -> None:
    group.membership.write_text(membership)
    assert oom.kills() is None


def test_a_check_that_the_kernel_took_for_its_memory_fails_with_that_reason(group: Group) -> None:
    result = run(counted(group, "kill -KILL $$"))
    assert (result.outcome, result.detail) == (
        Outcome.FAIL,
        "killed by SIGKILL by the kernel for its memory (the MemoryMax= of the agent's unit, or the machine's)",
    )


def test_a_check_whose_child_was_taken_says_so_behind_its_own_end(group: Group) -> None:
    result = run(counted(group, "echo java is gone; exit 3"))
    assert result.detail == (
        "exit status 3 (meanwhile the kernel killed a process of this service for its memory): java is gone"
    )


def test_one_that_was_taken_before_is_not_blamed_on_this_check(group: Group) -> None:
    group.kills(4)
    assert run(sh("kill -KILL $$")).detail == "killed by SIGKILL"
    assert run(sh("exit 3")).detail == "exit status 3"


def test_a_check_that_succeeds_is_well_whatever_the_kernel_took(group: Group) -> None:
    assert run(counted(group, "exit 0")).outcome is Outcome.OK


def test_where_the_kernel_does_not_tell_a_kill_asks_for_a_look(group: Group) -> None:
    group.membership.write_text("")
    assert (
        run(sh("kill -KILL $$")).detail == "killed by SIGKILL (by the kernel for its memory? `dmesg` tells)"
    )
    assert run(sh("kill -SEGV $$")).detail == "killed by SIGSEGV"


@pytest.fixture
def sleeper() -> Iterator[int]:
    with subprocess.Popen(["/bin/sleep", "1000"]) as running:
        yield running.pid
        running.kill()


@pytest.mark.parametrize(("own", "expected"), [("-500", 0), ("0", 300), ("700", 300)])
def test_a_child_is_not_protected_as_the_agent_is(
    own: str, expected: int, sleeper: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = Path(f"/proc/{sleeper}/oom_score_adj")
    score.write_text("300")
    (tmp_path / "own").write_text(own)
    monkeypatch.setattr(oom, "_OWN_SCORE", str(tmp_path / "own"))
    oom.give_up_protection(sleeper)
    assert int(score.read_text()) == expected


def test_every_hook_that_is_started_gives_it_up(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    monkeypatch.setattr(oom, "give_up_protection", told.append)
    outcome = asyncio.run(
        run_hook(
            Hook(name="h", action=Command(argv=("/bin/true",))),
            payload(SAMPLE, hook="h", node="lb1"),
            agent="anycast/1",
        )
    )
    assert (outcome.ending, len(told)) == (Ending.OK, 1)


_FORKER = """
import os, socket, sys
from anycast import oom
from anycast.probes import forker
oom.give_up_protection = lambda pid: print(pid == os.getpid())
ours, theirs = socket.socketpair()
ours.close()
sys.argv = ["", str(theirs.detach()), "200"]
forker.main()
"""


def test_what_starts_the_programs_of_checks_gives_it_up_and_so_do_they_that_inherit() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FORKER], capture_output=True, text=True, check=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_a_hook_that_the_kernel_took_says_so_too(group: Group) -> None:
    action = Command(argv=("/bin/sh", "-c", f"printf '{EVENTS.format(1)}' >{group.events}; kill -KILL $$"))
    told = payload(SAMPLE, hook="h", node="lb1")
    outcome = asyncio.run(run_hook(Hook(name="h", action=action), told, agent="anycast/1"))
    assert (outcome.ending, "by the kernel for its memory" in outcome.why) == (Ending.FAILED, True)
