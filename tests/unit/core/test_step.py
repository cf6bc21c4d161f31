"""Whole stories of one node, in the words of an operator. The properties over any story: tests/property."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address

import pytest

from anycast.core import events as ev
from anycast.core import kernel as kernels
from anycast.core.decision import Advertise, Reason
from anycast.core.health import Outcome, Result
from anycast.core.ipvs import RemoveService
from anycast.core.maintenance import NODE, Maintenance
from anycast.core.model import Address, Check, HttpCheck, Pool, Protocol, Quorum, Service, Timing, Vip
from anycast.core.report import Prefix, Report
from anycast.core.routes import GRACEFUL_SHUTDOWN, WORST_MED
from anycast.core.state import State, prefix_of
from anycast.core.step import LEAVE_PATIENCE, RETRY_PROGRAM, STOP_PATIENCE, begin, next_wake, step
from tests.property.worlds import CHECK, config, server

NOTHING = kernels.Snapshot(table={}, addresses=frozenset(), sysctls={})
TTL, DRAIN, SETTLE = Timing().lease_ttl, Timing().drain, Timing().settle


def vip(
    name: str = "web",
    *,
    number: int = 1,
    servers: Iterable[int] = (1, 2, 3),
    drained: Iterable[int] = (),
    ports: Iterable[int] = (80,),
    check: Check = CHECK,
    both_families: bool = False,
) -> Vip:
    """Comes up with two usable real servers, stays with one."""
    members = (*(server(n) for n in servers), *(server(n, weight=0) for n in drained))
    pool = Pool(name=name, servers=members, check=check)
    return Vip(
        name=name,
        addresses=addresses(number) if both_families else addresses(number)[:1],
        services=tuple(
            Service(protocol=Protocol.TCP, port=port, pool=pool, quorum=Quorum(low=1, high=2))
            for port in ports
        ),
    )


def addresses(number: int) -> tuple[Address, ...]:
    return ip_address(f"192.0.2.{number}"), ip_address(f"2001:db8:99::{number}")


def route(number: int) -> Prefix:
    return prefix_of(addresses(number)[0])


def route6(number: int) -> Prefix:
    return prefix_of(addresses(number)[1])


class Node:
    """The core with an ideal kernel, unless `kernel_breaks`; `refused` addresses it never takes."""

    def __init__(
        self,
        *vips: Vip,
        kept: dict[str, Maintenance] | None = None,
        found: kernels.Snapshot = NOTHING,
    ) -> None:
        self.now = 1000.0
        self.kernel = found
        self.kernel_breaks: str | None = None
        self.kernel_is_slow = False
        self.refused: set[Address] = set()
        self.programs: list[tuple[kernels.KernelOp, ...]] = []
        self.job: ev.ReadKernel | ev.ProgramKernel | None = None
        self.lease: ev.SendLease | None = None
        self.saved: dict[str, Maintenance] | None = None
        self.logged: list[str] = []
        self.exit: ev.Exit | None = None
        self.state, effects = begin(config(*vips), kept or {}, self.now)
        self._perform(effects)

    def send(self, event: ev.Event) -> None:
        self.state, effects = step(self.state, event, self.now)
        self._perform(effects)

    def _perform(self, effects: tuple[ev.Effect, ...]) -> None:
        for effect in effects:
            match effect:
                case ev.SendLease():
                    self.lease = effect
                case ev.Log(event=event):
                    self.logged.append(event)
                case ev.SaveMaintenance(entries=entries):
                    self.saved = dict(entries)
                case ev.Exit():
                    self.exit = effect
                case ev.ReadKernel() | ev.ProgramKernel():
                    self.job = effect
                    if not self.kernel_is_slow:
                        self.kernel_answers()
                case _:
                    pass

    def kernel_answers(self) -> None:
        job, self.job = self.job, None
        if self.kernel_breaks is not None:
            self.send(ev.KernelFailed(reason=self.kernel_breaks))
            return
        problems: tuple[str, ...] = ()
        if isinstance(job, ev.ProgramKernel):
            self.programs.append(job.ops)
            self.kernel = kernels.play(self.kernel, job.ops)
            if self.refused & self.kernel.addresses:
                self.kernel = replace(self.kernel, addresses=self.kernel.addresses - self.refused)
                problems = ("refused",)
        self.send(ev.KernelRead(snapshot=self.kernel, problems=problems))

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while self.exit is None and (wake := next_wake(self.state, self.now)) <= end:
            self.now = max(self.now, wake)
            self.send(ev.Tick())
        self.now = end
        self.send(ev.Tick())

    def checks(self, outcome: Outcome, *servers: int, times: int = 2) -> None:
        """Outcomes of the checks of these servers, of all when none is named, `times` in a row."""
        chosen = {ip for number in servers for ip in server(number).addresses}
        for _ in range(times):
            self.send(
                ev.Probed(
                    results=tuple(
                        (target, Result(outcome=outcome))
                        for target in self.state.targets
                        if not servers or target.address in chosen
                    )
                )
            )

    def reload(self, *vips: Vip) -> None:
        self.send(ev.Reconfigured(config=config(*vips)))

    def maintain(self, scope: str = NODE, *, on: bool = True) -> None:
        entry = Maintenance(reason="racks", by="op", since=1.0) if on else None
        self.send(ev.MaintenanceSet(scope=scope, entry=entry))

    def acknowledge(self) -> None:
        """The announcer has carried out the lease."""
        if 1 not in self.state.announcers:
            self.send(ev.AnnouncerConnected(source=1))
        assert self.lease is not None
        self.send(
            ev.AnnouncerReported(source=1, report=Report(seq=self.lease.seq, announced=tuple(self.routes)))
        )

    @property
    def routes(self) -> list[Prefix]:
        return [] if self.lease is None else [each.prefix for each in self.lease.routes]

    def reason(self, name: str = "web") -> Reason:
        return self.state.vips[name].verdict.reason

    def weights(self, number: int = 1, port: int = 80) -> list[int]:
        (entry,) = [
            entry
            for key, entry in self.kernel.table.items()
            if key.address == addresses(number)[0] and key.port == port
        ]
        return [destination.weight for destination in entry.destinations]


def up(*vips: Vip) -> Node:
    node = Node(*(vips or (vip(),)))
    node.checks(Outcome.OK)
    node.acknowledge()
    assert node.routes == [prefix_of(a) for each in node.state.config.vips for a in each.addresses]
    return node


def test_a_node_that_starts_announces_once_every_check_has_spoken() -> None:
    node = Node(vip())
    node.checks(Outcome.OK, 1, 2)
    assert node.reason() is Reason.STARTING
    assert node.lease is None
    node.checks(Outcome.FAIL, 3, times=1)
    assert node.routes == [route(1)]
    assert node.weights() == [1, 1, 0]


def test_an_agent_that_starts_again_says_nothing_until_it_knows_or_a_ttl_has_passed() -> None:
    node = Node(vip())
    node.wait(TTL / 2)
    assert node.lease is None
    node.wait(TTL / 2)
    assert node.lease is not None
    assert node.routes == []


def test_a_lease_is_renewed_in_good_time_for_as_long_as_the_node_lives() -> None:
    node = up()
    for _ in range(20):
        assert node.lease is not None
        seq = node.lease.seq
        node.wait(TTL / 3)
        assert node.lease.seq > seq


def test_what_was_in_use_before_the_start_stays_in_use_until_a_check_speaks() -> None:
    before = up()
    before.checks(Outcome.FAIL, 3)
    again = Node(vip(servers=(1, 2, 3, 4)), found=before.kernel)
    assert again.weights() == [1, 1, 0, 0]


def test_a_server_that_fails_gets_no_new_clients_and_keeps_its_place() -> None:
    node = up()
    node.checks(Outcome.FAIL, 2, times=1)
    assert node.weights() == [1, 1, 1]
    node.checks(Outcome.FAIL, 2, times=1)
    assert node.weights() == [1, 0, 1]
    assert node.routes == [route(1)]


def test_between_the_two_marks_a_route_stays_and_does_not_come_back() -> None:
    node = up()
    node.checks(Outcome.FAIL, 2, 3)
    assert node.routes == [route(1)]
    node.checks(Outcome.FAIL, 1)
    assert node.reason() is Reason.BELOW_QUORUM
    assert node.routes == []
    node.checks(Outcome.OK, 1)
    assert node.routes == []
    node.checks(Outcome.OK, 2)
    assert node.routes == [route(1)]


def test_checks_that_cannot_run_change_nothing() -> None:
    node = up()
    node.checks(Outcome.UNKNOWN, times=10)
    assert node.routes == [route(1)]
    assert node.weights() == [1, 1, 1]
    assert node.logged.count("check.unknown") == len(node.state.targets)


def test_servers_of_weight_0_take_no_clients_and_count_for_nothing() -> None:
    node = up(vip(servers=(1, 2), drained=(3,)))
    assert node.weights() == [1, 1, 0]
    node.checks(Outcome.FAIL, 1, 2)
    assert node.reason() is Reason.BELOW_QUORUM
    node.reload(vip(servers=(), drained=(1, 2, 3)))
    node.checks(Outcome.OK)
    assert node.reason() is Reason.BELOW_QUORUM
    assert node.weights() == [0, 0, 0]


def test_a_drained_server_without_an_outcome_does_not_carry_a_route() -> None:
    node = up(vip(servers=(1, 2)))
    node.reload(vip(servers=(1,), drained=(4,)))
    node.checks(Outcome.FAIL, 1)
    assert node.routes == []


def test_maintenance_drains_then_withdraws_and_the_kernel_goes_on_serving() -> None:
    node = up()
    before = node.kernel
    node.maintain()
    assert node.saved is not None
    assert set(node.saved) == {NODE}
    assert node.lease is not None
    (last_resort,) = node.lease.routes
    assert (last_resort.med, GRACEFUL_SHUTDOWN in last_resort.communities) == (WORST_MED, True)
    node.wait(DRAIN)
    assert node.routes == []
    assert node.reason() is Reason.NODE_MAINTENANCE
    assert node.kernel == before
    node.maintain(on=False)
    assert node.routes == [route(1)]
    assert node.saved == {}


def test_maintenance_said_again_does_not_drain_again() -> None:
    node = up()
    node.maintain()
    node.wait(DRAIN / 2)
    node.maintain()
    node.wait(DRAIN / 2)
    assert node.routes == []


def test_maintenance_of_the_node_does_not_prolong_the_drain_of_a_vip() -> None:
    node = up(vip(), vip("mail", number=2))
    node.maintain("web")
    node.wait(DRAIN / 2)
    node.maintain(NODE)
    node.wait(DRAIN / 2)
    assert node.routes == [route(2)]
    node.wait(DRAIN / 2)
    assert node.routes == []


def test_maintenance_found_on_disk_is_in_force_without_a_drain() -> None:
    node = Node(vip(), kept={"web": Maintenance(reason="racks", by="op", since=1.0)})
    node.checks(Outcome.OK)
    assert node.reason() is Reason.VIP_MAINTENANCE
    assert node.routes == []
    node.maintain("web", on=False)
    assert node.routes == [route(1)]


def test_a_server_that_dies_during_the_drain_ends_it() -> None:
    node = up()
    node.maintain()
    node.checks(Outcome.FAIL)
    assert node.routes == []
    node.checks(Outcome.OK)
    assert node.routes == [], "a drain brings nothing up"


def test_an_address_given_to_a_vip_that_drains_does_not_come_up() -> None:
    node = up()
    node.maintain()
    node.reload(vip(both_families=True))
    node.checks(Outcome.OK)
    assert node.routes == [route(1)]


def test_an_address_somebody_removed_is_put_back_and_the_route_stays() -> None:
    node = up()
    node.kernel = replace(node.kernel, addresses=frozenset())
    node.send(ev.KernelChanged())
    assert node.kernel.addresses == {addresses(1)[0]}
    assert node.routes == [route(1)]


def test_an_address_the_kernel_refuses_takes_the_route_down_and_is_tried_again_without_much_ado() -> None:
    node = up()
    node.refused = {addresses(1)[0]}
    node.kernel = replace(node.kernel, addresses=frozenset())
    node.send(ev.KernelChanged())
    assert node.reason() is Reason.ADDRESS_MISSING
    assert node.routes == []
    told = node.logged.count("kernel.programmed"), node.logged.count("kernel.program_failed")
    tries = len(node.programs)
    node.wait(10 * RETRY_PROGRAM)
    assert len(node.programs) >= tries + 9
    assert (node.logged.count("kernel.programmed"), node.logged.count("kernel.program_failed")) == told
    node.refused = set()
    node.wait(RETRY_PROGRAM)
    assert node.routes == [route(1)]


def test_one_lost_answer_of_the_kernel_is_no_outage_and_three_are() -> None:
    node = up()
    node.kernel_breaks = "no answer"
    node.send(ev.KernelChanged())
    assert node.routes == [route(1)]
    node.wait(2.0)
    assert node.reason() is Reason.KERNEL_UNAVAILABLE
    assert node.routes == []
    node.kernel_breaks = None
    node.wait(Timing().reconcile)
    assert node.routes == [route(1)]


def test_a_kernel_that_never_answers_is_no_proof_for_long() -> None:
    node = up()
    node.kernel_is_slow = True
    node.wait(2 * Timing().reconcile)
    assert node.routes == [route(1)]
    node.wait(3 * Timing().reconcile)
    assert node.reason() is Reason.KERNEL_UNAVAILABLE
    assert node.routes == []
    node.kernel_answers()
    assert node.routes == [route(1)]


def test_a_new_server_takes_no_clients_before_its_check_has_succeeded() -> None:
    node = up()
    node.reload(vip(servers=(1, 2, 3, 4)))
    assert node.weights() == [1, 1, 1, 0]
    assert node.routes == [route(1)]
    node.checks(Outcome.OK, 4, times=1)
    assert node.weights() == [1, 1, 1, 1]


def test_a_changed_check_starts_anew_and_nothing_is_interrupted() -> None:
    node = up()
    node.checks(Outcome.FAIL, 3)
    programs = len(node.programs)
    node.reload(vip(check=Check(kind=HttpCheck(tls=False))))
    assert node.weights() == [1, 1, 0]
    assert node.routes == [route(1)]
    node.checks(Outcome.OK, 1, 2, times=1)
    assert len(node.programs) == programs
    node.checks(Outcome.OK, 3, times=1)
    assert node.weights() == [1, 1, 1]


def test_a_port_that_is_added_or_dropped_does_not_touch_the_route() -> None:
    node = up()
    node.reload(vip(ports=(80, 443)))
    node.checks(Outcome.OK)
    assert node.routes == [route(1)]
    assert node.weights(port=443) == [1, 1, 1]
    node.reload(vip())
    assert node.routes == [route(1)]
    assert {key.port for key in node.kernel.table} == {80}


def test_a_vip_with_another_name_and_the_same_address_is_not_interrupted() -> None:
    node = up()
    assert node.lease is not None
    before, programs = node.lease.seq, len(node.programs)
    node.reload(vip("www"))
    assert node.routes == [route(1)]
    assert node.lease.seq == before
    assert len(node.programs) == programs


def test_a_dropped_address_stays_in_the_kernel_until_its_route_is_withdrawn_and_has_settled() -> None:
    node = up(vip(), vip("mail", number=2))
    node.reload(vip())
    assert node.routes == [route(1)]
    node.wait(SETTLE)
    assert addresses(2)[0] in node.kernel.addresses, "ExaBGP has not acknowledged it"
    node.acknowledge()
    node.wait(SETTLE / 2)
    assert addresses(2)[0] in node.kernel.addresses
    node.wait(SETTLE / 2)
    assert addresses(2)[0] not in node.kernel.addresses
    assert {key.address for key in node.kernel.table} == {addresses(1)[0]}
    removed_first = [type(op) for op in node.programs[-1]]
    assert removed_first == [kernels.RemoveAddress, RemoveService]


@pytest.mark.parametrize("lost", [False, True])
def test_an_announcer_that_never_acknowledges_has_been_ended_before_the_kernel_goes(*, lost: bool) -> None:
    node = up(vip(), vip("mail", number=2))
    node.reload(vip())
    if lost:
        node.send(ev.AnnouncerLost(source=1))
    node.wait(TTL + LEAVE_PATIENCE)
    assert addresses(2)[0] in node.kernel.addresses
    node.wait(SETTLE)
    assert addresses(2)[0] not in node.kernel.addresses


def test_a_lost_announcer_keeps_a_dropped_address_for_as_long_as_the_lease_it_has() -> None:
    node = up(vip(), vip("mail", number=2))
    node.send(ev.Reconfigured(config=replace(node.state.config, timing=replace(Timing(), lease_ttl=20.0))))
    node.acknowledge()
    node.send(ev.AnnouncerLost(source=1))
    node.reload(vip(), vip("mail", number=2))  # with the short lease again, which it never hears of
    node.reload(vip())
    node.wait(20.0 + LEAVE_PATIENCE)
    assert addresses(2)[0] in node.kernel.addresses
    node.wait(SETTLE)
    assert addresses(2)[0] not in node.kernel.addresses


def test_an_address_that_comes_back_while_it_leaves_was_never_taken_out() -> None:
    node = up(vip(), vip("mail", number=2))
    programs = len(node.programs)
    node.reload(vip())
    node.reload(vip(), vip("mail", number=2))
    assert set(node.routes) == {route(1), route(2)}
    node.acknowledge()
    node.wait(60)
    assert len(node.programs) == programs
    assert set(node.routes) == {route(1), route(2)}


def test_an_address_that_comes_back_while_the_kernel_does_not_answer_waits_for_it() -> None:
    node = up()
    node.reload(vip(number=2))
    assert node.routes == [route(2)]
    node.kernel_breaks = "no answer"
    node.send(ev.KernelChanged())
    node.reload(vip())
    assert node.routes == []
    node.kernel_breaks = None
    node.wait(1.0)
    assert node.routes == [route(1)]


def test_an_address_that_moves_to_another_vip_keeps_its_route() -> None:
    node = up(vip(), vip("mail", number=2))
    node.reload(vip("mail", number=1), vip("web", number=2))
    assert set(node.routes) == {route(1), route(2)}
    assert node.kernel.addresses == {addresses(1)[0], addresses(2)[0]}


def test_a_new_address_of_a_standing_vip_needs_as_many_servers_as_a_vip_that_comes_up() -> None:
    node = up()
    node.checks(Outcome.FAIL, 2, 3)
    node.reload(vip(number=2))
    assert node.routes == [], "one usable server carries the old route, not a new one"
    node.checks(Outcome.OK, 2)
    assert node.routes == [route(2)]


def test_a_new_family_comes_up_only_when_its_own_servers_answer() -> None:
    node = up()
    node.reload(vip(both_families=True))
    assert node.routes == [route(1)]
    node.checks(Outcome.OK)
    assert node.routes == [route(1), route6(1)]


def test_a_lease_of_a_longer_life_is_sent_before_the_short_one_runs_out() -> None:
    node = up()
    longer = replace(node.state.config, timing=replace(Timing(), lease_ttl=20.0))
    node.send(ev.Reconfigured(config=longer))
    assert node.lease is not None
    assert node.lease.ttl == 20.0


def test_a_reload_while_it_stops_brings_nothing_back() -> None:
    node = up()
    node.send(ev.StopRequested())
    node.reload(vip("mail", number=2))
    node.checks(Outcome.OK)
    assert node.routes == []
    assert node.state.vips["mail"].verdict.advertise is Advertise.NO


def test_a_stopping_node_withdraws_waits_for_the_word_and_leaves_the_kernel() -> None:
    node = up()
    node.send(ev.StopRequested())
    assert node.routes == []
    assert node.exit is None
    node.send(ev.StopRequested())
    node.kernel = before = replace(node.kernel, addresses=frozenset())
    node.send(ev.KernelChanged())
    node.acknowledge()
    assert node.exit == ev.Exit(clean=True)
    assert node.kernel == before


def test_a_stopping_node_does_not_wait_for_ever() -> None:
    node = up()
    node.send(ev.StopRequested())
    node.wait(STOP_PATIENCE)
    assert node.exit == ev.Exit(clean=False)


def test_an_announcer_that_has_said_nothing_is_not_taken_for_withdrawn() -> None:
    node = up()
    node.send(ev.AnnouncerConnected(source=2))
    node.send(ev.StopRequested())
    node.acknowledge()
    assert node.exit is None


def test_an_announcer_that_has_not_come_to_the_last_lease_is_not_taken_for_withdrawn() -> None:
    node = up()
    node.send(ev.AnnouncerConnected(source=2))
    node.send(ev.AnnouncerReported(source=2, report=Report(seq=0)))
    node.send(ev.StopRequested())
    node.acknowledge()
    assert node.exit is None
    assert node.lease is not None
    node.send(ev.AnnouncerReported(source=2, report=Report(seq=node.lease.seq)))
    assert node.exit == ev.Exit(clean=True)


def test_after_the_end_nothing_happens() -> None:
    node = up()
    node.send(ev.StopRequested())
    node.acknowledge()
    state: State = node.state
    for event in (ev.Tick(), ev.StopRequested(), ev.AnnouncerConnected(source=9)):
        assert step(state, event, node.now) == (state, ())


def test_with_nothing_to_do_it_sleeps_until_the_next_lease() -> None:
    node = up()
    node.wait(0.01)
    assert 0 < next_wake(node.state, node.now) - node.now <= TTL / 3
