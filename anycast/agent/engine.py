"""The engine: one inbox, one writer of the state. Everything slow answers by a later event.

What renews the lease comes first, then what the inbox holds, in its order. After a slice of work the event loop has
a turn: nothing that is asked of the agent may hold the lease up.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields as fields_of
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, assert_never

import structlog

from anycast import __version__, managers
from anycast.agent import last_good, maintenance_file, owned_file, touch_file, turns
from anycast.agent.answers import (
    PLAIN,
    MaintenanceAnswer,
    NothingThereError,
    PlanAnswer,
    PlanWish,
    ReloadAnswer,
    ReloadWish,
    TooLateError,
    TurnAnswer,
    TurnWish,
)
from anycast.agent.checker import Checker
from anycast.agent.conditions import Conditions
from anycast.agent.effort import Effort
from anycast.agent.inbox import SLICE, Inbox
from anycast.agent.latest import Latest
from anycast.agent.planning import Plans
from anycast.agent.run_log import RunLog
from anycast.agent.start import cut
from anycast.analysis import capacity
from anycast.analysis.capacity import Demand, Measured
from anycast.analysis.managers import MANAGERS, dangers
from anycast.config.apart import Reading
from anycast.config.changes import changes
from anycast.config.kept import FILE as LAST_GOOD
from anycast.config.kept import census_of, census_of_files
from anycast.config.loaded import Loaded
from anycast.config.needed import missing_hooks
from anycast.config.problem import ConfigError
from anycast.core import events as ev
from anycast.core.confirmation import NEXT, Signal, Stage
from anycast.core.dataplane.ipvs import Key
from anycast.core.dataplane.kernel import Desired, Failure, IpvsNeed, KernelOp, Snapshot, touched
from anycast.core.fleet.asking import is_of
from anycast.core.health.phase import Outcome, Result
from anycast.core.hooks import Tally as HookTally
from anycast.core.in_force import AS_WRITTEN, InForce, Refused, trial_left
from anycast.core.lease import due
from anycast.core.maintenance.clocks import End
from anycast.core.maintenance.stages import FILE, Maintenance, is_saved, is_server
from anycast.core.owned import NOTHING, Owned
from anycast.core.reload import carried, in_slices
from anycast.core.removal import removes_nothing, suspicions
from anycast.core.state import State
from anycast.core.step import begin, next_wake, step
from anycast.core.values.configuration import RELOADED, Address, Config, Target
from anycast.core.values.persistent import PersistentMap
from anycast.core.values.standing import Condition
from anycast.kernel.errors import KernelUnavailable
from anycast.lease import Lease
from anycast.ops.hub import Hub
from anycast.ops.source import TOUCH_FILE, Facts, Tally, Work
from anycast.ops.strain import Strain
from anycast.probes.wires.wires import GIVEN_UP

if TYPE_CHECKING:
    from anycast.agent.recording import Recorder

log = structlog.get_logger()

Clock = Callable[[], float]

KERNEL_PATIENCE = 60.0  # seconds for one program and its reading back; each request has its own deadline
WATCH_RETRY = 1.0  # seconds until the watch of the kernel is begun again
FILE_PERIOD = 0.5  # seconds between two looks for the file that means maintenance
AT_ONCE = 0.1  # seconds within which two readings of the clocks are of one instant
LINES = 128  # of the log, that are written in one turn: two milliseconds of rendering
AT_WORK = 0.9  # of a lease's time to live: instants no further apart are of one time of work
TOLD, LAST = 1000, 100  # problems or changes of a reload; and of those, the last ones
CHANGED = 400  # real servers of VIPs, about, that a reload changes in one turn
GROWTH = 1.25  # times as many real servers as were carried are taken without a trial
SAVE_AGAIN = 5.0  # seconds until what could not be saved is tried again
_ELSEWHERE = (
    "{}: node.state_dir cannot be changed on trial: a restart would look there for what to go back to, and not in {} "
    "(reload without --confirm-within)"
)
LEAVE_PATIENCE = 5.0  # seconds the checks and a save under way have at the end
_ROUTE_ACTIONS = {"route.announced": "announce", "route.withdrawn": "withdraw", "route.refused": "refuse"}
OWNED = "owned.json"  # in the state directory
NEVER_FAILED = Tally()
_DOING: Mapping[type[ev.Event], str] = {
    ev.Tick: "the passing of time",
    ev.Probed: "results of checks",
    ev.KernelRead: "a reading of the kernel",
    ev.KernelFailed: "a reading of the kernel that failed",
    ev.KernelChanged: "a change of the kernel",
    ev.PluginConnected: "a plugin that connected",
    ev.PluginReported: "a report of the plugin",
    ev.PluginSaw: "what routers have",
    ev.PluginLost: "a plugin that was lost",
    ev.Reconfigured: "a reload",
    ev.MaintenanceSet: "a maintenance",
    ev.LeaveAsked: "the turn for a maintenance",
    ev.LeaveDropped: "the turn for a maintenance",
    ev.ConditionSet: "a condition of the node",
    ev.FleetHeard: "what is heard of other nodes",
    ev.StopRequested: "the stop",
}
OTHER_WORK = "other work of the agent"
NO_PROCESSOR = "waiting for the processor"
ENDED = "the agent is ending; nothing was changed (repeat the command once the next one runs)"


class Kernel(Protocol):
    """What the engine asks of the kernel: `anycast.kernel.adapter.Kernel`."""

    async def read(
        self,
        wanted_sysctls: Iterable[str],
        *,
        only: Iterable[Key] | None = None,
        alike: Desired | None = None,
        need: IpvsNeed = IpvsNeed.NEEDED,
        arriving: Mapping[str, tuple[Address, ...]] = MappingProxyType({}),
        discards: bool = False,
    ) -> Snapshot: ...

    async def play(self, ops: Sequence[KernelOp]) -> tuple[Failure, ...]: ...

    async def watch(self, on_change: Callable[[frozenset[Address]], None]) -> None: ...

    async def close(self) -> None: ...


class _Submitted(NamedTuple):
    """An event whose sender waits. Keeps the event alive, and so its id()."""

    event: ev.Event
    done: asyncio.Future[bool]
    deadline: float

    def is_late(self, now: float) -> bool:
        """Refused then."""
        late = now > self.deadline
        if late and not self.done.done():
            self.done.set_exception(TooLateError())
        return late

    def answer(self, *, went_through: bool) -> None:
        if not self.done.done():
            self.done.set_result(went_through)


class _Reload:
    """A reading of the file that has not begun: whoever asks for the same until then gets its answer."""

    def __init__(self, task: asyncio.Task[ReloadAnswer], deadline: float) -> None:
        self.task = task
        self.deadline = deadline  # of the most patient


class Engine:
    """Feeds `step` and carries out its effects. Also the source of the ops process, and what takes commands."""

    def __init__(
        self,
        loaded: Loaded,
        path: Path,
        *,
        kernel: Kernel,
        send_lease: Callable[[Lease], None],
        clock: Clock = time.monotonic,
        wall: Clock = time.time,
        cpu: Clock = time.thread_time,
        stood: Callable[[float, float], float] = lambda since, until: until - since,
        events: Hub | None = None,
        recorder: Recorder | None = None,
        passed: Callable[[float], None] = lambda _: None,
        crashes: int = 0,
        left: Owned = NOTHING,
        conditions: Conditions | None = None,
        force: InForce = AS_WRITTEN,
        saved: str = "",
        before: Config | None = None,
    ) -> None:
        """`events`: what the log tells goes there too. `recorder`: gets everything that `step` is given.

        `crashes`: of the agents before. `left`: what the last of them owned in the kernel.

        `cpu`: processor time of this thread, which tells how much work something was, however busy the node is.

        `stood`: for how long at a time, within two instants, the process did not run.

        `force`: how `loaded` stands to the file. `saved`: the digest of the last good configuration on disk.

        `passed` is told the instant of every event that was dealt with, after its effects are under way.
        """
        _log_warnings(loaded)
        # A start goes on without them, for a hook must not keep a route down.
        for problem in missing_hooks(loaded.paths):
            log.warning("config.warned", warning=str(problem))
        self.conditions = Conditions() if conditions is None else conditions
        self._path = path
        self._loaded = loaded
        self._kernel = kernel
        self._kernel_is_read = False  # and nothing failed since
        self._send_lease = send_lease
        self._clock = clock
        self._wall = wall
        self._passed = passed
        self._cpu = cpu
        self._stood = stood
        self._inbox = Inbox(self._can_fall, self._beside)
        self._arrived = asyncio.Event()
        self._turn_ends = -math.inf  # of the engine: then the event loop has one
        self._cpu_before = cpu()  # when the last turn ended
        self._lines: deque[ev.Log] = deque()  # that are still to be written
        self._waiting: dict[int, _Submitted] = {}  # by id() of the event that is waited for
        self._ended = False
        self._checker = Checker(self._report, forgotten=self._forget, told=_of_wires)
        self._jobs: set[asyncio.Task[None]] = set()
        self._maintenance_path = Path(loaded.config.node.state_dir) / "maintenance.json"
        self._boot = maintenance_file.boot_id()
        self._touch_path = Path(loaded.config.node.runtime_dir) / TOUCH_FILE
        self._touched: Maintenance | None = None
        self._owned_path = Path(loaded.config.node.state_dir) / OWNED
        self._maintenance_file = Latest(
            self._save,
            self._not_saved,
            partial(self.conditions.end, Condition.MAINTENANCE_NOT_SAVED),
            retry=SAVE_AGAIN,
        )
        self._owned_file = Latest(
            self._save_owned,
            self._owned_not_saved,
            partial(self.conditions.end, Condition.OWNED_NOT_SAVED),
            retry=SAVE_AGAIN,
        )
        self._kernel_change_posted = False
        self._lost_addresses: frozenset[Address] = frozenset()
        self._reload_lock = asyncio.Lock()
        self._plans = Plans(path, self, self._reload_lock, _told, clock)
        self._next_reloads: dict[ReloadWish, _Reload] = {}
        self._reading: Reading | None = None  # of a reload that is under way
        self._reloads: set[asyncio.Task[ReloadAnswer]] = set()
        self._last_step = clock()
        self._force = force
        self._saved_digest = saved
        self._before: Loaded | None = None  # what `undo` goes back to
        self._trial: asyncio.Task[None] | None = None  # waits for its end
        self._state_dir = Path(loaded.config.node.state_dir)
        self._last_good = Latest(
            self._save_last_good, self._last_good_not_saved, self._last_good_saved, retry=SAVE_AGAIN
        )
        self._reloaded_at = time.time()
        self.clean_exit = False
        self._events = Hub() if events is None else events
        self._tallies: PersistentMap[Target, Tally] = PersistentMap()
        self._counted: dict[Target, Tally] = {}  # since those
        self._uncounted: set[Target] = set()  # since those, for they are no longer checked
        self._recorder = recorder
        self._work = Work()
        self.stepped: Callable[[tuple[ev.Effect, ...]], None] = lambda _: None  # after each step
        self.hook_tallies: Callable[[], Mapping[str, HookTally]] = dict
        kept, now, at = self._kept_maintenance(), clock(), wall()
        if recorder is not None:
            recorder.begin(
                loaded.config, kept, now, at, __version__, crashes=crashes, left=left, before=before
            )
        self._effort = Effort()
        self._demands = capacity.Demands()
        self._carried = self._demands.of(loaded.config)
        began, worked = clock(), cpu()
        self._state, self._first = begin(
            loaded.config, kept, now, at, crashes=crashes, left=left, before=before
        )
        worked = cpu() - worked
        self._effort.worked(clock() - began, worked)
        # It serves all the same: a node that does not start serves nobody.
        measured = Measured(conclusion=worked, slowdown=self._effort.slowdown)
        for finding in capacity.findings(loaded.config, self._carried, measured):
            log.warning("config.warned", warning=finding)

    @property
    def state(self) -> State:
        return self._state

    @property
    def last_step(self) -> float:
        return self._last_step

    @property
    def reload_ok(self) -> bool:
        return self._force.reload_ok

    @property
    def force(self) -> InForce:
        """How the configuration in force stands to the file."""
        loaded, force = self._loaded, self._force
        if (force.fingerprint, force.nodes) != (loaded.fingerprint, loaded.nodes):
            self._force = force = replace(force, fingerprint=loaded.fingerprint, nodes=loaded.nodes)
        return force

    @property
    def facts(self) -> Facts:
        """All that others may know."""
        self._tallies = self._tallies.updated(self._counted, self._uncounted)
        self._counted, self._uncounted = {}, set()
        return Facts(
            state=self._state,
            last_step=self._last_step,
            force=self.force,
            reloaded_at=self._reloaded_at,
            tallies=self._tallies,
            probes={kind: probes.runs for kind, probes in self._checker.probes.items()},
            work=self._work,
            hooks=dict(self.hook_tallies()),
            numbers=self.runs.numbers,
            tripwires=self._checker.tripwires,
        )

    @property
    def events(self) -> Hub:
        return self._events

    @property
    def runs(self) -> RunLog:
        return self._checker.runs

    def post(self, event: ev.Event) -> None:
        """Put an event in line. Callable from anywhere in the loop's thread."""
        self._inbox.put(event)
        self._arrived.set()

    def kernel_changed(self, lost: frozenset[Address] = frozenset()) -> None:
        """However many changes come together, one event tells of them. `lost`: addresses that went."""
        self._lost_addresses |= lost
        if not self._kernel_change_posted:
            self._kernel_change_posted = True
            self.post(ev.KernelChanged())

    async def run(self) -> None:
        """Until everything is withdrawn after a StopRequested. What it raises is a defect: the process must end."""
        self.conditions.bind(self.post)
        watching = [asyncio.create_task(self._watch()), asyncio.create_task(self._watch_file())]
        try:
            self._perform(self._first)
            if self._force.reload_ok:
                self._keep_last_good(self._loaded)
            while not self._state.exited:
                event = await self._next()
                if event is not None:
                    self._take(event)
        finally:
            self._ended = True
            if (reading := self._reading) is not None:
                reading.give_up()  # else the agent would not end before it
            self._plans.give_up()
            for submitted in self._waiting.values():
                submitted.answer(went_through=False)
            self._write_lines(len(self._lines))
            await self._leave(watching)

    def _take(self, event: ev.Event) -> None:
        """One turn of the engine."""
        cpu, now = self._cpu(), self._clock()
        self._last_step = now
        submitted = self._waiting.pop(id(event), None)
        if submitted is not None and submitted.is_late(now):
            return
        lease_due = due(self._state)
        try:
            for instant in self._busy_until(now):
                self._step(ev.Tick(), instant)
            effects = self._step(self._dated(event, now) if isinstance(event, ev.Tick) else event, now)
        except BaseException:
            if submitted is not None:
                submitted.answer(went_through=False)
            raise
        if submitted is not None:
            submitted.answer(went_through=True)
        self.stepped(effects)
        self._weigh(event, effects, now, lease_due=lease_due, cpu=cpu)
        self._passed(now)

    def _step(self, event: ev.Event, now: float) -> tuple[ev.Effect, ...]:
        if self._recorder is not None:
            self._recorder.event(event, now)
        self._state, effects = step(self._state, event, now)
        self._perform(effects)
        return effects

    def _busy_until(self, now: float) -> Iterator[float]:
        """Instants that tell the core of a long time of work that it was no suspension, after which all is proven anew.

        That would be as much work again, and so for ever: the routes would come and go with nothing wrong.
        """
        ttl = self._state.config.timing.lease_ttl
        at = self._state.seen
        if now - at > ttl and self._stood(at, now) <= ttl:
            while (at := at + ttl * AT_WORK) < now:
                yield at

    def _weigh(
        self, event: ev.Event, effects: tuple[ev.Effect, ...], now: float, *, lease_due: float, cpu: float
    ) -> None:
        """What the turn has cost, which began at `now` and `cpu`; and how late the lease was, if it sent one."""
        done, cpu_done = self._clock(), self._cpu()
        self._inbox.took(event, cpu_done - cpu)
        self._effort.worked(done - now, cpu_done - cpu)
        if self._effort.is_due(done):
            runs = sum(sum(kind.outcomes.values()) for kind in self._checker.probes.values())
            self._effort.checked(runs, time.process_time(), done)
        seconds, strain = done - now, self._work.strain
        doing = _DOING[type(event)] if cpu_done - cpu > seconds / 2 else NO_PROCESSOR
        if lease_due <= now and any(isinstance(effect, ev.SendLease) for effect in effects):
            strain = strain.sent(done - lease_due)
            waited = now - lease_due
            # A suspension is told by itself.
            if waited > seconds and not any(isinstance(effect, ev.ProbeAnew) for effect in effects):
                busy = cpu - self._cpu_before > waited / 2
                doing, seconds = OTHER_WORK if busy else NO_PROCESSOR, waited
        self._cpu_before = cpu_done
        if done - now > SLICE / 2:
            self._turn_ends = now  # the next may take as long
        self._told(strain, doing, seconds, done)

    def _told(self, strain: Strain, doing: str, seconds: float, now: float) -> None:
        """`doing` has taken so many seconds until now: keep it, and tell of an overload that begins or is over."""
        calm = strain.calmed(now)
        if calm is not strain and strain.overload is not None:
            over = strain.overload
            fields = {"doing": over.doing, "seconds": round(over.seconds, 3), "times": over.times}
            log.info("agent.overload_ended", **fields)
        ttl = self._state.config.timing.lease_ttl
        strain = calm.took(doing, seconds, ttl=ttl, now=now)
        if strain.overload is not None and calm.overload is None:
            fields = {"doing": doing, "seconds": round(seconds, 3), "limit": round(strain.overload.limit, 3)}
            log.error("agent.overloaded", **fields, lease_ttl=ttl)
        if strain is not self._work.strain:
            self._work = replace(self._work, strain=strain)

    def _dated(self, tick: ev.Tick, now: float) -> ev.Tick:
        """With the wall clock of the instant `now`, unless the process was held up in between."""
        wall = self._wall()
        return ev.Tick(wall=wall) if self._clock() - now < AT_ONCE else tick

    async def _leave(self, watching: Iterable[asyncio.Task[None]]) -> None:
        self._maintenance_file.close()
        self._owned_file.close()
        self._last_good.close()
        ending: set[asyncio.Task[Any]] = {*watching, *self._jobs}
        for task in ending:
            task.cancel()
        ending.add(asyncio.create_task(self._checker.close()))
        ending |= self._reloads  # which are told that it is over
        files = (self._maintenance_file, self._owned_file, self._last_good)
        ending |= {saving for file in files if (saving := file.last)}
        await asyncio.wait(ending, timeout=LEAVE_PATIENCE)
        await self._kernel.close()

    async def _watch(self) -> None:
        """The kernel is read back anyway, so without the watch all is well, only later: begin it again."""
        said = ""
        over: asyncio.TimerHandle | None = None
        while True:
            try:
                await self._kernel.watch(self.kernel_changed)
            except Exception as error:  # noqa: BLE001 - whatever it is, it must not end the watching
                text = f"changes of addresses are not noticed at once, only at the next reading: {error!r}"
                self.conditions.begin(Condition.KERNEL_UNWATCHED, text)
                if over is not None:
                    over.cancel()
                if repr(error) != said:
                    said = repr(error)
                    log.error("kernel.watch_failed", error=said)
            await asyncio.sleep(WATCH_RETRY)
            # It goes on for a while without failing again.
            over = asyncio.get_running_loop().call_later(
                2 * WATCH_RETRY, self.conditions.end, Condition.KERNEL_UNWATCHED
            )

    async def _watch_file(self) -> None:
        """In a thread: whatever the runtime directory lies on must not hold the lease up."""
        said = ""
        while True:
            try:
                found = await asyncio.to_thread(touch_file.look, self._touch_path)
            except Exception as error:  # noqa: BLE001 - whatever it is, it must not end the watching
                text = f"nobody can tell whether the file {self._touch_path} is there, which means maintenance: {error!r}"
                self.conditions.begin(Condition.MAINTENANCE_FILE_UNREADABLE, text)
                if repr(error) != said:
                    said = repr(error)
                    log.error("maintenance.file_unreadable", path=str(self._touch_path), error=said)
            else:
                said = ""
                self.conditions.end(Condition.MAINTENANCE_FILE_UNREADABLE)
                if found != self._touched:
                    self._touched = found
                    self.post(ev.MaintenanceSet(scope=FILE, entry=found))
            await asyncio.sleep(FILE_PERIOD)

    async def _next(self) -> ev.Event | None:
        """None: it was the turn of others."""
        now = self._clock()
        if now >= self._turn_ends:
            await asyncio.sleep(0)
            now = self._clock()
            self._turn_ends = now + SLICE
        # A wake that is due goes before an inbox that never empties: the lease must not wait behind results.
        wait = next_wake(self._state, now) - now
        if wait <= 0:
            return ev.Tick()
        if self._lines:
            self._write_lines(LINES)
        event = self._inbox.take()
        if isinstance(event, ev.KernelChanged):
            self._kernel_change_posted = False
            event, self._lost_addresses = ev.KernelChanged(lost=self._lost_addresses), frozenset()
        if event is not None or self._lines:
            return event
        self._arrived.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self._arrived.wait()
        self._turn_ends = self._clock() + SLICE
        return None

    def _can_fall(self, target: Target) -> bool:
        health = self._state.health.get(target)
        return health is not None and health.is_up

    def _beside(self, target: Target) -> Iterable[Target]:
        return self._state.index.beside(target)

    def _report(self, target: Target, result: Result) -> None:
        self._inbox.report(target, result)
        self._arrived.set()
        known = self._counted.get(target) or self._tallies.get(target)
        if result.outcome is Outcome.FAIL or known is not None:
            self._counted[target] = (known or NEVER_FAILED).count(result.outcome)

    def _forget(self, target: Target) -> None:
        self._counted.pop(target, None)
        if target in self._tallies:
            self._uncounted.add(target)

    def _write_lines(self, most: int) -> None:
        """Of the log, those that are written in this turn."""
        for _ in range(min(most, len(self._lines))):
            line = self._lines.popleft()
            getattr(log, line.level)(line.event, **line.fields)

    def _perform(self, effects: tuple[ev.Effect, ...]) -> None:
        for effect in effects:
            if isinstance(effect, ev.SendLease):
                self._send_lease(effect.lease)
        for effect in effects:
            match effect:
                case ev.ScheduleProbe(target=target, after=after, quiet=quiet):
                    self._checker.schedule(target, after, quiet=quiet)
                case ev.Log(event=name, fields=fields):
                    if name in _ROUTE_ACTIONS:
                        self._work = self._work.route(str(fields["prefix"]), _ROUTE_ACTIONS[name])
                    self._lines.append(effect)
                case ev.SetTargets(targets=targets):
                    self._checker.set_targets(targets)
                case ev.ProbeAnew():
                    self._inbox.forget_results()  # of runs that began before
                    self._checker.probe_anew()
                case ev.ReadKernel() | ev.ProgramKernel():
                    self._start(self._kernel_job(effect))
                case ev.NameOthers(over=over):
                    if over:
                        for program in MANAGERS:
                            self.conditions.end(Condition.ADDRESSES_CONTESTED, about=program)
                    else:
                        self._start(asyncio.create_task(self._name_others()))
                case ev.SendLease():
                    pass  # it went first
                case ev.SaveMaintenance(entries=entries):
                    self._maintenance_file.put(entries)
                case ev.SaveOwned(owned=owned):
                    self._owned_file.put(owned)
                case ev.Exit(clean=clean):
                    self.clean_exit = clean
                case _:
                    assert_never(effect)
        self._write_lines(LINES)

    def _start(self, job: asyncio.Task[None]) -> None:
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    def _kernel_job(self, effect: ev.ReadKernel | ev.ProgramKernel) -> asyncio.Task[None]:
        return asyncio.create_task(self._use_kernel(effect))

    async def _name_others(self) -> None:
        """In a thread: it looks at files. The agent's user may read those that programs keep below /run."""
        config = self._state.config
        found = await asyncio.to_thread(managers.read)
        for one in dangers(found, config.node.interface, self._state.index.addresses):
            if one.now and (Condition.ADDRESSES_CONTESTED, "") in self._state.standing:
                text = f"it may be {one.program}: {one.text} (cure: {one.fix})"
                self.conditions.begin(Condition.ADDRESSES_CONTESTED, text, about=one.program)

    async def _use_kernel(self, effect: ev.ReadKernel | ev.ProgramKernel) -> None:
        failures: tuple[Failure, ...] = ()
        began = self._clock()
        try:
            async with asyncio.timeout(KERNEL_PATIENCE):
                only = None
                if isinstance(effect, ev.ProgramKernel):
                    failures = await self._kernel.play(effect.ops)
                    if self._kernel_is_read and not failures:
                        only = touched(effect.ops)
                self._kernel_is_read = False
                snapshot = await self._kernel.read(
                    effect.sysctls,
                    only=only,
                    alike=self._state.desired,
                    need=effect.ipvs,
                    arriving=effect.arriving,
                    discards=effect.discards,
                )
                self._kernel_is_read = True
        except TimeoutError:
            self.post(ev.KernelFailed(reason=f"not done within {KERNEL_PATIENCE:g} s"))
        except KernelUnavailable as error:
            self._checker.spare()
            self.post(ev.KernelFailed(reason=error.reason))
        except Exception as error:
            log.exception("kernel.unexpected")
            self.post(ev.KernelFailed(reason=f"unexpected, please report it as a defect: {error!r}"))
        else:
            self._work = self._work.job(self._clock() - began)
            self.post(ev.KernelRead(snapshot=snapshot, failures=failures, partial=only is not None))

    async def _submit(self, event: ev.Event, deadline: float) -> bool:
        """True once `event` has been through `step` and its effects are under way; False if the engine ends first.

        Raises TooLateError: `deadline` passed before that, and nothing will happen.
        """
        if self._ended:
            return False
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting[id(event)] = _Submitted(event, done, deadline)
        self.post(event)
        return await done

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
        entry = Maintenance(reason=reason, by=by, since=self._wall(), end=end) if on else None
        event = ev.MaintenanceSet(scope=scope, entry=entry, skip_drain=skip_drain, by="" if on else by)
        if not await self._submit(event, deadline):
            return MaintenanceAnswer(saved=False, error=ENDED)
        if not is_saved(scope):
            return MaintenanceAnswer(saved=False)
        saving = self._maintenance_file.last
        error = "" if saving is None else await self._saved(saving, deadline)
        return MaintenanceAnswer(saved=not error, error=error)

    async def leave(
        self,
        scope: str,
        wish: TurnWish,
        *,
        reason: str,
        by: str,
        end: End | None = None,
        skip_drain: bool = False,
        deadline: float = math.inf,
    ) -> MaintenanceAnswer | TurnAnswer:
        """The same, once the other nodes let it go; until then it is asked again."""
        state, now = self._state, self._clock()
        hindered = await turns.hindered(state, scope, wish.number, now)
        event = ev.LeaveAsked(
            scope=scope,
            entry=Maintenance(reason=reason, by=by, since=self._wall(), end=end),
            skip_drain=skip_drain,
            waits=wish.waits,
            number=wish.number,
            ago=wish.ago,
            hindered=hindered,
            counted=turns.counted(state, scope, wish.number, now),
            random=random.random(),  # noqa: S311 - it decides between two who ask at once
        )
        if not await self._submit(event, deadline):
            return MaintenanceAnswer(saved=False, error=ENDED)
        if scope in self._state.maintenance:
            saving = self._maintenance_file.last
            error = "" if saving is None else await self._saved(saving, deadline)
            return MaintenanceAnswer(saved=not error, error=error)
        seat = self._state.seat
        if seat.is_asking and not is_of(seat, scope, wish.number, by):
            about = f" about {seat.wish.scope}" if seat.wish.scope else ""
            return TurnAnswer(
                seat=seat, refused=(f"{seat.by} is asking the others already{about}, on this node",)
            )
        refused = () if seat.is_asking or seat.decision is None else seat.decision.reasons
        return TurnAnswer(seat=seat, refused=refused)

    async def stay(self, scope: str, number: int, *, by: str, deadline: float = math.inf) -> None:
        """The turn is no longer asked for."""
        await self._submit(ev.LeaveDropped(scope=scope, number=number, by=by), deadline)

    async def _saved(self, saving: asyncio.Task[str], deadline: float) -> str:
        """Why it is not saved, by the deadline; empty: it is."""
        patience = None if deadline == math.inf else max(0.0, deadline - self._clock())
        await asyncio.wait({saving}, timeout=patience)
        return (
            saving.result()
            if saving.done()
            else f"{self._maintenance_path}: the disk is slow; it is being written"
        )

    def _save(self, entries: Mapping[str, Maintenance]) -> None:
        maintenance_file.save(self._maintenance_path, entries, self._boot)

    def _not_saved(self, error: OSError) -> str:
        why = f"{self._maintenance_path}: {error.strerror or error}"
        text = f"maintenance cannot be saved ({why}): what is in force now does not outlive the agent"
        if self.conditions.begin(Condition.MAINTENANCE_NOT_SAVED, text):
            log.error("maintenance.not_saved", path=str(self._maintenance_path), error=str(error))
        return why

    def _save_owned(self, owned: Owned) -> None:
        owned_file.save(self._owned_path, owned, self._boot)

    def _owned_not_saved(self, error: OSError) -> str:
        text = (
            f"what this node owns in the kernel cannot be saved ({self._owned_path}: {error.strerror or error}): what a "
            "configuration drops while no agent runs would stay there"
        )
        if self.conditions.begin(Condition.OWNED_NOT_SAVED, text):
            log.error("owned.not_saved", path=str(self._owned_path), error=str(error))
        return str(error)

    def _kept_maintenance(self) -> dict[str, Maintenance]:
        """What is on disk, and the file: before anything can be announced."""
        try:
            kept = maintenance_file.load(self._maintenance_path, self._boot)
        except maintenance_file.DamagedError as error:
            log.error("maintenance.damaged", error=str(error))
            kept = maintenance_file.after_damage(error, self._wall())
        with contextlib.suppress(OSError):  # told by the watching
            self._touched = touch_file.look(self._touch_path)
        return kept if self._touched is None else {**kept, FILE: self._touched}

    async def reload(self, wish: ReloadWish = PLAIN, *, deadline: float = math.inf) -> ReloadAnswer:
        """Apply the file as it is now, or keep what is in force and say why.

        However many ask for the same while one is under way, the file is read once more, and all of them have that answer.
        """
        coming = self._next_reloads.get(wish)
        if coming is None:
            task = asyncio.create_task(self._reload(wish))
            self._reloads.add(task)
            task.add_done_callback(self._reloads.discard)
            coming = self._next_reloads[wish] = _Reload(task, deadline)
        coming.deadline = max(coming.deadline, deadline)
        return await asyncio.shield(coming.task)

    async def _reload(self, wish: ReloadWish) -> ReloadAnswer:
        async with self._reload_lock:
            deadline = self._next_reloads.pop(wish).deadline
            if self._clock() > deadline:
                return ReloadAnswer(ok=False, problems=(str(TooLateError()),))
            try:
                loaded = await asyncio.to_thread(self._read)
                if absent := await asyncio.to_thread(missing_hooks, loaded.paths):
                    raise ConfigError(absent)
            except ConfigError as error:
                # Not all, for 200,000 would be built and sent by the loop that sends the lease.
                problems = _told(error.problems, "`anycast check` shows more")
                return self._refused(problems, len(error.problems))
            except RuntimeError as error:  # the reading was given up
                return (
                    ReloadAnswer(ok=False, problems=(ENDED,)) if self._ended else self._refused((str(error),))
                )
            except Exception as error:
                why = f"a defect, please report it: {error!r}"
                self._force = self._with_refusal(1, why)
                log.exception("config.unexpected")
                return ReloadAnswer(ok=False, problems=(why,))
            if other := self._another(loaded):
                return self._refused(other)
            if not wish.allow_removal and (removed := await self._removed(loaded)):
                return self._refused(removed)
            return await self._try(loaded, wish, deadline)

    async def plan(self, wish: PlanWish, *, deadline: float = math.inf) -> PlanAnswer:
        """What a reload would do. Raises TooLateError."""
        return await self._plans.plan(wish, deadline=deadline)

    @property
    def loaded(self) -> Loaded:
        return self._loaded

    def to_come(self, config: Config) -> Config:
        """What is in force once it is reloaded: sockets, files and the interface were opened by what `node` said at the start."""
        kept = {name: getattr(config.node, name) for name in RELOADED}
        return replace(config, node=replace(self._state.config.node, **kept))

    async def not_meant(self, loaded: Loaded) -> tuple[str, ...]:
        return await self._removed(loaded)

    def _another(self, loaded: Loaded) -> tuple[str, ...]:
        """The file of a fleet is that of another node now: what it has in the kernel and in its state is not that one's."""
        mine, found = self._state.config.node.name, loaded.config.node.name
        if not loaded.nodes or found == mine:
            return ()
        what = f"{self._path}: it is read as that of the node {found} now, and this agent is {mine}"
        return (f"{what} (correct node.name or the host name, or start the agent again)",)

    async def not_carried(self, loaded: Loaded) -> tuple[str, ...]:
        if other := self._another(loaded):
            return other
        asked = await asyncio.to_thread(self._demands.of, loaded.config)
        return await self._not_carried(loaded.config, asked)

    def _read(self) -> Loaded:
        """In a thread. Raises ConfigError; RuntimeError: it was given up, as it is when the agent ends."""
        self._reading = reading = Reading(self._path, self._loaded)
        try:
            if self._ended:
                reading.give_up()
            return reading.result()
        finally:
            self._reading = None

    def _refused(self, problems: tuple[str, ...], number: int = 0) -> ReloadAnswer:
        """`number`: of all there are, where not all are told."""
        number = number or len(problems)
        self._force = self._with_refusal(number, problems[0])
        log.error("config.rejected", problems=number, first=problems[0])
        return ReloadAnswer(ok=False, problems=problems)

    def _with_refusal(self, number: int, first: str) -> InForce:
        """It stands since the first of several."""
        known = self._force.refused
        since = self._clock() if known is None else known.since
        refused = Refused(since=since, problems=number, first=cut(first))
        return replace(self._force, refused=refused)

    async def _removed(self, loaded: Loaded) -> tuple[str, ...]:
        """What in it nobody may mean. In a thread: it may look at all real servers."""
        if loaded.digest == self._loaded.digest:
            return ()
        found = await asyncio.to_thread(_suspicions, self._loaded, loaded)
        return tuple(
            f"{self._path}: {one} (`anycast reload --allow-removal` if it is meant)" for one in found
        )

    async def _try(self, loaded: Loaded, wish: ReloadWish, deadline: float) -> ReloadAnswer:
        """Apply it, unless this machine cannot carry it; on trial, if it is wished or belongs to a trial."""
        asked = await asyncio.to_thread(self._demands.of, loaded.config)
        if problems := await self._not_carried(loaded.config, asked):
            return self._refused(problems)
        old, was_on_trial = self._loaded, self._force.stage is Stage.ON_TRIAL
        stage = self._stage_with(loaded, wish)
        if stage is Stage.ON_TRIAL and Path(loaded.config.node.state_dir) != self._state_dir:
            return self._refused((_ELSEWHERE.format(self._path, self._state_dir),))
        # Before it is in force: it may be what ends the agent, and the next one must not start with it.
        if stage is Stage.ON_TRIAL and (why := await self._marked(loaded.digest)):
            return self._refused(
                (f"a restart would not go back, for it cannot be marked as on trial: {why}",)
            )
        answer = await self._apply(loaded, deadline)
        if not answer.ok:
            if stage is Stage.ON_TRIAL:
                await (self._marked(old.digest) if was_on_trial else self._unmarked())
            return answer
        self._carried = asked
        if not was_on_trial and loaded.digest != old.digest:
            self._before = old
        ends = self._force.ends if wish.confirm_within is None else self._clock() + wish.confirm_within
        self._entered(stage, ends if stage is Stage.ON_TRIAL else math.inf)
        if stage is Stage.CONFIRMED:
            self._keep_last_good(loaded)
        left = trial_left(self._force, self._clock())
        log.info(
            "config.applied",
            changes=answer.changes,
            **({} if left is None else {"confirm_s": round(left, 1)}),
        )
        return replace(answer, confirm_s=left)

    def _stage_with(self, loaded: Loaded, wish: ReloadWish) -> Stage:
        """What is no other than before needs no trial."""
        stage, before = self._force.stage, self._loaded
        if stage is Stage.ON_TRIAL and self._before is not None:
            before = self._before
        if loaded.digest == before.digest:
            return Stage.CONFIRMED
        return NEXT[stage, Signal.APPLIED if wish.confirm_within is None else Signal.TRIED]

    async def _apply(self, loaded: Loaded, deadline: float = math.inf) -> ReloadAnswer:
        """Put it in force."""
        before, old = self._state, self._state.config
        # A thread: it works out what moves under Maglev, which takes a while in large pools.
        words = await asyncio.to_thread(changes, old, loaded.config)
        words = _told(words, "not shown")
        config = self.to_come(loaded.config)
        whole = any(
            map(is_server, before.maintenance)
        )  # its real server may have other names in several VIPs
        for part in [config] if whole else await asyncio.to_thread(in_slices, old, config, CHANGED):
            try:
                applied = await self._submit(ev.Reconfigured(config=part), deadline)
            except TooLateError as error:
                return ReloadAnswer(ok=False, problems=(str(error),))
            if not applied:
                return ReloadAnswer(ok=False, problems=(ENDED,))
            deadline = math.inf  # what has begun comes to its end
        self._loaded = loaded
        self._not_reloaded(loaded)
        self._reloaded_at = time.time()
        return ReloadAnswer(
            ok=True,
            changes=words,
            warnings=(
                *_log_warnings(loaded),
                # A thread: what was renamed is looked for among all real servers.
                *await asyncio.to_thread(_moved, before, self._state.configured),
            ),
        )

    def _not_reloaded(self, loaded: Loaded) -> None:
        """What of the file waits for the next agent."""
        mine, wanted = self._state.config.node, loaded.config.node
        names = [
            f"node.{one.name}"
            for one in fields_of(wanted)
            if one.name not in RELOADED and getattr(mine, one.name) != getattr(wanted, one.name)
        ]
        if names:
            text = f"{', '.join(names)}: changed in the file; the agent has the old value until it is started again"
            self.conditions.begin(Condition.AGENT_OUTDATED, text)
        else:
            self.conditions.end(Condition.AGENT_OUTDATED)

    def _entered(self, stage: Stage, ends: float = math.inf) -> None:
        """What was read last is in force, in this stage; a trial ends at `ends`."""
        force = self._force
        since = force.since if stage is force.stage else self._clock()
        self._force = replace(force, stage=stage, since=since, ends=ends, refused=None, last_good=None)
        if stage is Stage.ON_TRIAL and (self._trial is None or self._trial.done()):
            self._trial = asyncio.create_task(self._end_of_trial())
            self._start(self._trial)

    async def _end_of_trial(self) -> None:
        """Goes back once its time is over, which may be put off meanwhile."""
        while self._force.stage is Stage.ON_TRIAL:
            if (left := self._force.ends - self._clock()) > 0:
                await asyncio.sleep(left)
                continue
            async with self._reload_lock:
                if self._force.stage is Stage.ON_TRIAL and self._force.ends <= self._clock():
                    answer = await self._go_back("not_confirmed")
                    if not answer.ok:
                        return  # the agent ends

    async def confirm(self, *, deadline: float = math.inf) -> ReloadAnswer:
        """What is on trial stays. Raises NothingThereError."""
        async with self._reload_lock:
            if self._force.stage is not Stage.ON_TRIAL:
                raise NothingThereError("no configuration is on trial: there is nothing to confirm")
            stage = NEXT[self._force.stage, Signal.CONFIRM]
            # A file that was refused meanwhile is still refused.
            self._force = replace(self._force, stage=stage, since=self._clock(), ends=math.inf)
            saving = self._keep_last_good(self._loaded)
            log.info("config.confirmed")
        patience = None if deadline == math.inf else max(0.0, deadline - self._clock())
        await asyncio.wait({saving}, timeout=patience)
        unsaved = self._force.unsaved if saving.done() else "the disk is slow; it is being written"
        warnings = (f"it is in force, and not saved: {unsaved}",) if unsaved else ()
        return ReloadAnswer(ok=True, warnings=warnings)

    async def undo(self, *, deadline: float = math.inf) -> ReloadAnswer:
        """Go back to the configuration before. Raises NothingThereError."""
        async with self._reload_lock:
            if self._clock() > deadline:
                return ReloadAnswer(ok=False, problems=(str(TooLateError()),))
            return await self._go_back("command")

    async def _go_back(self, why: str) -> ReloadAnswer:
        """Whatever it removes, and whatever a restart would start with. Raises NothingThereError."""
        before = self._before
        if before is None:
            raise NothingThereError("there is no configuration to go back to (a reload is undone once)")
        if unmarked := await self._marked(self._loaded.digest):
            log.error("config.not_saved", path=str(self._state_dir / last_good.MARK), error=unmarked)
        answer = await self._apply(before)
        if answer.ok:
            self._before = None
            self._carried = await asyncio.to_thread(self._demands.of, before.config)
            self._entered(NEXT[self._force.stage, Signal.UNDO])
            self._keep_last_good(before, marked=True)
            log.warning("config.gone_back", why=why, changes=answer.changes)
        return answer

    async def _marked(self, digest: str) -> str:
        """Why a start cannot be kept from it; empty: it is."""
        try:
            await asyncio.to_thread(last_good.mark, self._state_dir, digest)
        except OSError as error:
            return f"{error.strerror or error}"
        return ""

    async def _unmarked(self) -> None:
        """A mark that stays is of a configuration that is not in the file, or of that which is saved as good."""
        with contextlib.suppress(OSError):
            await asyncio.to_thread(last_good.unmark, self._state_dir)

    def _keep_last_good(self, loaded: Loaded, *, marked: bool = False) -> asyncio.Task[None]:
        """Save it for a start at which the file cannot be used. `marked`: the file has another, which stays marked."""
        task = asyncio.create_task(self._kept_last_good(loaded, marked=marked))
        self._start(task)
        return task

    async def _kept_last_good(self, loaded: Loaded, *, marked: bool) -> None:
        if loaded.texts is not None and (loaded.digest != self._saved_digest or self._force.unsaved):
            self._last_good.put(loaded)
            saving = self._last_good.last
            assert saving is not None  # noqa: S101 - it was put there
            if await asyncio.shield(saving):
                return
        if not marked:
            await self._unmarked()

    def _save_last_good(self, loaded: Loaded) -> None:
        assert loaded.texts is not None  # noqa: S101 - it is saved only then
        last_good.save(self._state_dir, loaded.texts)
        self._saved_digest = loaded.digest

    def _last_good_not_saved(self, error: OSError) -> str:
        path = self._state_dir / LAST_GOOD
        why = f"{path}: {error.strerror or error}"
        if not self._force.unsaved:
            self._force = replace(self._force, unsaved_since=self._clock())
            log.error("config.not_saved", path=str(path), error=str(error))
        self._force = replace(self._force, unsaved=why)
        return why

    def _last_good_saved(self) -> None:
        self._force = replace(self._force, unsaved="")

    async def _not_carried(self, config: Config, asked: Demand) -> tuple[str, ...]:
        """Why this machine cannot carry the configuration. Of one that asks for no more than that in force nothing is said."""
        carried = self._carried
        grows = asked.servers > GROWTH * carried.servers
        seconds = 0.0
        if grows or config.timing.lease_ttl < self._state.config.timing.lease_ttl:
            # A thread: it takes as long as it will in the engine.
            seconds = await asyncio.to_thread(capacity.conclusion, config, time.thread_time)
        measured = Measured(
            conclusion=seconds,
            check=self._effort.check if asked.checks > GROWTH * carried.checks else 0.0,
            slowdown=self._effort.slowdown,
        )
        return tuple(capacity.findings(config, asked, measured))


