"""One run of a check by itself, with its progress."""

from __future__ import annotations

import asyncio

from anycast.core.health.phase import Result
from anycast.core.values.configuration import Target
from anycast.probes.finding import Finding, Progress
from anycast.probes.sweep.runs import Run, run_of
from anycast.probes.sweep.sweep import Sweep
from anycast.probes.verdict import judge


async def once(target: Target, progress: Progress) -> Result:
    """May be cancelled any time."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Result] = loop.create_future()
    started = loop.time()

    def finished(_: Run[None], finding: Finding, __: float) -> None:
        # The sweep's own time is that of its last look: before the last steps.
        if not done.done():
            done.set_result(finding.result(loop.time() - started))

    try:
        sweep = Sweep(finished)
    except OSError as error:
        return judge(error).result(0.0)
    try:
        sweep.start(run_of(target, None, progress))
        sweep.settle(1)
        return await done
    finally:
        sweep.close()
