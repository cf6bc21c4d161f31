"""Times as operators write them. Pure: the time it is now comes in."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta

LONGEST = 366 * 86400  # seconds
_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?", re.ASCII)
_TIME_OF_DAY = re.compile(r"(\d{1,2}):(\d{2})", re.ASCII)


def duration(text: str) -> float:
    """Seconds: `90`, `30s`, `2h`, `1h30m`. Raises ValueError, with what to write."""
    match = _DURATION.fullmatch(text)
    if not match or not any(match.groups()) or len(text) > 20:
        raise ValueError(f"{text!r} is not a time (write 30s, 5m, 2h or 1h30m)")
    return float(
        sum(int(number) * _UNITS[unit] for number, unit in zip(match.groups(), "dhms", strict=True) if number)
    )


def bounded(text: str) -> float:
    """The same, of what something may last: from one second to 366 days."""
    seconds = duration(text)
    if not 1 <= seconds <= LONGEST:
        raise ValueError(f"{text!r} is not from one second to 366 days")
    return seconds


def instant(text: str, now: datetime) -> float:
    """Seconds since the epoch: ISO 8601, local time where it names no zone; `HH:MM` is the next one.

    `now`: with the local zone. Raises ValueError, with what to write.
    """
    moment = _moment(text, now)
    if moment <= now:
        raise ValueError(f"{text!r} has passed: it is {now.isoformat(sep=' ', timespec='seconds')}")
    if moment > now + timedelta(seconds=LONGEST):
        raise ValueError(f"{text!r} is more than 366 days from now")
    return moment.timestamp()


def past(text: str, now: datetime) -> float:
    """Seconds since the epoch: a duration is so long ago, ISO 8601 is UTC where it names no zone, as events tell it.

    Raises ValueError, with what to write.
    """
    if _DURATION.fullmatch(text):
        return now.timestamp() - duration(text)
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is not a time (write 30s, 5m or 2h, or 2027-01-15T08:00)") from None


def _moment(text: str, now: datetime) -> datetime:
    match = _TIME_OF_DAY.fullmatch(text)
    try:
        if match is None:
            moment = datetime.fromisoformat(text)
            return moment.astimezone() if moment.tzinfo is None else moment
        at = time(int(match[1]), int(match[2]))
        # The local zone is asked anew: tomorrow it may be another hour from UTC.
        today = datetime.combine(now, at).astimezone()
        return today if today > now else datetime.combine(now + timedelta(days=1), at).astimezone()
    except (ValueError, OverflowError, OSError):
        raise ValueError(
            f"{text!r} is not a time (write 18:30, 2026-10-07T18:30, or 2026-10-07T18:30+02:00)"
        ) from None
