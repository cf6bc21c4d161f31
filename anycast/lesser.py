"""The agent's lesser processes: never in its way, nothing without it, without its rights, and with the same log."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import signal
import struct
import sys
from pathlib import Path
from typing import TextIO, cast

import structlog
from structlog.typing import EventDict

NICE = 10  # a client's question waits for the lease, and not the other way round
OOM_SCORE = 500  # when memory runs out, this process goes first

_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_CAP_AMBIENT, _CLEAR_ALL = 1, 15, 47, 4
_CAPABILITIES_3 = 0x20080522
_NET_BIND_SERVICE = 1 << 10


def become_lesser(name: str) -> None:
    """`name`: as the kernel knows it. Never in the agent's way, nothing without it, and without its rights. What is forbidden here is left out."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)
    libc.prctl(_PR_CAP_AMBIENT, _CLEAR_ALL, 0, 0, 0)
    header = struct.pack("Ii", _CAPABILITIES_3, 0)
    held = (ctypes.c_uint32 * 6)()
    if libc.capget(header, held) == 0:
        for place in range(6):
            # Effective, permitted and inheritable of the lower 32 capabilities, then those of the upper ones.
            held[place] &= _NET_BIND_SERVICE if place in (0, 1) else 0
        libc.capset(header, held)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # behind a change of rights, which would undo it
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE), encoding="ascii")


class _Stderr(io.TextIOBase):
    """Whoever reads the log, or does not: it ends nobody."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            os.write(2, text.encode("utf-8", "backslashreplace"))
        return len(text)


def set_up_logging() -> None:
    """On stderr, as the agent's."""
    terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _first_things_first,
            structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(default=str),
        ],
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _Stderr())),
        cache_logger_on_first_use=True,
    )


def _first_things_first(_: object, __: str, fields: EventDict) -> EventDict:
    ahead = {name: fields.pop(name) for name in ("timestamp", "level", "event")}
    return {**ahead, **fields}
