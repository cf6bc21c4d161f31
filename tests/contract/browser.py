"""A headless Chromium, told what to do over its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

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


@contextlib.asynccontextmanager
async def chromium(profile: Path, *, script: bool = True) -> AsyncIterator[Tab]:
    """A tab of a browser of its own. `script` False: pages have no JavaScript."""
    assert PROGRAM is not None
    process = await asyncio.create_subprocess_exec(
        PROGRAM,
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
        *("--no-first-run", "--disable-background-networking", "--disable-extensions", "--disable-sync"),
        *(f"--user-data-dir={profile}", "--remote-debugging-port=0"),
        *(() if script else ("--blink-settings=scriptEnabled=false",)),
        "about:blank",
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(PATIENCE):
            host = await _listening(process)
        async with ClientSession() as session:
            async with session.get(f"http://{host}/json/list") as response:
                pages = [one for one in await response.json() if one["type"] == "page"]
            async with session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0) as line:
                tab = Tab(line)
                for domain in ("Page", "Runtime", "Log"):
                    await tab.do(f"{domain}.enable")
                yield tab
                await tab.close()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.communicate()


async def _listening(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    while line := (await process.stderr.readline()).decode(errors="replace"):
        if "DevTools listening on ws://" in line:
            return line.split("ws://", 1)[1].split("/", 1)[0]
    raise RuntimeError("the browser has ended")
