"""The ops process, as the agent keeps it: started, fed, and started again when it ends or hangs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import structlog

from anycast import oom
from anycast.agent.feed import Feed, StuckError
from anycast.agent.fleet_process import environment
from anycast.process import how_it_ended, watch

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 30.0  # seconds until the next one is started
STEADY = 60.0  # seconds after which one counts as having come up

log = structlog.get_logger()


async def keep(
    feed: Feed, runtime: Path, listen: str, variables: Callable[[], Iterable[str]] = tuple
) -> None:
    """`variables`: of the environment, that it needs. One ops process after the other, for ever. Cancelled, it ends the one there is."""
    loop, pause = asyncio.get_running_loop(), FIRST_PAUSE
    while True:
        began = loop.time()
        try:
            why = await _one(feed, runtime, listen, variables())
        except Exception:
            log.exception("agent.task_failed")
            why = "a defect of the agent"
        if loop.time() - began > STEADY:
            pause = FIRST_PAUSE
        log.error("ops.ended", why=why, again_in_s=pause)
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


async def _one(feed: Feed, runtime: Path, listen: str, variables: Iterable[str]) -> str:
    """Run one until it ends, or is ended. Returns why."""
    ours, theirs = socket.socketpair()
    kills = oom.kills()
    with ours:
        try:
            with theirs:
                process = _start(theirs, runtime, listen, variables)
            exited = watch(process)
        except OSError as error:
            return f"it cannot be started: {error.strerror or error}"
        log.info("ops.started", pid=process.pid)
        feeding = asyncio.create_task(feed.run(ours))
        try:
            ending: set[asyncio.Future[Any]] = {feeding, exited}
            await asyncio.wait(ending, return_when=asyncio.FIRST_COMPLETED)
            if feeding.done():
                with contextlib.suppress(OSError):  # it has gone
                    feeding.result()
        except StuckError as error:
            return f"{error}: killed"
        finally:
            feeding.cancel()
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            status = await exited
    return "its exit status was lost" if status is None else how_it_ended(status, kills)


def _start(
    line: socket.socket, runtime: Path, listen: str, variables: Iterable[str]
) -> subprocess.Popen[bytes]:
    """Raises OSError."""
    # -P and the path: the very code that runs here, whatever lies in the working directory.
    argv = [sys.executable, "-P", "-m", "anycast.ops", f"--feed={line.fileno()}", f"--agent={os.getpid()}"]
    return subprocess.Popen(
        [*argv, f"--listen={listen}", f"--runtime-dir={runtime}"],
        stdin=subprocess.DEVNULL,
        pass_fds=(line.fileno(),),
        env=environment(variables),
        start_new_session=True,
    )
