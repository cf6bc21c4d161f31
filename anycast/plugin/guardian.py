"""The guardian: a small process beside the plugin that ends ExaBGP when the plugin hangs.

It is for nodes without a service manager's watchdog, such as containers: ExaBGP keeps the routes of a hung plugin for
ever. The plugin feeds the guardian over a pipe after each full pass of its loop. The guardian counts its own ticks
without food and reads no clock: while the machine is suspended, or both are stopped, no tick passes.
When the plugin ends, so does the guardian: ExaBGP starts the next plugin, which withdraws.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import time
from collections.abc import Callable
from typing import NoReturn

from anycast.plugin import link

PATIENCE = 2.5  # seconds without food, as the WatchdogSec of the shipped unit
TICK = 0.25  # seconds
FEED = 0.2  # seconds between two meals; the plugin passes at least every `loop.IDLE` seconds
RESTART = 10.0  # seconds from the end of a guardian to the next

Say = Callable[[str, float], None]


class Guardian:
    """The plugin's end: starts the guardian with the first meal, and another where it has died."""

    def __init__(self, exabgp: int, patience: float, say: Say) -> None:
        self._exabgp, self._patience, self._say = exabgp, patience, say
        self._pid = 0
        self._food = -1
        self._next = 0.0

    def passed(self, now: float) -> None:
        """A full pass of the loop is done. Does not block."""
        if now < self._next:
            return
        self._next = now + FEED
        try:
            if not self._pid:
                self._pid, self._food = _start(self._exabgp, self._patience, self._say)
            os.write(self._food, b".")
        except BlockingIOError:
            pass  # it is stopped, and has enough
        except OSError as error:
            self._say(f"the guardian is gone, another starts in {RESTART:g} s: {error}", now)
            self.close()
            self._next = now + RESTART

    def close(self) -> None:
        """End it. The plugin leaves no child behind for a container without an init to collect."""
        if self._pid:
            os.close(self._food)
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._pid, 0)
        self._pid = 0


def _start(exabgp: int, patience: float, say: Say) -> tuple[int, int]:
    """The guardian's process, and the descriptor that feeds it."""
    plugin = os.getpid()
    food, feeder = os.pipe()
    gc.freeze()  # memory that is not written to stays shared
    pid = os.fork()
    if not pid:
        _guard(food, exabgp, plugin, patience, say)
    gc.unfreeze()
    os.close(food)
    os.set_blocking(feeder, False)
    return pid, feeder


def _guard(food: int, exabgp: int, plugin: int, patience: float, say: Say) -> NoReturn:
    try:
        gc.disable()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # it ends with the plugin, which withdraws first
        # Nothing but food and stderr: ExaBGP must see the end of the plugin's pipes.
        os.dup2(food, 0)
        os.dup2(2, 1)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        with contextlib.suppress(OSError), open("/proc/self/comm", "w", encoding="ascii") as name:
            name.write("anycast-guard")
        if _starved(patience):
            now = time.monotonic()
            say(f"the plugin hangs, no pass for {patience:g} s: ending ExaBGP, process {exabgp}", now)
            error = link.end_exabgp(
                exabgp, plugin=plugin, ended=lambda seconds: _ended(exabgp, plugin, seconds)
            )
            if error:
                say(f"{error}; ending the plugin alone", now)
            if os.getppid() == plugin:
                os.kill(plugin, signal.SIGKILL)
    finally:
        os._exit(0)


def _starved(patience: float) -> bool:
    """Whether no food came for so long; False: the plugin has ended."""
    poll = select.poll()
    poll.register(0, select.POLLIN)
    hungry = 0.0
    while hungry < patience:
        if not poll.poll(TICK * 1000):
            hungry += TICK
        elif not os.read(0, 4096):
            return False
        else:
            hungry = 0.0
    return True


def _ended(exabgp: int, plugin: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not link.is_exabgp(exabgp, parent_of=plugin):
            return True
        time.sleep(0.05)
    return False
