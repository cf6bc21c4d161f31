"""Whether a node, or one VIP of it, may leave for a maintenance: what it asks the others, and who goes first.

Every node decides for itself, from what it hears of the others, in two phases: it says that it wants to leave, waits
until it has heard what each of the others says after that, and looks. Of two that ask at once each sees the other, and
both know who goes first: who has the smaller number (`drawn`), and for the same number the smaller name. Nobody compares
instants of two nodes.

With etcd the turn of a node is strict: who may leave is who has a key there (`Register`), and the queue is etcd's. What the
nodes say counts besides: one that is out without a key, or is not heard, is out. VIPs alone go by what the nodes say.

With the other nodes alone, two never leave at once while what a node says is heard by each other within `round_of`, and
no later than `lag_of` after it was so. Lost documents only make it wait. Documents that come later than that, or a process
that stands still between its look and what it says next, may let two leave: `too_many` finds that.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from anycast.core.fleet.believe import Believed, believe
from anycast.core.fleet.values import Claim, Document, Holder, Peer, Turn, View, VipStanding, VipTold
from anycast.core.maintenance.stages import NODE
from anycast.core.values.fleet import Fleet, FleetView
from anycast.core.vip.decide import Reason

LAG = 1.5  # seconds from what is so on a node until another has heard it, without the time between two questions
KEPT = 15.0  # seconds that a place is kept for one who no longer asks after it
NAMED = 8  # VIPs or nodes that a reason names
_DRAWN = 2**20  # of a number: below it is what was drawn, above it how many had asked before
LAST = 2**62  # a number behind all that are given
_MOST_BEFORE = 2**32  # a node that says more is not believed: JSON must hold the number
_MAINTAINED = frozenset({Reason.NODE_MAINTENANCE, Reason.VIP_MAINTENANCE, Reason.STOPPING})  # no failure
_IN_SERVICE = "active"


class Stage(StrEnum):
    """Of the turn of a node. Stable words."""

    FREE = "free"  # it does not ask
    SAYING = "saying"  # it has asked, and not heard from all others since
    QUEUED = "queued"  # something is in its way
    HELD = "held"  # it leaves, or has left


class Signal(StrEnum):
    """What moves it on."""

    ASK = "ask"
    BLOCKED = "blocked"  # something is in the way, and it waits for that
    CLEAR = "clear"  # nothing is, and all others have been heard since it asked
    REFUSED = "refused"  # something is in the way, and it does not wait
    FORCE = "force"  # it leaves without its turn
    LOST = "lost"  # another holds the turn too, and goes first
    END = "end"  # of the maintenance, or nobody asks any more


# What is not here leaves the stage as it is.
NEXT: dict[tuple[Stage, Signal], Stage] = {
    (Stage.FREE, Signal.ASK): Stage.SAYING,
    (Stage.SAYING, Signal.BLOCKED): Stage.QUEUED,
    (Stage.SAYING, Signal.CLEAR): Stage.HELD,
    (Stage.SAYING, Signal.REFUSED): Stage.FREE,
    (Stage.QUEUED, Signal.CLEAR): Stage.HELD,
    (Stage.QUEUED, Signal.REFUSED): Stage.FREE,
    (Stage.HELD, Signal.LOST): Stage.FREE,
    **{(stage, Signal.FORCE): Stage.HELD for stage in Stage},
    **{(stage, Signal.END): Stage.FREE for stage in Stage},
}


def moved(stage: Stage, signal: Signal) -> Stage:
    return NEXT.get((stage, signal), stage)


def lag_of(fleet: Fleet) -> float:
    """As `LAG`; with `view: etcd` a node writes it there first, on its own beat."""
    return LAG + (fleet.interval if fleet.view is FleetView.ETCD else 0.0)


def round_of(fleet: Fleet) -> float:
    """Seconds within which every node that can be heard is heard anew."""
    return fleet.interval + lag_of(fleet)


def settle_of(fleet: Fleet) -> float:
    """Seconds after which a node that still asks has heard of us, and has not left."""
    return round_of(fleet) + 2 * lag_of(fleet)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is asked. `scope`: `stages.NODE` or a VIP. `said`: since when the others can hear it (monotonic)."""

    node: str
    scope: str = NODE
    number: int = 0
    said: float = 0.0

    @property
    def rank(self) -> tuple[int, str]:
        """Who has less goes first."""
        return self.number, self.node


