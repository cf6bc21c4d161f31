"""What the routers have of the other nodes' paths: the third that tells of them, besides themselves and etcd.

A node may say that it announces a VIP while a router does not have its path. The router is believed then, where it shows
all of its paths (`bgp.view`): what it does not have takes no client.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from anycast.core import view
from anycast.core.maintenance.stages import NODE
from anycast.core.preference import export_of
from anycast.core.state import State
from anycast.core.values.fleet import Fleet
from anycast.core.vip.decide import Advertise

NAMED = 8  # VIPs


def lacking(state: State, scope: str, fleet: Fleet) -> Iterator[str]:
    """Why this node, or one VIP of it, should not leave by what the routers have; nothing where they do not show all.

    It looks at every VIP at every router, so not in the event loop of the agent.
    """
    vips = (
        state.config.vips if scope == NODE else tuple(one for one in state.config.vips if one.name == scope)
    )
    missed = [one for one in vips if state.vips[one.name].verdict.advertise is Advertise.YES]
    for neighbor in state.config.bgp.neighbors:
        few: dict[str, int] = {}
        families = neighbor.families or {neighbor.address.version}
        for vip in (one for one in missed if export_of(neighbor.export, one.name) is not None):
            for prefix in dict.fromkeys(state.index.vips[vip.name].prefixes.values()):
                if prefix.version not in families:
                    continue
                at = view.at(state, neighbor, prefix)
                if at.others is None or at.last_resort is None or at.at_least:
                    continue
                found = at.others - at.last_resort
                if found < fleet.min_announcing:
                    few[vip.name] = min(found, few.get(vip.name, found))
        if few:
            yield (
                f"the router {neighbor.address} has fewer than {fleet.min_announcing} healthy paths of other nodes "
                f"(fleet.min_announcing), whatever these say, for {_some(few)}"
            )


def _some(few: Mapping[str, int]) -> str:
    named: Iterable[str] = (f"{name} ({found})" for name, found in list(few.items())[:NAMED])
    more = len(few) - NAMED
    return ", ".join(named) + (f" and {more} more" if more > 0 else "")
