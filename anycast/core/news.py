"""Log lines about results of checks and reports of plugins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

from anycast.core import kept
from anycast.core.events import Log
from anycast.core.health.phase import Health, Phase
from anycast.core.state import health_of
from anycast.core.values.report import Report

if TYPE_CHECKING:
    from anycast.core.dataplane.ipvs import Key
    from anycast.core.dataplane.members import Member, TargetName
    from anycast.core.state import State
    from anycast.core.values.configuration import Target
    from anycast.core.vip.requirements import Requirement

Turned: TypeAlias = tuple["Target", Health, Health]
"""A target with its health before and after."""

_NOTHING = Report(seq=0)


def is_news(old: Health, new: Health) -> bool:
    """Whether it belongs in the log: it changed, got its first result, needs attention, or cannot be checked."""
    first = old.phase is Phase.UNDECIDED and new.phase is not Phase.UNDECIDED
    warned = new.warned and not old.warned
    unproven = new.phase is Phase.UNPROVEN and old.phase is not Phase.UNPROVEN
    return first or old.is_up != new.is_up or (new.unknown and not old.unknown) or warned or unproven


def news(before: State, after: State, turned: Sequence[Turned], now: float) -> Iterator[Log]:
    """First the targets that changed, then the rules of several checks that changed with one of them."""
    targets = frozenset(target for target, _, _ in turned)
    names = after.index.names_of(targets)
    if after.kept_users:
        names |= kept.names(after, (target for target in targets if not after.index.is_target(target)))
    for target, old, new in turned:
        yield from _of_target(names[target], target, old, new, now)
    yield from _of_servers(before, after, list(after.index.composed(targets)))
    requiring = after.index.requiring
    for requirement in dict.fromkeys(one for target in targets for one in requiring.get(target, ())):
        health = health_of(after, requirement.check)
        up = _decided(health)
        if up is not None and up != _decided(health_of(before, requirement.check)):
            yield _of_requirement(requirement, health, up=up)


def of_report(old: Report | None, new: Report) -> Iterator[Log]:
    """Routes and sessions that came, went or were refused since the plugin's report before."""
    yield from _of_routes(old or _NOTHING, new)
    known = {neighbor.address: neighbor.state for neighbor in old.neighbors} if old is not None else {}
    for neighbor in new.neighbors:
        # A router that refuses the session makes it go from connected to down and back for as long as it does.
        if (known.get(neighbor.address) == "up") != (neighbor.state == "up"):
            fields = {"neighbor": neighbor.address, "state": neighbor.state, "reason": neighbor.reason}
            yield Log(event="neighbor.changed", fields=fields, level=_level(up=neighbor.state == "up"))
    if new.failed and (old is None or new.failed is not old.failed):
        refused = {failed.prefix for failed in old.failed} if old is not None else set()
        for failed in new.failed:
            if failed.prefix not in refused:
                fields = {"prefix": str(failed.prefix), "why": failed.why}
                yield Log(event="route.refused", fields=fields, level="error")


def _of_routes(old: Report, new: Report) -> Iterator[Log]:
    """Those that are announced, and that ExaBGP has acknowledged; and those it has acknowledged to be withdrawn."""
    said = (old.announced, old.pending, new.announced, new.pending)
    touched = new.touched if new.touched is not None else frozenset().union(*said)
    came, gone = [], []
    for prefix in touched:
        before, waited, after, waits = (prefix in each for each in said)
        if after and not waits and not (before and not waited):
            came.append(str(prefix))
        if before and not after:
            gone.append(str(prefix))
    for text in sorted(came):
        yield Log(event="route.announced", fields={"prefix": text})
    for text in sorted(gone):
        yield Log(event="route.withdrawn", fields={"prefix": text})


def _of_target(name: TargetName, target: Target, old: Health, new: Health, now: float) -> Iterator[Log]:
    fields: dict[str, object] = {
        "server": name.server,
        "services": name.users,
        "address": str(target.address),
        "port": target.port,
        "detail": new.detail,
    }
    if target.vip is not None:
        fields["vip_address"] = str(target.vip)
    if new.unknown and (not old.unknown or old.phase is not new.phase):
        fields["fault"] = new.fault
        unproven = new.phase is Phase.UNPROVEN
        yield Log(event="check.unproven" if unproven else "check.unknown", fields=fields, level="error")
        if not unproven or not name.decides or not old.is_up:
            return
    if new.warned and not old.warned:
        yield Log(event="check.warned", fields=fields, level="warning")
    up = new.is_up
    if not (up and old.is_up):
        if not up and (held := new.flaps.held_for(now)):
            fields["held_down_s"] = round(held, 3)
        if name.decides:
            yield Log(event="server.up" if up else "server.down", fields=fields, level=_level(up=up))
        else:
            yield Log(event="check.up" if up else "check.down", fields=fields, level=_level(up=up))


def _of_servers(before: State, after: State, uses: Sequence[tuple[Key, Member]]) -> Iterator[Log]:
    """One line for each real server that changed, with all the services it changed for."""
    lines: dict[tuple[object, ...], tuple[bool, dict[str, object], list[str]]] = {}
    for key, member in uses:
        health = health_of(after, member.check)
        up = _decided(health)
        if up is None or up == _decided(health_of(before, member.check)):
            continue
        fields: dict[str, object] = {
            "server": member.server,
            "address": str(member.up.address),
            "port": member.up.port,
            "detail": health.detail,
        }
        _, _, services = lines.setdefault((up, *fields.values()), (up, fields, []))
        one = after.index.services[key]
        services.append(f"{one.vip} {one.service.name}")
    for up, fields, services in lines.values():
        fields["services"] = tuple(services)
        yield Log(event="server.up" if up else "server.down", fields=fields, level=_level(up=up))


def _of_requirement(requirement: Requirement, health: Health, *, up: bool) -> Log:
    if not requirement.is_local:
        fields: dict[str, object] = {"scope": requirement.scope, "detail": health.detail}
        event = "requirement.met" if up else "requirement.failed"
        return Log(event=event, fields=fields, level=_level(up=up))
    address = requirement.address
    fields = {
        "vip": requirement.vip,
        "service": requirement.service,
        "address": None if address is None else str(address),
        "detail": health.detail,
    }
    return Log(event="local.up" if up else "local.down", fields=fields, level=_level(up=up))


def _decided(health: Health) -> bool | None:
    return None if health.phase is Phase.UNDECIDED else health.is_up


def _level(*, up: bool) -> str:
    return "info" if up else "warning"
