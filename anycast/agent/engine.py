"""The engine: one queue, one writer of the state. Everything slow answers by a later event."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, assert_never

import structlog

from anycast import __version__
from anycast.agent import maintenance_file, owned_file, touch_file
from anycast.agent.checker import Checker
from anycast.agent.commands import MaintenanceAnswer, ReloadAnswer, TooLateError
from anycast.agent.feed import RunLog
from anycast.agent.recording import Recorder
from anycast.config.apart import load
from anycast.config.changes import changes
from anycast.config.loaded import Loaded
from anycast.config.needed import missing_hooks
from anycast.config.problem import ConfigError
from anycast.core import events as ev
from anycast.core.dataplane.kernel import Failure, KernelOp, Snapshot
from anycast.core.health.phase import Outcome, Result
from anycast.core.hooks import Tally as HookTally
from anycast.core.maintenance.clocks import End
from anycast.core.maintenance.stages import FILE, Maintenance, is_saved, is_server
from anycast.core.owned import NOTHING, Owned
from anycast.core.reload import carried
from anycast.core.state import State
from anycast.core.step import begin, next_wake, step
from anycast.core.values.configuration import Target
from anycast.kernel.errors import KernelUnavailable
from anycast.lease import Lease
from anycast.ops.hub import Hub
from anycast.ops.source import Facts, Tally, Work
from anycast.ops.status import TOUCH_FILE

log = structlog.get_logger()

Clock = Callable[[], float]

KERNEL_PATIENCE = 60.0  # seconds for one program and its reading back; each request has its own deadline
WATCH_RETRY = 1.0  # seconds until the watch of the kernel is begun again
FILE_PERIOD = 0.5  # seconds between two looks for the file that means maintenance
AT_ONCE = 0.1  # seconds within which two readings of the clocks are of one instant
LEAVE_PATIENCE = 5.0  # seconds the checks and a save under way have at the end
_ROUTE_ACTIONS = {"route.announced": "announce", "route.withdrawn": "withdraw", "route.refused": "refuse"}
OWNED = "owned.json"  # in the state directory
NEVER_FAILED = Tally()
ENDED = "the agent is ending; nothing was changed (repeat the command once the next one runs)"


class Kernel(Protocol):
    """What the engine asks of the kernel: `anycast.kernel.adapter.Kernel`."""

    async def read(self, wanted_sysctls: Iterable[str]) -> Snapshot: ...

    async def play(self, ops: Sequence[KernelOp]) -> tuple[Failure, ...]: ...

    async def watch(self, on_change: Callable[[], None]) -> None: ...

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
        events: Hub | None = None,
        recorder: Recorder | None = None,
        passed: Callable[[float], None] = lambda _: None,
        crashes: int = 0,
        left: Owned = NOTHING,
    ) -> None:
        """`events`: what the log tells goes there too. `recorder`: gets everything that `step` is given.

        `crashes`: of the agents before. `left`: what the last of them owned in the kernel.

        `passed` is told the instant of every event that was dealt with, after its effects are under way.
        """
        _log_warnings(loaded)
        # A start goes on without them, for a hook must not keep a route down.
        for problem in missing_hooks(loaded.paths):
            log.warning("config.warned", warning=str(problem))
        self._path = path
        self._loaded = loaded
        self._kernel = kernel
        self._send_lease = send_lease
        self._clock = clock
        self._wall = wall
        self._passed = passed
        self._inbox: asyncio.Queue[ev.Event | None] = asyncio.Queue()  # None: results are waiting
        self._results: list[tuple[Target, Result]] = []
        self._waiting: dict[int, _Submitted] = {}  # by id() of the event that is waited for
        self._ended = False
        self._checker = Checker(self._report)
        self._jobs: set[asyncio.Task[None]] = set()
        self._maintenance_path = Path(loaded.config.node.state_dir) / "maintenance.json"
        self._boot = maintenance_file.boot_id()
        self._touch_path = Path(loaded.config.node.runtime_dir) / TOUCH_FILE
        self._touched: Maintenance | None = None
        self._saving: asyncio.Task[str] | None = None
        self._owned_path = Path(loaded.config.node.state_dir) / OWNED
        self._saving_owned: asyncio.Task[None] | None = None
        self._kernel_change_posted = False
        self._reload_lock = asyncio.Lock()
        self._last_step = clock()
        self._reload_ok = True
        self._reloaded_at = time.time()
        self.clean_exit = False
        self._events = Hub() if events is None else events
        self._tallies: dict[Target, Tally] = {}
        self._recorder = recorder
        self._work = Work()
        self.stepped: Callable[[tuple[ev.Effect, ...]], None] = lambda _: None  # after each step
        self.hook_tallies: Callable[[], Mapping[str, HookTally]] = dict
        kept, now, at = self._kept_maintenance(), clock(), wall()
        if recorder is not None:
            recorder.begin(loaded.config, kept, now, at, __version__, crashes=crashes, left=left)
        self._state, self._first = begin(loaded.config, kept, now, at, crashes=crashes, left=left)

    @property
    def state(self) -> State:
        return self._state

    @property
    def last_step(self) -> float:
        return self._last_step

    @property
    def reload_ok(self) -> bool:
        return self._reload_ok

    @property
    def facts(self) -> Facts:
        """All that others may know."""
        return Facts(
            state=self._state,
            last_step=self._last_step,
            reload_ok=self._reload_ok,
            reloaded_at=self._reloaded_at,
            tallies=dict(self._tallies),
            probes={kind: probes.runs for kind, probes in self._checker.probes.items()},
            work=replace(self._work, routes=dict(self._work.routes)),
            hooks=dict(self.hook_tallies()),
            numbers=self.runs.numbers,
        )

    @property
    def events(self) -> Hub:
        return self._events

    @property
    def runs(self) -> RunLog:
        return self._checker.runs

    def post(self, event: ev.Event) -> None:
        """Put an event in line. Callable from anywhere in the loop's thread."""
        self._inbox.put_nowait(event)

    def kernel_changed(self) -> None:
        """However many changes come together, one reading answers them."""
        if not self._kernel_change_posted:
            self._kernel_change_posted = True
            self.post(ev.KernelChanged())

    async def run(self) -> None:
        """Until everything is withdrawn after a StopRequested. What it raises is a defect: the process must end."""
        watching = [asyncio.create_task(self._watch()), asyncio.create_task(self._watch_file())]
        try:
            self._perform(self._first)
            while not self._state.exited:
                event = await self._next()
                now = self._last_step = self._clock()
                submitted = self._waiting.get(id(event))
                if submitted is not None and submitted.is_late(now):
                    del self._waiting[id(event)]
                    continue
                facts = self._dated(event, now) if isinstance(event, ev.Tick) else event
                if self._recorder is not None:
                    self._recorder.event(facts, now)
                self._state, effects = step(self._state, facts, now)
                self._perform(effects)
                if submitted is not None:
                    del self._waiting[id(event)]
                    submitted.answer(went_through=True)
                self.stepped(effects)
                self._passed(now)
        finally:
            self._ended = True
            for submitted in self._waiting.values():
                submitted.answer(went_through=False)
            await self._leave(watching)

    def _dated(self, tick: ev.Tick, now: float) -> ev.Tick:
        """With the wall clock of the instant `now`, unless the process was held up in between."""
        wall = self._wall()
        return ev.Tick(wall=wall) if self._clock() - now < AT_ONCE else tick

    async def _leave(self, watching: Iterable[asyncio.Task[None]]) -> None:
        ending: set[asyncio.Task[Any]] = {*watching, *self._jobs}
        for task in ending:
            task.cancel()
        ending.add(asyncio.create_task(self._checker.close()))
        ending |= {saving for saving in (self._saving, self._saving_owned) if saving is not None}
        await asyncio.wait(ending, timeout=LEAVE_PATIENCE)
        await self._kernel.close()

    async def _watch(self) -> None:
        """The kernel is read back anyway, so without the watch all is well, only later: begin it again."""
        said = ""
        while True:
            try:
                await self._kernel.watch(self.kernel_changed)
            except Exception as error:  # noqa: BLE001 - whatever it is, it must not end the watching
                if repr(error) != said:
                    said = repr(error)
                    log.error("kernel.watch_failed", error=said)
            await asyncio.sleep(WATCH_RETRY)

    async def _watch_file(self) -> None:
        """In a thread: whatever the runtime directory lies on must not hold the lease up."""
        said = ""
        while True:
            try:
                found = await asyncio.to_thread(touch_file.look, self._touch_path)
            except Exception as error:  # noqa: BLE001 - whatever it is, it must not end the watching
                if repr(error) != said:
                    said = repr(error)
                    log.error("maintenance.file_unreadable", path=str(self._touch_path), error=said)
            else:
                said = ""
                if found != self._touched:
                    self._touched = found
                    self.post(ev.MaintenanceSet(scope=FILE, entry=found))
            await asyncio.sleep(FILE_PERIOD)

    async def _next(self) -> ev.Event:
        # A wake that is due goes before a queue that never empties: the lease must not wait behind results.
        wait = next_wake(self._state, self._clock()) - self._clock()
        if wait <= 0:
            await asyncio.sleep(0)
            return ev.Tick()
        try:
            async with asyncio.timeout(wait):
                event = await self._inbox.get()
        except TimeoutError:
            return ev.Tick()
        if isinstance(event, ev.KernelChanged):
            self._kernel_change_posted = False
        if event is not None:
            return event
        results, self._results = self._results, []
        return ev.Probed(results=tuple(results))

    def _report(self, target: Target, result: Result) -> None:
        if not self._results:
            self._inbox.put_nowait(None)
        self._results.append((target, result))
        if result.outcome is Outcome.FAIL or target in self._tallies:
            self._tallies[target] = self._tallies.get(target, NEVER_FAILED).count(result.outcome)

    def _perform(self, effects: tuple[ev.Effect, ...]) -> None:
        for effect in effects:
            match effect:
                case ev.SetTargets(targets=targets):
                    self._tallies = {one: tally for one, tally in self._tallies.items() if one in targets}
                    self._checker.set_targets(targets)
                case ev.ScheduleProbe(target=target, after=after, quiet=quiet):
                    self._checker.schedule(target, after, quiet=quiet)
                case ev.ProbeAnew():
                    self._results.clear()  # of runs that began before
                    self._checker.probe_anew()
                case ev.ReadKernel() | ev.ProgramKernel():
                    self._start(self._kernel_job(effect))
                case ev.SendLease(lease=lease):
                    self._send_lease(lease)
                case ev.SaveMaintenance(entries=entries):
                    before = self._saving
                    self._saving = asyncio.create_task(self._save(before, entries))
                case ev.SaveOwned(owned=owned):
                    self._saving_owned = asyncio.create_task(self._save_owned(self._saving_owned, owned))
                case ev.Log(event=name, fields=fields, level=level):
                    if name in _ROUTE_ACTIONS:
                        self._work.count_route(str(fields["prefix"]), _ROUTE_ACTIONS[name])
                    getattr(log, level)(name, **fields)
                case ev.Exit(clean=clean):
                    self.clean_exit = clean
                case _:
                    assert_never(effect)

    def _start(self, job: asyncio.Task[None]) -> None:
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    def _kernel_job(self, effect: ev.ReadKernel | ev.ProgramKernel) -> asyncio.Task[None]:
        return asyncio.create_task(self._use_kernel(effect))

    async def _use_kernel(self, effect: ev.ReadKernel | ev.ProgramKernel) -> None:
        failures: tuple[Failure, ...] = ()
        began = self._clock()
        try:
            async with asyncio.timeout(KERNEL_PATIENCE):
                if isinstance(effect, ev.ProgramKernel):
                    failures = await self._kernel.play(effect.ops)
                snapshot = await self._kernel.read(effect.sysctls)
        except TimeoutError:
            self.post(ev.KernelFailed(reason=f"not done within {KERNEL_PATIENCE:g} s"))
        except KernelUnavailable as error:
            self.post(ev.KernelFailed(reason=error.reason))
        except Exception as error:
            log.exception("kernel.unexpected")
            self.post(ev.KernelFailed(reason=f"unexpected, please report it as a defect: {error!r}"))
        else:
            self._work.kernel_jobs += 1
            self._work.kernel_seconds += self._clock() - began
            self.post(ev.KernelRead(snapshot=snapshot, failures=failures))

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
        event = ev.MaintenanceSet(scope=scope, entry=entry, skip_drain=skip_drain)
        if not await self._submit(event, deadline):
            return MaintenanceAnswer(saved=False, error=ENDED)
        if not is_saved(scope):
            return MaintenanceAnswer(saved=False)
        error = "" if self._saving is None else await self._saved(self._saving, deadline)
        return MaintenanceAnswer(saved=not error, error=error)

    async def _saved(self, saving: asyncio.Task[str], deadline: float) -> str:
        """Why it is not saved, by the deadline; empty: it is."""
        patience = None if deadline == math.inf else max(0.0, deadline - self._clock())
        await asyncio.wait({saving}, timeout=patience)
        return (
            saving.result()
            if saving.done()
            else f"{self._maintenance_path}: the disk is slow; it is being written"
        )

    async def _save(self, before: asyncio.Task[str] | None, entries: Mapping[str, Maintenance]) -> str:
        if before is not None:
            await asyncio.wait({before})
        try:
            # A thread: a slow disk must not hold the lease up.
            await asyncio.to_thread(maintenance_file.save, self._maintenance_path, entries, self._boot)
        except OSError as error:
            log.error("maintenance.not_saved", path=str(self._maintenance_path), error=str(error))
            return f"{self._maintenance_path}: {error.strerror or error}"
        return ""

    async def _save_owned(self, before: asyncio.Task[None] | None, owned: Owned) -> None:
        if before is not None:
            await asyncio.wait({before})
        try:
            # A thread: a slow disk must not hold the lease up.
            await asyncio.to_thread(owned_file.save, self._owned_path, owned, self._boot)
        except OSError as error:
            log.error("owned.not_saved", path=str(self._owned_path), error=str(error))

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

    async def reload(self, *, deadline: float = math.inf) -> ReloadAnswer:
        """Apply the file as it is now, or keep what is in force and say why."""
        async with self._reload_lock:
            try:
                loaded = await asyncio.to_thread(load, self._path, self._loaded)
                if absent := await asyncio.to_thread(missing_hooks, loaded.paths):
                    raise ConfigError(absent)
            except ConfigError as error:
                problems = tuple(str(problem) for problem in error.problems)
                self._reload_ok = False
                log.error("config.rejected", problems=len(problems), first=problems[0])
                return ReloadAnswer(ok=False, problems=problems)
            except Exception as error:
                self._reload_ok = False
                log.exception("config.unexpected")
                return ReloadAnswer(ok=False, problems=(f"a defect, please report it: {error!r}",))
            before, old = self._state, self._state.config
            # A thread: it works out what moves under Maglev, which takes a while in large pools.
            words = await asyncio.to_thread(changes, old, loaded.config)
            # Sockets, files and the interface were opened by what `node` said at the start.
            config = replace(loaded.config, node=old.node)
            try:
                applied = await self._submit(ev.Reconfigured(config=config), deadline)
            except TooLateError as error:
                return ReloadAnswer(ok=False, problems=(str(error),))
            if not applied:
                return ReloadAnswer(ok=False, problems=(ENDED,))
            self._loaded = loaded
            self._reload_ok = True
            self._reloaded_at = time.time()
            log.info("config.applied", changes=words)
            return ReloadAnswer(
                ok=True,
                changes=words,
                warnings=(*_log_warnings(loaded), *_moved(before, self._state.configured)),
            )


def _moved(before: State, configured: Owned) -> Iterator[str]:
    """Which maintenance goes on under another name, and which is kept for a name that means nothing any more."""
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
