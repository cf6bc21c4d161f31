"""From counters that the kernel adds up every two seconds to a rate that proves something."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.core.dataplane.ipvs import ServiceKey
from anycast.core.dataplane.traffic import APART, WINDOW, Count, counted, rate
from anycast.core.values.configuration import Protocol

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
        assert len(found) <= WINDOW / APART + 2
        assert found == tuple(sorted(found, key=lambda count: count.at))
        if found[-1].at - found[0].at > WINDOW + 2 * 2.0 + APART:
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
