"""A peer at a real socket that does as a script says, in a thread of its own: it goes on whatever the probe does."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import TypeAlias

_LINGER = struct.pack("ii", 1, 0)
_DRIP = 0.004  # seconds between two bytes
_FLOOD = 64 * 1024  # bytes of one send
_PATIENCE = 20.0  # seconds: the probe has long closed by then, or the test is red


class Ending(Enum):
    """What the peer does when it has said its piece. The last three go on until the probe has had enough."""

    CLOSE = auto()
    RESET = auto()
    HALF_CLOSE = auto()
    SILENCE = auto()
    DRIP = auto()
    FLOOD = auto()


@dataclass(frozen=True)
class Script:
    pieces: tuple[bytes, ...] = ()
    ending: Ending = Ending.HALF_CLOSE
    listens: bool = False  # it says nothing until the probe has said something
    more: bytes = b"x"  # what it drips or floods
    echoes: bool = False  # it sends back what it gets, instead of the pieces


Line: TypeAlias = "socket.socket | ssl.SSLSocket"


class Peer:
    """One connection after another, each by the script. Statistics are of the last script."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=16)
        self.port: int = self._listener.getsockname()[1]
        self._script = Script()
        self.sent = self.connections = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def follow(self, script: Script) -> None:
        self._script = script
        self.sent = self.connections = 0

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(_PATIENCE)

    def _serve(self) -> None:
        while True:
            try:
                sock = self._listener.accept()[0]
            except OSError:
                return
            self.connections += 1
            sock.settimeout(_PATIENCE)
            with sock, contextlib.suppress(OSError):
                if self._tls is None:
                    self._act(sock, sock, self._script)
                    continue
                with self._tls.wrap_socket(sock, server_side=True) as line:
                    self._act(line, line, self._script)

    def _act(self, line: Line, sock: socket.socket, script: Script) -> None:
        if script.listens:
            line.recv(1)
        if script.echoes:
            while data := line.recv(4096):
                self._send(line, data)
        for piece in script.pieces:
            self._send(line, piece)
        match script.ending:
            case Ending.CLOSE:
                return
            case Ending.RESET:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
                return
            case Ending.HALF_CLOSE:
                sock.shutdown(socket.SHUT_WR)
            case Ending.SILENCE:
                pass
            case Ending.DRIP:
                sock.settimeout(_DRIP)
                self._drip(line, script.more)
            case Ending.FLOOD:
                flood = script.more * (_FLOOD // len(script.more) + 1)
                while True:
                    self._send(line, flood)
        while sock.recv(4096):
            pass

    def _send(self, line: Line, data: bytes) -> None:
        line.sendall(data)
        self.sent += len(data)

    def _drip(self, line: Line, more: bytes) -> None:
        """Until the probe closes, which ends the wait for what it says. Raises OSError."""
        place = 0
        while True:
            self._send(line, more[place : place + 1])
            place = (place + 1) % len(more)
            with contextlib.suppress(TimeoutError):
                while line.recv(4096):
                    pass
                return


class Datagrams:
    """Answers each datagram with others."""

    def __init__(self) -> None:
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind(("127.0.0.1", 0))
        self.port: int = self._sock.getsockname()[1]
        self.pieces: tuple[bytes, ...] = ()
        self.echoes = 0  # bytes of the question with which each piece begins
        self._ended = False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            question, sender = self._sock.recvfrom(65535)
            if self._ended:
                return
            for piece in self.pieces:
                with contextlib.suppress(OSError):
                    self._sock.sendto((question[: self.echoes] + piece)[:65507], sender)

    def close(self) -> None:
        self._ended = True
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            own.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join(_PATIENCE)
        self._sock.close()


@contextlib.contextmanager
def peer(tls: ssl.SSLContext | None = None) -> Iterator[Peer]:
    made = Peer(tls)
    try:
        yield made
    finally:
        made.close()
