"""Roles and attributes of VIPs that do nothing here, or not what was meant. Of the other nodes nothing is known."""

from __future__ import annotations

from collections.abc import Iterator

from anycast.core.preference import USUAL_LOCAL_PREFERENCE, is_internal, preference
from anycast.core.values.configuration import Bgp, Config, Role, Vip
from anycast.core.values.route import GRACEFUL_SHUTDOWN

_Told = tuple[tuple[str | int, ...], str, str]
"""Place in the configuration, what it is, what to do."""


def contradictions(bgp: Bgp, vips: tuple[Vip, ...]) -> Iterator[_Told]:
    """What cannot be meant."""
    external = any(not is_internal(bgp, neighbor) for neighbor in bgp.neighbors)
    for vip in vips:
        if vip.role is Role.BACKUP and external and not preference(vip).prepend:
            what = "to routers of another AS a backup without a longer AS path is as good as a primary"
            yield ("vips", vip.name, "as_path_prepend"), what, "remove the line, or write 1 or more"


def doubtful(config: Config) -> Iterator[_Told]:
    """What is allowed and rarely meant. Of each kind the first VIP is named."""
    kinds = {is_internal(config.bgp, neighbor) for neighbor in config.bgp.neighbors}
    told: set[str] = set()
    for vip in config.vips:
        for code, setting, what, do in _of_vip(vip, kinds):
            if code not in told:
                told.add(code)
                yield ("vips", vip.name, setting), what, do


def _of_vip(vip: Vip, kinds: set[bool]) -> Iterator[tuple[str, str, str, str]]:
    """`kinds`: whether sessions are internal."""
    backup = vip.role is Role.BACKUP
    if vip.local_preference is not None and True not in kinds:
        what = "no router is of this node's own AS, and no other is sent a local preference"
        yield "external", "local_preference", what, "write role: backup, or as_path_prepend"
    if vip.as_path_prepend and False not in kinds:
        what = "every router is of this node's own AS, where its number in the AS path would be a loop: nothing is prepended"
        yield "internal", "as_path_prepend", what, "write role: backup, or local_preference"
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
