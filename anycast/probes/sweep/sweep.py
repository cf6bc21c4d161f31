"""Moves thousands of checks on: one epoll of our own, which the event loop watches like any other descriptor.

A few checks under way: the loop is woken for each event. Many at once: it is not woken, but looks again a moment
later and finds their events together. What waits for a wake costs more than what the check itself does.
"""

from __future__ import annotations

import asyncio
import resource
import select
import socket
from collections.abc import Callable
from errno import EINPROGRESS

from anycast.probes.finding import Finding, fail, judge, unknown
from anycast.probes.sweep.agenda import Agenda
from anycast.probes.sweep.runs import Run, StaleError
from anycast.probes.sweep.sockets import Sockets

__all__ = ["Sweep"]

_MANY = 8  # events or starts that come together
_MOMENT = 0.001  # seconds until many are looked at again
_MOST = 1024  # events of one look
_LATE = 1.0  # seconds past the timeout: this process, not the target, was too slow
_RESERVE = 256  # descriptors left for everything else in this process
_MOST_RUNS = 16384
_CONNECTING = frozenset({0, EINPROGRESS})


class Sweep:
    """Runs that are under way. Inside one event loop; `finished` is called once for each run that was started.

    `finished(run, finding, seconds it took)` may start the next run.
    """

    def __init__(self, finished: Callable[[Run, Finding, float], None]) -> None:
        """Raises OSError."""
        self._finished = finished
        self._loop = asyncio.get_running_loop()
        self._poller = select.epoll()
        self._sockets = Sockets(self._poller)
        self._live: dict[int, Run] = {}  # by descriptor: runs under way, and connections that are kept
        self._deadlines: Agenda[Run] = Agenda()
        self._expiry: asyncio.TimerHandle | None = None
        self._glance: asyncio.TimerHandle | None = None
        self._watching = False
        self._now = 0.0  # of the last look or start
        self.running = 0
        self.limit = max(16, min(_MOST_RUNS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _RESERVE))

    def start(self, run: Run) -> None:
        """Begin a run that is not under way. `settle` is due once all that start together have."""
        run.started = self._now = now = self._loop.time()
        run.deadline = deadline = now + run.timeout
        run.busy = True
        self.running += 1
        try:
            finding = self._begin(run)
        except OSError as error:
            finding = judge(error)
        except Exception as error:  # noqa: BLE001 - a defect in one kind of check must not end the checking
            finding = self._defect(error)
        if finding is not None:
            self._finish(run, finding)
            return
        self._deadlines.add(deadline, run)
        if self._expiry is None:
            self._expiry = self._loop.call_at(deadline, self._expire)

    def _begin(self, run: Run) -> Finding | None:
        if run.sock is not None:
            try:
                if run.resume():
                    return None
            except (OSError, StaleError):
                pass  # the server closed it meanwhile, as it may
            self._release(run)
        return self._connect(run)

    def _connect(self, run: Run) -> Finding | None:
        finding = run.begin()
        if finding is not None:
            return finding
        run.sock = sock = self._sockets.take(run.family)
        self._live[sock.fileno()] = run
        # The ACK that completes the handshake waits for data: a check without data needs none, for the reset
        # comes first, and a request carries it.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
        code = sock.connect_ex(run.peer)
        return None if code in _CONNECTING else judge(OSError(code, ""))

    def _afresh(self, run: Run) -> Finding | None:
        self._release(run)
        try:
            return self._connect(run)
        except OSError as error:
            return judge(error)

    def settle(self, started: int) -> None:
        """So many runs have been started together: see to it that their events are seen."""
        self.look()
        if self.running and self._glance is None:
            self._wait(started)

    def _wait(self, many: int) -> None:
        if many < _MANY:
            if not self._watching:
                self._watching = True
                self._loop.add_reader(self._poller.fileno(), self.look)
        else:
            if self._watching:
                self._watching = False
                self._loop.remove_reader(self._poller.fileno())
            self._glance = self._loop.call_later(_MOMENT, self._look_again)

    def _look_again(self) -> None:
        self._glance = None
        many = self.look()
        if self.running:
            self._wait(many)

    def look(self) -> int:
        """Take in what has happened. How many events that were."""
        live = self._live
        self._now = self._loop.time()
        events = self._poller.poll(0, _MOST)
        for fd, what in events:
            run = live.get(fd)
            if run is None:
                continue  # a free socket
            finding: Finding | None
            try:
                finding = run.proceed(what)
            except StaleError:
                finding = self._afresh(run) if run.busy else None
            except OSError as error:
                finding = judge(error)
            except Exception as error:  # noqa: BLE001 - as above
                finding = self._defect(error)
            if not run.busy:
                if not run.keeps:
                    self._release(run)
            elif finding is not None:
                self._finish(run, finding)
        return len(events)

    def _finish(self, run: Run, finding: Finding) -> None:
        run.busy = False
        self.running -= 1
        if run.sock is not None and not run.keeps:
            self._release(run)
        self._finished(run, finding, self._now - run.started)

    def _release(self, run: Run) -> None:
        sock, run.sock = run.sock, None
        if sock is not None:
            del self._live[sock.fileno()]
            self._sockets.give(sock)

    def _expire(self) -> None:
        """End the runs whose time is over. What has happened until now still counts."""
        self.look()
        now = self._now
        deadlines = self._deadlines
        while (first := deadlines.next()) is not None:
            at, run = first
            over = not run.busy or run.deadline != at  # it has ended, and may have begun anew
            if not over and at > now:
                self._expiry = self._loop.call_at(at, self._expire)
                return
            deadlines.pop()
            if over:
                continue
            # A stopped or starved agent finds every timeout expired at once.
            if now - at > _LATE:
                finding = unknown(f"the agent looked {now - at:.1f} s too late for an answer")
            else:
                finding = fail(f"no {run.missing} within {run.timeout} s")
            self._finish(run, finding)
        self._expiry = None

    def _defect(self, error: Exception) -> Finding:
        self._loop.call_exception_handler({"message": "unexpected error in a check", "exception": error})
        return unknown(f"internal error, please report it: {error!r}")

    def cancel(self, run: Run) -> None:
        """End a run without a report, and its connection with it."""
        if run.busy:
            run.busy = False
            self.running -= 1
        self._release(run)

    def close(self) -> None:
        """End everything without a report."""
        for run in list(self._live.values()):
            self.cancel(run)
        for timer in (self._expiry, self._glance):
            if timer is not None:
                timer.cancel()
        if self._watching:
            self._loop.remove_reader(self._poller.fileno())
        self._sockets.close()
        self._poller.close()
