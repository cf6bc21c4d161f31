"""The kernel's table of connections: how far it may grow, and, where a limit of them can be reached (Linux 7.2), how
many entries it holds. I/O.

/proc/net/ip_vs_status tells it to root alone. Another user counts the lines of /proc/net/ip_vs_conn, 100,000 of which
take the kernel a seventh of a second. Either way it walks the whole table: in a thread, and not all the time.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from anycast.core.dataplane.limit import CONN_MAX_FILE, STATUS, entries, limit_of

__all__ = ["GROWS", "PROC", "TABLE_BITS", "Entries", "kernel_limit", "table_grows"]

PROC = Path("/proc")
TABLE_BITS = Path("/sys/module/ip_vs/parameters/conn_tab_bits")
GROWS = "sys/net/ipv4/vs/conn_lfactor"  # below /proc

_LEAST = 1.0  # seconds for which a number holds
_SHARE = 20  # times as long as counting took it holds too: a twentieth of a processor at most
_CHUNK = 1024 * 1024  # bytes


def kernel_limit(proc: Path) -> int | None:
    """None: there is none, as before Linux 7.2, or none in reach. Raises OSError, ValueError."""
    try:
        return limit_of((proc / CONN_MAX_FILE).read_text("ascii"))
    except FileNotFoundError:
        return None


def table_grows(proc: Path) -> bool:
    """Whether it grows, up to TABLE_BITS, as since Linux 7.1. Then a masqueraded connection takes two places of it."""
    return (proc / GROWS).exists()


class Entries:
    """Counts them, and remembers the number for a while."""

    def __init__(self, proc: Path = PROC, clock: Callable[[], float] = time.monotonic) -> None:
        self._proc = proc
        self._clock = clock
        self._number: int | None = None
        self._again = 0.0  # when the number is too old
        self._counting = threading.Lock()

    def count(self) -> int:
        """The number, counted anew if it is too old. May take seconds. Raises OSError, ValueError."""
        with self._counting:
            started = self._clock()
            if self._number is None or started >= self._again:
                self._number = _counted(self._proc)
                now = self._clock()
                self._again = now + max(_LEAST, _SHARE * (now - started))
            return self._number

    def latest(self) -> int | None:
        """The last number, at once; one that is too old is counted anew meanwhile. None: there is none yet."""
        if self._clock() >= self._again and not self._counting.locked():
            threading.Thread(target=self._try, daemon=True, name="entries").start()
        return self._number

    def _try(self) -> None:
        try:
            self.count()
        except (OSError, ValueError):
            self._again = self._clock() + _LEAST


def _counted(proc: Path) -> int:
    try:
        text = (proc / STATUS).read_text("ascii")
    except (PermissionError, FileNotFoundError):
        return max(0, _lines(proc / "net/ip_vs_conn") - 1)  # the first one names the columns
    found = entries(text)
    if found is None:
        raise ValueError(f"/proc/{STATUS} does not say")
    return found


def _lines(path: Path) -> int:
    number = 0
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while data := os.read(descriptor, _CHUNK):
            number += data.count(b"\n")
    finally:
        os.close(descriptor)
    return number
