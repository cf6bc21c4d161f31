"""When probes run: spread at the start, then on the beat the core asks for. What an outcome means is the core's affair.

TCP and HTTP checks go through the sweep, thousands of them without a task each, and programs through the forker; every
other kind is a task.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import os
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial

from anycast.agent.beats import BATCH, OFTEN, Host, next_beat, offset, on_beat, together
from anycast.agent.run_log import RunLog
from anycast.core.health.phase import Fault, Outcome, Result
from anycast.core.values.checks import IdleCheck
from anycast.core.values.configuration import Address, Check, Target
from anycast.core.values.persistent import PersistentMap
from anycast.ops.source import Probes, Tripwires
from anycast.probes.finding import OK, Finding, unknown
from anycast.probes.programs import ProgramRun, Programs, is_program
from anycast.probes.run import check_of, probe
from anycast.probes.sweep.agenda import Agenda
from anycast.probes.sweep.alarm import Alarm
from anycast.probes.sweep.runs import Run, run_of, sweepable
from anycast.probes.sweep.sweep import TURN, Sweep
from anycast.probes.verdict import judge, judged, tell
from anycast.probes.wires.wires import State, Tripwire, Wires, is_wanted

__all__ = ["Checker"]

_SPREAD = 0.001  # seconds between two first runs: 50 targets begin within 50 ms, 5,000 over their interval
_DUE_A_TURN = 512
_MANY, _MASSES = 16, 32  # that began together: the next such lot may be twice as large, or four times
# Targets that are looked for, sorted and taken up in one turn: two milliseconds each.
_LOOKED_FOR, _SORTED, _TAKEN_UP = 2048, 512, 256
_KEEP = 5.0  # seconds: with longer intervals memory matters more than the microseconds of making a run anew
_TASKS_A_TURN = 16  # that are begun together: each may start a program
_LEAST = 1e-6  # seconds: a failure needs a duration whose sign can be seen


@dataclass(slots=True, eq=False)
class _Slot:
    """One target's place: idle, or waiting for its time, or in line, or running."""

    target: Target
    host: Host
    swept: bool  # else its runs are programs, or tasks
    program: bool
    tally: Probes  # of its kind
    base: float  # an instant of its beat: at its interval, it keeps to that
    at: float | None = None  # when it waits for its time
    due: float = 0.0  # when it should be, if its address is not bothered just then
    beat: float = 0.0  # when the last run was due: the next one counts from here, so nothing drifts
    reserved: bool = False  # `at` is its own instant among those of its address
    quiet: float | None = (
        None  # seconds between runs that are not reported as long as they say nothing but ok
    )
    queued: bool = False
    run: Run[_Slot] | ProgramRun[_Slot] | None = None
    is_rare: bool = False  # `run` is made anew each time
    task: asyncio.Task[Result] | None = None
    running: bool = False
    after: float | None = None  # asked for while the run was still ending
    dropped: bool = False  # the task that is ending is not to be reported
    gone: bool = False
    number: int = 0  # in the log of runs
    is_urgent: bool = (
        True  # due before its interval is over, for something has changed or it is new; or often
    )
    wire: Tripwire[_Slot] | None = None  # tells when its server ends a connection
    idle: bool = False  # that it stands is the check
    tripped: bool = False  # by the end of the wire, and it waits for its run
    off_beat: bool = False  # its run is the answer to that
    again: bool = False  # that came while a run was under way, which may tell of the time before
    anew: bool = False  # what stood before the clock jumped proves nothing


