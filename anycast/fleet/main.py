"""The process: hears the other nodes, and tells the agent."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import pickle
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from anycast.core.fleet.values import Disagreement, Register
from anycast.core.values.fleet import FleetView
from anycast.daemon_threads import DaemonThreads
from anycast.fleet.agreeing import Agreeing
from anycast.fleet.beats import beat_after, beat_before
from anycast.fleet.frames import (
    LENGTH,
    Task,
    Told,
    differing,
    disagreement,
    is_urgent,
    packed,
    summed,
    turns,
)
from anycast.fleet.peers import Peers
from anycast.lesser import become_lesser, set_up_logging

NAME = "anycast-fleet"  # as the kernel knows it
BEAT = 2.0  # seconds between two frames with signs of life, and with figures that alone have changed
TOGETHER = 0.05  # seconds in which the answers of nodes that are asked together come


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m anycast.fleet")
    parser.add_argument("--line", type=int, required=True, help="the descriptor that leads to the agent")
    parser.add_argument("--agent", type=int, required=True, help="the agent's process id")
    options = parser.parse_args(argv)
    become_lesser(NAME)
    if os.getppid() != options.agent:
        return 0  # it has ended meanwhile, and nobody would notice
    set_up_logging()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(socket.socket(fileno=options.line)))
    return 0


async def serve(line: socket.socket) -> None:
    """Until the agent has gone."""
    asyncio.get_running_loop().set_default_executor(DaemonThreads())
    reader, writer = await asyncio.open_connection(sock=line)
    try:
        (size,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
        task: Task = pickle.loads(await reader.readexactly(size))  # noqa: S301 - from the agent
        teller = Teller(writer)
        peers = Peers(task.fleet, teller.hear, teller.alive)
        agreeing = Agreeing(task.runtime_dir, peers.fetch, teller.differs)
        teller.listeners.append(agreeing)
        asking = asyncio.create_task(_asking(task, teller, peers))
        comparing = asyncio.create_task(agreeing.run())
        telling = asyncio.create_task(teller.run())
        turning = asyncio.create_task(_turning(task, teller))
        ending = asyncio.create_task(reader.read(1))
        try:
            await asyncio.wait(
                {asking, comparing, telling, turning, ending}, return_when=asyncio.FIRST_COMPLETED
            )
            for one in (asking, comparing, telling, turning):
                if one.done():
                    one.result()
        finally:
            every = (asking, comparing, telling, turning, ending)
            for each in every:
                each.cancel()
            await asyncio.gather(*every, return_exceptions=True)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # the agent has ended
    finally:
        writer.close()


async def _asking(task: Task, teller: Teller, peers: Peers) -> None:
    if task.fleet.view is FleetView.ETCD:
        from anycast.fleet.register import keep_registered  # large, and most fleets have no etcd

        await keep_registered(task, teller.hear, teller.alive, teller.view)
    else:
        await peers.run()


async def _turning(task: Task, teller: Teller) -> None:
    if task.fleet.etcd is None:
        await asyncio.Event().wait()
    from anycast.fleet.strict import keep_turn  # large, and most fleets have no etcd

    await keep_turn(task, teller.turn)


class Teller:
    """Tells the agent what has changed since it was told last, however much came meanwhile."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._known: dict[str, Told] = {}
        self._sent: dict[str, Told] = {}
        self._news: dict[str, None] = {}  # names, in order
        self._life: dict[str, float] = {}
        self._problem: str | None = ""  # that is still to be told
        self._turns: Register | None = None
        self._differs: dict[str, Disagreement | None] = {}
        self._changed = asyncio.Event()
        self.listeners: list[Agreeing] = []  # what else hears of each node

    def turn(self, found: Register) -> None:
        self._turns = found
        self._changed.set()

    def hear(self, told: Told) -> None:
        """Figures alone wait for the beat: they change all the time."""
        for one in self.listeners:
            one.hear(told)
        self._known[told.name] = told
        self._news[told.name] = None
        self._life.pop(told.name, None)
        if is_urgent(self._sent.get(told.name), told):
            self._changed.set()

    def view(self, problem: str) -> None:
        """Of the view as a whole; empty: it is over."""
        self._problem = problem
        self._changed.set()

    def alive(self, name: str, at: float) -> None:
        for one in self.listeners:
            one.alive(name, at)
        self._life[name] = at

    def differs(self, name: str, found: Disagreement | None) -> None:
        self._differs[name] = found
        self._changed.set()

    async def run(self) -> None:
        """Until it is cancelled. Raises ConnectionError."""
        loop = asyncio.get_running_loop()
        beat = loop.time() + TOGETHER  # with what has just been answered
        # Later ones go together with what the second of two groups has answered, which are asked by the wall clock.
        base = beat_before(loop.time(), time.time(), BEAT) + BEAT / 2 + TOGETHER
        self._changed.set()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(beat):
                    await self._changed.wait()
                    await asyncio.sleep(TOGETHER)
            on_beat = (now := loop.time()) >= beat
            if on_beat:
                beat = beat_after(base, BEAT, now)
            await self._tell(
                [*self._fresh(all_of_it=self._changed.is_set() or on_beat), *self._alive(on_beat=on_beat)]
            )

    def _fresh(self, *, all_of_it: bool) -> Iterator[Sequence[Any]]:
        if not all_of_it:
            return
        self._changed.clear()
        if self._problem is not None:
            yield "view", self._problem
            self._problem = None
        if self._turns is not None:
            yield turns(self._turns)
            self._turns = None
        some = [self._known[name] for name in self._news]
        self._news.clear()
        for new in some:
            yield from differing(self._sent.get(new.name), new)
            self._sent[new.name] = new
        yield from summed(some)
        differs, self._differs = self._differs, {}
        for name, found in differs.items():
            yield disagreement(name, found)

    def _alive(self, *, on_beat: bool) -> Iterator[Sequence[Any]]:
        """Of those whose figures wait, too; and of this process, that does not hang."""
        if not on_beat:
            return
        life, self._life = self._life, {}
        life |= {name: at for name in self._news if (at := self._known[name].heard) is not None}
        yield "life", {name: at for name, at in life.items() if name in self._sent}

    async def _tell(self, frames: Iterable[Sequence[Any]]) -> None:
        for frame in packed(frames):
            self._writer.write(frame)
            await self._writer.drain()
