"""From counters that the kernel adds up every two seconds to a rate that proves something."""

from __future__ import annotations

import itertools
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.core.dataplane.ipvs import Key, ServiceKey
from anycast.core.dataplane.traffic import (
    APART,
    EST_CPULIST,
    RUN_ESTIMATION,
    SPAN,
    TICK,
    WINDOW,
    Count,
    Received,
    at_most,
    counted,
    rate,
    uncounted,
)
from anycast.core.values.configuration import Protocol

KEPT = WINDOW + 2 * TICK + SPAN
ESTIMATE = 2.0  # seconds between two additions of the kernel
WEB = ServiceKey(protocol=Protocol.TCP, address=ip_address("192.0.2.1"), port=80)
TLS = ServiceKey(protocol=Protocol.TCP, address=ip_address("192.0.2.1"), port=443)


def readings(*counts: tuple[float, int]) -> tuple[Count, ...]:
    found: tuple[Count, ...] = ()
    for at, packets in counts:
        found = counted(found, Count(at=at, packets={WEB: packets}))
    return found


def test_two_readings_that_are_far_enough_apart_make_a_rate() -> None:
    assert rate((), [WEB]) is None
    assert rate(readings((0.0, 0), (WINDOW - 0.1, 9)), [WEB]) is None
    assert rate(readings((0.0, 100), (5.0, 600)), [WEB]) == 100.0


def test_the_last_ones_count() -> None:
    assert rate(readings(*((float(second), 100) for second in range(10)), (10.0, 100)), [WEB]) == 0.0


def test_what_was_read_before_does_not_count_where_it_must_not() -> None:
    found = readings((0.0, 0), (1.0, 0), (4.5, 0))
    assert rate(found, [WEB], since=1.0) == 0.0
    assert rate(found, [WEB], since=2.0) is None


def test_a_service_that_is_gone_takes_in_nothing_and_a_new_one_nobody_knows_what() -> None:
    first, second = Count(at=0.0, packets={WEB: 5}), Count(at=5.0, packets={TLS: 7})
    assert rate(counted((first,), second), [WEB]) == 0.0
    assert rate(counted((first,), second), [TLS]) is None


def test_a_counter_that_went_back_says_nothing() -> None:
    assert rate(readings((0.0, 100), (5.0, 3)), [WEB]) is None


def test_services_add_up() -> None:
    first, second = Count(at=0.0, packets={WEB: 0, TLS: 0}), Count(at=5.0, packets={WEB: 50, TLS: 100})
    assert rate(counted((first,), second), [WEB, TLS]) == 30.0


@given(st.lists(st.floats(0.0, 2.0), max_size=60))
def test_however_often_the_kernel_is_read_few_readings_are_kept_and_enough(gaps: list[float]) -> None:
    found: tuple[Count, ...] = ()
    now = 0.0
    for gap in gaps:
        now += gap
        found = counted(found, Count(at=now, packets={WEB: 0}))
        assert len(found) <= KEPT / APART + 2
        assert found == tuple(sorted(found, key=lambda count: count.at))
        if found[-1].at - found[0].at > KEPT + 2 * 2.0 + APART:
            pytest.fail("older than any rate needs")
        if now > WINDOW + 2.0 + APART:
            assert rate(found, [WEB]) == 0.0


