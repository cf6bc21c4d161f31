"""One run of a check: the kind decides how, the timeout bounds the whole. No counting, no logging."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from importlib import import_module

from anycast.core.health.phase import Fault, Result
from anycast.core.values.checks import Kind
from anycast.core.values.configuration import HERE, Target
from anycast.probes import links, programs
from anycast.probes.finding import Finding, Progress, fail, late, unusable
from anycast.probes.sweep.once import once
from anycast.probes.sweep.runs import sweepable
from anycast.probes.verdict import judged

__all__ = ["probe"]

_LATE = 1.0  # seconds past the timeout: this process, not the target, was too slow


async def probe(target: Target, progress: Progress | None = None) -> Result:
    """Run `target.check` once. `progress`: for somebody who looks on.

    Never raises; may be cancelled any time.
    """
    if sweepable(target):
        return await once(target, progress or Progress())
    if programs.is_program(target):
        return await programs.once(target, progress or Progress())
    loop = asyncio.get_running_loop()
    timeout = target.check.timeout
    progress = progress or Progress()
    started = loop.time()
    try:
        async with asyncio.timeout(timeout):
            try:
                finding = await _dispatch(target, progress)
            except Exception as error:  # noqa: BLE001 - in here: the kernel's ETIMEDOUT is a TimeoutError too
                finding = judged(error, target, heard=progress.heard)
    except TimeoutError:
        if progress.ours:
            finding = unusable(f"no {progress.missing} within {timeout} s", Fault.STALLED)
        else:
            finding = fail(f"no {progress.missing} within {timeout} s{progress.advice}")
    took = loop.time() - started
    # A stopped or starved agent finds every timer expired at once, answers waiting or not; and an answer that has
    # lain there says nothing of now.
    if took - timeout > _LATE:
        finding = late(took - timeout)
    elif target.address != HERE:
        finding = links.excused(finding, target)
    return finding.result(took)


async def _dispatch(target: Target, progress: Progress) -> Finding:
    kind = target.check.kind
    port = getattr(kind, "port", None) or target.port
    address = target.address
    if target.check.to_vip:
        progress.to_vip = target
        address = target.vip or address
    return await check_of(type(kind))(kind, address, port, progress)


def check_of(kind: type[Kind]) -> Callable[..., Awaitable[Finding]]:
    """What runs it: `check(kind, address, port, progress)` of its module, or the function that the kind names.

    The module is imported with the first target of the kind: later there may be no descriptor left for it.
    """
    module, _, function = (kind.PROBE or kind.TYPE).partition(".")
    return getattr(import_module(f"anycast.probes.{module}"), function or "check")  # type: ignore[no-any-return]
