"""What is known and wanted of each prefix, and which command it waits for. Pure: time comes in as data.

- After a start every prefix the node may own is withdrawn before anything is announced.
- One command per prefix is unanswered at a time.
- Withdraws repeat the attributes of the announcement; one that was refused so is tried without them.
- New attributes are announced over the old ones, without a withdraw in between.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from anycast.core.values.report import FailedRoute
from anycast.core.values.route import Prefix, Route
from anycast.plugin import codec, commands

RETRY_ANNOUNCE = 30.0  # seconds
RETRY_WITHDRAW = 1.0  # seconds
WITHDRAW_TRIES = 5  # refused withdraws in a row until ExaBGP is stuck


class Kind(StrEnum):
    ANNOUNCE = "announce"
    WITHDRAW = "withdraw"
    REASSERT = "reassert"  # the withdraw of what is down already
    FLUSH = "flush"
    QUERY = "query"
    MARK = "mark"  # which file ExaBGP has read
    VERSION = "version"


MOVES = (Kind.ANNOUNCE, Kind.WITHDRAW)


class Said(NamedTuple):
    """The prefixes of a report."""

    announced: frozenset[Prefix]
    pending: frozenset[Prefix]
    failed: tuple[FailedRoute, ...]


@dataclass(slots=True)
class Entry:
    """What is known of one prefix."""

    prefix: Prefix
    want: Route | None = None
    held: tuple[Route, ...] = ()  # attribute sets that may be announced, the newest last
    clear: bool = True  # it must be withdrawn before it is announced: its state is not known
    last: Route | None = None  # attributes of the last announcement
    command: Kind | None = None  # the one that is unanswered
    reassert: bool = False
    again: bool = False  # what is held is to be announced once more: ExaBGP may not have it so
    announce_at: float = -math.inf
    withdraw_at: float = -math.inf
    withdraw_errors: int = 0
    barred: bool = False  # there is no command for the wanted route
    refused: bool = False  # the wanted route was refused, by ExaBGP or for want of a journal
    why: str = ""  # the wanted route is not announced because
    spared: bool = (
        False  # it is wanted and does not go to every neighbor: from those it is withdrawn again, too
    )
    refusals: int = 0  # of the wanted route, in a row, where it has variants
    alone: bool = False  # it goes into no command with others
    queue: dict[Prefix, None] | None = None  # the one it stands in
    told: tuple[bool, bool, str] | None = None  # what a report says of it: announced, pending, why it failed

    @property
    def settled(self) -> bool:
        if self.command in MOVES or self.clear:
            return False
        return not self.held if self.want is None else self.held == (self.want,) and not self.again

    @property
    def has_variants(self) -> bool:
        """Not every neighbor is sent the same, or was."""
        wanted = () if self.want is None else (self.want,)
        return any(route.variants for route in (*wanted, *self.held))

    def goes_to(self, neighbor: str) -> bool:
        """What is wanted does."""
        variants = () if self.want is None else self.want.variants
        return not variants or any(neighbor in one.neighbors for one in variants)

    def need(self) -> Kind | None:
        if self.command is not None:
            return None
        if self.clear or (self.want is None and self.held):
            return Kind.WITHDRAW
        if self.want is not None and (self.again or self.held != (self.want,)) and not self.barred:
            return Kind.ANNOUNCE
        return Kind.REASSERT if self.reassert and (self.want is None or self.spared) else None

    def due_at(self) -> float:
        """The instant from which what it needs may be written: what was refused waits."""
        match self.need():
            case Kind.ANNOUNCE:
                return self.announce_at
            case Kind.WITHDRAW:
                return self.withdraw_at
            case _:
                return -math.inf

    def set_want(self, want: Route | None) -> None:
        self.want, self.refused, self.spared, self.refusals = want, False, False, 0
        self.announce_at = self.withdraw_at = -math.inf
        self.why = "" if want is None else _invalid(want)
        self.barred = bool(self.why)

    def doubt(self) -> None:
        """Nothing proves that it is withdrawn."""
        self.clear, self.withdraw_errors, self.withdraw_at = True, 0, -math.inf

    def refuse(self, why: str, retry_at: float) -> None:
        self.refused, self.why, self.announce_at = True, why, retry_at

    def route_for(self, kind: Kind) -> Route | None:
        """The attribute set that the next command of this kind is about; None: all there may be."""
        if kind is Kind.ANNOUNCE or (kind is Kind.REASSERT and self.want is not None):
            return self.want
        # What ExaBGP refused with its attributes it never took; without them it may take it.
        bare = self.withdraw_errors % 2 == 1
        return None if bare else self.held[-1] if self.held else self.last

    def written(self, kind: Kind) -> Route | None:
        """A command of this kind counts as written. Returns the attribute set it is about."""
        route = self.route_for(kind)
        self.reassert = (
            self.reassert and self.spared and kind is Kind.ANNOUNCE
        )  # that goes to other neighbors
        self.command = kind
        if kind is Kind.ANNOUNCE and route is not None:
            self.again = False
            self.held = (*(held for held in self.held if held != route), route)
            self.last = route
        return route

    def announced(self, route: Route) -> None:
        """ExaBGP has acknowledged the announce. What came up since it was written (`again`) stands."""
        self.held, self.refused, self.alone, self.why, self.refusals = (route,), False, False, "", 0

    def announce_refused(self, route: Route, text: str, now: float) -> None:
        self.again = True  # what stays held may have been in doubt before
        if route.variants:
            # Some neighbors may have it, and it is theirs; ExaBGP knows no neighbor of the others, for one.
            self.refusals += 1
            if self.want == route:
                later = RETRY_WITHDRAW if self.refusals == 1 else RETRY_ANNOUNCE
                self.refuse(f"ExaBGP refused: {text}", now + later)
            return
        self.held = tuple(held for held in self.held if held != route)
        self.last = self.held[-1] if self.held else None
        self.clear = not self.held
        if self.want == route:
            self.refuse(f"ExaBGP refused: {text}", now + RETRY_ANNOUNCE)

    def refused_together(self, kind: Kind) -> None:
        """A command for several prefixes was refused: ExaBGP may have taken any of them, so each is tried alone."""
        self.alone = self.again = True
        self.reassert = self.reassert or kind is Kind.REASSERT
        if kind is Kind.ANNOUNCE and not (self.want is not None and self.want.variants):
            self.clear = True

    def withdrawn(self, route: Route | None) -> None:
        """ExaBGP has acknowledged the withdraw of this attribute set; None: of all."""
        self.withdraw_errors = 0
        self.held = () if route is None else tuple(held for held in self.held if held != route)
        self.clear = bool(self.held) and self.clear
        if not self.refused and not self.barred:
            self.why = ""

    def withdraw_refused(self, route: Route | None, text: str, now: float) -> None:
        self.withdraw_errors += 1
        self.again = True  # some neighbors may have lost it
        # Of variants ExaBGP may merely not know a neighbor any more: without attributes it goes to those it knows.
        at_once = route is not None and bool(route.variants) and self.withdraw_errors == 1
        self.withdraw_at = now if at_once else now + RETRY_WITHDRAW
        if self.want is not None and not self.why:
            self.why = f"ExaBGP refused: {text}"

    def reassert_refused(self) -> None:
        """It is down for ExaBGP, and a router may have it: what is refused with its attributes goes without them."""
        self.last, self.reassert = None, True

    @property
    def is_stuck(self) -> bool:
        """ExaBGP has it and refuses to withdraw it."""
        return self.withdraw_errors >= WITHDRAW_TRIES and bool(self.held)


class Prefixes:
    """All entries, in the queues of what they wait for. `place` is to be called after every change of an entry.

    Whatever is asked of it in each pass costs what has changed, and not what there is.
    """

    def __init__(self, own: Iterable[Prefix], journal: Iterable[Route]) -> None:
        self.own = frozenset(own)
        self._owned: Container[Prefix] | None = None  # by the newest lease
        self._entries: dict[Prefix, Entry] = {}
        # What waits to be written, by kind; an entry stands in at most one queue.
        self._queues: dict[Kind, dict[Prefix, None]] = {
            kind: {} for kind in (Kind.WITHDRAW, Kind.REASSERT, Kind.ANNOUNCE)
        }
        self._delayed: dict[Prefix, None] = {}
        self._delayed_until = math.inf
        self._unsettled: dict[Prefix, None] = {}
        self._synced = False  # what ExaBGP holds is known
        self._announced: set[Prefix] = set()
        self._pending: set[Prefix] = set()
        self._failed: dict[Prefix, str] = {}
        self._said: Said | None = None
        self.known: frozenset[str] = frozenset()  # the neighbors that ExaBGP has
        self.touched: set[Prefix] = set()  # those of which a report says something else than the last did
        self.moved: set[Prefix] = set()  # the same since the view looked
        self.came: list[Prefix] = []  # that are known since then
        self.fresh: list[Route] = []  # what is newly wanted, for the journal
        self.wants = 0  # how many are wanted and can be announced
        self.forgot = False  # since the journal looked
        self.revision = 0  # moves with every change of what a report says
        for prefix in sorted(self.own, key=order):
            self._add(prefix)
        for route in sorted(journal, key=route_order):
            entry = self._add(route.prefix)
            entry.held = (*entry.held, route)
            entry.last = route

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    @property
    def all(self) -> Collection[Prefix]:
        return self._entries.keys()

    def knows(self, prefix: Prefix) -> bool:
        return prefix in self._entries

    def is_at(self, prefix: Prefix, neighbor: str) -> bool:
        """It is announced to that neighbor as wanted, and acknowledged."""
        entry = self._entries.get(prefix)
        return entry is not None and entry.settled and entry.want is not None and entry.goes_to(neighbor)

    @property
    def settled(self) -> bool:
        """Every prefix is as wanted, and ExaBGP acknowledged it."""
        return not self._unsettled

    def next(self, kind: Kind) -> Entry | None:
        """The one that has waited longest."""
        prefix = next(iter(self._queues[kind]), None)
        return None if prefix is None else self._entries[prefix]

    def waiting(self, kind: Kind) -> int:
        return len(self._queues[kind])

    def want(
        self,
        wanted: Mapping[Prefix, Route],
        owned: Collection[Prefix],
        now: float,
        touched: Iterable[Prefix] | None = None,
    ) -> list[str]:
        """From now on this is wanted. Returns why routes of it cannot be announced.

        `touched`: nothing but these differs from what was wanted and owned before; None: anything may.
        """
        self._owned = owned
        prefixes = dict.fromkeys((*self._entries, *wanted, *owned)) if touched is None else touched
        problems: list[str] = []
        for prefix in prefixes:
            want = wanted.get(prefix)
            entry = self._entries.get(prefix)
            if entry is None:
                if want is None and prefix not in owned:
                    continue
                entry = self._add(prefix)
            problems += self._want(entry, want, now)
        return problems

    def want_nothing(self, now: float) -> None:
        for entry in list(self):
            self._want(entry, None, now)

    def _want(self, entry: Entry, want: Route | None, now: float) -> list[str]:
        problems = []
        if want != entry.want:
            self.wants -= entry.want is not None and not entry.barred
            entry.set_want(want)
            if entry.barred:
                problems.append(f"not announced: {entry.why}")
            elif want is not None:
                self.wants += 1
                self.fresh.append(want)
            self.place(entry, now)
        self.forget_if_foreign(entry)
        return problems

    def _add(self, prefix: Prefix) -> Entry:
        entry = self._entries.get(prefix)
        if entry is None:
            entry = self._entries[prefix] = Entry(prefix)
            self.came.append(prefix)
            self.place(entry, math.inf)
        return entry

    def forget_if_foreign(self, entry: Entry) -> None:
        """A prefix we own no more may be somebody else's: leave it alone once it is down.

        One of the command line too: that is as old as ExaBGP, and the lease knows better.
        """
        if self._owned is None or entry.prefix in self._owned:
            return
        if entry.want is None and entry.settled and entry.command is None:
            self._leave_queue(entry)
            self._unsettled.pop(entry.prefix, None)
            self._tell(entry, None)
            del self._entries[entry.prefix]
            self.forgot = True

    def place(self, entry: Entry, now: float) -> None:
        """Put the entry where it belongs now."""
        need = entry.need()
        if need is None:
            self._leave_queue(entry)
        elif (due := entry.due_at()) > now:
            self._enter(entry, self._delayed)
            self._delayed_until = min(self._delayed_until, due)
        else:
            self._enter(entry, self._queues[need])
        if entry.settled:
            self._unsettled.pop(entry.prefix, None)
        else:
            self._unsettled[entry.prefix] = None
        announced = not self._synced or entry.clear or bool(entry.held)
        waits = entry.clear or entry.command in MOVES or (not entry.why and need in MOVES)
        failed = entry.why if entry.want is not None else ""
        self._tell(entry, (announced, not self._synced or waits, failed))

    def _enter(self, entry: Entry, queue: dict[Prefix, None]) -> None:
        if entry.queue is not queue:
            self._leave_queue(entry)
            queue[entry.prefix] = None
            entry.queue = queue

    def _leave_queue(self, entry: Entry) -> None:
        if entry.queue is not None:
            del entry.queue[entry.prefix]
            entry.queue = None

    def _tell(self, entry: Entry, told: tuple[bool, bool, str] | None) -> None:
        if told == entry.told:
            return
        entry.told = told
        announced, pending, failed = told or (False, False, "")
        prefix = entry.prefix
        (self._announced.add if announced else self._announced.discard)(prefix)
        (self._pending.add if pending else self._pending.discard)(prefix)
        if failed:
            self._failed[prefix] = failed
        else:
            self._failed.pop(prefix, None)
        self.touched.add(prefix)
        self.moved.add(prefix)
        self._said = None
        self.revision += 1

    def tick(self, now: float) -> None:
        if now < self._delayed_until:
            return
        self._delayed_until = math.inf
        for entry in [self._entries[prefix] for prefix in self._delayed]:
            self.place(entry, now)

    def reassert(self, now: float) -> None:
        """Withdraw again all that is down."""
        for entry in self:
            entry.reassert = True
            entry.spared = entry.want is not None and bool(commands.left_out(entry.want, self.known))
            if entry.want is None or entry.spared:
                self.place(entry, now)

    def know(self, neighbors: frozenset[str], now: float) -> None:
        """ExaBGP has these neighbors. One that is new is sent what is its own, and what others had is not forgotten."""
        new = neighbors - self.known
        self.known = neighbors
        for entry in self:
            if new and entry.has_variants:
                entry.again, entry.announce_at = True, -math.inf
                self.place(entry, now)

    def announce_again(self, now: float) -> None:
        """Announce again all that is wanted: what ExaBGP has like that it does not send."""
        for entry in self:
            entry.again = True
            if entry.want is not None:
                self.place(entry, now)

    def retry_refused(self, now: float) -> None:
        for entry in self:
            if entry.refused:
                entry.announce_at = now
                self.place(entry, now)

    def doubt_all(self, now: float) -> None:
        for entry in self:
            entry.doubt()
            self.place(entry, now)

    def sync(self, now: float) -> None:
        """From now on it is known what ExaBGP holds."""
        self._synced = True
        for entry in self:
            self.place(entry, now)

    # For the report.

    @property
    def all_down(self) -> bool:
        return not self._announced

    def said(self) -> Said:
        """What a report says of the prefixes; the same object until something changes."""
        if self._said is None:
            failed = sorted(self._failed.items(), key=lambda item: order(item[0]))
            self._said = Said(
                frozenset(self._announced),
                frozenset(self._pending),
                tuple(FailedRoute(prefix=prefix, why=why) for prefix, why in failed),
            )
        return self._said


def _invalid(route: Route) -> str:
    try:
        codec.check(route)
    except (ValueError, TypeError) as error:
        return str(error)
    return ""


def order(prefix: Prefix) -> tuple[int, int, int]:
    return prefix.version, int(prefix.network_address), prefix.prefixlen


def route_order(route: Route) -> tuple[tuple[int, int, int], str]:
    return order(route.prefix), repr(route)
