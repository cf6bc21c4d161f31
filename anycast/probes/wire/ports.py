"""The local ports of connections that the kernel knows nothing of: a block of them, which is ours while we hold it."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator
from errno import EADDRINUSE

from anycast.probes.sweep.sockets import local_ports

__all__ = ["MASK", "SIZE", "Ports"]

SIZE = 1024
MASK = 0xFFFF & ~(SIZE - 1)
_FIRST, _LAST = 10 * SIZE, 0xFFFF - SIZE + 1


class Ports:
    """A block whose first port is bound, so that another process of ours takes another block.

    Outside of the ports that the kernel takes by itself if there is such a block. A port matters only together with
    a VIP as the peer, to which nobody else on this node can have a connection by the network: the VIP is here.
    """

    def __init__(self) -> None:
        """Raises OSError."""
        self._holder, self.first = _held()
        self._next = 1 + secrets.randbelow(SIZE - 1)

    def next(self) -> int:
        """Each in its turn."""
        place = self._next
        self._next = place + 1 if place + 1 < SIZE else 1
        return self.first + place

    def close(self) -> None:
        self._holder.close()


def _held() -> tuple[socket.socket, int]:
    holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        for first in _blocks():
            try:
                holder.bind(("", first))
            except OSError as error:
                if error.errno != EADDRINUSE:
                    raise
            else:
                return holder, first
        raise OSError(EADDRINUSE, "")
    except BaseException:
        holder.close()
        raise


def _blocks() -> Iterator[int]:
    """First those of which the kernel takes no port by itself, in no order, so that two processes seldom meet."""
    theirs = local_ports()
    every = list(range(_FIRST, _LAST + 1, SIZE))
    every.sort(key=lambda _: secrets.randbits(32))
    yield from sorted(every, key=lambda first: first <= theirs[-1] and first + SIZE > theirs[0])
