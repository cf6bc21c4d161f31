from __future__ import annotations

import asyncio
import errno
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from anycast.core.health.phase import Fault, Outcome
from anycast.core.values.configuration import CommandCheck
from anycast.probes import programs
from anycast.probes.finding import Finding
from anycast.probes.programs import ProgramRun, Programs
from tests.unit.probes.peers import target


class Stage:
    """Programs whose forker is played by the test."""

    def __init__(self) -> None:
        self.found: asyncio.Queue[tuple[str, Finding]] = asyncio.Queue()
        self.launched = 0
        self.programs: Programs[str] = Programs(
            lambda run, finding, _: self.found.put_nowait((run.owner, finding)), self._launch
        )

    def _launch(self) -> tuple[socket.socket, asyncio.Future[int | None]]:
        self.launched += 1
        ours, self.line = socket.socketpair()
        for end in (ours, self.line):
            end.setblocking(False)
        self.ended: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        return ours, self.ended

    def start(self, *runs: ProgramRun[str]) -> None:
        for run in runs:
            self.programs.start(run)
        self.programs.settle()

    async def asked(self) -> list[Any]:
        """What has been asked of the forker since the last time."""
        data = await asyncio.get_running_loop().sock_recv(self.line, 65536)
        return [json.loads(line) for line in data.splitlines()]

    def say(self, *what: Any) -> None:
        self.line.send(json.dumps(what).encode() + b"\n")

    async def close(self) -> None:
        if not self.ended.done():
            self.ended.set_result(0)
        await self.programs.close()
        self.line.close()


def run_of(owner: str, port: int = 1, *, timeout: float = 30.0) -> ProgramRun[str]:
    return ProgramRun(target(CommandCheck(argv=("/bin/check", owner[0])), port, timeout=timeout), owner)


def play(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


def test_all_that_begin_together_are_asked_for_at_once() -> None:
    async def story() -> None:
        stage = Stage()
        stage.start(run_of("a"), run_of("b"), run_of("c", 2))
        assert await stage.asked() == [
            [1, ["/bin/check", "a"], "127.0.0.1", "1"],
            [2, ["/bin/check", "b"], "127.0.0.1", "1"],
            [3, ["/bin/check", "c"], "127.0.0.1", "2"],
        ]
        stage.say("ready")
        stage.say("ended", 2, 77, 0, None, "")
        stage.say("ended", 1, 76, 4, None, "no")
        assert [(owner, found.detail) for owner, found in [await stage.found.get(), await stage.found.get()]] == [
            ("b", ""),
            ("a", "exit status 4: no"),
        ]  # fmt: skip
        assert stage.programs.running == 1
        await stage.close()

    play(story())


def test_a_hung_program_is_killed_and_its_run_ends_once_it_is_gone() -> None:
    async def story() -> None:
        stage = Stage()
        stage.start(run_of("a", timeout=0.05))
        stage.say("ready")
        stage.say("started", 1, os.getpid())
        assert (await stage.asked())[0][0] == 1
        assert await stage.asked() == [[1]]
        assert stage.found.empty()
        stage.say("ended", 1, os.getpid(), -9, None, "")
        owner, finding = await stage.found.get()
        assert (owner, finding.outcome, finding.detail) == ("a", Outcome.FAIL, "no exit within 0.05 s")
        await stage.close()

    play(story())


def test_the_time_of_a_program_begins_once_the_forker_is_there() -> None:
    async def story() -> None:
        stage = Stage()
        run = run_of("a", timeout=0.01)
        stage.start(run)
        began = run.started
        await asyncio.sleep(0.02)
        stage.say("ready")
        stage.say("ended", 1, 76, 0, None, "")
        assert (await stage.found.get())[1].outcome is Outcome.OK
        assert run.started > began
        await stage.close()

    play(story())


def test_a_program_that_was_never_started_proves_nothing() -> None:
    async def story() -> None:
        stage = Stage()
        stage.start(run_of("a", timeout=0.01))
        stage.say("ready")
        await stage.asked()
        await stage.asked()  # to kill it
        stage.say("ended", 1, 76, -9, None, "")
        finding = (await stage.found.get())[1]
        assert (finding.outcome, finding.fault) == (Outcome.UNKNOWN, Fault.STALLED)
        await stage.close()

    play(story())


def test_a_program_that_cannot_be_killed_is_not_started_a_second_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(programs, "KILL_GRACE", 0.01)

    async def story() -> None:
        stage = Stage()
        one = run_of("a", timeout=0.01)
        stage.start(one)
        stage.say("ready")
        stage.say("started", 1, os.getpid())
        assert (await stage.found.get())[1].detail == "no exit within 0.01 s"
        assert [asked[0] for asked in await stage.asked()] == [1, 1]  # to start it, and to kill it
        stage.start(one)
        assert (await stage.found.get())[1].detail == (
            f"process {os.getpid()} of an earlier run cannot be killed: see what it hangs on"
        )
        stage.start(run_of("b"))  # another check may
        assert [asked[0] for asked in await stage.asked()] == [2]
        stage.say("ended", 1, os.getpid(), -9, None, "")
        stage.say("ended", 2, 78, 0, None, "")
        assert (await stage.found.get())[0] == "b"
        stage.start(one)
        assert [asked[0] for asked in await stage.asked()] == [3]
        await stage.close()

    play(story())


def test_a_run_waits_for_the_cancelled_one_before_it() -> None:
    async def story() -> None:
        stage = Stage()
        first, second = run_of("a"), run_of("again")
        stage.start(first)
        stage.say("ready")
        assert [asked[0] for asked in await stage.asked()] == [1]
        stage.programs.cancel(first)
        assert await stage.asked() == [[1]]
        stage.start(second)
        assert second.number is None
        stage.say("ended", 1, 76, -9, None, "")
        assert [asked[0] for asked in await stage.asked()] == [2]
        stage.say("ended", 2, 77, 0, None, "")
        assert (await stage.found.get())[0] == "again"
        assert stage.programs.running == 0
        await stage.close()

    play(story())


def test_a_forker_that_ends_takes_nothing_with_it_and_another_is_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    killed: list[int] = []
    monkeypatch.setattr(programs, "kill_group", killed.append)
    monkeypatch.setattr(programs, "_AGAIN", 1000.0)

    async def story() -> None:
        stage = Stage()
        stage.start(run_of("a"), run_of("b"))
        stage.say("ready")
        stage.say("started", 2, 77)
        while stage.programs._runs[2].pid is None:  # noqa: ASYNC110 - it has no other sign
            await asyncio.sleep(0)
        stage.line.close()
        stage.ended.set_result(-9)
        for owner in ("a", "b"):
            who, finding = await stage.found.get()
            assert (who, finding.outcome, finding.fault) == (owner, Outcome.UNKNOWN, Fault.FORK)
            assert "(anycast-forker) has ended, killed by SIGKILL" in finding.detail
        assert killed == [77]
        stage.start(run_of("c"))
        assert (await stage.found.get())[1].outcome is Outcome.UNKNOWN  # not at once
        stage.programs._not_before = 0.0
        stage.start(run_of("d"))
        assert stage.launched == 2
        await stage.close()

    play(story())


def test_a_program_that_is_being_killed_makes_no_other_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "KILL_GRACE", 1000.0)

    async def story() -> None:
        stage = Stage()
        first, second = run_of("a", timeout=0.01), run_of("b", timeout=30.0)
        stage.start(first, second)
        stage.say("ready")
        stage.say("started", 1, os.getpid())
        assert len(await stage.asked()) == 2
        assert await stage.asked() == [[1]]
        assert stage.programs._alarm.at <= second.deadline
        stage.say("ended", 1, os.getpid(), -9, None, "")
        await stage.found.get()
        await stage.close()

    play(story())


