"""Which command to give ExaBGP next, by the lease, the prefixes and the conversation. Pure: time comes in as data.

ExaBGP keeps no owner of a route, and several commands for one prefix in one batch, or while the session is down, can
end in the wrong state. The rules are kept where they belong: `prefixes`, `conversation`, `journal`. Here stands the rest:

- Withdraws go ahead of everything that waits.
- When a session comes up, what is down is withdrawn again and the rest is sent again (`flush`).
- When ExaBGP reads its configuration again, what is down is withdrawn again and the rest is announced again: a VIP that
  stands in the file as a route is announced by that, and withdrawn when its line is gone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from anycast.core.values.report import ATTRIBUTES, EXPLAINED, NeighborState, Report, too_old
from anycast.core.values.route import Mark, Prefix, Route, shape
from anycast.core.values.sight import ViewChange
from anycast.lease import Lease, LeaseChange
from anycast.plugin import codec, commands, outage
from anycast.plugin.conversation import Command, Conversation
from anycast.plugin.following import Following
from anycast.plugin.has import Has
from anycast.plugin.journal import Journal, Writing
from anycast.plugin.prefixes import Entry, Kind, Prefixes
from anycast.plugin.view import View

REASSERT = 60.0  # seconds between withdraws of all that is down
AT_ONCE = 1.0  # seconds between what a router says and the end of the session that it is about
SETTLE = 1.0  # seconds after a session came up until everything is said once more
RELOAD_SAYS = 2  # times that everything is said then: a busy ExaBGP may come to the routes of its file late
RELOADED = 0.2  # seconds after ExaBGP began to read its configuration until everything is said again
BATCH_FROM = 20  # prefixes that wait for the same, from which on several go into one command
BATCH = 50  # prefixes in one command: ExaBGP takes them in one turn of its loop, for a third of what each costs alone


class Planner:
    """The state machine between lease and ExaBGP.

    Inputs are `connected`, `lease`, `line`, `tick`, `stop`, `asked`, `reported`, `journaled` and `journal_failed`;
    outputs are `asks`, `commands`, `journal`, `report`, `view` and `stuck`. `own` are the prefixes known without any lease, `journal` is what the
    life before may have announced, `mark` is on this node's paths where routers send back what they have, until a lease says
    which is. Instants are seconds of one monotonic clock.
    """

    def __init__(
        self,
        *,
        own: Iterable[Prefix] = (),
        journal: Iterable[Route] = (),
        mark: Mark | None = None,
        now: float,
    ) -> None:
        recorded = frozenset(journal)
        self._prefixes = Prefixes(own, recorded)
        self._view = View(mark, self._prefixes.knows, self._prefixes.is_at)
        for prefix in self._prefixes.all:
            self._view.looks_for(prefix)
        self._journal = Journal(recorded, now)
        self._talk = Conversation(now)
        self.log: list[str] = []  # what an operator should read; the caller empties it
        self._lease = Following(self.log)
        self._synced = False
        self._stopping = False
        self._stopped = False
        self._neighbors: dict[str, NeighborState] = {}
        self._setups: tuple[str, ...] = ()  # how ExaBGP has the sessions
        self._mark: str | None = None  # which file ExaBGP has read; None: it has not said yet
        self._unread = True  # it is to be asked
        self._loaded: float | None = None  # when it was found to have read another one
        self._said: dict[str, tuple[codec.Notification, float]] = {}  # what a router said last, and when
        self._version: str | None = None
        self._reassert_at = now + REASSERT
        # The life before may have ended while a session came up.
        self._settle_at: float | None = now + SETTLE
        self._doubted = False  # ExaBGP may have other neighbors than are known
        self._asked_after = False  # and has been asked since
        self._reloading = 0  # times that everything is still to be said after a reload of ExaBGP
        self._changes = 0

    # Inputs

    def connected(self) -> None:
        """A new connection of the agent: sequence numbers start again."""
        self._lease.connected()
        self._view.connected()

    def lease(self, messages: Iterable[Lease | LeaseChange], now: float) -> None:
        """What the agent leases, all that has come since the last time."""
        if self._stopping:
            return
        wanted = self._lease.take(messages, now)
        if wanted is not None:
            self.log += self._prefixes.want(wanted.routes, wanted.owned, now, wanted.touched)
            for prefix in self._prefixes.came:
                self._view.looks_for(prefix)
            self._view.remark(wanted.mark)

    def stop(self, now: float) -> None:
        """Withdraw everything, for good."""
        self._stopping = True
        self._lease.end()
        self._prefixes.want_nothing(now)

    def line(self, line: codec.Line, now: float) -> None:
        """A line from ExaBGP."""
        match line:
            case codec.Done():
                self._answer(refused=False, now=now)
            case codec.Refused():
                self._answer(refused=True, now=now)
            case codec.NeighborEvent():
                if line.address not in self._neighbors:
                    self._doubted = True
                    self._ask(now)
                self._neighbor(line.address, line.state, line.reason, now, now)
                self._view.session(line.address, up=line.state == "up", now=now)
                if line.state == "up":
                    self._session_up(now)
            case codec.Notification():
                self._said[line.address] = line, now
            case codec.NeighborTable():
                self._talk.table(line)
                self._table(line, now)
            case codec.Negotiated():
                self._view.negotiated(line)
            case codec.Update():
                self._view.update(line, now)
            case codec.Version():
                self._heard_version(line.version)
            case codec.Reloading():
                self._reload(now)
            case codec.Mark():
                self._marked(line.text, now)
            case codec.Stopping():
                self._stopped = True
            case codec.Other():
                pass

    def tick(self, now: float) -> None:
        """Time has passed. Hand in what was read before, or a lease that waits to be read looks lost."""
        self._talk.tick(now)
        self._sync(now)
        if self._lease.runs_out(now):
            self._prefixes.want_nothing(now)
        self._prefixes.tick(now)
        if self._settle_at is not None and now >= self._settle_at:
            self._settle_at = None
            self._reassert(now)
            if self._reloading:
                self._reloading -= 1
                self._ask(now)
                self._prefixes.announce_again(now)
                self._settle_at = now + SETTLE if self._reloading else None
            self._talk.flush()
        if now >= self._reassert_at:
            self._reassert(now)
        self._look(now)

    def _look(self, now: float) -> None:
        """What the routers have, after what has changed here."""
        known = self._prefixes
        for prefix in known.came:
            self._view.owns(prefix)
        self._view.touch(known.moved)
        known.came.clear()
        known.moved.clear()
        self._view.tick(now, known.all)

    def asked(self) -> None:
        """The agent has been asked for the full set."""
        self._lease.asked()

    def reported(self) -> None:
        """The newest report is on its way, so that the next one differs from it."""
        self._prefixes.touched.clear()

    def journaled(self, writing: Writing, now: float) -> None:
        """It is written."""
        failed = self._journal.error is not None
        self._journal.stored(writing)
        if failed:
            self._changes += 1
            self._prefixes.retry_refused(now)

    def journal_failed(self, why: str, now: float) -> None:
        """The journal could not be written: only prefixes of `own` may be announced until it can."""
        if self._journal.error is None:
            self.log.append(f"the journal cannot be written: {why}")
            self._changes += 1
        self._journal.failed(why, now)

    # Outputs

    @property
    def asks(self) -> bool:
        """The agent must send the full set."""
        return self._lease.asks

    @property
    def revision(self) -> int:
        """Moves with every change a report would show."""
        return self._changes + self._lease.revision + self._prefixes.revision + self._talk.revision

    @property
    def stuck(self) -> str | None:
        """Why ExaBGP must be ended; None: it need not."""
        return self._talk.stuck

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
        return self._synced and self._prefixes.all_down

    @property
    def settled(self) -> bool:
        """Every prefix is as wanted, and ExaBGP acknowledged it."""
        return self._synced and self._prefixes.settled

    @property
    def next_at(self) -> float | None:
        """The instant at which `tick` must not be late: the end of the lease."""
        return self._lease.expires

    def journal(self, now: float) -> Writing | None:
        """What is to be written into the journal; None: nothing. Ask before `commands`."""
        return self._journal.due(self._prefixes, now)

    def whole_journal(self) -> Writing:
        """All of it, where there is no file to add to."""
        return self._journal.whole(self._prefixes)

    def commands(self, now: float) -> list[str]:
        """The commands to write now, without line ends. They count as written."""
        out = self._write(Kind.WITHDRAW, now)
        out += self._write(Kind.REASSERT, now)
        if not self._talk.is_alone and self._talk.alone_is_due(now):
            if self._talk.idle:  # then no withdraw waits either
                out += self._talk.write_alone(now)
        elif self._synced:
            out += self._write(Kind.ANNOUNCE, now)
        return out

    def report(self, *, pid: int, exabgp_pid: int, rendered: str = "") -> Report:
        """`touched` is what it says differently since `reported`."""
        said = self._prefixes.said()
        return Report(
            seq=self._lease.seq,
            announced=said.announced,
            pending=said.pending,
            failed=said.failed,
            neighbors=tuple(self._neighbors[address] for address in sorted(self._neighbors)),
            exabgp_version=self._version,
            exabgp_pid=exabgp_pid,
            pid=pid,
            errors=self._talk.errors,
            acks=self._talk.acks,
            silent_since=self._talk.silent_since,
            lease_expired=self._lease.expired,
            late_leases=self._lease.late_leases,
            followed=self._lease.issued,
            attributes=ATTRIBUTES,
            rendered=rendered,
            setups=self._setups,
            loaded=self._loaded,
            journal_error=self._journal.error or "",
            touched=frozenset(self._prefixes.touched),
        )

    def view(self) -> ViewChange | None:
        """What has changed in what the routers have, and counts as told; None: nothing."""
        return self._view.change() if self._view.has_news else None

    def has(self, exabgp: int) -> Has:
        """Which file ExaBGP has read, for whoever has given it another one."""
        down = sorted(one.address for one in self._neighbors.values() if one.state != "up")
        return Has(exabgp=exabgp, mark=self._mark or "", down=tuple(down))

    # Commands

    def _write(self, kind: Kind, now: float) -> list[str]:
        """What waits for such a command, as long as there is room."""
        out: list[str] = []
        while self._talk.has_room and (moves := self._next(kind, now)):
            out += self._talk.write(Command(kind, self._texts(kind, moves), moves), now)
        return out

    def _next(self, kind: Kind, now: float) -> tuple[tuple[Entry, Route | None], ...]:
        """The prefixes of the next command, which count as written: one, or where many wait several that agree."""
        moves: list[tuple[Entry, Route | None]] = []
        most = BATCH if self._prefixes.waiting(kind) >= BATCH_FROM else 1
        first: tuple[object, ...] | None = None
        while len(moves) < most and (entry := self._prefixes.next(kind)) is not None:
            if kind is Kind.ANNOUNCE and self._doubted and entry.has_variants:
                break  # the neighbors are about to be known
            if kind is Kind.ANNOUNCE and not self._may_announce(entry, now):
                if self._journal.error is None:
                    break  # it is about to be written
                continue
            route = entry.route_for(kind)
            if kind is Kind.REASSERT and entry.spared and not self._spares(entry):
                entry.spared = False
                self._prefixes.place(entry, now)
                continue
            alone = entry.alone or (kind is Kind.ANNOUNCE and self._drops(entry))
            is_down = kind is Kind.REASSERT and entry.want is None
            alike = alone, entry.prefix.version, None if route is None else shape(route), is_down
            if first is not None and (alike != first or alone):
                break
            first = alike
            moves.append((entry, entry.written(kind)))
            self._prefixes.place(entry, now)
            if alone:
                break
        return tuple(moves)

    def _texts(self, kind: Kind, moves: tuple[tuple[Entry, Route | None], ...]) -> tuple[str, ...]:
        """Moves that go together have routes of one shape, or none has one."""
        entry, known = moves[0][0], self._prefixes.known
        to = self._reached() if kind is Kind.REASSERT else ()
        routes = [route for _, route in moves if route is not None]
        match kind:
            case Kind.ANNOUNCE:
                return commands.announce(routes, entry.held, known)
            case Kind.REASSERT if routes and entry.want is not None:
                return commands.spare(routes, to or known)
            case _ if not routes or (self._doubted and routes[0].variants):
                return commands.withdraw_bare([one.prefix for one, _ in moves], to)
            case Kind.REASSERT:
                return commands.withdraw_again(routes, known, to)
            case _:
                return commands.withdraw(routes, known)

    def _spares(self, entry: Entry) -> bool:
        """Some neighbor is not sent it."""
        want = entry.want
        return want is not None and bool(commands.left_out(want, self._reached() or self._prefixes.known))

    def _drops(self, entry: Entry) -> bool:
        """Some neighbor loses it with what is announced now."""
        want = entry.want
        return want is not None and any(commands.dropped(want, entry.held, self._prefixes.known))

    def _may_announce(self, entry: Entry, now: float) -> bool:
        if (old := too_old(self._version)) is not None:
            entry.refuse(old, math.inf)
            self._prefixes.place(entry, now)
            return False
        error = self._journal.error
        if self._journal.holds(entry) or (error is not None and entry.prefix in self._prefixes.own):
            return True
        if error is not None:
            entry.refuse(f"the journal cannot be written: {error}", math.inf)
            self._prefixes.place(entry, now)
        return False

    # Answers

    def _heard_version(self, version: str) -> None:
        if version == self._version:
            return
        self._version = version
        self._changes += 1
        if (words := too_old(version)) is not None:
            self.log.append(words)

    def _answer(self, *, refused: bool, now: float) -> None:
        command, text, stray = self._talk.answer(refused=refused, now=now)
        self._sync(now)
        if text or stray:
            self.log.append(f"ExaBGP refused: {text or 'a command that is not known'}")
        if command is None:
            return
        refused = bool(text)
        for entry, route in command.moves:
            entry.command = None
            if refused and len(command.moves) > 1:
                entry.refused_together(command.kind)
            elif refused:
                self._refused(command, entry, text, now)
            elif command.kind is Kind.WITHDRAW:
                entry.withdrawn(route)
            elif command.kind is Kind.ANNOUNCE and route is not None:
                entry.announced(route)
            self._prefixes.place(entry, now)
            self._prefixes.forget_if_foreign(entry)

    def _refused(self, command: Command, entry: Entry, text: str, now: float) -> None:
        _, route = command.moves[0]
        if command.kind is Kind.ANNOUNCE and route is not None:
            entry.announce_refused(route, text, now)
            if route.variants:
                self._talk.ask(now)
        elif command.kind is Kind.WITHDRAW:
            entry.withdraw_refused(route, text, now)
            if entry.is_stuck:
                self._talk.stick(f"refused {entry.withdraw_errors} times: {text}")
        elif route is not None and entry.want is None:
            entry.reassert_refused()

    def _sync(self, now: float) -> None:
        if self._synced or not self._talk.synced:
            return
        self._synced = True
        self._prefixes.sync(now)
        if self._talk.errors:
            # An answer owed to the life before may have taken the place of the refusal: which withdraw was it of?
            self._prefixes.doubt_all(now)

    # Sessions

    def _session_up(self, now: float) -> None:
        # Before the session is up ExaBGP only piles up what it will send. What joins the pile may be sent
        # ahead of something stale, so all is said once more when the pile is gone.
        self._reassert(now)
        self._settle_at = now + SETTLE
        self._talk.flush()
        self._prefixes.retry_refused(now)

    def _reload(self, now: float) -> None:
        """It says so before it reads, once for each neighbor; what a reload changes it sends in the turns after that."""
        if self._reloading < RELOAD_SAYS:
            self.log.append("ExaBGP is told to read its configuration again: everything is said once more")
        self._reloading, self._unread = RELOAD_SAYS, True
        self._ask_mark()
        # Though all are sent the same so far: what a new neighbor has by then goes with the first variants.
        self._doubted, self._asked_after = True, False
        self._changes += 1
        self._settle_at = now + RELOADED

    def _ask(self, now: float) -> None:
        """Which neighbors it has: until it answers, nothing is announced to some of them, and withdraws go to all."""
        self._asked_after = True
        self._talk.ask(now)

    def _ask_mark(self) -> None:
        """Whether it has done so: it says nothing where it has not (findings/exabgp-drops-a-reload-...).

        It answers for every neighbor that has the given text in its name, so it is asked for the longest.
        """
        if self._prefixes.known:
            self._talk.ask_mark(max(self._prefixes.known, key=lambda one: (len(one), one)))

    def _marked(self, mark: str, now: float) -> None:
        if not self._talk.hears_mark:
            return  # the life before has asked
        old, self._mark, self._unread = self._mark, mark, False
        if old is not None and old != mark:
            self._loaded = now
            self._changes += 1
            self.log.append("ExaBGP has read its configuration")

    def _reassert(self, now: float) -> None:
        """Where no session is up there is nothing to say: each is told when it comes up."""
        self._reassert_at = now + REASSERT
        if not self._prefixes.known or self._up():
            self._prefixes.reassert(now)

    def _up(self) -> tuple[str, ...]:
        known = self._prefixes.known
        return tuple(
            sorted(
                one.address for one in self._neighbors.values() if one.state == "up" and one.address in known
            )
        )

    def _reached(self) -> tuple[str, ...]:
        """From whom what is down already is withdrawn again; none: from all.

        What is said for a session that is down waits for it, and while something waits ExaBGP takes no reload.
        """
        up = self._up()
        return up if len(up) < len(self._prefixes.known) else ()

    def _neighbor(self, address: str, state: str, reason: str, changed: float, now: float) -> None:
        """Of a session that is not up the outage counts: since its beginning, with the first reason that says something."""
        old = self._neighbors.get(address)
        reason = self._reason(address, reason, now) if state == "down" else ""
        if old is not None and old.state != "up" != state:
            changed, reason = old.changed, outage.reason(old.reason, reason)
        if old is not None and (old.state, old.reason) == (state, reason):
            return
        self._neighbors[address] = NeighborState(address=address, state=state, changed=changed, reason=reason)
        if old is not None or changed == now:
            self.log.append(f"neighbor {address} is {state}{': ' + reason if reason else ''}")
        self._changes += 1

    def _reason(self, address: str, reason: str, now: float) -> str:
        """What the router said as it ended the session, or else ExaBGP's reason."""
        said, at = self._said.pop(address, (None, now))
        if now - at > AT_ONCE:
            said = None  # of another connection, which it did not want beside this one
        words = "" if said is None else said.words
        reason = reason if said is None else said.reason
        words = EXPLAINED.get(reason, words)
        return f"{reason}: {words}" if words else reason

    def _table(self, table: codec.NeighborTable, now: float) -> None:
        came_up = False
        for row in table.rows:
            old = self._neighbors.get(row.address)
            if old is not None and (old.state == "up") == row.up:
                continue
            came_up = came_up or (row.up and old is not None)
            changed = now - row.seconds if row.seconds is not None else now
            self._neighbor(row.address, "up" if row.up else "down", "", changed, now)
            self._view.session(row.address, up=row.up, now=None)
        setups = tuple(sorted(row.setup for row in table.rows if row.setup))
        if setups != self._setups:
            self._setups = setups
            self._changes += 1
        for address in set(self._neighbors) - {row.address for row in table.rows}:
            del self._neighbors[address]
            self._changes += 1
        self._doubted = self._doubted and not self._asked_after
        self._view.forget(self._neighbors)
        self._prefixes.know(frozenset(self._neighbors), now)
        if self._unread:
            self._ask_mark()
        if came_up:
            self._session_up(now)
