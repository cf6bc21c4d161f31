"""A BGP router made of bytes: it says what a test gives it to say, and keeps what it was told. One session at a time."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network

from lab import netns
from tests.contract.bgp import NODE4, PATIENCE, ROUTER4, ROUTER_AS
from tests.contract.routers import until

OPEN, UPDATE, NOTIFICATION, KEEPALIVE = 1, 2, 3, 4
HOST_NAME, SOFTWARE_VERSION = 73, 75  # capabilities
ADMINISTRATIVE_SHUTDOWN, ADMINISTRATIVE_RESET = 2, 4  # of a Cease

_MARKER = b"\xff" * 16
_HEADER = 19  # bytes
_IPV4_UNICAST = struct.pack("!BBHBB", 1, 4, 1, 0, 1)
_CEASE = 6
_HOLD = 3  # seconds
_KEPT_ALIVE = 0.5  # seconds between keepalives


def told(*texts: str) -> bytes:
    """Texts as capabilities have them, each behind its length."""
    return b"".join(bytes([len(one.encode())]) + one.encode() for one in texts)


class Session:
    """An established session. Keepalives go out by themselves until it ends."""

    def __init__(self, sock: socket.socket, capabilities: dict[int, bytes]) -> None:
        """Raises ConnectionError where the other end does not take it."""
        self._sock, self._over, self._writes = sock, threading.Event(), threading.Lock()
        capability = _IPV4_UNICAST
        capability += b"".join(bytes([code, len(value)]) + value for code, value in capabilities.items())
        parameters = bytes([2, len(capability)]) + capability
        fixed = struct.pack("!BHH4s", 4, ROUTER_AS, _HOLD, IPv4Address(ROUTER4).packed)
        self._say(OPEN, fixed + bytes([len(parameters)]) + parameters)
        self.hear(OPEN)
        self._say(KEEPALIVE)
        self.hear(KEEPALIVE)
        self._alive = threading.Thread(target=self._keep_alive, daemon=True)
        self._alive.start()

    def end(self) -> None:
        self._over.set()
        self._alive.join()
        self._sock.close()

    def cease(self, subcode: int, communication: bytes) -> None:
        """Ends the session with these words, length in front (RFC 9003)."""
        self._say(NOTIFICATION, bytes([_CEASE, subcode, len(communication)]) + communication)

    def hear(self, kind: int) -> bytes:
        """The body of the next message of this kind. Raises OSError where the session has ended."""
        while True:
            header = self._read(_HEADER)
            length, found = struct.unpack("!HB", header[16:])
            body = self._read(length - _HEADER)
            if found == kind:
                return body

    def wait_for(self, prefix: IPv4Network) -> None:
        """Reads until an update announces `prefix`."""
        while prefix not in self._update()[1]:
            pass

    def wait_without(self, prefix: IPv4Network) -> None:
        """Reads until an update withdraws `prefix`."""
        while prefix not in self._update()[0]:
            pass

    def is_reset(self) -> bool:
        """Waits until the other end refuses what is said to it. Reads nothing."""
        return self._over.wait(PATIENCE)

    def _update(self) -> tuple[set[IPv4Network], set[IPv4Network]]:
        """What the next one withdraws, and what it announces."""
        withdrawn, rest = _behind_length(self.hear(UPDATE))
        _, announced = _behind_length(rest)
        return set(_prefixes(withdrawn)), set(_prefixes(announced))

    def _keep_alive(self) -> None:
        with contextlib.suppress(OSError):
            while not self._over.wait(_KEPT_ALIVE):
                self._say(KEEPALIVE)
        self._over.set()

    def _say(self, kind: int, body: bytes = b"") -> None:
        with self._writes:
            self._sock.sendall(_MARKER + struct.pack("!HB", _HEADER + len(body), kind) + body)

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._sock.recv(size - len(data))
            if not more:
                raise ConnectionError("the other end has closed the session")
            data += more
        return data


def _behind_length(data: bytes) -> tuple[bytes, bytes]:
    (length,) = struct.unpack_from("!H", data)
    return data[2 : 2 + length], data[2 + length :]


def _prefixes(data: bytes) -> Iterator[IPv4Network]:
    while data:
        bits = data[0]
        size = (bits + 7) // 8
        yield IPv4Network((data[1 : 1 + size].ljust(4, b"\0"), bits))
        data = data[1 + size :]


@contextlib.contextmanager
def session(
    place: str,
    *,
    ends: tuple[str, str] = (ROUTER4, NODE4),
    capabilities: dict[int, bytes] | None = None,
    receives: int | None = None,
) -> Iterator[Session]:
    """Dials the node from namespace `place`. `ends`: the router's and the node's; `receives`: bytes of the receive buffer."""

    def dial() -> Session | None:
        """None: ExaBGP does not listen yet, or has not ended the session before."""
        with netns.inside(place):
            sock = socket.socket()
        try:
            if receives is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
            sock.settimeout(PATIENCE)
            sock.bind((ends[0], 0))
            sock.connect((ends[1], 179))
            return Session(sock, capabilities or {})
        except ConnectionError:
            sock.close()
            return None
        except BaseException:
            sock.close()
            raise

    made = until(dial, "a session with the node")
    try:
        yield made
    finally:
        made.end()