def test_where_no_forker_can_be_started_that_is_tried_once_and_not_for_each_check() -> None:
    async def story() -> None:
        tries: list[None] = []
        found: list[Finding] = []

        def launch() -> tuple[socket.socket, asyncio.Future[int | None]]:
            tries.append(None)
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

        played: Programs[str] = Programs(lambda _, finding, __: found.append(finding), launch)
        for owner in "abc":
            played.start(run_of(owner))
        assert len(tries) == 1
        assert [one.outcome for one in found] == [Outcome.UNKNOWN] * 3
        assert found[2].detail == found[0].detail
        played._not_before = 0.0
        played.start(run_of("d"))
        assert len(tries) == 2
        await played.close()

    play(story())


def test_the_runs_of_a_forker_that_says_no_more_end_with_the_start_of_another() -> None:
    async def story() -> None:
        stage = Stage()
        stage.start(one := run_of("a"))
        stage.say("ready")
        await stage.asked()
        stage.line.close()
        while stage.programs._line is not None:  # noqa: ASYNC110 - it has no other sign
            await asyncio.sleep(0)
        old = stage.ended  # it is still about to end
        stage.programs._not_before = 0.0
        stage.start(run_of("b"))
        assert stage.launched == 2
        who, finding = await stage.found.get()
        assert (who, finding.outcome, finding.fault) == ("a", Outcome.UNKNOWN, Fault.FORK)
        stage.start(one)
        assert [asked[0] for asked in await stage.asked()] == [2, 3]
        old.set_result(0)
        await asyncio.sleep(0)
        assert stage.programs.running == 2
        await stage.close()

    play(story())


def test_where_the_forker_says_nothing_of_an_earlier_run_the_server_is_not_at_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(programs, "KILL_GRACE", 0.01)

    async def story() -> None:
        stage = Stage()
        one = run_of("a")
        stage.start(one)
        stage.say("ready")
        await stage.asked()
        stage.programs.cancel(one)
        stage.start(one)
        _, finding = await stage.found.get()
        assert (finding.outcome, finding.fault) == (Outcome.UNKNOWN, Fault.STALLED)
        await stage.close()

    play(story())


_LONG_RUNNING = """
import asyncio, os, sys
from tests.unit.probes.peers import target
from anycast.core.values.configuration import CommandCheck
from anycast.probes.run import probe
script = f"exec 3>{sys.argv[1]}; echo $$ $PPID >&3; sleep 1000 & wait"
asyncio.run(probe(target(CommandCheck(argv=("/bin/sh", "-c", script)), timeout=1000.0)))
"""


def test_the_forker_and_its_programs_end_with_the_agent_however_it_ends(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with subprocess.Popen([sys.executable, "-c", _LONG_RUNNING, str(fifo)]) as agent:
        with fifo.open() as witness:
            _, forker = map(int, witness.readline().split())
            pidfd = os.pidfd_open(forker)
            agent.send_signal(signal.SIGKILL)
            assert witness.read() == ""  # the program has ended, and its child
        poll = select.poll()
        poll.register(pidfd)
        assert poll.poll(30_000)
        os.close(pidfd)
