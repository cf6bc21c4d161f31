"""What a hook gets. No clock and no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from anycast.core.hooks import VERDICT

VERSION = 1  # of the payload: anycast/notify/payload.schema.json


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


def payload(notice: Notice, *, hook: str, node: str, test: bool = False) -> dict[str, Any]:
    """What a hook gets, as JSON: anycast/notify/payload.schema.json."""
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
