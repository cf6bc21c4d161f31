"""The surface is as its own OpenAPI document says: schemathesis asks it whatever it can think of."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from anycast.agent.control import Control
from anycast.ops.main import surface
from tests.unit.ops.node import Operator, healthy

EXAMPLES = 30  # for each operation


@contextlib.contextmanager
def served(*, control: bool) -> Iterator[str]:
    """The production wiring in a thread of its own; its address."""
    ready: list[str] = []
    started, loop = threading.Event(), asyncio.new_event_loop()
    ended = asyncio.Event()

    async def serve() -> None:
        node = healthy(now=time.monotonic())
        node.last_step = time.monotonic() + 3600  # nobody steps it
        listener = socket.create_server(("127.0.0.1", 0))
        ready.append(f"http://127.0.0.1:{listener.getsockname()[1]}")
        if control:
            commands = Control(Operator(node), lambda: 1)
            await commands.listen(listener)
            started.set()
            await ended.wait()
            await commands.close()
        else:
            async with surface(node) as (_, tcp):
                await tcp.listen(listener)
                started.set()
                await ended.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert started.wait(30)
        yield ready[0]
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()


@pytest.mark.skipif(find_spec("schemathesis") is None, reason="schemathesis is not installed")
@pytest.mark.parametrize("control", [False, True], ids=["for anybody", "on the unix socket"])
def test_whatever_is_asked_is_answered_as_the_document_says(tmp_path: Path, *, control: bool) -> None:
    # 503 is an answer here; a 500 is in no document, and found by that. What is printable, a schema cannot say.
    without = "not_a_server_error" + (",positive_data_acceptance" if control else "")
    with served(control=control) as address:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run", f"{address}/openapi.json"),
                *("--checks", "all", "--exclude-checks", without),
                *("--phases", "examples,coverage,fuzzing"),
                *("--max-examples", str(EXAMPLES), "--no-shrink"),
                *(("--seed", "1", "--generation-deterministic") if os.environ.get("CI") else ()),
                # By default the events are a stream, which has no end.
                *("--header", "Accept: application/json"),
                *("--request-timeout", "10", "--no-color"),
            ],
            check=False,
            capture_output=True,
            text=True,
            cwd=tmp_path,  # it leaves what it found for the next time
        )
    assert done.returncode == 0, done.stdout + done.stderr
