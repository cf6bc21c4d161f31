"""The page in a real browser: without JavaScript, and live with it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from anycast.core import events as ev
from anycast.core.dataplane.ipvs import Connections
from anycast.ops.main import surface
from tests.contract.browser import PROGRAM, chromium, new_tab
from tests.property.worlds import busied
from tests.unit.ops import flows, scenes
from tests.unit.ops.node import Node

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="chromium is not installed (lab/install browser)")

PHONE = 390
SIZE = "document.querySelectorAll('main *').length"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with chromium(tmp_path_factory.mktemp("browser")) as one:
        yield one


@contextlib.asynccontextmanager
async def served(node: Node, port: int = 0) -> AsyncIterator[str]:
    """The production wiring; its address."""
    node.last_step = time.monotonic() + 3600  # nobody steps it
    async with surface(node) as (_, tcp):
        listener = socket.create_server(("127.0.0.1", port))
        await tcp.listen(listener)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"


def test_without_javascript_everything_is_there(browser: str) -> None:
    async def run() -> None:
        async with served(scenes.failing()) as address, new_tab(browser, script=False) as tab:
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


def test_an_event_changes_the_page_at_once_and_what_is_open_stays_so(browser: str) -> None:
    async def run() -> None:
        node = scenes.healthy()
        async with served(node) as address, new_tab(browser) as tab:
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


def test_it_says_that_it_has_lost_the_agent_and_finds_it_again(browser: str) -> None:
    async def run() -> None:
        node = scenes.healthy()
        async with new_tab(browser) as tab:
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
def test_nothing_is_complained_of_and_nothing_scrolls_sideways_on_a_phone(scene: str, browser: str) -> None:
    async def run() -> None:
        async with served(scenes.SCENES[scene]()) as address, new_tab(browser) as tab:
            await tab.screen(PHONE, 800)
            await tab.open(address)
            await tab.until("document.querySelector('#live').textContent.startsWith('Live')")
            await tab.value("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
            assert await tab.value("document.documentElement.scrollWidth") == PHONE
            assert await tab.value("document.querySelectorAll('main script, main img').length") == 0
            # As the agent would serve it again: replaced by itself, nothing is different. What time has changed in
            # between, another node that is gone by now, it has changed once.
            sizes = [await tab.value(f"refresh().then(() => {SIZE})") for _ in range(4)]
            assert any(one == other for one, other in itertools.pairwise(sizes)), sizes
            assert tab.complaints == []

    asyncio.run(run())


FOUND = "[...document.querySelectorAll('article h3')].map((one) => one.textContent).join(' ')"


def test_what_is_looked_for_is_found_as_it_is_typed_and_stays_in_the_address_and_while_things_happen(
    browser: str,
) -> None:
    async def run() -> None:
        node = scenes.large(600, pool=2)
        async with served(node) as address, new_tab(browser) as tab:
            await tab.screen(1100, 900)
            await tab.open(address)
            await tab.until("document.querySelector('#live').textContent.startsWith('Live')")
            assert await tab.value("document.querySelectorAll('article').length") == 100
            # By the keyboard alone: the label is of the field, and the field is reached by Tab.
            await tab.value("document.querySelector('label[for=q]').control.focus(); window.mine = true")
            for letter in "server:10.16.2.1 v264":
                await tab.do("Input.insertText", text=letter)
            await tab.until(f"{FOUND} === 'v264'")
            assert await tab.value("location.search") == "?q=server%3A10.16.2.1+v264"
            assert await tab.value("document.activeElement.id") == "q"
            # What happens meanwhile neither takes the field from the reader nor what is found.
            node.probe("10.16.2.17")
            node.probe("10.16.2.17")
            node.report()
            await tab.until("document.querySelector('article .warn.badge') !== null")
            await tab.do("Input.insertText", text="x")
            await tab.until("document.querySelector('#told').textContent.startsWith('No VIP')")
            assert await tab.value("document.querySelector('#q').value") == "server:10.16.2.1 v264x"
            assert await tab.value("window.mine") is True
            # The address leads somebody else to the same.
            await tab.open(f"{address}?q=state:wrong")
            assert await tab.value(FOUND) == "v264"
            assert await tab.value("document.querySelector('#q').value") == "state:wrong"
            await tab.open(f"{address}?page=3")
            await tab.value("window.scrollTo(0, 2000)")
            await tab.value("refresh()")
            await tab.until("document.querySelector('#live').textContent.startsWith('Live')")
            assert await tab.value("window.scrollY") == 2000
            assert "page 3 of 3" in await tab.value("document.querySelector('nav').textContent")
            assert tab.complaints == []

    asyncio.run(run())


def test_without_javascript_the_field_asks_and_the_links_lead_on(browser: str) -> None:
    async def run() -> None:
        async with served(scenes.large(600, pool=2)) as address, new_tab(browser, script=False) as tab:
            await tab.open(address)
            document = await tab.do("DOM.getDocument")
            root = document["root"]["nodeId"]

            async def node(selector: str) -> int:
                found: int = (await tab.do("DOM.querySelector", nodeId=root, selector=selector))["nodeId"]
                return found

            await tab.do("DOM.focus", nodeId=await node("#q"))
            await tab.do("Input.insertText", text="v129")
            tab.expect()
            for kind in ("rawKeyDown", "char", "keyUp"):
                await tab.do(
                    "Input.dispatchKeyEvent",
                    type=kind,
                    key="Enter",
                    code="Enter",
                    text="\r",
                    windowsVirtualKeyCode=13,
                )
            await tab.loaded()
            history = await tab.do("Page.getNavigationHistory")
            assert history["entries"][-1]["url"] == f"{address}?q=v129"
            tree = await tab.do("Accessibility.getFullAXTree")
            names = [one.get("name", {}).get("value", "") for one in tree["nodes"]]
            assert "Find VIPs" in names
            assert "v129" in names
            assert "v128" not in names

    asyncio.run(run())


SPILLED = """
[...document.querySelectorAll('.servers td, .servers th, .tiles dd, .figures > span')].filter((one) => {
  const range = document.createRange(), box = one.getBoundingClientRect();
  range.selectNodeContents(one);
  return [...range.getClientRects()].some((rect) => rect.width > 1 && (rect.right > box.right + 1 || rect.left < box.left - 1));
}).map((one) => one.textContent).slice(0, 5)
"""


@pytest.mark.parametrize("width", [PHONE, 660, 768, 1400])
def test_no_figure_runs_into_another_whatever_the_screen(width: int, browser: str) -> None:
    async def run() -> None:
        node = scenes.running(load=flows.steady(54_321.0))
        node.kernel = busied(node.kernel, lambda _, __: Connections(123_456, 654_321))
        node.now -= 1
        node.send(ev.Tick(), after=6.0)
        async with served(node) as address, new_tab(browser) as tab:
            await tab.screen(width, 900)
            await tab.open(address)
            assert "654321 inactive" in await tab.value("document.querySelector('.servers').textContent")
            assert await tab.value(SPILLED) == []
            assert await tab.value("document.documentElement.scrollWidth") == width

    asyncio.run(run())


def test_vips_are_sorted_by_a_click_and_a_search_keeps_the_order(browser: str) -> None:
    async def run() -> None:
        node = scenes.large(40, pool=2, load=lambda _, one, __: float(int(one.address) % 256))
        async with served(node) as address, new_tab(browser) as tab:
            await tab.open(address)
            tab.expect()
            await tab.value("document.querySelector('a[href*=connections]').click()")
            await tab.loaded()
            assert (await tab.value(FOUND)).startswith("v19 v18 v17")
            await tab.value("document.querySelector('#q').focus()")
            await tab.do("Input.insertText", text="v1")
            await tab.until(f"{FOUND} === 'v19 v18 v17 v16 v15 v14 v13 v12 v11 v10 v1'")
            assert await tab.value("location.search") == "?q=v1&sort=connections"
            assert tab.complaints == []

    asyncio.run(run())
