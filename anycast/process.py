"""Programs that run briefly: in a session of their own, ended with all their children, always reaped.

asyncio's own subprocesses cost a thread each on Python 3.11; a pidfd is one more descriptor to watch.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import anycast
from anycast import oom

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LINE = 200  # bytes of output kept
_PIPE = 64 * 1024  # what a pipe holds: one read empties it


class Output:
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
        elif len(self._kept) < LINE:
            self._kept = (self._kept + data).lstrip()[:LINE]


def start(
    argv: tuple[str, ...], environment: Mapping[str, str], stdin: BinaryIO | None = None
) -> tuple[subprocess.Popen[bytes], Output]:
    """Fork and exec. The parent stands still until the exec is done (vfork): about a millisecond. Raises OSError."""
    # A pipe of our own: Popen leaks descriptors when it runs out of them between two of its pipes.
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=writing,
            stderr=subprocess.STDOUT,
            cwd="/",
            env={"PATH": PATH, **environment},
            start_new_session=True,
        )
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    oom.give_up_protection(process.pid)
    return process, Output(reading)


def start_module(
    module: str,
    arguments: Sequence[str],
    *,
    line: socket.socket,
    environment: Mapping[str, str],
    options: Sequence[str] = (),
    stdout: int | None = None,
) -> subprocess.Popen[bytes]:
    """A process of ours, which inherits `line`, in a session of its own. `options`: of Python. Raises OSError."""
    return subprocess.Popen(
        # -P and the path: the very code that runs here, whatever lies in the working directory.
        [sys.executable, "-P", *options, "-m", module, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        pass_fds=(line.fileno(),),
        env={**environment, "PYTHONPATH": str(Path(anycast.__file__).parents[1])},
        start_new_session=True,
    )


def watch(process: subprocess.Popen[bytes]) -> asyncio.Future[int | None]:
    """Resolves when the program has been reaped: its status, the negative signal, or None if it got lost.

    The event loop holds the watch, so the reaping happens whether or not anybody still waits. Raises OSError.
    """
    loop = asyncio.get_running_loop()
    exited: asyncio.Future[int | None] = loop.create_future()
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError:
        kill_group(process.pid)
        process.wait()
        raise

    def reap() -> None:
        loop.remove_reader(pidfd)
        # Before the reaping: until then the number of the group cannot be another's.
        kill_group(process.pid)
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


def kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def how_it_ended(status: int, kills: int | None = None) -> str:
    """`kills`: what `oom.kills` said when it was started; None: that is not known."""
    return ended(status, taken=status != 0 and kills is not None and oom.kills() not in (kills, None))


def ended(status: int, *, taken: bool) -> str:
    """`taken`: the kernel took a process of this service for its memory meanwhile."""
    how = f"exit status {status}" if status >= 0 else f"killed by {_signal_name(-status)}"
    if status == 0 or not taken:
        return how
    if status == -signal.SIGKILL:
        return f"{how} by the kernel for its memory (the MemoryMax= of the agent's unit, or the machine's)"
    return f"{how} (meanwhile the kernel killed a process of this service for its memory)"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
