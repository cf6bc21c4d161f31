"""`anycast agent`: reads the configuration, opens everything, runs the engine, leaves on SIGTERM."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import pwd
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import IO, TypeAlias

import structlog
from aiohttp import web
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential

from anycast import __version__
from anycast.agent.engine import Engine
from anycast.agent.leases import LeaseServer
from anycast.agent.sockets import bind_unix, identity
from anycast.config.load import Loaded, load
from anycast.config.problem import ConfigError
from anycast.core.events import StopRequested
from anycast.kernel.adapter import Kernel
from anycast.lease import Lease
from anycast.ops.http import control_app, read_app

LEASE_SOCKET = "lease.sock"
CONTROL_SOCKET = "control.sock"
JOURNAL_DIRECTORY = "announcer"
GUARD_PERIOD = 1.0  # seconds between two looks whether the sockets are still where they were bound

EX_CONFIG = 78
EX_TEMPFAIL = 75

log = structlog.get_logger()

Listen: TypeAlias = Callable[[socket.socket], Awaitable[None]]


def run(path: Path) -> int:
    """Runs until SIGTERM or SIGINT. Returns the exit status: 0, 75 another agent runs, 78 bad configuration."""
    set_up_logging()
    try:
        loaded = load(path)
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        print(f"anycast: {path}: {len(error.problems)} problem(s), not started", file=sys.stderr)
        return EX_CONFIG
    runtime = Path(loaded.config.node.runtime_dir)
    try:
        lock = take_lock(runtime / "agent.lock")
    except BlockingIOError:
        print(f"anycast: another agent runs: it holds {runtime / 'agent.lock'}", file=sys.stderr)
        return EX_TEMPFAIL
    with lock:
        return asyncio.run(serve(loaded, path))


def set_up_logging() -> None:
    """One line per event on stderr: for people on a terminal, JSON otherwise."""
    terminal = sys.stderr.isatty()
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(default=str)
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # aiohttp's and asyncio's own words: only what is wrong.
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr, format="%(name)s: %(message)s")


def take_lock(path: Path) -> IO[str]:
    """Held as long as the process lives. Raises BlockingIOError when another agent holds it.

    A directory that cannot be made is no reason to stop: without it no announcer connects either, and nothing
    is announced.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a", encoding="ascii")
    except OSError as error:
        log.error("socket.unavailable", path=str(path), error=error.strerror)
        return open(os.devnull, encoding="ascii")
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return file


def give_journal(directory: Path, user: str) -> None:
    """The directory of the announcer's journal, its own to write in. Raises OSError."""
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    if os.geteuid() == 0:
        try:
            found = pwd.getpwnam(user)
        except KeyError:
            log.error("announcer.user_unknown", user=user)
            return
        os.chown(directory, found.pw_uid, found.pw_gid)


async def serve(loaded: Loaded, path: Path) -> int:
    """Wires everything, and takes it apart in the opposite order."""
    node = loaded.config.node
    runtime = Path(node.runtime_dir)
    holder: list[LeaseServer] = []

    def send_lease(lease: Lease) -> None:
        holder[0].send(lease)

    engine = Engine(
        loaded,
        path,
        kernel=Kernel(node.interface, sysctls_managed=loaded.config.manage_sysctls),
        send_lease=send_lease,
    )
    leases = LeaseServer(engine.post, user=node.exabgp_user)
    holder.append(leases)

    async def listen_for_leases(listener: socket.socket) -> None:
        give_journal(runtime / JOURNAL_DIRECTORY, node.exabgp_user)
        await leases.listen(listener)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, engine.post, StopRequested())
    reloads: set[asyncio.Task[object]] = set()

    def reload() -> None:
        task: asyncio.Task[object] = loop.create_task(engine.reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    loop.add_signal_handler(signal.SIGHUP, reload)

    control = web.AppRunner(control_app(engine, engine), access_log=None, shutdown_timeout=1.0)
    read = web.AppRunner(read_app(engine), access_log=None, shutdown_timeout=1.0)
    await control.setup()
    await read.setup()
    log.info("agent.started", version=__version__, node=node.name, config=str(path), pid=os.getpid())
    helpers = [
        # Anybody may connect for leases: who is let in is decided by the peer's user.
        loop.create_task(_keep_bound(runtime / LEASE_SOCKET, 0o666, listen_for_leases)),
        loop.create_task(_keep_bound(runtime / CONTROL_SOCKET, 0o660, _control_site(control))),
        loop.create_task(_listen(read, node.listen)),
    ]
    try:
        await engine.run()
    finally:
        for helper in helpers:
            helper.cancel()
        await asyncio.gather(*helpers, return_exceptions=True)
        await control.cleanup()
        await read.cleanup()
        await leases.close()
    return 0 if engine.clean_exit else 1


def _control_site(runner: web.AppRunner) -> Listen:
    async def listen(listener: socket.socket) -> None:
        for site in list(runner.sites):
            await site.stop()
        await web.SockSite(runner, listener).start()

    return listen


async def _keep_bound(path: Path, mode: int, listen: Listen) -> None:
    """Bind, and bind again when the socket has gone: somebody may have swept the directory."""
    bound: tuple[int, int] | None = None
    while True:
        found = identity(path)
        if bound is None or found != bound:
            if bound is not None:
                log.warning("socket.rebound", path=str(path))
            async for attempt in _retrying(str(path), "socket.unavailable"):
                with attempt:
                    await listen(bind_unix(path, mode=mode))
            bound = identity(path)
        await asyncio.sleep(GUARD_PERIOD)


async def _listen(runner: web.AppRunner, address: str) -> None:
    host, _, port = address.rpartition(":")
    async for attempt in _retrying(address, "ops.unavailable"):
        with attempt:
            await web.TCPSite(runner, host.strip("[]"), int(port)).start()
    log.info("ops.listening", address=address)


def _retrying(what: str, event: str) -> AsyncRetrying:
    """For ever, said once: what cannot be bound now can be later, and the node goes on without it."""

    def said(state: RetryCallState) -> None:
        if state.attempt_number == 1 and state.outcome is not None:
            log.error(event, where=what, error=str(state.outcome.exception()))

    return AsyncRetrying(
        retry=retry_if_exception_type(OSError),
        wait=wait_exponential(multiplier=0.2, max=5),
        after=said,
    )
