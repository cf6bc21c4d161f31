"""The service manager's part in the lab: ends an ExaBGP whose plugin has not fed the watchdog, as systemd does.

Where systemd would start both again, the lab leaves that to whoever broke them.
"""

from __future__ import annotations

import contextlib
import re
import select
import signal
import socket
import threading
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Self

from lab.measuring import say
from lab.processes import Process

if TYPE_CHECKING:
    from lab.control import Lab

UNIT = Path(__file__).resolve().parent.parent / "packaging" / "systemd" / "anycast-exabgp.service"


def limit(unit: str) -> float:
    """Seconds: `WatchdogSec` of a unit. Raises ValueError where it has none in plain seconds."""
    found = re.search(r"^WatchdogSec=([\d.]+)s?$", unit, re.MULTILINE)
    if found is None:
        raise ValueError("the unit has no WatchdogSec in seconds")
    return float(found[1])


class Watchdog:
    """For the ExaBGP of each of `nodes`. Use as a context manager; it ends nobody before `begin`."""

    def __init__(self, lab: Lab, nodes: Collection[str], seconds: float) -> None:
        self.seconds = seconds
        self._lab = lab
        self._sockets: dict[socket.socket, str] = {}
        self._fed: dict[str, tuple[float, Process]] = {}
        self._still = set(nodes)  # many that start at once may take seconds over it
        for node in nodes:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            path = self._path(node)
            path.unlink(missing_ok=True)
            sock.bind(str(path))
            self._sockets[sock] = node
        self._stopped, self._stopper = socket.socketpair()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def begin(self) -> None:
        self._fed.clear()
        self._still.clear()

    def environment(self, node: str) -> str:
        """Lines for the environment ExaBGP is started with."""
        return f"NOTIFY_SOCKET={self._path(node)}\nWATCHDOG_USEC={self.seconds * 1e6:.0f}\n"

    @contextlib.contextmanager
    def standing_still(self, node: str) -> Iterator[None]:
        """The node's service manager is frozen too for the block."""
        self._still.add(node)
        try:
            yield
        finally:
            self._fed.pop(node, None)
            self._still.discard(node)

    def _path(self, node: str) -> Path:
        return self._lab.run / node / "notify"

    def _run(self) -> None:
        while True:
            ready = select.select([*self._sockets, self._stopped], [], [], self._patience())[0]
            if self._stopped in ready:
                return
            for sock in ready:
                node, told = self._sockets[sock], sock.recv(4096)
                exabgp = self._lab.process(node, "exabgp")
                if exabgp is not None and (b"WATCHDOG=1" in told or b"READY=1" in told):
                    self._fed[node] = time.monotonic(), exabgp
            for node, (fed, exabgp) in list(self._fed.items()):
                if node not in self._still and time.monotonic() >= fed + self.seconds:
                    self._fed.pop(node, None)
                    self._end(node, exabgp)

    def _patience(self) -> float:
        first = min((fed for fed, _ in list(self._fed.values())), default=time.monotonic())
        return max(0.05, first + self.seconds - time.monotonic())

    def _end(self, node: str, exabgp: Process) -> None:
        if exabgp != self._lab.process(node, "exabgp") or not exabgp.alive():
            return
        say(f"  watchdog: ExaBGP on {node} is ended, its plugin has not fed for {self.seconds:g} s")
        plugin = self._lab.process(node, "plugin")
        for process, number in ((exabgp, signal.SIGABRT), (plugin, signal.SIGKILL)):
            with contextlib.suppress(ProcessLookupError):
                if process is not None:
                    process.send(number)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopper.send(b".")
        self._thread.join()
        for sock in (*self._sockets, self._stopped, self._stopper):
            sock.close()
