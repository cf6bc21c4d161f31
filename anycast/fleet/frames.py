"""What the process that asks other nodes tells the agent: small frames of JSON, each of less than a millisecond.

    ["life", {name: heard}]                      signs of life, with nothing new; empty: of the process itself
    ["head", name, head]                         what a node says of itself, without its VIPs; their loads as text
    ["vips", name, {vip: row}, [gone]]           some of its VIPs
    ["peers", [[name, source, heard, told, problem, problem_since, answers], ...]]
                                                 and with it all that came of these nodes since their last one
    ["differs", name, count, [vips], words, since]
                                                 its tables from this node's; a count of 0: they are the same
    ["view", problem]                            of the view as a whole
    ["turns", mine, [holder], [holder], heard, problem]
                                                 the turns in etcd, and who waits there, as `core.fleet.values.Register`;
                                                 a holder is [node, number, by, reason, ago, ends_in]

A frame may be a list of such, which are taken in their order and are one event.

Instants are of CLOCK_MONOTONIC of this machine. Ages in a head and in rows are as of the instant `told` of the node. Pure.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from anycast.core.events import FleetHeard
from anycast.core.fleet import codec
from anycast.core.fleet.agreement import NAMED
from anycast.core.fleet.codec import BrokenError, Row
from anycast.core.fleet.values import (
    Disagreement,
    Document,
    Holder,
    Peer,
    Register,
    Source,
    VipTold,
)
from anycast.core.values.fleet import Fleet
from anycast.core.values.persistent import PersistentMap

LENGTH = struct.Struct("!I")  # of the frame behind it
MOST = 64 * 1024  # bytes of a frame
MOST_NODES = 256
_ROWS = 64  # VIPs in a frame
_NODES = 32  # in a frame
_SIZE = 8 * 1024  # bytes that are sent together
_MOST_TEXT = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What the agent has it do. `runtime_dir`: where the own node's ops process is asked."""

    node: str
    fleet: Fleet
    runtime_dir: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What is known of a node, as it is told. Ages are as of `told`.

    `pieces`: its VIPs as they came, by digest, with instants by its own clock, which showed `at` at the instant `told`.
    """

    name: str
    source: Source = Source.PEERS
    document: Document | None = None
    pieces: Mapping[str, Mapping[str, Row]] = field(default_factory=dict)
    at: float = 0.0
    heard: float | None = None
    told: float | None = None
    problem: str = ""
    problem_since: float | None = None
    answers: bool = False


def packed(some: Iterable[Sequence[Any]]) -> Iterator[bytes]:
    """As few frames as there can be of a size that costs the agent a millisecond."""
    together: list[bytes] = []
    size = 0
    for one in some:
        data = json.dumps(one, separators=(",", ":"), allow_nan=False).encode()
        if together and size + len(data) > _SIZE:
            yield _framed(together)
            together, size = [], 0
        together.append(data)
        size += len(data) + 1
    if together:
        yield _framed(together)


def _framed(together: Sequence[bytes]) -> bytes:
    data = b"[" + b",".join(together) + b"]"
    return LENGTH.pack(len(data)) + data


def differing(old: Told | None, new: Told) -> Iterator[Sequence[Any]]:
    """The frames that lead from one to the other, but for what `summed` says of it."""
    before = Told(name=new.name) if old is None else old
    if new.document is not None and new.document != before.document:
        # No VIPs stand in it, and ages go as they are.
        head = codec.head(new.document, born=0.0, at=0.0)
        yield "head", new.name, {**head, "loads": new.document.loads}
    fresh, gone = changed_rows(before, new)
    rows = ((name, _since(row, new.at)) for name, row in fresh.items())
    while some := dict(islice(rows, _ROWS)):
        yield "vips", new.name, some, []
    for first in range(0, len(gone), _ROWS):
        yield "vips", new.name, {}, gone[first : first + _ROWS]


def changed_rows(old: Told, new: Told) -> tuple[dict[str, Row], list[str]]:
    """The rows that are others now, and the VIPs that are gone. What is in the same piece is not looked at."""
    if old.pieces is new.pieces and old.at == new.at:
        return {}, []
    kept = new.pieces.keys() & old.pieces.keys() if old.at == new.at else frozenset[str]()
    before = _rows(old.pieces, kept)
    after = _rows(new.pieces, kept)
    fresh = {name: row for name, row in after.items() if old.at != new.at or before.get(name) != row}
    gone = [name for name in before if name not in after]
    return fresh, gone


def _rows(pieces: Mapping[str, Mapping[str, Row]], kept: Collection[str]) -> dict[str, Row]:
    return {name: row for digest, rows in pieces.items() if digest not in kept for name, row in rows.items()}


def _since(row: Row, at: float) -> Row:
    """With the instant counted from that one."""
    standing, reason, since, table, rank = row
    return standing, reason, round(since - at, 1), table, rank


def summed(some: Sequence[Told]) -> Iterator[Sequence[Any]]:
    """What makes an event of it: a few nodes in each."""
    for first in range(0, len(some), _NODES):
        told = [
            (
                *(one.name, str(one.source), one.heard, one.told),
                *(one.problem[:_MOST_TEXT], one.problem_since, one.answers),
            )
            for one in some[first : first + _NODES]
        ]
        yield "peers", told


def is_urgent(old: Told | None, new: Told) -> bool:
    """Whether more than figures has changed."""
    if old is None:
        return True
    before, after = old.document, new.document
    if (old.problem, old.answers, old.pieces is new.pieces) != (new.problem, new.answers, True):
        return True
    if before is None or after is None:
        return before is not after
    return _without_figures(before) != _without_figures(after)


def _without_figures(document: Document) -> Document:
    return replace(document, load=None, rest=None, loads="", soft=None if document.soft is None else 0.0)


def turns(found: Register) -> Sequence[Any]:
    rows = [
        [[one.node, one.number, one.by, one.reason, one.ago, one.ends_in] for one in some]
        for some in (found.holders, found.queue)
    ]
    return "turns", found.mine, *rows, found.heard, found.problem[:_MOST_TEXT]


def _holder(found: Any) -> Holder:
    match found:
        case [str(node), int(number), str(by), str(reason), int() | float() as ago, ends_in]:
            return Holder(node=node, number=number, by=by, reason=reason, ago=ago, ends_in=_instant(ends_in))
    raise ValueError(found)


def disagreement(name: str, found: Disagreement | None) -> Sequence[Any]:
    """As a frame."""
    if found is None:
        return "differs", name, 0, [], "", 0.0
    return "differs", name, found.count, list(found.vips), found.words, found.since


class Receiver:
    """Puts the frames together to events. Raises BrokenError at whatever it is not told as it should be."""

    def __init__(self) -> None:
        self._peers: dict[str, Peer] = {}
        self._heads: dict[str, Document] = {}
        self._rows: dict[str, PersistentMap[str, VipTold]] = {}

    def take(self, frame: bytes) -> FleetHeard | None:
        """None: it belongs to what comes next."""
        try:
            return self._all(json.loads(frame))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise BrokenError(f"a frame that cannot be understood ({type(error).__name__})") from None

    def _all(self, frames: Any) -> FleetHeard | None:
        if not isinstance(frames, list) or not all(isinstance(one, list) for one in frames):
            raise TypeError(frames)
        events = [event for one in frames if (event := self._taken(one)) is not None]
        if len(events) < 2:
            return events[0] if events else None
        peers = {name: peer for event in events for name, peer in event.peers.items()}
        problems = [event.problem for event in events if event.problem is not None]
        return FleetHeard(peers=peers, problem=problems[-1] if problems else None)

    def _taken(self, frame: Any) -> FleetHeard | None:
        match frame:
            case ["life", dict() as heard]:
                return self._life(heard)
            case ["head", str(name), dict() as head]:
                self._heads[self._known(name)] = codec.read_head(head)
                return None
            case ["vips", str(name), dict() as rows, list() as gone]:
                self._vips(self._known(name), rows, gone)
                return None
            case ["peers", list() as told] if len(told) <= _NODES:
                return FleetHeard(peers=dict(map(self._row, told)))
            case ["differs", str(name), int(count), list() as vips, str(words), since]:
                return self._differs(name, count, vips, words, _instant(since))
            case ["view", str(problem)]:
                return FleetHeard(problem=problem[:_MOST_TEXT])
            case ["turns", int() | None as mine, list() as holders, list() as queue, heard, str(problem)]:
                return FleetHeard(
                    register=Register(
                        mine=mine,
                        holders=tuple(map(_holder, holders)),
                        queue=tuple(map(_holder, queue)),
                        heard=_instant(heard),
                        problem=problem[:_MOST_TEXT],
                    )
                )
        raise ValueError(frame)

    def _row(self, told: Any) -> tuple[str, Peer]:
        match told:
            case [str(name), str(source), heard, at, str(problem), since, bool(answers)]:
                instants = [_instant(one) for one in (heard, at, since)]
                peer = self._peer(
                    self._known(name), Source(source), instants, problem[:_MOST_TEXT], answers=answers
                )
                return name, peer
        raise ValueError(told)

    def _known(self, name: str) -> str:
        if name not in self._peers and len(self._peers) >= MOST_NODES:
            raise BrokenError(f"there are more than {MOST_NODES} nodes")
        return name

    def _life(self, heard: Mapping[str, Any]) -> FleetHeard | None:
        if not heard:
            return None  # of the process itself
        for name, at in heard.items():
            self._peers[name] = replace(self._peers[name], heard=_instant(at))
        return FleetHeard(peers={name: self._peers[name] for name in heard})

    def _differs(
        self, name: str, count: int, vips: Sequence[Any], words: str, since: float | None
    ) -> FleetHeard | None:
        known = self._peers.get(name)
        if known is None:
            return None
        names = tuple(one for one in vips[:NAMED] if isinstance(one, str))
        found = (
            Disagreement(count=count, vips=names, since=since or 0.0, words=words[:_MOST_TEXT])
            if count > 0 and names
            else None
        )
        self._peers[name] = replace(known, disagreement=found)
        return FleetHeard(peers={name: self._peers[name]})

    def _vips(self, name: str, rows: Mapping[str, Any], gone: Sequence[Any]) -> None:
        before = self._rows.get(name, PersistentMap())
        fresh = {vip: codec.told(row, 0.0) for vip, row in codec.read_rows(rows)}
        after = before.updated(fresh, [one for one in gone if isinstance(one, str)])
        if len(after) > codec.MOST_VIPS:
            raise BrokenError(f"there are more than {codec.MOST_VIPS:,} VIPs")
        self._rows[name] = after

    def _peer(
        self, name: str, source: Source, instants: Sequence[float | None], problem: str, *, answers: bool
    ) -> Peer:
        heard, told, since = instants
        document = None
        if (head := self._heads.get(name)) is not None:
            document = replace(head, vips=self._rows.get(name, PersistentMap()))
        before = self._peers.get(name)
        if before is not None and before.document == document:
            document = before.document
        peer = self._peers[name] = Peer(
            name=name,
            source=source,
            document=document,
            heard=heard,
            told=told,
            problem=problem,
            problem_since=since,
            answers=answers,
            disagreement=None if before is None else before.disagreement,
        )
        return peer


def _instant(found: Any) -> float | None:
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        raise ValueError(found)
    return float(found)
