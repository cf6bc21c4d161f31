"""Programs of a test's own that end with it."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal

from lab.processes import Process


def program(command: str) -> Process:
    """Starts a shell command in the background, as a child of this process that nobody has waited for."""
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", command], os.environ)
    process = Process.of(pid)
    atexit.register(_end, process)
    return process


def _end(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send(signal.SIGKILL)
