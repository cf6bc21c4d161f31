"""A process of the agent's without its rights: started with a line to it, spoken to, and reaped, whatever it does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

import structlog

from anycast import oom
from anycast.process import how_it_ended, start_module, watch

LONGEST_PAUSE = 30.0  # seconds until the next one is started
STEADY = 60.0  # seconds after which one counts as having come up
GOODBYE = 1.0  # seconds for one that says no more to end: its status says why
_KEPT = ("HOME", "LANG", "LC_ALL", "PATH", "TZ")  # of the environment: in the rest may be secrets of hooks

log = structlog.get_logger()

Talk = Callable[[socket.socket], Coroutine[Any, Any, None]]
"""Raises OSError, IncompleteReadError: it has gone; LineError: it is to be ended."""


class LineError(Exception):
    """It does not behave. `args[0]`: in what way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """`python -m module --line=DESCRIPTOR --agent=PID options`. `variables`: of the environment, that it needs.

    `started`: the event of the log that says so.
    """

    module: str
    line: str
    started: str
    options: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()


class Pause:
    """Seconds until the next one is started: twice as many each time, until one came up."""

    def __init__(self, first: float) -> None:
        self._first = first
        self._next = first

    def after(self, lasted: float) -> float:
        """One has ended that lasted so many seconds."""
        if lasted > STEADY:
            self._next = self._first
        pause, self._next = self._next, min(2 * self._next, LONGEST_PAUSE)
        return pause

    def forget(self) -> None:
        """What follows is another one."""
        self._next = self._first


async def run(program: Program, talk: Talk) -> str:
    """Run one until it ends, or is ended. Returns why. Cancelled, it ends it."""
    ours, theirs = socket.socketpair()
    kills = oom.kills()
    with ours:
        try:
            with theirs:
                process = _start(program, theirs)
            exited = watch(process)
        except OSError as error:
            return f"it cannot be started: {error.strerror or error}"
        log.info(program.started, pid=process.pid)
        talking = asyncio.create_task(talk(ours))
        try:
            ending: set[asyncio.Future[Any]] = {talking, exited}
            await asyncio.wait(ending, return_when=asyncio.FIRST_COMPLETED)
            if talking.done():
                with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                    talking.result()
                await asyncio.wait({exited}, timeout=GOODBYE)
        except LineError as error:
            return f"{error}: killed"
        finally:
            talking.cancel()
            if not exited.done():  # once it is reaped its number may be another's
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
            status = await exited
    return "its exit status was lost" if status is None else how_it_ended(status, kills)


def environment(more: Iterable[str]) -> dict[str, str]:
    """Of such a process."""
    names = (*_KEPT, *more)
    return {name: value for name, value in os.environ.items() if name in names}


def _start(program: Program, line: socket.socket) -> subprocess.Popen[bytes]:
    """Raises OSError."""
    arguments = (f"--{program.line}={line.fileno()}", f"--agent={os.getpid()}", *program.options)
    return start_module(program.module, arguments, line=line, environment=environment(program.variables))
