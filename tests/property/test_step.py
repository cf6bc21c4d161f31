"""The invariants of docs/architecture.md, over any sequence of events.

The machine plays the world: a kernel, real servers, plugins, an operator and a clock. What the core believes it
learns from events alone, some of which the machine delays or drops.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from anycast.core import events as ev
from anycast.core.dataplane import kernel as kernels
from anycast.core.dataplane.desired import EXPIRE_AGAIN
from anycast.core.dataplane.ipvs import (
    Connections,
    DestinationKey,
    Key,
    MarkKey,
    RemoveService,
    ServiceEntry,
    ServiceKey,
)
from anycast.core.dataplane.kernel import touched
from anycast.core.dataplane.members import check_of, keys_of, servers_of, service_key
from anycast.core.dataplane.proof import Proof
from anycast.core.fleet.values import Document, Peer, VipStanding, VipTold
from anycast.core.health.phase import Outcome, Phase, Result
from anycast.core.maintenance.clocks import End, Expiry
from anycast.core.maintenance.stages import (
    FILE,
    NODE,
    NODE_SCOPES,
    ORDER,
    OUT,
    STOP,
    Maintenance,
    Stage,
    is_saved,
    is_server,
)
from anycast.core.owned import NOTHING
from anycast.core.prefixes import host_route
from anycast.core.reload import serves_itself
from anycast.core.state import State, drained_scopes, health_of, services_of
from anycast.core.step import begin, next_wake, step
from anycast.core.values.configuration import (
    HERE,
    Address,
    Config,
    ConnectionSync,
    Protocol,
    Target,
    Timing,
    Vip,
    WhenUnhealthy,
)
from anycast.core.values.fleet import Fleet, PeerAt, Velocity
from anycast.core.values.lease import Lease
from anycast.core.values.report import Report
from anycast.core.values.route import GRACEFUL_SHUTDOWN, Prefix
from anycast.core.vip.decide import Advertise, Reason, ServiceFacts
from anycast.core.vip.facts import furthest
from anycast.core.vip.hold import WINDOW, hold
from anycast.core.withdrawal import PATIENCE as LEAVE_PATIENCE
from tests.property.worlds import CONFIGS, after, busied, counting, staying, told

ROUNDING = 1e-6  # seconds: sums of instants are not exact
LATE = 1e-6  # seconds after which a wake comes: a real clock's is never on time
FOREIGN = ServiceKey(protocol=Protocol.TCP, address=ip_address("198.51.100.9"), port=25)


# By the one limit most nodes go down without any proof of silence, by the other most with one.
SHORT = [
    replace(config, timing=Timing(quiet_limit=1.0 if number % 2 else 4.5))
    for number, config in enumerate(CONFIGS)
]


@dataclass(frozen=True)
class Said:
    """What an operator has said last of a scope. `due`: monotonic, by the clocks of that moment."""

    end: End | None = None
    due: float = 0.0
    stepped: bool = False  # somebody has set the clock since
    slewed: float = 0.01  # seconds by which it was slewed


# The data plane is not as it should be.
UNWELL = {
    Reason.KERNEL_UNAVAILABLE,
    Reason.UNPROVEN,
    Reason.BELOW_QUORUM,
    Reason.NODE_CHECK_FAILED,
    Reason.VIP_CHECK_FAILED,
}


# Of all sysctls that any configuration needs.
RIGHT = {
    **kernels.IPVS_SYSCTLS,
    **kernels.SCTP_SYSCTLS,
    **kernels.PERSISTENCE_SYSCTLS,
    **kernels.SYNC_SYSCTLS,
}


def keys(config: Config) -> set[Key]:
    return {key for vip in config.vips for address in vip.addresses for key in keys_of(vip, address)}


def vip_address(prefix: Prefix) -> Address:
    return prefix.network_address


def weighed(state: State, key: Key) -> int:
    """The real servers of the service that are to take clients."""
    entry = state.desired.table.get(key)
    return 0 if entry is None else sum(one.weight > 0 for one in entry.destinations)


def facts_of(state: State, key: Key) -> ServiceFacts:
    return state.services[state.index.services[key].facts]


def renamed(before: State, after: State) -> set[Address]:
    """The addresses of VIPs whose old name is gone and whose new name means nothing yet.

    Not of one that takes the place of several: it goes on as the first of them.
    """
    new = {vip.name for vip in after.config.vips}
    known = {*(vip.name for vip in before.config.vips), *before.maintenance}
    had = {a: vip.name for vip in before.config.vips for a in vip.addresses}
    gone = {a for a, name in had.items() if name not in new}
    ones = (vip for vip in after.config.vips if vip.name not in known)
    return gone & {
        a for vip in ones if len({had[a] for a in vip.addresses if a in had}) == 1 for a in vip.addresses
    }


def covered(state: State) -> set[Address]:
    """Addresses of VIPs that are in maintenance by their own name."""
    return {
        address for vip in state.config.vips for address in vip.addresses if vip.name in state.maintenance
    }


def _same(entries: Mapping[str, Maintenance], wanted: Maintenance) -> str:
    """The scope of an entry that goes on under another name; its end may have been worked out anew."""
    return next(s for s, entry in entries.items() if replace(entry, end=None) == replace(wanted, end=None))


class World(RuleBasedStateMachine):
    @initialize(
        number=st.sampled_from(range(len(CONFIGS))), kept=st.booleans(), crashes=st.sampled_from((0, 0, 2, 3))
    )
    def begin(self, number: int, crashes: int, *, kept: bool) -> None:
        self.now = 100.0
        self.offset = 1_800_000_000.0  # wall clock less monotonic
        self.packets = 0
        self.said: dict[str, Said] = {}
        self.config = SHORT[number]
        self.kernel = kernels.Snapshot(
            table={FOREIGN: ServiceEntry(scheduler="rr")}, addresses=frozenset(), sysctls=dict(RIGHT)
        )
        self.meddled = False  # another program has changed the kernel
        self.owned = NOTHING  # as the agent saved it last
        self.configured: set[Address] = set()  # by any agent of this world
        self.dropped: dict[Key, float] = {}  # services whose address stayed: when the configuration lost them
        self.had: dict[Key, set[DestinationKey]] = {}  # of those: its real servers then
        self.wanted: dict[Prefix, bool] = {}  # prefix -> drained, by the last lease
        self.lease: Lease | None = None
        self.pending: ev.ReadKernel | ev.ProgramKernel | None = None
        self.last_read: kernels.Snapshot | None = None  # None: none, or what came after it failed
        self.connected: set[int] = set()
        self.reports: dict[int, Report] = {}
        self.left: dict[Prefix, float] = {}  # last instant a route was in a lease
        self.given: dict[int, set[Prefix]] = {}  # what each plugin may have announced
        self.kept: dict[Prefix, float] = {}  # of those that were lost: until when
        self.exited = False
        self.stopping = False
        self.stale = False  # what is pending began before a suspension
        self.paused = False
        maintenance = {NODE: Maintenance(reason="kept", by="root", since=1.0)} if kept else {}
        self.said = {NODE: Said()} if kept else {}
        self.state, effects = begin(self.config, maintenance, self.now, self.wall, crashes=crashes)
        self.unwell = dict.fromkeys(self.state.vips, self.now)  # VIPs: when something was in the way last
        self.proven: set[Target] = set()  # well, by a result that still counts
        self.unknown: dict[Target, float] = {}  # not to be checked: since when
        self.held: set[str] = set()  # VIPs that have been well for the hold once: it is over for them
        self.note_configured(None)
        self.perform(effects)

    def note_configured(self, before: Config | None) -> None:
        """What was configured at any time is this node's to take away."""
        old = keys(before) if before is not None else set()
        self.configured |= {address for vip in self.config.vips for address in vip.addresses}
        now = keys(self.config)
        self.dropped = {key: at for key, at in self.dropped.items() if key not in now}
        self.dropped |= dict.fromkeys(old - now, self.now)
        services = self.state.index.services
        for key in (old - now) & services.keys():
            self.had[key] = {member.up.key for member in services[key].membership.members}

    @property
    def wall(self) -> float:
        return self.now + self.offset

    def tick(self) -> None:
        self.send(ev.Tick(wall=self.wall))

    def send(self, event: ev.Event) -> None:
        before = self.state
        self.state, effects = step(self.state, event, self.now)
        if self.state.config is not before.config:
            self.note_names(before)
            self.proven &= set(self.state.targets)
            self.unknown = {t: since for t, since in self.unknown.items() if self.state.is_target(t)}
        self.note_health()
        if before.exited:
            assert effects == ()
        self.check_maintenance(before, event, effects)
        self.perform(effects)
        if isinstance(event, ev.Probed | ev.KernelFailed) or self.stale:
            return  # one more outcome is one more fact, and so is an answer after one from before a suspension
        if isinstance(event, ev.KernelRead) and event.partial:
            return  # a second answer to a program: the reading of everything that is due may have begun
        # The same facts never give two commands.
        again, repeated = step(self.state, event, self.now)
        commands = (ev.ProgramKernel, ev.ReadKernel, ev.Exit)
        assert not [effect for effect in repeated if isinstance(effect, commands)], (event, repeated)
        leases = [effect for effect in repeated if isinstance(effect, ev.SendLease)]
        assert not leases or isinstance(event, ev.PluginConnected), (event, leases)
        assert again.vips == self.state.vips

    def perform(self, effects: tuple[ev.Effect, ...]) -> None:
        for effect in effects:
            match effect:
                case ev.SendLease(lease=lease):
                    self.check_lease(lease)
                    self.lease = lease
                    for held in self.given.values():
                        held.update(lease.routes)
                    for prefix in [*self.wanted, *lease.routes]:
                        self.left[prefix] = self.now
                    self.wanted = {
                        prefix: GRACEFUL_SHUTDOWN in route.communities
                        for prefix, route in lease.routes.items()
                    }
                case ev.ReadKernel() | ev.ProgramKernel():
                    assert self.pending is None, "two kernel jobs at a time"
                    assert not self.stopping, "a stopping node leaves the kernel as it is"
                    self.pending = effect
                    if isinstance(effect, ev.ProgramKernel):
                        self.check_program(effect)
                case ev.SaveOwned(owned=owned):
                    self.owned = owned
                case ev.Log(event="kernel.drifted"):
                    assert self.meddled, (
                        "its own work is said to be somebody else's",
                        effect,
                        [x.ops for x in effects if isinstance(x, ev.ProgramKernel)],
                    )
                case ev.Log(event="agent.suspended"):
                    assert self.paused, "waiting is said to be a suspension"
                case ev.Exit():
                    self.exited = True
                case _:
                    pass

    def check_lease(self, lease: Lease) -> None:
        state = self.state
        routes = lease.routes
        if self.stopping:
            assert not routes
        known = {host_route(address): vip for vip in state.config.vips for address in vip.addresses}
        assert set(routes) <= set(known), "a route nobody configured"
        for prefix, route in routes.items():
            vip = known[prefix]
            drained = GRACEFUL_SHUTDOWN in route.communities
            stages = [furthest(state, scopes).stage for scopes in (NODE_SCOPES, [vip.name])]
            assert OUT.isdisjoint(stages)
            last = bool(route.as_path)  # nothing else of these worlds has a longer one
            assert drained == (Stage.DRAINING in stages or last)
            if last:
                self.check_last_resort(vip, prefix.network_address)
            for service in vip.services:
                checks = [
                    check_of(vip, service, server, address, prefix.version)
                    for server, address in servers_of(service, prefix.version)
                ]
                found = [health_of(state, check) for check in checks]
                up = {check for check, h in zip(checks, found, strict=True) if h.phase.is_up}
                assert {check for check in up if isinstance(check, Target)} <= self.proven, (
                    "proven too long ago"
                )
                key = service_key(vip_address(prefix), service)
                if last:
                    continue
                if key in state.kept:
                    assert weighed(state, key) >= service.quorum.low, "a route without real servers"
                else:
                    possible = [h for h in found if h.phase.is_up or h.phase is Phase.UNDECIDED]
                    assert len(possible) >= service.quorum.low
            needs = [
                health_of(state, one.check) for one in state.index.requirements if one.vip in {"", vip.name}
            ]
            assert last or Phase.DOWN not in [need.phase for need in needs]
            if prefix not in self.wanted:
                assert not drained or last
                self.check_ready(vip, prefix.network_address, last=last)
                assert vip.name in self.held, "announced before the hold was over"

    def check_last_resort(self, vip: Vip, address: Address) -> None:
        """The node itself is well, somebody gets the clients, and something is lacking that others may lack too."""
        state = self.state
        known = state.vips[vip.name]
        assert furthest(state, (*NODE_SCOPES, vip.name)).stage is Stage.ACTIVE
        assert state.proofs[vip.name] is not Proof.FAILED
        if known.verdict.reason is Reason.SORRY:
            assert any(
                one.sorry is not None and (one.sorry.serves or one.sorry.leaving)
                for one in (facts_of(state, key) for each in vip.addresses for key in keys_of(vip, each))
            )
        else:
            assert vip.when_unhealthy is WhenUnhealthy.LAST_RESORT or known.verdict.limited
            assert known.verdict.reason in {Reason.BELOW_QUORUM, Reason.UNPROVEN}, (
                "what these worlds require is here"
            )
        assert Phase.DOWN not in [
            health_of(state, one.check).phase for one in state.index.requirements if one.vip in {"", vip.name}
        ]
        for service in vip.services:
            key = service_key(address, service)
            facts = facts_of(state, key)
            assert weighed(state, key) or facts.undecided, "clients reach nobody"
        drained = set(state.maintenance)
        for key in keys_of(vip, address):
            for member in state.index.services[key].membership.members:
                (there,) = [d for d in state.desired.table[key].destinations if d.key == member.up.key]
                assert not there.weight or member.scope not in drained

    def note_names(self, before: State) -> None:
        """A VIP under a new name is as far as it was under the old one."""
        old = {address: vip.name for vip in before.config.vips for address in vip.addresses}
        for vip in self.state.config.vips:
            names = [old[address] for address in vip.addresses if address in old]
            if vip.name in before.vips or not names:
                continue
            self.unwell[vip.name] = min(self.unwell[name] for name in names)
            if not self.held.isdisjoint(names):
                self.held.add(vip.name)

    def note_health(self) -> None:
        crashes = self.state.crashes if self.now < self.state.started_at + WINDOW else 0
        needed = hold(self.state.config.timing, crashes)
        self.held &= self.state.vips.keys()
        self.unwell = {name: self.unwell.get(name, self.now) for name in self.state.vips}
        for name, known in self.state.vips.items():
            if known.verdict.reason in UNWELL and not known.verdict.is_last_resort:
                self.unwell[name] = self.now
            if self.now >= self.unwell[name] + needed - 1e-9:
                self.held.add(name)

    def check_carried(self, before: State) -> None:
        """Maintenance follows the addresses, whatever the names are."""
        after = self.state
        both = renamed(before, after)
        assert covered(before) & both == covered(after) & both
        known = dict(self.said)
        self.said = {}
        for scope, entry in after.maintenance.items():
            old = scope if scope in known else next(s for s, e in before.maintenance.items() if e is entry)
            self.said[scope] = known[old]

    def check_maintenance(self, before: State, event: ev.Event, effects: tuple[ev.Effect, ...]) -> None:
        after = self.state
        if isinstance(event, ev.Reconfigured) and not before.exited:
            self.check_carried(before)
        assert set(after.progress) == {scope for scope in after.maintenance if not is_server(scope)}
        for scope in before.progress.keys() & after.progress.keys():
            stages = [state.progress[scope].stage for state in (before, after)]
            assert stages == sorted(stages, key=ORDER.index), "a stage went back"
        if isinstance(event, ev.MaintenanceSet | ev.Reconfigured):
            return
        gone = before.maintenance.keys() - after.maintenance.keys()
        for scope in gone:
            said = self.said.pop(scope)
            assert said.end is not None
            assert said.end.then is Expiry.RESUME, "what is held never ends by itself"
            assert self.wall >= said.end.at - 0.01 or said.end.lasts
            slack = 0.01 if said.end.lasts else said.slewed
            assert self.now >= said.due - slack or (said.stepped and not said.end.lasts), "too early"
        logs = [log for log in effects if isinstance(log, ev.Log) and log.event == "maintenance.ended"]
        assert len(logs) == len(gone), "told once"
        assert after.maintenance.keys() == self.said.keys(), "nothing comes back or is lost"

    def check_ready(self, vip: Vip, address: Address, *, last: bool) -> None:
        """A route that comes up: the kernel, as last read, serves it with its quorum of usable servers.

        As the last resort with any. With a sorry pool the service itself remembers which mark counts.
        """
        assert self.state.kernel.error is None
        snapshot = self.state.kernel.snapshot
        assert snapshot is not None
        if isinstance(self.pending, ev.ProgramKernel):  # and the program under way takes nothing of it away
            snapshot = kernels.play(snapshot, self.pending.ops)
        assert address in snapshot.addresses
        if vip.services:
            assert self.state.desired.sysctls.items() <= snapshot.sysctls.items()
        for service in vip.services:
            entry = snapshot.table[service_key(address, service)]
            usable = [d for d in entry.destinations if d.weight > 0]
            facts = services_of(self.state, service_key(address, service))
            assert len(usable) >= (1 if last else facts.needs(whole=False))

    def check_program(self, program: ev.ProgramKernel) -> None:
        for op in program.ops:
            match op:
                case kernels.RemoveAddress(address=address):
                    gone = host_route(address)
                case RemoveService(service=MarkKey()):
                    continue  # it stands for no address of its own
                case RemoveService(service=ServiceKey() as key):
                    assert key != FOREIGN or self.state.config.ipvs_exclusive
                    gone = host_route(key.address)
                    still = any(key.address in vip.addresses for vip in self.state.config.vips)
                    leaving = self.state.leaving.get(key.address)
                    before = leaving is not None and key not in leaving.keys  # its port was dropped earlier
                    if key in self.dropped and (still or before):
                        # Those that the service had lost before it was dropped have a time of their own.
                        counts = self.kernel.connections_of(key)
                        active = any(counts[at].active for at in self.had.get(key, ()) if at in counts)
                        drain = self.config.timing.server_drain
                        kept = active and not serves_itself(self.state.index, key)
                        assert not kept or self.now >= self.dropped[key] + drain, "connections were cut"
                    if key == FOREIGN or still or before:
                        continue
                case kernels.ExpireDestinations(removals=removals):
                    assert FOREIGN not in {one.service for one in removals}
                    continue
                case _:
                    continue
            assert gone not in self.wanted, "the kernel went before the route"
            held = {prefix for given in self.given.values() for prefix in given}
            held |= {prefix for prefix, until in self.kept.items() if self.now < until}
            assert gone not in held or self.now - self.left.get(gone, -1e9) >= self.patience

    @property
    def patience(self) -> float:
        """Seconds after which a lost plugin holds no route any more."""
        return self.state.config.timing.lease_ttl + LEAVE_PATIENCE

    @rule(seconds=st.sampled_from([0.05, 0.3, 0.7, 1.0, 2.5, 6.0]))
    def time_passes(self, seconds: float) -> None:
        end = self.now + seconds
        for _ in range(200):
            if self.exited:
                break
            wake = next_wake(self.state, self.now)
            if wake > end:
                break
            self.now = max(self.now, wake) + LATE
            self.tick()
            assert self.exited or next_wake(self.state, self.now) > self.now, "a busy loop"
        self.now = max(self.now, end)
        self.tick()

    def note_results(self, results: tuple[tuple[Target, Result], ...]) -> None:
        """Which targets have been proven well since the agent last knew nothing, and which proofs have expired."""
        for target, result in results:
            if result.outcome is Outcome.UNKNOWN:
                since = self.unknown.setdefault(target, self.now)
                if self.now - since >= target.check.proof_lasts + ROUNDING:
                    self.proven.discard(target)
                continue
            self.unknown.pop(target, None)
            if result.outcome is Outcome.OK:
                self.proven.add(target)

    @precondition(lambda self: not self.exited)
    @rule(data=st.data(), outcome=st.sampled_from(list(Outcome)))
    def some_checks_answer(self, data: st.DataObject, outcome: Outcome) -> None:
        known = sorted(self.state.targets, key=str)
        chosen = data.draw(st.lists(st.sampled_from(known), max_size=6)) if known else []
        self.probe(chosen, outcome)

    def probe(self, targets: list[Target], outcome: Outcome) -> None:
        results = tuple((target, Result(outcome=outcome)) for target in targets)
        self.note_results(results)
        self.send(ev.Probed(results=results))

    @rule(times=st.integers(1, 3), outcome=st.sampled_from([Outcome.OK, Outcome.FAIL]))
    def all_checks_answer(self, times: int, outcome: Outcome) -> None:
        for _ in range(times):
            self.answer_all(outcome)

    def answer_all(self, outcome: Outcome) -> None:
        everything: list[Target] = sorted(self.state.targets, key=str)
        self.probe(everything, outcome)

    @precondition(lambda self: self.pending is not None)
    @rule(share=st.floats(0, 1))
    def kernel_answers(self, share: float) -> None:
        """A program that is not carried out whole is one that failed at its end."""
        job, self.pending = self.pending, None
        assert job is not None
        failures: list[kernels.Failure] = []
        if isinstance(job, ev.ProgramKernel):
            done = round(len(job.ops) * share)
            if done < len(job.ops):
                failures.append(kernels.Failure(job.ops[done:], "refused"))
            for op in job.ops[:done]:
                try:
                    self.kernel = kernels.play(self.kernel, (op,))
                except KeyError:  # somebody else took the service away meanwhile: ESRCH
                    failures.append(kernels.Failure((op,), "no such service"))
        packets = dict.fromkeys(self.kernel.table, self.packets)
        snapshot = counting(told(self.kernel, job.sysctls, discards=job.discards), packets)
        partial = isinstance(job, ev.ProgramKernel) and not failures and self.last_read is not None
        if self.last_read is not None:
            written = touched(job.ops) if isinstance(job, ev.ProgramKernel) and partial else None
            snapshot = after(self.last_read, snapshot, written)
        self.last_read = snapshot
        self.send(ev.KernelRead(snapshot=snapshot, failures=tuple(failures), partial=partial))
        assert not self.stale or self.state.kernel.reported is None, "read before a suspension"
        self.stale = False

    @rule(packets=st.sampled_from([0, 1, 10_000]))
    def packets_come_in(self, packets: int) -> None:
        self.packets += packets

    @rule(by=st.sampled_from([-100_000.0, -3.0, -0.2, 0.2, 3.0, 100_000.0]))
    def somebody_sets_the_clock(self, by: float) -> None:
        self.offset += by
        if not self.exited:
            self.said = {
                scope: replace(said, stepped=True)
                if abs(by) > 1.0
                else replace(said, slewed=said.slewed + abs(by))
                for scope, said in self.said.items()
            }
        self.tick()

    @precondition(lambda self: self.pending is not None)
    @rule()
    def kernel_does_not_answer(self) -> None:
        self.pending, self.stale, self.last_read = None, False, None
        self.send(ev.KernelFailed(reason="timed out"))

    @precondition(lambda self: self.kernel.addresses)
    @rule(data=st.data())
    def somebody_removes_an_address(self, data: st.DataObject) -> None:
        self.meddled = True
        gone = data.draw(st.sampled_from(sorted(self.kernel.addresses, key=str)))
        self.kernel = replace(
            self.kernel, addresses=self.kernel.addresses - {gone}, plain=self.kernel.plain - {gone}
        )
        lost = {gone} if data.draw(st.booleans(), "the kernel tells which") else set()
        self.send(ev.KernelChanged(lost=frozenset(lost)))

    @precondition(lambda self: self.kernel.addresses)
    @rule(data=st.data())
    def somebody_makes_an_address_an_ordinary_one(self, data: st.DataObject) -> None:
        self.meddled = True
        plain = data.draw(st.sampled_from(sorted(self.kernel.addresses, key=str)))
        self.kernel = replace(self.kernel, plain=self.kernel.plain | {plain})
        self.send(ev.KernelChanged())

    @precondition(lambda self: len(self.kernel.table) > 1)
    @rule(active=st.integers(0, 3))
    def connections_come_and_go(self, active: int) -> None:
        """A real server with weight 0 gets none."""
        self.kernel = busied(
            self.kernel,
            lambda one, counts: Connections(active if one.weight else min(active, counts.active)),
        )

    @precondition(lambda self: len(self.kernel.table) > 1)
    @rule(data=st.data())
    def somebody_removes_a_service(self, data: st.DataObject) -> None:
        self.meddled = True
        gone = data.draw(st.sampled_from(sorted(self.kernel.table, key=str)))
        self.kernel = replace(
            self.kernel, table={key: value for key, value in self.kernel.table.items() if key != gone}
        )

    @rule(source=st.integers(1, 2))
    def plugin_connects(self, source: int) -> None:
        if source not in self.connected:
            self.connected.add(source)
            self.given[source] = set()
            self.send(ev.PluginConnected(source=source))

    @precondition(lambda self: self.connected)
    @rule(data=st.data())
    def plugin_goes(self, data: st.DataObject) -> None:
        source = data.draw(st.sampled_from(sorted(self.connected)))
        self.connected.discard(source)
        self.reports.pop(source, None)
        held = self.given.pop(source)
        self.kept.update(dict.fromkeys(held, self.now + self.patience))
        self.send(ev.PluginLost(source=source))

    @precondition(lambda self: self.connected and self.lease is not None)
    @rule(data=st.data())
    def plugin_reports(self, data: st.DataObject) -> None:
        self.report(data.draw(st.sampled_from(sorted(self.connected))))

    def report(self, source: int) -> None:
        if self.lease is None:
            return
        self.send_report(source, Report(seq=self.lease.seq, announced=frozenset(self.wanted)))

    def send_report(self, source: int, report: Report) -> None:
        self.reports[source] = report
        if self.lease is not None and report.seq >= self.lease.seq:
            self.given[source] = set(report.announced)
        self.send(ev.PluginReported(source=source, report=report))

    @precondition(lambda self: self.connected and self.lease is not None)
    @rule(data=st.data())
    def plugin_is_behind(self, data: st.DataObject) -> None:
        """ExaBGP has not yet acknowledged what the last lease changed."""
        assert self.lease is not None
        source = data.draw(st.sampled_from(sorted(self.connected)))
        older = self.reports.get(source, Report(seq=0))
        announced = older.announced | frozenset(self.wanted)
        self.send_report(source, Report(seq=older.seq, announced=announced, pending=frozenset(self.wanted)))

    @precondition(lambda self: self.connected and self.lease is not None)
    @rule(data=st.data())
    def plugin_has_not_announced_yet(self, data: st.DataObject) -> None:
        """It follows the last lease, and the announces of it wait for ExaBGP, or were refused and come again."""
        assert self.lease is not None
        source = data.draw(st.sampled_from(sorted(self.connected)))
        pending = frozenset(self.wanted if data.draw(st.booleans()) else ())
        self.reports[source] = Report(seq=self.lease.seq, pending=pending)
        self.given[source] = set(self.wanted)
        self.send(ev.PluginReported(source=source, report=self.reports[source]))

    @precondition(lambda self: not self.stopping)
    @rule(rounds=st.just(8))
    def all_goes_well(self, rounds: int) -> None:
        for _ in range(rounds):
            self.answer_all(Outcome.OK)
            while self.pending is not None:
                self.kernel_answers(1.0)
            for source in sorted(self.connected):
                self.report(source)
            self.time_passes(0.5)

    @rule(
        scope=st.sampled_from([NODE, FILE, STOP, "web", "log", "web/rs1", "log/rs2"]),
        on=st.booleans(),
        lasts=st.booleans(),
        seconds=st.sampled_from([None, 0.5, 3.0, 20.0]),
        then=st.sampled_from(Expiry),
        skip_drain=st.booleans(),
    )
    def maintenance(
        self,
        scope: str,
        *,
        on: bool,
        lasts: bool = False,
        seconds: float | None = None,
        then: Expiry = Expiry.RESUME,
        skip_drain: bool = False,
    ) -> None:
        end = None
        if seconds is not None and not is_server(scope):
            end = End(at=self.wall + seconds, then=then, lasts=lasts)
        if not self.exited:
            if on:
                self.said[scope] = Said(end=end, due=self.now + (seconds or 0.0))
            else:
                for gone in (NODE, STOP) if scope == NODE else (scope,):
                    self.said.pop(gone, None)
        entry = Maintenance(reason="test", by="root", since=self.wall, end=end) if on else None
        self.send(ev.MaintenanceSet(scope=scope, entry=entry, skip_drain=skip_drain))

    @precondition(lambda self: not self.stopping)
    @rule(scope=st.sampled_from([NODE, FILE, "web"]))
    def it_goes_all_the_way_down(self, scope: str) -> None:
        """With nothing in its way: a bound on how long it takes."""
        self.maintenance(scope, on=True)
        timing = self.config.timing
        limits = timing.drain + timing.lease_ttl + LEAVE_PATIENCE + timing.settle + timing.quiet_limit
        self.time_passes(limits + 1.0)
        assert self.state.progress[scope].stage is Stage.DOWN
        assert self.lease is not None
        covered = {vip.name for vip in self.config.vips if scope in {*NODE_SCOPES, vip.name}}
        addresses = {host_route(a) for vip in self.config.vips if vip.name in covered for a in vip.addresses}
        assert addresses.isdisjoint(self.wanted)

    @rule(number=st.sampled_from(range(len(CONFIGS))))
    def reload(self, number: int) -> None:
        self.reconfigure(SHORT[number])

    def reconfigure(self, config: Config) -> None:
        before, old = self.config, self.state
        if not self.exited:
            self.config = config
            self.note_configured(before)
        self.send(ev.Reconfigured(config=config))
        if not self.meddled and old.kernel.snapshot is not None:
            self.check_replaced(old)

    def check_replaced(self, old: State) -> None:
        """Whatever a reload replaces: a service that had real servers for its clients has them."""
        for vip in self.state.config.vips:
            for address in vip.addresses if self.state.vips[vip.name].life.is_advertised else ():
                for service in vip.services:
                    key, low = service_key(address, service), service.quorum.low
                    if sum(one.weight > 0 for one in service.pool.servers) >= low <= weighed(old, key):
                        assert weighed(self.state, key) >= low, key

    @rule(reconcile=st.sampled_from([0.5, 5.0, 60.0]))
    def another_pace(self, reconcile: float) -> None:
        """What was proven by the old interval is proven: no route moves."""
        self.settle()
        wanted = dict(self.wanted)
        timing = replace(self.config.timing, reconcile=reconcile)
        config = replace(self.config, timing=timing)
        self.reconfigure(config)
        assert self.stopping or self.exited or self.wanted == wanted

    @rule()
    def another_sysctl(self) -> None:
        """One more is needed, and has its value already: no route moves."""
        self.settle()
        wanted = dict(self.wanted)
        if not self.config.manage_sysctls:
            self.reconfigure(replace(self.config, connection_sync=ConnectionSync(interface="lan0")))
            assert self.stopping or self.exited or self.wanted == wanted

    def settle(self) -> None:
        """All is well for a while, as it is most of the time."""
        if not (self.stopping or self.exited):
            self.all_goes_well(rounds=8)

    @precondition(lambda self: not self.stopping and not self.exited)
    @rule()
    def other_ports(self) -> None:
        """Every service moves to another port, under connections: `check_program` sees that none is cut."""
        self.settle()
        self.connections_come_and_go(active=2)
        vips = tuple(
            replace(
                vip,
                services=tuple(
                    replace(each, port=each.port ^ 1) if each.port else each for each in vip.services
                ),
            )
            for vip in self.config.vips
        )
        self.reconfigure(replace(self.config, vips=vips))
        while self.pending is not None:
            self.kernel_answers(1.0)

    # A service that is new itself, at another port, has nobody yet.
    @precondition(lambda self: all(weighed(self.state, key) for key in keys(self.config)))
    @precondition(lambda self: self.is_announced_and_well())
    @rule(outcomes=st.lists(st.sampled_from([Outcome.FAIL, Outcome.UNKNOWN]), max_size=4))
    def other_real_servers(self, outcomes: list[Outcome]) -> None:
        """All are replaced, whatever becomes of the new ones: the old ones are well, so no route moves."""
        wanted, known = dict(self.wanted), set(self.state.targets)
        vips = tuple(
            replace(
                vip,
                services=tuple(
                    replace(
                        each,
                        pool=replace(
                            each.pool,
                            servers=tuple(
                                replace(server, port=(server.port or 8000) + 1)
                                for server in each.pool.servers
                            ),
                        ),
                    )
                    for each in vip.services
                ),
            )
            for vip in self.config.vips
        )
        self.reconfigure(replace(self.config, vips=vips))
        for outcome in (*outcomes, Outcome.OK, Outcome.OK):
            new = sorted((one for one in self.state.targets if one not in known), key=str)
            self.probe(new, outcome)
            while self.pending is not None:
                self.kernel_answers(1.0)
            for vip in self.config.vips:
                for address in vip.addresses:
                    for key in keys_of(vip, address):
                        used = [one for one in self.kernel.table[key].destinations if one.weight]
                        assert used, "a route without real servers"
        assert self.wanted == wanted

    @precondition(lambda self: not self.stopping and not self.exited)
    @rule()
    def nothing_can_be_checked(self) -> None:
        """For longer than a proof lasts: `check_lease` sees that nothing is announced by it."""
        self.settle()
        for _ in range(6):
            self.answer_all(Outcome.UNKNOWN)
            self.time_passes(2.0)

    @rule()
    def other_names(self) -> None:
        """The same VIPs under new names: no route moves."""
        wanted = dict(self.wanted)
        vips = tuple(replace(vip, name=f"{vip.name[:3]}{len(vip.name)}") for vip in self.config.vips)
        self.reconfigure(replace(self.config, vips=vips))
        assert self.stopping or self.exited or self.wanted == wanted

    @precondition(lambda self: not self.stopping and not self.exited)
    @rule(
        number=st.one_of(st.none(), st.sampled_from(range(len(CONFIGS)))),
        crashes=st.sampled_from((0, 3)),
        known=st.booleans(),
    )
    def another_agent(self, number: int | None, crashes: int, *, known: bool = True) -> None:
        """The agent crashes, and another starts with what is on disk. Plugins that hang keep what they have."""
        for held in self.given.values():
            self.kept.update(dict.fromkeys(held, self.now + self.patience))
        self.connected, self.reports, self.given, self.pending = set(), {}, {}, None
        self.stale, self.last_read = False, None
        before, self.config = self.config, self.config if number is None else SHORT[number]
        self.note_configured(before)
        maintenance = {
            scope: replace(entry, began=None)
            for scope, entry in self.state.maintenance.items()
            if is_saved(scope)
        }
        self.said = {scope: said for scope, said in self.said.items() if scope in maintenance}
        old = self.state
        self.state, effects = begin(
            self.config,
            maintenance,
            self.now,
            self.wall,
            crashes=crashes,
            left=self.owned,
            before=before if known and number is not None else None,
        )
        said = dict(self.said)
        both = renamed(old, self.state)
        saved = replace(old, maintenance=maintenance)
        assert covered(saved) & both == covered(self.state) & both
        self.said = {
            scope: said[scope if scope in said else _same(maintenance, entry)]
            for scope, entry in self.state.maintenance.items()
        }
        self.unwell = dict.fromkeys(self.state.vips, self.now)
        self.held, self.proven, self.unknown = set(), set(), {}
        self.perform(effects)

    @precondition(lambda self: self.is_announced_and_well())
    @rule()
    def another_agent_in_time(self) -> None:
        """A quick restart, at which the kernel cannot be read at first: no route moves."""
        wanted = dict(self.wanted)
        self.another_agent(None, 0)
        self.kernel_does_not_answer()
        self.answer_all(Outcome.OK)
        assert self.lease is None or self.wanted == wanted, "a lease without routes"
        self.time_passes(0.3)
        while self.pending is not None:
            self.kernel_answers(1.0)
        assert self.wanted == wanted

    def is_announced_and_well(self) -> bool:
        everything = {host_route(address) for vip in self.config.vips for address in vip.addresses}
        return (
            not (self.stopping or self.exited or self.state.maintenance)
            and self.wanted == dict.fromkeys(everything, False)
            and kernels.diff(self.kernel, self.state.desired) == ()
        )

    @precondition(lambda self: not self.stopping and not self.exited)
    @rule(seconds=st.sampled_from([2.5, 30.0]))
    def suspended(self, seconds: float) -> None:
        """The machine is paused: leases run out, plugins withdraw, and what was known counts no more."""
        self.now += seconds
        self.stale = self.pending is not None
        self.wanted = {}
        self.held, self.proven, self.unknown = set(), set(), {}
        self.unwell = dict.fromkeys(self.state.vips, self.now)
        self.paused = True
        self.tick()
        self.paused = False
        assert self.state.lease.routes is None or not self.wanted

    @precondition(lambda self: not self.stopping)
    @rule(really=st.integers(0, 9))
    def stop(self, really: int) -> None:
        if really == 0:
            self.stopping = True
            self.pending = None
            self.send(ev.StopRequested())

    @invariant()
    def every_verdict_has_its_reason(self) -> None:
        for vip in self.state.vips.values():
            verdict = vip.verdict
            assert (verdict.advertise is Advertise.YES) == (verdict.reason is Reason.HEALTHY)

    def teardown(self) -> None:
        """Once everything is good, it settles to announced."""
        if not hasattr(self, "state"):
            return
        if self.stopping:
            self.time_passes(4.0)
            assert self.exited
            return
        self.maintenance(NODE, on=False)
        self.maintenance(FILE, on=False)
        for vip in self.config.vips:
            self.maintenance(vip.name, on=False)
        for scope in sorted(self.state.maintenance):
            self.maintenance(scope, on=False)
        self.all_goes_well(rounds=40)
        self.time_passes(self.config.timing.server_drain + EXPIRE_AGAIN)
        self.all_goes_well(rounds=4)
        verdicts = {name: known.verdict for name, known in self.state.vips.items()}
        everything = {host_route(a) for vip in self.config.vips for a in vip.addresses}
        assert set(self.wanted) == everything, (verdicts, self.state.kernel.error)
        assert not any(self.wanted.values())
        assert kernels.diff(self.kernel, self.state.desired) == ()
        assert self.kernel.addresses == self.state.desired.addresses
        assert not self.kernel.plain & self.state.desired.addresses
        if not self.config.ipvs_exclusive:
            ours = {
                key for key in self.kernel.table if isinstance(key, MarkKey) or key.address in self.configured
            }
            assert ours == set(self.state.desired.table)


