"""How much each balancer takes in, several times a second, and how busy the lab's processor is."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from lab.kernel_view import Counter

PERIOD = 0.25  # seconds


@dataclass(frozen=True, slots=True)
class Sample:
    t: float  # CLOCK_MONOTONIC, seconds
    packets: Mapping[str, int]  # per balancer, since it was built
    busy: int  # ticks of the processor
    ticks: int


class Sampler:
    """Reads in a thread of its own. Use as a context manager."""

    def __init__(self, nodes: Sequence[str]) -> None:
        self.history: list[Sample] = []
        self._counters = {node: Counter(node) for node in nodes}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        due = time.monotonic()
        while True:
            self.history.append(self._sample())
            due = max(due + PERIOD, time.monotonic())
            if self._end.wait(due - time.monotonic()):
                return

    def _sample(self) -> Sample:
        packets = {node: counter.read() for node, counter in self._counters.items()}
        ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        idle = ticks[3] + ticks[4]
        return Sample(time.monotonic(), packets, sum(ticks) - idle, sum(ticks))

    def shares(self, since: float) -> dict[str, float]:
        """Part of the packets each balancer has taken in since then."""
        return shares(*self._span(since))

    def busy(self, since: float) -> float:
        """Part of the time since then the processor was busy."""
        first, last = self._span(since)
        return (last.busy - first.busy) / ((last.ticks - first.ticks) or 1)

    def _span(self, since: float) -> tuple[Sample, Sample]:
        first = next((sample for sample in self.history if sample.t >= since), self.history[-1])
        return first, self.history[-1]

    def __enter__(self) -> Self:
        self.history.append(self._sample())
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        for counter in self._counters.values():
            counter.close()


def shares(first: Sample, last: Sample) -> dict[str, float]:
    grown = {node: count - first.packets[node] for node, count in last.packets.items()}
    total = sum(grown.values()) or 1
    return {node: round(count / total, 3) for node, count in grown.items()}


def rates(history: Sequence[Sample], width: float) -> list[tuple[float, dict[str, float]]]:
    """Packets a second per balancer, over spans of at least `width` seconds; each told at its middle."""
    found = []
    first = history[0] if history else None
    for sample in history[1:]:
        assert first is not None
        span = sample.t - first.t
        if span >= width:
            per_second = {node: (n - first.packets[node]) / span for node, n in sample.packets.items()}
            found.append(((sample.t + first.t) / 2, per_second))
            first = sample
    return found
