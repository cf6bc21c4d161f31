"""What a plan says is what the reload then does, over any sequence of events before it."""

from __future__ import annotations

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from anycast.core import events as ev
from anycast.core.dataplane import ipvs
from anycast.core.planned import GOING, Plan, ahead, plan, planned, routes, services
from anycast.core.prefixes import host_route
from anycast.core.reload import in_slices
from anycast.core.state import State
from anycast.core.values.configuration import Config
from anycast.core.values.fates import Fate, Way
from tests.examples import dear
from tests.property import test_step as worlds


def in_parts(state: State, config: Config, now: float) -> Plan:
    """As the agent makes it: of a large reload a part at a time."""
    after = state
    for part in in_slices(state.config, config, 1):
        after = ahead(after, part, now)
    return plan(state, after, routes(state, after), services(state, after))


def check_routes(found: Plan, before: State, after: State) -> None:
    old, new = (dict(one.lease.routes or {}) for one in (before, after))
    of_way = {way: {one.prefix for one in found.routes if one.way is way} for way in Way}
    assert of_way[Way.WITHDRAWN] == {prefix for prefix in old if prefix not in new}
    assert of_way[Way.ANNOUNCED] == {prefix for prefix in new if prefix not in old}
    assert of_way[Way.CHANGED] == {prefix for prefix in new if prefix in old and old[prefix] != new[prefix]}
    come = {host_route(address) for address in after.index.addresses - before.index.addresses}
    assert of_way[Way.COMING] == {prefix for prefix in come if prefix not in new}


def check_services(found: Plan, before: State, after: State) -> None:
    keys = {
        change: {one.key for one in found.services if one.change == change} for change in ("added", "removed")
    }
    assert keys["added"] == {key for key in after.index.services if key not in before.index.services}
    assert keys["removed"] == {key for key in before.index.services if key not in after.index.services}
    fates = {(one.key, server.at): server.fate for one in found.services for server in one.servers}
    for (key, at), fate in fates.items():
        retires = (key, at) in after.retiring
        stays = key in after.kept and any(member.up.key == at for member in after.kept[key].members)
        leaves = any(key in one.keys for one in after.leaving.values())
        assert (fate is Fate.ADDED) == (
            at in after.index.servers.get(key, {}) and at not in before.index.servers.get(key, {})
        )
        if fate in GOING:
            assert (fate is Fate.DRAINS, fate is Fate.LEAVES) == (retires and not leaves, leaves)
        assert (fate is Fate.KEPT) <= stays
    # Nobody loses a real server that the plan does not name. Before the first reading nobody is known to have any.
    for key in before.desired.table if before.kernel.snapshot is not None else ():
        new = {one.key: one.weight for one in _destinations(after, key)}
        for one in _destinations(before, key):
            if one.weight and not new.get(one.key):
                assert fates.get((key, one.key)) in {*GOING, Fate.IDLE} or key not in before.index.services


def _destinations(state: State, key: ipvs.Key) -> tuple[ipvs.Destination, ...]:
    entry = state.desired.table.get(key)
    return () if entry is None else entry.destinations


class Planning(worlds.World):
    """The world of the other properties; before each reload it is asked what will come of it."""

    def send(self, event: ev.Event) -> None:
        before = self.state
        if not isinstance(event, ev.Reconfigured) or self.exited:
            super().send(event)
            return
        found = planned(before, event.config, self.now)
        # While a program is under way a real server without clients is gone by the second part, and draining by the whole.
        assert before.kernel.busy or in_parts(before, event.config, self.now) == found
        assert self.state is before
        super().send(event)
        check_routes(found, before, self.state)
        check_services(found, before, self.state)


def test_a_plan_is_what_the_reload_does() -> None:
    run_state_machine_as_test(
        Planning, settings=settings(max_examples=dear(40), stateful_step_count=30, deadline=None)
    )
