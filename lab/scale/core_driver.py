"""The core of one build with a kernel in memory, at one size: does what it is asked on its input, answers in JSON.

`PYTHONPATH=ROOT python -P core_driver.py FILE [MORE]`, with two configurations of which the second has one real server
more: for a reload. With `load` in the place of MORE it reads the file and that is all. Runs with the core of commit 3b5e590 and with every later one, so it imports nothing but `anycast` and knows only
`begin`, `step`, events and effects. CPU seconds of the step alone and of ticks that are due at once, without the kernel's part.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

MOST_ROUNDS = 10_000  # of events until all is announced
MOST_TICKS = 1000  # that are due at once


def module(*names: str) -> Any:
    """The first that this build has."""
    for name in names[:-1]:
        try:
            return import_module(name)
        except ModuleNotFoundError:
            continue
    return import_module(names[-1])


steps = module("anycast.core.step")
events = module("anycast.core.events")
kernels = module("anycast.core.dataplane.kernel", "anycast.core.kernel")
ipvs = module("anycast.core.dataplane.ipvs", "anycast.core.ipvs")
health = module("anycast.core.health.phase", "anycast.core.health")

_TOLD_ANEW = "active" in {
    one.name for one in fields(ipvs.Destination)
}  # later readings keep what did not change
_ALL_SYSCTLS = hasattr(events, "SaveOwned")  # a reading has every name that was asked for


class World:
    def __init__(self, config: Any) -> None:
        self.now = 1000.0
        self.config = config
        self.held = kernels.Snapshot(table={}, addresses=frozenset(), sysctls={})
        self.jobs: deque[Any] = deque()
        self.targets: list[Any] = []
        self.routes = -1
        self.state, effects = steps.begin(config, {}, self.now)
        self.perform(effects)
        self.first = self.event(self.outcomes(self.targets, "OK"))
        self.settle()

    def outcomes(self, targets: Iterable[Any], outcome: str) -> Any:
        result = health.Result(outcome=health.Outcome[outcome])
        return events.Probed(results=tuple((target, result) for target in targets))

    def event(self, event: Any) -> float:
        """CPU seconds of the step; what it asks for is put in line."""
        began = time.process_time()
        self.state, effects = steps.step(self.state, event, self.now)
        took = time.process_time() - began
        self.perform(effects)
        return took

    def whole(self, event: Any) -> tuple[float, float]:
        """CPU seconds of the step and of what it leaves for ticks that are due at once; and of the longest of them."""
        took = [self.event(event)]
        while steps.next_wake(self.state, self.now) <= self.now and len(took) < MOST_TICKS:
            took.append(self.event(events.Tick()))
        return sum(took), max(took)

    def perform(self, effects: Iterable[Any]) -> None:
        for effect in effects:
            match type(effect).__name__:
                case "SetTargets":
                    known = dict.fromkeys(self.targets)
                    new = sorted(effect.targets - known.keys(), key=lambda one: (int(one.address), one.port))
                    self.targets = [one for one in known if one in effect.targets] + new
                case "ReadKernel" | "ProgramKernel":
                    self.jobs.append(effect)
                case "SendLease":
                    self.routes = len(getattr(effect, "lease", effect).routes)

    def answer(self, job: Any) -> Any:
        self.held = kernels.play(self.held, getattr(job, "ops", ()))
        told = self.held
        if _TOLD_ANEW:
            table = {key: _told(entry) for key, entry in told.table.items()}
            told = replace(told, table=table)
        if _ALL_SYSCTLS:
            told = replace(told, sysctls={name: told.sysctls.get(name) for name in job.sysctls})
        return events.KernelRead(snapshot=told)

    def follow(self) -> float:
        """Programs and their readings, until nothing more is under way: CPU seconds of the steps."""
        took = 0.0
        while self.jobs:
            self.now += 0.01
            took += self.event(self.answer(self.jobs.popleft()))
        return took

    def wake(self) -> float:
        """The tick that is due next."""
        self.now = max(self.now + 0.001, steps.next_wake(self.state, self.now))
        return self.event(events.Tick())

    def settle(self) -> None:
        for _ in range(MOST_ROUNDS):
            self.follow()
            self.wake()
            if self.routes == len(self.config.vips) and not self.jobs:
                return
        raise RuntimeError(f"only {self.routes} of {len(self.config.vips)} routes are announced")

    # What can be asked for.

    def outcome(self, number: int) -> dict[str, float]:
        """One real server of a VIP fails, and is well again."""
        each = len(self.targets) // len(self.config.vips)
        target = self.targets[number % len(self.config.vips) * each]
        self.now += 0.01
        step, _ = self.whole(self.outcomes([target], "FAIL"))
        after = self.follow()
        self.now += 0.01
        self.event(self.outcomes([target], "OK"))
        self.follow()
        return {"cpu": step, "after": after}

    def tick(self, _: int) -> dict[str, float]:
        """Nothing is due."""
        if self.now + 0.01 > steps.next_wake(self.state, self.now):
            self.wake()
            self.follow()
        self.now += 0.001
        return {"cpu": self.event(events.Tick())}

    def reading(self, _: int) -> dict[str, float]:
        """As the kernel was before."""
        while not self.jobs:
            self.wake()
        self.now += 0.01
        took, longest = self.whole(self.answer(self.jobs.popleft()))
        self.follow()
        return {"cpu": took, "longest": longest}

    def burst(self, _: int) -> dict[str, float]:
        """A real server of each VIP fails, in one event."""
        each = len(self.targets) // len(self.config.vips)
        self.now += 0.01
        took, longest = self.whole(self.outcomes(self.targets[::each], "FAIL"))
        after = self.follow()
        self.now += 0.01
        self.whole(self.outcomes(self.targets[::each], "OK"))
        self.follow()
        return {"cpu": took, "longest": longest, "after": after}

    def reload(self, more: Any) -> dict[str, float]:
        """One real server more, and back again."""
        self.now += 0.01
        took, longest = self.whole(events.Reconfigured(config=more))
        after = self.follow()
        self.now += 0.01
        self.whole(events.Reconfigured(config=self.config))
        self.follow()
        return {"cpu": took, "longest": longest, "after": after}


def _told(entry: Any) -> Any:
    """A record of its own, as what is parsed from netlink is; the kernel keeps the table weight of a server at weight 0 to itself."""
    servers = tuple(
        replace(
            one, address=type(one.address)(int(one.address)), table_weight=one.weight and one.table_weight
        )
        for one in entry.destinations
    )
    return replace(entry, destinations=servers)


def load(path: str) -> tuple[Any, float]:
    """A configuration, and the CPU seconds from its text on."""
    text = Path(path).read_text()
    loads = module("anycast.config.load").loads
    gc.collect()
    began = time.process_time()
    loaded = loads(text, hostname="lb1")
    return loaded.config, time.process_time() - began


def main() -> None:
    path, *more = sys.argv[1:]
    config, took = load(path)
    if more == ["load"]:
        print(json.dumps({"load": took}), flush=True)
        return
    other = load(more[0])[0] if more else None
    world = World(config)
    print(json.dumps({"load": took, "first": world.first}), flush=True)
    for number, line in enumerate(sys.stdin):
        work = line.strip()
        answer = getattr(world, work)(other if work == "reload" else number)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
