"""A node in a test's hands: the core as it is, with a kernel that does as it is told."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from anycast.core import events as ev
from anycast.core.dataplane import kernel as kernels
from anycast.core.dataplane.ipvs import ServiceKey
from anycast.core.dataplane.loop import CHANGED_EVERY
from anycast.core.health.phase import Outcome, Result
from anycast.core.maintenance.clocks import End
from anycast.core.maintenance.stages import NODE, Maintenance, Stage
from anycast.core.owned import NOTHING as NOTHING_OWNED
from anycast.core.owned import Owned
from anycast.core.prefixes import host_route
from anycast.core.step import begin, next_wake, step
from anycast.core.values.configuration import Address, Check, Config, Pool, Quorum, Service, Timing, Vip
from anycast.core.values.lease import Lease
from anycast.core.values.report import Report
from anycast.core.values.route import Prefix
from anycast.core.vip.decide import Reason
from anycast.core.vip.facts import furthest
from tests.property.worlds import CHECK, config, counting, server, told

NOTHING = kernels.Snapshot(table={}, addresses=frozenset(), sysctls={})
TTL, DRAIN, SETTLE = Timing().lease_ttl, Timing().drain, Timing().settle
EPOCH = 1_800_000_000.0  # wall-clock time less monotonic time, until somebody sets the clock


def vip(
    name: str = "web",
    *,
    number: int = 1,
    servers: Iterable[int] = (1, 2, 3),
    drained: Iterable[int] = (),
    ports: Iterable[int] = (80,),
    check: Check = CHECK,
    both_families: bool = False,
    weight: int = 1,
    **service: Any,
) -> Vip:
    """Comes up with two usable real servers, stays with one."""
    members = (*(server(n, weight) for n in servers), *(server(n, weight=0) for n in drained))
    pool = Pool(name=name, servers=members, check=check)
    return Vip(
        name=name,
        addresses=addresses(number) if both_families else addresses(number)[:1],
        services=tuple(
            Service(**{"port": port, "pool": pool, "quorum": Quorum(low=1, high=2), **service})
            for port in ports
        ),
    )


def addresses(number: int) -> tuple[Address, ...]:
    return ip_address(f"192.0.2.{number}"), ip_address(f"2001:db8:99::{number}")


def route(number: int) -> Prefix:
    return host_route(addresses(number)[0])


def route6(number: int) -> Prefix:
    return host_route(addresses(number)[1])


class Node:
    """The core with an ideal kernel, unless `kernel_breaks`; `refused` addresses it never takes.

    `traffic`: packets a second that every service takes in.
    """

    def __init__(
        self,
        *vips: Vip,
        kept: dict[str, Maintenance] | None = None,
        found: kernels.Snapshot = NOTHING,
        now: float = 1000.0,
        offset: float = EPOCH,
        crashes: int = 0,
        left: Owned = NOTHING_OWNED,
        before: Config | None = None,
        kernel_breaks: str | None = None,
        kernel_is_slow: bool = False,
        **settings: Any,
    ) -> None:
        self.now = now
        self.offset = offset
        self.traffic = 0.0
        self._packets, self._packets_at = 0.0, now
        self.counts_all = True  # what all services received can be read
        self.kernel = found
        self.kernel_breaks = kernel_breaks
        self.kernel_is_slow = kernel_is_slow
        self.refused: set[Address] = set()
        self.programs: list[tuple[kernels.KernelOp, ...]] = []
        self.job: ev.ReadKernel | ev.ProgramKernel | None = None
        self.asked: tuple[str, ...] = ()  # the sysctls that were asked for last
        self.lease: Lease | None = None
        self.saved: dict[str, Maintenance] | None = None
        self.owned: Owned | None = None
        self.probed_anew = 0
        self.logged: list[str] = []
        self.logs: list[ev.Log] = []
        self.exit: ev.Exit | None = None
        self.settings = settings  # of the configuration, besides the VIPs
        start = config(*vips, **settings)
        self.state, effects = begin(
            start, kept or {}, self.now, self.wall, crashes=crashes, left=left, before=before
        )
        self._perform(effects)

    def send(self, event: ev.Event) -> None:
        self.state, effects = step(self.state, event, self.now)
        self._perform(effects)

    def _perform(self, effects: tuple[ev.Effect, ...]) -> None:
        for effect in effects:
            match effect:
                case ev.SendLease(lease=lease):
                    self.lease = lease
                case ev.Log(event=event):
                    self.logged.append(event)
                    self.logs.append(effect)
                case ev.SaveMaintenance(entries=entries):
                    self.saved = dict(entries)
                case ev.ProbeAnew():
                    self.probed_anew += 1
                case ev.SaveOwned(owned=owned):
                    self.owned = owned
                case ev.Exit():
                    self.exit = effect
                case ev.ReadKernel() | ev.ProgramKernel():
                    self.job = effect
                    if not self.kernel_is_slow:
                        self.kernel_answers()
                case _:
                    pass

    def kernel_answers(self) -> None:
        job, self.job = self.job, None
        assert job is not None
        self.asked = job.sysctls
        if self.kernel_breaks is not None:
            self.send(ev.KernelFailed(reason=self.kernel_breaks))
            return
        failures: tuple[kernels.Failure, ...] = ()
        if isinstance(job, ev.ProgramKernel):
            self.programs.append(job.ops)
            self.play(job.ops)
            if self.refused & self.kernel.addresses:
                self.kernel = replace(self.kernel, addresses=self.kernel.addresses - self.refused)
                failures = (kernels.Failure((), "refused"),)
        self._count()
        packets = dict.fromkeys(self.kernel.table, int(self._packets))
        snapshot = told(self.kernel, self.asked, discards=job.discards)
        snapshot = counting(snapshot, packets)
        if not self.counts_all:
            snapshot = replace(snapshot, received=None)
        self.send(ev.KernelRead(snapshot=snapshot, failures=failures))

    def kernel_changed(self) -> None:
        """The kernel tells of a change, and readings keep their pace."""
        self.send(ev.KernelChanged())
        self.wait(CHANGED_EVERY)

    def flow(self, packets_per_s: float) -> None:
        """From now on every service takes in so much."""
        self._count()
        self.traffic = packets_per_s

    def _count(self) -> None:
        self._packets += self.traffic * (self.now - self._packets_at)
        self._packets_at = self.now

    @property
    def wall(self) -> float:
        return self.now + self.offset

    def set_clock(self, by: float) -> None:
        """Somebody sets the wall clock."""
        self.offset += by
        self.tick()

    def tick(self) -> None:
        self.send(ev.Tick(wall=self.wall))

    def play(self, ops: Iterable[kernels.KernelOp]) -> None:
        """What is not there cannot be changed; the others are."""
        for op in ops:
            with contextlib.suppress(KeyError):
                self.kernel = kernels.play(self.kernel, (op,))

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while self.exit is None and (wake := next_wake(self.state, self.now)) <= end:
            self.now = max(self.now, wake)
            self.tick()
        self.now = end
        self.tick()

    def checks(self, outcome: Outcome, *servers: int, times: int = 2) -> None:
        """Outcomes of the checks of these servers, of all when none is named, `times` in a row."""
        chosen = {ip for number in servers for ip in server(number).addresses}
        for _ in range(times):
            self.send(
                ev.Probed(
                    results=tuple(
                        (target, Result(outcome=outcome))
                        for target in self.state.targets
                        if not servers or target.address in chosen
                    )
                )
            )

    def reload(self, *vips: Vip, **settings: Any) -> None:
        self.settings = self.settings | settings
        self.send(ev.Reconfigured(config=config(*vips, **self.settings)))

    def maintain(
        self, scope: str = NODE, *, on: bool = True, end: End | None = None, skip_drain: bool = False
    ) -> None:
        entry = Maintenance(reason="racks", by="op", since=self.wall, end=end) if on else None
        self.send(ev.MaintenanceSet(scope=scope, entry=entry, skip_drain=skip_drain))

    def stage(self, scope: str = NODE) -> Stage:
        return furthest(self.state, [scope]).stage

    def events(self, name: str) -> list[ev.Log]:
        return [log for log in self.logs if log.event == name]

    def acknowledge(self) -> None:
        """The plugin has carried out the lease."""
        if 1 not in self.state.plugins:
            self.send(ev.PluginConnected(source=1))
        assert self.lease is not None
        self.send(
            ev.PluginReported(source=1, report=Report(seq=self.lease.seq, announced=frozenset(self.routes)))
        )

    @property
    def routes(self) -> list[Prefix]:
        return [] if self.lease is None else list(self.lease.routes)

    def reason(self, name: str = "web") -> Reason:
        return self.state.vips[name].verdict.reason

    def weights(self, number: int = 1, port: int = 80) -> list[int]:
        (entry,) = [
            entry
            for key, entry in self.kernel.table.items()
            if isinstance(key, ServiceKey) and (key.address, key.port) == (addresses(number)[0], port)
        ]
        return [destination.weight for destination in entry.destinations]


def up(*vips: Vip) -> Node:
    node = Node(*(vips or (vip(),)))
    node.checks(Outcome.OK)
    node.acknowledge()
    assert node.routes == [host_route(a) for each in node.state.config.vips for a in each.addresses]
    return node