World.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
test_the_core_keeps_its_invariants = pytest.mark.timeout(400)(World.TestCase)


class Staying(World):
    """The same world with VIPs that stay on as the last resort."""

    @precondition(lambda self: not self.stopping and not self.exited)
    @rule(all_of_them=st.booleans())
    def stay_on(self, *, all_of_them: bool) -> None:
        first, *others = self.config.vips
        vips = (staying(first), *(map(staying, others) if all_of_them else others))
        self.reconfigure(replace(self.config, vips=vips))

    @precondition(lambda self: not self.stopping and self.state.resorts)
    @rule(data=st.data())
    def one_comes_back_first(self, data: st.DataObject) -> None:
        """Nobody who has clients loses them before the others have been asked again."""
        had = {key: self.clients(key) for key in self.state.resorts}
        one = data.draw(st.sampled_from(sorted(self.state.targets, key=str)))
        for _ in range(2):
            self.probe([one], Outcome.OK)
        self.time_passes(0.5)
        drained = drained_scopes(self.state)
        for key, until in self.state.resorts.items():
            members = self.state.index.services[key].membership.members
            gone = {member.up.key for member in members if member.scope in drained}
            assert had.get(key, set()) - gone <= self.clients(key), key
            assert until > self.now

    def clients(self, key: Key) -> set[DestinationKey]:
        entry = self.state.desired.table.get(key)
        return {one.key for one in entry.destinations if one.weight} if entry is not None else set()

    @precondition(lambda self: self.is_announced_and_well())
    @rule(outcome=st.sampled_from([Outcome.FAIL, Outcome.UNKNOWN]))
    def every_server_fails(self, outcome: Outcome) -> None:
        """What stays on as the last resort is announced all the time, and all of its real servers have clients in the end."""
        stay = [
            vip
            for vip in self.config.vips
            if vip.when_unhealthy is WhenUnhealthy.LAST_RESORT and not vip.local  # that is the node's own
        ]
        prefixes = {host_route(address) for vip in stay for address in vip.addresses}
        for _ in range(6):
            self.probe(sorted((one for one in self.state.targets if one.address != HERE), key=str), outcome)
            assert prefixes <= set(self.wanted)
            for _ in range(4):  # a kernel that is not read in time is another matter
                while self.pending is not None:
                    self.kernel_answers(1.0)
                self.time_passes(0.5)
            assert prefixes <= set(self.wanted)
        if not self.stopping:
            last = {prefix for prefix, drained in self.wanted.items() if drained}
            assert prefixes == last or (prefixes <= last and self.config.fleet is not None)
        for vip in stay:
            for key in (key for address in vip.addresses for key in keys_of(vip, address)):
                members = self.state.index.services[key].membership.serving
                assert weighed(self.state, key) >= sum(member.in_use for member in members)


