"""The process that hears the other nodes, as the agent keeps it: whatever it says or does, the agent goes on."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
import structlog

from anycast.agent import fleet_process, lesser_process
from anycast.agent.fleet_process import FleetProcess, secrets_of
from anycast.agent.lesser_process import STEADY, Pause, Program, environment
from anycast.core.events import FleetHeard
from anycast.core.hooks import Secret
from anycast.core.values.configuration import Config
from anycast.core.values.fleet import Etcd, Fleet, FleetView, PeerAt, Velocity
from anycast.fleet.frames import LENGTH
from tests.fakes import vip
from tests.property.worlds import config

FLEET = Fleet(peers=(PeerAt(name="lb2", host="127.0.0.1", port=1),), interval=0.5)


class Agent:
    """As far as the process is concerned."""

    def __init__(self, fleet: Fleet | None) -> None:
        self.config: Config = replace(config(vip()), fleet=fleet)
        self.heard: list[FleetHeard] = []
        self.process = FleetProcess(lambda: self.config, self.heard.append)

    def reload(self, fleet: Fleet | None) -> None:
        self.config = replace(self.config, fleet=fleet)
        self.process.stepped()

    def problems(self) -> list[str]:
        return [one.problem for one in self.heard if one.problem]


def play(story: Callable[[], Awaitable[None]]) -> list[structlog.typing.EventDict]:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await story()

    with structlog.testing.capture_logs() as logs:
        asyncio.run(limited())
    return [dict(one) for one in logs]


async def until(look: Callable[[], object]) -> None:
    while not look():  # noqa: ASYNC110 - of processes nothing tells it
        await asyncio.sleep(0.02)


async def ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})


def says(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    """Another program in its place, which says that and then waits."""

    def start(_: Program, line: socket.socket) -> subprocess.Popen[bytes]:
        program = f"import os, time; os.write({line.fileno()}, {data!r}); time.sleep(60)"
        return subprocess.Popen(
            [sys.executable, "-c", program], pass_fds=(line.fileno(),), start_new_session=True
        )

    monkeypatch.setattr(lesser_process, "_start", start)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (struct.pack("!I", 1 << 30), "a frame of 1073741824 bytes"),
        (LENGTH.pack(4) + b"[[1]", "a frame that cannot be understood"),
        (LENGTH.pack(5) + b"\xff\xff\xff\xff\xff", "a frame that cannot be understood"),
    ],
)
def test_one_that_says_what_it_must_not_is_killed(
    monkeypatch: pytest.MonkeyPatch, data: bytes, why: str
) -> None:
    says(monkeypatch, data)
    agent = Agent(FLEET)

    async def story() -> None:
        keeping = asyncio.create_task(agent.process.keep())
        await until(agent.problems)
        await ended(keeping)

    logs = play(story)
    assert why in agent.problems()[0]
    assert "killed" in next(one["why"] for one in logs if one["event"] == "fleet.ended")


def test_one_that_says_nothing_any_more_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_process, "PATIENCE", 0.3)
    says(monkeypatch, LENGTH.pack(13) + b'[["life",{}]]')
    agent = Agent(FLEET)

    async def story() -> None:
        keeping = asyncio.create_task(agent.process.keep())
        await until(agent.problems)
        await ended(keeping)

    play(story)
    assert "it has said nothing for 0.3 s: killed" in agent.problems()[0]


def test_one_that_is_killed_is_started_again_and_the_view_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_process, "FIRST_PAUSE", 0.01)
    agent = Agent(FLEET)

    async def story() -> None:
        with structlog.testing.capture_logs() as logs:

            def started() -> list[int]:
                return [one["pid"] for one in logs if one["event"] == "fleet.started"]

            keeping = asyncio.create_task(agent.process.keep())
            await until(lambda: any("lb2" in one.peers for one in agent.heard))
            os.kill(started()[0], signal.SIGKILL)
            await until(agent.problems)
            await until(lambda: agent.heard[-1].problem == "" or "lb2" in agent.heard[-1].peers)
            assert len(started()) == 2
            await ended(keeping)
            with pytest.raises(ProcessLookupError):
                os.kill(started()[1], 0)

    play(story)
    assert "killed by SIGKILL; another is started" in agent.problems()[0]


def test_with_etcd_it_knows_of_the_limit_for_which_it_asks_for_answers() -> None:
    limited = replace(FLEET, velocity=Velocity(nodes=1))
    assert not fleet_process._asked(limited).limits
    assert fleet_process._asked(replace(limited, view=FleetView.ETCD)).limits


def test_it_runs_only_where_somebody_is_to_be_asked_and_anew_for_others() -> None:
    agent = Agent(None)

    async def story() -> None:
        with structlog.testing.capture_logs() as logs:

            def started() -> int:
                return sum(one["event"] == "fleet.started" for one in logs)

            keeping = asyncio.create_task(agent.process.keep())
            await asyncio.sleep(0)
            agent.reload(replace(FLEET, view=FleetView.NONE))
            await asyncio.sleep(0)
            agent.reload(replace(FLEET, peers=()))
            await asyncio.sleep(0)
            assert not started()
            agent.reload(FLEET)
            await until(lambda: started() == 1)
            agent.reload(replace(FLEET, max_out=2))  # which is none of its business
            await until(lambda: any("lb2" in one.peers for one in agent.heard))
            assert started() == 1
            agent.reload(replace(FLEET, interval=1.0))
            await until(lambda: started() == 2)
            agent.reload(None)
            await ended(keeping)
            assert not [one for one in logs if one["event"] == "fleet.ended"]

    play(story)


def test_of_the_environment_only_what_holds_its_secrets_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "t")
    monkeypatch.setenv("OTHER", "o")
    fleet = replace(FLEET, token=Secret(variable="TOKEN"), etcd=Etcd(password=Secret(variable="WORD")))
    assert secrets_of(fleet) == ["TOKEN", "WORD"]
    assert secrets_of(replace(FLEET, token=Secret(file="/t"))) == secrets_of(None) == []
    found = environment(secrets_of(fleet))
    assert found["TOKEN"] == "t"
    assert "OTHER" not in found


def test_the_pause_doubles_until_one_comes_up() -> None:
    pause = Pause(0.5)
    assert [pause.after(1.0) for _ in range(9)] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert [pause.after(STEADY + 1), pause.after(1.0)] == [0.5, 1]
    pause.forget()
    assert pause.after(1.0) == 0.5
