"""An HTTP server that can be made ill. `python lab/sick_server.py PORT BACKLOG`; what a line on its input says happens:

`deaf`: it accepts no more, and lives. `poor`: it has no descriptor left, and goes on trying. `well`: neither. The standard
library only; one thread, as small daemons are. Answers every line with one.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import socket
import sys
import time

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
_DESCRIPTORS = 64


def serve(port: int, backlog: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (_DESCRIPTORS, _DESCRIPTORS))
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(backlog)
    listener.setblocking(False)
    poller = select.poll()
    poller.register(sys.stdin, select.POLLIN)
    poller.register(listener, select.POLLIN)
    held: dict[int, socket.socket] = {}
    used: list[int] = []
    print("listening", flush=True)
    while True:
        for fd, _ in poller.poll():
            if fd == sys.stdin.fileno():
                word = sys.stdin.readline()
                if not word:
                    return
                with contextlib.suppress(KeyError):
                    poller.unregister(listener)
                while used:
                    os.close(used.pop())
                if word == "poor\n":
                    with contextlib.suppress(OSError):
                        while True:
                            used.append(os.dup(0))
                if word != "deaf\n":
                    poller.register(listener, select.POLLIN)
                print(word, end="", flush=True)
            elif fd == listener.fileno():
                try:
                    other, _ = listener.accept()
                except OSError:
                    time.sleep(0.1)  # EMFILE: the connection stays where it is
                    continue
                held[other.fileno()] = other
                poller.register(other, select.POLLIN)
            else:
                _answer(held, poller, fd)


def _answer(held: dict[int, socket.socket], poller: select.poll, fd: int) -> None:
    data = b""
    with contextlib.suppress(OSError):
        data = held[fd].recv(4096)
    if data:
        with contextlib.suppress(OSError):
            held[fd].send(_ANSWER)
        if b" HTTP/1.0\r\n" not in data and b"connection: close" not in data.lower():
            return
    poller.unregister(fd)
    held.pop(fd).close()


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]))
