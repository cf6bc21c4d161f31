"""The guardian with real processes: the plugin's parent is a program that is named as ExaBGP is."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest

PATIENCE = 20.0  # seconds until a test that waits in vain fails
LIMIT = "0.5"
A = ip_network("192.0.2.1/32")
# It answers everything, says who the plugin is and how that ended, and does not die of SIGTERM.
PARENT = """\
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
plugin = subprocess.Popen(
    [sys.executable, "-c", *sys.argv[1:]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
)
print(plugin.pid, flush=True)
for line in plugin.stdout:
    if line.startswith(b"show"):
        plugin.stdin.write(b"[]\\n")
    plugin.stdin.write(b"done\\n")
print("ended", plugin.wait(), flush=True)
sys.stdin.read()
"""
RUN = "import sys; from anycast.plugin.main import main; sys.exit(main(sys.argv[1:]))"
HANGS = f"import anycast.plugin.loop as m\ndef hang(self, now):\n  while True: pass\nm.LeaseEnd.read = hang\n{RUN}"


class Rig:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.exabgp: subprocess.Popen[str] | None = None
        self.plugin = 0

    def start(
        self, *options: str, code: str = RUN, name: str = "exabgp", **environment: str
    ) -> subprocess.Popen[str]:
        script = self.path / name
        script.write_text(PARENT)
        self.exabgp = subprocess.Popen(
            [
                sys.executable,
                str(script),
                code,
                "--socket",
                "/nonexistent/socket",
                "--own",
                str(A),
                "--journal",
                str(self.path / "journal"),
                *options,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.getcwd(), **environment},
        )
        self.plugin = int(self.line())
        return self.exabgp

    def line(self) -> str:
        assert self.exabgp is not None
        assert self.exabgp.stdout is not None
        assert select.select([self.exabgp.stdout], [], [], PATIENCE)[0], "nothing is said"
        return self.exabgp.stdout.readline().strip()

    def guardian(self) -> int:
        """Its process, as soon as it has its name."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            for one in self.children():
                if Path(f"/proc/{one}/comm").read_text() == "anycast-guard\n":
                    return one
            time.sleep(0.01)
        raise TimeoutError("no guardian")

    def children(self) -> list[int]:
        return [
            int(pid) for pid in Path(f"/proc/{self.plugin}/task/{self.plugin}/children").read_text().split()
        ]

    def stderr(self) -> str:
        """All of it, once everybody who could write there has ended."""
        assert self.exabgp is not None
        assert self.exabgp.stderr is not None
        return self.exabgp.stderr.read()

    def close(self) -> None:
        if self.exabgp is not None:
            self.exabgp.kill()
            self.exabgp.wait()
            for pipe in (self.exabgp.stdin, self.exabgp.stdout, self.exabgp.stderr):
                assert pipe is not None
                pipe.close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.close()


def test_the_exabgp_of_a_stopped_plugin_is_ended_though_it_ignores_sigterm_and_nobody_is_left(
    rig: Rig,
) -> None:
    exabgp = rig.start("--hang-limit", LIMIT)
    rig.guardian()
    os.kill(rig.plugin, signal.SIGSTOP)
    assert exabgp.wait(PATIENCE) == -signal.SIGKILL
    assert "the plugin hangs" in rig.stderr()


def test_the_exabgp_of_a_plugin_that_loops_for_ever_is_ended(rig: Rig) -> None:
    exabgp = rig.start("--hang-limit", LIMIT, code=HANGS)
    assert exabgp.wait(PATIENCE) == -signal.SIGKILL
    assert "the plugin hangs" in rig.stderr()


def test_a_plugin_that_dies_takes_its_guardian_along_and_leaves_exabgp_alive(rig: Rig) -> None:
    exabgp = rig.start("--hang-limit", LIMIT)
    guardian = rig.guardian()
    os.kill(rig.plugin, signal.SIGKILL)
    assert rig.line() == f"ended {-signal.SIGKILL}"
    end = os.pidfd_open(guardian)
    try:
        assert select.select([end], [], [], PATIENCE)[0], "the guardian goes on"
    finally:
        os.close(end)
    assert exabgp.poll() is None


def test_a_plugin_that_is_asked_to_end_leaves_no_guardian(rig: Rig) -> None:
    exabgp = rig.start("--hang-limit", LIMIT)
    guardian = rig.guardian()
    os.kill(rig.plugin, signal.SIGTERM)
    assert rig.line() == "ended 0"
    assert not Path(f"/proc/{guardian}").exists()
    assert exabgp.poll() is None


def test_both_stopped_for_longer_than_the_limit_end_nobody(rig: Rig) -> None:
    """As a machine that was suspended, or a container that was frozen."""
    exabgp = rig.start()
    guardian = rig.guardian()
    for process in (guardian, rig.plugin):
        os.kill(process, signal.SIGSTOP)
    time.sleep(3.5)  # longer than the limit: that is the case
    for process in (rig.plugin, guardian):
        os.kill(process, signal.SIGCONT)
    os.kill(rig.plugin, signal.SIGTERM)
    assert rig.line() == "ended 0"
    assert exabgp.poll() is None


def test_a_guardian_that_dies_is_said_and_the_plugin_goes_on(rig: Rig) -> None:
    exabgp = rig.start()
    os.kill(rig.guardian(), signal.SIGKILL)
    assert exabgp.stderr is not None
    assert "the guardian is gone" in exabgp.stderr.readline()
    os.kill(rig.plugin, signal.SIGTERM)
    assert rig.line() == "ended 0"


def test_a_parent_that_is_not_exabgp_is_left_alive_and_the_plugin_ended(rig: Rig) -> None:
    exabgp = rig.start("--hang-limit", LIMIT, name="check-exabgp")
    rig.guardian()
    os.kill(rig.plugin, signal.SIGSTOP)
    assert rig.line() == f"ended {-signal.SIGKILL}"
    assert exabgp.poll() is None


@pytest.mark.parametrize("options", [("--hang-limit", "0"), ()])
def test_with_a_watchdog_or_without_a_limit_there_is_none(rig: Rig, options: tuple[str, ...]) -> None:
    path = str(rig.path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(PATIENCE)
        rig.start(*options, NOTIFY_SOCKET=path, **({} if options else {"WATCHDOG_USEC": "2500000"}))
        while manager.recv(64) != b"READY=1":  # the first passes are over
            pass
    assert rig.children() == []
