"""The command check: a program whose exit status says how a real server is."""

from __future__ import annotations

import asyncio
from errno import ENOEXEC
from signal import SIGKILL
from typing import TypeAlias

from anycast import oom
from anycast.core.values.configuration import HERE, Address, CommandCheck
from anycast.probes.finding import OK, Finding, Progress, fail, unusable
from anycast.process import how_it_ended, start, watch
from anycast.process import kill_group as _kill_group

__all__ = ["check"]

_KILL_GRACE = 0.5  # seconds a killed program has to be gone before the run returns without it

_Run: TypeAlias = tuple[CommandCheck, Address, int]

# Programs that SIGKILL did not end (they hang in the kernel, on a dead mount for example), by what they checked.
# As long as one is here its check starts no other: they would pile up.
_hanging: dict[_Run, int] = {}


async def check(kind: CommandCheck, address: Address, port: int, progress: Progress) -> Finding:
    """OK if the program exits with status 0. Whatever it left running is killed. Raises OSError."""
    progress.missing = "exit"
    run = (kind, address, port)
    if run in _hanging:
        return fail(f"process {_hanging[run]} of an earlier run cannot be killed: see what it hangs on")
    kills = oom.kills()
    try:
        where = "" if address == HERE else str(address)
        around = {"ANYCAST_ADDRESS": where, "ANYCAST_PORT": str(port) if where else ""}
        process, output = start(kind.argv, around)
    except FileNotFoundError:
        why = "not found, or the interpreter in its first line is not (install it or correct the path)"
        return fail(f"no such program: {kind.argv[0]}: {why}")
    except NotADirectoryError:
        return fail(
            f"no such program: {kind.argv[0]}: a part of the path is not a directory (correct the path)"
        )
    except PermissionError:
        return fail(
            f"no such program: {kind.argv[0]}: not executable for this user (chmod +x, see its directories)"
        )
    except OSError as error:
        if error.errno == ENOEXEC:
            return fail(f"no such program: {kind.argv[0]}: not a program (begin a script with #!/bin/sh)")
        raise
    progress.say("started %s, process %d", kind.argv[0], process.pid)
    with output:
        exited = watch(process)
        try:
            # The shield keeps `exited` alive through a cancellation: somebody must still reap.
            status = await asyncio.shield(exited)
            progress.heard = True
        finally:
            if not exited.done():
                await _end(run, process.pid, exited)
        progress.say("exit status %s, output begins %r", status, output.first_line())
        return _judge_exit(status, output.first_line(), kills)


async def _end(run: _Run, pid: int, exited: asyncio.Future[int | None]) -> None:
    """Kill the program's group and give it a moment to be gone."""
    _kill_group(pid)
    _hanging[run] = pid
    exited.add_done_callback(lambda _: _hanging.pop(run))
    await asyncio.wait({exited}, timeout=_KILL_GRACE)


def _judge_exit(status: int | None, line: str, kills: int | None) -> Finding:
    """`kills`: how many processes of this service the kernel had taken for their memory when it was started."""
    if status is None:
        return unusable("the exit status was lost: start the agent with SIGCHLD at its default")
    if status == 0:
        return OK
    how = how_it_ended(status, kills)
    if kills is None and status == -SIGKILL:
        # Nobody but the kernel ends it so before its time is over.
        how += " (by the kernel for its memory? `dmesg` tells)"
    return fail(f"{how}: {line}" if line else how)
