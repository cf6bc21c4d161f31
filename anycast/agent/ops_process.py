"""The ops process, as the agent keeps it: started, fed, and started again when it ends or hangs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

import structlog

from anycast.agent.feed import Feed
from anycast.agent.lesser_process import Pause, Program, run

FIRST_PAUSE = 0.2  # seconds until the next one is started

log = structlog.get_logger()


async def keep(
    feed: Feed, runtime: Path, listen: str, variables: Callable[[], Iterable[str]] = tuple
) -> None:
    """`variables`: of the environment, that it needs. One ops process after the other, for ever. Cancelled, it ends the one there is."""
    loop, pause = asyncio.get_running_loop(), Pause(FIRST_PAUSE)
    while True:
        began = loop.time()
        program = Program(
            module="anycast.ops",
            line="feed",
            started="ops.started",
            options=(f"--listen={listen}", f"--runtime-dir={runtime}"),
            variables=tuple(variables()),
        )
        try:
            why = await run(program, feed.run)
        except Exception:
            log.exception("agent.task_failed")
            why = "a defect of the agent"
        again = pause.after(loop.time() - began)
        log.error("ops.ended", why=why, again_in_s=again)
        await asyncio.sleep(again)
