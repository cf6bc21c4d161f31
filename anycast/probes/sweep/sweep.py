"""Moves thousands of checks on: one epoll of our own, which the event loop watches like any other descriptor.

A few checks under way: the loop is woken for each event. Many at once: it is not woken, but looks again a moment
later and finds their events together. What waits for a wake costs more than what the check itself does.
"""

from __future__ import annotations

import asyncio
import resource
import select
from collections.abc import Callable, Iterator
from errno import EINPROGRESS
from typing import Generic, NamedTuple, TypeVar

from anycast.core.health.phase import Fault, Outcome
from anycast.probes import links
from anycast.probes.finding import OK, Finding, Progress, fail, late, unknown, unusable
from anycast.probes.sweep.agenda import Agenda
from anycast.probes.sweep.alarm import Alarm
from anycast.probes.sweep.runs import Run, StaleError
from anycast.probes.sweep.sockets import Sockets
from anycast.probes.verdict import judge, judged, tell
from anycast.probes.wire.connection import Connection
from anycast.probes.wire.wire import Wire, of_loop

__all__ = ["TURN", "Room", "Sweep", "room"]

TURN = 0.004  # seconds after which the event loop is given a turn

_MANY = 8  # events or starts that come together
_MOMENT = 0.005  # seconds until many are looked at again
_HASTE = 50  # looks within the shortest timeout: a TLS handshake takes several of them
_MOST = 256  # events of one poll
_GLIMPSE = 8  # events after which the clock is read
_LATE = 1.0  # seconds past the timeout: this process, not the target, was too slow
_LATE_MOVE = 0.05  # the same for a run that got on as soon as it was looked at
_RESERVE = 256  # descriptors left for everything else in this process
_MOST_IDLE = 512
_MOST_RUNS = 16384
_CONNECTING = frozenset({0, EINPROGRESS})
_OPEN = select.EPOLLOUT  # of an event that says nothing more: the handshake is complete
_STALE = unknown("a connection that was kept is no good any more", Fault.INTERNAL)  # reported by nobody

Owner = TypeVar("Owner")


class Room(NamedTuple):
    """How many sockets there may be at once of each sort."""

    running: int
    kept: int  # connected, for the next run of the same target
    idle: int
    wires: int  # connected, to see their end


