"""The packets that services receive: from counters to a rate, and to a proof that there are none.

The kernel adds the counters of a service up every two seconds, in a thread that may be starved, or be told not to run
(`net.ipv4.vs.run_estimation`, `est_cpulist`, `est_nice`). Its counts of all services together are in two forms: live,
by processor, and added up by that same thread, first in each of its rounds. So counters are known to include a packet
once a round has begun after the one whose sum has reached what the live count was after it: however late the thread is,
it has come to every service in between.

This is proven for one such thread. A kernel since 6.2 starts more of them where services and real servers are more than
one takes (thousands), and those keep no order with the sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from anycast.core.dataplane.ipvs import Key

WINDOW = 3.0  # seconds between two readings that make a rate
APART = 0.5  # seconds between two that are worth keeping
TICK = 2.0  # seconds in which the kernel's thread, where it is not late, comes to each service once
SPAN = 1.0  # seconds without a packet that are enough, where it is known which packets are counted
_KEPT = WINDOW + 2 * TICK + SPAN  # seconds: a reading is caught up with by then, if the thread runs

RUN_ESTIMATION = "net.ipv4.vs.run_estimation"
EST_CPULIST = "net.ipv4.vs.est_cpulist"  # since 6.2


class Received(NamedTuple):
    """Packets received by all services together since the kernel began to count.

    `live`: as they come. `counted`: as added up by the thread that adds up each service's.
    """

    live: int
    counted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """Packets received by each service so far, as read at the instant `at`. `received` None: could not be read."""

    at: float
    packets: Mapping[Key, int]
    received: Received | None = None
    arrived: Mapping[str, int] = field(default_factory=dict)  # as the snapshot has it


def uncounted(sysctls: Mapping[str, str | None]) -> str | None:
    """Why the kernel counts no packets, in words; None: it counts them."""
    if sysctls.get(RUN_ESTIMATION) == "0":
        return f"{RUN_ESTIMATION} is 0"
    if sysctls.get(EST_CPULIST) == "":
        return f"{EST_CPULIST} names no processor"
    return None


def counted(counts: tuple[Count, ...], new: Count) -> tuple[Count, ...]:
    """The readings with a new one, and without those too old to be needed for a rate."""
    if counts and new.at < counts[-1].at + APART:
        return counts
    old = [count for count in counts if count.at <= new.at - _KEPT]
    return (*old[-1:], *counts[len(old) :], new)


def arrived(counts: tuple[Count, ...], scope: str, *, since: float = float("-inf")) -> float | None:
    """Packets a second for what the node itself serves of this maintenance, by a live count. None: not known (yet)."""
    found = [(one.at, one.arrived[scope]) for one in counts if one.at >= since and scope in one.arrived]
    if not found or scope not in counts[-1].arrived:
        return None
    at, packets = found[-1]
    bases = [(then, before) for then, before in found if then <= at - SPAN]
    if not bases or bases[-1][1] > packets:
        return None
    then, before = bases[-1]
    return (packets - before) / (at - then)


def at_most(counts: tuple[Count, ...], keys: Iterable[Key], *, since: float = float("-inf")) -> float | None:
    """Packets a second that all these services received at most: what is proven, not what is likely.

    Readings before `since` do not count. None: nothing is proven.
    """
    counts = tuple(count for count in counts if count.at >= since)
    if not counts:
        return None
    newest = counts[-1]
    bounds = (_all_together(counts, newest), _caught_up(counts, newest, tuple(keys)))
    return min((bound for bound in bounds if bound is not None), default=None)


def _all_together(counts: tuple[Count, ...], newest: Count) -> float | None:
    """No service receives more than all."""
    bases = [one for one in counts if one.received is not None and one.at <= newest.at - WINDOW]
    if not bases or (base := bases[-1]).received is None or newest.received is None:
        return None
    packets = newest.received.live - base.received.live
    return packets / (newest.at - base.at) if packets >= 0 else None


def _caught_up(counts: tuple[Count, ...], newest: Count, keys: tuple[Key, ...]) -> float | None:
    """By the services' own counters, up to the instant from which on they may lack packets."""
    if newest.received is None:
        return None
    known = [(one.at, one.received) for one in counts if one.received is not None]
    earlier = [received.counted for _, received in known if received.counted < newest.received.counted]
    if not earlier:
        return None
    # The round of that sum is over, for the next one has begun.
    reached = [at for at, received in known if received.live <= max(earlier)]
    if not reached:
        return None
    end = reached[-1]
    bases = [one for one in counts if one.at <= end - SPAN]
    # Packets since `end` are in it too: the more, the shorter the time before. The longest is best where a few trickle in.
    found = [(one.at, _between(one, newest, keys)) for one in (*bases[:1], *bases[1:][-1:])]
    return min((packets / (end - at) for at, packets in found if packets is not None), default=None)


def rate(counts: tuple[Count, ...], keys: Iterable[Key], *, since: float = float("-inf")) -> float | None:
    """Packets a second of all these services, from the last readings that are far enough apart.

    Never more than all services together received: packets of some seconds ago are added to the services' counters
    only now. Readings before `since` do not count. None: the rate is not known yet, or a counter went back.
    """
    counts = tuple(count for count in counts if count.at >= since)
    newest = counts[-1] if counts else None
    bases = [count for count in counts if newest and count.at <= newest.at - WINDOW]
    if newest is None or not bases:
        return None
    total = _between(bases[-1], newest, keys)
    if total is None:
        return None
    mine = total / (newest.at - bases[-1].at)
    everything = _all_together(counts, newest)
    return mine if everything is None else min(mine, everything)


def _between(base: Count, newest: Count, keys: Iterable[Key]) -> int | None:
    """Packets of all these services from one reading to the other. None: a counter went back, or was not there."""
    total = 0
    for key in keys:
        now = newest.packets.get(key)
        if now is None:
            continue  # the kernel no longer serves it
        before = base.packets.get(key)
        if before is None or now < before:
            return None
        total += now - before
    return total
