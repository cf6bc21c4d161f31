"""One run of a check by itself, for somebody who looks on."""

from __future__ import annotations

import asyncio

from anycast.core.health.phase import Result
from anycast.core.values.configuration import Target
from anycast.probes.finding import Finding, Progress, judge
from anycast.probes.sweep.runs import Run, run_of
from anycast.probes.sweep.sweep import Sweep


async def once(target: Target, progress: Progress) -> Result:
    """May be cancelled any time."""
    done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

    def finished(_: Run[None], finding: Finding, took: float) -> None:
        if not done.done():
            done.set_result(finding.result(took))

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
