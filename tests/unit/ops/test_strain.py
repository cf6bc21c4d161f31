from __future__ import annotations

from anycast.ops.strain import CALM, LATENESS, Overload, Strain

TTL = 3.0  # so that a third is 1


def test_leases_are_sorted_by_how_late_they_were_and_the_bounds_belong_to_what_is_below() -> None:
    strain = Strain()
    for late in (0.0, 0.005, 0.006, 99.0):
        strain = strain.sent(late)
    assert strain.buckets[:2] == (2, 1)
    assert strain.buckets[len(LATENESS)] == 1
    assert sum(strain.buckets) == 4
    assert strain.late == 99.011


def test_what_takes_a_third_of_the_time_to_live_is_not_too_long() -> None:
    strain = Strain()
    assert strain.took("a reload", 1.0, ttl=TTL, now=10.0) is strain


def test_an_overload_is_one_however_often_something_takes_too_long_and_names_the_worst() -> None:
    strain = Strain()
    for at, doing, seconds in ((10.0, "a", 1.5), (20.0, "b", 2.5), (30.0, "c", 2.0)):
        strain = strain.took(doing, seconds, ttl=TTL, now=at).calmed(at + CALM)
    assert strain.overloads == 1
    assert strain.overload == Overload(doing="b", seconds=2.5, limit=1.0, since=8.5, last=30.0, times=3)


def test_it_is_over_once_nothing_took_too_long_for_a_while_and_the_next_is_another() -> None:
    strain = Strain().took("a", 2.0, ttl=TTL, now=10.0)
    assert strain.calmed(10.0 + CALM) is strain
    strain = strain.calmed(10.1 + CALM)
    assert strain.overload is None
    assert strain.calmed(200.0) is strain
    assert strain.took("a", 2.0, ttl=TTL, now=300.0).overloads == 2
