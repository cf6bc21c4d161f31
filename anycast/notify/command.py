"""A command: the payload on its standard input, the gist in its environment."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from errno import ENOEXEC
from typing import Any, BinaryIO

from anycast import oom
from anycast.core.hooks import Command, Ending
from anycast.notify.notice import environment
from anycast.notify.outcome import Outcome
from anycast.process import Output, how_it_ended, kill_group, start, watch

_TELLING = 4  # characters of an argument that would give something away
_KILL_GRACE = 0.5  # seconds a killed program has to be gone

# Programs that SIGKILL did not end: they hang in the kernel. As long as one is here its hook starts no other.
_hanging: dict[tuple[str, ...], int] = {}


async def run(action: Command, told: Mapping[str, Any], body: bytes, patience: float) -> Outcome:
    program = action.argv[0]
    if action.argv in _hanging:
        return _failed(f"process {_hanging[action.argv]} of an earlier run cannot be killed")
    kills = oom.kills()
    try:
        # A file, not a pipe: a program that does not read it blocks nothing.
        with _memory(body + b"\n") as stdin:
            process, output = start(action.argv, environment(told), stdin)
    except FileNotFoundError:
        return _failed(f"there is no program {program}, or none that its first line names")
    except PermissionError:
        return _failed(f"{program} is not executable for this user")
    except OSError as error:
        if error.errno == ENOEXEC:
            return _failed(f"{program} is no program (begin a script with #!/bin/sh)")
        return _failed(f"{program} cannot be started: {error.strerror}")
    with output:
        try:
            exited = watch(process)
        except OSError as error:
            return _failed(f"{program} cannot be watched: {error.strerror}")
        return await _outcome(action, process.pid, exited, output, patience, kills=kills)


def _memory(data: bytes) -> BinaryIO:
    file = open(os.memfd_create("payload"), "w+b")  # noqa: SIM115 - closed by whom it is for
    file.write(data)
    file.seek(0)
    return file


async def _outcome(
    action: Command,
    pid: int,
    exited: asyncio.Future[int | None],
    output: Output,
    patience: float,
    *,
    kills: int | None,
) -> Outcome:
    try:
        # The shield keeps `exited` alive through a cancellation: somebody must still reap.
        async with asyncio.timeout(patience):
            status = await asyncio.shield(exited)
    except TimeoutError:
        return Outcome(ending=Ending.TIMEOUT, why=_told(f"no exit within {patience:g} s", output, action))
    finally:
        if not exited.done():
            await _end(action, pid, exited)
    if status is None:
        return _failed("the exit status was lost: start the agent with SIGCHLD at its default")
    if status:
        return _failed(_told(how_it_ended(status, kills), output, action))
    return Outcome(ending=Ending.OK, why=_told(how_it_ended(status), output, action))


async def _end(action: Command, pid: int, exited: asyncio.Future[int | None]) -> None:
    kill_group(pid)
    _hanging[action.argv] = pid
    exited.add_done_callback(lambda _: _hanging.pop(action.argv))
    await asyncio.wait({exited}, timeout=_KILL_GRACE)


def _told(how: str, output: Output, action: Command) -> str:
    """Programs complain of their arguments, which may be secrets, by repeating them."""
    line = output.first_line()
    for argument in sorted(action.argv[1:], key=len, reverse=True):
        if len(argument) >= _TELLING:
            line = line.replace(argument, "(an argument)")
    return f"{how}: {line}" if line else how


def _failed(why: str) -> Outcome:
    return Outcome(ending=Ending.FAILED, why=why)
