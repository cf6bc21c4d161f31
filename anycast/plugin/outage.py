"""Why a session is down: the first reason that says something stays, whatever the tries after it end with. Pure."""

from __future__ import annotations

_TOLD = ("notification received", "notification sent")
_SINCE = "; later "


def reason(known: str, new: str) -> str:
    """The reason for an outage that had the reason `known`, after a try that ended with `new`.

    What says nothing, such as `closing connection`, stays until something else comes. What says something stays until the
    session is up; where a later try is refused for another reason, that stands behind it.
    """
    if not new or new == known:
        return known
    if not _says_something(known):
        return new if _says_something(new) or not known else known
    first, _, later = known.partition(_SINCE)
    if not _says_something(new) or first.startswith(new) or new == later:
        return known
    return f"{first}{_SINCE}{new}"


def _says_something(text: str) -> bool:
    return any(word in text for word in _TOLD)
