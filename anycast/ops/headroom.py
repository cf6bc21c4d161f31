"""How much of its capacity each node of the fleet uses, now and with others gone: for the status, the metrics and the page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from prometheus_client.core import GaugeMetricFamily, Metric

from anycast.core.fleet.believe import believe
from anycast.core.fleet.headroom import (
    Carried,
    Case,
    Figure,
    Picture,
    alone,
    pictured,
    shares,
    today,
    told,
    words,
    worst,
    worst_of_vip,
)
from anycast.core.fleet.values import Document, View, VipTold
from anycast.core.preference import rank
from anycast.core.values.fleet import Fleet
from anycast.ops.fleet import document, standing_of

if TYPE_CHECKING:
    from anycast.ops.source import Source

LASTS = 0.25  # seconds for which figures count while nothing else is heard
ALONE = 50  # VIPs that are named which one node alone announces
LESS = 2  # nodes fewer, at least, of which there are figures where so many can be


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """`less`: by the number of nodes that are gone, the worst case for each node that remains."""

    node: str
    picture: Picture
    now: Case
    less: Mapping[int, Mapping[str, Case]]

    @property
    def is_complete(self) -> bool:
        return not self.picture.is_partial

    def document(self) -> dict[str, Any]:
        """As it stands in the status."""
        found = self.picture
        documents = (one for one in found.documents if one.node in found.names)
        named = sorted({name for one in documents for name, vip in one.vips.items() if vip.load is not None})
        return {
            "complete": self.is_complete,
            "silent": list(found.silent),
            "nodes": [{"node": name, **self._of(name)} for name in found.names],
            "vips": [_vip(found, name) for name in named],
            **self.alone(),
        }

    def alone(self) -> dict[str, Any]:
        """The VIPs that one node alone announces."""
        only = alone(self.picture)
        return {
            "alone": [{"name": name, "node": only[name]} for name in sorted(only)[:ALONE]],
            "alone_count": len(only),
        }

    def own(self) -> dict[str, Any]:
        """Of this node alone, now and with one node less."""
        found = self._of(self.node)
        return {"complete": self.is_complete, **found, "less": found["less"][:1]}

    def _of(self, name: str) -> dict[str, Any]:
        return {
            "today": _figure(self.now.nodes[name].tightest),
            "less": [_less(number, cases[name], name) for number, cases in self.less.items()],
        }


class Headroom:
    """Works the figures out once for all who ask at about the same time, and anew with whatever is heard."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._of: tuple[View, Fleet] | None = None
        self._at = -math.inf
        self._figures: Figures | None = None

    def read(self, now: float) -> Figures | None:
        """None: there is no fleet, or nobody is asked."""
        state = self._source.facts.state
        fleet, view = state.config.fleet, state.fleet
        if fleet is None or not fleet.asks:
            return None
        same = self._of is not None and self._of[0] is view and self._of[1] is fleet
        if self._figures is None or not same or not self._at <= now < self._at + LASTS:
            self._figures = figures(carrying(self._source, now), view, fleet, now)
            self._of, self._at = (view, fleet), now
        return self._figures


def carrying(source: Source, now: float) -> Document:
    """What this node says of itself, with all of its VIPs as far as it counts here."""
    state = source.facts.state
    own = document(source, now)
    vips = {
        vip.name: VipTold(
            standing=standing_of(state, vip.name),
            load=None if (named := own.vips.get(vip.name)) is None else named.load,
            rank=rank(vip, state.config.bgp),
        )
        for vip in state.config.vips
        if vip.name in state.vips
    }
    return replace(own, vips=vips)


def figures(own: Document, view: View, fleet: Fleet, now: float) -> Figures:
    found = pictured(own, believe(view, fleet, now), now)
    most = min(max(LESS, fleet.max_out), len(found.names) - 1)
    return Figures(
        node=own.node,
        picture=found,
        now=today(found),
        less={number: worst(found, number) for number in range(1, most + 1)},
    )


def _less(number: int, case: Case, node: str) -> dict[str, Any]:
    return {
        "nodes": number,
        "gone": list(case.gone),
        "figure": _figure(case.nodes[node].tightest),
        "text": words(case, node),
    }


def _figure(figure: Figure | None) -> dict[str, Any] | None:
    if figure is None:
        return None
    return {
        "resource": str(figure.resource),
        "load": round(figure.load, 1),
        "capacity": figure.capacity,
        "share": round(figure.share, 4),
        "limit": figure.limit,
        "at_least": figure.least,
        "text": told(figure),
    }


def _vip(found: Picture, name: str) -> dict[str, Any]:
    most = worst_of_vip(found, name)
    return {
        "name": name,
        "shares": {node: round(share, 4) for node, share in shares(found, name).items()},
        "one_less": None
        if most is None
        else {"gone": most.gone, "node": most.node, "figure": _figure(most.figure)},
    }


def families(found: Figures | None) -> Iterator[Metric]:
    """Of this node: each node tells of itself. What is not known is absent."""
    if found is None:
        return
    used = GaugeMetricFamily(
        "anycast_fleet_load_share",
        "Share of this node's capacity that is in use; absent: not configured, or not known",
        labels=["resource"],
    )
    left = GaugeMetricFamily(
        "anycast_fleet_headroom_share",
        "Share of this node's capacity that is left below its limit with so many other nodes gone, in the worst case; negative: "
        "it is over the limit",
        labels=["resource", "less"],
    )
    cases = {0: found.now, **{number: each[found.node] for number, each in found.less.items()}}
    for number, case in cases.items():
        carried: Carried = case.nodes[found.node]
        for figure in carried.figures:
            left.add_metric([figure.resource, str(number)], figure.left)
            if not number:
                used.add_metric([figure.resource], figure.share)
    yield from (used, left)
    if found.picture.is_of_several:
        yield GaugeMetricFamily(
            "anycast_fleet_vips_alone",
            "VIPs that this node announces and no other: with it gone nobody does",
            value=float(sum(node == found.node for node in alone(found.picture).values())),
        )
    yield GaugeMetricFamily(
        "anycast_fleet_headroom_complete",
        "1 if every other node is heard and tells what it carries, or is gone for all nodes that are heard",
        value=float(found.is_complete),
    )
