"""How many nodes may take back a VIP for what others may lose in the same moment (`fleet.velocity`). Pure.

Such a withdrawal has two steps. At once the route becomes the last resort: routers prefer any healthy node, so clients go
where a withdrawal would send them, and nobody has been asked. It is taken back only once another node has said, of a moment
after that, that it announces the VIP as usual, and as far as the limit has room. So what all nodes lose alike takes the VIP
from nobody, however fast it comes, and however old or partial the view is.

With `view: etcd` the key of a node that has lost its power stands for as long as its lease, so that it stands says nothing. A
node counts once it has answered there: it writes that it has read what this one wrote, of an instant by this one's clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter

from anycast.core.fleet.believe import Belief, Believed
from anycast.core.fleet.values import Capacity, Document, View, VipStanding, VipTold
from anycast.core.values.fleet import Fleet, FleetView, Velocity
from anycast.core.vip.decide import BLAME, Blame, Reason

WAITS = "the other nodes have not said since how they stand"
LATE = (
    2.0  # seconds after its time that a document may come: it may take one, and one more to get to the agent
)
NAMED = 5  # nodes
SEEN = 4.0  # seconds after `_round` in which what a node does is known to the others

SOFT = frozenset(str(reason) for reason in Reason if BLAME[reason] is not Blame.NODE)
"""The reasons that count. A node that is gone, in maintenance, or without its kernel or addresses has used up nothing.

One with a check that looks into the node has the same word as one with a check around it, and counts: a route too many stays.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """A VIP that this node keeps as the last resort. `since`: the instant from which on it does."""

    node: str
    vip: str
    since: float


def left(view: View, now: float) -> dict[str, float]:
    """How long ago each node last took back a VIP for such a reason, as far as it says that it has."""
    return {
        name: peer.ago(peer.document.soft, now)
        for name, peer in view.peers.items()
        if peer.document is not None and peer.document.soft is not None
    }


def known_after(fleet: Fleet) -> float:
    """Seconds after which what a node does is known to the others, and what they do to it."""
    return _round(fleet) + SEEN


def _lasts(fleet: Fleet) -> float:
    """Seconds for which something said is new. It is less than `known_after`: who fails meanwhile has heard of this one."""
    return _round(fleet) + LATE


def _round(fleet: Fleet) -> float:
    """Seconds in which each is heard anew. With etcd a question is written, read, answered, and the answer read."""
    return (4 if fleet.view is FleetView.ETCD else 1) * fleet.interval


def why_it_stays(
    own: Own, others: Mapping[str, Believed], left: Mapping[str, float], fleet: Fleet, now: float
) -> str:
    """Why the route stays, as the last resort; empty: it may be taken back. The first rule that applies.

    `left`: of whoever has taken back any VIP for such a reason, how many seconds ago.
    """
    velocity = fleet.velocity
    if velocity is None:
        return ""
    told = dict(_told(own, others, fleet, now))
    if not told:
        soon = now < own.since + known_after(fleet) + _lasts(fleet)
        return WAITS if soon else "no other node says how it stands"
    if not any(_serves(one, own.vip) for one in told.values()):
        return "no other node says that it announces it as usual"
    names = [
        name
        for name, one in others.items()
        if one.belief is not Belief.GONE
        and (name not in told or left.get(name, math.inf) < velocity.window or _is_out(own, name, told[name]))
    ]
    return _used_up(names, velocity) if _exceeds(names, others, fleet, velocity) else ""


def _told(
    own: Own, others: Mapping[str, Believed], fleet: Fleet, now: float
) -> Iterator[tuple[str, Document]]:
    """What is new enough: of a moment in which the others could know of this node, and it of them."""
    earliest = max(own.since + known_after(fleet), now - _lasts(fleet))
    for name, one in others.items():
        if one.counts and one.document is not None and one.said is not None and one.said >= earliest:
            yield name, one.document


def _serves(document: Document, vip: str) -> bool:
    """One that is not ready may say so of its VIP, and nobody takes its route."""
    told = document.vips.get(vip)
    return document.ready and told is not None and told.standing is VipStanding.ANNOUNCED


def _is_out(own: Own, name: str, document: Document) -> bool:
    """Whether another node takes up room: it has taken the VIP back, or may do so before this one."""
    told = document.vips.get(own.vip)
    if told is None or told.reason not in SOFT:
        return False
    # Two that fail in one moment go by their names: both know those.
    return told.standing is VipStanding.WITHDRAWN or (_is_last(told) and name < own.node)


def _is_last(told: VipTold) -> bool:
    return told.standing in (VipStanding.LAST_RESORT, VipStanding.DRAINING)


def _exceeds(names: Iterable[str], others: Mapping[str, Believed], fleet: Fleet, velocity: Velocity) -> bool:
    """Whether this node would be one too many beside these."""
    out = set(names)
    if velocity.percent is None:
        return len(out) >= (velocity.nodes or 1)
    sizes = _sizes(fleet.capacity, others)
    leaving = sizes[""] + sum(sizes[name] for name in out)
    return leaving > velocity.percent.value / 100 * sum(sizes.values())


def _sizes(own: Capacity, others: Mapping[str, Believed]) -> dict[str, float]:
    """What each carries, this node under the empty name: in the first unit that all name, or one like the other."""
    each = {"": own} | {
        name: (one.document.capacity if one.document is not None else None) or Capacity()
        for name, one in others.items()
    }
    for unit in map(attrgetter, ("bits", "packets", "new_connections", "connections")):
        sizes = {name: unit(one) for name, one in each.items()}
        if all(sizes.values()):
            return sizes
    return dict.fromkeys(each, 1.0)


def _used_up(names: list[str], velocity: Velocity) -> str:
    if not names:
        return f"this node alone is more than fleet.velocity allows: {velocity}"
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(sorted(names)[:NAMED])}{more} may have taken it back (fleet.velocity: {velocity})"