class Checker:
    """Runs every target's check, one run of a target at a time, and reports each result once.

    After a report the target rests until `schedule`. All methods are to be called inside the event loop.
    """

    def __init__(
        self,
        report: Callable[[Target, Result], None],
        run: Callable[[Target], Awaitable[Result]] = probe,
        *,
        forgotten: Callable[[Target], None] = lambda _: None,
        told: Callable[[str, dict[str, object]], None] = lambda *_: None,
        limit: int = 512,
    ) -> None:
        """`forgotten` is told each target that is no longer checked. `limit`: tasks at the same time; the others wait in line, first come first served.

        `told`: of the tripwires, what a log should say: an event and its fields.
        """
        self._report = report
        self._run = run
        self._forgotten = forgotten
        self._limit = limit
        self._sweep: Sweep[_Slot] | None = None
        self._programs: Programs[_Slot] = Programs(self._swept)
        self._slots: dict[Target, _Slot] = {}
        self._hosts: dict[Address, Host] = {}
        self._agenda: Agenda[_Slot] = Agenda()
        self._urgent: Agenda[_Slot] = Agenda()  # those that do not wait for a large lot
        self._loop = asyncio.get_running_loop()
        self._clock = self._loop.time
        self._alarm = Alarm(self._ring, self._next)
        self._rung = -math.inf  # when the alarm last went off
        self._pause = BATCH  # until it goes off again
        self._queue: deque[_Slot] = deque()  # for a task
        self._line: deque[_Slot] = deque()  # for the sweep
        self._asked: deque[_Slot] = deque()  # for the forker
        self._idle: deque[_Slot] = deque()  # to look at their wires
        self._wires: Wires[_Slot] = Wires(self._tripped, self._wired, told)
        self._tasks: set[asyncio.Task[Result]] = set()
        self.probes: defaultdict[str, Probes] = defaultdict(Probes)  # by kind of check
        self.runs = RunLog()
        self._numbers = itertools.count()
        self._numbered: PersistentMap[int, Target] = PersistentMap()
        self._adoption: Iterator[float] | None = (
            None  # of the targets that were set last, as far as that is not done
        )
        self._adopting: asyncio.Handle | None = None
        self._ending: set[Target] = set()  # removed, but their last run is still being cancelled

    @property
    def running(self) -> int:
        """Runs under way, cancelled ones that have not ended included."""
        return len(self._tasks) + self._programs.running + (0 if self._sweep is None else self._sweep.running)

    @property
    def queued(self) -> int:
        """Targets whose time has come and that wait for a free place. Never back to 0: the node is too slow."""
        lines = (self._queue, self._line, self._asked, self._idle)
        return sum(not slot.gone for line in lines for slot in line)

    @property
    def tripwires(self) -> Tripwires:
        """As they are now."""
        wires = self._wires
        return Tripwires(
            counts={str(state): wires.counts[state] for state in State},
            ends=dict(wires.ends),
            notes=wires.notes,
        )

    def set_targets(self, targets: AbstractSet[Target]) -> None:
        """Start what is new, forget what is not in `targets`, leave the rest as it is.

        Of thousands that is begun at once and goes on in turns of the event loop.
        """
        self._adoption = self._adopt(targets)
        self._go_on_adopting()

    def _go_on_adopting(self) -> None:
        if self._adopting is not None:
            self._adopting.cancel()
        self._adopting = None
        adoption = self._adoption
        if adoption is None:
            return
        done = 0.0
        for share in adoption:
            done += share
            if done >= 1.0:
                self._adopting = self._loop.call_soon(self._go_on_adopting)
                break
        else:
            self._adoption = None
        self._alarm.renew()

    def _adopt(self, targets: AbstractSet[Target]) -> Iterator[float]:
        """Yields shares of a turn. What is there by then is whole, so another may take its place."""
        for some in _batched(list(self._slots), _LOOKED_FOR):
            gone = [target for target in some if target not in targets]
            numbers = [self._slots[target].number for target in gone]
            for target in gone:
                self._forget(self._slots.pop(target))
            self._number({}, numbers)
            yield len(some) / _LOOKED_FOR + len(gone) / _TAKEN_UP
        # Merged, for to sort thousands takes longer than a turn.
        runs: list[list[Target]] = []
        for some in _batched(list(targets), _SORTED):
            new = [target for target in some if target not in self._slots]
            runs.append(sorted(new, key=_neighborhood))
            yield len(some) / _LOOKED_FOR + len(new) / _SORTED
        many = sum(map(len, runs))
        places = enumerate(heapq.merge(*runs, key=_neighborhood))
        began = self._clock()
        while lot := list(itertools.islice(places, _TAKEN_UP)):
            self._number(dict(self._take_up(target, place, many, began) for place, target in lot), [])
            yield len(lot) / _TAKEN_UP

    def _number(self, more: dict[int, Target], gone: list[int]) -> None:
        self._numbered = self.runs.numbers = self._numbered.updated(more, gone)

    def _take_up(self, target: Target, place: int, many: int, began: float) -> tuple[int, Target]:
        """The target at its place among `many` new ones. Returns its number, and itself."""
        host = self._hosts.get(target.address)
        if host is None:
            host = self._hosts[target.address] = Host()
        host.join(_shortest(target.check))
        swept = sweepable(target)
        program = is_program(target)
        if not (swept or program):
            check_of(type(target.check.kind))  # to be there when it is needed
        slot = _Slot(
            target,
            host,
            swept=swept,
            program=program,
            is_rare=target.check.interval >= _KEEP,
            tally=self.probes[target.check.kind.type],
            base=began + offset(place, target.check.interval),
            beat=began,
            number=next(self._numbers),
        )
        if is_wanted(target):
            slot.wire = self._wires.join(target, slot)
            slot.idle = isinstance(target.check.kind, IdleCheck)
        self._slots[target] = slot
        self._wait(slot, began + min(_SPREAD, target.check.interval / many) * place)
        return slot.number, target

    def probe_anew(self) -> None:
        """Forget that targets were well, and run every one of them soon, spread as at the start: the clock has jumped.

        Runs under way are dropped with their connections and are not reported: an answer that has lain there since
        before the jump proves nothing.
        """
        now = self._clock()
        for place, slot in enumerate(self._slots.values()):
            slot.quiet = slot.after = None
            slot.tripped = slot.again = False
            if slot.idle and slot.wire is not None:
                self._wires.cancel(slot.wire, slot)
                slot.anew, slot.running = True, False
            if slot.run is not None:
                self._cancel(slot.run)
                slot.running = False
            if slot.task is not None:
                slot.dropped = True
                slot.task.cancel()
            elif not slot.queued:
                self._wait(slot, now + min(_SPREAD, slot.target.check.interval / len(self._slots)) * place)

    def schedule(self, target: Target, after: float, *, quiet: bool = False) -> None:
        """Run `target` again `after` seconds from when its last run was due; beats that have passed are left out.

        At the check's own interval the target has a beat of its own, so the first pause may be shorter.
        `quiet`: and then every `after` seconds, without a report, until a run says anything but a plain ok.
        A later call replaces an earlier one. Unknown targets are ignored.
        """
        slot = self._slots.get(target)
        if slot is None or slot.queued or slot.tripped:
            return
        slot.quiet = after if quiet and after > 0 else None
        slot.after = after
        if not slot.running:
            if slot.quiet is not None and self._is_proven(slot):
                slot.after = slot.at = None
            else:
                self._go_on(slot)

    def spare(self) -> None:
        """Something else in this process could not be done: if it was for lack of a descriptor, tripwires give theirs."""
        try:
            os.close(os.dup(0))
        except OSError:
            self._wires.give_up()

    async def close(self) -> None:
        """Forget every target and wait until the last run has cleaned up."""
        self.set_targets(frozenset())
        while self._adoption is not None:
            self._go_on_adopting()
        if self._adopting is not None:
            self._adopting.cancel()
        self._alarm.cancel()
        if self._sweep is not None:
            self._sweep.close()
            self._sweep = None
        self._wires.close()
        await self._programs.close()
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _forget(self, slot: _Slot) -> None:
        slot.gone = True
        self._forgotten(slot.target)
        slot.at = None
        slot.host.leave(_shortest(slot.target.check))
        if not slot.host.targets:
            del self._hosts[slot.target.address]
        if slot.run is not None:
            self._cancel(slot.run)
        if slot.wire is not None:
            self._wires.leave(slot.wire, slot, proof=slot.idle)
        if slot.task is not None:
            self._ending.add(slot.target)
            slot.task.cancel()

    def _cancel(self, run: Run[_Slot] | ProgramRun[_Slot]) -> None:
        if isinstance(run, ProgramRun):
            self._programs.cancel(run)
        elif self._sweep is not None:
            self._sweep.cancel(run)

    def _go_on(self, slot: _Slot) -> None:
        """Wait for the next beat, if one was asked for."""
        after, slot.after = slot.after, None
        if after is None:
            return
        slot.is_urgent = after < max(slot.target.check.interval, OFTEN)
        if after == slot.target.check.interval:
            self._wait(slot, on_beat(slot.base, after, slot.beat, self._clock()))
        else:
            self._wait(slot, next_beat(slot.beat, after, self._clock()))

    def _wait(self, slot: _Slot, at: float) -> None:
        slot.due = at
        urgent = slot.is_urgent or at - self._clock() < BATCH
        if slot.program and not urgent:
            at = together(at)
        slot.at = at
        slot.reserved = False
        (self._urgent if urgent else self._agenda).add(at, slot)
        if at < self._alarm.at:
            self._alarm.renew()

    def _next(self) -> float:
        """When the first is due with the next batch, or who waits in line and could begin."""
        if self._line and (self._sweep is None or not self._sweep.full):
            return self._rung  # at once, after the event loop has had its turn
        if self._idle or (self._asked and not self._programs.full):
            return self._rung
        if self._queue and len(self._tasks) < self._limit:
            return self._rung + 2 * TURN
        regular = max(self._agenda.soonest(), self._rung + self._pause)
        urgent = max(self._urgent.soonest(), self._rung + min(self._pause, BATCH))
        return min(regular, urgent)

    def _ring(self) -> None:
        """Begin what is due, but not for longer than a turn: the rest has the next one."""
        self._rung = now = self._clock()
        if self._sweep is not None:
            self._sweep.look()  # those that have ended may be due again
        taken = self._take_due(self._urgent, now) + self._take_due(self._agenda, now)
        many = len(self._line)
        self._pause = BATCH if many < _MANY else 2 * BATCH if many < _MASSES else 4 * BATCH
        if taken >= _DUE_A_TURN:
            self._pause = 0.0  # there are more
        if self._line:
            self._start_runs()
        if self._asked:
            self._start_programs()
        if self._idle:
            self._ask_wires()
        self._start_tasks(_TASKS_A_TURN)

    def _take_due(self, agenda: Agenda[_Slot], now: float) -> int:
        """How many have been looked at."""
        due = agenda.due(now, _DUE_A_TURN)
        for slot in due:
            if slot.at is None or slot.at > now:
                continue  # replaced since, or gone, or in the agenda twice
            if not slot.reserved and slot.host.targets > 1:
                slot.reserved = True
                slot.at = slot.host.reserve(slot.at, now)
                if slot.at > now:
                    agenda.add(slot.at, slot)
                    continue
            slot.at = None
            slot.beat = slot.due
            slot.queued = True
            if slot.tripped:
                slot.tripped, slot.off_beat = False, True
            if slot.swept:
                self._line.append(slot)
            elif slot.program:
                self._asked.append(slot)
            elif slot.idle:
                self._idle.append(slot)
            elif slot.target not in self._ending:  # else _ended puts it in line
                self._queue.append(slot)
        return len(due)

    def _start_runs(self) -> None:
        sweep = self._sweep
        if sweep is None:
            try:
                sweep = self._sweep = Sweep(self._swept, self._well)
            except OSError as error:
                return self._refuse_line(judge(error))
        line, started = self._line, 0
        until = self._clock() + TURN
        start = sweep.start
        while line and sweep.now <= until and not sweep.full:
            slot = line.popleft()
            if slot.gone:
                continue
            slot.queued = False
            slot.running = True
            run = slot.run
            if not isinstance(run, Run):
                run = slot.run = run_of(slot.target, slot)
            start(run)
            started += 1
        sweep.settle(started)
        return None

    def _start_programs(self) -> None:
        """All together: the forker does the work."""
        line, programs = self._asked, self._programs
        # One that ends at once may stand in line again, and leaves room for all the others.
        for _ in range(min(len(line), _DUE_A_TURN)):
            if programs.full:
                break
            slot = line.popleft()
            if slot.gone:
                continue
            slot.queued, slot.running = False, True
            run = slot.run
            if not isinstance(run, ProgramRun):
                run = slot.run = ProgramRun(slot.target, slot)
            programs.start(run)
        programs.settle()

    def _refuse_line(self, finding: Finding) -> None:
        slots = list(self._line)
        self._line.clear()
        for slot in slots:
            slot.queued = False
            if not slot.gone:
                slot.tally.count(finding.outcome, 0.0)
                self._tell(slot, finding.result(0.0))
                self._go_on(slot)

    def _ask_wires(self) -> None:
        """Whether they stand; those that do not are made anew."""
        line, until = self._idle, self._clock() + TURN
        while line and self._clock() <= until:
            slot = line.popleft()
            if slot.gone or slot.wire is None:
                continue
            slot.queued, slot.running = False, True
            anew, slot.anew = slot.anew, False
            finding = self._wires.ask(slot.wire, slot, slot.target.check.timeout, anew=anew)
            if finding is not None:
                self._wired(slot, finding, 0.0)

    def _wired(self, slot: _Slot, finding: Finding, took: float) -> None:
        """An idle check has its result."""
        slot.running = False
        slot.tally.count(finding.outcome, took)
        self._remember(slot, finding.outcome, took)
        self._heard(slot, finding.outcome)
        if finding is OK and slot.quiet is not None and slot.after is None and self._is_proven(slot):
            return  # for as long as it stands
        self._tell(slot, finding.result(took))
        self._go_on(slot)
        self._alarm.renew()

    def _is_proven(self, slot: _Slot) -> bool:
        return slot.idle and not slot.anew and slot.wire is not None and self._wires.stands(slot.wire)

    def _tripped(self, slot: _Slot, at_once: bool) -> None:  # noqa: FBT001 - a callback
        """The connection of its wire has ended: ask. What that means the check decides."""
        if slot.gone or slot.queued:
            return
        if slot.running:
            slot.again = at_once
            return
        check, now = slot.target.check, self._clock()
        if at_once:
            slot.tripped = slot.is_urgent = True
            at = max(now, slot.beat + min(check.fast_interval, check.interval)) if slot.idle else now
        elif slot.idle:
            at = on_beat(slot.base, check.interval, slot.beat, now)
        else:
            return
        if slot.at is None or slot.at > at:
            self._wait(slot, at)

    def _heard(self, slot: _Slot, outcome: Outcome) -> None:
        """A run of a target with a wire has ended."""
        if slot.wire is None or outcome is Outcome.UNKNOWN:
            return
        if slot.again:  # it may have been asked before the end
            slot.again = False
            if outcome is Outcome.OK:
                self._loop.call_soon(self._tripped, slot, True)
                return
        self._wires.heard(slot.wire, ok=outcome is Outcome.OK)

    def _swept(self, run: Run[_Slot] | ProgramRun[_Slot], finding: Finding, took: float) -> None:
        slot = run.owner
        slot.running = False
        off_beat, slot.off_beat = slot.off_beat, False
        if slot.wire is not None:
            self._heard(slot, finding.outcome)
        if slot.is_rare and not run.may_keep:
            slot.run = None
        slot.tally.count(finding.outcome, took)
        self._remember(slot, finding.outcome, took)
        if finding is OK and slot.quiet is not None and slot.after is None:
            at = slot.beat + slot.quiet  # mostly the next beat: to ask for it costs more than to look
            now = run.started + took
            if off_beat:
                at = on_beat(slot.base, slot.quiet, slot.beat, now)
                slot.is_urgent = slot.quiet < OFTEN
            self._wait(slot, at if at >= now else next_beat(slot.beat, slot.quiet, now))
        else:
            self._tell(slot, finding.result(took))
            self._go_on(slot)
        if self._line or self._asked:
            self._alarm.renew()  # there is room for one more

    def _well(self, runs: Iterator[Run[_Slot]], now: float) -> None:
        """As `_swept` for each of them, with OK: thousands of checks a second come here, and say nothing new."""
        numbers: list[int] = []
        took: list[float] = []
        same: list[float] = []  # those of one kind
        tally: Probes | None = None
        regular, urgent = self._agenda.add, self._urgent.add
        soonest = math.inf
        for run in runs:
            slot = run.owner
            quiet = slot.quiet
            wire = slot.wire
            if quiet is None or slot.after is not None or (wire is not None and _is_awaited(slot, wire)):
                self._swept(run, OK, now - run.started)
                continue
            slot.running = False
            if slot.is_rare and not run.may_keep:
                slot.run = None
            numbers.append(slot.number)
            lasted = now - run.started
            took.append(lasted)
            if slot.tally is not tally:
                if tally is not None:
                    tally.count_all(Outcome.OK, same)
                same, tally = [], slot.tally
            same.append(lasted)
            at = slot.beat + quiet
            if at < now:
                at = next_beat(slot.beat, quiet, now)
            slot.at = slot.due = at
            slot.reserved = False
            (urgent if slot.is_urgent else regular)(at, slot)
            soonest = min(soonest, at)
        if tally is not None:
            tally.count_all(Outcome.OK, same)
        self.runs.extend(numbers, took)
        if self._line or soonest < self._alarm.at:
            self._alarm.renew()

    def _tell(self, slot: _Slot, result: Result) -> None:
        slot.quiet = None
        if result.fault is Fault.DESCRIPTORS:
            self._wires.give_up()
        try:
            self._report(slot.target, result)
        except Exception as error:  # noqa: BLE001 - the others are to go on
            tell(error, slot.target)

    def _start_tasks(self, most: int) -> None:
        while self._queue and len(self._tasks) < self._limit and most:
            slot = self._queue.popleft()
            if slot.gone:
                continue
            most -= 1
            slot.queued = False
            slot.running = True
            slot.task = task = self._loop.create_task(self._check(slot.target))
            self._tasks.add(task)
            task.add_done_callback(partial(self._ended, slot))

    async def _check(self, target: Target) -> Result:
        try:
            return await self._run(target)
        except Exception as error:  # noqa: BLE001 - a defect in one kind of check must not end the checking
            return judged(error, target, heard=False).result(0.0)

    def _ended(self, slot: _Slot, task: asyncio.Task[Result]) -> None:
        self._tasks.discard(task)
        slot.task = None
        slot.running = False
        if slot.gone:
            self._ending.discard(slot.target)
            successor = self._slots.get(slot.target)
            if successor is not None and successor.queued:
                self._queue.append(successor)
        elif slot.dropped:
            slot.dropped = False
            slot.after = None
            self._wait(slot, self._clock())
        else:
            result = _defect("the run was cancelled") if task.cancelled() else task.result()
            slot.tally.count(result.outcome, result.took)
            self._remember(slot, result.outcome, result.took)
            self._heard(slot, result.outcome)
            if slot.quiet is not None and result.outcome is Outcome.OK and not result.detail:
                slot.after = slot.quiet if slot.after is None else slot.after
            else:
                self._tell(slot, result)
            self._go_on(slot)
        self._start_tasks(1)
        self._alarm.renew()

    def _remember(self, slot: _Slot, outcome: Outcome, took: float) -> None:
        if outcome is not Outcome.UNKNOWN:
            self.runs.add(slot.number, took if outcome is Outcome.OK else -max(took, _LEAST))


def _is_awaited(slot: _Slot, wire: Tripwire[_Slot]) -> bool:
    """Whether the wire learns something from a run that goes well."""
    return slot.off_beat or slot.again or wire.state is State.OFF


def _defect(what: str) -> Result:
    return unknown(f"internal error, please report it: {what}", Fault.INTERNAL).result(0.0)


def _batched(targets: list[Target], size: int) -> Iterator[list[Target]]:
    for begin in range(0, len(targets), size):
        yield targets[begin : begin + size]


def _neighborhood(target: Target) -> tuple[int, int, int]:
    """Real servers of one pool stand together."""
    return target.port, target.address.version, int(target.address)


def _shortest(check: Check) -> float:
    return min(check.interval, check.fast_interval)
