"""The agent's end of the line from the process that hears other nodes: frames become what the engine is told. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from anycast.core.events import FleetHeard
from anycast.core.fleet import codec
from anycast.core.fleet.agreement import NAMED
from anycast.core.fleet.codec import BrokenError
from anycast.core.fleet.values import Disagreement, Document, Holder, Peer, Register, Source, VipTold
from anycast.core.values.persistent import PersistentMap
from anycast.fleet.frames import MOST_NODES, MOST_TEXT, NODES


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
            case ["peers", list() as told] if len(told) <= NODES:
                return FleetHeard(peers=dict(map(self._row, told)))
            case ["differs", str(name), int(count), list() as vips, str(words), since]:
                return self._differs(name, count, vips, words, _instant(since))
            case ["view", str(problem)]:
                return FleetHeard(problem=problem[:MOST_TEXT])
            case ["turns", int() | None as mine, list() as holders, list() as queue, heard, str(problem)]:
                return FleetHeard(
                    register=Register(
                        mine=mine,
                        holders=tuple(map(_holder, holders)),
                        queue=tuple(map(_holder, queue)),
                        heard=_instant(heard),
                        problem=problem[:MOST_TEXT],
                    )
                )
        raise ValueError(frame)

    def _row(self, told: Any) -> tuple[str, Peer]:
        match told:
            case [str(name), str(source), heard, at, str(problem), since, bool(answers), *said] if (
                len(said) < 2
            ):
                instants = [_instant(one) for one in (heard, at, since, *(said or (None,)))]
                peer = self._peer(
                    self._known(name), Source(source), instants, problem[:MOST_TEXT], answers=answers
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
            Disagreement(count=count, vips=names, since=since or 0.0, words=words[:MOST_TEXT])
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
        heard, told, since, said = instants
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
            said=said,
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


def _holder(found: Any) -> Holder:
    match found:
        case [str(node), int(number), str(by), str(reason), int() | float() as ago, ends_in]:
            return Holder(node=node, number=number, by=by, reason=reason, ago=ago, ends_in=_instant(ends_in))
    raise ValueError(found)
