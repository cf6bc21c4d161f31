"""Which routes to make and to remove next, by the lease and by what the table has. Pure: time comes in as data.

- What is not wanted any more is removed before anything is made.
- Another metric is made before the one before it is removed: the prefix is in the table all the while.
- Whatever is ours in the table and not wanted is removed: what a life before has left, too.
- What the kernel refused is tried again after RETRY.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from anycast.announcer.codec import Found, Move
from anycast.announcer.view import NOT_ASKED, View
from anycast.core.values.report import ATTRIBUTES, FailedRoute, NeighborState, Report
from anycast.core.values.route import Prefix
from anycast.core.values.table import metric
from anycast.lease import Lease, LeaseChange
from anycast.plugin.following import Following

RETRY = 1.0  # seconds
LEARNS = 2.0  # seconds that the daemon has to learn a route
MOST_MOVES = 200  # at once
NAMED = 5  # routes of others


@dataclass(slots=True)
class _Entry:
    prefix: Prefix
    want: int | None = None
    have: set[int] = field(default_factory=set)  # metrics in the table
    error: str = ""  # the kernel's, for the newest try
    retry_at: float = 0.0
    stands_since: float = 0.0  # as it is wanted
    unlearned: str = ""  # why it counts as not learned by the daemon

    @property
    def settled(self) -> bool:
        return self.have == (set() if self.want is None else {self.want})

    def moves(self) -> Iterator[Move]:
        if self.want is not None and self.want not in self.have:
            yield Move(True, self.prefix, self.want)
            return
        yield from (Move(False, self.prefix, one) for one in sorted(self.have) if one != self.want)

    @property
    def why(self) -> str:
        return (self.error or self.unlearned) if self.want is not None else ""


class Plan:
    """The state machine between lease and table.

    Inputs are `connected`, `lease`, `found`, `wrote`, `seen`, `foreign`, `tick`, `stop`, `asked` and `reported`; outputs are
    `moves`, `asks` and `report`. `log` has what an operator should read; the caller empties it.
    """

    def __init__(self, table: int) -> None:
        self._table = table
        self.log: list[str] = []
        self._lease = Following(self.log)
        self._entries: dict[Prefix, _Entry] = {}
        self._unsettled: dict[Prefix, None] = {}
        self._touched: set[Prefix] = set()
        self._found: object = None  # as it was read last
        self._view = NOT_ASKED
        self._foreign = ""
        self._error = ""  # why the table cannot be read
        self._stopping = False
        self._changes = 0
        self._errors = self._acks = 0
        self.read = False  # what the table has is known
        self.wrote_at = 0.0

    # Inputs

    def connected(self) -> None:
        """A new connection of the agent."""
        self._lease.connected()

    def lease(self, messages: Iterable[Lease | LeaseChange], now: float) -> None:
        """What the agent leases, all that has come since the last time."""
        if self._stopping:
            return
        wanted = self._lease.take(messages, now)
        if wanted is None:
            return
        prefixes = (*self._entries, *wanted.routes) if wanted.touched is None else wanted.touched
        for prefix in dict.fromkeys(prefixes):
            route = wanted.routes.get(prefix)
            self._want(prefix, None if route is None else metric(route), now)

    def stop(self, now: float) -> None:
        """Remove everything, for good."""
        self._stopping = True
        self._lease.end()
        self._want_nothing(now)

    def tick(self, now: float) -> None:
        """Time has passed. Hand in what was read before, or a lease that waits to be read looks lost."""
        if self._lease.runs_out(now):
            self._want_nothing(now)

    def found(self, ours: Iterable[tuple[Prefix, int]], now: float) -> None:
        """The routes of ours that the table has. The same object as the last time, and nothing written since: no news."""
        self._fail("")
        if ours is self._found:
            return
        self._found = ours
        have: dict[Prefix, set[int]] = {}
        for prefix, one in ours:
            have.setdefault(prefix, set()).add(one)
        strange = [prefix for prefix in have if prefix not in self._entries]
        for prefix in strange:
            self._entries[prefix] = _Entry(prefix)
        if strange and not self.read:
            self.log.append(
                f"{len(strange)} routes of before are in the table {self._table}: they are removed"
            )
        elif strange:
            self.log.append(f"somebody has added {_some(strange)} to the table {self._table}: removed")
        lost = [
            entry.prefix
            for entry in self._entries.values()
            if entry.settled and entry.want is not None and entry.want not in have.get(entry.prefix, ())
        ]
        if lost:
            self.log.append(f"somebody has removed {_some(lost)} from the table {self._table}: made again")
        self.read = True
        for entry in list(self._entries.values()):
            there = have.get(entry.prefix, set())
            if there != entry.have:
                entry.have = there
                self._place(entry, now)

    def unread(self, why: str) -> None:
        """The table cannot be read."""
        self._fail(why)

    def wrote(self, moves: Sequence[Move], errors: Sequence[int], now: float) -> None:
        """What came of `moves`, an errno for each."""
        self._found = None
        for move, code in zip(moves, errors, strict=True):
            entry = self._entries[move.prefix]
            if code:
                self._errors += 1
                entry.error, entry.retry_at = self._words(move, code), now + RETRY
                self.log.append(entry.error)
            else:
                self._acks += 1
                entry.error = ""
                (entry.have.add if move.add else entry.have.discard)(move.metric)
                self.wrote_at = now
            self._place(entry, now)

    def foreign(self, routes: Sequence[Found]) -> None:
        """Routes of others in the table: they are left alone, and named."""
        text = ""
        if routes:
            named = ", ".join(map(str, routes[:NAMED]))
            more = f" and {len(routes) - NAMED} more" if len(routes) > NAMED else ""
            text = f"the table {self._table} has routes of others, which are left alone: {named}{more}"
        if text != self._foreign:
            self._foreign = text
            self._changes += 1
            self.log.append(text or f"the table {self._table} has routes of ours alone")

    def seen(self, view: View) -> None:
        """What the daemon says. What has changed in the table since it was asked is looked at with its next answer."""
        if view == self._view:
            return
        self._log_sessions(self._view, view)
        self._view = view
        self._changes += 1
        for entry in self._entries.values():
            why = self._unlearned(entry)
            if why != entry.unlearned:
                entry.unlearned = why
                self._tell(entry)

    def asked(self) -> None:
        """The agent has been asked for the full set."""
        self._lease.asked()

    def reported(self) -> None:
        """The newest report is on its way, so that the next one differs from it."""
        self._touched.clear()

    # Outputs

    @property
    def asks(self) -> bool:
        return self._lease.asks

    @property
    def next_at(self) -> float | None:
        """The instant at which `tick` must not be late: the end of the lease."""
        return self._lease.expires

    @property
    def revision(self) -> int:
        """Moves with every change a report would show."""
        return self._changes + self._lease.revision

    @property
    def settled(self) -> bool:
        return self.read and not self._unsettled

    @property
    def ready(self) -> bool:
        """What a life before has left is gone."""
        return self.read and not any(self._entries[prefix].want is None for prefix in self._unsettled)

    @property
    def all_down(self) -> bool:
        return self.read and not any(entry.have for entry in self._entries.values())

    def moves(self, now: float) -> list[Move]:
        """What to write now: at first what is to go."""
        if not self.read:
            return []
        due = [one for prefix in self._unsettled if (one := self._entries[prefix]).retry_at <= now]
        due.sort(key=lambda entry: entry.want is not None)
        moves: list[Move] = []
        for entry in due:
            if len(moves) >= MOST_MOVES:
                break
            moves += entry.moves()
        return moves

    def report(self, *, pid: int) -> Report:
        """`touched` is what it says differently since `reported`."""
        entries = self._entries.values()
        return Report(
            seq=self._lease.seq,
            announced=frozenset(one.prefix for one in entries if one.have),
            pending=frozenset(one.prefix for one in entries if not one.settled and not one.error),
            failed=tuple(FailedRoute(prefix=one.prefix, why=one.why) for one in entries if one.why),
            neighbors=self._view.sessions,
            pid=pid,
            errors=self._errors,
            acks=self._acks,
            silent_since=self._view.silent_since,
            lease_expired=self._lease.expired,
            late_leases=self._lease.late_leases,
            followed=self._lease.issued,
            attributes=ATTRIBUTES,
            rendered=self._view.rendered,
            speaker=f"table {self._table}",
            daemon=self._view.daemon,
            unseen=self._view.error,
            trouble=self._error or self._foreign,
            touched=frozenset(self._touched),
        )

    # Inside

    def _want(self, prefix: Prefix, want: int | None, now: float) -> None:
        entry = self._entries.get(prefix)
        if entry is None:
            if want is None:
                return
            entry = self._entries[prefix] = _Entry(prefix)
        if entry.want != want:
            entry.want, entry.error, entry.retry_at = want, "", 0.0
            self._place(entry, now)

    def _want_nothing(self, now: float) -> None:
        for prefix in list(self._entries):
            self._want(prefix, None, now)

    def _place(self, entry: _Entry, now: float) -> None:
        if not entry.settled:
            self._unsettled[entry.prefix] = None
        else:
            self._unsettled.pop(entry.prefix, None)
            entry.stands_since, entry.error = now, ""
            if entry.want is None:
                del self._entries[entry.prefix]
        entry.unlearned = ""
        self._tell(entry)

    def _tell(self, entry: _Entry) -> None:
        self._touched.add(entry.prefix)
        self._changes += 1

    def _fail(self, why: str) -> None:
        if why != self._error:
            self._error = why
            self._changes += 1
            self.log.append(why or f"the table {self._table} can be read again")

    def _words(self, move: Move, code: int) -> str:
        if code == errno.EEXIST:
            return (
                f"the table {self._table} has a route to {move.prefix} with metric {move.metric} that is not ours: it is "
                "left alone (remove it, or write another speaker.table)"
            )
        what = "made" if move.add else "removed"
        return (
            f"the route to {move.prefix} in the table {self._table} cannot be {what}: {os.strerror(code)} "
            "(it takes CAP_NET_ADMIN)"
        )

    def _unlearned(self, entry: _Entry) -> str:
        view = self._view
        if entry.want is None or not entry.settled or view.asked_at < entry.stands_since + LEARNS:
            return ""
        return view.lacks(entry.prefix, self._table)

    def _log_sessions(self, old: View, new: View) -> None:
        before: dict[str, NeighborState] = {one.address: one for one in old.sessions}
        for one in new.sessions:
            known = before.get(one.address)
            if known is None or known.state != one.state:
                self.log.append(
                    f"neighbor {one.address} is {one.state}{': ' + one.reason if one.reason else ''}"
                )


def _some(prefixes: Sequence[Prefix]) -> str:
    named = ", ".join(map(str, prefixes[:NAMED]))
    return named + (f" and {len(prefixes) - NAMED} more" if len(prefixes) > NAMED else "")
