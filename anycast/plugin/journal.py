"""The journal: the routes that may be announced, in a file, for the next plugin.

A route is announced only after the journal holds it, so that the next plugin can withdraw it exactly. The file is an
object with all of them, and behind it a line for each that came since; now and then it is written anew. Each has a
checksum.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass

from anycast.core.values.route import Route
from anycast.lease import route_body, route_of
from anycast.plugin import codec
from anycast.plugin.prefixes import Entry, Prefixes, route_order
from anycast.sealed import opened, sealed

RETRY = 5.0  # seconds
_AT_ONCE = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY  # a pipe in its place keeps nobody waiting
_KEYS = ("prefix", "next_hop", "med", "communities", "large_communities")
STALE = 8  # it is written anew once it has one route too many for each so many it needs


@dataclass(frozen=True, slots=True)
class Writing:
    """What is to be written: behind what the file holds, or as the `whole` of it."""

    routes: tuple[Route, ...]
    whole: bool


class Journal:
    """What the file holds, and what it should. Pure."""

    def __init__(self, routes: Iterable[Route], now: float) -> None:
        self._recorded = set(routes)
        self.error: str | None = None  # why it cannot be written
        self._not_before = now
        self._whole = True  # what this life finds may be missing, damaged, or of another release

    def due(self, prefixes: Prefixes, now: float) -> Writing | None:
        """What is missing in it, or too much; None: leave it."""
        if now < self._not_before:
            return None
        missing = dict.fromkeys(route for route in prefixes.fresh if route not in self._recorded)
        prefixes.fresh.clear()
        if self.error is not None or (missing and self._whole):
            return self.whole(prefixes)
        if missing:
            return Writing(tuple(missing), whole=False)
        return self.whole(prefixes) if self._is_stale(prefixes) else None

    def _is_stale(self, prefixes: Prefixes) -> bool:
        """Once there is nothing else to do: it has too much that is not announced, or what is not ours."""
        if not prefixes.settled:
            return False
        return prefixes.forgot or len(self._recorded) - prefixes.wants > prefixes.wants // STALE

    def whole(self, prefixes: Prefixes) -> Writing:
        prefixes.forgot = False
        routes = {held for entry in prefixes for held in entry.held}
        routes |= {entry.want for entry in prefixes if entry.want is not None and not entry.barred}
        return Writing(tuple(sorted(routes, key=route_order)), whole=True)

    def stored(self, writing: Writing) -> None:
        if writing.whole:
            self._recorded.clear()
        self._recorded.update(writing.routes)
        self.error, self._whole = None, False

    def failed(self, why: str, now: float) -> None:
        self.error, self._not_before = why, now + RETRY

    def holds(self, entry: Entry) -> bool:
        return entry.want in self._recorded


def load(path: str) -> tuple[Route, ...]:
    """What the file holds. Raises OSError, and ValueError where it is damaged."""
    with open(os.open(path, os.O_RDONLY | _AT_ONCE), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError(f"{path}: it is not a file")
        first, *lines = file.read().splitlines(keepends=True) or [b""]
    routes = opened(first, ("routes",)).get("routes")
    if not isinstance(routes, list):
        raise ValueError(f"{path}: expected an object with an array `routes`")  # noqa: TRY004
    # A line without an end was not written whole, so its route was not announced. Behind a brace comes its end alone.
    if lines and not lines[-1].endswith(b"\n") and b"}" in lines[-1][:-1]:
        raise ValueError(f"{path}: its last line is damaged")
    added = [opened(line, _KEYS) for line in lines if line.endswith(b"\n") and line.strip()]
    loaded = tuple(dict.fromkeys(route_of(item) for item in (*routes, *added)))
    for route in loaded:
        codec.check(route)
    return loaded


def store(path: str, writing: Writing) -> None:
    """Replace the file whole, or add to it. A reboot takes the announcements with it, so no fsync.

    Raises OSError, which is FileNotFoundError where there is no file to add to.
    """
    if not writing.whole:
        lines = "".join(sealed(json.dumps(route_body(route)) + "\n") for route in writing.routes)
        with open(os.open(path, os.O_RDWR | _AT_ONCE), "r+b", buffering=0) as file:
            file.seek(0, os.SEEK_END)
            if file.write(lines.encode()) != len(lines):
                raise OSError(f"{path}: written in part")
        return
    data = sealed(json.dumps({"routes": [route_body(route) for route in writing.routes]}) + "\n")
    new = f"{path}.new"
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    try:
        beside = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _AT_ONCE, 0o666)
        with open(beside, "w", encoding="utf-8") as file:
            file.write(data)
        os.replace(new, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise
