"""Whatever becomes of the kernel's counters: rates are never negative, and never more than what was carried."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.core.dataplane.ipvs import (
    COUNTED,
    COUNTERS,
    Counters,
    Destination,
    DestinationKey,
    ServiceKey,
    Settings,
    entry,
    persistent,
)
from anycast.core.dataplane.kernel import Snapshot
from anycast.core.dataplane.traffic import EST_CPULIST, RUN_ESTIMATION
from anycast.core.state import State
from anycast.core.step import begin
from anycast.core.values.configuration import Forwarding, Protocol
from anycast.core.values.persistent import PersistentMap
from anycast.ops.traffic import FEW, NO_RATES, SLOTS, SPAN, STEP, WINDOW, Traffic
from tests.unit.ops.node import CONFIG

KEYS = [ServiceKey(protocol=Protocol.TCP, address=IPv4Address(f"192.0.2.{n}"), port=80) for n in (1, 2)]
STARTED, _ = begin(CONFIG, {}, 1000.0)


def server(number: int, weight: int = 1) -> Destination:
    return Destination(
        address=IPv4Address("10.9.2.0") + number, port=80, weight=weight, forwarding=Forwarding.DR
    )


Row = tuple[ServiceKey, DestinationKey | None]


class Kernel:
    """Counts as the kernel does, and keeps what was really carried beside it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.servers: dict[ServiceKey, list[Destination]] = {}
        self.counters: dict[Row, Counters] = {}
        self.carried: defaultdict[Row, list[int]] = defaultdict(lambda: [0] * COUNTERS)
        self.sysctls: dict[str, str | None] = {RUN_ESTIMATION: "1"}
        self._last: Snapshot | None = None

    def add(self, key: ServiceKey, *numbers: int) -> None:
        self.servers[key] = [server(number) for number in numbers]
        self.counters[key, None] = Counters()
        for one in self.servers[key]:
            self.counters[key, one.key] = Counters()

    def carry(self, key: ServiceKey, place: int, more: Counters) -> None:
        if not (destinations := self.servers.get(key)):
            return
        for row in ((key, None), (key, destinations[place % len(destinations)].key)):
            self.counters[row] = Counters._make(map(sum, zip(self.counters[row], more, strict=True)))
            self.carried[row] = list(map(sum, zip(self.carried[row], more, strict=True)))

    def state(self) -> State:
        """As it is read now; what has not changed is the same object as before, as the adapter has it."""
        table = {key: entry(Settings(scheduler="mh"), found) for key, found in self.servers.items()}
        traffic = {
            key: b"".join(
                COUNTED.pack(*self.counters[key, at])
                for at in (None, *(one.key for one in self.servers[key]))
            )
            for key in table
        }
        traffic = {key: data for key, data in traffic.items() if any(data)}
        last = self._last or Snapshot(
            table=persistent({}), addresses=frozenset(), sysctls={}, traffic=PersistentMap()
        )
        same = {key for key in table if last.table.get(key) == table[key]}
        equal = {key for key in traffic if last.traffic.get(key) == traffic[key]}
        self._last = replace(
            last,
            sysctls=dict(self.sysctls),
            table=persistent(last.table).updated(
                {key: one for key, one in table.items() if key not in same}, last.table.keys() - table.keys()
            ),
            traffic=PersistentMap(
                [(key, last.traffic[key] if key in equal else data) for key, data in traffic.items()]
            ),
        )
        kernel = replace(
            STARTED.kernel, snapshot=self._last, read_at=self.now, good_until=self.now + 15.0, error=None
        )
        return replace(STARTED, kernel=kernel)


MORE = st.builds(Counters, *[st.integers(0, 2**40) for _ in range(COUNTERS)])
EVENTS = st.one_of(
    st.tuples(st.just("carry"), st.sampled_from(KEYS), st.integers(0, 5), MORE),
    st.tuples(st.just("zero"), st.sampled_from(KEYS), st.integers(0, 5)),
    st.tuples(st.just("add"), st.sampled_from(KEYS), st.sets(st.integers(1, 4))),
    st.tuples(st.just("remove"), st.sampled_from(KEYS)),
    st.tuples(st.just("servers"), st.sampled_from(KEYS), st.lists(st.integers(1, 4), unique=True)),
    st.tuples(st.just("weigh"), st.sampled_from(KEYS), st.integers(0, 9)),
    st.tuples(st.just("read"), st.floats(0.05, 70)),
)


