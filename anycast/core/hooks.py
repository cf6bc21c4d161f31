"""Hooks: whom a node tells what has happened, what it tells, and in which order. No clock and no I/O.

A notice that has to wait, for a hook may run so often only, takes the place of an older one that is about the same:
so what waits is bounded, and the newest is told in the end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, TypeAlias

VERSION = 1  # of what is told: anycast/notify/payload.schema.json

_ONE = 1 - 1e-9  # a token, give or take what sums of fractions lose

VERDICT = "vip.verdict_changed"

EVENTS: tuple[str, ...] = (
    VERDICT,
    "agent.displaced",
    "agent.start_held",
    "agent.started",
    "agent.stopped",
    "agent.stopping",
    "agent.task_failed",
    "check.down",
    "check.unknown",
    "check.up",
    "check.warned",
    "clock.stepped",
    "config.applied",
    "config.rejected",
    "config.unexpected",
    "config.warned",
    "control.unexpected",
    "events.not_saved",
    "kernel.available",
    "kernel.drifted",
    "kernel.program_failed",
    "kernel.programmed",
    "kernel.unavailable",
    "kernel.unexpected",
    "kernel.watch_failed",
    "maintenance.began",
    "maintenance.damaged",
    "maintenance.ended",
    "maintenance.file_unreadable",
    "maintenance.kept",
    "maintenance.not_saved",
    "maintenance.overdue",
    "maintenance.stage_changed",
    "neighbor.changed",
    "ops.ended",
    "ops.started",
    "plugin.connected",
    "plugin.journal_unavailable",
    "plugin.lost",
    "plugin.refused",
    "plugin.user_unknown",
    "recording.ended",
    "requirement.failed",
    "requirement.met",
    "route.announced",
    "route.refused",
    "route.withdrawn",
    "server.connections_expired",
    "server.down",
    "server.removed",
    "server.up",
    "socket.rebound",
    "socket.unavailable",
    "starts.damaged",
    "starts.not_saved",
)
"""What a hook can be told: docs/log-events.md without what is said of hooks, which would never end, and of the
agent's end by a defect, which they cannot outlive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """Where a secret is found when it is needed: a file, or a variable in the agent's environment."""

    file: str = ""
    variable: str = ""

    def __str__(self) -> str:
        return self.file or f"${self.variable}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A program; it gets the payload on its standard input. Arguments may hold secrets: the program alone is shown."""

    argv: tuple[str, ...] = field(repr=False)

    def __str__(self) -> str:
        return self.argv[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """An HTTP POST. What follows the host in the URL may be a secret, as with most chat services."""

    url: str = field(repr=False)
    host: str  # with the port, where one is written
    token: Secret | None = None  # Authorization: Bearer
    signature: Secret | None = None  # key of the HMAC
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)  # may hold secrets
    ca: str | None = None  # file with the certificates to trust; None: the system's
    retries: int = 4

    def __str__(self) -> str:
        return self.host


Action: TypeAlias = Command | Webhook


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """Runs one after another, each for `timeout` seconds at most, `limit` of them in `per` seconds."""

    name: str
    action: Action
    events: frozenset[str] = frozenset({VERDICT})
    timeout: float = 10.0
    limit: int = 20
    per: float = 60.0


class Ending(StrEnum):
    """Stable words: they stand in metric labels."""

    OK = "ok"
    FAILED = "failed"
    TIMEOUT = "timeout"


@dataclass(slots=True)
class Tally:
    """What became of a hook's runs since the start of the agent."""

    runs: dict[Ending, int] = field(default_factory=lambda: dict.fromkeys(Ending, 0))
    seconds: float = 0.0  # of all runs
    suppressed: int = 0  # a newer one was told in their place
    dropped: int = 0  # never told
    failing: bool = False
    waiting: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """A verdict as it is told."""

    advertise: str
    reason: str
    detail: str = ""

    def body(self) -> dict[str, str]:
        return {"advertise": self.advertise, "reason": self.reason, "detail": self.detail}


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One thing to tell. `time` as text; `before` and `verdict` of a VIP whose verdict changed."""

    id: int
    time: str
    event: str
    level: str
    vip: str = ""
    before: Words | None = None
    verdict: Words | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    suppressed: int = 0  # older ones about the same that it stands for

    @property
    def about(self) -> tuple[str, str]:
        """A newer notice about the same makes this one old."""
        return self.event, self.vip if self.verdict is not None else ""

    def instead_of(self, older: Notice) -> Notice:
        return replace(self, before=older.before, suppressed=self.suppressed + older.suppressed + 1)


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


def payload(notice: Notice, *, hook: str, node: str, test: bool = False) -> dict[str, Any]:
    """What a hook is told, as JSON: anycast/notify/payload.schema.json."""
    told: dict[str, Any] | None = None
    if notice.verdict is not None:
        before = notice.before.body() if notice.before is not None else None
        told = {"from": before, "to": notice.verdict.body(), "since": notice.time}
    return {
        "version": VERSION,
        "hook": hook,
        "node": node,
        "id": notice.id,
        "time": notice.time,
        "event": notice.event,
        "level": notice.level,
        "vip": notice.vip or None,
        "verdict": told,
        "suppressed": notice.suppressed,
        "test": test,
        "fields": dict(notice.fields),
    }


def environment(told: Mapping[str, Any]) -> dict[str, str]:
    """The same for a program that would rather not read JSON. Every name is there, empty where it says nothing."""
    verdict = told["verdict"] or {"from": None, "to": None, "since": ""}
    nothing = {"advertise": "", "reason": "", "detail": ""}
    before, after = verdict["from"] or nothing, verdict["to"] or nothing
    values = {
        "HOOK": told["hook"],
        "NODE": told["node"],
        "ID": told["id"],
        "TIME": told["time"],
        "EVENT": told["event"],
        "LEVEL": told["level"],
        "VIP": told["vip"] or "",
        "ADVERTISE": after["advertise"],
        "REASON": after["reason"],
        "DETAIL": after["detail"],
        "FROM_ADVERTISE": before["advertise"],
        "FROM_REASON": before["reason"],
        "SINCE": verdict["since"],
        "SUPPRESSED": told["suppressed"],
        "TEST": int(told["test"]),
    }
    # The kernel ends a variable at a NUL.
    return {f"ANYCAST_{name}": str(value).replace("\0", "\ufffd") for name, value in values.items()}


SAMPLE = Notice(
    id=1,
    time="2026-01-01T00:00:00.000Z",
    event=VERDICT,
    level="warning",
    vip="web",
    before=Words(advertise="yes", reason="healthy"),
    verdict=Words(
        advertise="no", reason="below_quorum", detail="tcp/80: 0 of 2 usable, 1 needed (this is a test)"
    ),
    fields={"vip": "web", "advertise": "no", "reason": "below_quorum", "detail": "this is a test"},
)
"""What `anycast hook test` tells, with the present time."""