Staying.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
test_a_last_resort_keeps_them_too = pytest.mark.timeout(400)(Staying.TestCase)


class Limited(Staying):
    """With a limit of the fleet, and others that say anything."""

    @precondition(lambda self: not self.stopping and not self.exited)
    @rule(nodes=st.integers(1, 2))
    def limit(self, nodes: int) -> None:
        peers = tuple(PeerAt(name=name, host=name) for name in ("lb2", "lb3"))
        fleet = Fleet(velocity=Velocity(nodes=nodes), peers=peers)
        self.reconfigure(replace(self.config, fleet=fleet))

    @rule(
        names=st.sets(st.sampled_from(["lb2", "lb3"]), min_size=1),
        standing=st.sampled_from([VipStanding.ANNOUNCED, *VipStanding]),
    )
    def others_say(self, names: set[str], standing: VipStanding) -> None:
        told = VipTold(standing=standing, reason="below_quorum")
        vips = dict.fromkeys(self.state.vips, told)
        self.send(
            ev.FleetHeard(
                peers={
                    name: Peer(
                        name=name,
                        document=Document(node=name, version="1", ready=True, vips=vips),
                        heard=self.now,
                    )
                    for name in sorted(names)
                }
            )
        )

    @precondition(lambda self: self.is_announced_and_well())
    @rule(standing=st.sampled_from(VipStanding), outcome=st.sampled_from([Outcome.FAIL, Outcome.UNKNOWN]))
    def every_server_fails_under_the_limit(self, standing: VipStanding, outcome: Outcome) -> None:
        """It is taken back where another node is well, and nowhere else, unless it stays by itself."""
        self.limit(nodes=1)
        self.settle()
        everything = set(self.wanted)
        for _ in range(40):
            self.others_say({"lb2", "lb3"}, standing)
            self.probe(sorted((one for one in self.state.targets if one.address != HERE), key=str), outcome)
            while self.pending is not None:
                self.kernel_answers(1.0)
            self.time_passes(0.5)
        stay = {
            host_route(address)
            for vip in self.config.vips
            if not vip.local
            and (standing is not VipStanding.ANNOUNCED or vip.when_unhealthy is WhenUnhealthy.LAST_RESORT)
            for address in vip.addresses
        }
        assert self.wanted == dict.fromkeys(stay & everything, True)

    def send(self, event: ev.Event) -> None:
        before = self.state
        super().send(event)
        fleet = self.state.config.fleet
        if fleet is None or before.config.fleet != fleet:
            return
        for name, known in self.state.vips.items():
            was = before.vips.get(name)
            if was is None or known.verdict.advertise is not Advertise.NO:
                continue
            gone = was.life.is_advertised and known.verdict.reason in {Reason.BELOW_QUORUM, Reason.UNPROVEN}
            needs = (one.check for one in self.state.index.requirements if one.vip in {"", name})
            well = all(health_of(self.state, check).is_up for check in needs)  # they look into the node
            if not (gone and well and all(map(self.has_somebody, self.state.index.vips[name].facts))):
                continue
            assert was.verdict.limited, "it is the last resort first"
            assert any(
                peer.document is not None
                and peer.document.vips[name].standing is VipStanding.ANNOUNCED
                and (peer.heard or 0.0) > was.since
                for peer in self.state.fleet.peers.values()
            ), "nobody else announces it"

    def has_somebody(self, key: Key) -> bool:
        facts = self.state.services[key]
        return facts.serving + facts.spare + facts.undecided > 0


Limited.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
test_a_limit_of_the_fleet_keeps_them_too = pytest.mark.timeout(400)(Limited.TestCase)
