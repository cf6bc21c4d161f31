"""A document as nodes send it to one another: a head, and the VIPs in pieces that are sent once they have changed.

What comes from another node is not trusted: every size and count is bounded, what is not known is left out, and of a
format that is newer what is known is read. No clock is shared, so instants go out as the sender's own clock shows them,
with what that clock showed when the answer was made (`at`): a piece in which nothing has changed stays the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from sys import intern
from typing import Any, TypeAlias

from anycast.core.fleet.values import Capacity, Claim, Document, Load, Turn, VipStanding, VipTold

PATH = "/fleet"
PIECES = "X-Anycast-Pieces"
"""Header of a request: the digests of the pieces that are known already, with commas between them."""

MOST_BYTES = 4 * 1024 * 1024  # of an answer
MOST_VIPS = 20_000
MOST_NODES = 64
MOST_LOADS = 64  # VIPs whose own load is told
MOST_TEXT = 200  # characters
_LONGEST = 63  # characters of a name
_NAME = re.compile(rf"[!-~]{{1,{_LONGEST}}}")
"""Of a node or a VIP, a word, a fingerprint: what goes on to the agent, to a log and a terminal is bounded in bytes, too."""
_KNOWN_BY = re.compile(r"[0-9A-Za-z]{1,64}")  # a digest: it goes back in a header
_PIECE = 64  # VIPs of a piece, about
_MOST_PIECES = 256
_DIGEST = 6  # bytes
_LOAD = ("packets", "bits", "new_connections", "connections")
_MOST_RANK = 8  # numbers
_MOST = 1e18
_MOST_TEXT_OF_LOADS = 16 * 1024

Row: TypeAlias = tuple[str, str, float, str, tuple[int, ...]]
"""Of a VIP: its standing, the reason, since when by the sender's clock, the fingerprint of its tables, its rank."""


class BrokenError(Exception):
    """What came is no document. `args[0]`: why, in words."""


def row(told: VipTold, since: float) -> Row:
    return str(told.standing), told.reason, round(since, 1), told.table, told.rank


@dataclass(frozen=True, slots=True)
class Piece:
    digest: str
    text: str


def piece(rows: Mapping[str, Row]) -> Piece:
    text = _dumps(rows)
    return Piece(hashlib.blake2b(text.encode(), digest_size=_DIGEST).hexdigest(), text)


def split(names: Sequence[str]) -> Iterator[Sequence[str]]:
    """The VIPs of each piece."""
    size = max(_PIECE, math.ceil(len(names) / _MOST_PIECES))
    return (names[first : first + size] for first in range(0, len(names), size))


def head(document: Document, *, born: float, at: float) -> dict[str, Any]:
    """What is not of VIPs. `born`: another for each agent. `at`: now, by the clock of the rows; both monotonic."""
    told = document
    loads = ((name, one.load) for name, one in told.vips.items() if one.load is not None)
    body: dict[str, Any] = {
        "format": told.format,
        "node": told.node,
        "version": told.version,
        "configuration": told.configuration,
        "fleet": list(told.fleet),
        "ready": told.ready,
        "maintenance": told.maintenance,
        "turn": None if told.turn is None else _turn(told.turn, at),
        "soft": None if told.soft is None else round(at - told.soft, 1),
        "load": _load(told.load),
        "rest": _load(told.rest),
        "capacity": _capacity(told.capacity),
        "weight": told.weight,
        "synced": told.synced,
        "hears": list(told.hears),
        "loads": {name: _load(one) for name, one in sorted(loads, key=_heaviest)[:MOST_LOADS]},
        "born": round(born, 3),
    }
    return body


def loaded(document: Document) -> Document:
    """With the loads in its VIPs."""
    if not document.loads:
        return document
    vips, found = document.vips, unpacked(document.loads)
    fresh = {name: replace(vips[name], load=load) for name, load in found.items() if name in vips}
    return replace(document, vips={**vips, **fresh}, loads="")


