"""Whether the nodes of a fleet have the same tables, and in words where the first difference is.

A connection that moves to another node goes on to the same real server only if both tables are the same. Two documents
are never of the same moment: a weight that changes everywhere within a second differs in them for a while. So a
difference counts once each side was still the same `PATIENCE` after the other was first seen as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

from anycast.core.fleet.values import Disagreement

T = TypeVar("T")

PATIENCE = 1.5  # seconds; longer than a change takes to reach all nodes
NAMED = 3  # VIPs, of those that differ
LONGEST = 300  # characters of a difference in words
SERVERS = 4096  # of one service that are compared by name


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """The fingerprints that a node told, by VIP. `at`: the instant of its newest word (monotonic, here).

    `first`: of its first; `later`: of VIPs whose fingerprint came after that.
    """

    at: float
    prints: Mapping[str, str]
    first: float
    later: Mapping[str, float] = field(default_factory=dict)

    def since(self, vip: str) -> float:
        """The instant at which the fingerprint of the VIP was first told."""
        return self.later.get(vip, self.first)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What is compared. By node: `unequal`: the VIPs that are not the same just now; `differing`: those of them that count,
    and since when they do.
    """

    own: Tables | None = None
    others: Mapping[str, Tables] = field(default_factory=dict)
    unequal: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    differing: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def told(before: Tables | None, prints: Mapping[str, str], at: float) -> Tables:
    """With the fingerprints by VIP that came at `at`. A VIP whose table is not known is left out."""
    fresh = {name: found for name, found in prints.items() if found}
    if before is None:
        return Tables(at=at, prints=fresh, first=at)
    known = before.prints
    if fresh == known:
        return replace(before, at=at)
    later = {name: since for name, since in before.later.items() if name in fresh}
    later |= {name: at for name, found in fresh.items() if known.get(name) != found}
    return replace(before, at=at, prints=fresh, later=later)


def of_own(agreement: Agreement, prints: Mapping[str, str], at: float) -> Agreement:
    """With what this node said of itself at that instant."""
    return _of_own(agreement, told(agreement.own, prints, at))


def own_alive(agreement: Agreement, at: float) -> Agreement:
    """With a sign of life of this node: what it said last is still so."""
    return agreement if agreement.own is None else _of_own(agreement, replace(agreement.own, at=at))


def _of_own(agreement: Agreement, own: Tables) -> Agreement:
    after = replace(agreement, own=own)
    for node in agreement.others:
        after = _compared(agreement, after, node)
    return after


def heard(agreement: Agreement, node: str, prints: Mapping[str, str], at: float) -> Agreement:
    """With what another node said, at the instant at which it came."""
    other = told(agreement.others.get(node), prints, at)
    after = replace(agreement, others={**agreement.others, node: other})
    return _compared(agreement, after, node)


def alive(agreement: Agreement, node: str, at: float) -> Agreement:
    """With a sign of life: what it said last is still so."""
    known = agreement.others.get(node)
    if known is None:
        return agreement
    after = replace(agreement, others={**agreement.others, node: replace(known, at=at)})
    return _compared(agreement, after, node)


def forgotten(agreement: Agreement, node: str) -> Agreement:
    """Without one that is not believed any more: what it had proves nothing."""
    if node not in agreement.others:
        return agreement
    return replace(
        agreement,
        others=_without(agreement.others, node),
        unequal=_without(agreement.unequal, node),
        differing=_without(agreement.differing, node),
    )


def _without(part: Mapping[str, T], node: str) -> dict[str, T]:
    return {name: one for name, one in part.items() if name != node}


def _compared(before: Agreement, after: Agreement, node: str) -> Agreement:
    """All VIPs are looked at only where one of the two says something new."""
    own, other = after.own, after.others[node]
    if own is None:
        return after
    known, unequal = after.differing.get(node, {}), after.unequal.get(node, ())
    if not _is_as_before(before, after, node):
        if other.prints is not own.prints and other.prints == own.prints:
            # As it should be: and then the same fingerprints are kept once for all nodes.
            other = replace(other, prints=own.prints)
            after = replace(after, others={**after.others, node: other})
        unequal = tuple(_unequal(own.prints, other.prints))
    elif len(known) == len(unequal):
        return after  # each of them counts already
    counting = {name: since for name in unequal if (since := _since(own, other, name, known)) is not None}
    if counting == known and unequal == after.unequal.get(node, ()):
        return after
    return replace(
        after, unequal={**after.unequal, node: unequal}, differing={**after.differing, node: counting}
    )


def _is_as_before(before: Agreement, after: Agreement, node: str) -> bool:
    """Whether neither of the two says something new."""
    pairs = (before.own, after.own), (before.others.get(node), after.others[node])
    return all(was is not None and now is not None and was.prints is now.prints for was, now in pairs)


def _unequal(own: Mapping[str, str], other: Mapping[str, str]) -> Iterator[str]:
    if own is not other:
        for name, mine in own.items():
            if other.get(name, mine) != mine:
                yield name


def _since(own: Tables, other: Tables, name: str, known: Mapping[str, float]) -> float | None:
    """A difference that counts goes on for as long as there is one, whatever changes in it. None: it does not count yet."""
    mine, there = own.since(name), other.since(name)
    if name in known:
        return known[name]
    return max(mine, there) if other.at - mine >= PATIENCE and own.at - there >= PATIENCE else None


def disagreement(agreement: Agreement, node: str, words: str = "") -> Disagreement | None:
    """Of one node. `words`: the first difference in its first VIP, where that is known."""
    vips = agreement.differing.get(node)
    if not vips:
        return None
    names = sorted(vips)
    return Disagreement(
        count=len(names), vips=tuple(names[:NAMED]), since=min(vips.values()), words=words[:LONGEST]
    )


class Server(NamedTuple):
    """A real server in a table: its address and port as text, and its weight. `name` as the configuration has it."""

    at: str
    weight: int
    name: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.at})" if self.name else self.at


class Served(NamedTuple):
    """A service of a VIP as its table is compared. `ordered`: the scheduler looks at the order of real servers."""

    settings: str
    servers: Sequence[Server]
    ordered: bool = False


def first_difference(node: str, here: Mapping[str, Served], there: Mapping[str, Served]) -> str:
    """In words, of one VIP: the services of both by what names them. Empty: there is none any more."""
    for service in [*here, *(one for one in there if one not in here)]:
        mine, other = here.get(service), there.get(service)
        if other is None:
            return f"{node} has no {service}"[:LONGEST]
        if mine is None:
            return f"{node} has {service}, this node has not"[:LONGEST]
        if found := _first(node, mine, other):
            return f"{service}: {found}"[:LONGEST]
    return ""


def _first(node: str, here: Served, there: Served) -> str:
    if here.settings != there.settings:
        return f"the scheduler is {here.settings} here and {there.settings} on {node}"
    mine = {one.at: one for one in here.servers[:SERVERS]}
    other = {one.at: one for one in there.servers[:SERVERS]}
    for at, one in mine.items():
        if at not in other:
            return f"{one} is not on {node}"
        if one.weight != other[at].weight:
            return f"{one} has weight {one.weight} here and {other[at].weight} on {node}"
    for at, one in other.items():
        if at not in mine:
            return f"{one} is on {node} and not here"
    if not (here.ordered or there.ordered):
        return ""
    for place, (at, foreign) in enumerate(zip(mine, other, strict=True)):
        if at != foreign:
            return f"the order of real servers differs: {mine[at]} is number {place + 1} here, and {other[foreign]} on {node}"
    return ""
