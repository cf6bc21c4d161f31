"""`anycast agent`: reads the configuration, opens everything, runs the engine, leaves on SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import grp
import os
import pwd
import resource
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from anycast import __version__
from anycast.agent import garbage, owned_file, start
from anycast.agent.conditions import Conditions
from anycast.agent.defects import Defects
from anycast.agent.engine import OWNED, Engine
from anycast.agent.events_file import EventsFile
from anycast.agent.events_file import load as load_events
from anycast.agent.latest import RETRY
from anycast.agent.leases import LeaseServer
from anycast.agent.logs import set_up_logging
from anycast.agent.maintenance_file import boot_id
from anycast.agent.pulse import Pulse
from anycast.agent.start import Start
from anycast.agent.starts_file import StartsFile
from anycast.config.apart import Reading
from anycast.config.loaded import Loaded
from anycast.core.events import ConditionSet, StopRequested, Tick
from anycast.core.values.configuration import Node
from anycast.core.values.standing import Condition
from anycast.daemon_threads import DaemonThreads
from anycast.kernel.adapter import Kernel
from anycast.lease import Lease
from anycast.listening import GUARD_PERIOD, keep_bound
from anycast.ops.hub import Hub
from anycast.service_manager import ServiceManager
from anycast.sockets import HeldError, InstanceLock

if TYPE_CHECKING:
    from anycast.agent.recording import Recorder
    from anycast.agent.serving import Serving

LOCK = "agent.lock"  # in the runtime directory
STATE_LOCK = "state.lock"  # in the state directory
LEASE_SOCKET = "lease.sock"
CONTROL_SOCKET = "control.sock"
JOURNAL_DIRECTORY = "plugin"
EVENTS = "events.jsonl"
STARTS = "starts.json"

DESCRIPTORS = 65536  # wanted: thousands of checks at once, and connections that are kept

SERVING = "anycast.agent.serving"  # imported once there is time for it

LEASE_PATIENCE = 0.5  # seconds from the start that all else waits for the first lease

PULSES = 4  # in the life of a lease

LOG_PATIENCE = 1.0  # seconds the last lines of the log have to be read

EX_SOFTWARE = 70
EX_CANTCREAT = 73
EX_TEMPFAIL = 75
EX_CONFIG = 78

log = structlog.get_logger()


def run(
    path: Path,
    record: Path | None = None,
    reading: Reading | None = None,
    *,
    strict: bool = False,
    state_dir: Path | None = None,
    node: str | None = None,
) -> int:
    """Runs until SIGTERM or SIGINT; what it decides by is written to `record`. Returns the exit status.

    `reading`: of `path`, where it has begun already. `strict`, `state_dir`, `node`: see
    `anycast.agent.start.begin`.

    0: withdrawn. 1: not acknowledged as withdrawn. 70: a defect. 75: another agent runs. 78: bad configuration; 73: no recording there.
    """
    # Until reloads are served: by default it would end the agent.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # A service manager whose watchdog is not fed sends SIGABRT: the log then shows where the agent hung.
    faulthandler.enable()
    raise_descriptors()
    garbage.pause()
    events = Hub()
    sink = set_up_logging(events.publish)
    try:
        return _run(path, events, record, reading, strict=strict, state_dir=state_dir, node=node)
    finally:
        garbage.resume()
        sink.drain(LOG_PATIENCE)


def raise_descriptors() -> None:
    """As far as the hard limit allows: the soft one is 1,024 nearly everywhere, for programs of the last century."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # a sandbox may forbid it
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _run(
    path: Path,
    events: Hub,
    record: Path | None = None,
    reading: Reading | None = None,
    *,
    strict: bool = False,
    state_dir: Path | None = None,
    node: str | None = None,
) -> int:
    # A person who has named a wrong file hears of it at once.
    patience = start.ABSENT if os.environ.get("NOTIFY_SOCKET") else 0.0
    try:
        begun = start.begin_patiently(
            path,
            reading,
            strict=strict,
            state_dir=state_dir,
            node=node,
            patience=patience,
            meanwhile=partial(import_module, SERVING),
        )
    except start.NotStartedError as error:
        print(f"anycast: {error}, not started", file=sys.stderr)
        return EX_CONFIG if error.bad_configuration else EX_SOFTWARE
    loaded = begun.loaded
    mine, conditions = loaded.config.node, Conditions()
    with (
        InstanceLock(Path(mine.runtime_dir) / LOCK) as lock,
        InstanceLock(Path(mine.state_dir) / STATE_LOCK) as state_lock,
    ):
        try:
            # No reason to stop: as long as it is so no plugin connects either, and nothing is announced.
            _hold(lock, LOCK, conditions)
        except HeldError as error:
            print(f"anycast: another agent runs: it holds {error}", file=sys.stderr)
            return EX_TEMPFAIL
        try:
            _hold(state_lock, STATE_LOCK, conditions)
        except HeldError as error:
            print(
                f"anycast: another agent keeps its state in {mine.state_dir}: it holds {error} (give each agent a "
                "node.state_dir of its own, or end the other one)",
                file=sys.stderr,
            )
            return EX_TEMPFAIL
        journal = _journal(loaded, events, conditions)
        try:
            recorder = None if record is None else _recorder(record, conditions)
        except OSError as error:
            print(f"anycast: {record}: {error.strerror or error}, not started", file=sys.stderr)
            return EX_CANTCREAT
        try:
            return asyncio.run(
                serve(
                    begun,
                    path,
                    lock,
                    events,
                    recorder=recorder,
                    state_lock=state_lock,
                    conditions=conditions,
                )
            )
        except Exception:
            log.exception("agent.failed")
            return EX_SOFTWARE
        finally:
            journal.drain()
            if recorder is not None:
                recorder.drain()


