"""What services and real servers carry, by the kernel's counters as they are read: totals, rates, and the last minutes.

The kernel's counters begin at zero with each service and real server, and may begin anew at any time. So totals here
are sums of what came on top from one reading to the next: they never go back. A rate is the difference of two totals
over the time between their readings; the kernel's own estimates are not used.

What is kept has a bound: the totals of the readings up to `WINDOW` back, and for pictures `SLOTS` points of `GRAPHS`
services, and of their real servers where those are no more than `FEW`: 0.6 KiB for each that carries anything.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import add, ge, sub
from typing import NamedTuple, TypeAlias

from anycast.core.dataplane.ipvs import COUNTERS, Counters, Destination, DestinationKey, Key, ServiceEntry
from anycast.core.dataplane.kernel import Snapshot
from anycast.core.dataplane.members import service_key
from anycast.core.dataplane.traffic import uncounted
from anycast.core.state import State
from anycast.core.values.configuration import Service, Vip
from anycast.core.values.persistent import changed
from anycast.ops.servers import Row

WINDOW = (
    10.0  # seconds of a rate, once there has been so much: the kernel adds up every two, so less is not exact
)
LEAST = 3.5  # seconds between two readings that make a rate
APART = 2.0  # seconds between two whose totals are kept
STEP = 5.0  # seconds between two points of a picture, at least
SLOTS = 60  # points of a picture
SPAN = STEP * SLOTS  # seconds that a picture shows at most
GRAPHS = 4000  # services whose pictures are kept
FEW = 200  # real servers in services up to which theirs are kept too

_EARLY = 0.5  # seconds by which a reading may be too early for a window or a point
_POINT = 2  # numbers of a point: connections a second, bits a second that came in
_NEVER = float("-inf")


class Rates(NamedTuple):
    """A second. `out` is what came back through this node: with direct routing and tunnels nothing does."""

    connections: float = 0.0
    packets_in: float = 0.0
    packets_out: float = 0.0
    bytes_in: float = 0.0
    bytes_out: float = 0.0


NO_RATES = Rates()
_NO_COUNTERS = Counters()

Place: TypeAlias = tuple[Key, DestinationKey | None]
"""A service, or a real server of it."""


@dataclass(frozen=True, slots=True)
class Total:
    """Of one service, and of its real servers in their order. `raw`: the counters as they were read last."""

    entry: ServiceEntry
    raw: array[int]
    sums: array[int]

    def at(self, server: DestinationKey | None, place: int) -> Counters | None:
        """`place`: where the real server is in all likelihood. None: it is not there."""
        first = 0
        if server is not None:
            found = _found(self.entry.destinations, server, place)
            first = COUNTERS * (1 + found)
            if found < 0 or first >= len(self.sums):
                return None
        return Counters._make(self.sums[first : first + COUNTERS])


def _found(destinations: Sequence[Destination], server: DestinationKey, place: int) -> int:
    if place < len(destinations) and destinations[place].key == server:
        return place
    return next((number for number, one in enumerate(destinations) if one.key == server), -1)


def continued(before: Total | None, entry: ServiceEntry, data: bytes) -> Total:
    """What came on top is added: a counter that went back has begun anew, and all of it came on top.

    `data`: as the kernel was read, service first. Of a real server that was not there before nothing is added, for the
    kernel remembers the counters of one that was removed not long ago. `before` None: all that the service has.
    """
    raw = array("Q", data)
    if len(raw) not in (COUNTERS, COUNTERS * (1 + len(entry.destinations))):
        raw = raw[:COUNTERS]
    if before is None:
        return Total(entry, raw, array("Q", raw))
    old = before if _is_aligned(before, entry, raw) else _aligned(before, entry, raw)
    if all(map(ge, raw, old.raw)):
        return Total(entry, raw, array("Q", map(add, old.sums, map(sub, raw, old.raw))))
    sums = array("Q")
    for first in range(0, len(raw), COUNTERS):
        rows = [one[first : first + COUNTERS] for one in (raw, old.raw, old.sums)]
        base = rows[1] if all(map(ge, rows[0], rows[1])) else array("Q", _NO_COUNTERS)
        sums.extend(map(add, rows[2], map(sub, rows[0], base)))
    return Total(entry, raw, sums)


def begun(entry: ServiceEntry, data: bytes) -> Total:
    """By the first reading there is: what was counted before it is not known to be ours."""
    found = continued(None, entry, data)
    return Total(entry, found.raw, array("Q", bytes(found.raw.itemsize * len(found.raw))))


def _is_aligned(before: Total, entry: ServiceEntry, raw: array[int]) -> bool:
    if len(before.raw) != len(raw):
        return False
    old, new = before.entry.destinations, entry.destinations
    return old is new or [one.key for one in old] == [one.key for one in new]


def _aligned(before: Total, entry: ServiceEntry, raw: array[int]) -> Total:
    """As if it had had these real servers."""
    known = {one.key: COUNTERS * place for place, one in enumerate(before.entry.destinations, 1)}
    then, sums = before.raw[:COUNTERS], before.sums[:COUNTERS]
    for place, first in enumerate(range(COUNTERS, len(raw), COUNTERS)):
        at = known.get(entry.destinations[place].key)
        if at is None or at >= len(before.raw):
            then.extend(raw[first : first + COUNTERS])
            sums.extend(_NO_COUNTERS)
        else:
            then.extend(before.raw[at : at + COUNTERS])
            sums.extend(before.sums[at : at + COUNTERS])
    return Total(entry, then, sums)


class _Sample(NamedTuple):
    """The totals at the instant of a reading. What has not changed is the same object as in the one before."""

    at: float
    totals: Mapping[Key, Total]


@dataclass(frozen=True, slots=True)
class Graph:
    """The last minutes, the oldest first. `ages`: seconds before the newest reading."""

    ages: tuple[float, ...]
    connections: tuple[float, ...]
    bits_in: tuple[float, ...]


@dataclass(slots=True)
class _Kept:
    """All that is known while the kernel counts."""

    snapshot: Snapshot | None = None
    newest: _Sample = _Sample(_NEVER, {})
    bases: deque[_Sample] = field(default_factory=deque)
    rates: dict[Place, Rates | None] = field(
        default_factory=dict
    )  # of the newest reading, as they are asked for
    slots: deque[float] = field(default_factory=lambda: deque(maxlen=SLOTS))  # instants of points
    graphs: dict[Place, array[float]] = field(default_factory=dict)  # points


class Traffic:
    """Takes in state after state. `counted`: whether the kernel counts; where it does not, nothing is known."""

    def __init__(self) -> None:
        self.counted = True
        self._kept = _Kept()
        self._good_until = _NEVER

    def take(self, state: State) -> None:
        """A state with the same reading of the kernel as the one before costs nothing."""
        kept, kernel = self._kept, state.kernel
        snapshot, at = kernel.snapshot, kernel.read_at
        self._good_until = kernel.good_until if kernel.error is None else _NEVER
        if snapshot is None or at <= kept.newest.at:
            return
        self.counted = uncounted(snapshot.sysctls) is None
        if not self.counted:
            self._kept = _Kept(newest=_Sample(at, {}))
            return
        kept.newest = _Sample(at, dict(_totals(kept, snapshot)))
        kept.snapshot = snapshot
        kept.rates = {}
        if not kept.bases or at >= kept.bases[-1].at + APART:
            kept.bases.append(kept.newest)
        while len(kept.bases) > 1 and kept.bases[1].at <= at - WINDOW + _EARLY:
            kept.bases.popleft()
        if not kept.slots or at >= kept.slots[-1] + STEP - _EARLY:
            self._draw(at)

    @property
    def drawn(self) -> float:
        """The instant of the newest point of pictures."""
        return self._kept.slots[-1] if self._kept.slots else _NEVER

    def window(self) -> float | None:
        """Seconds over which the rates are; None: there are none yet."""
        kept = self._kept
        seconds = kept.newest.at - kept.bases[0].at if kept.bases else 0.0
        return seconds if seconds >= LEAST else None

    def rates(
        self, keys: Iterable[Key], now: float, server: DestinationKey | None = None, place: int = 0
    ) -> Rates | None:
        """Of these services together, or of this real server behind them. None: not known."""
        if now > self._good_until or self.window() is None:
            return None
        return _summed(self._rates(key, server, place) for key in keys)

    def of_server(self, row: Row, now: float) -> Rates | None:
        return self.rates(row.services, now, (row.address, row.port), row.place)

    def moving(self) -> Iterator[Key]:
        """The services that have carried anything within the window."""
        kept = self._kept
        base = kept.bases[0].totals if kept.bases else {}
        return (key for key, total in kept.newest.totals.items() if total is not base.get(key))

    def totals(self, keys: Iterable[Key], server: DestinationKey | None = None, place: int = 0) -> Counters:
        """Since this process has followed."""
        totals = self._kept.newest.totals
        found = [totals[key].at(server, place) or _NO_COUNTERS for key in keys if key in totals]
        return Counters._make(map(sum, zip(*found, strict=True))) if found else _NO_COUNTERS

    def total(self, key: Key) -> Total | None:
        """The same object as before where nothing was carried since. None: nothing ever was."""
        return self._kept.newest.totals.get(key)

    def graph(self, keys: Iterable[Key], server: DestinationKey | None = None) -> Graph | None:
        """None: nothing was carried, or none is kept."""
        kept = self._kept
        found = [one for key in keys if (one := kept.graphs.get((key, server))) is not None]
        if not found:
            return None
        many = len(kept.slots)
        each = [[0.0] * (_POINT * many - len(one)) + list(one) for one in found]
        points = [sum(one) for one in zip(*each, strict=True)]
        ages = tuple(kept.newest.at - at for at in kept.slots)
        return Graph(ages, tuple(points[::_POINT]), tuple(points[1::_POINT]))

    def graph_of_server(self, row: Row) -> Graph | None:
        return self.graph(row.services, (row.address, row.port))

    def _rates(self, key: Key, server: DestinationKey | None, place: int) -> Rates | None:
        known = self._kept.rates
        if (key, server) not in known:
            known[key, server] = self._worked_out(key, server, place)
        return known[key, server]

    def _worked_out(self, key: Key, server: DestinationKey | None, place: int) -> Rates | None:
        kept = self._kept
        base, total = kept.bases[0].totals.get(key), kept.newest.totals.get(key)
        if total is None:
            return NO_RATES if kept.snapshot is not None and key in kept.snapshot.table else None
        if total is base:
            return NO_RATES
        now = total.at(server, place)
        if now is None:
            return None
        then = _NO_COUNTERS if base is None else base.at(server, place) or _NO_COUNTERS
        if any(map(sub, then, map(min, then, now))):
            then = _NO_COUNTERS  # it went and came again, and its totals began anew
        seconds = kept.newest.at - kept.bases[0].at
        return Rates._make((one - other) / seconds for one, other in zip(now, then, strict=True))

    def _draw(self, at: float) -> None:
        """A point for every picture."""
        if self.window() is None:
            return
        kept = self._kept
        while kept.slots and kept.slots[0] <= at - SPAN:
            kept.slots.popleft()
        kept.slots.append(at)
        fresh: dict[Place, array[float]] = {}
        for key, server, place in self._places():
            rates = self._rates(key, server, place) or NO_RATES
            points = kept.graphs.get((key, server))
            if points is None:
                if not any(rates) or len(fresh) >= GRAPHS:
                    continue
                points = array("f")
            points.extend((rates.connections, 8 * rates.bytes_in))
            del points[: max(0, len(points) - _POINT * len(kept.slots))]
            if any(points):
                fresh[key, server] = points
        kept.graphs = fresh

    def _places(self) -> Iterator[tuple[Key, DestinationKey | None, int]]:
        totals = self._kept.newest.totals
        yield from ((key, None, 0) for key in totals)
        if sum(len(one.entry.destinations) for one in totals.values()) <= FEW:
            for key, total in totals.items():
                yield from ((key, one.key, place) for place, one in enumerate(total.entry.destinations))


def _totals(kept: _Kept, snapshot: Snapshot) -> Iterator[tuple[Key, Total]]:
    """With the new counters: only of services whose bytes are others is anything worked out."""
    old = kept.snapshot
    known = kept.newest.totals
    fresh = dict.fromkeys(changed({} if old is None else old.traffic, snapshot.traffic))
    for key in (*known, *(key for key in fresh if key not in known)):
        entry, before = snapshot.table.get(key), known.get(key)
        if entry is None:
            continue
        if before is not None and key not in fresh and before.entry is entry:
            yield key, before
            continue
        data = snapshot.traffic.get(key) or bytes(8 * COUNTERS * (1 + len(entry.destinations)))
        yield key, begun(entry, data) if old is None else continued(before, entry, data)


def _summed(rates: Iterable[Rates | None]) -> Rates | None:
    """Of those that are known."""
    known = [one for one in rates if one is not None]
    if len(known) < 2:
        return known[0] if known else None
    return Rates._make(map(sum, zip(*known, strict=True)))


def keys_of(vip: Vip, service: Service, version: int | None = None) -> tuple[Key, ...]:
    """The services of the kernel that are this one: behind each address, or one mark for all of a family.

    `version`: of this family alone.
    """
    each = (one for one in vip.addresses if version is None or one.version == version)
    return tuple(dict.fromkeys(service_key(address, service) for address in each))
