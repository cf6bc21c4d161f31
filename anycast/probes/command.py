"""The command check: a program in a session of its own, ended with all its children, always reaped.

asyncio's own subprocesses cost a thread each on Python 3.11; a pidfd is one more descriptor to watch.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from errno import ENOEXEC
from typing import TypeAlias

from anycast.core.model import HERE, Address, CommandCheck
from anycast.probes.finding import OK, Finding, Progress, fail, judge, unknown

__all__ = ["check"]

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LINE = 200  # bytes of output kept
_PIPE = 64 * 1024  # what a pipe holds: one read empties it
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
    try:
        process, output = _start(kind.argv, address, port)
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
        return judge(error)
    progress.say("started %s, process %d", kind.argv[0], process.pid)
    with output:
        exited = _watch(process)
        try:
            # The shield keeps `exited` alive through a cancellation: somebody must still reap.
            status = await asyncio.shield(exited)
        finally:
            if not exited.done():
                await _end(run, process.pid, exited)
        progress.say("exit status %s, output begins %r", status, output.first_line())
        return _judge_exit(status, output.first_line())


async def _end(run: _Run, pid: int, exited: asyncio.Future[int | None]) -> None:
    """Kill the program's group and give it a moment to be gone."""
    _kill_group(pid)
    _hanging[run] = pid
    exited.add_done_callback(lambda _: _hanging.pop(run))
    await asyncio.wait({exited}, timeout=_KILL_GRACE)


def _judge_exit(status: int | None, line: str) -> Finding:
    if status is None:
        return unknown("the exit status was lost: start the agent with SIGCHLD at its default")
    if status == 0:
        return OK
    how = f"exit status {status}" if status > 0 else f"killed by {_signal_name(-status)}"
    return fail(f"{how}: {line}" if line else how)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class _Output:
    """The read end of a program's output: the beginning is kept, the rest drained so that it never blocks."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._kept = b""
        self._loop = asyncio.get_running_loop()
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self._read)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def first_line(self) -> str:
        """The first line that is not blank, cut at 200 bytes."""
        return self._kept.split(b"\n", 1)[0].decode(errors="replace")

    def _read(self) -> None:
        try:
            data = os.read(self._fd, _PIPE)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(self._fd)
        elif len(self._kept) < _LINE:
            self._kept = (self._kept + data).lstrip()[:_LINE]


def _start(argv: tuple[str, ...], address: Address, port: int) -> tuple[subprocess.Popen[bytes], _Output]:
    """Fork and exec. The parent stands still until the exec is done (vfork): about a millisecond."""
    where = "" if address == HERE else str(address)
    # A pipe of our own: Popen leaks descriptors when it runs out of them between two of its pipes.
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=subprocess.STDOUT,
            cwd="/",
            env={"PATH": _PATH, "ANYCAST_ADDRESS": where, "ANYCAST_PORT": str(port) if where else ""},
            start_new_session=True,
        )
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    return process, _Output(reading)


def _watch(process: subprocess.Popen[bytes]) -> asyncio.Future[int | None]:
    """Resolves when the program has been reaped: its status, the negative signal, or None if it got lost.

    The event loop holds the watch, so the reaping happens whether or not anybody still waits. Raises OSError.
    """
    loop = asyncio.get_running_loop()
    exited: asyncio.Future[int | None] = loop.create_future()
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError:
        _kill_group(process.pid)
        process.wait()
        raise

    def reap() -> None:
        loop.remove_reader(pidfd)
        # Before the reaping: until then the number of the group cannot be another's.
        _kill_group(process.pid)
        status = None
        with contextlib.suppress(ChildProcessError):
            ended = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
            if ended is not None:
                status = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        os.close(pidfd)
        process.returncode = status if status is not None else 255  # Popen must not look for it again
        exited.set_result(status)

    loop.add_reader(pidfd, reap)
    return exited


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