class Answer(StrEnum):
    """Stable words."""

    GRANTED = "granted"
    IN_THE_WAY = "in_the_way"
    UNKNOWN = "unknown"  # not every other node has been heard since it was said


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """`reasons`: all that is in the way, in words. `place`: in the queue, 1: it is next. `behind`: who is out or goes first,
    in order. `waits_for`: who is to be heard yet.
    """

    answer: Answer
    reasons: tuple[str, ...] = ()
    place: int = 1
    behind: tuple[str, ...] = ()
    waits_for: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """The turn of this node. `asked`: the instant (monotonic). `ends`: the instant from which it is free by itself.

    `decision`: the last one.
    """

    stage: Stage = Stage.FREE
    wish: Wish = Wish(node="")
    asked: float = 0.0
    by: str = ""
    reason: str = ""
    forced: bool = False
    ends: float = math.inf
    decision: Decision | None = None

    @property
    def is_asking(self) -> bool:
        return self.stage in (Stage.SAYING, Stage.QUEUED)

    def told(self, now: float) -> Turn | None:
        """As others are told of it."""
        if self.stage is Stage.FREE:
            return None
        return Turn(
            claim=Claim.HELD if self.stage is Stage.HELD else Claim.ASKED,
            ago=max(0.0, now - self.asked),
            number=self.wish.number,
            scope=self.wish.scope,
            by=self.by,
            reason=self.reason,
            forced=self.forced,
        )


def looked(seat: Seat, decision: Decision, *, waits: bool, now: float) -> Seat:
    """The turn after a look. `waits`: for what is in the way. Who asks no more loses the place `KEPT` seconds later."""
    stage = seat.stage
    if decision.answer is Answer.GRANTED:
        stage = moved(stage, Signal.CLEAR)
    elif decision.answer is Answer.IN_THE_WAY:
        stage = moved(stage, Signal.BLOCKED if waits else Signal.REFUSED)
    ends = math.inf if stage is Stage.HELD else now + KEPT
    return replace(seat, stage=stage, ends=ends, decision=decision)


