"""What every program that follows leases has around its plan: what it waits for, and its end of the agent's socket."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anycast.core.values.lease import Lease
    from anycast.core.values.report import Report
    from anycast.lease.messages import LeaseChange
    from anycast.plugin.link import AgentLink, Log

IDLE = 0.25  # seconds; the longest sleep, for time alone can change things
REPORT_EVERY = 0.1  # seconds between reports while one change follows the other


class Waiting:
    """Descriptors that a loop waits for, and the signals that end it."""

    def __init__(self) -> None:
        self.signalled = False
        self._watched: dict[str, tuple[int, int]] = {}  # name: descriptor, events
        self._selector = selectors.DefaultSelector()
        self._wakeup, self._signals = socket.socketpair()
        for end in (self._wakeup, self._signals):
            end.setblocking(False)
        self._selector.register(self._wakeup, selectors.EVENT_READ)

    def catch_signals(self) -> None:
        def note(_signal: int, _frame: object) -> None:
            self.signalled = True

        signal.set_wakeup_fd(self._signals.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, note)

    def read(self, fd: int) -> None:
        """For good. Raises PermissionError where it is a file."""
        self._selector.register(fd, selectors.EVENT_READ)

    def watch(self, name: str, fd: int | None, *, read: bool = True, write: bool = False) -> None:
        """In the place of what this name was watched for."""
        events = (selectors.EVENT_READ if read else 0) | (selectors.EVENT_WRITE if write else 0)
        wanted = (fd, events) if fd is not None and events else None
        if self._watched.get(name) == wanted:
            return
        self.forget(name)
        if wanted is not None:
            self._selector.register(*wanted)
            self._watched[name] = wanted

    def forget(self, name: str) -> None:
        if name in self._watched:
            with contextlib.suppress(KeyError):  # it was closed, and its number given again
                self._selector.unregister(self._watched.pop(name)[0])

    def awake(self) -> None:
        """The loop has come round to its signals."""
        with contextlib.suppress(BlockingIOError):
            while self._wakeup.recv(64):
                pass

    def until(self, instants: Iterable[float]) -> None:
        self._selector.select(max(0.0, min(instants) - time.monotonic()))

    def close(self) -> None:
        self._selector.close()
        self._wakeup.close()
        self._signals.close()


class Follower(Protocol):
    """A plan that leases are handed to."""

    @property
    def asks(self) -> bool: ...
    @property
    def revision(self) -> int: ...
    @property
    def settled(self) -> bool: ...
    @property
    def next_at(self) -> float | None: ...
    def connected(self) -> None: ...
    def lease(self, messages: Iterable[Lease | LeaseChange], now: float) -> None: ...
    def asked(self) -> None: ...
    def reported(self) -> None: ...


class LeaseEnd:
    """Leases come in, reports go out. `denied`: what to do where the socket may not be opened."""

    def __init__(self, agent: AgentLink, plan: Follower, waiting: Waiting, say: Log, denied: str) -> None:
        self._agent, self._plan, self._waiting, self._say, self._denied = agent, plan, waiting, say, denied
        self._sent_revision = -1
        self._sent_at = 0.0
        self._sent_settled = False
        self._owes_report = False

    def read(self, now: float) -> None:
        agent, plan = self._agent, self._plan
        if agent.connect(now):
            self._say("connected to the agent", now)
            plan.connected()
        if agent.forbidden:
            self._say(self._denied, now)
        if agent.fileno is None:
            return
        agent.flush()
        leases = agent.read()
        if leases:
            plan.lease(leases, now)
            self._owes_report = True
        if plan.asks and not agent.wants_write:
            agent.ask()
            plan.asked()
        if agent.fileno is None:
            # Its number may be the next connection's: forget the old one now.
            self._waiting.forget("agent")
            self._sent_revision = -1
            self._say("lost the agent: what is announced stays until the lease ends", now)

    def is_due(self, now: float) -> bool:
        """Whether a report is: of a lease, or of a change.

        Of a change after a rest the agent hears at once, then now and then, and at once when all is as wanted.
        """
        if not self._agent.is_ready(now):
            return False
        if self._owes_report:
            return True
        if self._plan.revision == self._sent_revision:
            return False
        return now - self._sent_at >= REPORT_EVERY or (self._plan.settled and not self._sent_settled)

    def send(self, report: Report, now: float) -> None:
        self._sent_revision, self._sent_at, self._owes_report = self._plan.revision, now, False
        self._sent_settled = self._plan.settled
        self._agent.send(report)
        self._plan.reported()

    def wakes(self, now: float, beat: float | None) -> list[float]:
        """Instants at which the loop has to come round at the latest. `beat`: seconds between two of the watchdog's."""
        self._waiting.watch("agent", self._agent.fileno, write=self._agent.wants_write)
        until = [now + IDLE]
        if self._plan.next_at is not None:
            until.append(self._plan.next_at)
        if self._plan.revision != self._sent_revision and self._agent.fileno is not None:
            until.append(max(now, self._sent_at) + REPORT_EVERY)
        if beat is not None:
            until.append(now + beat)
        return until


def unexpected(error: Exception, log: Log) -> None:
    """Where it came from, in a line."""
    import traceback

    trace = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{os.path.basename(trace.filename)}:{trace.lineno}"
    log(f"unexpected {type(error).__name__} at {where}: {error}; please report it", time.monotonic())
