"""Traffic for a node in a test: its kernel counts, and is read every five seconds as ever."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from zlib import crc32

from anycast.core import events as ev
from anycast.core.dataplane.ipvs import COUNTED, COUNTERS, Destination, Key
from anycast.core.values.configuration import Forwarding
from anycast.core.values.persistent import PersistentMap
from tests.unit.ops.node import FOREIGN, Node

STEP = 5.0  # seconds between two readings
Load = Callable[[Key, Destination, int], float]
"""New connections a second of a real server of a service, in that step."""


def carry(node: Node, load: Load, *, steps: int = 3) -> None:
    """What the services carry in so many readings: 10 packets and 6,000 bytes for each connection.

    Answers of 40,000 bytes come back where real servers are reached by NAT.
    """
    counters: dict[Key, list[list[int]]] = {
        key: [list(one) for one in COUNTED.iter_unpack(data)] for key, data in node.kernel.traffic.items()
    }
    for step in range(steps):
        for key, entry in node.kernel.table.items():
            rows = counters.setdefault(key, [])
            rows.extend([0] * COUNTERS for _ in range(1 + len(entry.destinations) - len(rows)))
            del rows[1 + len(entry.destinations) :]
            if key == FOREIGN:
                continue
            for row, one in zip(rows[1:], entry.destinations, strict=True):
                new = round(STEP * load(key, one, step))
                back = one.forwarding is Forwarding.NAT
                more = (new, 10 * new, 12 * new * back, 6_000 * new, 40_000 * new * back)
                for each in (rows[0], row):
                    each[:] = [old + came for old, came in zip(each, more, strict=True)]
        packed = {key: b"".join(COUNTED.pack(*row) for row in rows) for key, rows in counters.items()}
        before = node.kernel.traffic
        node.kernel = replace(
            node.kernel,
            traffic=PersistentMap(
                [
                    (key, before[key] if before.get(key) == data else data)
                    for key, data in packed.items()
                    if any(data)
                ]
            ),
        )
        node.send(ev.Tick(), after=STEP)


def steady(rate: float) -> Load:
    """The same of each that has a weight."""
    return lambda _, one, __: rate if one.weight else 0.0


def lively(rate: float) -> Load:
    """About so much, up and down as clients have it."""
    chance = random.Random(7)  # noqa: S311 - the same picture each time

    def load(key: Key, one: Destination, step: int) -> float:
        wave = 1 + 0.35 * math.sin(step / 9 + crc32(str(key).encode()) % 7) + chance.uniform(-0.25, 0.25)
        return rate * wave * (0.6 + int(one.address) % 4 / 5) if one.weight else 0.0

    return load
