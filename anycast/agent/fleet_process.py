"""The process that asks the other nodes, as the agent keeps it: started where the configuration wants a view, heard, and
started again when it ends or when it is to ask others.

Nothing waits for it. What it says is read a frame at a time, with a pause after each: however much it says, it gets a
small share of the agent's time.
"""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import socket
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import structlog

from anycast.agent.lesser_process import LineError, Pause, Program, run
from anycast.core.events import FleetHeard
from anycast.core.fleet.codec import BrokenError
from anycast.core.fleet.values import Capacity
from anycast.core.values.configuration import Config
from anycast.core.values.fleet import Fleet, FleetView, OnDisagreement
from anycast.fleet.frames import LENGTH, MOST, Task
from anycast.fleet.receiving import Receiver

FIRST_PAUSE = 0.5  # seconds until the next one is started
PATIENCE = 15.0  # seconds for which it may say nothing: it says every two seconds that it is there
START = 60.0  # the same at first: it starts at a low priority
PAUSE = 0.002  # seconds after each frame: others have a turn

log = structlog.get_logger()

Post = Callable[[FleetHeard], None]


class FleetProcess:
    """`config`: the one in force now. `post`: takes what is heard."""

    def __init__(self, config: Callable[[], Config], post: Post) -> None:
        self._config = config
        self._post = post
        self._seen: Config | None = None
        self._changed = asyncio.Event()

    def stepped(self) -> None:
        """After each step of the engine: another configuration may want another view."""
        if self._config() is not self._seen:
            self._changed.set()

    async def keep(self) -> None:
        """For ever. Cancelled, it ends the one there is."""
        loop, pause = asyncio.get_running_loop(), Pause(FIRST_PAUSE)
        while True:
            task = self._task()
            if task is None:
                await self._until_other(None)
                continue
            began = loop.time()
            running = asyncio.create_task(run(_program(task), partial(_hear, task=task, post=self._post)))
            other = asyncio.create_task(self._until_other(task))
            try:
                await asyncio.wait({running, other}, return_when=asyncio.FIRST_COMPLETED)
                ended = running.done()
            finally:
                for each in (running, other):
                    each.cancel()
                found = (await asyncio.gather(running, other, return_exceptions=True))[0]
            if not ended:
                pause.forget()
                continue
            if isinstance(found, BaseException):
                log.error("agent.task_failed", exc_info=found)
                found = "a defect of the agent"
            again = pause.after(loop.time() - began)
            log.error("fleet.ended", why=found, again_in_s=again)
            why = f"the process that hears the other nodes has ended: {found}; another is started"
            self._post(FleetHeard(problem=why))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(again):
                    await self._until_other(task)

    def _task(self) -> Task | None:
        config = self._seen = self._config()
        fleet = config.fleet
        if fleet is None or not fleet.asks:
            return None
        if fleet.view is FleetView.PEERS and not any(one.host for one in fleet.peers):
            return None
        return Task(node=config.node.name, fleet=_asked(fleet), runtime_dir=config.node.runtime_dir)

    async def _until_other(self, task: Task | None) -> None:
        while self._task() == task:
            self._changed.clear()
            if self._config() is self._seen:
                await self._changed.wait()


def _asked(fleet: Fleet) -> Fleet:
    """Without what the process has nothing to do with: a change of that is none of the view."""
    return replace(
        fleet,
        max_out=fleet.max_out if fleet.is_strict else 1,
        min_announcing=1,
        velocity=fleet.velocity if fleet.view is FleetView.ETCD else None,  # there it asks for answers
        on_disagreement=OnDisagreement.ALARM,
        listen="",
        capacity=Capacity(),
    )


def _program(task: Task) -> Program:
    return Program(
        module="anycast.fleet",
        line="line",
        started="fleet.started",
        variables=tuple(secrets_of(task.fleet)),
    )


async def _hear(line: socket.socket, task: Task, post: Post) -> None:
    """For ever. Raises OSError, IncompleteReadError: it has gone; LineError."""
    try:
        await _frames(line, task, post)
    except BrokenError as error:
        raise LineError(f"it says what it must not ({error})") from None
    except TimeoutError:
        raise LineError(f"it has said nothing for {PATIENCE:g} s") from None


async def _frames(line: socket.socket, task: Task, post: Post) -> None:
    reader, writer = await asyncio.open_connection(sock=line.dup(), limit=MOST)
    try:
        data = pickle.dumps(task, pickle.HIGHEST_PROTOCOL)
        writer.write(LENGTH.pack(len(data)) + data)
        receiver, patience = Receiver(), START
        while True:
            async with asyncio.timeout(patience):
                (size,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
                if size > MOST:
                    raise BrokenError(f"a frame of {size} bytes")
                frame = await reader.readexactly(size)
            patience = PATIENCE
            event = receiver.take(frame)
            if event is not None:
                post(event)
            await asyncio.sleep(PAUSE)
    finally:
        writer.close()


def secrets_of(fleet: Fleet | None) -> list[str]:
    """The variables of the environment that hold secrets of the fleet."""
    if fleet is None:
        return []
    kept = (fleet.token, None if fleet.etcd is None else fleet.etcd.password)
    return [one.variable for one in kept if one is not None and one.variable]