def _hold(lock: InstanceLock, where: str, conditions: Conditions) -> None:
    """Raises HeldError. Where it cannot be made, that stands."""
    try:
        lock.hold()
    except OSError as error:
        if conditions.begin(Condition.SOCKET_UNAVAILABLE, f"{where} cannot be made: {error}", about=where):
            log.error("socket.unavailable", where=where, error=str(error))
    else:
        conditions.end(Condition.SOCKET_UNAVAILABLE, about=where)


def _journal(loaded: Loaded, events: Hub, conditions: Conditions) -> EventsFile:
    """Go on with the events of the agent before this one, and keep those of this one."""
    path = Path(loaded.config.node.state_dir) / EVENTS

    def complain(why: str) -> None:
        text = f"events cannot be written to {path} ({why}): a restart loses those that are not"
        conditions.begin(Condition.EVENTS_NOT_SAVED, text)
        log.error("events.not_saved", path=str(path), error=why)

    journal = EventsFile(path, complain, lambda: conditions.end(Condition.EVENTS_NOT_SAVED))
    events.adopt(load_events(path), journal.put)
    return journal


def _recorder(path: Path, conditions: Conditions) -> Recorder:
    """Raises OSError."""
    from anycast.agent.recording import Recorder

    def ended(why: str) -> None:
        conditions.begin(Condition.RECORDING_ENDED, f"the recording {path} has ended: {why}")
        log.error("recording.ended", why=why)

    return Recorder(path, ended)


def give_journal(directory: Path, user: str, conditions: Conditions, *, needed: bool = True) -> bool:
    """The directory of the plugin's journal, its own to write in. It can do without: leases matter more.

    Whether it is there. `needed`: it is the plugin that announces, so whatever is missing stands.
    """
    where, why = "directory", ""
    if not needed:
        conditions.end(Condition.PLUGIN_JOURNAL, about=where)
    try:
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        if os.geteuid() == 0:
            found = pwd.getpwnam(user)
            os.chown(directory, found.pw_uid, found.pw_gid)
    except KeyError:
        why = (
            f"there is no user {user} (node.exabgp_user): the plugin cannot write its journal in {directory}"
        )
        if needed and conditions.begin(Condition.PLUGIN_JOURNAL, why, about=where):
            log.error("plugin.user_unknown", user=user)
    except OSError as error:
        why = (
            f"the directory of the plugin's journal, {directory}, cannot be made or given to {user}: {error}"
        )
        if needed and conditions.begin(Condition.PLUGIN_JOURNAL, why, about=where):
            log.error("plugin.journal_unavailable", path=str(directory), error=str(error))
    else:
        conditions.end(Condition.PLUGIN_JOURNAL, about=where)
    return not why


