"""What the routers send back of the VIPs: counted by prefix and router, and told to the agent as differences. Pure.

Whose path it is tells the large community that each node sets, and nothing else: next hops and path identifiers are the
router's own affair. A path is known by session, prefix and identifier; the end of a session ends all of them.

Whatever a router sends, it is read. Prefixes that the node does not own are counted and dropped, and so are paths beyond a
limit: then nothing is said to be missing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from ipaddress import ip_network

from anycast.core.values.route import Mark, Prefix
from anycast.core.values.sight import RouterView, Sight, ViewChange
from anycast.plugin.codec import Negotiated, Update

PATHS = 512  # of one prefix from one router
ALL_PATHS = (
    200_000  # of everything: sixteen nodes with five thousand VIPs and two routers, and a quarter more
)
OWNERS = 4096  # that are told apart
ROWS = 250  # prefixes in one message: it is read within milliseconds
END_PATIENCE = 3.0  # seconds for the End-of-RIB: some routers send none
QUIET = 2.0  # seconds without an update until a new view is complete: a router that restarts sends for longer
LONGEST = 60.0  # seconds until it is in any case

_NOBODY, _MYSELF = 0, 1  # owners: of a path without a mark, and this node


@dataclass(slots=True)
class _Session:
    """One router. `paths`: by prefix and identifier twice the owner's number, and one more of a draining path."""

    number: int
    up: bool = False
    since: float | None = None
    families: tuple[int, ...] = ()
    add_path: tuple[int, ...] = ()
    ended: set[int] = field(default_factory=set)  # families whose End-of-RIB has come
    moved: float = 0.0  # the newest update
    complete: float | None = None
    echoes: bool = False
    count: int = 0
    dropped: int = 0
    full: bool = False
    partial: set[Prefix] = field(default_factory=set)  # came to the node after paths were dropped
    paths: dict[Prefix, dict[str, int]] = field(default_factory=dict)
    sights: dict[Prefix, Sight] = field(default_factory=dict)
    stale: set[Prefix] = field(default_factory=set)  # to be counted again
    dirty: dict[Prefix, None] = field(default_factory=dict)  # to be told


