"""BIRD's control socket. Nothing in here blocks."""

from __future__ import annotations

import errno
import socket

from anycast.announcer.bird import AGAIN, Bird

_CHUNK = 64 * 1024  # bytes
_CHUNKS = 32  # reads in one pass


class BirdLink:
    """Connects again for ever, every AGAIN seconds."""

    def __init__(self, path: str, now: float) -> None:
        self._path = path
        self.bird = Bird(path, now)
        self._socket: socket.socket | None = None
        self._out = b""
        self._next_try = now
        self.connections = 0

    @property
    def fileno(self) -> int | None:
        return None if self._socket is None else self._socket.fileno()

    @property
    def wants_write(self) -> bool:
        return bool(self._out)

    def step(self, now: float) -> None:
        """Hear what has come, and ask what is due."""
        if self._socket is None and now >= self._next_try:
            self._connect(now)
        if self._socket is not None:
            self._read(now)
        if self._socket is not None:
            if (question := self.bird.next(now)) is not None:
                self._out += question.encode("ascii") + b"\n"
            self._flush(now)
        self.bird.tick(now)

    def _connect(self, now: float) -> None:
        self._next_try = now + AGAIN
        one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            one.connect(self._path)
        except OSError as error:
            one.close()
            self._refused(error, now)
            return
        self._socket, self._out = one, b""
        self.connections += 1
        self.bird.connected(now)

    def _refused(self, error: OSError, now: float) -> None:
        why = error.strerror or str(error)
        if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
            self.bird.lost(now, why, runs=False)
        elif error.errno in (errno.EACCES, errno.EPERM):
            do = "put the announcer's user into the group of BIRD: `adduser anycast-table bird`, then restart it"
            self.bird.lost(
                now, f"{self._path}: {why}, so what BIRD has learned is not known ({do})", runs=None
            )
        elif error.errno != errno.EAGAIN:  # its queue of connections is full: it stands still
            self.bird.lost(now, f"{self._path}: {why}", runs=None)

    def _read(self, now: float) -> None:
        for _ in range(_CHUNKS):
            if self._socket is None:
                return
            try:
                data = self._socket.recv(_CHUNK)
                if not data:
                    self._close()
                    self._next_try = now  # if it is there at all, the next try says
                    return
                self.bird.feed(data, now)
            except BlockingIOError:
                return
            except OSError:
                self._close()
                self._next_try = now
            except ValueError as error:
                self._close()
                self.bird.lost(now, f"{self._path}: {error}", runs=None)

    def _flush(self, now: float) -> None:
        if self._socket is None or not self._out:
            return
        try:
            self._out = self._out[self._socket.send(self._out) :]
        except BlockingIOError:
            return
        except OSError:
            self._close()
            self._next_try = now

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket, self._out = None, b""
