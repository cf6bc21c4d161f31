"""The nodes' pages on this machine's loopback: TCP connections carried into the lab.

Only 127.0.0.1 listens. The process that holds the lab's kernel holds the listeners too, so both end together.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Mapping

from lab import machine
from lab.errors import LabError
from lab.topology import OPS_PORT

FIRST = 19641  # lb1's, the next one is lb2's
MOST = 64  # connections at a time; browsers hold six


def listeners(nodes: list[str]) -> dict[str, socket.socket]:
    """One listening socket per node, at FIRST and the following ports; where one is taken, at any free port."""
    return {node: _listener(FIRST + place) for place, node in enumerate(nodes)}


def _listener(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(("127.0.0.1", port))
    except OSError:
        sock.bind(("127.0.0.1", 0))
    sock.listen(16)
    return sock


def addresses(sockets: Mapping[str, socket.socket]) -> dict[str, str]:
    """What to type into a browser, by node."""
    return {node: f"http://127.0.0.1:{sock.getsockname()[1]}/" for node, sock in sockets.items()}


def serve(sockets: Mapping[str, socket.socket], line: Callable[[], socket.socket | None]) -> None:
    """Carries connections in threads of their own until this process ends. `line`: a new way into the lab's kernel."""
    room = threading.BoundedSemaphore(MOST)
    for node, sock in sockets.items():
        threading.Thread(target=_accept, args=(sock, node, line, room), daemon=True).start()


def _accept(
    listener: socket.socket,
    node: str,
    line: Callable[[], socket.socket | None],
    room: threading.BoundedSemaphore,
) -> None:
    while True:
        room.acquire()
        try:
            stream = listener.accept()[0]
        except OSError:
            return
        threading.Thread(target=_carry, args=(stream, node, line, room), daemon=True).start()


def _carry(
    stream: socket.socket,
    node: str,
    line: Callable[[], socket.socket | None],
    room: threading.BoundedSemaphore,
) -> None:
    with stream, contextlib.suppress(OSError, LabError):
        way = line()
        if way is not None:
            with way:
                machine.connect(way, node, OPS_PORT, stream)
    room.release()
