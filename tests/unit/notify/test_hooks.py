"""From the events to the hooks, with real programs and a real server behind them."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiohttp import web

from anycast.core.hooks import VERDICT, Command, Ending, Hook, Webhook
from anycast.core.state import State
from anycast.notify import runner
from anycast.notify.hooks import Hooks
from anycast.ops.hub import Hub
from tests.unit.ops.node import Node, healthy

PATIENCE = 60.0  # seconds; nothing here waits for so long


class Source:
    """What hooks ask of the agent."""

    def __init__(self, *hooks: Hook, kept: int = 1000) -> None:
        self.node: Node = healthy()
        self.events = Hub(kept=kept)
        self.configure(*hooks)

    def configure(self, *hooks: Hook) -> None:
        self.config = replace(self.node.state.config, hooks=hooks)

    @property
    def state(self) -> State:
        return replace(self.node.state, config=self.config)

    def verdict(self, vip: str, advertise: str, reason: str = "healthy") -> None:
        fields = {"vip": vip, "advertise": advertise, "reason": reason, "detail": ""}
        self.events.publish(VERDICT, "info", fields)


class Told:
    """A command that hands what it is told to a test, through a pipe."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "told"
        os.mkfifo(self.path)
        # Open for both: whoever writes need not wait, and there is no end between two runs.
        self._fd = os.open(self.path, os.O_RDWR)
        self._file = os.fdopen(self._fd, "rb", buffering=0)
        self._rest = b""

    def hook(self, name: str = "told", before: str = "", **settings: Any) -> Hook:
        action = Command(argv=("/bin/sh", "-c", f"{before} cat > {self.path}"))
        return Hook(name=name, action=action, **settings)

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE):
            while b"\n" not in self._rest:
                self._rest += await asyncio.to_thread(os.read, self._fd, 65536)
        line, self._rest = self._rest.split(b"\n", 1)
        found: dict[str, Any] = json.loads(line)
        return found

    async def verdicts(self, number: int) -> list[tuple[str, str, str, int]]:
        """VIP, from, to, suppressed."""
        found = [await self.next() for _ in range(number)]
        return [
            (
                one["vip"],
                one["verdict"]["from"]["advertise"],
                one["verdict"]["to"]["advertise"],
                one["suppressed"],
            )
            for one in found
        ]

    def close(self) -> None:
        # A reader in a thread would wait for ever.
        self._file.close()


@pytest.fixture
def told(tmp_path: Path) -> Any:
    told = Told(tmp_path)
    yield told
    told.close()


@asynccontextmanager
async def following(source: Source, patience: float = PATIENCE) -> AsyncIterator[Hooks]:
    hooks = Hooks(source)
    task = asyncio.create_task(hooks.follow())
    try:
        yield hooks
    finally:
        task.cancel()
        await asyncio.wait({task})
        await hooks.close(patience)


def play(story: Callable[[], Coroutine[Any, Any, None]]) -> list[Any]:
    with structlog.testing.capture_logs() as said:
        asyncio.run(story())
    # That of a hook which was taken out of the configuration ends by itself.
    for thread in [one for one in threading.enumerate() if one.name.startswith("hook")]:
        thread.join(PATIENCE)
        assert not thread.is_alive(), thread.name
    return [one for one in said if one["event"].startswith("hook.") or one["log_level"] == "error"]


