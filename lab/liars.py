"""What answers in the place of a node of a fleet, and is none."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeAlias

Bad: TypeAlias = Callable[[socket.socket], None]


def garbage(client: socket.socket) -> None:
    client.sendall(os.urandom(5000))


def for_ever(client: socket.socket) -> None:
    """An answer that has no end."""
    client.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        client.sendall(b"4000\r\n" + b" " * 0x4000 + b"\r\n")


def dripping(client: socket.socket) -> None:
    for one in b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n" + b" " * 50:
        client.sendall(bytes([one]))
        time.sleep(0.2)


def silent(_client: socket.socket) -> None:
    time.sleep(60)


def other(client: socket.socket) -> None:
    body = b'{"at": 1, "born": 1, "pieces": [], "node": "lb7"}'
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


def no_document(client: socket.socket) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n[[[[")


def elsewhere(client: socket.socket) -> None:
    client.sendall(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")


def newer(client: socket.socket) -> None:
    body = json.dumps(
        {
            "format": 99,
            "at": 7.0,
            "born": 1,
            "node": "lb3",
            "version": "9",
            "mood": ["sunny"],
            "pieces": ["a"],
            "vips": {"a": {"web": ["announced", "healthy", 3.0, "", {}], "new": ["parked", "", 1, ""]}},
        }
    ).encode()
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


@contextlib.contextmanager
def serving(listener: socket.socket, bad: Bad) -> Iterator[None]:
    """Whoever asks there is told that, once the question is there. Closes the listener."""

    def answer(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            while client.recv(65536):
                bad(client)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    with listener:
        threading.Thread(target=accept, daemon=True).start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
