"""Wall-clock time for people: UTC everywhere, and it says so."""

from __future__ import annotations

from datetime import UTC, datetime


def iso(time: float) -> str | None:
    """Seconds since the epoch as ISO 8601 in UTC, whole seconds; None beyond the calendar."""
    try:
        moment = datetime.fromtimestamp(time, UTC)
    except (OverflowError, ValueError, OSError):
        return None
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
