"""The rows that need the core alone: both builds' drivers run side by side and do each work in turns."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab.measuring import say
from lab.scale.bench import Bench
from lab.scale.builds import Build
from lab.scale.figures import Figure, Goal, Point
from lab.scale.sites import Node, Size, site

EACH = 5
SLOPE = (1, 10, 100, 1000)  # VIPs
WORKS = {
    "outcome": "a check fails",
    "tick": "a tick with nothing due",
    "reading": "the kernel is read, nothing to do",
    "burst": "a check of every VIP fails, in one event",
    "reload": "a reload adds one real server",
}
ROUNDS = 5
_NODE = Node("/run/anycast")


class Driver:
    def __init__(self, build: Build, *files: Path) -> None:
        self.build = build
        argv = build.program("core_driver.py", *map(str, files))
        self._process = subprocess.Popen(
            argv, env=build.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def answer(self) -> dict[str, Any]:
        """Raises RuntimeError: the driver has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the driver of the {self.build.name} build has ended: see above")
        found = json.loads(line)
        assert isinstance(found, dict)
        return found

    def do(self, work: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(work + "\n")
        self._process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def drivers(bench: Bench, size: Size, *, reload: bool) -> Iterator[list[Driver]]:
    """Of both builds, ready: everything is announced. `reload`: they can do that too."""
    folder = bench.folder("core")
    folder.mkdir()
    files = [folder / f"{further}.yaml" for further in range(1 + reload)]
    for further, file in enumerate(files):
        file.write_text(site(size, _NODE, further=further))
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(contextlib.closing(Driver(build, *files))) for build in bench.builds]
        for driver in found:
            driver.answer()
        yield found


def slopes(bench: Bench) -> list[Figure]:
    """Every work at sizes from 1 to 1,000 VIPs, for the picture too; figures are those of the largest."""
    sizes = SLOPE[:3] if bench.quick else SLOPE
    rounds = 3 if bench.quick else bench.rounds(ROUNDS)
    figures: list[Figure] = []
    for vips in sizes:
        size = Size(vips, EACH)
        found: dict[str, dict[str, list[float]]] = {work: {} for work in WORKS}
        with drivers(bench, size, reload=True) as running:
            for work in WORKS:
                for _ in range(rounds):
                    for driver in running:
                        took = driver.do(work)["cpu"]
                        found[work].setdefault(driver.build.name, []).append(took)
        for work, costs in found.items():
            for build, values in costs.items():
                cost = sorted(values)[len(values) // 2]
                bench.points.append(Point(work=WORKS[work], build=build, vips=vips, cost=cost))
        say(f"core, {size}: done")
        if vips == sizes[-1]:
            figures = _figures(bench, size, found)
    return figures


def _figures(bench: Bench, size: Size, found: dict[str, dict[str, list[float]]]) -> list[Figure]:
    goals = {"outcome": Goal(ratio=0.001), "tick": Goal(ratio=0.01)}
    figures = []
    for work, costs in found.items():
        row = {"outcome": "outcome", "tick": "tick"}.get(work, "core")
        thousands = {build: [value * 1e3 for value in values] for build, values in costs.items()}
        goal = goals.get(work)
        figures += bench.figure(row, f"the core: {WORKS[work]}, {size}", "ms", thousands, goal)
    return figures


def sizes(bench: Bench) -> list[Figure]:
    """One failing outcome where there are a hundred times as many VIPs: each build against itself."""
    small, large = Size(10, 50), bench.size(Size(1000, 50), Size(100, 50))
    medians: dict[Size, dict[str, list[float]]] = {}
    for size in (small, large):
        costs: dict[str, list[float]] = {}
        with drivers(bench, size, reload=False) as running:
            for _ in range(3 if bench.quick else bench.rounds(ROUNDS)):
                for driver in running:
                    costs.setdefault(driver.build.name, []).append(driver.do("outcome")["cpu"])
        medians[size] = {build: [sorted(values)[len(values) // 2]] for build, values in costs.items()}
        say(f"outcome, {size}: done")
    found = {build: [medians[large][build][0] / medians[small][build][0]] for build in medians[large]}
    work = f"the core: a check fails, {large} against {small}"
    return bench.figure("outcome-size", work, "times", found, Goal(most=1.5))


def loading(bench: Bench) -> list[Figure]:
    """From the text of a configuration until it is valid, in a process that has read none before."""
    size = bench.size(Size(1000, 50), Size(100, 5))
    folder = bench.folder("load")
    folder.mkdir()
    config = folder / "site.yaml"
    config.write_text(site(size, _NODE))
    found: dict[str, list[float]] = {}
    for build in bench.turns(3):
        argv = build.program("core_driver.py", str(config), "load")
        done = subprocess.run(argv, env=build.environment(), capture_output=True, text=True, check=True)
        found.setdefault(build.name, []).append(json.loads(done.stdout)["load"])
        say(f"load, {size}, {build.name}: {found[build.name][-1]:.2f} s")
    work = f"a configuration of {size.servers:,} servers, from text to valid"
    return bench.figure("load", work, "CPU s", found, Goal(ratio=0.3))
