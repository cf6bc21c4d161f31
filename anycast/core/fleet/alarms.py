"""What is wrong with the fleet as this node knows it, for as long as it is so.

A node that is out for maintenance may be silent. While the view as a whole is lost nothing is said of single nodes: nobody
has asked them, or it is this node that is cut off.
"""

from __future__ import annotations

from collections.abc import Mapping

from anycast.core.fleet.believe import Belief, Believed, believe
from anycast.core.fleet.values import Claim, Disagreement, Turn, View
from anycast.core.values.fleet import Fleet
from anycast.core.values.standing import Condition

SILENT = 10.0  # seconds without a word, until it is an alarm: a restart takes less
NAMED = 3  # nodes that are named with what happens when they are asked
_DOWN = "down"  # the stage of a node that is out


def alarms(view: View, fleet: Fleet | None, now: float) -> dict[tuple[Condition, str], str]:
    """By kind and node, in words; an empty text: it is not so."""
    if fleet is None or not fleet.asks:
        return {}
    others = believe(view, fleet, now)
    found = {(Condition.FLEET_UNSEEN, ""): _unseen(lost(view, others, now))}
    alone = _alone(others)
    for name, one in others.items():
        peer = view.peers.get(name)
        differs = None if peer is None or not one.counts else peer.disagreement
        found[Condition.FLEET_NODE_SILENT, name] = "" if view.problem or alone else _silent(one, now)
        found[Condition.FLEET_TABLES_DIFFER, name] = "" if differs is None else differing(name, differs)
    return found


def lost(view: View, others: Mapping[str, Believed], now: float) -> str:
    """Why this node learns nothing new of the others; empty: it does."""
    alone = _alone(others)
    if view.problem or not any(_silent(one, now) for one in alone):
        return view.problem
    said = "; ".join(f"{one.name}: {one.why}" for one in alone[:NAMED])
    more = f" and {len(alone) - NAMED} more" if len(alone) > NAMED else ""
    return f"none of the {len(alone)} other nodes is heard, so most likely this one is cut off from them ({said}{more})"


def _alone(others: Mapping[str, Believed]) -> list[Believed]:
    """Those that are missed, where none of several is heard. Of a single other one nobody knows which of the two it is."""
    if any(one.counts for one in others.values()):
        return []
    missed = [one for one in others.values() if one.since is not None and not _may_be_silent(one)]
    return missed if len(missed) > 1 else []


def _unseen(why: str) -> str:
    if not why:
        return ""
    return f"this node knows nothing new of the others: {why} (no route changes by it; drains are refused without --force)"


def _silent(one: Believed, now: float) -> str:
    """One that nobody has asked yet has not had the time to be silent."""
    if one.counts or one.since is None or now - one.since < SILENT:
        return ""
    if _may_be_silent(one):
        return ""
    return f"the node {one.name} is not heard: {one.why} (`anycast status` there; from here `anycast fleet`)"


def _may_be_silent(one: Believed) -> bool:
    """It is out for maintenance, by its last word."""
    told = one.document
    return one.belief is Belief.GONE and told is not None and (told.maintenance == _DOWN or _holds(told.turn))


def _holds(turn: Turn | None) -> bool:
    """Of the whole node: who takes out a VIP stays."""
    return turn is not None and turn.claim is Claim.HELD and turn.is_of_node


def differing(node: str, found: Disagreement) -> str:
    """A disagreement in words: the first difference, and how many there are."""
    what = f"{node} serves the VIP {found.vips[0]} by another table than this node"
    what += f": {found.words}" if found.words else ""
    more = found.count - 1
    return what + (f" (and {more:,} more VIP{'s' if more > 1 else ''})" if more else "")
