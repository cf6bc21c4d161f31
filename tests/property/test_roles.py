"""Roles are what routers are told, and nothing else: the core decides alike whatever a node is for its VIPs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar
from unittest.mock import patch

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from anycast.core import events as ev
from anycast.core.preference import BACKUP_PREPEND
from anycast.core.state import State
from anycast.core.step import begin, step
from anycast.core.values.configuration import Config, Role, Vip
from anycast.core.values.report import ATTRIBUTES
from anycast.core.values.route import Origin
from tests.property import test_step as worlds


class Twins(worlds.World):
    """The world of the other properties; every event goes to a node that is a backup for everything, too."""

    twin: ClassVar[State]
    backups: ClassVar[dict[int, tuple[Vip, Vip]]]  # what has not changed stays the same object

    def send(self, event: ev.Event) -> None:
        if isinstance(event, ev.PluginReported):  # of an older one the twin would complain, and of some both
            event = replace(event, report=replace(event.report, attributes=ATTRIBUTES))
        other = event
        if isinstance(event, ev.Reconfigured):
            other = replace(event, config=backup(event.config))
        Twins.twin, effects = step(Twins.twin, other, self.now)
        _, mine = step(self.state, event, self.now)
        assert told(effects) == told(mine)
        super().send(event)
        assert Twins.twin.vips == self.state.vips
        assert Twins.twin.desired == self.state.desired
        assert list(Twins.twin.lease.routes or ()) == list(self.state.lease.routes or ())
        if Twins.twin.lease.routes and self.state.lease.routes:
            for prefix, route in Twins.twin.lease.routes.items():
                usual = self.state.lease.routes[prefix]
                assert len(route.as_path) == (len(usual.as_path) or 1) + BACKUP_PREPEND
                assert replace(route, as_path=usual.as_path, origin=usual.origin) == usual
                assert route.origin == (usual.origin and Origin.INCOMPLETE), "of a last resort alone"


def backup(config: Config) -> Config:
    vips = [
        Twins.backups.setdefault(id(vip), (vip, replace(vip, role=Role.BACKUP)))[1] for vip in config.vips
    ]
    return replace(config, vips=tuple(vips))


def told(effects: Iterable[ev.Effect]) -> list[Any]:
    """Effects without the attributes of routes."""
    return [
        (one.lease.seq, one.lease.ttl, set(one.lease.routes), one.lease.gone)
        if isinstance(one, ev.SendLease)
        else one
        for one in effects
    ]


def _begin(config: Config, *args: Any, **more: Any) -> tuple[State, tuple[ev.Effect, ...]]:
    Twins.backups = {}
    Twins.twin, _ = begin(backup(config), *args, **more)
    return begin(config, *args, **more)


def test_a_role_changes_no_verdict_and_no_effect_but_the_attributes_of_routes() -> None:
    with patch.object(worlds, "begin", _begin):
        run_state_machine_as_test(
            Twins, settings=settings(max_examples=25, stateful_step_count=40, deadline=None)
        )
