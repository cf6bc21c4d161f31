"""The view as it becomes another: by what is heard, and by another configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from anycast.core.fleet.values import Peer, Register, Source, View
from anycast.core.values.fleet import Fleet, FleetView

_NOTHING = View()


def told(
    view: View, peers: Mapping[str, Peer], problem: str | None, register: Register | None = None
) -> View:
    """With these peers as they are now; of the others nothing is new."""
    return View(
        peers={**view.peers, **peers},
        problem=view.problem if problem is None else problem,
        register=view.register if register is None else register,
    )


def reconfigured(view: View, fleet: Fleet | None) -> View:
    """Nodes that are not configured any more are forgotten, and all that another source told."""
    if fleet is None or not fleet.asks:
        return _NOTHING if view != _NOTHING else view
    source = Source.ETCD if fleet.view is FleetView.ETCD else Source.PEERS
    names = {one.name for one in fleet.peers}
    left = {
        name: one
        for name, one in view.peers.items()
        if one.source is source and (name in names or source is Source.ETCD)
    }
    if view.register is not None and not fleet.is_strict:
        view = replace(view, register=None)
    return view if len(left) == len(view.peers) else replace(view, peers=left)
