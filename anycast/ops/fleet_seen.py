"""The fleet as this node sees it, ready for JSON: what `anycast fleet` and the page show. Pure.

What a node said of itself counts while it is believed. Of a node that is not, its last word is shown with its age, and no
sum has it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from anycast.core.fleet import headroom
from anycast.core.fleet.alarms import differing, lost
from anycast.core.fleet.believe import Belief, Believed, believe
from anycast.core.fleet.values import (
    Capacity,
    Claim,
    Document,
    Load,
    Peer,
    Register,
    View,
    VipStanding,
    VipTold,
)
from anycast.core.values.fleet import Fleet
from anycast.ops.headroom import Figures, figures

VERSION = 1
DIGITS = 12  # hexadecimal, of the fingerprint of all tables together
NO_FLEET = "the configuration of this node has no `fleet:`, so it knows nothing of other nodes (docs/fleet.md says how)"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Node:
    """A node with what it said. `other`: None: it is this one."""

    name: str
    document: Document | None
    other: Believed | None = None
    peer: Peer | None = None

    @property
    def counts(self) -> bool:
        return self.other is None or self.other.counts

    def ago(self, seconds: float, now: float) -> float:
        return seconds if self.peer is None else self.peer.ago(seconds, now)


def document(
    own: Document, view: View, fleet: Fleet, *, now: float, known: Figures | None = None
) -> dict[str, Any]:
    """`own`: what this node tells the others. `known`: the figures, where they have been worked out.

    The keys of `"version": 1` stay; new ones may come.
    """
    others = believe(view, fleet, now)
    nodes = [_Node(name=own.node, document=own)]
    nodes += [
        _Node(name=name, document=one.document, other=one, peer=view.peers.get(name))
        for name, one in others.items()
    ]
    nodes.sort(key=lambda one: one.name)
    found = known or figures(own, view, fleet, now)
    part = headroom.shares(found.picture)
    told = [_node(one, own, found, part, now) for one in nodes]
    return {
        "version": VERSION,
        "node": own.node,
        "view": str(fleet.view),
        "max_out": fleet.max_out,
        "nodes": told,
        "troubles": [
            {"node": node, "text": text} for node, text in _troubles(view, lost(view, others, now), told)
        ],
        "queue": _queue(nodes, view.register if fleet.is_strict else None, now),
        **found.alone(),
        "vips": [_vip(name, nodes, own, headroom.shares(found.picture, name), now) for name in _names(nodes)],
    }


def _names(nodes: Iterable[_Node]) -> list[str]:
    """This node's VIPs in its order, and behind them what only others have."""
    own_first = sorted(nodes, key=lambda one: one.other is not None)
    documents = [one.document for one in own_first if one.counts and one.document is not None]
    return list(dict.fromkeys(name for told in documents for name in told.vips))


def _node(one: _Node, own: Document, found: Figures, part: Mapping[str, float], now: float) -> dict[str, Any]:
    told, other, peer = one.document, one.other, one.peer
    age = None if peer is None else peer.age(now)
    head = {
        "name": one.name,
        "seen": "here" if other is None else str(other.belief),
        "age_s": None if age is None else round(age, 1),
        "source": None if peer is None else str(peer.source),
        "problem": "" if other is None else other.why,
    }
    if told is None:
        return {**head, **_UNKNOWN}
    standings = [vip.standing for vip in told.vips.values()]
    return {
        **head,
        "version": told.version,
        "configuration": told.configuration,
        "same_configuration": told.configuration == own.configuration,
        "ready": told.ready,
        "maintenance": told.maintenance,
        "vips": len(standings),
        "announced": standings.count(VipStanding.ANNOUNCED),
        "last_resort": standings.count(VipStanding.LAST_RESORT),
        "hears": sorted(told.hears),
        "tables": _tables(told),
        "disagreement": None if peer is None else _disagreement(peer, now),
        "load": _load(told.load),
        "capacity": _capacity(told.capacity),
        "share": _rounded(part.get(one.name)),
        "today": _figure(found.now, one.name),
        "one_less": _figure(found.less.get(1, {}).get(one.name), one.name),
    }


_UNKNOWN: Mapping[str, Any] = {
    "version": None,
    "configuration": None,
    "same_configuration": None,
    "ready": None,
    "maintenance": None,
    "vips": None,
    "announced": None,
    "last_resort": None,
    "hears": [],
    "tables": None,
    "disagreement": None,
    "load": None,
    "capacity": None,
    "share": None,
    "today": None,
    "one_less": None,
}
"""Of a node that was never heard."""


def _tables(told: Document) -> str | None:
    """One fingerprint of all tables that are known together; None: none is. A VIP without IPVS has none."""
    known = {name: one.table for name, one in told.vips.items() if one.table}
    text = "\n".join(f"{name} {known[name]}" for name in sorted(known))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:DIGITS] if known else None


