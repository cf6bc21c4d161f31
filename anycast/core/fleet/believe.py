"""Which nodes are believed, and why the others are not. Pure; what follows from it is decided elsewhere.

A node that says nothing is one of two things: gone, if it was asked and did not answer, or unknown, if nobody could ask or
what it says cannot be used. Only the first may be taken for a node less; neither changes a route of this node.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from anycast.core.fleet.values import Document, Peer, Source, View
from anycast.core.values.fleet import Fleet

PATIENCE: Mapping[Source, float] = {
    Source.PEERS: 3.0,
    # A lease of 3 s may live for 7, and one pause of a member of etcd may make the keys of all nodes vanish at once: they
    # are written again within seconds.
    Source.ETCD: 15.0,
}
"""Seconds after a node was heard last, from which on one that does not answer is gone."""


class Belief(StrEnum):
    """Stable words."""

    HEARD = "heard"
    LATE = "late"  # it does not answer just now: what it said last counts for `PATIENCE`
    GONE = "gone"  # asked, and without an answer for longer than that
    UNKNOWN = "unknown"  # nobody could ask, or what it says cannot be used


@dataclass(frozen=True, slots=True, kw_only=True)
class Believed:
    """One other node. `document`: the last it said, whatever is believed of it; None: it never said anything.

    `since`: the instant of which the belief is: for `GONE` and `LATE`, when it was heard last. `said`: an instant at which the
    node itself was there and said `document`, or one before that; None: that is not known, as of a key in etcd that only
    stands. `why`: one line for people;
    empty: it is heard.
    """

    name: str
    belief: Belief
    document: Document | None = None
    since: float | None = None
    said: float | None = None
    why: str = ""

    @property
    def counts(self) -> bool:
        """Whether what it said last is to be gone by."""
        return self.document is not None and self.belief in (Belief.HEARD, Belief.LATE)


def believe(view: View, fleet: Fleet, now: float) -> dict[str, Believed]:
    """Of every other node that is configured or known, by name."""
    names = dict.fromkeys((*(one.name for one in fleet.peers), *view.peers))
    return {name: believed(view.peers.get(name, Peer(name=name)), view, fleet, now) for name in names}


def believed(peer: Peer, view: View, fleet: Fleet, now: float) -> Believed:
    """The first rule that applies."""
    belief, since, why = _of(peer, view, fleet, now)
    said = peer.said if peer.source is Source.ETCD else peer.heard
    return Believed(name=peer.name, belief=belief, document=peer.document, since=since, said=said, why=why)


def _of(peer: Peer, view: View, fleet: Fleet, now: float) -> tuple[Belief, float | None, str]:
    if peer.problem and peer.answers:
        return Belief.UNKNOWN, peer.problem_since, peer.problem
    if peer.heard is None:
        why = peer.problem or view.problem or "it has not been heard since this agent began to ask"
        silent = peer.problem_since is not None and now - peer.problem_since > PATIENCE[peer.source]
        return (Belief.GONE if silent else Belief.UNKNOWN), peer.problem_since, why
    age = now - peer.heard
    if peer.problem:
        belief = Belief.GONE if age > PATIENCE[peer.source] else Belief.LATE
        return belief, peer.heard, peer.problem
    if age > overdue(peer, fleet):
        return Belief.UNKNOWN, peer.heard, view.problem or f"nobody has asked it for {age:.0f} s"
    return Belief.HEARD, peer.heard, ""


def overdue(peer: Peer, fleet: Fleet) -> float:
    """Seconds without a word of it from which on it is this node that does not ask."""
    return fleet.interval + PATIENCE[peer.source]


def wakes(view: View, fleet: Fleet, now: float) -> Iterator[float]:
    """The instants still to come at which what is believed changes by time alone."""
    for peer in view.peers.values():
        at = _changes_at(peer, fleet)
        if now < at < math.inf:
            yield at


def _changes_at(peer: Peer, fleet: Fleet) -> float:
    if peer.problem:
        since = peer.problem_since if peer.heard is None else peer.heard
        return math.inf if since is None or peer.answers else since + PATIENCE[peer.source] + _AFTER
    return math.inf if peer.heard is None else peer.heard + overdue(peer, fleet) + _AFTER


_AFTER = 0.001  # seconds: a rule says "longer than"
