"""What this node carries: each VIP by the counters of IPVS, the node by those of its interfaces. The latter are read here.

Both count what comes in. With NAT the answers of real servers come in too; otherwise they do not pass this node.
"""

from __future__ import annotations

import math
import struct
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import nlargest
from pathlib import Path
from typing import NamedTuple

from anycast.core.dataplane.ipvs import Key
from anycast.core.dataplane.kernel import Snapshot
from anycast.core.fleet.values import Load
from anycast.core.state import State
from anycast.core.values.configuration import Config, Vip
from anycast.core.vip.decide import Advertise
from anycast.ops.traffic import APART, LEAST, NO_RATES, WINDOW, Rates, Traffic

NAMED = 50  # VIPs that tell what each of them carries; of the others the sum is told
STALE = 30.0  # seconds after which a reading of the interfaces says nothing of now

_ETHERNET = "1"  # of `type` in sysfs


class Received(NamedTuple):
    """By an interface since it came up."""

    bytes: int
    packets: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What is carried now. None: not known. `vips`: those that carry the most; `rest`: of all others together."""

    node: Load | None = None
    vips: Mapping[str, Load] = field(default_factory=dict)
    rest: Load | None = None


class _Sample(NamedTuple):
    at: float
    received: Mapping[str, Received]


class Interfaces:
    """What comes in from the network, by readings that are `APART` at least."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._samples: deque[_Sample] = deque()
        self._names: tuple[str, ...] = ()
        self._counted: frozenset[str] = frozenset()

    def take(self, now: float) -> None:
        """Reads them, if that was not done just now. What cannot be read is not known then."""
        samples = self._samples
        if samples and now < samples[-1].at + APART:
            return
        try:
            received = self._read()
        except (OSError, ValueError):
            samples.clear()
            return
        samples.append(_Sample(now, received))
        while len(samples) > 1 and samples[1].at <= now - WINDOW:
            samples.popleft()

    @property
    def newest(self) -> float:
        """The instant of the last reading."""
        return self._samples[-1].at if self._samples else -math.inf

    def rates(self, now: float) -> tuple[float, float] | None:
        """Packets and bits a second that came in. None: not known."""
        if not self._samples or now > self._samples[-1].at + STALE:
            return None
        base, newest = self._samples[0], self._samples[-1]
        seconds = newest.at - base.at
        if seconds < LEAST or not newest.received:
            return None
        came = [_between(base.received.get(name), one) for name, one in newest.received.items()]
        return sum(one.packets for one in came) / seconds, 8 * sum(one.bytes for one in came) / seconds

    def _read(self) -> dict[str, Received]:
        found = dict(received((self._root / "proc/net/dev").read_text("ascii")))
        if (names := tuple(found)) != self._names:
            self._names, self._counted = names, self._from_network(names)
        return {name: one for name, one in found.items() if name in self._counted}

    def _from_network(self, names: Iterable[str]) -> frozenset[str]:
        """Devices; where there is none (a container), Ethernet that is made of nothing else. A packet is counted once."""
        places = {name: self._root / "sys/class/net" / name for name in names}
        devices = frozenset(name for name, place in places.items() if (place / "device").exists())
        return devices or frozenset(name for name, place in places.items() if _is_at_the_bottom(place))


def _is_at_the_bottom(place: Path) -> bool:
    if not place.exists():  # /sys is of another network namespace
        return place.name != "lo"
    try:
        ethernet = (place / "type").read_text("ascii").strip() == _ETHERNET
    except OSError:
        return False
    made = any((place / one).exists() for one in ("bridge", "bonding")) or any(place.glob("lower_*"))
    return ethernet and not made


def received(text: str) -> Iterator[tuple[str, Received]]:
    """From the text of /proc/net/dev. Raises ValueError."""
    for line in text.splitlines()[2:]:
        name, _, numbers = line.rpartition(":")
        each = numbers.split()
        if len(each) < 2:
            raise ValueError(f"/proc/net/dev does not say what {name.strip()!r} received")
        yield name.strip(), Received(int(each[0]), int(each[1]))


def _between(before: Received | None, now: Received) -> Received:
    """A counter that went back has begun anew. Of an interface that was not there before nothing is known yet."""
    if before is None:
        return Received(0, 0)
    if now.bytes < before.bytes or now.packets < before.packets:
        return now
    return Received(now.bytes - before.bytes, now.packets - before.packets)


