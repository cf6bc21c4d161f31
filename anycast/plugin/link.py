"""The plugin's file descriptors: ExaBGP's pipes, the agent's socket, stderr.

Nothing in here blocks and nothing has an opinion.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from anycast.core.values.sight import ViewChange
from anycast.lease import (
    NO_REPORT,
    Ask,
    Decoder,
    Hello,
    Lease,
    LeaseChange,
    ProtocolError,
    Report,
    changes_of,
    encode,
)
from anycast.plugin import codec

CHUNK = 64 * 1024  # bytes
CHUNKS = 64  # reads in one pass, so that a flood cannot keep us from the rest
RECONNECT = 0.2  # seconds
FIRST_WORD = 1.0  # seconds
KILL_AFTER = 1.0  # seconds between SIGTERM and SIGKILL for a stuck ExaBGP


class Gone(Exception):  # noqa: N818 - no error: ExaBGP ended, and so do we
    """ExaBGP closed its end of a pipe."""


class ExaBgpLink:
    """Lines from ExaBGP, commands to it. Takes its own ends of the pipes over and makes them non-blocking."""

    def __init__(self, stdin: int, stdout: int) -> None:
        self.stdin, self.stdout = stdin, stdout
        os.set_blocking(stdin, False)
        os.set_blocking(stdout, False)
        self._lines = codec.Lines()
        self._out = bytearray()

    @property
    def wants_write(self) -> bool:
        return bool(self._out)

    def read(self) -> list[codec.Line]:
        """Everything ExaBGP has said: 13,000 unread answers freeze it. Raises Gone."""
        lines: list[codec.Line] = []
        for _ in range(CHUNKS):
            try:
                data = os.read(self.stdin, CHUNK)
            except BlockingIOError:
                break
            if not data:
                raise Gone
            lines += self._lines.feed(data)
        return lines

    def write(self, commands: Iterable[str]) -> None:
        """Write the commands, or keep what the pipe has no room for. Raises Gone."""
        for command in commands:
            self._out += command.encode("ascii") + b"\n"
        while self._out:
            try:
                written = os.write(self.stdout, self._out)
            except BlockingIOError:
                return
            except BrokenPipeError:
                raise Gone from None
            del self._out[:written]


class AgentLink:
    """The connection to the agent; made again for ever, every RECONNECT seconds."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.forbidden = False  # this user may not open the agent's socket
        self._socket: socket.socket | None = None
        self._decoder = Decoder()
        self._out = bytearray()
        self._next_try = 0.0
        self._hello = False  # the agent understands differences
        self._heard = False  # it has said something
        self._patience = 0.0  # the instant until which its first word is waited for
        self._sent: Report | None = None  # on this connection, the newest

    @property
    def fileno(self) -> int | None:
        return None if self._socket is None else self._socket.fileno()

    @property
    def wants_write(self) -> bool:
        return bool(self._out)

    def connect(self, now: float) -> bool:
        """Try, if it is time to. True: a new connection stands."""
        if self._socket is not None or now < self._next_try:
            return False
        self._next_try = now + RECONNECT
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            connection.connect(self._path)
        except OSError as error:
            connection.close()
            self.forbidden = isinstance(error, PermissionError)
            return False
        self.forbidden = False
        self._socket = connection
        self._decoder = Decoder()
        self._out.clear()
        self._hello, self._heard, self._sent = False, False, None
        self._patience = now + FIRST_WORD
        return True

    def read(self) -> list[Lease | LeaseChange]:
        """The leases that have come. The connection may be closed afterwards; what came still counts."""
        leases: list[Lease | LeaseChange] = []
        for _ in range(CHUNKS):
            if self._socket is None:
                break
            try:
                data = self._socket.recv(CHUNK)
                if not data:
                    self.close()
                    break
                for message in self._decoder.feed(data):
                    self._heard = True
                    if isinstance(message, Lease | LeaseChange):
                        leases.append(message)
                    elif isinstance(message, Hello):
                        self._hello = True
            except BlockingIOError:
                break
            except (OSError, ProtocolError):
                self.close()
        return leases

    def is_ready(self, now: float) -> bool:
        """What was said before is through: a slow agent needs the newest report only.

        At first its word is waited for, that it understands differences; an older one says nothing.
        """
        return self._socket is not None and not self._out and (self._heard or now >= self._patience)

    def ask(self) -> None:
        """For the full set."""
        self._out += encode(Ask())
        self.flush()

    def send(self, report: Report) -> None:
        """`report.touched` is what differs from the one sent before, on whichever connection."""
        if not self._hello:
            self._out += encode(report)
        elif self._sent is None:
            self._out += b"".join(map(encode, changes_of(NO_REPORT, replace(report, touched=None))))
        else:
            self._out += b"".join(map(encode, changes_of(self._sent, report)))
        self._sent = report
        self.flush()

    def show(self, change: ViewChange) -> None:
        self._out += encode(change)
        self.flush()

    def flush(self) -> None:
        while self._out and self._socket is not None:
            try:
                del self._out[: self._socket.send(self._out)]
            except BlockingIOError:
                return
            except OSError:
                self.close()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None
        self._out.clear()


class Log:
    """Lines on stderr, dropped where they would block.

    ExaBGP shares this open file description, so it must not be made non-blocking. A line that repeats
    within REPEAT seconds is left out.
    """

    REPEAT = 60.0

    def __init__(self, fd: int = 2) -> None:
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._said: dict[str, float] = {}

    def __call__(self, text: str, now: float) -> None:
        if now - self._said.get(text, -self.REPEAT) < self.REPEAT:
            return
        self._said = {said: at for said, at in self._said.items() if now - at < self.REPEAT}
        self._said[text] = now
        line = f"anycast announce: {text}".encode("ascii", "backslashreplace")[: select.PIPE_BUF - 1] + b"\n"
        # A pipe with POLLOUT has room for PIPE_BUF bytes.
        if any(event & select.POLLOUT for _, event in self._poll.poll(0)):
            with contextlib.suppress(OSError):
                os.write(self._fd, line)


def is_exabgp(pid: int, *, parent_of: int) -> bool:
    """Whether `pid` is the parent still, and ExaBGP: run by its name, or by an interpreter that got it."""
    try:
        with open(f"/proc/{parent_of}/stat", "rb") as file:
            parent = int(file.read().rpartition(b")")[2].split()[1])
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = [word for word in file.read().split(b"\0") if not word.startswith(b"-")]
    except OSError:
        return False
    return parent == pid and any(os.path.basename(word).startswith(b"exabgp") for word in words[:2])


def end_exabgp(pid: int, *, plugin: int, ended: Callable[[float], bool]) -> str:
    """SIGTERM, then SIGKILL: one that is blocked ignores the first. Its routes go with its sessions.

    `ended` waits so many seconds at most for its end. Returns why it could not be done; empty: it is done.
    """
    if not is_exabgp(pid, parent_of=plugin):
        return f"process {pid} is not ExaBGP"
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not is_exabgp(pid, parent_of=plugin):
            break
        try:
            os.kill(pid, number)
        except OSError as error:
            return f"process {pid} cannot be ended: {error}"
        if ended(KILL_AFTER):
            break
    return ""


def drained(fd: int, seconds: float) -> bool:
    """Throw away what comes on the non-blocking `fd` for `seconds`. True: the other end closed it."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if poll.poll(left * 1000):
            try:
                if not os.read(fd, CHUNK):
                    return True
            except BlockingIOError:
                continue
            except OSError:
                return True
    return False
