"""The ops process: answers clients, so that none of them can slow down the agent, which starts it and feeds it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import io
import os
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TextIO, cast

import structlog
from aiohttp import web
from structlog.typing import EventDict

from anycast.daemon_threads import DaemonThreads
from anycast.listening import bind_tcp, keep_bound
from anycast.ops.connections import Limits, Listening
from anycast.ops.feed import LENGTH, decode
from anycast.ops.hosts import machine_names
from anycast.ops.http import Reached, read_app
from anycast.ops.mirror import Mirror
from anycast.ops.source import Source

NAME = "anycast-ops"  # as the kernel knows it
SOCKET = "ops.sock"  # in the runtime directory
NICE = 10  # a client's question waits for the lease, and not the other way round
OOM_SCORE = 500  # when memory runs out, this process goes first

_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_CAP_AMBIENT, _CLEAR_ALL = 1, 15, 47, 4
_CAPABILITIES_3 = 0x20080522
_NET_BIND_SERVICE = 1 << 10

log = structlog.get_logger()


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m anycast.ops")
    parser.add_argument("--feed", type=int, required=True, help="the descriptor that the agent writes to")
    parser.add_argument("--agent", type=int, required=True, help="the agent's process id")
    parser.add_argument("--listen", required=True, help="HOST:PORT")
    parser.add_argument("--runtime-dir", type=Path, required=True)
    options = parser.parse_args(argv)
    become_lesser()
    if os.getppid() != options.agent:
        return 0  # it has ended meanwhile, and nobody would notice
    set_up_logging()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(socket.socket(fileno=options.feed), options.runtime_dir / SOCKET, options.listen))
    return 0


def become_lesser() -> None:
    """Never in the agent's way, nothing without it, and without its rights. What is forbidden here is left out."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NAME, NAME.encode(), 0, 0, 0)
    libc.prctl(_PR_CAP_AMBIENT, _CLEAR_ALL, 0, 0, 0)
    header = struct.pack("Ii", _CAPABILITIES_3, 0)
    held = (ctypes.c_uint32 * 6)()
    if libc.capget(header, held) == 0:
        for place in range(6):
            # Effective, permitted and inheritable of the lower 32 capabilities, then those of the upper ones.
            held[place] &= _NET_BIND_SERVICE if place in (0, 1) else 0
        libc.capset(header, held)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # behind a change of rights, which would undo it
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE), encoding="ascii")


class _Stderr(io.TextIOBase):
    """Whoever reads the log, or does not: it ends nobody."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            os.write(2, text.encode("utf-8", "backslashreplace"))
        return len(text)


def set_up_logging() -> None:
    """On stderr, as the agent's."""
    terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _first_things_first,
            structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(default=str),
        ],
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _Stderr())),
        cache_logger_on_first_use=True,
    )


def _first_things_first(_: object, __: str, fields: EventDict) -> EventDict:
    ahead = {name: fields.pop(name) for name in ("timestamp", "level", "event")}
    return {**ahead, **fields}


async def serve(line: socket.socket, path: Path, address: str) -> None:
    """Until the agent ends the feed."""
    asyncio.get_running_loop().set_default_executor(DaemonThreads())
    mirror, heard = Mirror(), asyncio.Event()
    names: set[str] = set()

    async def learn_names() -> None:
        names.update(await asyncio.to_thread(machine_names))

    async with surface(mirror, mirror.reached, names=lambda: names) as (local, tcp):

        async def listen() -> None:
            await heard.wait()
            await asyncio.gather(
                keep_bound(path, 0o660, local.listen, partial(mirror.stands, str(path))),
                bind_tcp(address, tcp.listen, partial(mirror.stands, address)),
            )

        listening = asyncio.create_task(listen())
        following = asyncio.create_task(follow(line, mirror, heard.set))
        learning = asyncio.create_task(learn_names())
        try:
            await asyncio.wait({listening, following}, return_when=asyncio.FIRST_COMPLETED)
            for task in (listening, following):
                if task.done():
                    task.result()
        finally:
            listening.cancel()
            following.cancel()
            learning.cancel()


async def follow(line: socket.socket, mirror: Mirror, heard: Callable[[], None]) -> None:
    reader, writer = await asyncio.open_connection(sock=line)
    try:
        while True:
            (size,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
            mirror.take(decode(await reader.readexactly(size)))
            if mirror.revision:  # all of the first facts are there
                heard()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # the agent has ended
    finally:
        writer.close()


@contextlib.asynccontextmanager
async def surface(
    source: Source,
    reached: Reached | None = None,
    limits: Limits | None = None,
    *,
    names: Callable[[], Iterable[str]] = frozenset,
) -> AsyncIterator[tuple[Listening, Listening]]:
    """For the unix socket and for TCP, each with room of its own. `names`: by which this machine is known."""
    app = read_app(source, reached, names)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5, handler_cancellation=True)
    await runner.setup()
    server = runner.server
    assert server is not None  # noqa: S101 - set up
    local, tcp = Listening(server, limits), Listening(server, limits)
    try:
        yield local, tcp
    finally:
        local.close()
        tcp.close()
        await runner.cleanup()