class Meter:
    """Works it out once for each reading of the kernel: that is when what IPVS counts can be another."""

    def __init__(self, interfaces: Interfaces | None = None) -> None:
        self.interfaces = Interfaces() if interfaces is None else interfaces
        self._of: tuple[Snapshot | None, Config] | None = None
        self._read = (-math.inf, -math.inf)  # the instants of both readings
        self._measured = Measured()

    def read(self, state: State, traffic: Traffic, now: float) -> Measured:
        kernel = state.kernel
        if now > kernel.good_until or kernel.error is not None:
            return Measured()
        same = self._of is not None and self._of[0] is kernel.snapshot and self._of[1] is state.config
        read, known = (kernel.read_at, self.interfaces.newest), self._read
        if not same or read[0] != known[0] or (self._measured.node is None and read != known):
            self._of, self._read = (kernel.snapshot, state.config), read
            self._measured = measured(state, traffic, self.interfaces, now)
        return self._measured


def measured(state: State, traffic: Traffic, interfaces: Interfaces, now: float) -> Measured:
    """By the newest readings of both."""
    kernel = state.kernel
    if (
        traffic.window() is None
        or kernel.snapshot is None
        or kernel.error is not None
        or now > kernel.good_until
    ):
        return Measured()
    each = {
        name: _load(keys, kernel.snapshot, traffic, now)
        for name, keys in _busy(state, kernel.snapshot, traffic).items()
    }
    came = interfaces.rates(now)
    local = [vip.name for vip in state.config.vips if vip.local and _is_announced(state, vip)]
    if local and came is None:
        return Measured()
    if local and came is not None:
        each |= _with_rest(each, local, came)
    most = nlargest(NAMED, each, key=lambda name: (each[name].packets, each[name].connections))
    named = {name: each[name] for name in most}
    whole, rest = (_sum(one) for one in (each.values(), (each[name] for name in each if name not in named)))
    node = None
    if came is not None:
        packets, bits = came
        node = Load(
            packets=packets, bits=bits, new_connections=whole.new_connections, connections=whole.connections
        )
    return Measured(node=node, vips=named, rest=rest)


def _busy(state: State, snapshot: Snapshot, traffic: Traffic) -> dict[str, list[Key]]:
    """The services that carry anything, by VIP: most of a thousand VIPs may carry nothing."""
    services, found = state.index.services, dict[str, list[Key]]()
    held = (key for key, counts in snapshot.connections.items() if counts.strip(b"\0"))
    for key in dict.fromkeys((*traffic.moving(), *held)):
        if (one := services.get(key)) is not None:
            found.setdefault(one.vip, []).append(key)
    return found


def _is_announced(state: State, vip: Vip) -> bool:
    known = state.vips.get(vip.name)
    return known is not None and known.verdict.advertise is not Advertise.NO


def _with_rest(each: Mapping[str, Load], local: Sequence[str], came: tuple[float, float]) -> dict[str, Load]:
    """What this node serves itself IPVS does not count: it is at most all that comes in and is no service of IPVS.

    Several such VIPs have the same part of it.
    """
    whole = _sum(each.values())
    packets, bits = (
        max(0.0, all_of_it - counted) / len(local)
        for all_of_it, counted in zip(came, (whole.packets, whole.bits), strict=True)
    )
    found = {name: each.get(name, Load()) for name in local}
    return {
        name: replace(one, packets=one.packets + packets, bits=one.bits + bits) for name, one in found.items()
    }


def _load(keys: Collection[Key], snapshot: Snapshot, traffic: Traffic, now: float) -> Load:
    """Services that the kernel does not have carry nothing."""
    rates: Rates = traffic.rates(keys, now) or NO_RATES
    return Load(
        packets=rates.packets_in + rates.packets_out,
        bits=8 * (rates.bytes_in + rates.bytes_out),
        new_connections=rates.connections,
        connections=sum(_connections(snapshot.connections.get(key, b"")) for key in keys),
    )


def _connections(counts: bytes) -> int:
    """As `ipvs.packed` has packed them."""
    return sum(struct.unpack(f"<{len(counts) // 4}I", counts))


def _sum(loads: Iterable[Load]) -> Load:
    found = list(loads)
    return Load(
        packets=sum(one.packets for one in found),
        bits=sum(one.bits for one in found),
        new_connections=sum(one.new_connections for one in found),
        connections=sum(one.connections for one in found),
    )
