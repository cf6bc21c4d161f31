"""TCP sockets that are used again: connecting to AF_UNSPEC resets the connection and leaves the socket as new.

It saves making, watching and closing one for every check, about a third of what a TCP check costs. The reset
leaves no TIME_WAIT, which would use up the local ports at some 500 checks a second.
"""

from __future__ import annotations

import ctypes
import functools
import select
import socket
import struct
from errno import ECONNREFUSED
from pathlib import Path
from typing import Any, Protocol

__all__ = ["EDGES", "Sockets", "local_ports", "refuse_itself"]

EDGES = select.EPOLLET | select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_TYPE = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")

# No argtypes: to check them is a third of a call.
_connect = ctypes.CDLL(None).connect
_UNSPECIFIED = ctypes.create_string_buffer(16)  # a sockaddr of zeros: AF_UNSPEC is 0
_SIZE = len(_UNSPECIFIED)


class Named(Protocol):
    """Something with the two ends of a connection."""

    def getsockname(self) -> Any: ...
    def getpeername(self) -> Any: ...


class Sockets:
    """Sockets that are free, each watched by the poller by its edges.

    A free socket may still cause an event, and one that a poll has already told of may be free by now, or taken
    again: whoever polls must take no notice of either.
    """

    def __init__(self, poller: select.epoll, *, idle: int) -> None:
        """`idle`: sockets that are kept for later, at most."""
        self._poller = poller
        self._room = idle
        # By family, and by whether the ACK of the handshake is put off.
        self._free: dict[tuple[int, bool], list[socket.socket]] = {
            (family, speaks): []
            for family in map(int, (socket.AF_INET, socket.AF_INET6))
            for speaks in (False, True)
        }

    def take(self, family: int, speaks: bool) -> socket.socket:  # noqa: FBT001 - by name it costs more
        """A non-blocking socket that is not connected. `speaks`: something will be sent at once. Raises OSError."""
        free = self._free[family, speaks]
        if free:
            self._room += 1
            return free.pop()
        sock = socket.socket(family, _TYPE)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            if speaks:
                # The ACK that completes the handshake waits for the request, which carries it. Unlike TCP_QUICKACK
                # this outlives the reset. Who sends nothing must not do so: the reset would come before the ACK,
                # the server's accept queue would stay empty, and a server that hangs would be well for ever.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 1)
            self._poller.register(sock.fileno(), EDGES)
        except BaseException:
            sock.close()
            raise
        return sock

    def give(self, sock: socket.socket, fd: int, family: int, speaks: bool) -> None:  # noqa: FBT001 - the same
        """`fd`: the socket's. End what the socket was used for, by a reset if it is connected. The rest: as it was taken."""
        # To ask the socket for it takes as long as a system call.
        if self._room > 0 and _connect(fd, _UNSPECIFIED, _SIZE) == 0:
            self._room -= 1
            self._free[family, speaks].append(sock)
        else:
            self._close(sock)

    def close(self) -> None:
        for free in self._free.values():
            self._room += len(free)
            for sock in free:
                self._close(sock)
            free.clear()

    def _close(self, sock: socket.socket) -> None:
        # Closing ends the watching only once no child that is being started holds the descriptor too.
        self._poller.unregister(sock.fileno())
        sock.close()


@functools.cache
def local_ports() -> range:
    """The ports the kernel takes for connections it begins. Read once: thousands of checks ask for it."""
    try:
        low, high = map(int, _PORT_RANGE.read_text().split())
    except (OSError, ValueError):
        return range(1, 65536)
    return range(low, high + 1)


def refuse_itself(sock: Named) -> None:
    """With nobody listening, TCP may pick the target's own port as the local one and shake hands with itself.

    Raises ConnectionRefusedError then, another OSError if the connection has gone meanwhile.
    """
    if sock.getsockname()[:2] == sock.getpeername()[:2]:
        raise ConnectionRefusedError(ECONNREFUSED, "connected to itself")
