"""Daemons of the lab's nodes: start, signal, look, end. Nothing restarts by itself here: fault scenarios decide,
and for whoever tries the lab `lab.supervisor`.

A process is remembered in a file by its id and start time, so that a later command (or a later process with
the same id) is never mistaken for it.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import launcher, places


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    started: int  # clock ticks after boot

    @classmethod
    def of(cls, pid: int) -> Process:
        return cls(pid, _started(pid) or 0)

    def ticks(self) -> int:
        """Clock ticks of processor time it has had; 0 when it has ended."""
        fields = _stat(self.pid)
        return int(fields[11]) + int(fields[12]) if fields else 0

    def alive(self) -> bool:
        """Running or stopped; a zombie is not."""
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)
        return _state(self.pid) not in (None, "Z") and _started(self.pid) == self.started

    def send(self, number: int) -> None:
        """Raises ProcessLookupError when it is no longer there."""
        if not self.alive():
            raise ProcessLookupError(f"process {self.pid} has ended")
        os.kill(self.pid, number)

    def wait(self, timeout: float) -> bool:
        """Until it has ended. False: it has not, after `timeout` seconds."""
        if not self.alive():
            return True
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        try:
            ended = bool(select.select([fd], [], [], timeout)[0])
        finally:
            os.close(fd)
        return ended and not self.alive()

    def end(self, grace: float = 5.0) -> None:
        """SIGTERM, after `grace` seconds SIGKILL."""
        for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
            with contextlib.suppress(ProcessLookupError):
                self.send(number)
                self.send(signal.SIGCONT)
            if self.wait(patience):
                return


def spawn(argv: Sequence[str], *, netns: str, env: Mapping[str, str], log: Path, record: Path) -> Process:
    """Starts `argv` in a session of its own in namespace `netns`; output is appended to `log`."""
    command = [*places.entry(netns), *argv]
    with open(os.devnull, "rb") as nothing, log.open("ab") as out:
        streams = {0: nothing.fileno(), 1: out.fileno(), 2: out.fileno()}
        if starter := launcher.installed():
            path = shutil.which(command[0]) or command[0]
            pid = starter.start([path], command, env, descriptors=streams, session=True)
        else:
            actions = [(os.POSIX_SPAWN_DUP2, there, own) for own, there in streams.items()]
            pid = os.posix_spawnp(command[0], command, env, setsid=True, file_actions=actions)
    process = Process.of(pid)
    record.write_text(f"{pid} {process.started}\n")
    return process


def recorded(record: Path) -> Process | None:
    """The process a record names, alive or not."""
    try:
        pid, started = record.read_text().split()
    except (FileNotFoundError, ValueError):
        return None
    return Process(int(pid), int(started))


def child_of(parent: Process) -> Process | None:
    """Its child, where it has one (ExaBGP's is the plugin)."""
    for entry in os.listdir("/proc"):
        if entry.isdigit() and _stat(int(entry))[1:2] == [str(parent.pid)] and _state(int(entry)) != "Z":
            return Process.of(int(entry))
    return None


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on; empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _state(pid: int) -> str | None:
    return next(iter(_stat(pid)), None)


def _started(pid: int) -> int | None:
    fields = _stat(pid)
    return int(fields[19]) if fields else None
