"""In which order a hook gets its events. No clock and no I/O.

A notice that has to wait, for a hook may run so often only, takes the place of an older one that is about the same:
so what waits is bounded, and the newest is told in the end.
"""

from __future__ import annotations

import math
from typing import TypeAlias

from anycast.notify.notice import Notice

_ONE = 1 - 1e-9  # a token, give or take what sums of fractions lose

_Key: TypeAlias = tuple[int, str]
"""The event and the VIP: one event can stand for those of several VIPs that were lost."""


class Waiting:
    """What waits for a hook, in the order of events. At most `limit`, and the newest about each thing.

    Runs are counted by a bucket of `limit` tokens that fills up in `per` seconds.
    """

    def __init__(self, limit: int, per: float, now: float) -> None:
        self._limit = limit
        self._per = per
        self._tokens = float(limit)
        self._at = now
        self._notices: dict[_Key, Notice] = {}  # the oldest first
        self._newest: dict[tuple[str, str], _Key] = {}

    def __len__(self) -> int:
        return len(self._notices)

    def set_limit(self, limit: int, per: float, now: float) -> None:
        self._fill(now)
        self._limit, self._per = limit, per
        self._tokens = min(self._tokens, limit)

    def put(self, notice: Notice, now: float) -> int:
        """How many older ones go untold for it: 0 or 1."""
        self._fill(now)
        older = self._newest.get(notice.about)
        replaced = 0
        if len(self._notices) >= int(self._tokens) and older is not None:
            notice = notice.instead_of(self._notices.pop(older))
            replaced = 1
        key = notice.id, notice.vip
        self._notices[key] = notice
        self._newest[notice.about] = key
        return replaced

    def give_back(self, notice: Notice) -> int:
        """It could not be told: it is the next again, or a newer one stands for it. How many go untold: 0 or 1."""
        newer = self._newest.get(notice.about)
        if newer is not None:
            first = next(key for key, one in self._notices.items() if one.about == notice.about)
            self._notices[first] = self._notices[first].instead_of(notice)
            return 1
        key = notice.id, notice.vip
        self._notices = {key: notice, **self._notices}
        self._newest[notice.about] = key
        return 0

    def take(self, now: float, *, hurry: bool = False) -> Notice | None:
        """The oldest, if the hook may run; in a `hurry` it may."""
        self._fill(now)
        if not self._notices or (self._tokens < _ONE and not hurry):
            return None
        self._tokens = max(0.0, self._tokens - 1)
        key = next(iter(self._notices))
        notice = self._notices.pop(key)
        if self._newest[notice.about] == key:
            del self._newest[notice.about]
        return notice

    def due_in(self, now: float) -> float:
        """Seconds until there is one to take; infinite with nothing here."""
        self._fill(now)
        if not self._notices:
            return math.inf
        return max(0.0, (1 - self._tokens) * self._per / self._limit)

    def _fill(self, now: float) -> None:
        self._tokens = min(self._limit, self._tokens + max(0.0, now - self._at) * self._limit / self._per)
        self._at = now
