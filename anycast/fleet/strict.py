"""Keeps what etcd has of this node's turn to what the node says of it, and tells the agent what stands there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import structlog

from anycast.core.fleet.codec import BrokenError
from anycast.core.fleet.values import Register, Turn
from anycast.core.maintenance.stages import NODE
from anycast.fleet.etcd import Client, EtcdError
from anycast.fleet.frames import Task
from anycast.fleet.own import own
from anycast.fleet.slots import Slots

BEAT = 0.5  # seconds between two looks at what the node says of its turn
_MOST_WHY = 200

log = structlog.get_logger()


async def keep_turn(task: Task, tell: Callable[[Register], None]) -> None:
    """Until it is cancelled."""
    settings = task.fleet.etcd
    if settings is None:
        return
    async with Client(settings) as client:
        slots = Slots(client, settings.prefix, task.node, task.fleet.max_out)
        loop, told, look = asyncio.get_running_loop(), Register(), -1.0
        wanted: Turn | None = None
        while True:
            try:
                turn = (await own(Path(task.runtime_dir))).document.turn
                if turn is not None and turn.scope != NODE:
                    turn = None  # of a VIP the nodes agree among themselves
            except (OSError, TimeoutError, BrokenError):
                turn = wanted  # its ops process is being started again: that ends no turn
            # While it has none there is no hurry.
            if turn is not None or wanted is not None or loop.time() >= look:
                wanted, look = turn, loop.time() + task.fleet.interval
                told = await _step(slots, turn, told)
                tell(told)
            await asyncio.sleep(BEAT)


async def _step(slots: Slots, wanted: Turn | None, before: Register) -> Register:
    try:
        return await slots.step(wanted)
    except (EtcdError, OSError) as error:
        why = " ".join(str(error).split())[:_MOST_WHY]
        if why != before.problem:
            log.warning("fleet.etcd_failed", why=why)
        return Register(holders=before.holders, queue=before.queue, heard=before.heard, problem=why)
