"""Which command to give ExaBGP next, and when it must be taken for stuck. Pure: time comes in as data.

ExaBGP keeps no owner of a route and its `done` means parsed, not sent. Several commands for one prefix in
one batch, or while the session is down, can end in the wrong state. Hence the rules kept here:

- After a start every prefix the node may own is withdrawn before anything is announced.
- One command per prefix is unanswered at a time, and at most WINDOW in all. Answers match by order.
- Withdraws go ahead of everything that waits, and repeat the attributes of the announcement.
- New attributes are announced over the old ones, without a withdraw in between.
- When a session comes up, what is down is withdrawn again and the rest is sent again (`flush`).
- A route is announced only after the journal holds it, so that the next life can withdraw it exactly.
- Queries and `flush` travel alone: nothing is unanswered when they are written, and nothing follows before
  their answer. So the answer to a query also proves that no earlier command is unanswered, even one of the
  process before us, whose answers ExaBGP hands to its successor.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from anycast.core.values.report import FailedRoute, NeighborState, Report
from anycast.core.values.route import Prefix, Route
from anycast.lease import Lease
from anycast.plugin import codec

WINDOW = 50  # unanswered commands
SILENCE = 5.0  # seconds without an answer until ExaBGP is stuck
REASSERT = 60.0  # seconds between withdraws of all that is down
SETTLE = 1.0  # seconds after a session came up until everything is said once more
QUERY = 10.0  # seconds between questions for the neighbors
PING = 2.0  # seconds after its last answer until ExaBGP is asked for its version: it costs it least
OWES = 1.0  # seconds without an answer until the report says so: sooner each question would cost two reports
RETRY_ANNOUNCE = 30.0  # seconds
RETRY_WITHDRAW = 1.0  # seconds
RETRY_JOURNAL = 5.0  # seconds
QUERY_TRIES = 3  # refused questions in a row until we ask no more
WITHDRAW_TRIES = 5  # refused withdraws in a row until ExaBGP is stuck
PAUSE = 1.0  # seconds between two ticks that mean we did not run ourselves


class Kind(StrEnum):
    ANNOUNCE = "announce"
    WITHDRAW = "withdraw"
    REASSERT = "reassert"  # the withdraw of what is down already
    FLUSH = "flush"
    QUERY = "query"
    VERSION = "version"


@dataclass(slots=True)
class _Command:
    """A command without its answer."""

    kind: Kind
    text: str
    at: float
    entry: _Entry | None = None
    route: Route | None = None


@dataclass(slots=True)
class _Entry:
    """What is known of one prefix."""

    prefix: Prefix
    want: Route | None = None
    held: tuple[Route, ...] = ()  # attribute sets that may be announced, the newest last
    clear: bool = True  # it must be withdrawn before it is announced: its state is not known
    last: Route | None = None  # attributes of the last announcement
    command: _Command | None = None
    reassert: bool = False
    not_before: float = -math.inf
    withdraw_errors: int = 0
    refused: Route | None = None
    why: str = ""  # the wanted route is not announced because

    @property
    def settled(self) -> bool:
        wanted = () if self.want is None else (self.want,)
        idle = self.command is None or self.command.kind is Kind.REASSERT
        return idle and not self.clear and self.held == wanted

    def need(self) -> Kind | None:
        if self.command is not None:
            return None
        if self.clear or (self.want is None and self.held):
            return Kind.WITHDRAW
        if self.want is not None:
            return Kind.ANNOUNCE if self.held != (self.want,) else None
        return Kind.REASSERT if self.reassert else None


class Planner:
    """The state machine between lease and ExaBGP.

    Inputs are `lease`, `line`, `tick`, `stop`, `journaled` and `journal_failed`; outputs are `commands`,
    `journal`, `report` and `stuck`. `own` are the prefixes known without any lease, `journal` is what the
    life before may have announced. Instants are seconds of one monotonic clock.
    """

    def __init__(self, *, own: Iterable[Prefix] = (), journal: Iterable[Route] = (), now: float) -> None:
        self._own = frozenset(own)
        self._entries: dict[Prefix, _Entry] = {}
        # What waits to be written, by kind; an entry stands in at most one of them.
        self._queues: dict[Kind, dict[Prefix, None]] = {
            Kind.WITHDRAW: {},
            Kind.REASSERT: {},
            Kind.ANNOUNCE: {},
        }
        self._delayed: dict[Prefix, None] = {}
        self._unsettled: dict[Prefix, None] = {}
        self._unanswered: deque[_Command] = deque()
        self._quiet_since = now  # the last answer, or the first command after a rest
        self._silent_since: float | None = None  # as reported
        self._last_tick = now
        self._owned: frozenset[Prefix] | None = None
        self._expires: float | None = None
        self._expired = False
        self._stopping = False
        self._seq = 0
        self._late_leases = 0
        self._late = False  # the newest lease was over when it came
        self._neighbors: dict[str, NeighborState] = {}
        self._version: str | None = None
        self._acks = 0
        self._errors = 0
        self._stuck: str | None = None
        self._stopped = False
        self._synced = False
        self._flush_due = False
        self._version_due = True
        self._query_at = now
        self._query_answer: codec.Line | None = None
        self._stray_at: float | None = None
        self._query_refusals = 0
        self._skip = 0  # answers that are not ours
        self._reassert_at = now + REASSERT
        # The life before may have ended while a session came up.
        self._settle_at: float | None = now + SETTLE
        self._recorded = frozenset(journal)
        self._journal_why: str | None = None
        self._journal_at = now
        self._journal_dirty = False
        self.revision = 0  # moves with every change a report would show
        self.log: list[str] = []  # what an operator should read; the caller empties it
        for prefix in sorted(self._own, key=_order):
            self._entry(prefix)
        for route in sorted(self._recorded, key=_route_order):
            entry = self._entry(route.prefix)
            entry.held = (*entry.held, route)
            entry.last = route

    # Inputs

    def connected(self) -> None:
        """A new connection of the agent: sequence numbers start again."""
        self._seq = 0
        self._changed()

    def lease(self, lease: Lease, now: float) -> None:
        """The agent's full set of routes. A lease that is over already is counted and changes nothing."""
        expires = lease.expires(now)
        if self._stopping:
            return
        if expires <= now:
            self._late_leases += 1
            if not self._late:
                self.log.append(
                    f"a lease came {now - expires:.1f} s after its end and is not followed: is the node overloaded?"
                )
            self._late = True
            self._changed()
            return
        self._late = False
        if self._expired:
            self.log.append("the lease is renewed")
        self._expires, self._expired = expires, False
        self._owned = frozenset(lease.owned) | {route.prefix for route in lease.routes}
        wanted = {route.prefix: route for route in lease.routes}
        for prefix in lease.owned:
            self._entry(prefix)
        for prefix in wanted:
            self._entry(prefix)
        self._want(wanted, now)
        if self._seq != lease.seq:
            self._seq = lease.seq
            self._changed()

    def stop(self, now: float) -> None:
        """Withdraw everything, for good."""
        self._stopping = True
        self._expires = None
        self._want({}, now)

    def line(self, line: codec.Line, now: float) -> None:
        """A line from ExaBGP."""
        match line:
            case codec.Done():
                self._answer(refused=False, now=now)
            case codec.Refused():
                self._answer(refused=True, now=now)
            case codec.NeighborEvent():
                self._neighbor(line.address, line.state, line.reason, now, now)
                if line.state == "up":
                    self._session_up(now)
            case codec.NeighborTable():
                if self._unanswered and self._unanswered[0].kind is Kind.QUERY:
                    self._query_answer = line
                else:
                    self._skip += 1  # the life before asked for it, and its `done` follows
                self._table(line, now)
            case codec.Version():
                if self._version != line.version:
                    self._version = line.version
                    self._changed()
            case codec.Stopping():
                self._stopped = True
            case codec.Other(event=False):
                self._query_answer = line
            case codec.Other():
                pass

    def tick(self, now: float) -> None:
        """Time has passed. Hand in what was read before, or a lease that waits to be read looks lost."""
        if now - self._last_tick > PAUSE:
            # We did not run ourselves (a frozen machine, SIGSTOP), so ExaBGP's silence proves nothing.
            self._quiet_since = min(now, self._quiet_since + now - self._last_tick)
        self._last_tick = now
        if self._expires is not None and now >= self._expires:
            self._expire(now)
        for prefix in [p for p in self._delayed if self._entries[p].not_before <= now]:
            self._place(self._entries[prefix], now)
        if self._settle_at is not None and now >= self._settle_at:
            self._settle_at = None
            self._reassert(now)
            self._flush_due = True
        if now >= self._reassert_at:
            self._reassert(now)
        if not self._unanswered and now - self._quiet_since >= PING:
            self._version_due = True
        owes = bool(self._unanswered) and now - self._quiet_since >= OWES
        self._tell_silence(self._quiet_since if owes else None)
        if self._stray_at is not None and now - self._stray_at >= SILENCE - 1.0:
            # An ExaBGP that has no answer but `done`.
            self._complete_query(now)
        if self._unanswered and now - self._quiet_since >= SILENCE:
            self._stick(f"no answer for {SILENCE:g} s to: {self._unanswered[0].text}")

    def journaled(self, routes: Iterable[Route], now: float) -> None:
        """The journal holds exactly these now."""
        self._recorded = frozenset(routes)
        if self._journal_why is not None:
            self._journal_why = None
            self._retry_refused(now)

    def journal_failed(self, why: str, now: float) -> None:
        """The journal could not be written: only prefixes of `own` may be announced until it can."""
        if self._journal_why is None:
            self.log.append(f"the journal cannot be written: {why}")
        self._journal_why = why
        self._journal_at = now + RETRY_JOURNAL

    # Outputs

    @property
    def stuck(self) -> str | None:
        """Why ExaBGP must be ended; None: it need not."""
        return self._stuck

    @property
    def stopped(self) -> bool:
        """ExaBGP said that it is going: nothing is left to do."""
        return self._stopped

    @property
    def ready(self) -> bool:
        """The withdraws of the start are acknowledged and ExaBGP has answered a question."""
        return self._synced

    @property
    def all_down(self) -> bool:
        """Nothing is announced, and ExaBGP acknowledged it."""
        return self._synced and not any(entry.clear or entry.held for entry in self._entries.values())

    @property
    def settled(self) -> bool:
        """Every prefix is as wanted, and ExaBGP acknowledged it."""
        return self._synced and not self._unsettled

    @property
    def next_at(self) -> float | None:
        """The instant at which `tick` must not be late: the end of the lease."""
        return self._expires

    def journal(self, now: float) -> tuple[Route, ...] | None:
        """What the journal should hold, where it does not; None: leave it. Ask before `commands`."""
        if now < self._journal_at:
            return None
        waiting = [self._entries[prefix] for prefix in self._queues[Kind.ANNOUNCE]]
        if any(entry.want not in self._recorded for entry in waiting):
            return self._journal_content()
        if self._journal_why is not None:
            return self._journal_content()
        if self._journal_dirty and not waiting and not self._unsettled:
            self._journal_dirty = False
            content = self._journal_content()
            return content if self._recorded != frozenset(content) else None
        return None

    def commands(self, now: float) -> list[str]:
        """The commands to write now, without line ends. They count as written."""
        out: list[str] = []
        self._take(Kind.WITHDRAW, out, now)
        if self._alone():
            return out
        self._take(Kind.REASSERT, out, now)
        if self._alone_due(now):
            if not self._unanswered and not self._queues[Kind.WITHDRAW] and not self._queues[Kind.REASSERT]:
                out.append(self._write_alone(now))
            return out
        if self._synced:
            self._take(Kind.ANNOUNCE, out, now)
        return out

    def report(self, *, pid: int, exabgp_pid: int) -> Report:
        entries = [self._entries[prefix] for prefix in sorted(self._entries, key=_order)]
        moving = (Kind.ANNOUNCE, Kind.WITHDRAW)
        return Report(
            seq=self._seq,
            announced=tuple(e.prefix for e in entries if e.clear or e.held or not self._synced),
            pending=tuple(
                e.prefix
                for e in entries
                if not self._synced  # what ExaBGP holds is not known yet
                or e.clear
                or (e.command is not None and e.command.kind in moving)
                or (not e.why and e.need() in moving)
            ),
            failed=tuple(
                FailedRoute(prefix=e.prefix, why=e.why) for e in entries if e.why and e.want is not None
            ),
            neighbors=tuple(self._neighbors[address] for address in sorted(self._neighbors)),
            exabgp_version=self._version,
            exabgp_pid=exabgp_pid,
            pid=pid,
            errors=self._errors,
            acks=self._acks,
            silent_since=self._silent_since,
            lease_expired=self._expired,
            late_leases=self._late_leases,
        )

    # Wants

    def _entry(self, prefix: Prefix) -> _Entry:
        entry = self._entries.get(prefix)
        if entry is None:
            entry = self._entries[prefix] = _Entry(prefix)
            self._unsettled[prefix] = None
            self._queues[Kind.WITHDRAW][prefix] = None
            self._changed()
        return entry

    def _want(self, wanted: dict[Prefix, Route], now: float) -> None:
        for prefix, entry in list(self._entries.items()):
            want = wanted.get(prefix)
            if want != entry.want:
                entry.want = want
                entry.refused, entry.why, entry.not_before = None, "", -math.inf
                if want is not None:
                    entry.why = _invalid(want)
                    entry.refused = want if entry.why else None
                if entry.why:
                    self.log.append(f"not announced: {entry.why}")
                    entry.not_before = math.inf
                self._changed()
                self._place(entry, now)
            self._forget_if_foreign(entry)

    def _expire(self, now: float) -> None:
        self._expires, self._expired = None, True
        self.log.append("the lease has run out: everything is withdrawn")
        self._changed()
        self._want({}, now)

    def _forget_if_foreign(self, entry: _Entry) -> None:
        """A prefix we own no more may be somebody else's: leave it alone once it is down."""
        if self._owned is None or entry.prefix in self._owned or entry.prefix in self._own:
            return
        if entry.want is None and entry.settled and entry.command is None:
            self._drop_from_queues(entry.prefix)
            self._unsettled.pop(entry.prefix, None)
            del self._entries[entry.prefix]
            self._journal_dirty = True
            self._changed()

    # Queues

    def _drop_from_queues(self, prefix: Prefix) -> None:
        for queue in self._queues.values():
            queue.pop(prefix, None)
        self._delayed.pop(prefix, None)

    def _place(self, entry: _Entry, now: float) -> None:
        """Put the entry where it belongs now. To be called after every change of it."""
        self._drop_from_queues(entry.prefix)
        need = entry.need()
        # Only a withdraw that was refused waits; one for a route that is no longer wanted is never put off.
        late = entry.not_before > now and (need is Kind.ANNOUNCE or entry.withdraw_errors > 0)
        if need is not None and late:
            self._delayed[entry.prefix] = None
        elif need is not None:
            self._queues[need][entry.prefix] = None
        if entry.settled:
            self._unsettled.pop(entry.prefix, None)
        else:
            self._unsettled[entry.prefix] = None
        self._journal_dirty = True

    def _take(self, kind: Kind, out: list[str], now: float) -> None:
        if self._alone():
            return
        queue = self._queues[kind]
        for prefix in list(queue):
            if len(self._unanswered) >= WINDOW:
                return
            entry = self._entries[prefix]
            if kind is not Kind.ANNOUNCE:
                del queue[prefix]
                out.append(self._withdraw(entry, kind, now))
            elif self._may_announce(entry, now):
                queue.pop(prefix, None)
                out.append(self._announce(entry, now))

    def _may_announce(self, entry: _Entry, now: float) -> bool:
        if entry.want in self._recorded or (self._journal_why is not None and entry.prefix in self._own):
            return True
        if self._journal_why is not None:
            self._refuse(entry, f"the journal cannot be written: {self._journal_why}", math.inf, now)
        return False

    def _announce(self, entry: _Entry, now: float) -> str:
        route = entry.want
        assert route is not None  # noqa: S101 - `need` said so
        entry.held = (*(held for held in entry.held if held != route), route)
        entry.last = route
        entry.reassert = False
        return self._write(_Command(Kind.ANNOUNCE, codec.announce(route), now, entry, route))

    def _withdraw(self, entry: _Entry, kind: Kind, now: float) -> str:
        # What ExaBGP refused with its attributes it never took; without them it may take it.
        bare = entry.withdraw_errors % 2 == 1
        route = None if bare else entry.held[-1] if entry.held else entry.last
        entry.reassert = False
        text = codec.withdraw_bare(entry.prefix) if route is None else codec.withdraw(route)
        return self._write(_Command(kind, text, now, entry, route))

    def _write(self, command: _Command) -> str:
        if not self._unanswered:
            self._quiet_since = command.at
        self._unanswered.append(command)
        if command.entry is not None:
            command.entry.command = command
            self._place(command.entry, command.at)
        self._changed()
        return command.text

    # Commands that travel alone

    def _alone(self) -> bool:
        return bool(self._unanswered) and self._unanswered[0].entry is None

    def _alone_due(self, now: float) -> bool:
        return self._flush_due or self._version_due or now >= self._query_at

    def _write_alone(self, now: float) -> str:
        if now >= self._query_at:
            self._query_at = math.inf
            self._query_answer, self._stray_at = None, None
            return self._write(_Command(Kind.QUERY, codec.SHOW_NEIGHBORS, now))
        if self._flush_due:
            self._flush_due = False
            return self._write(_Command(Kind.FLUSH, codec.FLUSH, now))
        self._version_due = False
        return self._write(_Command(Kind.VERSION, codec.VERSION, now))

    def _complete_query(self, now: float) -> None:
        self._stray_at = None
        self._sync(now)
        answer, self._query_answer = self._query_answer, None
        self._query_refusals = 0 if isinstance(answer, codec.NeighborTable) else self._query_refusals + 1
        # ExaBGP 4 has no such table and says so in words.
        ask = self._query_refusals < QUERY_TRIES and not isinstance(answer, codec.Other)
        self._query_at = now + QUERY if ask else math.inf
        if self._unanswered and self._unanswered[0].kind is Kind.QUERY:
            self._unanswered.popleft()
        self._changed()

    def _sync(self, now: float) -> None:
        """No earlier command is unanswered from here on."""
        if self._synced:
            return
        self._synced = True
        if self._errors:
            # An answer owed to the life before may have taken the place of the refusal: which withdraw was it of?
            for entry in self._entries.values():
                entry.clear, entry.withdraw_errors, entry.not_before = True, 0, -math.inf
                self._place(entry, now)

    # Answers

    def _answer(self, *, refused: bool, now: float) -> None:
        self._quiet_since = now
        self._tell_silence(None)
        if self._skip:
            self._skip -= 1
            return
        if not self._unanswered:
            return
        command = self._unanswered[0]
        if command.kind is Kind.QUERY:
            if self._query_answer is None and not (refused and self._synced):
                # The answer comes ahead of its `done`, so this one belongs to a command before the question: as many
                # of ours are answered as the life before was owed.
                self._stray_at = now
                self._errors += refused
            else:
                self._complete_query(now)
            return
        self._unanswered.popleft()
        if refused:
            self._errors += 1
            self.log.append(f"ExaBGP refused: {command.text}")
        else:
            self._acks += 1
        self._changed()
        entry = command.entry
        if entry is None:
            return
        entry.command = None
        if command.kind is Kind.ANNOUNCE:
            self._answer_announce(entry, command, refused=refused, now=now)
        elif command.kind is Kind.WITHDRAW:
            self._answer_withdraw(entry, command, refused=refused, now=now)
        self._place(entry, now)
        self._forget_if_foreign(entry)

    def _answer_announce(self, entry: _Entry, command: _Command, *, refused: bool, now: float) -> None:
        route = command.route
        assert route is not None  # noqa: S101 - every announce has one
        if not refused:
            entry.held = (route,)
            entry.refused, entry.why = None, ""
            return
        entry.held = tuple(held for held in entry.held if held != route)
        entry.last = entry.held[-1] if entry.held else None
        entry.clear = not entry.held
        if entry.want == route:
            self._refuse(entry, f"ExaBGP refused: {command.text}", now + RETRY_ANNOUNCE, now)

    def _answer_withdraw(self, entry: _Entry, command: _Command, *, refused: bool, now: float) -> None:
        if not refused:
            entry.withdraw_errors = 0
            bare = command.route is None
            entry.held = () if bare else tuple(held for held in entry.held if held != command.route)
            entry.clear = bool(entry.held) and entry.clear
            if entry.refused is None:
                entry.why = ""
            return
        entry.withdraw_errors += 1
        entry.not_before = now + RETRY_WITHDRAW
        if entry.want is not None and not entry.why:
            entry.why = f"ExaBGP refused: {command.text}"
        if entry.withdraw_errors >= WITHDRAW_TRIES and entry.held:
            self._stick(f"refused {WITHDRAW_TRIES} times: {command.text}")

    def _refuse(self, entry: _Entry, why: str, retry_at: float, now: float) -> None:
        entry.refused, entry.why, entry.not_before = entry.want, why, retry_at
        self._changed()
        self._place(entry, now)

    def _retry_refused(self, now: float) -> None:
        for entry in self._entries.values():
            if entry.refused is not None and not _invalid(entry.refused):
                entry.not_before = now
                self._place(entry, now)

    # Sessions

    def _session_up(self, now: float) -> None:
        # Before the session is up ExaBGP only piles up what it will send. What joins the pile may be sent
        # ahead of something stale, so all is said once more when the pile is gone.
        self._reassert(now)
        self._settle_at = now + SETTLE
        self._flush_due = True
        self._retry_refused(now)

    def _reassert(self, now: float) -> None:
        self._reassert_at = now + REASSERT
        for entry in self._entries.values():
            entry.reassert = True
            self._place(entry, now)

    def _neighbor(self, address: str, state: str, reason: str, changed: float, now: float) -> None:
        old = self._neighbors.get(address)
        if old is not None and (old.state, old.reason) == (state, reason):
            return
        self._neighbors[address] = NeighborState(address=address, state=state, changed=changed, reason=reason)
        if old is not None or changed == now:
            self.log.append(f"neighbor {address} is {state}{': ' + reason if reason else ''}")
        self._changed()

    def _table(self, table: codec.NeighborTable, now: float) -> None:
        came_up = False
        for row in table.rows:
            old = self._neighbors.get(row.address)
            if old is not None and (old.state == "up") == row.up:
                continue
            came_up = came_up or (row.up and old is not None)
            changed = now - row.seconds if row.seconds is not None else now
            self._neighbor(row.address, "up" if row.up else "down", "", changed, now)
        for address in set(self._neighbors) - {row.address for row in table.rows}:
            del self._neighbors[address]
            self._changed()
        if came_up:
            self._session_up(now)

    # The rest

    def _journal_content(self) -> tuple[Route, ...]:
        routes = {held for entry in self._entries.values() for held in entry.held}
        routes |= {e.want for e in self._entries.values() if e.want is not None and not _invalid(e.want)}
        return tuple(sorted(routes, key=_route_order))

    def _tell_silence(self, since: float | None) -> None:
        if since != self._silent_since:
            self._silent_since = since
            self._changed()

    def _stick(self, why: str) -> None:
        if self._stuck is None:
            self._stuck = why
            self._changed()

    def _changed(self) -> None:
        self.revision += 1


def _invalid(route: Route) -> str:
    try:
        codec.announce(route)
    except (ValueError, TypeError) as error:
        return str(error)
    return ""


def _order(prefix: Prefix) -> tuple[int, int, int]:
    return prefix.version, int(prefix.network_address), prefix.prefixlen


def _route_order(route: Route) -> tuple[tuple[int, int, int], str]:
    return _order(route.prefix), repr(route)
