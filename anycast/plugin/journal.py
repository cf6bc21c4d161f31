"""The journal: the routes that may be announced, in a file, for the next plugin.

A route is announced only after the journal holds it, so that the next plugin can withdraw it exactly.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable

from anycast.core.values.route import Route
from anycast.lease import route_body, route_of
from anycast.plugin import codec
from anycast.plugin.prefixes import Entry, Kind, Prefixes, route_order

RETRY = 5.0  # seconds


class Journal:
    """What the file holds, and what it should. Pure."""

    def __init__(self, routes: Iterable[Route], now: float) -> None:
        self._recorded = frozenset(routes)
        self.error: str | None = None  # why it cannot be written
        self._not_before = now
        self._seen = -1  # the revision of the prefixes for which nothing more need be written

    def due(self, prefixes: Prefixes, now: float) -> tuple[Route, ...] | None:
        """What it should hold, where it does not; None: leave it."""
        if now < self._not_before:
            return None
        waiting = prefixes.waiting(Kind.ANNOUNCE)
        if self.error is not None or any(entry.want not in self._recorded for entry in waiting):
            return _content(prefixes)
        # What is no longer announced leaves it once there is nothing else to do.
        if self._seen == prefixes.revision or waiting or not prefixes.settled:
            return None
        self._seen = prefixes.revision
        content = _content(prefixes)
        return None if self._recorded == frozenset(content) else content

    def stored(self, routes: Iterable[Route]) -> None:
        """It holds exactly these now."""
        self._recorded, self.error = frozenset(routes), None

    def failed(self, why: str, now: float) -> None:
        self.error, self._not_before = why, now + RETRY

    def holds(self, entry: Entry) -> bool:
        return entry.want in self._recorded


def _content(prefixes: Prefixes) -> tuple[Route, ...]:
    routes = {held for entry in prefixes for held in entry.held}
    routes |= {entry.want for entry in prefixes if entry.want is not None and not entry.barred}
    return tuple(sorted(routes, key=route_order))


def load(path: str) -> tuple[Route, ...]:
    """What the file holds. Raises OSError, and ValueError where it is damaged."""
    with open(path, encoding="utf-8") as file:
        value = json.load(file)
    routes = value.get("routes") if isinstance(value, dict) else None
    if not isinstance(routes, list):
        raise ValueError(f"{path}: expected an object with an array `routes`")  # noqa: TRY004
    loaded = tuple(dict.fromkeys(route_of(item) for item in routes))
    for route in loaded:
        codec.withdraw(route)
    return loaded


def store(path: str, routes: Iterable[Route]) -> None:
    """Replace the file whole. Raises OSError. A reboot takes the announcements with it, so no fsync."""
    data = json.dumps({"routes": [route_body(route) for route in routes]}, indent=1) + "\n"
    new = f"{path}.new"
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    try:
        with open(new, "w", encoding="utf-8") as file:
            file.write(data)
        os.replace(new, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise
