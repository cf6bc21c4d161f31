"""The page in a real browser: without JavaScript, and live with it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from anycast.core import events as ev
from anycast.ops.main import surface
from tests.contract.browser import PROGRAM, chromium
from tests.unit.ops import scenes
from tests.unit.ops.node import Node

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="chromium is not installed (lab/install browser)")

PHONE = 390


@contextlib.asynccontextmanager
async def served(node: Node, port: int = 0) -> AsyncIterator[str]:
    """The production wiring; its address."""
    node.last_step = time.monotonic() + 3600  # nobody steps it
    async with surface(node) as (_, tcp):
        listener = socket.create_server(("127.0.0.1", port))
        await tcp.listen(listener)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"


def test_without_javascript_everything_is_there(tmp_path: Path) -> None:
    async def run() -> None:
        async with served(scenes.failing()) as address, chromium(tmp_path, script=False) as tab:
            await tab.screen(PHONE, 800)
            await tab.open(address)
            tree = await tab.do("Accessibility.getFullAXTree")
            names = [one.get("name", {}).get("value", "") for one in tree["nodes"]]
            title = (await tab.do("Page.getNavigationHistory"))["entries"][-1]["title"]
            size = (await tab.do("Page.getLayoutMetrics"))["cssContentSize"]
            told = tab.complaints
        assert title == "✕ lb1 trouble: 2 of 3 VIPs announced"
        for words in ("resolver", "not announced", "BGP neighbors", "Recent events"):
            assert any(words in name for name in names), words
        assert any("without JavaScript it reloads" in name for name in names)
        assert any(name.startswith("30 checks, ") for name in names)
        assert (size["width"], told) == (PHONE, [])

    asyncio.run(run())


def test_an_event_changes_the_page_at_once_and_what_is_open_stays_so(tmp_path: Path) -> None:
    async def run() -> None:
        node = scenes.healthy()
        async with served(node) as address, chromium(tmp_path) as tab:
            await tab.screen(1100, 900)
            await tab.open(address)
            await tab.until("document.querySelector('#live').textContent.startsWith('Live')")
            # The reader folds a service, and marks the page to see that it is not loaded anew.
            await tab.value("document.querySelector('[id=\"v0-tcp/80\"]').open = false; window.mine = true")
            began = time.monotonic()
            gone = [f"10.9.3.{n}" for n in (1, 2, 3)]
            node.probe(*gone)
            node.probe(*gone)
            node.report()
            await tab.until("document.title === '✕ lb1 trouble: 2 of 3 VIPs announced'")
            took = time.monotonic() - began
            assert await tab.value("document.querySelector('article h3').textContent") == "resolver"
            assert await tab.value("document.querySelector('[id=\"v0-tcp/80\"]').open") is False
            assert await tab.value("window.mine") is True
            node.send(ev.PluginLost(source=1))
            await tab.until("document.querySelector('.alerts') !== null")
            assert "no plugin is connected" in await tab.value(
                "document.querySelector('.alerts').textContent"
            )
            assert tab.complaints == []
            print(f"an event is on the page after {took:.2f} s")

    asyncio.run(run())


def test_it_says_that_it_has_lost_the_agent_and_finds_it_again(tmp_path: Path) -> None:
    async def run() -> None:
        node = scenes.healthy()
        async with chromium(tmp_path) as tab:
            async with served(node) as address:
                await tab.open(address)
                await tab.until("document.querySelector('#live').textContent.startsWith('Live')")
            await tab.until("document.title.startsWith('LOST ✓ lb1')")
            said = await tab.value("document.querySelector('#live').textContent")
            assert said.startswith(
                "Lost the agent: it cannot be reached. What is shown is old; trying again, "
            )
            assert said.endswith(" s old")
            async with served(node, int(address.rstrip("/").rsplit(":", 1)[1])):
                await tab.until("document.title.startsWith('✓ lb1')")
                # And hears of events again.
                node.send(ev.PluginLost(source=1))
                await tab.until("document.title.startsWith('✕ lb1')")

    asyncio.run(run())


@pytest.mark.parametrize("scene", scenes.SCENES)
def test_nothing_is_complained_of_and_nothing_scrolls_sideways_on_a_phone(scene: str, tmp_path: Path) -> None:
    async def run() -> None:
        async with served(scenes.SCENES[scene]()) as address, chromium(tmp_path) as tab:
            await tab.screen(PHONE, 800)
            await tab.open(address)
            await tab.until("document.querySelector('#live').textContent.startsWith('Live')")
            await tab.value("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
            assert await tab.value("document.documentElement.scrollWidth") == PHONE
            assert await tab.value("document.querySelectorAll('main script, main img').length") == 0
            # As the agent would serve it again: replaced by itself, nothing is different.
            before = await tab.value("document.querySelectorAll('main *').length")
            await tab.value("refresh()")
            assert abs(await tab.value("document.querySelectorAll('main *').length") - before) <= 0
            assert tab.complaints == []

    asyncio.run(run())
