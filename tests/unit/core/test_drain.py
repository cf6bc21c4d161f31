"""What is in maintenance, from stage to stage; and how it ends by itself, whatever the clock does."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from anycast.core import events as ev
from anycast.core.dataplane.traffic import EST_CPULIST, RUN_ESTIMATION, WINDOW
from anycast.core.health.phase import Outcome
from anycast.core.maintenance.clocks import End, Expiry
from anycast.core.maintenance.progress import packets_per_second, stage_ends
from anycast.core.maintenance.stages import FILE, NEXT, NODE, STOP, Maintenance, Signal, Stage
from anycast.core.step import begin
from anycast.core.values.configuration import Timing
from anycast.core.values.report import Report
from anycast.core.values.route import GRACEFUL_SHUTDOWN
from anycast.core.withdrawal import PATIENCE as LEAVE_PATIENCE
from tests.fakes import DRAIN, EPOCH, SETTLE, TTL, Node, route, up, vip

LIMIT = Timing().quiet_limit
WHILE = 240.0  # seconds
PROVEN = WINDOW + 2.0  # seconds of silence that are enough, with readings every second


def down(node: Node, scope: str = NODE) -> None:
    """Take the scope out, all the way."""
    node.maintain(scope)
    node.wait(DRAIN)
    node.acknowledge()
    node.wait(SETTLE)
    node.wait(PROVEN)
    assert node.stage(scope) is Stage.DOWN


def last_resort(node: Node) -> list[bool]:
    assert node.lease is not None
    return [GRACEFUL_SHUTDOWN in each.communities for each in node.lease.routes.values()]


def test_the_table_of_stages_is_total_and_ends_in_active() -> None:
    assert set(NEXT) == set(itertools.product(Stage, Signal))
    assert {NEXT[stage, Signal.END] for stage in Stage} == {Stage.ACTIVE}


def test_a_node_goes_down_stage_by_stage_each_told_once() -> None:
    node = up()
    node.flow(500.0)
    node.maintain()
    assert (node.stage(), last_resort(node)) == (Stage.DRAINING, [True])
    node.wait(DRAIN)
    assert (node.stage(), node.routes) == (Stage.WITHDRAWN, [])
    node.wait(SETTLE)
    assert node.stage() is Stage.WITHDRAWN, "ExaBGP has not acknowledged it"
    node.acknowledge()
    node.wait(SETTLE)
    assert node.stage() is Stage.QUIET
    node.wait(PROVEN)
    assert node.stage() is Stage.QUIET, "packets still come in"
    node.flow(0.0)
    node.wait(PROVEN)
    assert node.stage() is Stage.DOWN
    node.wait(10 * LIMIT)
    told = [(log.fields["stage"], log.fields["why"]) for log in node.events("maintenance.stage_changed")]
    assert told == [("withdrawn", "drained"), ("quiet", "withdrawn"), ("down", "quiet")]


def test_packets_that_never_end_are_waited_for_up_to_the_limit_and_it_is_told() -> None:
    node = up()
    node.flow(500.0)
    node.maintain()
    node.wait(DRAIN)
    node.acknowledge()
    node.wait(SETTLE + LIMIT - 0.1)
    assert node.stage() is Stage.QUIET
    node.wait(0.2)
    assert node.stage() is Stage.DOWN
    told = node.events("maintenance.stage_changed")[-1]
    assert (told.fields["why"], told.level) == ("the limit has passed", "warning")
    assert told.fields["packets_per_s"] == pytest.approx(500.0, rel=0.01)


@pytest.mark.parametrize(("rate", "stage"), [(10.0, Stage.DOWN), (12.0, Stage.QUIET)])
def test_so_few_packets_count_as_none(rate: float, stage: Stage) -> None:
    node = up()
    node.reload(vip(), timing=Timing(quiet_rate=10))
    node.flow(rate)
    node.maintain(skip_drain=True)
    node.acknowledge()
    node.wait(SETTLE + PROVEN)
    assert node.stage() is stage


@pytest.mark.parametrize(("sysctl", "value"), [(RUN_ESTIMATION, "0"), (EST_CPULIST, "")])
def test_a_kernel_that_does_not_add_packets_up_proves_no_silence(sysctl: str, value: str) -> None:
    node = up()
    node.kernel = replace(node.kernel, sysctls={**node.kernel.sysctls, sysctl: value})
    node.maintain(skip_drain=True)
    node.acknowledge()
    node.wait(SETTLE + LIMIT - 0.1)
    assert node.stage() is Stage.QUIET
    node.wait(0.2)
    assert node.stage() is Stage.DOWN


def test_counters_that_begin_anew_prove_no_silence() -> None:
    node = up()
    node.flow(500.0)
    node.maintain(skip_drain=True)
    node.acknowledge()
    node.wait(SETTLE + 3.0)
    node._packets = 0.0  # ipvsadm -Z
    node.flow(0.0)
    node.wait(1.5)
    assert node.stage() is Stage.QUIET
    node.wait(PROVEN)
    assert node.stage() is Stage.DOWN


def test_readings_are_frequent_while_something_is_on_its_way_out_and_seldom_otherwise() -> None:
    def readings(node: Node, seconds: float) -> int:
        before, count = node.state.kernel.read_at, 0
        end = node.now + seconds
        while node.now < end:
            node.wait(0.25)
            count += node.state.kernel.read_at != before
            before = node.state.kernel.read_at
        return count

    node = up()
    assert readings(node, 10.0) <= 3
    node.flow(500.0)
    node.maintain()
    assert readings(node, 10.0) >= 8
    node.acknowledge()
    node.flow(0.0)
    node.wait(SETTLE + PROVEN)
    assert node.stage() is Stage.DOWN
    assert readings(node, 10.0) <= 3


def test_the_rate_of_a_vip_is_known_while_it_serves() -> None:
    node = up()
    node.flow(250.0)
    node.wait(20.0)
    assert packets_per_second(node.state, node.state.config.vips) == pytest.approx(250.0, rel=0.01)


def test_without_a_drain_the_route_goes_at_once_even_in_the_middle_of_one() -> None:
    node = up()
    node.maintain(skip_drain=True)
    assert (node.stage(), node.routes) == (Stage.WITHDRAWN, [])
    other = up()
    other.maintain()
    other.maintain(skip_drain=True)
    assert (other.stage(), other.routes) == (Stage.WITHDRAWN, [])
    other.maintain()
    assert other.routes == [], "a drain never brings a route back"


def test_where_nothing_is_announced_nothing_is_drained() -> None:
    node = up()
    node.checks(Outcome.FAIL)
    node.maintain()
    assert node.stage() is Stage.WITHDRAWN


def test_a_lost_plugin_has_been_ended_before_the_node_is_down() -> None:
    node = up()
    node.maintain(skip_drain=True)
    node.send(ev.PluginLost(source=1))
    node.wait(TTL + LEAVE_PATIENCE - 0.1)
    assert node.stage() is Stage.WITHDRAWN
    node.wait(0.2 + SETTLE)
    assert node.stage() is Stage.QUIET


@pytest.mark.parametrize("dropped", [False, True])
def test_a_node_whose_exabgp_stands_still_is_not_down_before_routers_have_dropped_its_routes(
    *, dropped: bool
) -> None:
    node = up()
    bgp = replace(node.state.config.bgp, hold_time=180)
    node.send(ev.Reconfigured(config=replace(node.state.config, bgp=bgp)))
    node.maintain(skip_drain=True)
    began, report = node.now, node.state.plugins[1]
    assert report is not None
    still = replace(report, silent_since=began, mute=True)
    node.send(ev.PluginReported(source=1, report=still))
    ends = stage_ends(node.state, node.state.progress[NODE])
    assert ends == began + 180.0 + SETTLE
    if dropped:
        node.send(ev.PluginLost(source=1))
    node.wait(179.5)
    assert node.stage() is Stage.WITHDRAWN
    node.wait(1.0 + SETTLE)
    assert node.stage() is Stage.QUIET


def test_a_plugin_that_still_has_the_route_keeps_the_node_from_going_on() -> None:
    node = up()
    node.maintain(skip_drain=True)
    assert node.lease is not None
    node.send(ev.PluginReported(source=1, report=Report(seq=node.lease.seq, announced=frozenset({route(1)}))))
    node.wait(SETTLE + 0.1)
    assert node.stage() is Stage.WITHDRAWN


def test_the_word_of_a_plugin_from_before_the_withdraw_is_none() -> None:
    node = up()
    node.send(ev.PluginConnected(source=2))
    node.maintain(skip_drain=True)
    assert node.lease is not None
    node.send(ev.PluginReported(source=1, report=Report(seq=node.lease.seq)))
    node.send(ev.PluginReported(source=2, report=Report(seq=node.lease.seq - 1)))
    node.wait(SETTLE + 0.1)
    assert node.stage() is Stage.WITHDRAWN, "it may yet announce what the lease before this said"
    node.send(ev.PluginReported(source=2, report=Report(seq=node.lease.seq)))
    node.wait(SETTLE)
    assert node.stage() is Stage.QUIET


@pytest.mark.parametrize("stage", [Stage.DRAINING, Stage.WITHDRAWN, Stage.QUIET, Stage.DOWN])
def test_maintenance_can_be_ended_at_any_stage_and_the_route_is_as_before(stage: Stage) -> None:
    node = up()
    assert node.lease is not None
    before = node.lease.routes
    node.flow(0.0 if stage is Stage.DOWN else 500.0)
    node.maintain()
    if stage is not Stage.DRAINING:
        node.wait(DRAIN)
    if stage in {Stage.QUIET, Stage.DOWN}:
        node.acknowledge()
        node.wait(SETTLE)
        node.wait(PROVEN)
    assert node.stage() is stage
    node.maintain(on=False)
    assert node.lease.routes == before
    assert node.stage() is Stage.ACTIVE
    assert node.state.progress == {}


def test_a_node_that_is_too_sick_to_come_up_does_not_come_back_from_a_withdraw() -> None:
    node = up()
    node.checks(Outcome.FAIL, 2, 3)
    assert node.routes == [route(1)], "one real server carries a standing route"
    node.maintain()
    node.maintain(on=False)
    assert (node.routes, last_resort(node)) == ([route(1)], [False]), (
        "the drain was not over: the route stood"
    )
    node.maintain()
    node.wait(DRAIN)
    node.maintain(on=False)
    assert node.routes == [], "and to come up it takes two"


def test_a_vip_that_is_down_stays_so_when_its_node_begins_to_drain_and_ends() -> None:
    node = up(vip(), vip("mail", number=2))
    down(node, "web")
    node.maintain(NODE)
    assert node.routes == [route(2)]
    assert last_resort(node) == [True]
    node.maintain(NODE, on=False)
    assert node.routes == [route(2)]
    assert last_resort(node) == [False]
    node.maintain("web", on=False)
    assert set(node.routes) == {route(1), route(2)}


def test_the_node_is_down_only_once_every_vip_is_quiet() -> None:
    node = up(vip(), vip("mail", number=2))
    node.flow(0.7)  # of each: below the limit for one, above it for both
    node.maintain(NODE, skip_drain=True)
    node.maintain("web", skip_drain=True)
    node.acknowledge()
    node.wait(SETTLE + 2 * PROVEN)
    assert (node.stage("web"), node.stage(NODE)) == (Stage.DOWN, Stage.QUIET)


def test_a_kernel_whose_packets_cannot_be_counted_proves_no_silence() -> None:
    node = up()
    node.counts_all = False
    node.maintain(skip_drain=True)
    node.acknowledge()
    node.wait(SETTLE + LIMIT - 0.1)
    assert node.stage() is Stage.QUIET
    node.wait(0.2)
    told = node.events("maintenance.stage_changed")[-1]
    assert (told.fields["stage"], told.fields["why"]) == (
        "down",
        "the limit has passed, and packets could not be counted",
    )


def test_maintenance_found_at_the_start_goes_on_from_the_withdraw() -> None:
    node = Node(vip(), kept={NODE: Maintenance(reason="racks", by="op", since=1.0)})
    node.checks(Outcome.OK)
    assert node.stage() is Stage.WITHDRAWN
    node.wait(TTL)
    node.acknowledge()
    node.wait(SETTLE + PROVEN)
    assert node.stage() is Stage.DOWN
    assert node.events("maintenance.kept")


# The file, and the drain of an agent that is to stop


def test_the_file_and_a_command_end_on_their_own() -> None:
    node = up()
    node.maintain(FILE)
    assert node.saved is None, "the file speaks for itself"
    node.maintain(NODE)
    assert set(node.saved or {}) == {NODE}
    node.maintain(NODE, on=False)
    assert node.routes == [route(1)]
    assert last_resort(node) == [True]
    node.maintain(FILE, on=False)
    assert last_resort(node) == [False]
    assert [log.fields["why"] for log in node.events("maintenance.ended")] == ["off", "the file was removed"]


def test_a_drain_before_a_stop_is_not_saved_and_ends_with_the_maintenance_of_the_node() -> None:
    node = up()
    node.maintain(STOP)
    assert (node.saved, last_resort(node)) == (None, [True])
    node.maintain(NODE, on=False)
    assert (node.state.maintenance, last_resort(node)) == ({}, [False])
    assert node.saved == {}


# Ends


def until(node: Node, seconds: float, *, then: Expiry = Expiry.RESUME, lasts: bool = False) -> End:
    return End(at=node.wall + seconds, then=then, lasts=lasts)


@pytest.mark.parametrize("lasts", [False, True])
def test_at_its_end_maintenance_is_over_once_and_the_route_comes_back(*, lasts: bool) -> None:
    node = up()
    node.maintain(end=until(node, WHILE, lasts=lasts))
    node.wait(WHILE - 1.0)
    assert node.routes == []
    node.wait(1.1)
    assert node.routes == [route(1)]
    assert node.saved == {}
    node.wait(WHILE)
    assert [log.fields["why"] for log in node.events("maintenance.ended")] == ["its time is over"]


def test_held_it_goes_on_past_its_end_and_says_so_once() -> None:
    node = up()
    node.maintain(end=until(node, WHILE, then=Expiry.HOLD))
    node.wait(3 * WHILE)
    assert node.routes == []
    assert node.state.progress[NODE].overdue
    (told,) = node.events("maintenance.overdue")
    assert told.level == "error"
    node.maintain(on=False)
    assert node.routes == [route(1)]


def test_said_again_the_last_word_about_the_end_counts_and_the_drain_goes_on() -> None:
    node = up()
    node.maintain(end=until(node, WHILE))
    node.wait(DRAIN)
    node.maintain(end=until(node, 2 * WHILE))
    node.wait(1.5 * WHILE)
    assert node.routes == []
    node.maintain()
    node.wait(2 * WHILE)
    assert node.routes == [], "without an end it has none"


@pytest.mark.parametrize("lasts", [False, True])
def test_a_clock_that_jumps_forward_over_the_end_ends_nothing_and_is_told(*, lasts: bool) -> None:
    node = up()
    node.maintain(end=until(node, 2 * WHILE, lasts=lasts))
    node.wait(WHILE)
    node.set_clock(24 * WHILE)
    node.wait(WHILE - 10.0)
    assert node.routes == []
    assert [log.fields["by_s"] for log in node.events("clock.stepped")] == [24 * WHILE]
    assert len(node.events("maintenance.overdue")) == (0 if lasts else 1)
    node.wait(10.1)
    assert node.routes == [route(1)], "when it would have ended without the jump"


def test_a_clock_that_jumps_back_does_not_shorten_and_a_duration_stays_as_long() -> None:
    node = up()
    node.maintain(end=until(node, WHILE, lasts=True))
    node.wait(60.0)
    node.set_clock(-24 * WHILE)
    node.wait(WHILE - 61.0)
    assert node.routes == []
    node.wait(1.1)
    assert node.routes == [route(1)]


def test_a_time_of_day_stays_that_time_when_the_clock_is_put_right() -> None:
    node = up()
    node.maintain(end=until(node, 10 * WHILE))
    node.set_clock(9 * WHILE)
    node.wait(WHILE - 1.0)
    assert node.routes == []
    node.wait(1.1)
    assert node.routes == [route(1)]
    other = up()
    other.maintain(end=until(other, WHILE))
    other.set_clock(-WHILE)
    other.wait(2 * WHILE - 1.0)
    assert other.routes == []
    other.wait(1.1)
    assert other.routes == [route(1)]


def test_a_clock_that_jumps_over_the_end_and_back_is_no_longer_overdue() -> None:
    node = up()
    node.maintain(end=until(node, WHILE))
    node.set_clock(24 * WHILE)
    assert node.state.progress[NODE].overdue
    node.set_clock(-24 * WHILE)
    assert not node.state.progress[NODE].overdue
    node.wait(WHILE + 0.1)
    assert node.routes == [route(1)]


@pytest.mark.parametrize("pace", [0.01, -0.01])
@pytest.mark.parametrize("lasts", [False, True])
def test_a_clock_that_is_slewed_is_not_one_that_was_set(*, lasts: bool, pace: float) -> None:
    node = up()
    end = until(node, WHILE, lasts=lasts)
    node.maintain(end=end)
    began = node.now
    while node.state.maintenance:
        node.offset += pace / 10
        node.wait(0.1)
    assert node.events("clock.stepped") == []
    assert node.events("maintenance.overdue") == []
    if lasts:
        assert node.now - began == pytest.approx(WHILE, abs=1.0)
    else:
        assert node.wall == pytest.approx(end.at, abs=1.0)


def test_an_agent_that_did_not_know_the_time_at_its_start_learns_it() -> None:
    node = up()
    entry = Maintenance(reason="racks", by="op", since=1.0, end=End(at=node.wall + WHILE))
    node.state, _ = begin(node.state.config, {"web": entry}, node.now, None)
    node.job = ev.ReadKernel(sysctls=node.asked)
    node.kernel_answers()
    node.checks(Outcome.OK)
    node.wait(WHILE - 1.0)
    assert node.routes == []
    node.wait(1.1)
    assert node.routes == [route(1)]


def kept(end: End) -> dict[str, Maintenance]:
    return {NODE: Maintenance(reason="racks", by="op", since=1.0, end=end)}


def test_after_a_reboot_the_wall_clock_alone_knows_the_end() -> None:
    before = kept(End(at=EPOCH + WHILE, lasts=True))
    node = Node(vip(), kept=before, now=10.0, offset=EPOCH)
    node.checks(Outcome.OK)
    node.wait(WHILE - 11.0)
    assert node.routes == []
    node.wait(1.1)
    assert node.routes == [route(1)]
    late = Node(vip(), kept=before, now=10.0, offset=EPOCH + WHILE)
    late.checks(Outcome.OK)
    assert late.routes == [route(1)], "it was over before the boot"
    assert late.saved == {}


def test_a_clock_that_is_put_right_after_the_boot_puts_the_end_right_too() -> None:
    node = Node(vip(), kept=kept(End(at=EPOCH + WHILE, lasts=True)), now=10.0, offset=0.0)
    node.checks(Outcome.OK)
    node.set_clock(EPOCH)
    node.wait(WHILE - 11.0)
    assert node.routes == []
    node.wait(1.1)
    assert node.routes == [route(1)]


@pytest.mark.parametrize("lasts", [False, True])
def test_a_clock_set_while_the_agent_was_away_ends_nothing(*, lasts: bool) -> None:
    # At the instant 1000 it was to last a while; the clock is far ahead when the next agent looks.
    end = End(at=EPOCH + 1000.0 + WHILE, due=1000.0 + WHILE, lasts=lasts)
    node = Node(vip(), kept=kept(end), now=1060.0, offset=EPOCH + 24 * WHILE)
    node.checks(Outcome.OK)
    node.wait(WHILE - 61.0)
    assert node.routes == []
    node.wait(1.1)
    assert node.routes == [route(1)]


def test_without_a_clock_nothing_ends_by_itself() -> None:
    node = up()
    node.maintain(end=until(node, WHILE))
    node.state = replace(node.state, wall_offset=None)
    node.now += 2 * WHILE
    node.send(ev.Tick())
    assert node.routes == []


@pytest.mark.parametrize("late", [0.0, 10_000.0])
def test_a_boot_with_a_wrong_clock_neither_ends_a_maintenance_nor_makes_it_last_for_years(
    late: float,
) -> None:
    end = End(at=EPOCH + WHILE, lasts=True)
    before = {NODE: Maintenance(reason="racks", by="op", since=EPOCH, end=end)}
    node = Node(vip(), kept=before, now=10.0, offset=0.0)  # it is 1970
    node.checks(Outcome.OK)
    node.wait(WHILE)
    assert node.routes == []
    node.set_clock(EPOCH + late)
    node.wait(WHILE + 1.0)
    assert node.routes == [route(1)]