def room(descriptors: int) -> Room:
    """How to divide what this process may open."""
    left = max(80, descriptors - _RESERVE)
    idle = min(_MOST_IDLE, left // 4)
    running = min(_MOST_RUNS, (left - idle) // 2)
    rest = left - idle - running
    wires = rest * 2 // 3
    return Room(running=running, kept=rest - wires, idle=idle, wires=wires)


class Sweep(Generic[Owner]):
    """Runs that are under way. Inside one event loop; `finished` is called once for each run that was started.

    `finished(run, finding, seconds it took)` may start the next run.
    """

    def __init__(
        self,
        finished: Callable[[Run[Owner], Finding, float], None],
        well: Callable[[Iterator[Run[Owner]], float], None] | None = None,
    ) -> None:
        """Raises OSError. `well(runs, now)`: in the place of `finished`, for all runs together that one look has found OK."""
        self._finished = finished
        self._well = well or self._well_each
        self._found: list[Run[Owner]] | None = None  # those of the look under way
        self._loop = asyncio.get_running_loop()
        self._clock = self._loop.time
        self._poller = select.epoll()
        self._room = room(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        self._sockets = Sockets(self._poller, idle=self._room.idle)
        self._wire: Wire | None = None  # there once a check takes the way of clients' packets
        self._live: dict[int, Run[Owner]] = {}  # by descriptor: runs under way, and connections that are kept
        self._polls = 0
        self._told: Iterator[tuple[int, int]] = iter(
            ()
        )  # events of the last poll that are still to be seen to
        self._more = False  # it told of as many as it may: there may be more
        self._rest: list[Run[Owner]] = []  # runs that have left a rest of their events for the next look
        # Runs that start together have one entry: nearly all of them have ended when it is looked at.
        self._deadlines: Agenda[list[Run[Owner]]] = Agenda()
        self._started: dict[float, list[Run[Owner]]] = {}  # those of this turn, by their timeout
        self._behind = False  # the last look came to an end before its events did
        self._expiry = Alarm(self._expire, self._next)
        self._glance: asyncio.Handle | None = None
        self._watching = False
        self._moment = _MOMENT
        self.now = 0.0  # of the last look or start
        self.running = 0

    @property
    def full(self) -> bool:
        return self.running >= self._room.running

    def start(self, run: Run[Owner]) -> None:
        """Begin a run that is not under way. `settle` is due once all that start together have."""
        run.started = run.moved = self.now = now = self._clock()
        run.deadline = deadline = now + run.timeout
        run.busy = True
        self.running += 1
        try:
            sock = run.sock
            if sock is None:
                finding = self._connect(run)
            else:
                try:
                    finding = None if run.resume(sock) else self._afresh(run)
                except (OSError, StaleError):
                    finding = self._afresh(run)  # the server closed it meanwhile, as it may
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not end the checking
            finding = judged(error, run.target, heard=run.heard)
        if finding is not None:
            self._finish(run, finding)
            return
        lot = self._started.get(run.timeout)
        if lot is None:
            lot = self._started[run.timeout] = []
            if run.timeout < self._moment * _HASTE:
                self._moment = run.timeout / _HASTE
            self._expiry.set(deadline)
        lot.append(run)

    def _connect(self, run: Run[Owner]) -> Finding | None:
        if not run.plain:
            finding = run.begin()
            if finding is not None:
                return finding
            if run.target.check.to_vip:
                self._connect_to_vip(run)
                return None
        run.sock = sock = self._sockets.take(run.family, run.speaks)
        run.polls = self._polls
        self._live[sock.fileno()] = run
        code = sock.connect_ex(run.peer)
        return None if code in _CONNECTING else judge(OSError(code, ""))

    def _connect_to_vip(self, run: Run[Owner]) -> None:
        """By the way of clients' packets. Raises OSError, PeerError, UnusableError."""
        wire = self._wire = self._wire or of_loop()

        def happened(sock: Connection, events: int) -> None:
            if run.sock is sock:
                self.now = self._clock()
                self._handle(run, events)

        progress = Progress(tell=run.progress.tell)
        run.sock = sock = Connection(wire, run.target, run.peer[1], happened, progress)
        self._live[sock.fileno()] = run

    def _afresh(self, run: Run[Owner]) -> Finding | None:
        self._release(run)
        try:
            return self._connect(run)
        except Exception as error:  # noqa: BLE001 - as above
            return judged(error, run.target, heard=run.heard)

    def settle(self, started: int) -> None:
        """So many runs have been started together: see to it that their events are seen."""
        self.look()
        if self.running and self._glance is None:
            self._wait(started)
        if self._wire is not None:
            # Last, so that each look of the wire's own comes after one of ours, which reports all it finds together.
            self._wire.settle(started)

    def _wait(self, many: int) -> None:
        if many < _MANY:
            if not self._watching:
                self._watching = True
                self._loop.add_reader(self._poller.fileno(), self.look)
        else:
            if self._watching:
                self._watching = False
                self._loop.remove_reader(self._poller.fileno())
            self._glance = self._loop.call_later(self._moment, self._look_again)

    def _look_again(self) -> None:
        self._glance = None
        many = self.look()
        if self.running and self._glance is None:
            self._wait(many)

    def look(self) -> int:
        """Take in what has happened, but not for longer than a turn. How many events that were."""
        if self._started:
            self._note_deadlines()
        if self._found is not None:
            return 0
        well: list[Run[Owner]] = []
        self._found = well
        try:
            return self._take_in(well)
        finally:
            self._found = None
            if well:
                self._well(self._reported(well), self.now)

    def _take_in(self, well: list[Run[Owner]]) -> int:
        """How many events. Runs that are OK come to `well`."""
        clock, live, give = self._clock, self._live, self._sockets.give
        self.now = now = clock()
        until = now + TURN
        seen, polled, self._behind = 0, False, False
        if self._rest:
            self._go_on()
        while True:
            polls = self._polls
            for fd, what in self._told:
                seen += 1
                run = live.get(fd)
                # Neither an event of a free socket, nor one of what the socket was used for before.
                if run is not None and run.polls != polls:
                    sock = run.sock
                    if what == _OPEN and run.plain and sock is not None and now - run.deadline <= _LATE:
                        # What `_handle` would do, for the one case that there are thousands of.
                        run.sock, run.busy = None, False
                        self.running -= 1
                        del live[fd]
                        run.well = True
                        well.append(run)
                        give(sock, fd, run.family, False)  # type: ignore[arg-type]  # what is plain has one of the kernel
                    else:
                        self._handle(run, what)
                if not seen % _GLIMPSE and clock() > until:
                    self._look_soon()
                    return seen
            if polled and not self._more:
                return seen
            polled = True
            self._polls += 1
            if self._wire is not None:
                seen += self._wire.look()
            events = self._poller.poll(0, _MOST)
            self._told = iter(events)
            self._more = len(events) == _MOST

    def _reported(self, runs: list[Run[Owner]]) -> Iterator[Run[Owner]]:
        for run in runs:
            if run.well:  # else what came of another has cancelled it
                run.well = False
                yield run

    def _well_each(self, runs: Iterator[Run[Owner]], now: float) -> None:
        for run in runs:
            self._report(run, OK, now - run.started)

    def _note_deadlines(self) -> None:
        for lot in self._started.values():
            self._deadlines.add(lot[-1].deadline, lot)
        self._started = {}

    def _go_on(self) -> None:
        rest, self._rest = self._rest, []
        for run in rest:
            events, run.more = run.more, 0
            if events:  # else it has ended meanwhile
                self._handle(run, events)

    def _look_soon(self) -> None:
        """The rest must be seen to: what a poll has told, no other poll tells again."""
        self._behind = True
        if self._glance is not None:
            self._glance.cancel()
        self._glance = self._loop.call_soon(self._look_again)

    def _handle(self, run: Run[Owner], events: int) -> None:
        sock = run.sock
        if sock is None:
            return
        run.moved = self.now
        finding: Finding | None
        try:
            finding = run.proceed(sock, events)
        except StaleError:
            finding = self._afresh(run) if run.busy else _STALE
        except Exception as error:  # noqa: BLE001 - as above
            finding = judged(error, run.target, heard=run.heard) if run.busy else _STALE
        if run.busy:
            if finding is not None:
                # An answer that has lain there since before a suspension says nothing of now.
                behind = self.now - run.deadline
                self._finish(run, finding if behind <= _LATE else late(behind))
        elif finding is _STALE or not run.keeps:
            self._release(run)
        if run.more:  # its connection is still there
            self._rest.append(run)
            self._look_soon()

    def _finish(self, run: Run[Owner], finding: Finding) -> None:
        run.busy = False
        self.running -= 1
        if run.sock is not None and not (run.may_keep and run.keeps and self._has_room()):
            self._release(run)
        if finding is OK and self._found is not None:
            run.well = True
            self._found.append(run)
            return
        if finding.outcome is Outcome.FAIL:
            finding = links.excused(finding, run.target)
        self._report(run, finding, self.now - run.started)

    def _report(self, run: Run[Owner], finding: Finding, took: float) -> None:
        try:
            self._finished(run, finding, took)
        except Exception as error:  # noqa: BLE001 - a defect in what is made of one must not end the checking
            tell(error, run.target, finding)

    def _has_room(self) -> bool:
        return len(self._live) - self.running <= self._room.kept

    def _release(self, run: Run[Owner]) -> None:
        sock, run.sock = run.sock, None
        if sock is not None:
            fd = sock.fileno()
            del self._live[fd]
            if isinstance(sock, Connection):
                sock.close()
            else:
                self._sockets.give(sock, fd, run.family, run.speaks)
            run.released()

    def _next(self) -> float:
        """When time is over for runs that may still be under way."""
        self._note_deadlines()
        return self._deadlines.soonest()

    def _expire(self) -> None:
        """End the runs whose time is over. What has happened until now still counts."""
        self.look()
        now = self.now
        until = self._clock() + TURN
        deadlines = self._deadlines
        while (first := deadlines.first()) is not None:
            at, lot = first
            # Of those that have ended some may have begun anew: their deadline is another.
            lot[:] = [run for run in lot if run.busy and run.deadline <= at]
            if lot:
                behind = self._behind and now - at <= _LATE
                if at > now or behind:
                    return
                for run in lot:
                    if self._clock() > until:
                        return
                    if run.busy and run.deadline <= at:  # else it has been cancelled meanwhile
                        self._finish(run, self._expired(run, now - run.deadline))
            deadlines.take(at)

    def _expired(self, run: Run[Owner], seconds: float) -> Finding:
        # A stopped or starved agent finds every timeout expired at once, answers waiting or not. An answer that
        # was found too late may have been one step of several.
        if seconds > _LATE or run.moved > run.deadline + _LATE_MOVE:
            return late(seconds)
        if isinstance(run.sock, Connection) and not run.sock.connected:
            missing, advice, ours = run.sock.lacking
            if ours:
                return unusable(f"no {missing} within {run.timeout} s", Fault.STALLED)
            return fail(f"no {missing} within {run.timeout} s{advice}")
        return fail(f"no {run.missing} within {run.timeout} s")

    def cancel(self, run: Run[Owner]) -> None:
        """End a run without a report, and its connection with it."""
        run.well = False
        if run.busy:
            run.busy = False
            self.running -= 1
        self._release(run)

    def close(self) -> None:
        """End everything without a report."""
        for run in list(self._live.values()):
            self.cancel(run)
        self._expiry.cancel()
        if self._glance is not None:
            self._glance.cancel()
        if self._watching:
            self._loop.remove_reader(self._poller.fileno())
        self._sockets.close()
        self._poller.close()
