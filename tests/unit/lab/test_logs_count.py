"""What is counted of numbered messages: lost, twice, out of order, late; and of which lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.logs_count import Arrival, Count, Ledger, arrival

RSYSLOG = "2026-11-30T14:22:20.391140+00:00 relp-tls m1 log: numbered m1 12 1796048540.386674"


def came(number: int, *, sent: float = 0.0, received: float | None = None, sender: str = "m1") -> Arrival:
    return Arrival("relp", sender, number, sent, number if received is None else received, "rs1")


def counted(*arrivals: Arrival, window: tuple[int, int] = (0, 4)) -> Count:
    ledger = Ledger()
    for one in arrivals:
        ledger.add(one)
    return ledger.count("relp", ["m1"], {"m1": window})


def test_a_line_of_rsyslog_is_read() -> None:
    found = arrival(RSYSLOG, "rs2")
    assert found is not None
    assert (found.protocol, found.sender, found.number, found.collector) == ("relp-tls", "m1", 12, "rs2")
    assert found.late == pytest.approx(0.004466, abs=1e-6)


def test_a_line_of_nginx_is_read() -> None:
    found = arrival("1796048540.500 https numbered h3 7 1796048540.250000", "rs1")
    assert found == Arrival("https", "h3", 7, 1796048540.25, 1796048540.5, "rs1")


@pytest.mark.parametrize(
    "line", ["", "2026-11-30T14:22:20.391140+00:00 tcp vm rsyslogd: exiting on signal 15.", RSYSLOG[:-9]]
)
def test_other_lines_and_halves_are_none(line: str) -> None:
    assert arrival(line, "rs1") is None


def test_what_has_not_come_is_lost_and_what_came_again_is_twice() -> None:
    found = counted(came(1), came(3), came(3, received=9.0), came(4))
    assert (found.sent, found.lost, found.twice, found.reordered) == (4, 1, 1, 0)


def test_what_comes_after_a_later_one_is_out_of_order() -> None:
    assert counted(came(1), came(2, received=8.0), came(3), came(4)).reordered == 1


def test_a_repeat_is_neither_late_nor_out_of_order() -> None:
    """Whatever file is read first: the first arrival counts."""
    found = counted(came(1), came(2, received=90.0), came(2, received=2.0), came(3), came(4))
    assert (found.twice, found.reordered, found.longest) == (1, 0, 4.0)


def test_only_the_window_counts() -> None:
    found = counted(came(1), came(1), came(2), came(3), came(5), window=(1, 4))
    assert (found.sent, found.lost, found.twice) == (3, 1, 0)


def test_delays_are_those_of_the_nearest_rank() -> None:
    found = counted(*(came(n, sent=0.0, received=float(n)) for n in range(1, 201)), window=(0, 200))
    assert (found.p50, found.p99, found.longest) == (100.0, 198.0, 200.0)


def test_one_protocol_says_nothing_of_another() -> None:
    ledger = Ledger()
    ledger.add(came(1))
    window = {"m1": (0, 1)}
    assert ledger.count("tcp", ["m1"], window).lost == 1
    assert ledger.missing({"relp": ["m1"], "tcp": ["m1"]}, window) == 1


def test_what_was_counted_is_forgotten_and_what_came_later_is_kept() -> None:
    ledger = Ledger()
    for number in (1, 2, 3, 3):
        ledger.add(came(number))
    ledger.forget({"m1": (0, 2)})
    assert ledger.count("relp", ["m1"], {"m1": (2, 3)}) == Count(
        sent=1, twice=1, p50=3.0, p99=3.0, longest=3.0
    )
    assert ledger.count("relp", ["m1"], {"m1": (0, 2)}).lost == 2


@given(st.lists(st.integers(1, 30), max_size=60))
def test_every_arrival_is_the_first_or_one_more(numbers: list[int]) -> None:
    found = counted(*map(came, numbers), window=(0, 30))
    assert found.sent - found.lost == len(set(numbers))
    assert found.twice == len(numbers) - len(set(numbers))
    assert found.reordered == 0