def _disagreement(peer: Peer, now: float) -> dict[str, Any] | None:
    found = peer.disagreement
    if found is None:
        return None
    return {
        "count": found.count,
        "vips": list(found.vips),
        "words": found.words,
        "since_s": round(max(0.0, now - found.since), 1),
    }


def _load(load: Load | None) -> dict[str, float] | None:
    return None if load is None else {name: round(value, 1) for name, value in asdict(load).items()}


def _capacity(capacity: Capacity | None) -> dict[str, float | None] | None:
    return None if capacity is None else asdict(capacity)


def _figure(case: headroom.Case | None, node: str) -> dict[str, Any] | None:
    """The tightest of what the node has only so much of; None: its capacity is not configured, or its load not known."""
    carried = None if case is None else case.nodes.get(node)
    tightest = None if carried is None else carried.tightest
    if case is None or tightest is None:
        return None
    return {
        "resource": str(tightest.resource),
        "used": round(tightest.share, 4),
        "limit": tightest.limit,
        "at_least": tightest.least,
        "gone": list(case.gone),
        "text": headroom.words(case, node) if case.gone else headroom.told(tightest),
    }


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 4)


def _queue(nodes: Iterable[_Node], register: Register | None, now: float) -> list[dict[str, Any]]:
    """Who is out, those first that asked first; and who waits, in the order in which they go. `register`: None: by numbers."""
    places = {} if register is None else {one.node: place for place, one in enumerate(register.queue)}
    found = []
    for one in nodes:
        turn = None if one.document is None else one.document.turn
        if turn is None:
            continue
        ago = one.ago(turn.ago, now)
        told = {
            "node": one.name,
            "scope": turn.scope,
            "claim": str(turn.claim),
            "ago_s": round(ago, 1),
            "by": turn.by,
            "reason": turn.reason,
            "forced": turn.forced,
        }
        waits = turn.claim is not Claim.HELD
        place = places.get(one.name, len(places)) if turn.is_of_node else len(places)
        found.append(((waits, place, turn.number) if waits else (waits, 0, -ago), one.name, told))
    return [told for *_, told in sorted(found, key=lambda each: each[:2])]


def _vip(
    name: str, nodes: Iterable[_Node], own: Document, shares: Mapping[str, float], now: float
) -> dict[str, Any]:
    known: dict[str, VipTold] = {}
    without: list[str] = []  # nodes whose configuration does not have it
    unknown: list[str] = []  # nodes that are not believed
    ago: dict[str, float] = {}
    for one in nodes:
        if not one.counts or one.document is None:
            unknown.append(one.name)
        elif (told := one.document.vips.get(name)) is None:
            without.append(one.name)
        else:
            known[one.name] = told
            ago[one.name] = one.ago(told.since, now)
    mine = own.vips.get(name)
    table = "" if mine is None else mine.table
    return {
        "name": name,
        "announced": [node for node, told in known.items() if told.standing is VipStanding.ANNOUNCED],
        "others": [
            {
                "node": node,
                "standing": str(told.standing),
                "reason": told.reason,
                "since_s": round(ago[node], 1),
            }
            for node, told in known.items()
            if told.standing is not VipStanding.ANNOUNCED
        ],
        "without": without,
        "unknown": unknown,
        "table": table or None,
        "other_tables": [
            node for node, told in known.items() if table and told.table and told.table != table
        ],
        "shares": {node: round(share, 4) for node, share in shares.items()},
    }


def _troubles(view: View, unseen: str, nodes: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """What is wrong with the fleet in words, each with the node that it is about; empty: it is about the view."""
    if unseen:
        yield "", unseen
    if view.register is not None and view.register.problem:
        yield "", f"no turns are given: {view.register.problem}"
    for node in nodes:
        name = node["name"]
        if node["seen"] in (Belief.GONE, Belief.UNKNOWN):
            age = "" if node["age_s"] is None else f" for {node['age_s']:.0f} s"
            yield name, f"{name} is {_SILENT[node['seen']]}{age}: {node['problem']}"
            continue
        if node["same_configuration"] is False:
            yield name, f"{name} has another configuration in force than this node"
        if (found := view.peers[name].disagreement if name in view.peers else None) is not None:
            yield name, differing(name, found)
        if (today := node["today"]) is not None and today["used"] > today["limit"]:
            yield name, f"{name} stands at {today['text']}"
        elif (less := node["one_less"]) is not None and less["used"] > less["limit"]:
            yield name, less["text"]


_SILENT = {Belief.GONE: "gone, not heard", Belief.UNKNOWN: "not known, not heard"}
