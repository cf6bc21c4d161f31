"""What people read of the outcomes of checks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

from anycast.core.dataplane.members import server_port
from anycast.core.events import Log
from anycast.core.health.aim import targets_of
from anycast.core.health.phase import Health, Phase
from anycast.core.state import health_of

if TYPE_CHECKING:
    from anycast.core.dataplane.members import Use
    from anycast.core.state import State
    from anycast.core.values.configuration import Aimed, Target

Turned: TypeAlias = tuple["Target", Health, Health]
"""A target with its health before and after."""


def is_news(old: Health, new: Health) -> bool:
    """Whether a person should read of it: it turned, got its first outcome, wants looking after, or cannot be checked."""
    first = old.phase is Phase.UNDECIDED and new.phase is not Phase.UNDECIDED
    warned = new.warned and not old.warned
    return first or old.is_up != new.is_up or (new.unknown and not old.unknown) or warned


def news(before: State, after: State, turned: Sequence[Turned], now: float) -> Iterator[Log]:
    """Of the targets that turned, then of what is made of several checks and turned with one of them."""
    for target, old, new in turned:
        yield from _of_target(after, target, old, new, now)
    targets = frozenset(target for target, _, _ in turned)
    yield from _of_servers(before, after, [use for use in after.composed if _rests_on(use.check, targets)])
    for one in after.requirements:
        if _rests_on(one.check, targets):
            health = health_of(after, one.check)
            up = _decided(health)
            if up is not None and up != _decided(health_of(before, one.check)):
                fields = {"scope": one.scope, "detail": health.detail}
                level = _level(up=up)
                yield Log(event="requirement.met" if up else "requirement.failed", fields=fields, level=level)


def _of_target(state: State, target: Target, old: Health, new: Health, now: float) -> Iterator[Log]:
    name = state.names[target]
    fields: dict[str, object] = {
        "server": name.server,
        "services": name.users,
        "address": str(target.address),
        "port": target.port,
        "detail": new.detail,
    }
    if target.vip is not None:
        fields["vip_address"] = str(target.vip)
    if new.unknown and not old.unknown:
        yield Log(event="check.unknown", fields=fields, level="error")
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


def _of_servers(before: State, after: State, uses: Sequence[Use]) -> Iterator[Log]:
    """One line for a real server that turned, with all the services it turned for."""
    lines: dict[tuple[object, ...], tuple[bool, dict[str, object], list[str]]] = {}
    for use in uses:
        health = health_of(after, use.check)
        up = _decided(health)
        if up is None or up == _decided(health_of(before, use.check)):
            continue
        fields: dict[str, object] = {
            "server": use.server.name,
            "address": str(use.address),
            "port": server_port(use.service, use.server),
            "detail": health.detail,
        }
        _, _, services = lines.setdefault((up, *fields.values()), (up, fields, []))
        services.append(f"{use.vip.name} {use.service.name}")
    for up, fields, services in lines.values():
        fields["services"] = tuple(services)
        yield Log(event="server.up" if up else "server.down", fields=fields, level=_level(up=up))


def _rests_on(check: Aimed, targets: frozenset[Target]) -> bool:
    return not targets.isdisjoint(targets_of(check))


def _decided(health: Health) -> bool | None:
    return None if health.phase is Phase.UNDECIDED else health.is_up


def _level(*, up: bool) -> str:
    return "info" if up else "warning"
