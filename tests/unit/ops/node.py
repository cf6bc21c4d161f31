"""A node whose kernel and real servers are ideal: the core runs as it is, every effect is answered at once."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any

from anycast.agent.answers import (
    PLAIN,
    MaintenanceAnswer,
    NothingThereError,
    PlanAnswer,
    PlanWish,
    ReloadAnswer,
    ReloadWish,
    TurnAnswer,
    TurnWish,
)
from anycast.agent.run_log import RunLog
from anycast.core import events as ev
from anycast.core.dataplane import kernel as kernels
from anycast.core.dataplane.ipvs import ServiceEntry, ServiceKey
from anycast.core.health.phase import Outcome, Result
from anycast.core.hooks import Tally as HookTally
from anycast.core.in_force import AS_WRITTEN, InForce, Refused
from anycast.core.maintenance.clocks import End
from anycast.core.maintenance.stages import Maintenance, is_saved
from anycast.core.planned import Plan
from anycast.core.state import State
from anycast.core.step import begin, next_wake, step
from anycast.core.values.configuration import (
    Address,
    Bgp,
    Check,
    Config,
    Neighbor,
    Pool,
    Protocol,
    Quorum,
    RealServer,
    Service,
    Target,
    TcpCheck,
    Vip,
)
from anycast.core.values.configuration import Node as NodeName
from anycast.core.values.report import ATTRIBUTES, NeighborState, Report
from anycast.ops.headroom import Headroom
from anycast.ops.hub import Hub
from anycast.ops.load import Interfaces, Meter
from anycast.ops.source import Facts, Runs, Tally, Tripwires, Work
from anycast.ops.traffic import Traffic
from tests.property.worlds import told

FOREIGN = ServiceKey(protocol=Protocol.TCP, address=ip_address("198.51.100.9"), port=25)
ROUTER, ROUTER6 = "10.2.1.254", "fd00:2:1::fe"


def vip(name: str, *addresses: str, ports: tuple[int, ...] = (80,)) -> Vip:
    servers = tuple(
        RealServer(name=f"rs{n}", addresses=(ip_address(f"10.9.2.{n}"), ip_address(f"fd00:9:2::{n}")))
        for n in (1, 2)
    )
    pool = Pool(name=name, servers=servers, check=Check(kind=TcpCheck(), rise=2, fall=1))
    services = tuple(
        Service(protocol=Protocol.TCP, port=port, pool=pool, quorum=Quorum(low=1, high=2)) for port in ports
    )
    return Vip(name=name, addresses=tuple(map(ip_address, addresses)), services=services)


CONFIG = Config(
    node=NodeName(name="lb1"),
    bgp=Bgp(
        local_as=65001,
        router_id=IPv4Address("10.2.1.1"),
        neighbors=(
            Neighbor(address=ip_address(ROUTER), remote_as=65000, families=frozenset({4})),
            Neighbor(address=ip_address(ROUTER6), remote_as=65000, families=frozenset({6})),
        ),
    ),
    vips=(vip("web", "192.0.2.1", "2001:db8:99::1", ports=(80, 443)), vip("mail", "192.0.2.2")),
)


REFUSED = InForce(refused=Refused(since=990.0, problems=1, first="anycast.yaml:4:19: vips.web: wrong"))


class Node:
    """Is a `Source` too. `kernel_error`: while it is set, the kernel can be neither read nor written."""

    pid = os.getpid()
    force = AS_WRITTEN
    reloaded_at = 1_800_000_000.0
    said = "refused"  # of a check that fails

    def __init__(
        self,
        config: Config = CONFIG,
        *,
        maintenance: Mapping[str, Maintenance] | None = None,
        now: float = 1000.0,
        crashes: int = 0,
    ) -> None:
        self.now = now
        self.last_step = now
        self.kernel_error: str | None = None
        self.kernel_is_deaf = False  # it takes no change
        self.asked: tuple[str, ...] = ()  # the sysctls that were asked for last
        self.kernel = kernels.Snapshot(
            table={FOREIGN: ServiceEntry(scheduler="rr")}, addresses=frozenset(), sysctls={}
        )
        self.log: list[ev.Log] = []
        self.events = Hub()
        self.traffic = Traffic()
        self.meter = Meter(Interfaces(Path("/proc/none")))
        self.headroom = Headroom(self)
        self.tallies: dict[Target, Tally] = {}
        self.hooks: dict[str, HookTally] = {}
        self.probes: dict[str, Runs] = {}
        self.work = Work()
        self.tripwires = Tripwires()
        self.runs = RunLog()
        self.took: dict[Target, list[float]] = {}
        self._state, effects = begin(config, maintenance or {}, now, crashes=crashes)
        self._perform(effects)

    @property
    def state(self) -> State:
        return self._state

    @property
    def facts(self) -> Facts:
        return Facts(
            state=self._state,
            last_step=self.last_step,
            force=self.force,
            reloaded_at=self.reloaded_at,
            tallies=dict(self.tallies),
            probes=dict(self.probes),
            work=self.work,
            hooks=dict(self.hooks),
            numbers=self.runs.numbers,
            tripwires=self.tripwires,
        )

    def durations(self, target: Target) -> Sequence[float]:
        return self.took.get(target, ())

    def jump(self, seconds: float) -> None:
        """Time passes in which nothing happens; the agent is not suspended meanwhile."""
        self.now += seconds
        self._state = replace(self._state, seen=self.now)

    def send(self, event: ev.Event, *, after: float = 0.0) -> None:
        end = self.now + after
        while not self._state.exited and (wake := next_wake(self._state, self.now)) < end:
            self.now = max(self.now, wake)
            self._step(ev.Tick())
        self.now = end
        self._step(event)

    def _step(self, event: ev.Event) -> None:
        self._state, effects = step(self._state, event, self.now)
        self._perform(effects)
        self.traffic.take(self._state)

    def _perform(self, effects: tuple[ev.Effect, ...]) -> None:
        for effect in effects:
            match effect:
                case ev.Log():
                    self.log.append(effect)
                    self.events.publish(effect.event, effect.level, effect.fields)
                case ev.ReadKernel() | ev.ProgramKernel() if self.kernel_error is not None:
                    self.send(ev.KernelFailed(reason=self.kernel_error))
                case ev.ReadKernel() | ev.ProgramKernel():
                    if isinstance(effect, ev.ProgramKernel) and not self.kernel_is_deaf:
                        self.kernel = kernels.play(self.kernel, effect.ops)
                    self.asked = effect.sysctls
                    self.send(ev.KernelRead(snapshot=told(self.kernel, self.asked, discards=effect.discards)))
                case _:
                    pass

    def probe(self, *down: str, unknown: bool = False) -> None:
        """One outcome of every check: those of the addresses in `down` fail."""
        gone: set[Address] = {ip_address(address) for address in down}
        bad = Outcome.UNKNOWN if unknown else Outcome.FAIL
        results = tuple(
            (
                target,
                Result(
                    outcome=bad if target.address in gone else Outcome.OK,
                    detail=self.said if target.address in gone else "",
                ),
            )
            for target in self.state.targets
        )
        for target, result in results:
            self.tallies[target] = self.tallies.get(target, Tally()).count(result.outcome)
        self.send(ev.Probed(results=results))

    def report(self, source: int = 1, **fields: Any) -> None:
        """What a plugin with two sessions up says once everything is acknowledged, but for `fields`."""
        if source not in self.state.plugins:
            self.send(ev.PluginConnected(source=source))
        said = Report(
            seq=self.state.lease.seq,
            announced=frozenset(self.state.lease.routes or ()),
            neighbors=tuple(
                NeighborState(address=address, state="up", changed=self.now) for address in (ROUTER, ROUTER6)
            ),
            exabgp_version="5.0.15",
            exabgp_pid=4711,
            pid=4712,
            acks=3,
            attributes=ATTRIBUTES,
        )
        for name in fields.keys() & {"announced", "pending"}:
            fields[name] = frozenset(fields[name])
        self.send(ev.PluginReported(source=source, report=replace(said, **fields)))


def healthy(config: Config = CONFIG, *, now: float = 1000.0) -> Node:
    """A node that announces every VIP."""
    node = Node(config, now=now)
    node.probe()
    node.report()
    return node


class Operator:
    """An engine to command: the maintenance is the core's, the disk and the reload are what the test says."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.save_error = ""
        self.deadlines: list[float] = []
        self.wishes: list[ReloadWish] = []
        self.plans: list[PlanWish] = []
        self.planned = PlanAnswer(ok=True, plan=Plan())
        self.on_trial = False
        self.answer = ReloadAnswer(ok=True, changes=("vip web: med 100 -> 200",))

    @property
    def state(self) -> State:
        return self.node.state

    @property
    def last_step(self) -> float:
        return self.node.last_step

    async def set_maintenance(
        self,
        scope: str,
        *,
        on: bool,
        reason: str,
        by: str,
        end: End | None = None,
        skip_drain: bool = False,
        deadline: float = math.inf,
    ) -> MaintenanceAnswer:
        self.deadlines.append(deadline)
        entry = Maintenance(reason=reason, by=by, since=time.time(), end=end) if on else None
        self.node.now = time.monotonic()
        self.node.send(ev.MaintenanceSet(scope=scope, entry=entry, skip_drain=skip_drain))
        return MaintenanceAnswer(saved=not self.save_error and is_saved(scope), error=self.save_error)

    async def leave(
        self, scope: str, wish: TurnWish, *, reason: str, by: str, **said: Any
    ) -> MaintenanceAnswer | TurnAnswer:
        self.node.now = time.monotonic()
        self.node.send(
            ev.LeaveAsked(
                scope=scope,
                entry=Maintenance(reason=reason, by=by, since=time.time(), end=said["end"]),
                skip_drain=said["skip_drain"],
                waits=wish.waits,
                number=wish.number,
                ago=wish.ago,
                random=0.5,
            )
        )
        if scope in self.state.maintenance:
            return MaintenanceAnswer(saved=True)
        seat = self.state.seat
        return TurnAnswer(
            seat=seat, refused=() if seat.is_asking or seat.decision is None else seat.decision.reasons
        )

    async def stay(self, scope: str, number: int, *, by: str, deadline: float = math.inf) -> None:
        del deadline
        self.node.send(ev.LeaveDropped(scope=scope, number=number, by=by))

    async def reload(self, wish: ReloadWish = PLAIN, *, deadline: float = math.inf) -> ReloadAnswer:
        self.deadlines.append(deadline)
        self.wishes.append(wish)
        return replace(self.answer, confirm_s=wish.confirm_within)

    async def plan(self, wish: PlanWish, *, deadline: float = math.inf) -> PlanAnswer:
        self.deadlines.append(deadline)
        self.plans.append(wish)
        return self.planned

    async def confirm(self, *, deadline: float = math.inf) -> ReloadAnswer:
        return self._trial(deadline, "there is nothing to confirm")

    async def undo(self, *, deadline: float = math.inf) -> ReloadAnswer:
        return self._trial(deadline, "there is no configuration to go back to")

    def _trial(self, deadline: float, nothing: str) -> ReloadAnswer:
        self.deadlines.append(deadline)
        if not self.on_trial:
            raise NothingThereError(nothing)
        self.on_trial = False
        return self.answer
