"""The ops process: answers clients, so that none of them can slow down the agent, which starts it and feeds it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from pathlib import Path

import structlog
from aiohttp import web

from anycast.daemon_threads import DaemonThreads
from anycast.lesser import become_lesser, set_up_logging
from anycast.listening import bind_tcp, keep_bound
from anycast.ops.connections import Limits, Listening
from anycast.ops.feed import LENGTH, decode
from anycast.ops.fleet import Told
from anycast.ops.fleet_door import Door
from anycast.ops.hosts import machine_names
from anycast.ops.http import Reached, read_app
from anycast.ops.mirror import Mirror
from anycast.ops.source import Source

NAME = "anycast-ops"  # as the kernel knows it
SOCKET = "ops.sock"  # in the runtime directory

log = structlog.get_logger()


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m anycast.ops")
    parser.add_argument("--feed", type=int, required=True, help="the descriptor that the agent writes to")
    parser.add_argument("--agent", type=int, required=True, help="the agent's process id")
    parser.add_argument("--listen", required=True, help="HOST:PORT")
    parser.add_argument("--runtime-dir", type=Path, required=True)
    options = parser.parse_args(argv)
    become_lesser(NAME)
    if os.getppid() != options.agent:
        return 0  # it has ended meanwhile, and nobody would notice
    set_up_logging()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(socket.socket(fileno=options.feed), options.runtime_dir / SOCKET, options.listen))
    return 0


async def serve(line: socket.socket, path: Path, address: str) -> None:
    """Until the agent ends the feed."""
    asyncio.get_running_loop().set_default_executor(DaemonThreads())
    mirror, heard = Mirror(), asyncio.Event()
    names: set[str] = set()

    async def learn_names() -> None:
        names.update(await asyncio.to_thread(machine_names))

    told = Told(mirror)
    async with surface(mirror, mirror.reached, names=lambda: names, told=told) as (local, tcp):

        async def listen() -> None:
            await heard.wait()
            await asyncio.gather(
                keep_bound(path, 0o660, local.listen, partial(mirror.stands, str(path))),
                bind_tcp(address, tcp.listen, partial(mirror.stands, address)),
                Door(mirror, told, mirror.stands).keep(),
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
    told: Told | None = None,
) -> AsyncIterator[tuple[Listening, Listening]]:
    """For the unix socket and for TCP, each with room of its own. `names`: by which this machine is known."""
    app = read_app(source, reached, names, told)
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
