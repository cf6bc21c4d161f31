"""Conversations with the kernel over one netlink socket, inside the event loop and each within a deadline.

The kernel leaves a request unanswered when its handler was interrupted.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from anycast.kernel import netlink_codec as codec

DEADLINE = 5.0  # seconds for one request and its answer
SLICE = 0.005  # seconds; reading pauses after as many, for the event loop
RECEIVE = 65536  # bytes; the kernel fills dumps in steps of up to 32 KiB

_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10  # errors come without a copy of the request
_SO_RCVBUFFORCE = 33
_RECEIVE_BUFFER = 1 << 20
_LAST_SEQUENCE = 0x7FFFFFFF

T = TypeVar("T")
Framed: TypeAlias = Callable[[int], bytes]
"""The bytes to send, numbered from the sequence on."""
Parse: TypeAlias = Callable[[bytes, codec.Message], T]


class RefusedError(OSError):
    """The kernel answered, and it was an error."""


class Dump(NamedTuple, Generic[T]):
    """`whole` false: the list changed meanwhile, and what was there all the time may be missing."""

    found: list[T]
    whole: bool


class Netlink:
    """Opens its socket when first used and again after every failure. One conversation at a time."""

    def __init__(self, protocol: int) -> None:
        self._protocol = protocol
        self._socket: socket.socket | None = None
        self._sequence = 1
        self._turned = 0.0  # when the event loop was last let go

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def answer(self, framed: Framed, parse: Parse[T]) -> T:
        """What one message answers. Raises OSError (RefusedError: the kernel's own), Malformed."""
        sequence = self._take(1)
        async with self._asking(framed(sequence)) as receive:
            data, message = await _first(receive, sequence)
        if message.kind == codec.NLMSG_ERROR:
            raise _refused(message.error)
        return parse(data, message)

    async def dump(self, framed: Framed, parse: Parse[T]) -> Dump[T]:
        """Raises OSError (RefusedError: the kernel's own), Malformed."""
        sequence = self._take(1)
        found: list[T] = []
        whole = True
        async with self._asking(framed(sequence)) as receive:
            while True:
                data = await receive()
                for message in codec.messages(data):
                    if message.sequence != sequence:
                        continue
                    if message.error:
                        raise _refused(message.error)
                    whole &= not message.flags & codec.NLM_F_DUMP_INTR
                    if message.kind == codec.NLMSG_DONE:
                        return Dump(found, whole)
                    found.append(parse(data, message))

    async def write(self, framed: Framed, count: int = 1) -> dict[int, int]:
        """Sends `count` requests at once, of which the last asks for an acknowledgement.

        The errno of each that failed, by its place. Raises OSError, Malformed.
        """
        first = self._take(count)
        last = first + count - 1
        errors = {}
        async with self._asking(framed(first)) as receive:
            while True:
                for message in codec.messages(await receive()):
                    if message.kind != codec.NLMSG_ERROR or not first <= message.sequence <= last:
                        continue
                    if message.error:
                        errors[message.sequence - first] = message.error
                    if message.sequence == last:
                        return errors

    def _take(self, count: int) -> int:
        if self._sequence + count > _LAST_SEQUENCE:
            self._sequence = 1
        first = self._sequence
        self._sequence += count
        return first

    @contextlib.asynccontextmanager
    async def _asking(self, question: bytes) -> AsyncIterator[Callable[[], Awaitable[bytes]]]:
        """Sends `question` and gives what receives the datagrams of its answer, all within the deadline.

        Whatever goes wrong closes the socket, for the rest of the answer may still be under way. Raises OSError.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(DEADLINE):
                line = self._socket = self._socket or open_socket(self._protocol)
                await loop.sock_sendall(line, question)
                yield lambda: self._receive(loop, line)
        except TimeoutError:
            self.close()
            raise OSError(errno.ETIMEDOUT, f"the kernel did not answer within {DEADLINE:g} s") from None
        except BaseException:
            self.close()
            raise

    async def _receive(self, loop: asyncio.AbstractEventLoop, line: socket.socket) -> bytes:
        # An answer is there as soon as the question is sent: without this the loop would stand for a whole dump.
        if loop.time() - self._turned > SLICE:
            await asyncio.sleep(0)
            self._turned = loop.time()
        return await loop.sock_recv(line, RECEIVE)


async def _first(receive: Callable[[], Awaitable[bytes]], sequence: int) -> tuple[bytes, codec.Message]:
    while True:
        data = await receive()
        for message in codec.messages(data):
            if message.sequence == sequence:
                return data, message


def _refused(code: int) -> RefusedError:
    return RefusedError(code, os.strerror(code))


def open_socket(protocol: int, *, groups: int = 0) -> socket.socket:
    """`groups`: the kernel's announcements to listen to. Raises OSError."""
    line = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    try:
        line.setblocking(False)
        line.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        try:
            line.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        except PermissionError:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        line.bind((0, groups))
    except BaseException:
        line.close()
        raise
    return line
