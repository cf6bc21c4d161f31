"""What became of numbered messages: lost, twice, out of order, and how late. Read out of the collectors' files. No I/O."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from math import ceil

# Of rsyslog: `2026-11-30T14:22:20.391140+00:00 relp m1 log: numbered m1 12 1796048540.386674`; of nginx with seconds.
_LINE = re.compile(r"^(\S+) (\S+) (?:.*? )?numbered (\S+) (\d+) (\d+\.\d+)$")

Window = Mapping[str, tuple[int, int]]  # of each sender: the last number before it, and the last one in it


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message in a collector's file. Seconds since the epoch."""

    protocol: str
    sender: str
    number: int
    sent: float
    received: float
    collector: str

    @property
    def late(self) -> float:
        return self.received - self.sent


def arrival(line: str, collector: str) -> Arrival | None:
    """None: a line of something else."""
    found = _LINE.match(line)
    if found is None:
        return None
    when, protocol, sender, number, sent = found.groups()
    received = datetime.fromisoformat(when).timestamp() if "T" in when else float(when)
    return Arrival(protocol, sender, int(number), float(sent), received, collector)


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """Of the messages of some senders over one protocol. Delays in seconds, of the first arrival of each message.

    `reordered`: messages that came after a later one of their sender.
    """

    sent: int = 0
    lost: int = 0
    twice: int = 0
    reordered: int = 0
    p50: float = 0.0
    p99: float = 0.0
    longest: float = 0.0


class Ledger:
    """Every arrival since the last `forget`."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, str], dict[int, Arrival]] = defaultdict(dict)
        self._again: dict[tuple[str, str], list[int]] = defaultdict(list)
        self.history: list[Arrival] = []

    def add(self, found: Arrival) -> None:
        key = found.protocol, found.sender
        self.history.append(found)
        if found.number not in self._first[key]:
            self._first[key][found.number] = found
            return
        self._again[key].append(found.number)
        # Files are read one after the other: what is read first need not have come first.
        if found.received < self._first[key][found.number].received:
            self._first[key][found.number] = found

    def missing(self, protocols: Mapping[str, Iterable[str]], window: Window) -> int:
        """Of what the senders of each protocol have sent in the window."""
        return sum(
            number not in self._first[protocol, sender]
            for protocol, senders in protocols.items()
            for sender in senders
            for number in _numbers(window, sender)
        )

    def count(self, protocol: str, senders: Iterable[str], window: Window) -> Count:
        sent = lost = twice = reordered = 0
        delays: list[float] = []
        for sender in senders:
            numbers = _numbers(window, sender)
            first = self._first[protocol, sender]
            there = [first[number] for number in numbers if number in first]
            sent += len(numbers)
            lost += len(numbers) - len(there)
            twice += sum(number in numbers for number in self._again[protocol, sender])
            delays += [found.late for found in there]
            reordered += _reordered(there)
        delays.sort()
        return Count(
            sent=sent,
            lost=lost,
            twice=twice,
            reordered=reordered,
            p50=_at(delays, 0.5),
            p99=_at(delays, 0.99),
            longest=_at(delays, 1.0),
        )

    def forget(self, window: Window) -> None:
        """What is no later than the end of the window."""
        for key, first in self._first.items():
            end = window.get(key[1], (0, 0))[1]
            self._first[key] = {number: found for number, found in first.items() if number > end}
            self._again[key] = [number for number in self._again[key] if number > end]


def _numbers(window: Window, sender: str) -> range:
    before, last = window.get(sender, (0, 0))
    return range(before + 1, last + 1)


def _reordered(there: Iterable[Arrival]) -> int:
    highest = count = 0
    for found in sorted(there, key=lambda one: (one.received, one.number)):
        count += found.number < highest
        highest = max(highest, found.number)
    return count


def _at(values: list[float], share: float) -> float:
    """Of sorted values, by nearest rank; 0 where there are none."""
    return round(values[max(0, ceil(share * len(values)) - 1)], 4) if values else 0.0
