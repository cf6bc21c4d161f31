"""Prefixes that several VIPs announce: what is counted along is what is counted anew, and the route is what the members say."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from anycast.core.health.phase import Outcome
from anycast.core.maintenance.stages import NODE
from anycast.core.shared import NOBODY, Holding, Tally, holding, tally_of
from anycast.core.step import step
from anycast.core.values.configuration import Announce, Needs, Vip, WhenUnhealthy
from anycast.core.values.route import GRACEFUL_SHUTDOWN
from anycast.core.vip.decide import Advertise
from tests.fakes import Node, vip
from tests.property import test_incremental as incremental

NET, NET6 = ip_network("192.0.2.0/24"), ip_network("2001:db8:99::/48")
STRANGE = ip_network("203.0.113.0/24")
HOLDINGS = st.sampled_from(list(Holding))


def wide(one: Vip, needs: Needs = Needs.ANY, *prefixes: object) -> Vip:
    return replace(one, announce=tuple(Announce(prefix=each, needs=needs) for each in prefixes or (NET,)))  # type: ignore[arg-type]


@given(st.sampled_from(Needs), st.lists(HOLDINGS, max_size=8), st.booleans())
def test_any_takes_the_best_and_all_the_worst_of_those_that_say_something(
    needs: Needs,
    said: list[Holding],
    stands: bool,  # noqa: FBT001
) -> None:
    tally = NOBODY
    for one in said:
        tally = tally._replace(**{one.name.lower(): tally[one] + 1})
    assert holding(needs, tally, stands=stands) is _wanted(needs, said, stands=stands)


@given(st.lists(HOLDINGS, min_size=1, max_size=5), st.data())
def test_what_is_counted_along_is_what_is_counted_anew(said: list[Holding], data: st.DataObject) -> None:
    tally = Tally(*(said.count(one) for one in Holding))
    for _ in range(5):
        who, new = data.draw(st.integers(0, len(said) - 1)), data.draw(HOLDINGS)
        tally, said[who] = tally.moved(said[who], new), new
        assert tally == tuple(said.count(one) for one in Holding)


def _wanted(needs: Needs, said: list[Holding], *, stands: bool) -> Holding:
    """By what is written of it: who is new takes down nothing, and where all are needed it has to come first."""
    known = [one for one in said if one is not Holding.WAITS]
    if needs is Needs.ANY:
        return max(known, default=Holding.NO)
    return min(
        known if stands else [Holding.NO if one is Holding.WAITS else one for one in said], default=Holding.NO
    )


def _each(needs: Needs) -> tuple[tuple[Vip, ...], ...]:
    a = vip("a", number=1, servers=(1, 2), both_families=True)
    b = replace(vip("b", number=2, servers=(3, 4)), when_unhealthy=WhenUnhealthy.LAST_RESORT)
    c = vip("c", number=3, servers=(1, 4))
    return (
        (wide(a, needs, NET, NET6), wide(b, needs), wide(c, needs)),
        (wide(a, needs), wide(b, needs), c),
        (wide(b, needs), wide(c, needs)),
        (a, wide(b, needs)),
        (a, b, c),
    )


CONFIGS = (*_each(Needs.ANY), *_each(Needs.ALL))


class Shared(RuleBasedStateMachine):
    """Beside the core a second one, which concludes everything at every event."""

    @initialize(number=st.sampled_from(range(len(CONFIGS))))
    def begin(self, number: int) -> None:
        self.node = _Both(*CONFIGS[number])

    @rule(
        outcome=st.sampled_from([Outcome.OK, Outcome.OK, Outcome.FAIL]),
        some=st.sets(st.integers(1, 4), min_size=1),
    )
    def checked(self, outcome: Outcome, some: set[int]) -> None:
        self.node.checks(outcome, *some)

    @rule(scope=st.sampled_from([NODE, "a", "b", "c"]), on=st.booleans(), skip=st.booleans())
    def maintained(self, scope: str, *, on: bool, skip: bool) -> None:
        if scope == NODE or scope in self.node.state.index.vips:
            self.node.maintain(scope, on=on, skip_drain=skip)

    @rule(number=st.sampled_from(range(len(CONFIGS))))
    def reloaded(self, number: int) -> None:
        self.node.reload(*CONFIGS[number])

    @rule(seconds=st.sampled_from([0.1, 1.0, 4.0, 40.0]))
    def waited(self, seconds: float) -> None:
        self.node.wait(seconds)

    @rule()
    def acknowledged(self) -> None:
        if self.node.lease is not None:
            self.node.acknowledge()

    @rule(there=st.booleans())
    def flushed(self, *, there: bool) -> None:
        """Somebody removes the routes of the wide prefixes, or makes one that nobody wants by the same number."""
        found = frozenset({STRANGE}) if there else frozenset[object]()
        self.node.kernel = replace(self.node.kernel, discards=found)  # type: ignore[arg-type]

    @invariant()
    def the_route_is_what_the_members_say(self) -> None:
        state = self.node.state
        lease = state.lease
        if lease.routes is None:
            return
        assert {prefix: tally_of(one, lease.held) for prefix, one in state.index.shared.items()} == dict(
            lease.tallies
        )
        assert lease.held.keys() <= state.index.wide.keys()
        for at in (at for at, one in lease.held.items() if one.is_for):
            assert state.vips[state.index.vip_at[at]].verdict.advertise is not Advertise.NO
        for prefix, one in state.index.shared.items():
            said = [lease.held.get(member.address, Holding.NO) for member in one.members]
            route = lease.routes.get(prefix)
            wanted = _wanted(one.needs, said, stands=route is not None)
            assert (route is not None) == (wanted is not Holding.NO)
            if route is not None:
                assert (GRACEFUL_SHUTDOWN in route.communities) == (wanted is not Holding.YES)
        assert all(state.index.announcing(prefix) for prefix in lease.routes)

    @invariant()
    def no_prefix_is_announced_whose_rest_would_go_round_in_a_loop(self) -> None:
        """Once the kernel has been read: what was flushed since is not known yet."""
        state = self.node.state
        snapshot = state.kernel.snapshot
        if snapshot is None or state.kernel.error or not state.lease.routes:
            return
        there = (state.kernel.coming or snapshot).discards or frozenset()
        assert {one for one in state.lease.routes if one in state.index.shared} <= there

    def teardown(self) -> None:
        """In the end all of it is announced, as it is written, and nothing of ours is left in the kernel besides."""
        if not hasattr(self, "node"):
            return
        for scope in [*self.node.state.maintenance]:
            self.node.maintain(scope, on=False)
        for _ in range(3):
            self.node.checks(Outcome.OK, times=3)
            self.acknowledged()
            self.node.wait(70.0)
        state = self.node.state
        wanted = {prefix for each in state.index.vips.values() for prefix in each.prefixes.values()}
        assert set(self.node.routes) == wanted
        strange = frozenset() if state.index.shared else {STRANGE}  # then nobody looks for it
        assert (self.node.kernel.discards or frozenset()) - strange == state.index.shared.keys()


class _Both(Node):
    def __init__(self, *vips: Vip) -> None:
        super().__init__(*vips)
        assert self.state.lease.routes is None

    def send(self, event: object) -> None:
        if not hasattr(self, "state"):
            return super().send(event)  # type: ignore[arg-type]
        with incremental.simple():
            wanted, effects = step(self.state, event, self.now)  # type: ignore[arg-type]
        found, mine = step(self.state, event, self.now)  # type: ignore[arg-type]
        incremental.compare(found, wanted)
        assert incremental.told(mine) == incremental.told(effects)
        return super().send(event)  # type: ignore[arg-type]


TestShared = Shared.TestCase
TestShared.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
