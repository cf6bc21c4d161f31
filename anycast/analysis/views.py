"""What must be right for the routers' view: whose path it is must be told, and the router must send it back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from anycast.core.preference import is_internal
from anycast.core.values.configuration import Bgp, Config, Vip

_Told: TypeAlias = tuple[tuple[str | int, ...], str, str]


def taken_marks(bgp: Bgp, vips: tuple[Vip, ...]) -> Iterator[_Told]:
    """Large communities that would be taken for the mark of a node."""
    if bgp.mark is None:
        return
    mark = str(bgp.view_mark)
    do = f"write another bgp.view_mark, on every node the same, or another community than *:{mark}:*"
    written: list[tuple[tuple[str | int, ...], tuple[str, ...]]] = [
        (("vips", vip.name), vip.large_communities) for vip in vips
    ]
    written += [
        (("bgp", "neighbors", n, "export", m), export.large_communities or ())
        for n, neighbor in enumerate(bgp.neighbors)
        for m, export in enumerate(neighbor.export or ())
    ]
    for place, communities in written:
        for text in communities:
            if text.split(":")[1] == mark:
                what = f"{text} reads as the mark of the node that has a path (bgp.view_mark is {mark})"
                yield (*place, "large_communities"), what, do


def blind(config: Config) -> Iterator[_Told]:
    """Views of which nobody can say what is missing in them. Of each kind one is told."""
    inside = [n for n, one in enumerate(config.bgp.neighbors) if one.view and is_internal(config.bgp, one)]
    if inside:
        what = "a router of the node's own AS sends back nothing, unless it is a route reflector with the nodes as its clients"
        yield ("bgp", "neighbors", inside[0], "view"), what, "write view: false where it is none"
    for n, neighbor in enumerate(config.bgp.neighbors):
        if n not in inside and neighbor.view and neighbor.software is None:
            what = (
                "only FRR sends a node its own path back, and what this router runs is not told: a route that it refuses is "
                "an alarm only if another one came back before"
            )
            yield ("bgp", "neighbors", n, "view"), what, "write bgp.software, as in frr 10.3"
            return
