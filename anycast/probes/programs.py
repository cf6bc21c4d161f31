"""Checks that are programs, as the agent runs them: asked of the forker, with a time limit, without a task for each.

A program that has to go is killed by the forker. As long as it is not gone, its check starts no other: they would
pile up, and two runs of a check would meet.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import subprocess
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any, Generic, TypeAlias, TypeVar

from anycast.core.health.phase import Fault, Outcome, Result
from anycast.core.values.configuration import HERE, Address, CommandCheck, Target
from anycast.probes import links
from anycast.probes.command import judge_exit, not_started
from anycast.probes.finding import OK, Finding, Progress, fail, late, unusable
from anycast.probes.forker import NAME
from anycast.probes.sweep.agenda import Agenda
from anycast.probes.sweep.alarm import Alarm
from anycast.probes.verdict import judge, tell
from anycast.process import LINE, PATH, how_it_ended, kill_group, start_module, watch

__all__ = ["ProgramRun", "Programs", "is_program", "once"]

KILL_GRACE = 0.5  # seconds a killed program has to be gone before its run ends without it
_MOST = 512  # programs at once
_LATE = 1.0  # seconds past the timeout: this process, not the program, was too slow
_START = 10.0  # seconds for the forker to come up
_AGAIN = 1.0  # seconds after the end of a forker until there may be another
_GOODBYE = 2.0  # seconds for one that is to end
_BYTES = 8 * 1024  # of what it says in one turn of the event loop

_NOBODY = Progress()  # nobody looks on

Owner = TypeVar("Owner")
Key: TypeAlias = tuple[CommandCheck, Address, int]


def is_program(target: Target) -> bool:
    return isinstance(target.check.kind, CommandCheck)


class ProgramRun(Generic[Owner]):
    """The runs of one target's check, one after another."""

    may_keep = False  # it holds nothing between two runs

    __slots__ = (
        "_asked",
        "busy",
        "deadline",
        "key",
        "number",
        "owner",
        "pid",
        "progress",
        "started",
        "target",
        "timeout",
        "verdict",
    )

    def __init__(self, target: Target, owner: Owner, progress: Progress = _NOBODY) -> None:
        kind = target.check.kind
        if not isinstance(kind, CommandCheck):
            raise TypeError(kind)
        self.target = target
        self.owner = owner
        self.progress = progress
        self.timeout = target.check.timeout
        self.key: Key = (kind, target.address, target.port)
        where = "" if target.address == HERE else str(target.address)
        what = json.dumps([kind.argv, where, str(target.port) if where else ""])
        self._asked = f",{what[1:]}\n"
        self.busy = False
        self.started = self.deadline = 0.0
        self.number: int | None = None  # of its program; None: it waits for an earlier one to be gone
        self.pid: int | None = None  # once that is told
        self.verdict: Finding | None = None  # its time is over, and it has been killed

    def asked(self, number: int) -> str:
        """What the forker is told, to start it."""
        return f"[{number}{self._asked}"


