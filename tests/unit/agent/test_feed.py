"""The feed: what an ops process is told, and that none of them can hold the agent up or make it grow."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from anycast.agent import feed as feeds
from anycast.agent import ops_process
from anycast.agent.feed import Feed, StuckError
from anycast.core import events as ev
from anycast.core.values.configuration import Config
from anycast.ops.main import follow
from anycast.ops.mirror import Mirror
from tests.unit.ops.node import CONFIG, REFUSED, Node
from tests.unit.ops.scenes import large
from tests.unit.ops.test_documents import shown


class Agent(Node):
    """A node that is told of as an engine is."""

    def __init__(self, config: Config = CONFIG) -> None:
        super().__init__(config)
        self.runs.numbers = dict(enumerate(self.state.index.targets))
        self.probe()
        self.report()


class Line:
    """Both ends: what the agent writes, and a mirror that follows it once it is asked to."""

    def __init__(self, agent: Agent) -> None:
        self.feed = Feed(agent)
        self.mirror = Mirror()
        self._ours, self._theirs = socket.socketpair()
        self.running = asyncio.create_task(self.feed.run(self._ours))
        self._following: asyncio.Task[None] | None = None

    def read(self) -> None:
        self._following = asyncio.create_task(follow(self._theirs, self.mirror, lambda: None))

    async def close(self) -> None:
        tasks = {task for task in (self.running, self._following) if task is not None}
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        self._ours.close()
        self._theirs.close()


@asynccontextmanager
async def line(agent: Agent) -> AsyncIterator[Line]:
    made = Line(agent)
    try:
        yield made
    finally:
        await made.close()


def play(story: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with asyncio.timeout(60):
            await story()

    asyncio.run(whole())


def test_whoever_reads_has_all_of_it_and_then_what_changes() -> None:
    async def story() -> None:
        agent = Agent()
        target = next(iter(agent.state.index.targets))
        async with line(agent) as told:
            told.read()
            assert await told.mirror.reached(told.feed.mark(), 60)
            assert (told.mirror.facts, told.mirror.pid) == (shown(agent.facts), os.getpid())
            agent.runs.add(0, 0.25)
            agent.probe("10.9.2.1")
            agent.force = REFUSED
            assert await told.mirror.reached(told.feed.mark(), 60)
            assert told.mirror.facts == shown(agent.facts)
            assert list(told.mirror.durations(target)) == [0.25]
            assert (told.mirror.facts.force, told.mirror.facts.tallies) == (REFUSED, agent.tallies)
            assert [one.text for one in told.mirror.events.after(0)] == [
                one.text for one in agent.events.after(0)
            ]
            agent.send(ev.Reconfigured(config=replace(CONFIG, vips=CONFIG.vips[:1])))
            assert await told.mirror.reached(told.feed.mark(), 60)
            assert told.mirror.facts == shown(agent.facts)

    play(story)


def test_what_the_ops_process_itself_lacks_stands_in_what_it_shows() -> None:
    async def story() -> None:
        agent = Agent()
        async with line(agent) as told:
            told.mirror.stands("/run/ops.sock", "no such directory")
            told.read()
            assert await told.mirror.reached(told.feed.mark(), 60)
            told.mirror.stands("127.0.0.1:9644", "in use")
            standing = told.mirror.facts.state.standing
            assert [one.about for one in standing.values()] == ["/run/ops.sock", "127.0.0.1:9644"]
            told.mirror.stands("/run/ops.sock", "")
            agent.probe("10.9.2.1")
            assert await told.mirror.reached(told.feed.mark(), 60)
            assert [one.about for one in told.mirror.facts.state.standing.values()] == ["127.0.0.1:9644"]
            told.mirror.stands("127.0.0.1:9644", "")
            assert not told.mirror.facts.state.standing

    play(story)


def test_a_change_of_a_verdict_is_told_without_anybody_asking() -> None:
    async def story() -> None:
        agent = Agent()
        async with line(agent) as told:
            told.read()
            seen = told.feed.mark()
            assert await told.mirror.reached(seen, 60)
            agent.probe("10.9.2.1", "10.9.2.2")
            told.feed.stepped(tuple(agent.log))
            assert await told.mirror.reached(seen + 1, 60)
            assert told.mirror.facts.state.vips == agent.state.vips

    play(story)


def test_who_does_not_read_costs_one_message_however_much_happens() -> None:
    async def story() -> None:
        agent = Agent(large(300).state.config)
        async with line(agent) as told:
            told.feed.mark()
            while told.feed._revision < 1:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0)
            for number in range(100):
                agent.probe(*(["10.9.2.1"] if number % 2 else []))
                told.feed.stepped(tuple(agent.log))
                await asyncio.sleep(feeds.LEAST / 10)
            assert told.feed._revision == 1
            revision = told.feed.mark()
            assert revision == 2
            told.read()
            assert await told.mirror.reached(revision, 60)
            assert told.mirror.facts == shown(agent.facts)

    play(story)


def test_one_that_starts_slowly_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "PATIENCE", 0.0)

    async def story() -> None:
        async with line(Agent()) as told:
            await asyncio.wait({told.running}, timeout=0.1)
            assert not told.running.done()

    play(story)


def test_who_never_reads_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "START", 0.05)

    async def story() -> None:
        async with line(Agent()) as told:
            with pytest.raises(StuckError):
                await told.running

    play(story)


def test_an_ops_process_that_stands_still_is_killed_and_another_is_told_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "PATIENCE", 2.0)
    monkeypatch.setattr(ops_process, "FIRST_PAUSE", 0.01)

    async def story() -> None:
        feed = Feed(Agent())
        with structlog.testing.capture_logs() as logs:

            async def until(event: str) -> structlog.typing.EventDict:
                while not (found := [one for one in logs if one["event"] == event]):
                    feed.mark()
                    await asyncio.sleep(0.05)
                logs.remove(found[0])
                return dict(found[0])

            keeping = asyncio.create_task(ops_process.keep(feed, tmp_path, "127.0.0.1:0"))
            first = await until("ops.started")
            while not (tmp_path / "ops.sock").exists():
                feed.mark()
                await asyncio.sleep(0.05)
            os.kill(first["pid"], signal.SIGSTOP)
            ended = await until("ops.ended")
            assert re.match(r"it has read nothing for 2 s: killed", ended["why"])
            second = await until("ops.started")
            assert second["pid"] != first["pid"]
            keeping.cancel()
            await asyncio.wait({keeping})
            with pytest.raises(ProcessLookupError):
                os.kill(second["pid"], 0)

    play(story)


def test_what_cannot_be_started_is_told_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops_process, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr("sys.executable", str(tmp_path / "nowhere"))

    async def story() -> None:
        with structlog.testing.capture_logs() as logs:
            keeping = asyncio.create_task(ops_process.keep(Feed(Agent()), tmp_path, "127.0.0.1:0"))
            while len(logs) < 2:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
            keeping.cancel()
            await asyncio.wait({keeping})
        assert "cannot be started: No such file or directory" in logs[0]["why"]

    play(story)