@given(events=st.lists(EVENTS, max_size=40))
def test_rates_are_never_negative_and_never_more_than_what_was_carried(events: list[tuple]) -> None:  # type: ignore[type-arg]
    kernel, traffic = Kernel(), Traffic()
    history: list[tuple[float, Mapping[Row, list[int]]]] = []
    for what, *rest in [*events, ("read", 5.0), ("read", 5.0)]:
        match what:
            case "carry":
                kernel.carry(*rest)
            case "add" if rest[0] not in kernel.servers:
                kernel.add(rest[0], *rest[1])
            case "remove":
                kernel.servers.pop(rest[0], None)
            case "zero" if rest[0] in kernel.servers:
                rows = [row for row in kernel.counters if row[0] == rest[0]]
                kernel.counters[rows[rest[1] % len(rows)]] = Counters()
            case "servers" if rest[0] in kernel.servers:
                # One that comes back may have the counters of before: the kernel remembers it for a time.
                kernel.servers[rest[0]] = [server(number) for number in rest[1]]
                for one in kernel.servers[rest[0]]:
                    kernel.counters.setdefault((rest[0], one.key), Counters())
            case "weigh" if rest[0] in kernel.servers:
                kernel.servers[rest[0]] = [replace(one, weight=rest[1]) for one in kernel.servers[rest[0]]]
            case "read":
                kernel.now += rest[0]
                before = {row: traffic.totals([row[0]], row[1]) for row in kernel.counters}
                traffic.take(kernel.state())
                history.append((kernel.now, {row: list(one) for row, one in kernel.carried.items()}))
                check(kernel, traffic, history, before)


def check(
    kernel: Kernel,
    traffic: Traffic,
    history: list[tuple[float, Mapping[Row, list[int]]]],
    before: Mapping[Row, Counters],
) -> None:
    seconds = traffic.window()
    for key, found in kernel.servers.items():
        for row in ((key, None), *((key, one.key) for one in found)):
            total = traffic.totals([key], row[1])
            carried = kernel.carried.get(row, [0] * COUNTERS)
            assert all(0 <= one <= other for one, other in zip(total, carried, strict=True))
            rates = traffic.rates([key], kernel.now, row[1])
            assert (rates is None) == (seconds is None)
            if rates is None or seconds is None:
                continue
            # By what was carried since the reading that the rate begins with.
            then = next(there for at, there in history if at >= kernel.now - seconds - 1e-6)
            came = [one - other for one, other in zip(carried, then.get(row, [0] * COUNTERS), strict=True)]
            assert all(
                0 <= one * seconds <= most * (1 + 1e-9) + 1e-6 for one, most in zip(rates, came, strict=True)
            )
    assert (
        all(
            all(one >= other for one, other in zip(traffic.totals([row[0]], row[1]), known, strict=True))
            for row, known in before.items()
            if row[1] is None and row[0] in kernel.servers and row in kernel.carried
        )
        or not history
    )


@given(steps=st.lists(st.tuples(st.floats(0.1, 60), st.integers(0, 5), MORE), min_size=3, max_size=40))
def test_without_a_reset_totals_are_what_was_carried_and_rates_are_their_slope(
    steps: list[tuple[float, int, Counters]],
) -> None:
    kernel, traffic = Kernel(), Traffic()
    kernel.add(KEYS[0], 1, 2, 3)
    kernel.carry(KEYS[0], 0, Counters(9, 9, 9, 9, 9))  # before anybody looked
    traffic.take(kernel.state())
    begun = list(kernel.carried[KEYS[0], None])
    known = [(kernel.now, traffic.totals([KEYS[0]]))]
    for seconds, place, more in steps:
        kernel.now += seconds
        kernel.carry(KEYS[0], place, more)
        traffic.take(kernel.state())
        known.append((kernel.now, traffic.totals([KEYS[0]])))
        carried = [one - other for one, other in zip(kernel.carried[KEYS[0], None], begun, strict=True)]
        assert list(known[-1][1]) == carried
        rows = [traffic.totals([KEYS[0]], one.key) for one in kernel.servers[KEYS[0]]]
        assert list(map(sum, zip(*rows, strict=True))) == carried
        over = traffic.window()
        rates = traffic.rates(KEYS[:1], kernel.now)
        assert (rates is None) is (over is None)
        if rates is not None and over is not None:
            then = next(total for at, total in known if at >= kernel.now - over - 1e-6)
            assert list(rates) == pytest.approx(
                [(one - other) / over for one, other in zip(known[-1][1], then, strict=True)]
            )


def test_a_rate_is_over_ten_seconds_for_the_kernel_adds_up_every_two() -> None:
    """Readings five seconds apart see 4 and 6 seconds of it in turn."""
    kernel, traffic = Kernel(), Traffic()
    kernel.add(KEYS[0], 1)
    counted = 0
    for number in range(12):
        kernel.now = 1000.0 + 5 * number
        so_far = 100 * 2 * int(5 * number / 2)
        kernel.carry(KEYS[0], 0, Counters(connections=so_far - counted))
        counted = so_far
        traffic.take(kernel.state())
        if number > 2:
            rates = traffic.rates(KEYS[:1], kernel.now)
            assert rates is not None
            assert rates.connections == 100.0
            assert traffic.window() == WINDOW


