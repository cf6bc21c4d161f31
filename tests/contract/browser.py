"""A headless Chromium, told what to do over its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import shutil
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import IO, Any

from aiohttp import ClientSession, ClientWebSocketResponse

PROGRAM = shutil.which("chromium") or shutil.which("google-chrome")
PATIENCE = 60.0  # seconds


class Tab:
    """One page. `complaints`: what the page wrote on its console or threw, and what its policy refused."""

    def __init__(self, line: ClientWebSocketResponse) -> None:
        self._line = line
        self._number = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._loaded = asyncio.Event()
        self.complaints: list[str] = []
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self._line:
            body = message.json()
            if "id" in body:
                self._answers.pop(body["id"]).set_result(body)
            elif body["method"] == "Page.loadEventFired":
                self._loaded.set()
            elif body["method"] == "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(body["params"]["exceptionDetails"]))
            elif body["method"] == "Runtime.consoleAPICalled":
                self.complaints.append(json.dumps(body["params"]["args"]))
            elif body["method"] == "Log.entryAdded":
                self.complaints.append(body["params"]["entry"]["text"])

    async def do(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        answer = self._answers[self._number] = asyncio.get_running_loop().create_future()
        await self._line.send_json({"id": self._number, "method": method, "params": params})
        async with asyncio.timeout(PATIENCE):
            body = await answer
        if "error" in body:
            raise RuntimeError(f"{method}: {body['error']}")
        result: dict[str, Any] = body["result"]
        return result

    async def value(self, expression: str) -> Any:
        """What it is in the page; of a promise what it comes to."""
        told = await self.do("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in told:
            raise RuntimeError(f"{expression}: {told['exceptionDetails']}")
        return told["result"].get("value")

    async def until(self, expression: str) -> None:
        """Until it is true; what changes the page wakes it."""
        watch = (
            "new Promise((done) => { const look = () => (EXPRESSION) && (watcher.disconnect(), done(true));"
            " const watcher = new MutationObserver(look);"
            " watcher.observe(document, {subtree: true, childList: true, attributes: true, characterData: true});"
            " look(); })"
        )
        await self.value(watch.replace("EXPRESSION", expression))

    async def open(self, address: str) -> None:
        self.expect()
        await self.do("Page.navigate", url=address)
        await self.loaded()

    def expect(self) -> None:
        """Another page will be there."""
        self._loaded.clear()

    async def loaded(self) -> None:
        """Until it is."""
        async with asyncio.timeout(PATIENCE):
            await self._loaded.wait()

    async def screen(self, width: int, height: int, *, dark: bool = False) -> None:
        await self.do(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.do("Emulation.setEmulatedMedia", features=[scheme])

    async def picture(self, path: Path) -> None:
        told = await self.do("Page.captureScreenshot", captureBeyondViewport=False)
        path.write_bytes(base64.b64decode(told["data"]))  # noqa: ASYNC240 - a test may wait for a disk

    async def close(self) -> None:
        self._reader.cancel()
        await self._line.close()


@contextlib.contextmanager
def chromium(profile: Path) -> Iterator[str]:
    """A browser of its own; where its tabs are to be had."""
    assert PROGRAM is not None
    with subprocess.Popen(
        [
            PROGRAM,
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
            *("--no-first-run", "--disable-background-networking", "--disable-extensions", "--disable-sync"),
            *(f"--user-data-dir={profile}", "--remote-debugging-port=0"),
            "about:blank",
        ],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    ) as process:
        assert process.stderr is not None
        # Whatever it says later is read too: a full pipe would hold it up.
        said = threading.Thread(target=process.stderr.read)
        try:
            host = _listening(process.stderr)
            said.start()
            yield host
        finally:
            process.terminate()
            if said.is_alive():
                said.join()


def _listening(said: IO[bytes]) -> str:
    for line in said:
        if b"DevTools listening on ws://" in line:
            return line.decode().split("ws://", 1)[1].split("/", 1)[0]
    raise RuntimeError("the browser has ended")


@contextlib.asynccontextmanager
async def new_tab(browser: str, *, script: bool = True) -> AsyncIterator[Tab]:
    """`script` False: pages have no JavaScript."""
    async with ClientSession(f"http://{browser}") as session:
        async with session.put("/json/new?about:blank") as response:
            page = await response.json(content_type=None)
        async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0) as line:
            tab = Tab(line)
            for domain in ("Page", "Runtime", "Log"):
                await tab.do(f"{domain}.enable")
            await tab.do("Page.bringToFront")
            if not script:
                await tab.do("Emulation.setScriptExecutionDisabled", value=True)
            yield tab
            await tab.close()
        async with session.get(f"/json/close/{page['id']}"):
            pass
