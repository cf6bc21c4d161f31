"""What the event loop complains of, as events of the log: a defect of ours in a check must be loud, and must not flood.

A peer can set one off with every check. So each place in the code is told once in ten minutes, in bounded lines.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections import deque
from collections.abc import Callable
from types import CodeType
from typing import Any

import structlog

from anycast.core.health.phase import Outcome
from anycast.core.values.configuration import Target
from anycast.probes.finding import Finding, one_line

__all__ = ["Defects"]

log = structlog.get_logger()

_AGAIN = 600.0  # seconds until the same place is told of again
_PLACES = 12  # the innermost calls
_KNOWN = 256  # places; more at once are not remembered


class Defects:
    """The exception handler of the agent's event loop. What is not of a check is left to the loop's own."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: dict[str, tuple[float, int]] = {}  # by place: when last, and how often since

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if "finding" not in context or not isinstance(error, BaseException):
            loop.default_exception_handler(context)
            return
        places = _places(error)
        now = self._clock()
        last, unsaid = self._told.get(places[-1], (None, 0))
        if last is not None and now - last < _AGAIN:
            self._told[places[-1]] = (last, unsaid + 1)
            return
        if len(self._told) >= _KNOWN:
            self._told.clear()
        self._told[places[-1]] = (now, 0)
        target, finding = context.get("target"), context["finding"]
        log.error(
            "check.defect",
            **(_of_target(target) if isinstance(target, Target) else {}),
            outcome=str(finding.outcome) if isinstance(finding, Finding) else str(Outcome.UNKNOWN),
            error=one_line(_words(error)),
            places=" > ".join(places),
            times=unsaid + 1,
        )


def _of_target(target: Target) -> dict[str, object]:
    return {"check": target.check.kind.type, "address": str(target.address), "port": target.port}


def _words(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - an exception that cannot say what it is
        return type(error).__name__


def _places(error: BaseException) -> list[str]:
    """The innermost calls, the last one where it happened. Names of files and functions: nothing that a peer sent."""
    found = deque(
        traceback.walk_tb(error.__traceback__), maxlen=_PLACES
    )  # reads no file, unlike a formatted one
    return [_place(frame.f_code, line) for frame, line in found] or ["nowhere"]


def _place(code: CodeType, line: int) -> str:
    return f"{'/'.join(code.co_filename.split('/')[-3:])}:{line} {code.co_name}"