def test_a_service_at_rest_has_zero_and_one_that_was_never_read_has_nothing() -> None:
    kernel, traffic = Kernel(), Traffic()
    kernel.add(KEYS[0], 1)
    assert traffic.rates(KEYS, kernel.now) is None
    for _ in range(3):
        kernel.now += 5
        traffic.take(kernel.state())
    assert traffic.rates(KEYS[:1], kernel.now) == NO_RATES
    assert traffic.rates(KEYS[1:], kernel.now) is None
    assert traffic.rates(KEYS, kernel.now) == NO_RATES
    # What was read too long ago says nothing of now.
    assert traffic.rates(KEYS[:1], kernel.now + 16) is None


@pytest.mark.parametrize("sysctls", [{RUN_ESTIMATION: "0"}, {RUN_ESTIMATION: "1", EST_CPULIST: ""}])
def test_where_the_kernel_does_not_count_nothing_is_known_instead_of_zero(
    sysctls: dict[str, str | None],
) -> None:
    kernel, traffic = Kernel(), Traffic()
    kernel.add(KEYS[0], 1)
    for number in range(4):
        kernel.now += 5
        kernel.carry(KEYS[0], 0, Counters(connections=50))
        kernel.sysctls = sysctls if number == 3 else {RUN_ESTIMATION: "1", EST_CPULIST: "0-3"}
        traffic.take(kernel.state())
    assert not traffic.counted
    assert traffic.rates(KEYS, kernel.now) is None
    assert traffic.graph(KEYS) is None
    # And what was missed meanwhile is not made up for in one leap.
    kernel.sysctls = {RUN_ESTIMATION: "1", EST_CPULIST: None}
    for _ in range(3):
        kernel.now += 5
        traffic.take(kernel.state())
    assert traffic.counted
    assert traffic.rates(KEYS[:1], kernel.now) == NO_RATES


def test_a_picture_has_the_last_minutes_and_no_more() -> None:
    kernel, traffic = Kernel(), Traffic()
    kernel.add(KEYS[0], 1)
    for number in range(3 * SLOTS):
        kernel.now += STEP if number % 2 else STEP / 5  # in maintenance it is read each second
        kernel.carry(KEYS[0], 0, Counters(connections=number, bytes_in=1000))
        traffic.take(kernel.state())
    graph = traffic.graph(KEYS)
    assert graph is not None
    assert len(graph.ages) == len(graph.connections) == len(graph.bits_in) <= SLOTS
    assert graph.ages[0] <= SPAN
    assert graph.ages == tuple(sorted(graph.ages, reverse=True))
    assert list(graph.connections) == sorted(graph.connections)
    assert all(graph.bits_in)
    assert traffic.graph(KEYS[:1], server(1).key) == graph
    # Once nothing has come for as long as a picture shows, there is none.
    for _ in range(SLOTS + 3):
        kernel.now += STEP
        traffic.take(kernel.state())
    assert traffic.graph(KEYS) is None


def test_of_many_real_servers_there_are_no_pictures_of_each() -> None:
    kernel, traffic = Kernel(), Traffic()
    kernel.add(KEYS[0], *range(1, FEW + 2))
    for _ in range(4):
        kernel.now += STEP
        kernel.carry(KEYS[0], 0, Counters(connections=5))
        traffic.take(kernel.state())
    assert traffic.graph(KEYS) is not None
    assert traffic.graph(KEYS, server(1).key) is None
    assert traffic.rates(KEYS[:1], kernel.now, server(1).key) == traffic.rates(KEYS[:1], kernel.now)


def test_a_real_server_that_comes_back_with_the_counters_of_before_makes_no_leap() -> None:
    kernel, traffic = Kernel(), Traffic()
    kernel.add(KEYS[0], 1, 2)
    first, second = kernel.servers[KEYS[0]]
    kernel.carry(KEYS[0], 0, Counters(connections=1_000_000))
    for servers in ([first, second], [second], [first, second]):
        kernel.now += 5
        kernel.servers[KEYS[0]] = servers
        traffic.take(kernel.state())
    assert traffic.rates(KEYS, kernel.now, first.key) == NO_RATES
    kernel.now += 5
    kernel.carry(KEYS[0], 0, Counters(connections=50))
    traffic.take(kernel.state())
    rates = traffic.rates(KEYS, kernel.now, first.key)
    assert rates is not None
    assert rates.connections == 5.0


def test_a_service_that_went_and_came_again_has_no_negative_rate() -> None:
    kernel, traffic = Kernel(), Traffic()
    kernel.add(KEYS[0], 1)
    traffic.take(kernel.state())
    for more in (1_000_000, 0, 50):
        kernel.now += 4
        if more:
            kernel.add(KEYS[0], 1)
            kernel.carry(KEYS[0], 0, Counters(connections=more))
        else:
            del kernel.servers[KEYS[0]]
        traffic.take(kernel.state())
    kernel.now += 4
    traffic.take(kernel.state())
    rates = traffic.rates(KEYS[:1], kernel.now)
    assert rates is not None
    assert rates.connections == 50 / 12
