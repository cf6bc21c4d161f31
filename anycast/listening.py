"""Listening sockets that are bound again: binding may fail now and work later, and a socket file may be removed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential

from anycast.sockets import bind_unix, identity

GUARD_PERIOD = 1.0  # seconds between two looks whether a socket is still where it was bound
BACKLOG = 512  # connections that wait to be let in; a probe that finds it full waits for seconds

log = structlog.get_logger()

Listen: TypeAlias = Callable[[socket.socket], Awaitable[None]]


async def keep_bound(path: Path, mode: int, listen: Listen) -> None:
    """Bind, and bind again when the socket has gone: somebody may have swept the directory."""
    bound: tuple[int, int] | None = None
    while True:
        found = identity(path)
        if bound is None or found != bound:
            if bound is not None:
                log.warning("socket.rebound", path=str(path))
            async for attempt in _retrying(str(path), "socket.unavailable"):
                with attempt:
                    listener = bind_unix(path, mode=mode)
                    try:
                        await listen(listener)
                    except BaseException:
                        listener.close()
                        raise
            bound = identity(path)
        await asyncio.sleep(GUARD_PERIOD)


async def bind_tcp(address: str, listen: Listen) -> None:
    """`address`: `HOST:PORT`, IPv6 in brackets."""
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    async for attempt in _retrying(address, "ops.unavailable"):
        with attempt:
            await listen(socket.create_server((host.strip("[]"), int(port)), family=family, backlog=BACKLOG))
    log.info("ops.listening", address=address)


def _retrying(what: str, event: str) -> AsyncRetrying:
    """For ever, said once: the node goes on without it."""

    def said(state: RetryCallState) -> None:
        if state.attempt_number == 1 and state.outcome is not None:
            log.error(event, where=what, error=str(state.outcome.exception()))

    return AsyncRetrying(
        retry=retry_if_exception_type(OSError),
        wait=wait_exponential(multiplier=0.2, max=5),
        after=said,
    )
