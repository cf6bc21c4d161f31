"""The command check: what the end of a program says of a real server."""

from __future__ import annotations

import errno
import os
from signal import SIGKILL

from anycast.probes.finding import OK, Finding, fail, unusable
from anycast.probes.verdict import judge
from anycast.process import ended

__all__ = ["judge_exit", "not_started"]

# For want of these it is not started at all. Every other error is of the program's file.
_OF_THIS_NODE = frozenset({errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSYS})
_WHY_NOT = {
    errno.ENOENT: "not found, or the interpreter in its first line is not (install it or correct the path)",
    errno.ENOTDIR: "a part of the path is not a directory (correct the path)",
    errno.EACCES: "not executable for this user (chmod +x, see its directories)",
    errno.EPERM: "not executable for this user (chmod +x, see its directories)",
    errno.ENOEXEC: "not a program (begin a script with #!/bin/sh)",
}


def not_started(program: str, number: int) -> Finding:
    """`number`: the kernel's, of the error."""
    why = _WHY_NOT.get(number)
    if why is not None:
        return fail(f"no such program: {program}: {why}")
    return judge(OSError(number, os.strerror(number), None if number in _OF_THIS_NODE else program))


def judge_exit(status: int | None, line: str, *, taken: bool | None) -> Finding:
    """OK if the program exits with status 0. `taken`: the kernel took a process of this service for its memory meanwhile; None: that is not known."""
    if status is None:
        return unusable("the exit status was lost")
    if status == 0:
        return OK
    how = ended(status, taken=bool(taken))
    if taken is None and status == -SIGKILL:
        # Nobody but the kernel ends it so before its time is over.
        how += " (by the kernel for its memory? `dmesg` tells)"
    return fail(f"{how}: {line}" if line else how)