class View:
    """`mark`: this node's; None: no router sends anything back.

    `owned` says whether the node has a prefix, `announced` whether it should be at a router: it is acknowledged, and goes
    there. Whoever changes what they say calls `touch`.
    """

    def __init__(
        self, mark: Mark | None, owned: Callable[[Prefix], bool], announced: Callable[[Prefix, str], bool]
    ) -> None:
        self._mark = mark
        self._owned, self._announced = owned, announced
        self._sessions: dict[str, _Session] = {}
        self._numbers = 0
        self._owners: dict[Mark, int] = {} if mark is None else {mark: _MYSELF}
        self._prefixes: dict[str, Prefix] = {}  # by what ExaBGP writes
        # How texts of prefixes end that may be owned: a full table is passed over by that, and not parsed.
        self._lengths = {"32", "128"}
        self._count = 0
        self._changed = False  # a session
        self._first = True

    # Inputs.

    def negotiated(self, line: Negotiated) -> None:
        session = self._reset(line.address)
        session.families, session.add_path = line.families, line.add_path

    def remark(self, mark: Mark | None) -> None:
        """This node's paths have it from now on. What came before was counted by another one, and is not known any more."""
        if mark == self._mark:
            return
        self._mark = mark
        self._owners = {} if mark is None else {mark: _MYSELF}
        for address, old in list(self._sessions.items()):
            new = self._reset(address)
            new.up, new.families, new.add_path = old.up, old.families, old.add_path

    def session(self, address: str, *, up: bool, now: float | None) -> None:
        """It has come up or gone down at this moment; `now` None: it was up when it was first heard of."""
        known = self._sessions.get(address)
        if up:
            if known is None or known.since is not None:
                known = self._reset(address)
            known.up, known.since, known.moved = True, now, now or 0.0
            self._changed = True
        elif known is not None:
            self._reset(address)

    def forget(self, addresses: Collection[str]) -> None:
        """ExaBGP has only these neighbors."""
        for address in [one for one in self._sessions if one not in addresses]:
            self._count -= self._sessions.pop(address).count
            self._changed = True

    def _reset(self, address: str) -> _Session:
        self._numbers += 1
        old = self._sessions.get(address)
        if old is not None:
            self._count -= old.count
        new = self._sessions[address] = _Session(self._numbers)
        self._changed = True
        if not any(one.count for one in self._sessions.values()):
            self._prefixes.clear()
        return new

    def update(self, line: Update, now: float) -> None:
        if self._mark is None:
            return
        session = self._sessions.get(line.address) or self._reset(line.address)
        session.moved = now
        if line.end is not None:
            session.ended.add(line.end)
            return
        self._changed = True
        for text, number in line.withdrawn:
            self._withdrawn(session, text, number)
        code = 2 * self._owner(line.marks) + line.last_resort
        session.echoes = session.echoes or code // 2 == _MYSELF
        for text, number in line.announced:
            self._arrived(session, text, number, code)

    def _owner(self, marks: Collection[Mark]) -> int:
        for mark in marks:
            if self._mark is not None and mark[1] == self._mark[1]:
                known = self._owners.get(mark)
                if known is None and len(self._owners) < OWNERS:
                    known = self._owners[mark] = len(self._owners) + 1
                return known or _NOBODY
        return _NOBODY

    def _prefix(self, text: str) -> Prefix | None:
        """None: the node has no such VIP."""
        found = self._prefixes.get(text)
        if found is None:
            if text.rpartition("/")[2] not in self._lengths:
                return None
            try:
                found = ip_network(text)
            except ValueError:
                return None
            if not self._owned(found):
                return None
            self._prefixes[text] = found
        return found if self._owned(found) else None

    def _arrived(self, session: _Session, text: str, number: str, code: int) -> None:
        prefix = self._prefix(text)
        if prefix is None:
            session.dropped += 1
            return
        paths = session.paths.get(prefix)
        if paths is None:
            paths = session.paths[prefix] = {}
        if number not in paths:
            if len(paths) >= PATHS or self._count >= ALL_PATHS:
                session.dropped += 1
                session.full = True
                return
            session.count += 1
            self._count += 1
        paths[number] = code
        session.stale.add(prefix)

    def _withdrawn(self, session: _Session, text: str, number: str) -> None:
        prefix = self._prefixes.get(text)
        paths = None if prefix is None else session.paths.get(prefix)
        if prefix is None or paths is None or paths.pop(number, None) is None:
            return
        session.count -= 1
        self._count -= 1
        if not paths:
            del session.paths[prefix]
        session.stale.add(prefix)

    def touch(self, prefixes: Collection[Prefix]) -> None:
        """The node has them or has them no more, or announces them otherwise."""
        for session in self._sessions.values():
            session.stale.update(prefixes)

    def owns(self, prefix: Prefix) -> None:
        """From now on: what was dropped of it before is not known."""
        self.looks_for(prefix)
        for session in self._sessions.values():
            if session.dropped:
                session.partial.add(prefix)

    def looks_for(self, prefix: Prefix) -> None:
        self._lengths.add(str(prefix.prefixlen))

    def tick(self, now: float, prefixes: Collection[Prefix]) -> None:
        """Time has passed. `prefixes`: all that the node has."""
        if self._mark is None:
            return
        for address, session in self._sessions.items():
            if session.complete is None and self._is_complete(session, now):
                session.complete, self._changed = now, True
                session.stale.update(prefixes)
            if session.stale:
                for prefix in session.stale:
                    self._count_again(address, session, prefix, now)
                session.stale.clear()

    @staticmethod
    def _is_complete(session: _Session, now: float) -> bool:
        if session.since is None:
            return False
        up = now - session.since
        ended = session.ended.issuperset(session.families) or up >= END_PATIENCE
        return (ended and now - session.moved >= QUIET and up >= QUIET) or up >= LONGEST

    def _count_again(self, address: str, session: _Session, prefix: Prefix, now: float) -> None:
        old = session.sights.get(prefix)
        new = self._sight(address, session, prefix, old, now)
        if new == old or (old is None and new.is_empty):
            return
        if new.is_empty:
            del session.sights[prefix]
        else:
            session.sights[prefix] = new
        session.dirty[prefix] = None

    def _sight(self, address: str, session: _Session, prefix: Prefix, old: Sight | None, now: float) -> Sight:
        if not self._owned(prefix):
            gone = session.paths.pop(prefix, {})
            session.count -= len(gone)
            self._count -= len(gone)
            session.partial.discard(prefix)
            return Sight(prefix=prefix)
        owners: dict[int, bool] = {}  # whether all that they have is the last resort
        unmarked = lasting = 0
        for code in session.paths.get(prefix, {}).values():
            owner, last = divmod(code, 2)
            if owner == _NOBODY:
                unmarked += 1
                lasting += last
            else:
                owners[owner] = owners.get(owner, True) and bool(last)
        mine = owners.pop(_MYSELF, None) is not None
        since = None if old is None else old.mine
        missing = (
            not mine
            and not unmarked
            and not session.full
            and session.complete is not None
            and prefix.version in session.families
            and self._announced(prefix, address)
        )
        lost = None if old is None else old.missing
        return Sight(
            prefix=prefix,
            mine=(now if since is None else since) if mine else None,
            missing=(now if lost is None else lost) if missing else None,
            others=len(owners) + unmarked,
            last_resort=sum(owners.values()) + lasting,
            unmarked=unmarked,
            partial=prefix in session.partial,
        )

    # Output.

    def connected(self) -> None:
        """A new connection of the agent: nothing was told yet."""
        self._first = True
        for session in self._sessions.values():
            session.dirty = dict.fromkeys(session.sights)

    @property
    def has_news(self) -> bool:
        return self._mark is not None and (
            self._first or self._changed or any(one.dirty for one in self._sessions.values())
        )

    def change(self) -> ViewChange:
        """What has changed, at most `ROWS` prefixes of it. It counts as told."""
        room = ROWS
        sights: list[tuple[str, tuple[Sight, ...]]] = []
        for address, session in self._sessions.items():
            some = list(session.dirty)[:room] if session.dirty and room else []
            for prefix in some:
                del session.dirty[prefix]
            if some:
                told = tuple(session.sights.get(prefix) or Sight(prefix=prefix) for prefix in some)
                sights.append((address, told))
                room -= len(some)
        first, self._first, self._changed = self._first, False, False
        return ViewChange(
            views=tuple(self._view(address) for address in sorted(self._sessions)),
            sights=tuple(sights),
            first=first,
        )

    def _view(self, address: str) -> RouterView:
        one = self._sessions[address]
        return RouterView(
            neighbor=address,
            number=one.number,
            up=one.up,
            since=one.since,
            complete=one.complete,
            add_path=one.add_path,
            echoes=one.echoes,
            paths=one.count,
            dropped=one.dropped,
            full=one.full,
        )