def drawn(view: View, random: float) -> int:
    """The number of one who asks now: behind all who are heard to ask. `random`: from 0 up to 1, for those who are not."""
    told = (turn.number // _DRAWN for turn in _turns(view.peers.values()))
    last = max((one for one in told if 0 <= one < _MOST_BEFORE), default=0)
    return (last + 1) * _DRAWN + int(random * _DRAWN)


def hindrances(own: Document, view: View, wish: Wish, fleet: Fleet, *, now: float) -> tuple[str, ...]:
    """What of its VIPs is in the way, in words: who fails, whom too few others announce, whose tables differ.

    It looks at every VIP of every node, so not in the event loop of the agent.
    """
    queue = _Queue.of(view, wish, fleet, now)
    kept = _kept(view, wish, fleet, queue, now)
    if wish.scope == NODE and len(queue.out) + kept.held >= fleet.max_out:
        return ()  # that is in the way already, and the same would be said of every VIP
    gone = _leaving(queue, kept)
    stay = tuple(peer for peer in queue.heard if peer.name not in gone)
    return (*_failing(own, wish, stay), *_unannounced(own, wish, stay, fleet), *_differing(own, wish, stay))


def leaving(view: View, wish: Wish, fleet: Fleet, *, now: float) -> dict[str, str]:
    """The other nodes that leave, have left, or may before `wish` comes true, each with its scope."""
    queue = _Queue.of(view, wish, fleet, now)
    return _leaving(queue, _kept(view, wish, fleet, queue, now))


def _leaving(queue: _Queue, kept: _Kept) -> dict[str, str]:
    some = {
        peer.name: turn.scope for peer in (*queue.moving, *queue.ahead) if (turn := _turn(peer)) is not None
    }
    return some | dict.fromkeys((*(peer.name for peer in queue.out), *kept.behind), NODE)


def decide(view: View, wish: Wish, fleet: Fleet, hindered: Sequence[str] = (), *, now: float) -> Decision:
    """Whether `wish` comes true now. `hindered`: `hindrances`, and why the others could not carry what this node carries."""
    queue = _Queue.of(view, wish, fleet, now)
    reasons = [*queue.reasons(wish, fleet, now)]
    place, behind, unknown = 1 + len(queue.ahead), queue.behind, list[str]()
    if _is_strict(wish, fleet):
        kept = _kept(view, wish, fleet, queue, now)
        reasons += kept.reasons
        place, behind = kept.place, (*behind, *kept.behind)
        unknown = [] if kept.reasons or kept.is_ours else ["etcd"]
    reasons += hindered
    if reasons:
        return Decision(answer=Answer.IN_THE_WAY, reasons=tuple(reasons), place=place, behind=behind)
    since = wish.said + (settle_of(fleet) if queue.after else lag_of(fleet))
    unknown += [
        peer.name
        for peer in queue.heard
        if peer.heard is None or peer.heard < since or peer.heard < now - round_of(fleet)
    ]
    if unknown:
        return Decision(answer=Answer.UNKNOWN, place=place, behind=behind, waits_for=tuple(unknown))
    return Decision(answer=Answer.GRANTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class TooMany:
    """More are out than may be. `text`: who. `give_way`: this one has the turn, and others who have it go first."""

    text: str = ""
    give_way: tuple[str, ...] = ()


def too_many(view: View, own: Turn, wish: Wish, fleet: Fleet, *, now: float) -> TooMany:
    """What is to be said, and done, by a node that is out and holds the turn `own`."""
    out = [peer for peer in _counting(view, fleet, now) if is_out(peer)]
    if 1 + len(out) <= fleet.max_out:
        return TooMany()
    # Without ages: it is the same text for as long as it is so.
    whose = [(wish.node, own), *((peer.name, _turn(peer)) for peer in out)]
    told = [f"{name}{'' if turn is None else _of_whom(turn, 0.0)}" for name, turn in whose]
    first = tuple(
        peer.name
        for peer in out
        if (turn := _turn(peer)) is not None and not turn.forced and (turn.number, peer.name) < wish.rank
    )
    gives_way = not own.forced and wish.number > 0 and len(first) >= fleet.max_out
    text = f"{1 + len(out)} nodes are out, and {fleet.max_out} may be (fleet.max_out): {_some(told)}"
    return TooMany(text=text, give_way=first if gives_way else ())


def is_out(peer: Peer) -> bool:
    """Whether the whole node is out of service, or on its way, for a maintenance."""
    return peer.document is not None and peer.document.maintenance != _IN_SERVICE


@dataclass(frozen=True, slots=True, kw_only=True)
class _Queue:
    """The other nodes. `ahead`: they ask, and go first; `after`: they ask, and come later. `moving`: they take a VIP out."""

    heard: tuple[Peer, ...]
    unheard: tuple[Believed, ...]
    deaf: tuple[Peer, ...]
    out: tuple[Peer, ...]
    moving: tuple[Peer, ...]
    ahead: tuple[Peer, ...]
    after: tuple[Peer, ...]

    @classmethod
    def of(cls, view: View, wish: Wish, fleet: Fleet, now: float) -> _Queue:
        all_of = believe(view, fleet, now)
        heard = tuple(view.peers[name] for name, one in all_of.items() if one.counts)
        out = tuple(peer for peer in heard if is_out(peer))
        strict = _is_strict(wish, fleet)  # then the queue of nodes is etcd's
        asking = sorted(
            ((turn.number, peer.name), peer)
            for peer in heard
            if (turn := _turn(peer)) is not None
            and turn.claim is Claim.ASKED
            and not is_out(peer)
            and (turn.scope != NODE or not strict)
        )
        return cls(
            heard=heard,
            unheard=tuple(one for one in all_of.values() if not one.counts),
            deaf=tuple(
                peer for peer in heard if peer.document is not None and wish.node not in peer.document.hears
            ),
            out=out,
            moving=tuple(
                peer
                for peer in heard
                if (turn := _turn(peer)) is not None
                and turn.claim is Claim.HELD
                and turn.scope != NODE
                and not is_out(peer)
            ),
            ahead=tuple(peer for rank, peer in asking if rank < wish.rank),
            after=tuple(peer for rank, peer in asking if rank > wish.rank),
        )

    @property
    def behind(self) -> tuple[str, ...]:
        return tuple(peer.name for peer in (*self.out, *self.moving, *self.ahead))

    def reasons(self, wish: Wish, fleet: Fleet, now: float) -> Iterable[str]:
        """Who is out, who goes first, who cannot be heard or does not hear."""
        lost = [
            *(_silence(one, now) for one in self.unheard),
            *(f"{peer.name} does not hear {wish.node}" for peer in self.deaf),
        ]
        nobody = bool(self.unheard) and not self.heard
        out = [f"{peer.name} is {_stage(peer)}{_whose(peer, now)}" for peer in self.out]
        first = [f"{peer.name} has asked before{_whose(peer, now)}" for peer in self.ahead]
        moving = [f"{peer.name} is taking a VIP out{_whose(peer, now)}" for peer in self.moving]
        if wish.scope != NODE:
            yield from (*moving, *first)
            if nobody or len(lost) >= fleet.max_out:
                yield from _bounded(lost)
            return
        # Who cannot be heard may be out.
        full = len(out) + len(lost) + len(first) + len(moving) >= fleet.max_out
        if full:
            yield from _bounded([*out, *moving, *first])
        if nobody or (full and lost):
            yield from _bounded(lost)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """What etcd has of the turns; nothing, where they are not there."""

    reasons: tuple[str, ...] = ()
    place: int = 1
    behind: tuple[str, ...] = ()
    held: int = 0
    is_ours: bool = False


def _kept(view: View, wish: Wish, fleet: Fleet, queue: _Queue, now: float) -> _Kept:
    if not _is_strict(wish, fleet):
        return _Kept()
    found = view.register
    if found is None or found.problem or found.heard is None or found.heard < now - round_of(fleet):
        why = (found.problem if found is not None else "") or view.problem or "it has not answered yet"
        return _Kept(reasons=(f"etcd gives no turn: {why}",))
    out = {peer.name for peer in queue.out}
    holders = [one.node for one in found.holders]
    if found.mine == wish.number:
        # Of two that hold a turn and have not left, the later one reckons with the earlier one, and not the other way round.
        first = holders[: holders.index(wish.node)] if wish.node in holders else []
        return _Kept(is_ours=True, behind=tuple(name for name in first if name not in out))
    others = [one for one in found.holders if one.node != wish.node and one.node not in out]
    names = [one.node for one in found.queue]
    ahead = found.queue[: names.index(wish.node)] if wish.node in names else ()
    behind = (*(one.node for one in others), *(one.node for one in ahead))
    reasons = [f"{one.node} has the turn in etcd{_holder(one)}" for one in others]
    full = len(out) + len(others) >= fleet.max_out
    if not full:
        reasons = [f"{one.node} has asked before{_holder(one)}" for one in ahead]
    return _Kept(reasons=tuple(_bounded(reasons)), place=1 + len(ahead), behind=behind, held=len(others))


def _is_strict(wish: Wish, fleet: Fleet) -> bool:
    return fleet.is_strict and wish.scope == NODE


def _holder(one: Holder) -> str:
    who = [one.by, f"{_seconds(one.ago)} ago", f"“{one.reason}”" if one.reason else ""]
    if one.ends_in is not None:
        who.append(f"its key ends in {_seconds(one.ends_in)} unless it is kept")
    return f" ({', '.join(word for word in who if word)})"


def _counting(view: View, fleet: Fleet, now: float) -> Iterator[Peer]:
    for name, one in believe(view, fleet, now).items():
        if one.counts:
            yield view.peers[name]


def _failing(own: Document, wish: Wish, stay: Iterable[Peer]) -> Iterable[str]:
    mine = [*_mine(own, wish)]
    for peer in stay:
        document = peer.document
        if document is None:
            continue
        if not document.ready:
            yield f"{peer.name} is failing: it is not ready"
        told = [
            f"{name} is {_spelt(vip.standing)} there ({vip.reason or 'no reason told'})"
            for name, _ in mine
            if (vip := document.vips.get(name)) is not None and _fails(vip)
        ]
        if told:
            yield f"{peer.name} is failing: {_some(told)}"


def _fails(vip: VipTold) -> bool:
    return vip.standing in (VipStanding.WITHDRAWN, VipStanding.LAST_RESORT) and vip.reason not in _MAINTAINED


def _unannounced(own: Document, wish: Wish, stay: Sequence[Peer], fleet: Fleet) -> Iterable[str]:
    lacking = []
    for name, vip in _mine(own, wish):
        enough = {VipStanding.ANNOUNCED, vip.standing}
        others = 0
        for peer in stay:
            told = None if peer.document is None else peer.document.vips.get(name)
            others += told is not None and told.standing in enough
            if others >= fleet.min_announcing:
                break
        else:
            if others < fleet.min_announcing:
                lacking.append(f"{name} ({others})")
    if lacking:
        yield (
            f"fewer than {fleet.min_announcing} of the nodes that stay (fleet.min_announcing) announce {_some(lacking)}"
        )


def _differing(own: Document, wish: Wish, stay: Iterable[Peer]) -> Iterable[str]:
    for peer in stay:
        theirs = {} if peer.document is None else peer.document.vips
        names = [
            name
            for name, vip in _mine(own, wish)
            if vip.table and (told := theirs.get(name)) is not None and told.table not in ("", vip.table)
        ]
        if names:
            yield f"{peer.name} has another table of {_some(names)} than {wish.node}"


def _mine(own: Document, wish: Wish) -> Iterable[tuple[str, VipTold]]:
    """The VIPs that would be missed: those in the scope that this node announces."""
    for name, vip in own.vips.items():
        if wish.scope in (NODE, name) and vip.standing in (VipStanding.ANNOUNCED, VipStanding.LAST_RESORT):
            yield name, vip


def _turns(peers: Iterable[Peer]) -> Iterable[Turn]:
    for peer in peers:
        if (turn := _turn(peer)) is not None:
            yield turn


def _turn(peer: Peer) -> Turn | None:
    return None if peer.document is None else peer.document.turn


def _stage(peer: Peer) -> str:
    stage = "" if peer.document is None else peer.document.maintenance
    return "draining for a maintenance" if stage == "draining" else f"out for a maintenance ({stage})"


def _whose(peer: Peer, now: float) -> str:
    turn = _turn(peer)
    return "" if turn is None else _of_whom(turn, peer.ago(turn.ago, now))


def _of_whom(turn: Turn, ago: float) -> str:
    """Who asked, when and why."""
    who = [
        turn.by,
        f"{_seconds(ago)} ago" if ago > 0 else "",
        f"“{turn.reason}”" if turn.reason else "",
        "without its turn" if turn.forced else "",
    ]
    told = ", ".join(word for word in who if word)
    return f" ({told})" if told else ""


def _silence(one: Believed, now: float) -> str:
    since = "is not heard" if one.since is None else f"has not been heard for {_seconds(now - one.since)}"
    return f"{one.name} {since}{f': {one.why}' if one.why else ''}"


def _spelt(standing: VipStanding) -> str:
    return str(standing).replace("_", " ")


def _seconds(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def _bounded(told: Sequence[str]) -> Iterable[str]:
    yield from told[:NAMED]
    if len(told) > NAMED:
        yield f"and {len(told) - NAMED} more nodes"


def _some(names: Sequence[str]) -> str:
    left = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {left} more" if left > 0 else "")
