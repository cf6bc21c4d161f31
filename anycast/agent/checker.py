"""When probes run: spread at the start, then on the beat the core asks for. What an outcome means is the core's affair.

TCP and HTTP checks go through the sweep, thousands of them without a task each; every other kind is a task.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from anycast.core.health import Outcome, Result
from anycast.core.model import Address, Target
from anycast.probes.finding import OK, Finding
from anycast.probes.run import probe
from anycast.probes.sweep.agenda import Agenda
from anycast.probes.sweep.runs import Run, run_of
from anycast.probes.sweep.sweep import Sweep

__all__ = ["Checker"]

_SPREAD = 0.001  # seconds between two first runs: 50 targets begin within 50 ms, 5,000 over their interval
_BATCH = 0.01  # seconds: runs that are due closer together than that begin together
_GAP = 0.001  # seconds between two runs against one address, however many checks it has


@dataclass(slots=True, eq=False)
class _Host:
    """An address, and when it may be bothered again."""

    free_at: float = 0.0
    slots: int = 0


@dataclass(slots=True, eq=False)
class _Slot:
    """One target's place: idle, or waiting for its time, or in the queue, or running."""

    target: Target
    host: _Host
    run: Run | None = None  # None: its runs are tasks
    at: float | None = None  # when it waits for its time
    beat: float = 0.0  # when the last run was due: the next one counts from here, so nothing drifts
    quiet: float | None = None  # seconds between runs that are not reported as long as they say nothing but ok
    queued: bool = False
    task: asyncio.Task[None] | None = None
    running: bool = False
    after: float | None = None  # asked for while the run was still ending
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
        sweeping: bool = True,
    ) -> None:
        """`limit`: tasks at the same time; the others wait in line, first come first served.

        `sweeping` False: every check is a task.
        """
        self._report = report
        self._run = run
        self._limit = limit
        self._sweeping = sweeping
        self._sweep: Sweep | None = None
        self._slots: dict[Target, _Slot] = {}
        self._hosts: dict[Address, _Host] = {}
        self._agenda: Agenda[_Slot] = Agenda()
        self._alarm: asyncio.TimerHandle | None = None
        self._rung = -math.inf  # when the alarm last went off
        self._queue: deque[_Slot] = deque()
        self._line: deque[_Slot] = deque()  # for the sweep
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending: set[Target] = set()  # removed, but their last run is still being cancelled

    @property
    def running(self) -> int:
        """Runs under way, cancelled ones that have not ended included."""
        return len(self._tasks) + (0 if self._sweep is None else self._sweep.running)

    @property
    def queued(self) -> int:
        """Targets whose time has come and that wait for a free place. Never back to 0: the node is too slow."""
        return sum(not slot.gone for line in (self._queue, self._line) for slot in line)

    def set_targets(self, targets: frozenset[Target]) -> None:
        """Start what is new, forget what is not in `targets`, leave the rest as it is."""
        for target in self._slots.keys() - targets:
            self._forget(self._slots.pop(target))
        new = targets - self._slots.keys()
        now = asyncio.get_running_loop().time()
        for place, target in enumerate(new):
            host = self._hosts.setdefault(target.address, _Host())
            host.slots += 1
            slot = self._slots[target] = _Slot(target, host)
            if self._sweeping:
                slot.run = run_of(target, slot)
            self._wait(slot, now + min(_SPREAD, target.check.interval / len(new)) * place)
        self._set_alarm()

    def schedule(self, target: Target, after: float, *, quiet: bool = False) -> None:
        """Run `target` again `after` seconds from when its last run was due; beats that have passed are left out.

        `quiet`: and then every `after` seconds, without a report, until a run says anything but a plain ok.
        A later call replaces an earlier one. Unknown targets are ignored.
        """
        slot = self._slots.get(target)
        if slot is None or slot.queued:
            return
        slot.quiet = after if quiet and after > 0 else None
        if slot.running:
            slot.after = after
        else:
            self._wait(slot, self._next_beat(slot, after))
            self._set_alarm()

    async def close(self) -> None:
        """Forget every target and wait until the last run has cleaned up."""
        self.set_targets(frozenset())
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._sweep is not None:
            self._sweep.close()
            self._sweep = None
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _forget(self, slot: _Slot) -> None:
        slot.gone = True
        slot.at = None
        slot.host.slots -= 1
        if not slot.host.slots:
            del self._hosts[slot.target.address]
        if slot.run is not None and self._sweep is not None:
            self._sweep.cancel(slot.run)
        if slot.task is not None:
            self._ending.add(slot.target)
            slot.task.cancel()

    def _next_beat(self, slot: _Slot, after: float) -> float:
        # A run that took longer than its interval, or an agent that was stopped, misses beats. To make up for
        # them would let all targets run at once.
        now = asyncio.get_running_loop().time()
        at = slot.beat + after
        if at < now:
            at = at + math.ceil((now - at) / after) * after if after > 0 else now
        return at

    def _wait(self, slot: _Slot, at: float) -> None:
        slot.at = slot.beat = at
        self._agenda.add(at, slot)

    def _set_alarm(self) -> None:
        first = self._agenda.next()
        if first is None:
            return
        at = max(first[0], self._rung + _BATCH)
        if self._alarm is not None:
            if self._alarm.when() <= at:
                return
            self._alarm.cancel()
        self._alarm = asyncio.get_running_loop().call_at(at, self._ring)

    def _ring(self) -> None:
        """Begin all that is due."""
        self._alarm = None
        now = self._rung = asyncio.get_running_loop().time()
        if self._sweep is not None:
            self._sweep.look()  # those that have ended may be due again
        agenda, line, queue = self._agenda, self._line, self._queue
        while (first := agenda.next()) is not None and first[0] <= now:
            at, slot = agenda.pop()
            if slot.at != at:
                continue  # replaced since, or gone
            host = slot.host
            if host.free_at > now:
                slot.at = host.free_at
                agenda.add(host.free_at, slot)
                continue
            host.free_at = now + _GAP
            slot.at = None
            slot.queued = True
            if slot.run is not None:
                line.append(slot)
            elif slot.target not in self._ending:  # else _ended puts it in line
                queue.append(slot)
        if line:
            self._start_runs()
        if queue:
            self._start_tasks()
        self._set_alarm()

    def _start_runs(self) -> None:
        sweep = self._sweep
        if sweep is None:
            sweep = self._sweep = Sweep(self._swept)
        line, limit = self._line, sweep.limit
        started = 0
        while line and sweep.running < limit:
            slot = line.popleft()
            if slot.gone or slot.run is None:
                continue
            slot.queued = False
            slot.running = True
            sweep.start(slot.run)
            started += 1
        sweep.settle(started)

    def _swept(self, run: Run, finding: Finding, took: float) -> None:
        slot = run.owner
        assert isinstance(slot, _Slot)
        slot.running = False
        if finding is OK and slot.quiet is not None:
            self._wait(slot, self._next_beat(slot, slot.quiet))
        else:
            slot.quiet = None
            self._report(slot.target, Result(outcome=finding.outcome, detail=finding.detail, took=took))

    def _start_tasks(self) -> None:
        while self._queue and len(self._tasks) < self._limit:
            slot = self._queue.popleft()
            if slot.gone:
                continue
            slot.queued = False
            slot.running = True
            slot.task = task = asyncio.get_running_loop().create_task(self._check(slot))
            self._tasks.add(task)
            task.add_done_callback(partial(self._ended, slot))

    async def _check(self, slot: _Slot) -> None:
        try:
            result = await self._run(slot.target)
        except Exception as error:  # noqa: BLE001 - a defect in one kind of check must not end the checking
            self._complain(error)
            result = Result(outcome=Outcome.UNKNOWN, detail=f"internal error, please report it: {error!r}")
        if slot.gone:
            return
        if slot.quiet is not None and result.outcome is Outcome.OK and not result.detail:
            slot.after = slot.quiet
        else:
            slot.quiet = None
            self._report(slot.target, result)

    def _ended(self, slot: _Slot, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        slot.task = None
        slot.running = False
        if not task.cancelled() and (error := task.exception()) is not None:
            self._complain(error)
        if slot.gone:
            self._ending.discard(slot.target)
            successor = self._slots.get(slot.target)
            if successor is not None and successor.queued:
                self._queue.append(successor)
        elif slot.after is not None:
            after, slot.after = slot.after, None
            self._wait(slot, self._next_beat(slot, after))
            self._set_alarm()
        self._start_tasks()

    def _complain(self, error: BaseException) -> None:
        loop = asyncio.get_running_loop()
        loop.call_exception_handler({"message": "unexpected error in the checker", "exception": error})
