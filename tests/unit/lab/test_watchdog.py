"""The lab's stand-in for systemd's watchdog, with real processes and a real notify socket."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.processes import Process, child_of
from lab.watchdog import UNIT, Watchdog, limit

EXABGP = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'], stdin=0)"


class Node:
    """In the place of the lab: one node whose ExaBGP is a Python that waits for its child."""

    def __init__(self, run: Path) -> None:
        self.run = run
        (run / "lb1").mkdir()
        self._popen = subprocess.Popen([sys.executable, "-c", EXABGP], stdin=subprocess.PIPE)
        self._exabgp = Process(self._popen.pid, _started(self._popen.pid))
        while not child_of(self._exabgp):
            pass

    def process(self, _node: str, what: str) -> Process | None:
        return self._exabgp if what == "exabgp" else child_of(self._exabgp)

    def feed(self, watchdog: Watchdog, message: bytes) -> None:
        place = watchdog.environment("lb1").split("\n")[0].removeprefix("NOTIFY_SOCKET=")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(message, place)

    def ended(self) -> int:
        return self._popen.wait(30)

    def close(self) -> None:
        self._popen.kill()
        self._popen.communicate()


def _started(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    node.close()


def test_an_exabgp_whose_plugin_feeds_no_more_is_aborted_with_it(node: Node) -> None:
    plugin = node.process("lb1", "plugin")
    assert plugin is not None
    with Watchdog(node, ["lb1"], 0.2) as watchdog:  # type: ignore[arg-type]
        watchdog.begin()
        plugin.send(signal.SIGSTOP)
        node.feed(watchdog, b"READY=1")
        assert node.ended() == -signal.SIGABRT
    assert plugin.wait(30)


def test_one_that_never_was_ready_is_left_alone_and_so_is_one_that_stands_still(node: Node) -> None:
    with Watchdog(node, ["lb1"], 0.05) as watchdog:  # type: ignore[arg-type]
        watchdog.begin()
        with watchdog.standing_still("lb1"):
            node.feed(watchdog, b"READY=1")
            node.feed(watchdog, b"STATUS=x")
            _drained(watchdog)
        exabgp = node.process("lb1", "exabgp")
        assert exabgp is not None
        assert exabgp.alive()


def _drained(watchdog: Watchdog) -> None:
    """Until its thread has read what was sent."""
    path = Path(watchdog.environment("lb1").split("\n")[0].removeprefix("NOTIFY_SOCKET="))
    inode = os.stat(path).st_ino
    assert inode
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        for _ in range(300):  # more than a queue holds: each must have been taken to make room
            sock.sendto(b"STATUS=x", str(path))


def test_the_limit_is_the_units() -> None:
    assert limit(UNIT.read_text()) == 2.5
    with pytest.raises(ValueError, match="no WatchdogSec"):
        limit("[Service]\nType=notify\n")