def _of_wires(event: str, fields: Mapping[str, object]) -> None:
    tell = log.warning if event == GIVEN_UP else log.info
    tell(event, **fields)


def _suspicions(before: Loaded, after: Loaded) -> tuple[str, ...]:
    if removes_nothing(before.config, after.config):
        return suspicions(census_of_files(before), census_of_files(after))
    return suspicions(census_of(before), census_of(after))


def _told(found: Sequence[object], rest: str) -> tuple[str, ...]:
    """As texts: all, or the first and the last, with the number of those in between and what becomes of them."""
    if len(found) <= TOLD:
        return tuple(map(str, found))
    left = f"… {len(found) - TOLD:,} more ({rest}) …"
    return (*map(str, found[: TOLD - LAST]), left, *map(str, found[-LAST:]))


def _moved(before: State, configured: Owned) -> tuple[str, ...]:
    """Which maintenance goes on under another name, and which is kept for a name that means nothing any more."""
    return tuple(_moves(before, configured)) if before.maintenance else ()


def _moves(before: State, configured: Owned) -> Iterator[str]:
    moves = carried(frozenset(before.maintenance), before.owned, configured)
    for old, new in moves.scopes.items():
        yield f"the maintenance of {old} continues as that of {', '.join(sorted(new))}"
    for scope in sorted(moves.orphans):
        command = f"undrain-server {scope}" if is_server(scope) else f"maintenance off --vip {scope}"
        yield f"the maintenance of {scope} is kept, though nothing of that name is configured: `anycast {command}` ends it"


def _log_warnings(loaded: Loaded) -> tuple[str, ...]:
    warnings = tuple(str(warning) for warning in loaded.warnings)
    for warning in warnings:
        log.warning("config.warned", warning=warning)
    return warnings
