"""Prefixes on their way out of every router: of a maintenance, of an address the configuration dropped, of a stop.

First the lease no longer has them; then every plugin reports, prefix by prefix, that ExaBGP has acknowledged the
withdraw; then the routers get time to follow. A plugin that is connected but silent may hang with the route still
announced, and a lost one may announce it until its lease runs out or its watchdog ends it. Until then silence is not an
acknowledgement. Where plugin and ExaBGP stand still together (frozen, paused) no watchdog strikes, and routers keep the
routes for the hold time. And what a router takes nothing of has not reached it, though ExaBGP has acknowledged it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from anycast.core.values.report import Report
from anycast.core.values.route import Prefix

PATIENCE = 6.0  # seconds beyond its lease after which a silent plugin has been ended by its own watchdog


class Phase(StrEnum):
    ASKED = "asked"  # no lease has them any more, but a plugin may still announce them
    GONE = "gone"  # no plugin announces them
    SETTLED = "settled"  # and routers have had time to follow


class Signal(StrEnum):
    ACKNOWLEDGED = "acknowledged"  # the last of the prefixes, by every plugin
    RAN_OUT = "ran_out"  # the last lease that had them, and the patience with silent plugins
    TIME_PASSED = "time_passed"  # the time that routers are given


NEXT: dict[tuple[Phase, Signal], Phase] = {
    (Phase.ASKED, Signal.ACKNOWLEDGED): Phase.GONE,
    (Phase.ASKED, Signal.RAN_OUT): Phase.GONE,
    (Phase.ASKED, Signal.TIME_PASSED): Phase.ASKED,
    (Phase.GONE, Signal.ACKNOWLEDGED): Phase.GONE,
    (Phase.GONE, Signal.RAN_OUT): Phase.GONE,
    (Phase.GONE, Signal.TIME_PASSED): Phase.SETTLED,
    (Phase.SETTLED, Signal.ACKNOWLEDGED): Phase.SETTLED,
    (Phase.SETTLED, Signal.RAN_OUT): Phase.SETTLED,
    (Phase.SETTLED, Signal.TIME_PASSED): Phase.SETTLED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugins:
    """What is known of the plugins: the reports of the connected, and until when a lost one may announce routes."""

    reports: Mapping[int, Report | None] = field(default_factory=dict)
    lost_until: float = float("-inf")
    still_until: float = float("-inf")  # until then routers may have those of an ExaBGP that stands still
    deaf_until: float = float("-inf")  # until then a router that takes nothing may have all that it ever had


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawal:
    """`seq` is of the first lease without the prefixes; from `runs_out` on no lease that had them is good.

    `left` are those that a plugin may still announce. `since`: of the phase.
    """

    left: frozenset[Prefix]
    seq: int
    runs_out: float
    phase: Phase = Phase.ASKED
    since: float = 0.0

    @property
    def gives_up_at(self) -> float:
        """The instant by which the prefixes are gone, whatever plugins report, unless an ExaBGP stands still."""
        return self.runs_out + PATIENCE

    def wakes_at(self, settle: float) -> float | None:
        """The instant at which time alone moves it on; None: it is over."""
        match self.phase:
            case Phase.ASKED:
                return self.gives_up_at
            case Phase.GONE:
                return self.since + settle
            case Phase.SETTLED:
                return None


def followed(withdrawal: Withdrawal, plugins: Plugins, *, settle: float, now: float) -> Withdrawal:
    """The withdrawal as it is at `now`. The same object when nothing changed."""
    if withdrawal.phase is Phase.ASKED:
        left = _left(withdrawal, plugins, now)
        if left != withdrawal.left:
            withdrawal = replace(withdrawal, left=left)
        if now >= max(withdrawal.gives_up_at, plugins.still_until, plugins.deaf_until):
            withdrawal = _moved(withdrawal, Signal.RAN_OUT, now)
        elif not left:
            withdrawal = _moved(withdrawal, Signal.ACKNOWLEDGED, now)
    if withdrawal.phase is Phase.GONE and now >= max(withdrawal.since + settle, plugins.deaf_until):
        withdrawal = _moved(withdrawal, Signal.TIME_PASSED, now)
    return withdrawal


def _moved(withdrawal: Withdrawal, signal: Signal, now: float) -> Withdrawal:
    return replace(withdrawal, phase=NEXT[withdrawal.phase, signal], since=now)


def _left(withdrawal: Withdrawal, plugins: Plugins, now: float) -> frozenset[Prefix]:
    if now < max(plugins.lost_until, plugins.deaf_until):
        return withdrawal.left
    left: frozenset[Prefix] = frozenset()
    for report in plugins.reports.values():
        if report is None or report.seq < withdrawal.seq:
            return withdrawal.left
        left |= withdrawal.left & report.announced
    return left
