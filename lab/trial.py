"""What the clients and the router notice of one fault after another: counted from the fault until all is as before."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from lab.chaos_figures import Row
from lab.chaos_plan import Fault
from lab.control import Lab, Load
from lab.errors import LabError
from lab.measuring import say
from lab.sampler import Sampler
from lab.topology import VIPS

DEADLINE = 10.0  # seconds of silence that break a connection
INTERVAL = 1.0  # seconds between two questions of a connection: all load and all nodes share one processor
SETTLED = 1.0  # seconds: no question is unanswered for longer
SPAN = 2.0  # seconds over which the shares are taken
GONE_PATIENCE = 20.0  # seconds a route may take to go
RESTART = 1.0  # seconds between looks for daemons that have ended: RestartSec of ExaBGP's unit
NOT_DONE = (
    TimeoutError,
    LabError,
    subprocess.SubprocessError,
    OSError,
)  # a fault could not be made or mended
PATIENCE = 120.0  # seconds for everything to be as before, a few nodes: an agent starts in five in the emulated kernel
A_FEW = 4  # nodes


def patience(nodes: int) -> float:
    """PATIENCE for so many nodes: all of them share one processor."""
    return PATIENCE * max(1.0, nodes / A_FEW)


@dataclass(slots=True, kw_only=True)
class Facts:
    """What whoever breaks something finds out. `gone`: seconds; `healed`: monotonic."""

    began: float
    gone: float | None = None
    after: dict[str, float] = field(default_factory=dict)
    healed: float | None = None
    new_served: float | None = None
    wrong: list[str] = field(default_factory=list)
    note: str = ""


class Trial:
    """`open_load` opens new connections, `tend` starts daemons of balancers that have ended, `mend` puts the site right
    when a fault could not be taken back.
    """

    def __init__(
        self,
        lab: Lab,
        sampler: Sampler,
        *,
        open_load: Callable[[], Load],
        tend: Callable[[], None],
        mend: Callable[[], None],
    ) -> None:
        self.lab = lab
        self.sampler = sampler
        self.nodes = [balancer.name for balancer in lab.topology.balancers]
        self.rows: list[Row] = []
        self.started = time.monotonic()
        self._open_load = open_load
        self._tend = tend
        self._mend = mend
        self.load = open_load()
        self._worn = False
        self._ended = time.monotonic()

    def fresh(self) -> None:
        """Other connections: none is left of those that were opened under another table."""
        self.load.stop()
        self.load = self._open_load()
        self._worn = False
        self._ended = time.monotonic()

    def worn(self) -> None:
        """The next row needs other connections: these were opened under another table, or some were lost."""
        self._worn = True

    @contextlib.contextmanager
    def count(
        self, fault: Fault, where: str = "", *, server: str = "", peer: bool = False
    ) -> Iterator[Facts]:
        """Counts until the end of the block, and until whoever asked then has an answer or is broken.

        `server`: its connections are lost with it.
        """
        if self._worn:
            self.fresh()
        self.everywhere()
        self.calm()
        events = len(self.lab.watch().events)
        facts = Facts(began=time.monotonic())
        before = self.sampler.shares(facts.began - SPAN)
        self.load.mark()
        say(f"{'healthcheck: ' * peer}{' '.join(filter(None, (fault.name, where)))}: {fault.text}")
        facts.began = time.monotonic()
        try:
            yield facts
        except NOT_DONE as error:
            facts.wrong.append(str(error))
            say(f"  {error}")
            self._mend()
        if fault.quiet and len(self.lab.watch().events) != events:
            facts.wrong.append("the router's table changed")
        stats = self.load.wait_answered(DEADLINE + PATIENCE)
        lost = stats["lost_by_server"].get(server, 0) if server else 0
        self._ended = time.monotonic()
        row = Row(
            fault=fault.name,
            where=where,
            peer=peer,
            promise="-" if peer else fault.promise,
            connections=stats["connections"],
            broken=stats["broken"] - lost,
            lost_with_server=lost,
            moved=stats["moved"],
            longest_pause_s=stats["longest_pause"],
            new_connections=stats["probes"]["ok"] + stats["probes"]["failed"],
            new_failed=stats["probes"]["failed"],
            new_served_s=facts.new_served,
            route_gone_s=facts.gone,
            bound_s=fault.bound,
            shares_before=before,
            shares_after=facts.after,
            busy=round(self.sampler.busy(facts.began), 3),
            began=facts.began - self.started,
            healed=None if facts.healed is None else facts.healed - self.started,
            ended=self._ended - self.started,
            wrong=tuple(facts.wrong),
            errors=stats["errors"] if stats["broken"] > lost else {},
            note=facts.note,
        )
        self.rows.append(row)
        lost_words = f", {lost} lost with {server}" if lost else ""
        say(
            f"  {row.broken} of {row.connections} broken{lost_words}, longest pause {row.longest_pause_s:.2f} s, "
            f"{row.new_failed} of {row.new_connections} new failed, processor {row.busy:.0%} busy"
        )
        for text in row.missed:
            say(f"  MISSED: {text}")
        if row.broken:
            self.load.fill()

    def attempt(self, fault: Fault, act: Callable[[], None]) -> None:
        """A row even where the fault could not be made at all; then the site is put right."""
        rows = len(self.rows)
        try:
            act()
        except NOT_DONE as error:
            say(f"  {error}")
            if len(self.rows) == rows:
                wrong = (f"could not be done: {error}",)
                now = time.monotonic() - self.started
                self.rows.append(Row(fault=fault.name, connections=0, began=now, ended=now, wrong=wrong))
            self._mend()

    def gone(self, facts: Facts, node: str) -> float | None:
        """Until the router's kernel sends `node` nothing more; the later of both VIPs counts. None: it does not."""
        try:
            events = [self.lab.watch().wait_gone(prefix, node, GONE_PATIENCE, facts.began) for prefix in VIPS]
        except TimeoutError as error:
            say(f"  {error}")
            return None
        last = max(events, key=lambda event: event.monotonic)
        took = round(last.monotonic - facts.began, 3)
        facts.gone = max(facts.gone or 0.0, took)
        say(f"  out of the router's table after {took:.2f} s")
        return last.t

    def went(self, facts: Facts, node: str) -> bool:
        """Whether the router's kernel has stopped sending `node` anything since the fault; notes when."""
        try:
            events = [self.lab.watch().wait_gone(prefix, node, 0.0, facts.began) for prefix in VIPS]
        except TimeoutError:
            return False
        facts.gone = round(max(event.monotonic for event in events) - facts.began, 3)
        return True

    def calm(self) -> None:
        """Until nobody waits for an answer any more."""
        time.sleep(max(0.0, self._ended + SPAN - time.monotonic()))
        while self.load.stats()["waiting"] >= SETTLED:
            time.sleep(0.2)

    def settled(self, facts: Facts) -> None:
        """Until nobody waits any more; then how the packets are spread."""
        self.calm()
        since = time.monotonic()
        time.sleep(SPAN)
        facts.after = self.sampler.shares(since)

    def healing(self, facts: Facts) -> None:
        """From here on what was broken is mended."""
        facts.healed = time.monotonic()

    def everywhere(self) -> None:
        """Until every balancer gets its packets. What has ended meanwhile is started again, as a service manager does:
        a plugin ends an ExaBGP that does not answer.
        """
        deadline = time.monotonic() + patience(len(self.nodes))
        for prefix in VIPS:
            while True:
                try:
                    self.lab.wait_route(prefix, self.nodes, RESTART)
                    break
                except TimeoutError:
                    if time.monotonic() > deadline:
                        raise
                self._tend()

    def new_clients_served(self, facts: Facts) -> None:
        """Until none has failed for two seconds; notes when the last one did."""
        last, failed = facts.began, 0
        while time.monotonic() < last + 2.0:
            time.sleep(0.1)
            seen = self.load.stats()["probes"]["failed"]
            if seen > failed:
                last, failed = time.monotonic(), seen
        facts.new_served = round(last - facts.began, 2)
