"""The scheduling priority of this process."""

from __future__ import annotations

import contextlib
import os


def keep_to_itself() -> None:
    """Whatever this process starts from now on, programs and threads, does not inherit a real-time priority of it.

    A health check's program with the agent's own would go before the agent. By the kernel, at each fork: whoever took the
    priority away from outside would wait for the program that has it.
    """
    policy = os.sched_getscheduler(0)
    if policy in {os.SCHED_FIFO, os.SCHED_RR}:
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, policy | os.SCHED_RESET_ON_FORK, os.sched_getparam(0))
