"""The agent's sockets and lock in its runtime directory, which may be missing, or be emptied while the agent runs."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from pathlib import Path
from types import TracebackType
from typing import IO, NamedTuple, Self

BACKLOG = 4096
"""Connections that wait to be let in, as far as `net.core.somaxconn` allows. Who finds it full is refused."""
_AT_ONCE = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY  # a pipe in its place keeps nobody waiting
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


class HeldError(Exception):
    """Another agent holds the lock. `args[0]` names its path."""


class InstanceLock:
    """A file only one agent can hold, as long as it lives. Removed, another agent could hold one of the same name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def hold(self) -> None:
        """Take it, or take it again if the file is no longer there. Raises HeldError, OSError."""
        if self._file is not None and _is_at(self._file, self._path):
            return
        make_directory(self._path.parent)
        file = self._open()
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise HeldError(str(self._path)) from None
        except BaseException:
            file.close()
            raise
        self.release()
        self._file = file

    def _open(self) -> IO[bytes]:
        try:
            return open(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _AT_ONCE, 0o666), "ab")
        except OSError:
            # On a disk that has become read-only: what another agent holds counts.
            return open(os.open(self._path, os.O_RDONLY | _AT_ONCE), "rb")

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _is_at(file: IO[bytes], path: Path) -> bool:
    found = os.fstat(file.fileno())
    return identity(path) == (found.st_dev, found.st_ino)


def make_directory(path: Path) -> None:
    """A directory everybody may enter, whatever the umask: the plugin is another user. One that is there stays.

    Raises OSError.
    """
    if path.is_dir():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(exist_ok=True)
    path.chmod(0o755)


def bind_unix(path: Path, *, mode: int) -> socket.socket:
    """A listening stream socket at `path`, replacing what an agent before this one left. Raises OSError.

    The caller holds the agent's lock, so nobody living answers at `path`.
    """
    make_directory(path.parent)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        # Between bind and chmod nobody can connect: it does not listen yet.
        listener.bind(str(path))
        path.chmod(mode)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of what is at `path`, to see that it is still ours. None: nothing is there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


class Peer(NamedTuple):
    """The process at the other end, when it connected."""

    pid: int
    uid: int


def peer_of(connection: socket.socket) -> Peer:
    """As the kernel knows it: nobody can pretend."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(credentials)
    return Peer(pid, uid)
