"""Conversations with the kernel over one netlink socket, inside the event loop and each within a deadline.

The kernel leaves a request unanswered when its handler was interrupted.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from anycast.kernel import netlink_codec as codec

DEADLINE = 5.0  # seconds for one request and its answer
SLICE = 0.005  # seconds; reading pauses after as many, for the event loop
READS = 5  # times that a list which changes while it is read is read again
RECEIVE = 65536  # bytes; the kernel fills dumps in steps of up to 32 KiB

_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10  # errors come without a copy of the request
_NETLINK_GET_STRICT_CHK = 12
_SO_RCVBUFFORCE = 33
_RECEIVE_BUFFER = 1 << 20
_LAST_SEQUENCE = 0x7FFFFFFF

T = TypeVar("T")
Framed: TypeAlias = Callable[[int], bytes]
"""The bytes to send, numbered from the sequence on."""
Parse: TypeAlias = Callable[[bytes, codec.Message], T]
Quick: TypeAlias = Callable[[bytes, int], bool]
"""Whether it has taken the datagram, all of which answers the sequence."""


class RefusedError(OSError):
    """The kernel answered, and it was an error."""


class Dump(NamedTuple, Generic[T]):
    """`whole` false: the list changed meanwhile, and what was there all the time may be missing."""

    found: list[T]
    whole: bool


class Netlink:
    """Opens its socket when first used and again after every failure. One conversation at a time.

    The kernel works while we send and while we receive, so nearly every answer is there at once: it is taken without
    a turn of the event loop, which has one after each SLICE.
    """

    def __init__(self, protocol: int, *, strict: bool = False) -> None:
        """`strict`: what a dump asks for in its head leaves out what is other (since 4.20)."""
        self._protocol = protocol
        self._strict = strict
        self._socket: socket.socket | None = None
        self._sequence = 1
        self._due = 0.0  # when the event loop is to be let go

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def answer(self, framed: Framed, parse: Parse[T]) -> T:
        """What one message answers. Raises OSError (RefusedError: the kernel's own), Malformed."""
        sequence = self._take(1)
        try:
            line = await self._sent(framed(sequence))
            while True:
                data = await self._receive(line)
                for message in codec.messages(data):
                    if message.sequence != sequence:
                        continue
                    if message.kind == codec.NLMSG_ERROR:
                        raise _refused(message.error)
                    return parse(data, message)
        except RefusedError:
            raise
        except BaseException:
            self.close()
            raise

    async def dump(self, framed: Framed, parse: Parse[T], quick: Quick | None = None) -> Dump[T]:
        """`quick` may take a datagram at once; what it takes is not parsed.

        Raises OSError (RefusedError: the kernel's own), Malformed.
        """
        sequence = self._take(1)
        found: list[T] = []
        whole = True
        try:
            line = await self._sent(framed(sequence))
            while True:
                try:
                    data = line.recv(RECEIVE)
                except BlockingIOError:
                    data = await self._receive(line)
                if quick is not None and quick(data, sequence):
                    if time.monotonic() > self._due:
                        await self.turn()
                    continue
                for message in codec.messages(data):
                    if message.sequence != sequence:
                        continue
                    if message.error:
                        raise _refused(message.error)
                    whole &= not message.flags & codec.NLM_F_DUMP_INTR
                    if message.kind == codec.NLMSG_DONE:
                        return Dump(found, whole)
                    found.append(parse(data, message))
                if time.monotonic() > self._due:
                    await self.turn()
        except BaseException:
            self.close()
            raise

    async def whole(self, framed: Framed, parse: Parse[T]) -> list[T]:
        """A dump in which nothing is missing. Raises OSError (EAGAIN: the list changes all the time), Malformed."""
        for _ in range(READS):
            dump = await self.dump(framed, parse)
            if dump.whole:
                return dump.found
        raise OSError(errno.EAGAIN, "the kernel's list changes all the time")

    async def write(self, framed: Framed, count: int = 1) -> dict[int, int]:
        """Sends `count` requests at once, of which the last asks for an acknowledgement.

        The errno of each that failed, by its place. Raises OSError, Malformed.
        """
        first = self._take(count)
        last = first + count - 1
        errors = {}
        try:
            line = await self._sent(framed(first))
            while True:
                for message in codec.messages(await self._receive(line)):
                    if message.kind != codec.NLMSG_ERROR or not first <= message.sequence <= last:
                        continue
                    if message.error:
                        errors[message.sequence - first] = message.error
                    if message.sequence == last:
                        return errors
        except BaseException:
            self.close()
            raise

    def _take(self, count: int) -> int:
        if self._sequence + count > _LAST_SEQUENCE:
            self._sequence = 1
        first = self._sequence
        self._sequence += count
        return first

    async def _sent(self, question: bytes) -> socket.socket:
        """Where the answer comes. Raises OSError."""
        if self._socket is None:
            self._socket = open_socket(self._protocol)
            if self._strict:
                with contextlib.suppress(OSError):
                    self._socket.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
        line = self._socket
        if time.monotonic() > self._due:
            await self.turn()
        try:
            line.send(question)
        except BlockingIOError:
            await _in_time(asyncio.get_running_loop().sock_sendall(line, question))
        return line

    async def _receive(self, line: socket.socket) -> bytes:
        """One datagram. Raises OSError."""
        if time.monotonic() > self._due:
            await self.turn()
        try:
            return line.recv(RECEIVE)
        except BlockingIOError:
            pass
        data = await _in_time(asyncio.get_running_loop().sock_recv(line, RECEIVE))
        self._due = time.monotonic() + SLICE
        return data

    async def turn(self) -> None:
        """Lets the event loop go where it has stood for a SLICE."""
        if time.monotonic() > self._due:
            await asyncio.sleep(0)
            self._due = time.monotonic() + SLICE


async def _in_time(work: Coroutine[None, None, T]) -> T:
    """Raises OSError."""
    try:
        async with asyncio.timeout(DEADLINE):
            return await work
    except TimeoutError:
        raise OSError(errno.ETIMEDOUT, f"the kernel did not answer within {DEADLINE:g} s") from None


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


def paced(batch: float, sent: float, took: float, *, least: float, most: float) -> float:
    """How much to send at once next, so that it takes a SLICE. `sent` took so many seconds.

    One slow send may be the machine's doing: at most half, and double again.
    """
    fits = sent * SLICE / took if took > 0 else most
    return min(max(fits, batch / 2, least), batch * 2, most)
