from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.cli.times import bounded, duration, instant


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """By a rule, not by name: the machine need not know the zone."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("30s", 30), ("5m", 300), ("2h", 7200), ("1h30m", 5400), ("1d", 86400), ("1d2h3m4s", 93784)],
)
def test_a_duration_is_a_number_of_seconds_or_has_units(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "-5m", "m", "2 h", "1.5h", "30m2h", "5x", "٣h", "h2", "1h1h", "9" * 21])
def test_anything_else_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="write 30s, 5m, 2h or 1h30m"):
        duration(text)


@pytest.mark.parametrize("text", ["0", "0s", "0h0m", "367d", "99999999h"])
def test_what_is_to_last_lasts_from_one_second_to_a_year(text: str) -> None:
    with pytest.raises(ValueError, match="not from one second to 366 days"):
        bounded(text)
    assert (bounded("1s"), bounded("366d")) == (1, 366 * 86400)


@given(st.text())
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    for read in (duration, bounded, lambda text: instant(text, datetime.now().astimezone())):
        with contextlib.suppress(ValueError):
            assert read(text) >= 0


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("text", "then"),
    [
        ("18:30", "2026-10-07T18:30+02:00"),
        ("9:05", "2026-10-08T09:05+02:00"),
        ("12:00", "2026-10-08T12:00+02:00"),  # it is noon: the next
        ("2026-10-07T18:30", "2026-10-07T18:30+02:00"),
        ("2026-10-07 18:30:15", "2026-10-07T18:30:15+02:00"),
        ("2026-10-09", "2026-10-09T00:00+02:00"),
        ("2026-12-24T18:30", "2026-12-24T18:30+01:00"),  # local time of that day
        ("2026-10-07T18:30Z", "2026-10-07T18:30+00:00"),
        ("2026-10-07T18:30-05:00", "2026-10-07T18:30-05:00"),
    ],
)
def test_a_time_is_local_or_has_a_zone_and_a_time_of_day_is_the_next(text: str, then: str) -> None:
    now = datetime.fromisoformat("2026-10-07T12:00+02:00")
    assert instant(text, now) == datetime.fromisoformat(then).timestamp()


@pytest.mark.usefixtures("berlin")
def test_tomorrow_may_be_another_hour_from_utc() -> None:
    now = datetime.fromisoformat("2026-10-24T22:00+02:00")
    assert instant("08:00", now) == datetime.fromisoformat("2026-10-25T08:00+01:00").timestamp()


NOW = datetime(2026, 10, 7, 12, 0, tzinfo=timezone(timedelta(hours=2)))


@pytest.mark.parametrize("text", ["2026-10-07T11:59+02:00", "2026-10-07T12:00+02:00", "1999-01-01T00:00Z"])
def test_a_time_that_has_passed_is_said_with_the_time_it_is(text: str) -> None:
    with pytest.raises(ValueError, match=r"has passed: it is 2026-10-07 12:00:00\+02:00"):
        instant(text, NOW)


@pytest.mark.parametrize("text", ["25:00", "12:60", "noon", "2026-13-01", "9999-12-31T23:59", ""])
def test_what_is_no_time_or_too_far_is_said_with_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match=r"write 18:30, 2026-10-07T18:30|more than 366 days"):
        instant(text, NOW)