async def until(truth: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not truth():  # noqa: ASYNC110 - of another thread
            await asyncio.sleep(0.01)


def test_a_hook_is_told_of_every_verdict_in_its_order(told: Told) -> None:
    async def story() -> None:
        source = Source(told.hook())
        async with following(source) as hooks:
            source.verdict("web", "yes")
            source.verdict("mail", "yes")
            source.events.publish("neighbor.changed", "info", {"state": "up"})
            source.verdict("web", "no", "below_quorum")
            assert await told.verdicts(3) == [
                ("web", "no", "yes", 0),
                ("mail", "no", "yes", 0),
                ("web", "yes", "no", 0),
            ]
            await until(lambda: hooks.tallies["told"].runs[Ending.OK] == 3)

    assert play(story) == []


def test_other_events_are_told_where_they_are_asked_for(told: Told) -> None:
    async def story() -> None:
        source = Source(told.hook(events=frozenset({"neighbor.changed"})))
        async with following(source):
            source.verdict("web", "yes")
            source.events.publish("neighbor.changed", "warning", {"neighbor": "10.2.1.254", "state": "down"})
            one = await told.next()
            assert (one["event"], one["level"], one["vip"]) == ("neighbor.changed", "warning", None)
            assert one["fields"] == {"neighbor": "10.2.1.254", "state": "down"}

    play(story)


def test_beyond_the_limit_the_newest_of_each_vip_is_told_in_the_end(told: Told) -> None:
    async def story() -> None:
        source = Source(told.hook(limit=1, per=1.0))
        async with following(source) as hooks:
            source.verdict("web", "yes")
            assert await told.verdicts(1) == [("web", "no", "yes", 0)]
            for advertise in ("no", "yes", "no"):
                source.verdict("web", advertise)
            source.verdict("mail", "yes")
            assert await told.verdicts(2) == [("web", "yes", "no", 2), ("mail", "no", "yes", 0)]
            assert hooks.tallies["told"].suppressed == 2

    play(story)


def test_a_hook_that_hangs_holds_up_nobody_and_is_said_once_to_fail(told: Told) -> None:
    async def story() -> None:
        hanging = Hook(name="hangs", action=Command(argv=("/bin/sleep", "1000")), timeout=0.2)
        source = Source(hanging, told.hook())
        async with following(source) as hooks:
            for _ in range(2):
                source.verdict("web", "yes")
                source.verdict("web", "no")
            assert len(await told.verdicts(4)) == 4
            await until(lambda: hooks.tallies["hangs"].runs[Ending.TIMEOUT] == 4)
            assert hooks.tallies["hangs"].failing
            assert hooks.tallies["hangs"].dropped == 4

    said = play(story)
    assert [(one["event"], one["hook"], one["why"]) for one in said] == [
        ("hook.failed", "hangs", "no exit within 0.2 s")
    ]


def test_a_hook_that_works_again_is_said_once(told: Told, tmp_path: Path) -> None:
    mark = tmp_path / "works"

    async def story() -> None:
        source = Source(told.hook(before=f"[ -e {mark} ] || exit 1;"))
        async with following(source) as hooks:
            source.verdict("web", "yes")
            source.verdict("web", "no")
            await until(lambda: hooks.tallies["told"].runs[Ending.FAILED] == 2)
            mark.touch()
            source.verdict("web", "yes")
            source.verdict("web", "no")
            assert len(await told.verdicts(2)) == 2

    assert [one["event"] for one in play(story)] == ["hook.failed", "hook.recovered"]


@asynccontextmanager
async def web_server(answer: Callable[[dict[str, Any]], Awaitable[int]]) -> AsyncIterator[int]:
    async def handle(request: web.Request) -> web.Response:
        return web.Response(status=await answer(await request.json()))

    app = web.Application()
    app.router.add_post("/", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def webhook(port: int, **settings: Any) -> Hook:
    host = f"127.0.0.1:{port}"
    action = Webhook(url=f"http://{host}/", host=host, retries=settings.pop("retries", 4))
    return Hook(name="web", action=action, **settings)


def test_a_webhook_is_asked_again_and_in_the_end_has_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_wait", lambda _: 0.01)
    monkeypatch.setattr(runner, "LONGEST_WAIT", 0.01)
    source, refused = Source(), 7
    got: list[tuple[str, str, int]] = []

    async def answer(told: dict[str, Any]) -> int:
        nonlocal refused
        if refused:
            refused -= 1
            if refused == 3:
                source.verdict("web", "no")  # while the first is still untold
            return 503
        got.append(
            (told["verdict"]["from"]["advertise"], told["verdict"]["to"]["advertise"], told["suppressed"])
        )
        return 204

    async def story() -> None:
        nonlocal source
        async with web_server(answer) as port:
            source = Source(webhook(port, retries=1))
            async with following(source) as hooks:
                source.verdict("web", "yes")
                await until(lambda: hooks.tallies["web"].runs[Ending.OK] == 1)
                assert hooks.tallies["web"].runs[Ending.FAILED] == 7
                assert hooks.tallies["web"].dropped == 0

    assert [one["event"] for one in play(story)] == ["hook.failed", "hook.recovered"]
    assert got == [("no", "no", 1)]


def test_a_webhook_that_says_no_is_not_asked_again() -> None:
    asked: list[int] = []

    async def answer(told: dict[str, Any]) -> int:
        asked.append(told["id"])
        return 400

    async def story() -> None:
        async with web_server(answer) as port:
            source = Source(webhook(port))
            async with following(source) as hooks:
                source.verdict("web", "yes")
                source.verdict("web", "no")
                await until(lambda: hooks.tallies["web"].runs[Ending.FAILED] == 2)
                assert hooks.tallies["web"].dropped == 2

    play(story)
    assert asked == [1, 2]


def test_at_the_end_what_waits_is_told_without_regard_to_the_limit(told: Told) -> None:
    async def story() -> None:
        source = Source(told.hook(limit=1, per=3600.0))
        async with following(source):
            for vip in ("web", "mail", "dns"):
                source.verdict(vip, "no", "stopping")
        assert [vip for vip, *_ in await told.verdicts(3)] == ["web", "mail", "dns"]

    assert play(story) == []


def test_at_the_end_a_hook_that_hangs_has_a_bounded_time_and_what_it_was_not_told_is_said() -> None:
    async def story() -> None:
        hanging = Hook(name="hangs", action=Command(argv=("/bin/sleep", "1000")), timeout=300.0)
        source = Source(hanging)
        async with following(source, patience=0.2) as hooks:
            source.verdict("web", "no", "stopping")
            source.verdict("mail", "no", "stopping")
            await until(lambda: hooks.tallies["hangs"].waiting == 1)

    said = play(story)
    assert [(one["event"], one["notices"]) for one in said] == [("hook.unsent", 2)]


def test_a_reload_changes_hooks_and_loses_nothing_that_waits(told: Told) -> None:
    async def story() -> None:
        source = Source(told.hook(limit=1, per=3600.0), told.hook("gone", limit=1, per=3600.0))
        async with following(source) as hooks:
            source.verdict("web", "yes")
            assert len(await told.verdicts(2)) == 2
            source.verdict("web", "no")
            source.verdict("mail", "yes")
            await until(lambda: [tally.waiting for tally in hooks.tallies.values()] == [2, 2])
            source.configure(told.hook(limit=1000, per=1.0), told.hook("new"))
            source.events.publish("config.applied", "info", {"changes": []})
            # Of the changed one and of the one that was removed.
            found = [await told.next() for _ in range(4)]
            assert sorted((one["hook"], one["vip"]) for one in found) == [
                ("gone", "mail"),
                ("gone", "web"),
                ("told", "mail"),
                ("told", "web"),
            ]
            assert list(hooks.tallies) == ["told", "new"]

    play(story)


def test_after_a_flood_of_events_the_verdicts_are_what_they_are_now(told: Told) -> None:
    async def story() -> None:
        source = Source(told.hook(), kept=10)
        async with following(source):
            source.verdict("web", "yes")
            assert await told.verdicts(1) == [("web", "no", "yes", 0)]
            source.verdict("mail", "yes")  # forgotten before anybody reads it
            for number in range(20):
                source.events.publish("server.down", "warning", {"server": str(number)})
            assert await told.verdicts(1) == [("mail", "no", "yes", 0)]
            source.verdict("web", "no")
            assert await told.verdicts(1) == [("web", "yes", "no", 0)]

    play(story)


def test_hooks_are_not_told_of_hooks(told: Told) -> None:
    async def story() -> None:
        source = Source(told.hook())
        async with following(source) as hooks:
            source.events.publish("hook.failed", "warning", {"hook": "told"})
            source.verdict("web", "yes")
            assert len(await told.verdicts(1)) == 1
            assert hooks.tallies["told"].waiting == 0

    play(story)
