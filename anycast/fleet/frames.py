"""What the process that asks other nodes tells the agent: small frames of JSON, each of less than a millisecond.

    ["life", {name: heard}]                      signs of life, with nothing new; empty: of the process itself
    ["head", name, head]                         what a node says of itself, without its VIPs; their loads as text
    ["vips", name, {vip: row}, [gone]]           some of its VIPs
    ["peers", [[name, source, heard, told, problem, problem_since, answers, said], ...]]
                                                 without `said` where there is none; and with it all that came of these nodes since their last one
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
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from anycast.core.fleet import codec
from anycast.core.fleet.codec import Row
from anycast.core.fleet.values import (
    Disagreement,
    Document,
    Register,
    Source,
)
from anycast.core.values.fleet import Fleet

LENGTH = struct.Struct("!I")  # of the frame behind it
MOST = 64 * 1024  # bytes of a frame
MOST_NODES = 256
_ROWS = 64  # VIPs in a frame
NODES = 32  # in a frame
_SIZE = 8 * 1024  # bytes that are sent together
MOST_TEXT = 300


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
    said: float | None = None
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
    for first in range(0, len(some), NODES):
        told = [
            (
                *(one.name, str(one.source), one.heard, one.told),
                *(one.problem[:MOST_TEXT], one.problem_since, one.answers),
                *(() if one.said is None else (one.said,)),
            )
            for one in some[first : first + NODES]
        ]
        yield "peers", told


def is_urgent(old: Told | None, new: Told) -> bool:
    """Whether more than figures has changed."""
    if old is None:
        return True
    before, after = old.document, new.document
    if (old.problem, old.answers, old.said, old.pieces is new.pieces) != (
        *(new.problem, new.answers, new.said),
        True,
    ):
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
    return "turns", found.mine, *rows, found.heard, found.problem[:MOST_TEXT]


def disagreement(name: str, found: Disagreement | None) -> Sequence[Any]:
    """As a frame."""
    if found is None:
        return "differs", name, 0, [], "", 0.0
    return "differs", name, found.count, list(found.vips), found.words, found.since
