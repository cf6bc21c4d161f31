"""What travels between agent and plugin besides a whole lease and a whole report, and how differences are put together.

Differences stand on what the same connection carried before. A lease is proven by its digest, a report by the numbers
of prefixes it has: what does not fit is never guessed at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import TypeAlias

from anycast.core.values.lease import Lease, check_terms
from anycast.core.values.report import FailedRoute, Report
from anycast.core.values.route import Mark, Prefix, Route
from anycast.core.values.sight import ViewChange

PIECE = 500  # prefixes that one message about a report names at most: it is read within milliseconds


class ProtocolError(ValueError):
    """The other end broke the protocol: close this connection, its bytes mean nothing any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseChange:
    """A lease as the difference to the one with the number `base`. `digest` is of the full set with it."""

    seq: int
    issued: float
    ttl: float
    base: int
    digest: int
    changed: tuple[Route, ...] = ()
    gone: tuple[Prefix, ...] = ()
    owned: tuple[Prefix, ...] = ()  # prefixes that are owned now
    disowned: tuple[Prefix, ...] = ()  # and no more
    mark: Mark | None = None

    def __post_init__(self) -> None:
        check_terms(self.seq, self.issued, self.ttl)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportChange:
    """A report as the difference to the one before; the first of a connection differs from an empty one.

    `rest` has everything but prefixes. `counts`: how many prefixes are announced, pending and failed with it.
    """

    rest: Report
    announced: tuple[Prefix, ...] = ()
    not_announced: tuple[Prefix, ...] = ()
    pending: tuple[Prefix, ...] = ()
    not_pending: tuple[Prefix, ...] = ()
    failed: tuple[FailedRoute, ...] = ()
    not_failed: tuple[Prefix, ...] = ()
    counts: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Hello:
    """The agent's first word: it understands differences of reports."""


@dataclass(frozen=True, slots=True)
class Ask:
    """The plugin's: it understands differences of leases, and needs the full set first."""


Message: TypeAlias = Lease | LeaseChange | Report | ReportChange | ViewChange | Hello | Ask

NO_REPORT = Report(seq=0)


def change_of(lease: Lease, owned_before: frozenset[Prefix]) -> LeaseChange:
    """A lease with a base as its difference. Costs the difference while `owned` is the same object."""
    assert lease.base is not None  # noqa: S101 - the caller has looked
    same = lease.owned is owned_before
    return LeaseChange(
        seq=lease.seq,
        issued=lease.issued,
        ttl=lease.ttl,
        base=lease.base,
        digest=lease.digest,
        changed=lease.changed,
        gone=lease.gone,
        owned=() if same else tuple(lease.owned - owned_before),
        disowned=() if same else tuple(owned_before - lease.owned),
        mark=lease.mark,
    )


def changes_of(old: Report, new: Report) -> Iterator[ReportChange]:
    """From one report to the next, in pieces. `new.touched` has all that differs; None: nobody knows.

    What an unfinished sequence leaves at the other end is true: it still names the older lease.
    """
    touched = tuple(_touched(old, new) if new.touched is None else new.touched)
    counts = [len(old.announced), len(old.pending), len(old.failed)]
    same = new.failed is old.failed
    before = {} if same else {each.prefix: each for each in old.failed}
    after = {} if same else {each.prefix: each for each in new.failed}
    for start in range(0, max(1, len(touched)), PIECE):
        batch = touched[start : start + PIECE]
        announced, not_announced = _moved(batch, old.announced, new.announced)
        pending, not_pending = _moved(batch, old.pending, new.pending)
        failed = tuple(after[p] for p in batch if p in after and after[p] != before.get(p))
        not_failed = tuple(p for p in batch if p in before and p not in after)
        counts[0] += len(announced) - len(not_announced)
        counts[1] += len(pending) - len(not_pending)
        counts[2] += sum(each.prefix not in before for each in failed) - len(not_failed)
        is_last = start + PIECE >= len(touched)
        yield ReportChange(
            rest=_rest(new, seq=new.seq if is_last else old.seq),
            announced=announced,
            not_announced=not_announced,
            pending=pending,
            not_pending=not_pending,
            failed=failed,
            not_failed=not_failed,
            counts=(counts[0], counts[1], counts[2]),
        )


def _touched(old: Report, new: Report) -> frozenset[Prefix]:
    failed = (each.prefix for each in (*old.failed, *new.failed))
    return frozenset(failed).union(old.announced, old.pending, new.announced, new.pending)


def _moved(
    batch: tuple[Prefix, ...], old: frozenset[Prefix], new: frozenset[Prefix]
) -> tuple[tuple[Prefix, ...], tuple[Prefix, ...]]:
    if old is new:
        return (), ()
    came = tuple(prefix for prefix in batch if prefix in new and prefix not in old)
    return came, tuple(prefix for prefix in batch if prefix in old and prefix not in new)


def _rest(report: Report, *, seq: int) -> Report:
    return replace(report, seq=seq, announced=frozenset(), pending=frozenset(), failed=(), touched=None)


def report_after(old: Report, change: ReportChange) -> Report:
    """The report that `change` makes of the one before. Raises ProtocolError where they do not fit."""
    failed = old.failed
    if change.failed or change.not_failed:
        known = {each.prefix: each for each in failed}
        for prefix in change.not_failed:
            known.pop(prefix, None)
        known.update((each.prefix, each) for each in change.failed)
        failed = tuple(known.values())
    new = replace(
        change.rest,
        announced=_after(old.announced, change.announced, change.not_announced),
        pending=_after(old.pending, change.pending, change.not_pending),
        failed=failed,
        touched=frozenset(_named(change)),
        neighbors=old.neighbors if change.rest.neighbors == old.neighbors else change.rest.neighbors,
    )
    if (len(new.announced), len(new.pending), len(new.failed)) != change.counts:
        raise ProtocolError("lease protocol: a report does not fit the one before")
    return new


def _after(old: frozenset[Prefix], more: tuple[Prefix, ...], less: tuple[Prefix, ...]) -> frozenset[Prefix]:
    return old.difference(less).union(more) if more or less else old


def _named(change: ReportChange) -> Iterator[Prefix]:
    failed = (each.prefix for each in change.failed)
    return chain(
        change.announced,
        change.not_announced,
        change.pending,
        change.not_pending,
        failed,
        change.not_failed,
    )


def told_together(first: Report, second: Report) -> Report:
    """The second, as if the first had not been there in between."""
    if first.touched is None or second.touched is None:
        return replace(second, touched=None)
    return replace(second, touched=first.touched | second.touched)