class Programs(Generic[Owner]):
    """Runs that are under way. Inside one event loop; `finished` is called once for each run that was started.

    `finished(run, finding, seconds it took)` may start the next run. The forker is started with the first run.
    """

    def __init__(
        self,
        finished: Callable[[ProgramRun[Owner], Finding, float], None],
        launch: Callable[[], tuple[socket.socket, asyncio.Future[int | None]]] | None = None,
    ) -> None:
        """`launch`: starts a forker, and returns the line to it and its end. Raises OSError."""
        self._finished = finished
        self._launch = launch or _launch
        self._loop = asyncio.get_running_loop()
        self._clock = self._loop.time
        self._line: socket.socket | None = None
        self._exited: asyncio.Future[int | None] | None = None
        self._ready = False
        self._not_before = 0.0
        self._none: Finding = OK  # why there is none: the last one has ended, or could not be started
        self._unsent = bytearray()
        self._is_writing = False  # the event loop tells when the line takes more
        self._rest = b""
        self._numbers = itertools.count(1)
        self._runs: dict[int, ProgramRun[Owner]] = {}  # by the number of their program
        self._dying: dict[int, tuple[Key, int | None]] = {}  # programs whose runs have ended
        self._occupied: dict[Key, int] = {}  # by which of them
        self._parked: defaultdict[Key, deque[ProgramRun[Owner]]] = defaultdict(deque)
        self._deadlines: Agenda[ProgramRun[Owner]] = Agenda()
        self._alarm = Alarm(self._expire, self._deadlines.soonest)
        self.running = 0

    @property
    def full(self) -> bool:
        return self.running >= _MOST

    def start(self, run: ProgramRun[Owner]) -> None:
        """Begin a run that is not under way. `settle` is due once all that start together have."""
        run.started = now = self._clock()
        run.busy, run.number, run.pid, run.verdict = True, None, None, None
        self.running += 1
        why = self._no_forker(now)
        if why is not None:
            self._finish(run, why)
        elif run.key in self._occupied:
            self._parked[run.key].append(run)
            self._until(run, now + KILL_GRACE)
        else:
            self._ask(run)

    def settle(self) -> None:
        """Those that have been started together begin."""
        line = self._line
        if line is None or self._is_writing or not self._unsent:
            return
        try:
            sent = line.send(self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # it has gone, which `_hear` finds
        del self._unsent[:sent]
        if self._unsent:
            self._is_writing = True
            self._loop.add_writer(line.fileno(), self._write_on)

    def _write_on(self) -> None:
        if self._line is not None:
            self._loop.remove_writer(self._line.fileno())
        self._is_writing = False
        self.settle()

    def cancel(self, run: ProgramRun[Owner]) -> None:
        """End a run without a report, and its program."""
        if not run.busy:
            return
        run.busy = False
        self.running -= 1
        if run.number is None:
            self._parked[run.key].remove(run)
            return
        self._give_up(run.number)
        self._kill(run.number)
        self.settle()

    async def close(self) -> None:
        """End everything without a report, and wait until it is gone."""
        for run in (*self._runs.values(), *itertools.chain.from_iterable(self._parked.values())):
            run.busy = False
        self._runs.clear()
        self._parked.clear()
        self.running = 0
        self._alarm.cancel()
        self._hang_up()
        if self._exited is not None:
            await asyncio.wait({self._exited}, timeout=_GOODBYE)

    def _no_forker(self, now: float) -> Finding | None:
        """Why there is none, if there is none and none can be started."""
        if self._line is not None:
            return None
        if now < self._not_before:
            return self._none
        self._bury()  # of one that says no more, and has not ended
        try:
            self._line, self._exited = self._launch()
        except OSError as error:
            # To try it for each of many checks would hold up the event loop.
            self._not_before = now + _AGAIN
            self._none = judge(error)
            return self._none
        self._ready = False
        self._exited.add_done_callback(self._lost)
        self._loop.add_reader(self._line.fileno(), self._hear)
        return None

    def _ask(self, run: ProgramRun[Owner]) -> None:
        run.number = number = next(self._numbers)
        self._runs[number] = run
        self._unsent += run.asked(number).encode()
        self._until(run, self._clock() + (run.timeout if self._ready else _START))

    def _kill(self, number: int) -> None:
        self._unsent += b"[%d]\n" % number

    def _give_up(self, number: int) -> None:
        """Its run ends before the program."""
        run = self._runs.pop(number)
        self._dying[number] = run.key, run.pid
        self._occupied[run.key] = number

    def _hear(self) -> None:
        """What the forker says, but not for longer than a turn."""
        line = self._line
        if line is None:
            return
        try:
            data = line.recv(_BYTES)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            self._hang_up()
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for said in lines:
            self._take(*json.loads(said))
        self.settle()

    def _take(self, what: str, number: int = 0, *said: Any) -> None:
        if what == "ready":
            self._come_up()
        elif what == "started":
            self._started(number, *said)
        elif (run := self._runs.pop(number, None)) is not None:
            self._finish(run, run.verdict or _found(run, what, *said))
        elif (dead := self._dying.pop(number, None)) is not None:
            self._gone(number, dead[0])

    def _come_up(self) -> None:
        self._ready = True
        now = self._clock()
        for run in self._runs.values():
            run.started = now  # its time did not begin before
            self._until(run, now + run.timeout)

    def _started(self, number: int, pid: int) -> None:
        if (run := self._runs.get(number)) is not None:
            run.pid = pid
            run.progress.say("started %s, process %d", run.key[0].argv[0], pid)
        elif number in self._dying:
            self._dying[number] = self._dying[number][0], pid

    def _gone(self, number: int, key: Key) -> None:
        """A program that was killed has ended: who waits for that may start."""
        if self._occupied.get(key) != number:
            return
        del self._occupied[key]
        for run in self._parked.pop(key, ()):
            run.started = self._clock()
            self._ask(run)

    def _hang_up(self) -> None:
        """The forker says no more: it has ended, or is to."""
        line, self._line = self._line, None
        if line is None:
            return
        self._not_before = self._clock() + _AGAIN
        self._none = _ended("")
        self._loop.remove_reader(line.fileno())
        if self._is_writing:
            self._loop.remove_writer(line.fileno())
            self._is_writing = False
        line.close()
        self._unsent.clear()
        self._rest = b""

    def _lost(self, exited: asyncio.Future[int | None]) -> None:
        """The forker has ended. Whatever it started is ended too, as far as it is known."""
        if exited is not self._exited:
            return  # there is another already
        self._hang_up()
        if (status := exited.result()) is not None:
            self._none = _ended(f", {how_it_ended(status)}")
        self._bury()

    def _bury(self) -> None:
        """End what the forker that has gone was asked for."""
        known = (*(run.pid for run in self._runs.values()), *(pid for _, pid in self._dying.values()))
        for pid in known:
            if pid is not None:
                kill_group(pid)
        runs = [*self._runs.values(), *itertools.chain.from_iterable(self._parked.values())]
        self._runs.clear()
        self._parked.clear()
        self._dying.clear()
        self._occupied.clear()
        for run in runs:
            self._finish(run, run.verdict or self._none)

    def _until(self, run: ProgramRun[Owner], deadline: float) -> None:
        run.deadline = deadline
        self._deadlines.add(deadline, run)
        self._alarm.set(deadline)

    def _expire(self) -> None:
        """See to the runs whose time is over. What has been said until now still counts."""
        self._hear()
        now, deadlines = self._clock(), self._deadlines
        while (first := deadlines.first()) is not None:
            at, run = first
            if at > now and run.busy and run.deadline == at:
                break
            deadlines.take(at)
            if run.busy and run.deadline == at:
                self._over(run, now)
        self.settle()

    def _over(self, run: ProgramRun[Owner], now: float) -> None:
        number = run.number
        if number is None:
            self._parked[run.key].remove(run)
            self._finish(run, _stuck(self._dying[self._occupied[run.key]][1]))
        elif run.verdict is None:
            run.verdict = self._expired(run, now - run.deadline)
            self._kill(number)
            self._until(run, now + KILL_GRACE)
        else:
            self._give_up(number)
            self._finish(run, run.verdict)

    def _expired(self, run: ProgramRun[Owner], seconds: float) -> Finding:
        if seconds > _LATE:
            return late(seconds)
        if run.pid is None:
            return unusable(
                "the process that starts programs has not started this one in time", Fault.STALLED
            )
        return fail(f"no exit within {run.timeout} s")

    def _finish(self, run: ProgramRun[Owner], finding: Finding) -> None:
        run.busy = False
        self.running -= 1
        took = self._clock() - run.started
        if took - run.timeout > _LATE:
            finding = late(took - run.timeout)
        elif finding.outcome is Outcome.FAIL and run.target.address != HERE:
            finding = links.excused(finding, run.target)
        try:
            self._finished(run, finding, took)
        except Exception as error:  # noqa: BLE001 - a defect in what is made of one must not end the checking
            tell(error, run.target, finding)


def _ended(how: str) -> Finding:
    return unusable(
        f"the process that starts programs ({NAME}) has ended{how}; another is started", Fault.FORK
    )


def _stuck(pid: int | None) -> Finding:
    """An earlier run is not gone yet. `pid`: of its program; None: the forker has told nothing of it."""
    if pid is None:
        return unusable(
            "the process that starts programs has not ended an earlier run in time", Fault.STALLED
        )
    return fail(f"process {pid} of an earlier run cannot be killed: see what it hangs on")


def _found(run: ProgramRun[Owner], what: str, *said: Any) -> Finding:
    program = run.key[0].argv[0]
    if what == "refused":
        return not_started(program, *said)
    pid, status, taken, line = said
    if run.pid is None:
        run.progress.say("started %s, process %d", program, pid)
    run.progress.say("exit status %s, output begins %r", status, line)
    return judge_exit(status, line, taken=taken)


def _launch() -> tuple[socket.socket, asyncio.Future[int | None]]:
    """Raises OSError."""
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            process = start_module(
                "anycast.probes.forker",
                (str(theirs.fileno()), str(LINE)),
                line=theirs,
                environment={"PATH": PATH},
                options=("-S",),
                stdout=subprocess.DEVNULL,
            )
        ours.setblocking(False)
        return ours, watch(process)
    except BaseException:
        ours.close()
        raise


async def once(target: Target, progress: Progress) -> Result:
    """One run by itself. May be cancelled any time."""
    done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

    def finished(_: ProgramRun[None], finding: Finding, took: float) -> None:
        if not done.done():
            done.set_result(finding.result(took))

    programs = Programs(finished)
    try:
        programs.start(ProgramRun(target, None, progress))
        programs.settle()
        return await done
    finally:
        await programs.close()
