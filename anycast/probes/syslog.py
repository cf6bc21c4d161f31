"""The syslog checks. Over TCP and TLS a connection is opened and closed in order, and no log line is written.

The server's own goodbye is waited for: the kernel shakes hands for a process that hangs, but does not close for it.
It must not come first: rsyslog from 8.2610 on takes a connection too many and closes it at once.
Over UDP nothing comes back, so a canary is sent and looked for where it should arrive.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from contextlib import AbstractAsyncContextManager

from anycast.core.values.checks import SyslogCanaryCheck, SyslogCheck
from anycast.core.values.configuration import Address
from anycast.probes.closes import CLOSED, closed_within, to_its_end
from anycast.probes.datagram import UNREACHABLE, talking
from anycast.probes.finding import OK, Finding, Progress, fail
from anycast.probes.stream import Stream, opened

__all__ = ["canary", "check"]

_LIMIT = 4 * 1024  # bytes a server may send that has nothing to say
_PROOF_LIMIT = 4 * 1024 * 1024  # bytes that are searched for the canary
_PRIORITY = 5 * 8 + 6  # facility syslog, severity informational
_LOOK_AGAIN = 0.02  # seconds between two looks at a file
_CHUNK = 256 * 1024


async def check(kind: SyslogCheck, address: Address, port: int, progress: Progress) -> Finding:
    """OK if the server closes when it is asked to, and not before. Raises OSError."""
    opening = opened(address, port, progress, tls=kind.tls, limit=_LIMIT)
    return await _open_and_close(opening, kind.quiet, progress)


async def _open_and_close(
    opening: AbstractAsyncContextManager[Stream], quiet: float, progress: Progress
) -> Finding:
    async with opening as stream, to_its_end(stream) as end:
        if await closed_within(end, quiet):
            return fail(CLOSED)
        progress.missing = "goodbye"
        progress.say("left open for %g s, closing our side", quiet)
        await stream.finish()
        await end
        progress.say("the server has closed too")
        return stream.warning


async def canary(kind: SyslogCanaryCheck, address: Address, port: int, progress: Progress) -> Finding:
    """OK if a message sent over UDP is seen again. Raises OSError."""
    token = secrets.token_hex(8)
    message = f"<{_PRIORITY}>1 - - anycast - canary - anycast canary {token}".encode()
    try:
        if kind.proof_port is not None:
            # What listens there is asked where it is, by no VIP.
            own = address if progress.to_vip is None else progress.to_vip.address
            opening = opened(own, kind.proof_port, progress.aside(), tls=None, limit=_PROOF_LIMIT)
            return await _seen_on(opening, (address, port), message, progress)
        return await _seen_in(str(kind.proof_file), (address, port), message, progress)
    except ConnectionRefusedError:
        return fail(UNREACHABLE if progress.missing == "canary" else "proof port: connection refused")


async def _fly(where: tuple[Address, int], message: bytes, progress: Progress) -> None:
    async with talking(*where, progress) as talk:
        talk.send(message)
    progress.say("sent %r", message)
    progress.missing = "canary"


async def _seen_on(
    opening: AbstractAsyncContextManager[Stream],
    where: tuple[Address, int],
    message: bytes,
    progress: Progress,
) -> Finding:
    token = message.split()[-1]
    kept = b""
    progress.missing = "connection to the proof port"
    async with opening as stream:
        await _fly(where, message, progress)
        while data := await stream.receive():
            if token in (kept := kept[-len(token) :] + data):
                progress.say("seen")
                return OK
        return fail("the proof port closed before the canary arrived")


async def _seen_in(path: str, where: tuple[Address, int], message: bytes, progress: Progress) -> Finding:
    token = message.split()[-1]
    tail = _Tail(path)
    tail.look()
    await _fly(where, message, progress)
    progress.missing = f"canary in {path}"
    while token not in tail.look():
        if tail.missing:
            progress.missing = f"canary: there is no {path}"
        await asyncio.sleep(_LOOK_AGAIN)
    progress.say("seen in %s", path)
    return OK


class _Tail:
    """What a file has grown by. One that was rotated is read from its beginning."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._place: tuple[int, int] | None = None  # inode and offset
        self._kept = b""
        self.missing = False
        self._first = True

    def look(self) -> bytes:
        """What was added since the first look, as far as a token may still be in it. Raises OSError."""
        first, self._first = self._first, False
        try:
            with open(self._path, "rb", buffering=0, opener=_open) as file:
                self.missing = False
                found = os.fstat(file.fileno())
                if first:
                    self._place = (found.st_ino, found.st_size)
                    return b""
                if self._place is None or self._place[0] != found.st_ino or self._place[1] > found.st_size:
                    self._place = (found.st_ino, 0)
                    self._kept = b""
                file.seek(self._place[1])
                data = file.read(_CHUNK)
                self._place = (found.st_ino, self._place[1] + len(data))
        except FileNotFoundError:
            self.missing = True
            return b""
        data = self._kept + data
        self._kept = data[-64:]
        return data


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # whoever opens a named pipe must not wait for its writer
