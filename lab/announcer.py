"""The service manager's part for announcers (`speaker: kernel-table`), as the unit anycast-table.service says.

One that does not feed its watchdog is ended, what the unit runs after each end is run, and the next one is started.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from lab import configs, places
from lab.measuring import say
from lab.processes import Process, spawn
from lab.watchdog import limit

if TYPE_CHECKING:
    from lab.control import Lab

UNIT = configs.checkout() / "packaging" / "systemd" / "anycast-table.service"
RESTART = 0.2  # seconds: RestartSec of the unit
PATIENCE = 60.0  # seconds for what the unit runs after an end


class Unit:
    """Of one node, from now on until `stop`. `folder`: of its log, its record and its socket.

    `restart`: the next one is started after an end. `still`: the service manager ends nobody.
    """

    def __init__(self, place: str, folder: Path, env: Mapping[str, str], *, still: bool = False) -> None:
        self._place, self._folder = place, folder
        self._env = dict(env)
        self.log = folder / "announcer.log"
        self.restart = True
        self.still = still
        self.process: Process | None = None
        self.ready = False  # that one has fed its watchdog
        self.cleared = 0  # how often what the unit runs after an end has run
        notify = folder / "announcer.notify"
        notify.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(notify))
        self._watchdog = limit(UNIT.read_text())
        self._manager = {"NOTIFY_SOCKET": str(notify), "WATCHDOG_USEC": f"{self._watchdog * 1e6:.0f}"}
        self._stopped, self._stopper = socket.socketpair()
        self._free = threading.Event()
        self._free.set()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def holding(self) -> Iterator[None]:
        """The next one is not started before the block has ended."""
        self._free.clear()
        try:
            yield
        finally:
            self._free.set()

    def stop(self) -> None:
        self.restart = False
        self._free.set()
        self._stopper.send(b".")
        self._thread.join()
        if self.process is not None:
            self.process.end()
        for sock in (self._socket, self._stopped, self._stopper):
            sock.close()

    def _run(self) -> None:
        argv = configs.program("announce-table")
        while True:
            process = spawn(
                argv,
                netns=self._place,
                env=self._env | self._manager,
                log=self.log,
                record=self._folder / "announcer.pid",
            )
            self.process = process
            if not self._watch(process):
                return
            clear = [*places.entry(self._place), *argv, "--clear"]
            subprocess.run(clear, env=self._env, check=True, timeout=PATIENCE)
            self.cleared += 1
            self._free.wait()
            if not self.restart or select.select([self._stopped], [], [], RESTART)[0]:
                return

    def _watch(self, process: Process) -> bool:
        """Until it has ended. False: nobody looks after it any more."""
        self.ready, fed = False, None  # none before it is ready
        ended = os.pidfd_open(process.pid)
        try:
            while True:
                patience = None if fed is None else max(0.0, fed + self._watchdog - time.monotonic())
                watched: list[Any] = [self._socket, self._stopped, ended]
                ready = select.select(watched, [], [], patience)[0]
                if self._stopped in ready:
                    return False
                if ended in ready:
                    process.alive()  # so that it is no zombie
                    return True
                if self._socket in ready:
                    self._socket.recv(4096)
                    self.ready, fed = True, time.monotonic()
                elif self.still:
                    fed = time.monotonic()
                elif fed is not None:
                    say(
                        f"  watchdog: the announcer on {self._place} is ended, it has not fed for {self._watchdog:g} s"
                    )
                    for number in (signal.SIGABRT, signal.SIGCONT):
                        process.send(number)
                    fed = None
        finally:
            os.close(ended)


class Announcers:
    """Those of all balancers, in the place of `lab.watchdog.Watchdog`. A context manager; it ends nobody before `begin`."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._units: dict[str, Unit] = {}
        self._begun = False

    def start(self, node: str) -> None:
        folder = self._lab.run / node
        env = configs.program_environment() | configs.lines(folder / "table.env")
        self._units[node] = Unit(node, folder, env, still=not self._begun)

    def begin(self) -> None:
        self._begun = True
        for unit in self._units.values():
            unit.still = False

    @contextlib.contextmanager
    def standing_still(self, node: str) -> Iterator[None]:
        """The node's service manager is frozen too for the block."""
        unit = self._units[node]
        unit.still = True
        try:
            yield
        finally:
            unit.still = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for unit in self._units.values():
            unit.stop()
