"""The metrics of the fleet as this node knows it. Without a `fleet:`, or where nobody is asked, there are none."""

from __future__ import annotations

import math
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from anycast.core.fleet.alarms import lost
from anycast.core.fleet.believe import Believed, believe
from anycast.core.fleet.values import Claim
from anycast.core.maintenance.stages import NODE_SCOPES, Stage
from anycast.core.state import State
from anycast.core.vip.facts import furthest


def fleet(state: State, fingerprint: str, now: float) -> Iterator[Metric]:
    """`fingerprint`: of this node's configuration."""
    settings = state.config.fleet
    if settings is None or not settings.asks:
        return
    others = believe(state.fleet, settings, now)
    out = {name: _is_out(one) for name, one in others.items()}
    own = furthest(state, NODE_SCOPES).stage is not Stage.ACTIVE
    yield _gauge(
        "anycast_fleet_view_up",
        "1 if this node learns what is new of the others",
        not lost(state.fleet, others, now),
    )
    yield _gauge("anycast_fleet_nodes", "Nodes of the fleet, this one too", 1 + len(others))
    yield _gauge("anycast_fleet_max_out", "Nodes that may be out for maintenance at once", settings.max_out)
    yield _gauge(
        "anycast_fleet_nodes_out",
        "Nodes that are out, or on their way, this one too",
        own + sum(out.values()),
    )
    yield _gauge(
        "anycast_fleet_nodes_waiting",
        "Other nodes that wait for their turn to leave",
        sum(_claim(one) is Claim.ASKED for one in others.values()),
    )
    heard, age, same, differing, is_out = (
        GaugeMetricFamily(f"anycast_fleet_node_{name}", about, labels=["node"])
        for name, about in (
            ("heard", "1 if what the other node says counts"),
            ("age_seconds", "Time since the other node was heard; +Inf: never"),
            (
                "same_configuration",
                "1 if the other node has the same configuration in force; 0 if not, or not known",
            ),
            ("tables_differing", "VIPs for which the other node has another table than this one"),
            ("out", "1 if the other node is out for maintenance, or on its way, by its last word"),
        )
    )
    for name, one in others.items():
        peer, told = state.fleet.peers.get(name), one.document
        differs = None if peer is None or not one.counts else peer.disagreement
        seconds = None if peer is None else peer.age(now)
        heard.add_metric([name], one.counts)
        age.add_metric([name], math.inf if seconds is None else seconds)
        same.add_metric([name], one.counts and told is not None and told.configuration == fingerprint)
        differing.add_metric([name], 0 if differs is None else differs.count)
        is_out.add_metric([name], out[name])
    yield from (heard, age, same, differing, is_out)


def _is_out(one: Believed) -> bool:
    return _claim(one) is Claim.HELD or (
        one.document is not None and one.document.maintenance != Stage.ACTIVE
    )


def _claim(one: Believed) -> Claim | None:
    """Of the whole node: a VIP that is taken out is no node that leaves."""
    turn = None if one.document is None else one.document.turn
    return turn.claim if turn is not None and turn.is_of_node else None


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(name, about, value=float(value))