def open_to_plugin(path: Path, node: Node) -> None:
    """Let the plugin's group open the lease socket, which nobody else can until then. Raises OSError: it has gone.

    Where the group cannot be given, everybody may open it, as leases matter more: who is not the plugin's user is turned
    away when it connects.
    """
    try:
        gid = (
            grp.getgrnam(node.lease_group).gr_gid
            if node.lease_group
            else pwd.getpwnam(node.exabgp_user).pw_gid
        )
        os.chown(path, -1, gid)
    except FileNotFoundError:
        raise
    except (KeyError, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else "there is no such group, or no such user"
        group = node.lease_group or f"of {node.exabgp_user}"
        log.warning("plugin.group_unavailable", path=str(path), group=group, error=why)
        path.chmod(0o666)
    else:
        path.chmod(0o660)


async def serve(
    begun: Start,
    path: Path,
    lock: InstanceLock,
    events: Hub,
    *,
    recorder: Recorder | None,
    state_lock: InstanceLock,
    conditions: Conditions,
) -> int:
    """Wires everything, and takes it apart in the opposite order. Returns the exit status; raises on a defect."""
    asyncio.get_running_loop().set_exception_handler(Defects())
    asyncio.get_running_loop().set_default_executor(DaemonThreads())
    loaded = begun.loaded
    node = loaded.config.node
    runtime = Path(node.runtime_dir)
    holder: list[LeaseServer] = []

    state_dir = Path(node.state_dir)

    def damaged(why: str) -> None:
        text = f"{why}: what the configuration dropped before this start is still in the kernel (see `anycast doctor`)"
        conditions.begin(Condition.OWNED_DAMAGED, text)
        log.error("owned.damaged", error=why)

    left = owned_file.left(
        state_dir / OWNED,
        boot_id(),
        lease_ttl=loaded.config.timing.lease_ttl,
        starts=state_dir / STARTS,
        damaged=damaged,
    )
    starts = StartsFile(state_dir / STARTS, boot=boot_id(), conditions=conditions)
    crashes = starts.begin(time.monotonic())

    leased = asyncio.Event()

    def send_lease(lease: Lease) -> None:
        holder[0].send(lease)
        leased.set()

    async def first_lease(patience: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await leased.wait()

    manager = ServiceManager(os.environ)
    before = events.newest
    sockets: set[str] = set()  # those that have been open
    serving: list[Serving] = []  # once it is there

    def passed(now: float) -> None:
        # Ready is: commands are answered and leases handed out. What is announced rests on others.
        ready = sockets >= {LEASE_SOCKET, CONTROL_SOCKET}
        manager.passed(now, ready=ready, status=(lambda: serving[0].summary(now)) if serving else None)

    engine = Engine(
        loaded,
        path,
        kernel=Kernel(node.interface),
        send_lease=send_lease,
        stood=Pulse(loaded.config.timing.lease_ttl / PULSES).longest,
        events=events,
        recorder=recorder,
        passed=passed,
        crashes=crashes,
        left=left,
        conditions=conditions,
        force=begun.force,
        saved=begun.saved,
        before=begun.before,
    )

    def refused(why: str) -> None:
        engine.post(ConditionSet(kind=Condition.PLUGIN_REFUSED, text=f"a plugin was refused: {why}"))

    def opened(where: str) -> None:
        sockets.add(where)
        engine.post(Tick())  # its pass says that the agent is ready: at rest none comes for half a second

    # Both, whoever announces: one may take over from the other while it still does.
    other = begun.loaded.config.speaker.user
    leases = LeaseServer(engine.post, user=node.exabgp_user, other=other, refused=refused)
    holder.append(leases)

    def give(journal: Path) -> bool:
        needed = not engine.state.config.speaker.is_table
        return give_journal(journal, node.exabgp_user, conditions, needed=needed)

    async def give_again() -> None:
        given = False
        while not given:
            await asyncio.sleep(RETRY)
            given = await asyncio.to_thread(give, runtime / JOURNAL_DIRECTORY)

    def stands(where: str) -> Callable[[str], None]:
        def told(why: str) -> None:
            if why:
                conditions.begin(Condition.SOCKET_UNAVAILABLE, why, about=where)
            else:
                conditions.end(Condition.SOCKET_UNAVAILABLE, about=where)

        return told

    def give_to_plugin() -> None:
        give(runtime / JOURNAL_DIRECTORY)
        open_to_plugin(runtime / LEASE_SOCKET, node)

    async def listen_for_leases(listener: socket.socket) -> None:
        # A thread: the user may be asked of a directory service, and that must not hold the lease up.
        await asyncio.to_thread(give_to_plugin)
        await leases.listen(listener)
        opened(LEASE_SOCKET)

    async def listen_for_control(listener: socket.socket) -> None:
        await serving[0].control.listen(listener)
        opened(CONTROL_SOCKET)

    async def answer_questions() -> None:
        # Its start takes more processor time than all that the first lease needs.
        await first_lease(loaded.config.timing.lease_ttl)
        await serving[0].keep_ops(runtime, node.listen)

    async def hear_others() -> None:
        await first_lease(loaded.config.timing.lease_ttl)
        await serving[0].keep_fleet()

    async def serve_others() -> None:
        """What the first lease does not need. Imported in a thread: the event loop has turns meanwhile."""
        await first_lease(LEASE_PATIENCE)
        module = await asyncio.to_thread(import_module, SERVING)
        serving.append(module.Serving(engine, before))
        helpers.extend(
            loop.create_task(_again_and_again(task))
            for task in (
                serving[0].hooks.follow,
                serving[0].hold_sending,
                serving[0].watch_headroom,
                partial(
                    keep_bound, runtime / CONTROL_SOCKET, 0o660, listen_for_control, stands(CONTROL_SOCKET)
                ),
                answer_questions,
                hear_others,
            )
        )

    def stop() -> None:
        manager.stopping()
        engine.post(StopRequested())

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    reloads: set[asyncio.Task[object]] = set()

    def reload() -> None:
        task: asyncio.Task[object] = loop.create_task(engine.reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    loop.add_signal_handler(signal.SIGHUP, reload)

    displaced = False

    async def guard_lock() -> None:
        nonlocal displaced
        try:
            await _keep_lock(lock, conditions)
        except HeldError as error:
            log.error("agent.displaced", lock=str(error))
            displaced = True
            manager.stopping()
            engine.post(StopRequested(displaced=True))

    async def guard_state() -> None:
        await _keep_state(state_lock, node.state_dir, conditions)

    log.info(
        "agent.started",
        version=__version__,
        node=node.name,
        config=str(path),
        pid=os.getpid(),
        crashes=crashes,
    )
    if begun.told:
        log.error("config.last_good_used", **begun.told)
    helpers = [
        loop.create_task(_again_and_again(task))
        for task in (
            guard_lock,
            guard_state,
            starts.keep,
            give_again,
            partial(keep_bound, runtime / LEASE_SOCKET, 0o600, listen_for_leases, stands(LEASE_SOCKET)),
            serve_others,
        )
    ]
    garbage.set_aside()
    try:
        await engine.run()
    finally:
        for helper in helpers:
            helper.cancel()
        await asyncio.gather(*helpers, return_exceptions=True)
        for one in serving:
            await one.control.close()
        await leases.close()
        for one in serving:
            await one.hooks.close()
    if displaced:
        return EX_TEMPFAIL  # what it left is the other's now
    starts.end()
    return 0 if engine.clean_exit else 1


async def _again_and_again(task: Callable[[], Awaitable[None]]) -> None:
    """What a defect ends is begun again: the node goes on, and the log tells of it."""
    while True:
        try:
            return await task()
        except Exception:
            log.exception("agent.task_failed")
            await asyncio.sleep(GUARD_PERIOD)


async def _keep_lock(lock: InstanceLock, conditions: Conditions) -> None:
    """Hold it, and again when its file has gone, before another agent does. Raises HeldError: one was faster."""
    while True:
        _hold(lock, LOCK, conditions)
        await asyncio.sleep(GUARD_PERIOD)


async def _keep_state(lock: InstanceLock, state_dir: str, conditions: Conditions) -> None:
    """The same; where another was faster, that stands. Both write the same files then, but each has routes of its own."""
    while True:
        try:
            _hold(lock, STATE_LOCK, conditions)
            conditions.end(Condition.STATE_SHARED)
        except HeldError as error:
            text = (
                f"another agent keeps its state in {state_dir}, too, and the last to write wins: it holds {error} (give each "
                "agent a node.state_dir of its own, or end the other one)"
            )
            if conditions.begin(Condition.STATE_SHARED, text):
                log.error("state.shared", lock=str(error))
        await asyncio.sleep(GUARD_PERIOD)