@lru_cache(maxsize=2 * MOST_NODES)
def unpacked(text: str) -> Mapping[str, Load]:
    """The loads of VIPs that a document has as text."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return dict(_loads({"loads": found}))


def _heaviest(one: tuple[str, Load]) -> tuple[float, str]:
    return -one[1].bits, one[0]


def tag(head: Mapping[str, Any], pieces: Iterable[Piece]) -> str:
    """Of all but `at`: the same as long as nothing has changed."""
    text = _dumps(head) + "".join(one.digest for one in pieces)
    return hashlib.blake2b(text.encode(), digest_size=_DIGEST).hexdigest()


def answer(head: Mapping[str, Any], pieces: Sequence[Piece], known: Iterable[str], at: float) -> bytes:
    """With the pieces that are not known yet."""
    have = frozenset(known)
    told = _dumps({**head, "at": round(at, 3), "pieces": [one.digest for one in pieces]})
    fresh = {one.digest: one.text for one in pieces if one.digest not in have}
    vips = ",".join(f'"{digest}":{text}' for digest, text in fresh.items())
    return f'{told[:-1]},"vips":{{{vips}}}}}'.encode()


def _dumps(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False)


def _load(load: Load | None) -> list[float] | None:
    if load is None:
        return None
    return [_short(one) for one in (load.packets, load.bits, load.new_connections, load.connections)]


def _short(figure: float) -> float:
    """Three digits: a load that hardly changes is none that has changed."""
    return float(f"{figure:.3g}") if figure else 0.0


def _capacity(capacity: Capacity | None) -> list[float | None] | None:
    return None if capacity is None else [*(getattr(capacity, name) for name in _LOAD), capacity.limit]


def _turn(turn: Turn, at: float) -> dict[str, Any]:
    return {
        "claim": str(turn.claim),
        "since": round(at - turn.ago, 1),
        "number": turn.number,
        "scope": turn.scope,
        "by": turn.by[:MOST_TEXT],
        "reason": turn.reason[:MOST_TEXT],
        "forced": turn.forced,
    }


@dataclass(frozen=True, slots=True)
class Heard:
    """What came of a node. `rows` of each piece that it has, by digest: those that were known are the same object.

    Ages in `document` are as of `at`; its VIPs are in the rows alone, and their loads are text.
    """

    document: Document
    pieces: Mapping[str, Mapping[str, Row]]
    born: float
    at: float


def said(data: bytes) -> str:
    """Why it gives no document, in its words; empty: it does not say. Raises ValueError, RecursionError: it is no JSON."""
    body = json.loads(data)
    return _text(body, "error") if isinstance(body, dict) else ""


def read(data: bytes, known: Mapping[str, Mapping[str, Row]]) -> Heard:
    """`known`: the pieces that it was told are known. Raises BrokenError."""
    if len(data) > MOST_BYTES:
        raise BrokenError(f"it is larger than {MOST_BYTES >> 20} MiB")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        raise BrokenError("it is no JSON") from None
    if not isinstance(body, dict):
        raise BrokenError("it is no mapping")
    at, born = figure(body, "at"), figure(body, "born")
    if at is None or born is None:
        raise BrokenError("it does not say when it was made")
    digests = _list(body, "pieces")
    if digests is None or len(digests) > 2 * _MOST_PIECES:
        raise BrokenError("it does not say which VIPs there are")
    vips = body.get("vips")
    fresh = vips if isinstance(vips, dict) else {}
    pieces: dict[str, Mapping[str, Row]] = {}
    for digest in digests:
        found = fresh.get(digest) if isinstance(digest, str) else None
        if found is not None and _KNOWN_BY.fullmatch(digest):
            pieces[digest] = dict(read_rows(found))
        elif isinstance(digest, str) and digest in known:
            pieces[digest] = known[digest]
        else:
            raise BrokenError("some of its VIPs are missing")
    if sum(map(len, pieces.values())) > MOST_VIPS:
        raise BrokenError(f"it has more than {MOST_VIPS:,} VIPs")
    return Heard(replace(_document(body, at), loads=_as_text(body.get("loads"))), pieces, born, at)


def _as_text(loads: object) -> str:
    """Of VIPs as they came: whoever unpacks it does not trust it either."""
    if not isinstance(loads, dict) or not loads:
        return ""
    try:
        text = _dumps(loads if len(loads) <= MOST_LOADS else dict(islice(loads.items(), MOST_LOADS)))
    except (ValueError, RecursionError):  # no number
        return ""
    return text if len(text) <= _MOST_TEXT_OF_LOADS else ""


def read_rows(found: object) -> Iterator[tuple[str, Row]]:
    """Those that can be understood: of a standing that is not known yet nothing is believed."""
    if not isinstance(found, dict):
        raise BrokenError("its VIPs are no mapping")
    for name, one in found.items():
        match one:
            case [str(standing), str(reason), int() | float() as since, str(table), *more] if (
                standing in _STANDINGS and (known := _word(name)) and abs(since) < _MOST
            ):
                rank = _rank(more[0]) if more else ()
                yield known, (_word(standing), _word(reason), float(since), _word(table), rank)


def _word(found: str) -> str:
    """The same text each time. Empty: it is none."""
    return _checked(found) if len(found) <= _LONGEST else ""


@lru_cache(maxsize=2 * MOST_VIPS)
def _checked(found: str) -> str:
    return intern(found) if _NAME.fullmatch(found) else ""


def _rank(found: object) -> tuple[int, ...]:
    """The same tuple each time. Empty: it cannot be understood."""
    if not isinstance(found, list | tuple) or len(found) > _MOST_RANK:
        return ()
    for one in found:
        if type(one) is not int or abs(one) >= 2**32:
            return ()
    return _same(tuple(found))


@lru_cache(maxsize=1024)
def _same(rank: tuple[int, ...]) -> tuple[int, ...]:
    return rank


_STANDINGS = frozenset(map(str, VipStanding))


def _document(body: Mapping[str, Any], at: float) -> Document:
    node = _text(body, "node")
    if not node:
        raise BrokenError("it does not say of which node it is")
    soft = figure(body, "soft")
    return Document(
        node=node,
        version=_text(body, "version"),
        format=int(figure(body, "format") or 0),
        configuration=_text(body, "configuration"),
        fleet=_names(body, "fleet"),
        ready=body.get("ready") is True,
        maintenance=_text(body, "maintenance") or "active",
        turn=_turn_of(body.get("turn"), at),
        soft=None if soft is None else at - soft,
        load=_load_of(body.get("load")),
        rest=_load_of(body.get("rest")),
        capacity=_capacity_of(body.get("capacity")),
        weight=_weight(body.get("weight")),
        synced=body.get("synced") is True,
        hears=_names(body, "hears"),
    )


def read_head(head: Mapping[str, Any]) -> Document:
    """Of one that was made at the instant 0, its loads as text. Raises BrokenError."""
    loads = head.get("loads")
    return replace(_document(head, 0.0), loads=loads if isinstance(loads, str) else "")


def _turn_of(found: object, at: float) -> Turn | None:
    if not isinstance(found, dict) or found.get("claim") not in [*map(str, Claim)]:  # a list has no hash
        return None
    since, number = figure(found, "since"), found.get("number")
    if since is None or not isinstance(number, int) or not abs(number) < _MOST:
        return None
    return Turn(
        claim=Claim(found["claim"]),
        ago=at - since,
        number=number,
        scope=_text(found, "scope"),
        by=_text(found, "by"),
        reason=_text(found, "reason"),
        forced=found.get("forced") is True,
    )


def _text(body: Mapping[str, Any], key: str) -> str:
    """What a terminal would obey is not in it."""
    found = body.get(key)
    if not isinstance(found, str):
        return ""
    return "".join(one if one.isprintable() else "?" for one in found[:MOST_TEXT])


def figure(body: Mapping[str, Any], key: str) -> float | None:
    """A number that somebody else wrote; None: it is none, or larger than any that is meant."""
    found = body.get(key)
    if isinstance(found, bool) or not isinstance(found, int | float) or not abs(found) < _MOST:
        return None
    return float(found)


def _list(body: Mapping[str, Any], key: str) -> list[Any] | None:
    found = body.get(key)
    return found if isinstance(found, list) else None


def _names(body: Mapping[str, Any], key: str) -> tuple[str, ...]:
    found = (word for one in _list(body, key) or () if isinstance(one, str) and (word := _word(one)))
    return tuple(islice(found, MOST_NODES))


def _figures(found: object, number: int) -> list[float | None] | None:
    if not isinstance(found, list) or len(found) < number:
        return None
    named = {str(n): one for n, one in enumerate(found[:number])}
    figures = [figure(named, str(n)) for n in range(number)]
    return [None if one is None or one < 0 else one for one in figures]


def _load_of(found: object) -> Load | None:
    match found:
        case [float() as packets, float() as bits, float() as new, float() as there] if (
            0 <= packets < _MOST and 0 <= bits < _MOST and 0 <= new < _MOST and 0 <= there < _MOST
        ):  # as all nodes write it
            return Load(packets=packets, bits=bits, new_connections=new, connections=there)
    figures = _figures(found, len(_LOAD))
    return (
        None
        if figures is None
        else Load(**{name: one or 0.0 for name, one in zip(_LOAD, figures, strict=True)})
    )


def _weight(found: object) -> int | None:
    whole = isinstance(found, int) and not isinstance(found, bool) and 0 < found < _MOST
    return found if whole and isinstance(found, int) else None


def _loads(body: Mapping[str, Any]) -> Iterator[tuple[str, Load]]:
    found = body.get("loads")
    for name, one in list(found.items())[:MOST_LOADS] if isinstance(found, dict) else ():
        if (known := _word(name)) and (load := _load_of(one)) is not None:
            yield known, load


def _capacity_of(found: object) -> Capacity | None:
    figures = _figures(found, len(_LOAD) + 1)
    if figures is None:
        return None
    *of, limit = figures
    return Capacity(
        **{name: one or None for name, one in zip(_LOAD, of, strict=True)},
        limit=limit if limit and limit <= 1 else Capacity().limit,
    )


def told(one: Row, at: float, load: Load | None = None) -> VipTold:
    """A row as a value. Its age is as of `at`, by the sender's clock."""
    standing, reason, since, table, rank = one
    return VipTold(
        standing=VipStanding(standing), reason=reason, since=at - since, table=table, load=load, rank=rank
    )


def later(document: Document, seconds: float) -> Document:
    """With ages as of another instant, so many seconds before the one that they are of: the same in every answer."""
    turn = document.turn
    return replace(
        document,
        soft=None if document.soft is None else round(document.soft - seconds, 3),
        turn=None if turn is None else replace(turn, ago=round(turn.ago - seconds, 3)),
    )
