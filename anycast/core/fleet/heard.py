"""The view as it becomes another: by what is heard, and by another configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from anycast.core.fleet.values import Peer, Register, Source, View
from anycast.core.values.fleet import Fleet, FleetView

_NOTHING = View()


def told(
    view: View,
    fleet: Fleet | None,
    peers: Mapping[str, Peer],
    problem: str | None,
    register: Register | None = None,
) -> View:
    """With these peers as they are now; of the others nothing is new. What was on its way when a reload came is left out."""
    return View(
        peers={**view.peers, **{name: one for name, one in peers.items() if _is_of(one, fleet)}},
        problem=view.problem if problem is None else problem,
        register=view.register if register is None else register,
    )


def reconfigured(view: View, fleet: Fleet | None) -> View:
    """Nodes that are not configured any more are forgotten, as they would be out for ever, and all that another source told."""
    if fleet is None or not fleet.asks:
        return _NOTHING if view != _NOTHING else view
    left = {name: one for name, one in view.peers.items() if _is_of(one, fleet)}
    if view.register is not None and not fleet.is_strict:
        view = replace(view, register=None)
    return view if len(left) == len(view.peers) else replace(view, peers=left)


def _is_of(peer: Peer, fleet: Fleet | None) -> bool:
    """Whether it is one of the fleet: where the file names no nodes, all that register are."""
    if fleet is None or not fleet.asks:
        return False
    if (fleet.view is FleetView.ETCD) != (peer.source is Source.ETCD):
        return False
    return any(one.name == peer.name for one in fleet.peers) or (
        peer.source is Source.ETCD and not fleet.peers
    )
