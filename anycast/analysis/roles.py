"""Roles and attributes of VIPs that do nothing here, or not what was meant. Of the other nodes nothing is known."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

from anycast.core.health.compose import leaves
from anycast.core.preference import (
    LAST_RESORT_PREPEND,
    USUAL_LOCAL_PREFERENCE,
    Routers,
    is_internal,
    names,
    preference,
)
from anycast.core.values.configuration import (
    ROUTE_ATTRIBUTES,
    Bgp,
    Check,
    Config,
    Neighbor,
    Role,
    Rule,
    Service,
    Vip,
    WhenUnhealthy,
)
from anycast.core.values.route import GRACEFUL_SHUTDOWN, is_bandwidth

_Told = tuple[tuple[str | int, ...], str, str]
"""Place in the configuration, what it is, what to do."""


def contradictions(bgp: Bgp, vips: tuple[Vip, ...]) -> Iterator[_Told]:
    """What cannot be meant."""
    external = any(not is_internal(bgp, neighbor) for neighbor in bgp.neighbors)
    routers = Routers(bgp)
    if bgp.weight is not None:
        yield from _second_weights(bgp, vips)
    for vip in vips:
        for version in sorted({address.version for address in vip.addresses}):
            if not routers.reach(vip.name, version):
                what = f"no router that carries IPv{version} gets it: no line of their export names it"
                yield ("vips", vip.name), what, f"write - {vip.name} in the export of a neighbor"
        if vip.role is Role.BACKUP and external and not preference(vip).prepend:
            what = "to routers of another AS a backup without a longer AS path is as good as a primary"
            yield ("vips", vip.name, "as_path_prepend"), what, "remove the line, or write 1 or more"


def _second_weights(bgp: Bgp, vips: tuple[Vip, ...]) -> Iterator[_Told]:
    """A link bandwidth beside the one of `bgp.weight`."""
    of_vips = ((("vips", vip.name), vip.extended_communities) for vip in vips)
    of_exports = (
        (("bgp", "neighbors", n, "export", place), line.extended_communities or ())
        for n, neighbor in enumerate(bgp.neighbors)
        for place, line in enumerate(neighbor.export or ())
    )
    for place, texts in (*of_vips, *of_exports):
        if any(is_bandwidth(text) for text in texts):
            what = "there is a link bandwidth among them, and bgp.weight sends one with every VIP"
            yield (*place, "extended_communities"), what, "keep one of them"


def doubtful(config: Config) -> Iterator[_Told]:
    """What is allowed and rarely meant. Of each kind the first VIP is named."""
    if not config.bgp.neighbors:
        yield from _without_bgp(config)
        return
    kinds = {is_internal(config.bgp, neighbor) for neighbor in config.bgp.neighbors}
    told: set[str] = set()
    for n, neighbor in enumerate(config.bgp.neighbors):
        yield from _of_export(config, neighbor, ("bgp", "neighbors", n, "export"))
    for vip in config.vips:
        for code, setting, what, do in _of_vip(vip, kinds):
            if code not in told:
                told.add(code)
                yield ("vips", vip.name, setting), what, do


def _without_bgp(config: Config) -> Iterator[_Told]:
    """OSPF alone carries the routes. It has a cost, which goes by the role."""
    if config.bgp.weight is not None:
        what = "OSPF alone carries the routes, and the nodes that are equally near share the clients alike"
        yield ("bgp", "weight"), what, "remove it"
    for vip in config.vips:
        for setting in ROUTE_ATTRIBUTES:
            if getattr(vip, setting) not in (None, ()):
                what = "OSPF alone carries the routes, and has nothing of the kind"
                yield ("vips", vip.name, setting), what, "remove it, or write role: backup"
                return


def _of_export(config: Config, neighbor: Neighbor, place: tuple[str | int, ...]) -> Iterator[_Told]:
    """Once for each kind: a fleet can have the same exports on nodes with other VIPs."""
    internal = is_internal(config.bgp, neighbor)
    vips = [vip.name for vip in config.vips]
    taken: set[str] = set()
    for n, one in enumerate(neighbor.export or ()):
        lost = [pattern for pattern in one.vips if not any(fnmatchcase(name, pattern) for name in vips)]
        mine = {name for name in vips if names(one, name)}
        if lost:
            yield (*place, n, "vips"), f"there is no VIP {lost[0]}", "write the name of one, or remove it"
        elif mine <= taken:
            yield (*place, n, "vips"), "the lines before it name all of these VIPs", "write it before them"
        taken |= mine
        if one.local_preference is not None and not internal:
            what = "this router is of another AS, and is sent no local preference"
            yield (*place, n, "local_preference"), what, "write as_path_prepend or med"
        if one.as_path_prepend and internal:
            what = "this router is of the node's own AS, where its number in the AS path would be a loop: nothing is prepended"
            yield (*place, n, "as_path_prepend"), what, "write local_preference"


def _of_vip(vip: Vip, kinds: set[bool]) -> Iterator[tuple[str, str, str, str]]:
    """`kinds`: whether sessions are internal."""
    backup = vip.role is Role.BACKUP
    if vip.local_preference is not None and True not in kinds:
        what = "no router is of this node's own AS, and no other is sent a local preference"
        yield "external", "local_preference", what, "write role: backup, or as_path_prepend"
    if vip.as_path_prepend and False not in kinds:
        what = "every router is of this node's own AS, where its number in the AS path would be a loop: nothing is prepended"
        yield "internal", "as_path_prepend", what, "write role: backup, or local_preference"
    stays_on = vip.when_unhealthy is WhenUnhealthy.LAST_RESORT
    may_stay = stays_on or any(one.sorry is not None for one in vip.services)
    if may_stay and False in kinds and preference(vip).prepend >= LAST_RESORT_PREPEND:
        what = (
            f"the last resort of a node that prepends nothing has {LAST_RESORT_PREPEND}, and a router that does not know "
            f"{GRACEFUL_SHUTDOWN} prefers it to this node while it is healthy"
        )
        yield "resort", "as_path_prepend", what, f"write less than {LAST_RESORT_PREPEND}"
    if stays_on and any(_falls_at_once(service) for service in vip.services):
        what = "with fall: 1 real servers that fail together lose their clients one after the other"
        yield "fall", "when_unhealthy", what, "write fall: 2 or more in the check of its real servers"
    if stays_on and not vip.services and any(one.check is not None for one in vip.local):
        what = "this node itself serves it, and where its own program fails the check the VIP is withdrawn, on every node alike"
        do = "remove the line, or put what all nodes share (an upstream) into require, with its address"
        yield "local", "when_unhealthy", what, do
    if backup and True in kinds and (preference(vip).local_preference or 0) >= USUAL_LOCAL_PREFERENCE:
        what = f"a primary that says nothing has {USUAL_LOCAL_PREFERENCE}, and the higher one is preferred"
        yield (
            "high",
            "local_preference",
            what,
            f"write less than {USUAL_LOCAL_PREFERENCE}, or remove the line",
        )
    if backup and GRACEFUL_SHUTDOWN in vip.communities:
        what = f"with {GRACEFUL_SHUTDOWN} (graceful-shutdown) a backup is no better than a primary that drains, and gets nothing then"
        yield "draining", "communities", what, "remove it: role: backup is enough"


def _falls_at_once(service: Service) -> bool:
    check = service.pool.check
    each = leaves(check) if isinstance(check, Rule) else (check,)
    return any(isinstance(one, Check) and one.fall == 1 for one in each)
