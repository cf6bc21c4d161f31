"""A story that is played in the lab and writes itself down: what was typed, what was answered, and what clients noticed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from anycast.cli.table import table
from lab.control import Lab, Load
from lab.errors import LabError
from lab.measuring import say
from lab.sampler import Sampler
from lab.topology import RUN
from lab.trial import DEADLINE, INTERVAL, PATIENCE, SETTLED, SPAN

PATH = f"PATH={RUN}/bin:$PATH; "
ASKED = 3 * INTERVAL  # seconds: every connection has asked once more
MOST_LINES = 40  # of an answer that are written down


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What clients noticed of one step. Seconds; `shares`: of the packets, per balancer, once all was quiet."""

    title: str
    connections: int
    broken: int
    errors: Mapping[str, int]
    longest_pause: float
    new: int
    new_failed: int
    shares: Mapping[str, float]

    def words(self) -> str:
        why = (
            f" ({', '.join(f'{count} {kind}' for kind, count in self.errors.items())})" if self.errors else ""
        )
        shares = ", ".join(f"{node} {share:.0%}" for node, share in self.shares.items() if share >= 0.005)
        return (
            f"{self.connections} connections: {self.broken} broken{why}, longest pause {self.longest_pause:.2f} s; "
            f"new ones: {self.new_failed} of {self.new} failed; packets: {shares or 'none'}"
        )


@dataclass(slots=True)
class Story:
    """Use it inside `played`. `lines`: the transcript so far."""

    lab: Lab
    load: Load
    sampler: Sampler
    steps: list[Step] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def write(self, line: str = "") -> None:
        self.lines.append(line)
        print(line, flush=True)

    def note(self, text: str) -> None:
        """What the lab does in the place of an operator, or of systemd."""
        self.write(f"({text})")

    def type(
        self, node: str, command: str, *, most: int = MOST_LINES, quiet: bool = False, fails: bool = False
    ) -> str:
        """Runs a shell command on a node; it and its answer are written down, of `quiet` ones the command alone.

        Raises LabError when it fails, unless `fails`.
        """
        self.write(f"{node}# {command}")
        done = self.lab.exec(node, "sh", "-c", f"{PATH}{command}", check=not fails, timeout=PATIENCE)
        said = (done.stdout + done.stderr).rstrip().splitlines()
        if not quiet:
            for line in said[:most]:
                self.write(line.rstrip())
            if len(said) > most:
                self.write(f"[{len(said) - most} more lines]")
        return done.stdout

    def router(self, command: str, *, shown: bool = True) -> str:
        """What is typed into the router's FRR, lines with `;` between; the answer is written down."""
        said = self.lab.vtysh(*command.split("; "))
        self.write(f"r1# {command}")
        for line in said.strip().splitlines() if shown else ():
            self.write(line.rstrip())
        return said

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Counts from the beginning of the block until every connection has asked after its end, and has an answer or is broken.

        Then other connections take the places of the broken ones.
        """
        self.write()
        self.write(f"=== {title}")
        self.calm()
        self.load.mark()
        yield
        time.sleep(ASKED)
        self.calm()
        found = self.load.wait_answered(DEADLINE + PATIENCE)
        self.steps.append(self._step(title, found))
        self.write(f"--> {self.steps[-1].words()}")
        if found["broken"]:
            self.load.fill()

    def _step(self, title: str, found: Mapping[str, Any]) -> Step:
        self.calm()
        since = time.monotonic()
        time.sleep(SPAN)
        probes = found["probes"]
        return Step(
            title=title,
            connections=found["connections"],
            broken=found["broken"],
            errors=found["errors"],
            longest_pause=found["longest_pause"],
            new=probes["ok"] + probes["failed"],
            new_failed=probes["failed"],
            shares=self.sampler.shares(since),
        )

    def calm(self) -> None:
        """Until nobody waits for an answer any more."""
        while self.load.stats()["waiting"] >= SETTLED:
            time.sleep(0.2)


@contextlib.contextmanager
def played(lab: Lab, connections: int, new: float) -> Iterator[Story]:
    """Connections are open to the VIPs for the block."""
    say(f"opening {connections} connections, IPv4 and IPv6")
    load = lab.load(connections, interval=INTERVAL, probes=new, deadline=DEADLINE, ready_timeout=PATIENCE)
    with load, Sampler([one.name for one in lab.topology.balancers]) as sampler:
        lost = load.ready["broken"]
        if lost:
            raise LabError(f"{lost} of {connections} connections found nobody: {load.ready['errors']}")
        yield Story(lab, load, sampler)


def steps_table(steps: Sequence[Step]) -> str:
    head = ("step", "broken", "longest pause", "new failed", "packets")
    rows = [
        (
            step.title,
            f"{step.broken} of {step.connections}",
            f"{step.longest_pause:.2f} s",
            f"{step.new_failed} of {step.new}",
            " ".join(f"{share:.0%}" for share in step.shares.values()),
        )
        for step in steps
    ]
    return table(head, rows, colour=False)


def document(steps: Sequence[Step]) -> list[dict[str, Any]]:
    return [asdict(step) for step in steps]