@given(phase=st.floats(0.0, ESTIMATE), last=st.floats(0.0, 20.0), pace=st.floats(0.2, 1.0))
def test_silence_is_not_proven_by_a_counter_that_was_merely_not_added_up_yet(
    phase: float, last: float, pace: float
) -> None:
    """A packet every 0.1 s until `last`; the kernel adds up every two seconds. Nothing is silent before then."""

    def shown(at: float) -> int:
        added = phase + ESTIMATE * ((at - phase) // ESTIMATE)
        return int(max(0.0, min(added, last)) / 0.1)

    found: tuple[Count, ...] = ()
    now = 0.0
    while now < 30.0:
        found = counted(found, Count(at=now, packets={WEB: shown(now)}))
        if rate(found, [WEB], since=0.0) == 0.0 and shown(now) > 0:
            assert now >= last, "packets still came"
            return
        now += pace
    assert last < 0.2 or last > 20.0, "silence is seen in the end"


# What is proven, however late the kernel adds up.


class Kernel:
    """Packets as they come; the counters of each service, and the sum, as the kernel's thread last added them up."""

    def __init__(self) -> None:
        self.live: dict[Key, int] = {WEB: 0, TLS: 0}
        self.packets = dict(self.live)
        self.total = 0
        self.at: Key | None = None  # where its thread goes on: None: with the sum

    def go_on(self) -> None:
        """The thread comes to its next piece: the sum first, then one service after the other."""
        if self.at is None:
            self.total = sum(self.live.values())
        else:
            self.packets[self.at] = self.live[self.at]
        pieces: list[Key | None] = [None, *self.live]
        self.at = pieces[(pieces.index(self.at) + 1) % len(pieces)]

    def add_up(self) -> None:
        self.packets = dict(self.live)
        self.total = sum(self.live.values())

    def read(self, at: float) -> Count:
        received = Received(live=sum(self.live.values()), counted=self.total)
        return Count(at=at, packets=dict(self.packets), received=received)


def test_that_nothing_came_at_all_is_proven_even_if_the_kernel_adds_nothing_up() -> None:
    kernel = Kernel()
    kernel.live[WEB] = 50
    found = counted(counted((), kernel.read(0.0)), kernel.read(WINDOW))
    assert at_most(found, [WEB]) == 0.0


def test_packets_that_are_not_added_up_prove_nothing() -> None:
    kernel, found = Kernel(), tuple[Count, ...]()
    for second in range(60):
        kernel.live[WEB] += 10
        found = counted(found, kernel.read(float(second)))
    assert rate(found, [WEB]) == 0.0  # what the counters say
    assert at_most(found, [WEB]) == pytest.approx(10.0, rel=0.01)


def test_packets_of_before_that_are_added_up_only_now_are_not_said_to_come_still() -> None:
    kernel = Kernel()
    kernel.live[WEB] = 600
    found = counted((), kernel.read(0.0))
    kernel.add_up()
    found = counted(found, kernel.read(WINDOW))
    assert rate(found, [WEB]) == 0.0


def test_one_service_is_proven_quiet_while_another_is_busy() -> None:
    kernel, found = Kernel(), tuple[Count, ...]()
    for second in range(20):
        kernel.live[TLS] += 1000
        if second % int(TICK) == 0:
            kernel.add_up()
        found = counted(found, kernel.read(float(second)))
        if second > WINDOW + 2 * TICK + SPAN:
            assert at_most(found, [WEB]) == 0.0
    proven = at_most(found, [TLS])
    assert proven is not None
    assert proven >= 1000


def test_a_thread_that_stands_still_within_a_round_proves_nothing() -> None:
    """Its sum is the newest there is as soon as it goes on; a service it has not come to since is as it was before."""
    kernel, found = Kernel(), tuple[Count, ...]()
    for tenth in range(300):
        kernel.live[WEB] += 1
        if tenth % 60 in (0, 10, 59):  # the sum of a round, WEB a second later, and the rest after five more
            kernel.go_on()
        if tenth % 5 == 0:
            found = counted(found, kernel.read(tenth / 10))
            proven = at_most(found, [WEB])
            assert proven is None or proven >= 10.0


def test_without_the_sums_nothing_is_proven() -> None:
    assert at_most(readings((0.0, 0), (5.0, 0)), [WEB]) is None
    assert at_most((), [WEB]) is None


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["web", "web", "web", "tls", "go on", "read", "read"]), st.floats(0.01, 0.9)
        ),
        min_size=20,
        max_size=200,
    )
)
def test_what_is_proven_quiet_had_a_time_without_packets(story: list[tuple[str, float]]) -> None:
    """However irregular the kernel's thread is, and however long it stands still within a round."""
    kernel, found, now = Kernel(), tuple[Count, ...](), 0.0
    came: list[float] = [0.0]
    for what, pause in story:
        now += pause
        match what:
            case "web":
                kernel.live[WEB] += 1
                came.append(now)
            case "tls":
                kernel.live[TLS] += 1
            case "go on":
                kernel.go_on()
            case _:
                found = counted(found, kernel.read(now))
                if at_most(found, [WEB]) == 0.0:
                    gaps = itertools.pairwise([*came, now])
                    assert max(later - earlier for earlier, later in gaps if later >= found[0].at) >= SPAN


@pytest.mark.parametrize(
    ("sysctls", "why"),
    [
        ({RUN_ESTIMATION: "1", EST_CPULIST: None}, None),  # before 6.2
        ({RUN_ESTIMATION: "1", EST_CPULIST: "0-3"}, None),
        ({RUN_ESTIMATION: "0", EST_CPULIST: "0-3"}, f"{RUN_ESTIMATION} is 0"),
        ({RUN_ESTIMATION: "1", EST_CPULIST: ""}, f"{EST_CPULIST} names no processor"),
        ({RUN_ESTIMATION: None, EST_CPULIST: None}, None),
    ],
)
def test_a_kernel_that_is_told_not_to_count_is_found_out(
    sysctls: dict[str, str | None], why: str | None
) -> None:
    assert uncounted(sysctls) == why
