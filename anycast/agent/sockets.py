"""Listening unix sockets that come back: the directory may be missing, or be swept while the agent runs."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

BACKLOG = 64
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


def bind_unix(path: Path, *, mode: int) -> socket.socket:
    """A listening stream socket at `path`, replacing what an agent before this one left. Raises OSError.

    The caller holds the agent's lock, so nobody living answers at `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
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


def peer_uid(connection: socket.socket) -> int:
    """User id of the process at the other end."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(credentials)[1])
