"""The agent's end of the feed: tells one ops process what has changed, a few times a second, and never waits for it.

At most one message is under way, and the next is made once the one before has been read: so a reader that is slow gets
fewer and larger steps, and one that stands still costs the agent one message and nothing more. A message goes out in
pieces as it is made, so that it is never in memory whole, and costs what has changed since the one before.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import struct
import termios
import time
from collections.abc import Iterable
from typing import Protocol

from anycast.agent.lesser_process import LineError
from anycast.agent.run_log import RunLog
from anycast.core import events as ev
from anycast.core.hooks import VERDICT
from anycast.ops.delta import hollow, pieces
from anycast.ops.feed import Message, bare, encode
from anycast.ops.hub import Hub
from anycast.ops.source import Facts

PAUSE = 0.15  # seconds between two messages, unless there is a hurry
LEAST = 0.01  # seconds between two messages
PATIENCE = 15.0  # seconds an ops process has to read a message
START = 60.0  # seconds it has for the first: it starts at a low priority, perhaps on a machine with no time to spare
SLICE = 0.001  # seconds of comparing and packing until others have a turn; a piece may come on top
_LOOKS = (0.001, 0.05)  # seconds between two looks whether a message has been read, at first and in the end


class StuckError(LineError):
    """The ops process does not read."""


class Engine(Protocol):
    """What is told: `anycast.agent.engine.Engine`."""

    @property
    def facts(self) -> Facts: ...

    @property
    def events(self) -> Hub: ...

    @property
    def runs(self) -> RunLog: ...


class Feed:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._revision = 0  # of the message that was made last
        self._changed = asyncio.Event()
        self._hurry = asyncio.Event()

    def stepped(self, effects: Iterable[ev.Effect]) -> None:
        """After each step of the engine: a change of a verdict is sent at once."""
        self._changed.set()
        if any(isinstance(effect, ev.Log) and effect.event == VERDICT for effect in effects):
            self._hurry.set()

    def mark(self) -> int:
        """The revision that will hold all that is known now; it is on its way at once."""
        self._changed.set()
        self._hurry.set()
        return self._revision + 1

    async def run(self, line: socket.socket) -> None:
        """Tell the process at the other end of `line` everything, then what changes, for ever.

        Raises OSError: it has gone; StuckError.
        """
        line.setblocking(False)
        sent: Facts | None = None
        patience = START
        seen = 0  # number of the last event
        self._changed.set()
        while True:
            await self._news()
            self._revision += 1
            revision, facts = self._revision, bare(self._engine.facts)
            events = self._engine.events.after(seen)
            seen = events[-1].id if events else seen
            ran, took = self._engine.runs.take()
            if sent is None:
                sent = hollow(facts)
                await _send(line, encode(Message(revision=revision, facts=sent, more=True)), patience)
            await self._tell(line, revision, sent, facts, patience)
            sent = facts
            lines = tuple(event.text for event in events)
            told = Message(revision=revision, events=lines, ran=ran, took=took, pid=os.getpid())
            await _send(line, encode(told), patience)
            await _read(line, patience)
            patience = PATIENCE

    async def _tell(
        self, line: socket.socket, revision: int, old: Facts, new: Facts, patience: float
    ) -> None:
        """What has changed, a slice at a time."""
        began = time.perf_counter()
        for piece in pieces(old, new):
            if piece is not None:
                await _send(line, encode(Message(revision=revision, changes=piece, more=True)), patience)
            if time.perf_counter() - began > SLICE:
                await asyncio.sleep(0)
                began = time.perf_counter()

    async def _news(self) -> None:
        """Until there is something to tell, not too soon after the last."""
        await asyncio.sleep(LEAST)
        await self._changed.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PAUSE):
                await self._hurry.wait()
        self._changed.clear()
        self._hurry.clear()


async def _send(line: socket.socket, frame: bytes, patience: float) -> None:
    """Until the kernel has it. Raises OSError, StuckError."""
    try:
        async with asyncio.timeout(patience):
            await asyncio.get_running_loop().sock_sendall(line, frame)
    except TimeoutError:
        raise StuckError(f"it has read nothing for {patience:g} s") from None


async def _read(line: socket.socket, patience: float) -> None:
    """Until all has been read. Raises StuckError."""
    try:
        async with asyncio.timeout(patience):
            pause, longest = _LOOKS
            while _unread(line):
                await asyncio.sleep(pause)
                pause = min(2 * pause, longest)
    except TimeoutError:
        raise StuckError(f"it has read nothing for {patience:g} s") from None


def _unread(line: socket.socket) -> int:
    """Bytes, as the kernel counts them, that the other end has not taken."""
    (size,) = struct.unpack("i", fcntl.ioctl(line, termios.TIOCOUTQ, bytes(4)))
    return int(size)
