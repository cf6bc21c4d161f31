"""When probes run: spread at the start, then as the core asks. What an outcome means is the core's affair."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from anycast.core.health import Outcome, Result
from anycast.core.model import Target
from anycast.probes.run import probe

__all__ = ["Checker"]

_SPREAD = 0.001  # seconds between two first runs: 50 targets begin within 50 ms, 5,000 over their interval


@dataclass(slots=True, eq=False)
class _Slot:
    """One target's place: idle, or waiting for its time, or in the queue, or running."""

    target: Target
    timer: asyncio.TimerHandle | None = None
    queued: bool = False
    task: asyncio.Task[None] | None = None
    next_at: float | None = None  # asked for while the run was still ending
    gone: bool = False


class Checker:
    """Runs every target's check, one run of a target at a time, and reports each result once.

    After a report the target rests until `schedule`. All methods are to be called inside the event loop.
    """

    def __init__(
        self,
        report: Callable[[Target, Result], None],
        run: Callable[[Target], Awaitable[Result]] = probe,
        *,
        limit: int = 512,
    ) -> None:
        """`limit`: runs at the same time; the others wait in line, first come first served."""
        self._report = report
        self._run = run
        self._limit = limit
        self._slots: dict[Target, _Slot] = {}
        self._queue: deque[_Slot] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending: set[Target] = set()  # removed, but their last run is still being cancelled

    @property
    def running(self) -> int:
        """Runs under way, cancelled ones that have not ended included."""
        return len(self._tasks)

    @property
    def queued(self) -> int:
        """Targets whose time has come and that wait for a free place. Never back to 0: the node is too slow."""
        return sum(not slot.gone for slot in self._queue)

    def set_targets(self, targets: frozenset[Target]) -> None:
        """Start what is new, forget what is not in `targets`, leave the rest as it is."""
        for target in self._slots.keys() - targets:
            self._forget(self._slots.pop(target))
        new = targets - self._slots.keys()
        now = asyncio.get_running_loop().time()
        for place, target in enumerate(new):
            slot = self._slots[target] = _Slot(target)
            self._wait(slot, now + min(_SPREAD, target.check.interval / len(new)) * place)

    def schedule(self, target: Target, after: float) -> None:
        """Run `target` again in `after` seconds; a later call replaces an earlier one. Unknown targets are ignored."""
        slot = self._slots.get(target)
        if slot is None or slot.queued:
            return
        at = asyncio.get_running_loop().time() + after
        if slot.task is None:
            self._wait(slot, at)
        else:
            slot.next_at = at

    async def close(self) -> None:
        """Forget every target and wait until the last run has cleaned up."""
        self.set_targets(frozenset())
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _forget(self, slot: _Slot) -> None:
        slot.gone = True
        if slot.timer is not None:
            slot.timer.cancel()
        if slot.task is not None:
            self._ending.add(slot.target)
            slot.task.cancel()

    def _wait(self, slot: _Slot, at: float) -> None:
        if slot.timer is not None:
            slot.timer.cancel()
        slot.timer = asyncio.get_running_loop().call_at(at, self._due, slot)

    def _due(self, slot: _Slot) -> None:
        slot.timer = None
        slot.queued = True
        if slot.target not in self._ending:  # else _ended puts it in line
            self._queue.append(slot)
            self._start()

    def _start(self) -> None:
        while self._queue and len(self._tasks) < self._limit:
            slot = self._queue.popleft()
            if slot.gone:
                continue
            slot.queued = False
            slot.task = task = asyncio.get_running_loop().create_task(self._check(slot))
            self._tasks.add(task)
            task.add_done_callback(partial(self._ended, slot))

    async def _check(self, slot: _Slot) -> None:
        try:
            result = await self._run(slot.target)
        except Exception as error:  # noqa: BLE001 - a defect in one kind of check must not end the checking
            self._complain(error)
            result = Result(outcome=Outcome.UNKNOWN, detail=f"internal error, please report it: {error!r}")
        if not slot.gone:
            self._report(slot.target, result)

    def _ended(self, slot: _Slot, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        slot.task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self._complain(error)
        if slot.gone:
            self._ending.discard(slot.target)
            successor = self._slots.get(slot.target)
            if successor is not None and successor.queued:
                self._queue.append(successor)
        elif slot.next_at is not None:
            at, slot.next_at = slot.next_at, None
            self._wait(slot, at)
        self._start()

    def _complain(self, error: BaseException) -> None:
        loop = asyncio.get_running_loop()
        loop.call_exception_handler({"message": "unexpected error in the checker", "exception": error})
