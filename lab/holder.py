"""A server that leaves every connection open until its peer ends it. `python lab/holder.py DESCRIPTOR`, of a listening socket.

The standard library only. Whoever kills it ends all of them in one instant, and the listening socket stays with its parent.
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys


def serve(listener: socket.socket) -> None:
    listener.setblocking(False)
    poller = select.epoll()
    poller.register(listener.fileno(), select.EPOLLIN)
    held: dict[int, socket.socket] = {}
    print("listening", flush=True)
    while True:
        for fd, _ in poller.poll():
            if fd != listener.fileno():
                held.pop(fd).close()
                continue
            with contextlib.suppress(OSError):  # the last one, or one that was reset before it was taken
                while True:
                    other, _ = listener.accept()
                    held[other.fileno()] = other
                    poller.register(other.fileno(), select.EPOLLRDHUP)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
