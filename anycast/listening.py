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
Stands: TypeAlias = Callable[[str], None]
"""Is told why a socket cannot be had, and with an empty text when it can."""


async def keep_bound(path: Path, mode: int, listen: Listen, stands: Stands = lambda _: None) -> None:
    """Bind, and bind again when the socket has gone: somebody may have swept the directory."""
    bound: tuple[int, int] | None = None
    while True:
        found = identity(path)
        if bound is None or found != bound:
            if bound is not None:
                log.warning("socket.rebound", path=str(path))
            async for attempt in _retrying(str(path), "socket.unavailable", stands):
                with attempt:
                    listener = bind_unix(path, mode=mode)
                    try:
                        await listen(listener)
                    except BaseException:
                        listener.close()
                        raise
            stands("")
            bound = identity(path)
        await asyncio.sleep(GUARD_PERIOD)


async def bind_tcp(address: str, listen: Listen, stands: Stands = lambda _: None) -> None:
    """`address`: `HOST:PORT`, IPv6 in brackets."""
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    async for attempt in _retrying(address, "ops.unavailable", stands):
        with attempt:
            await listen(socket.create_server((host.strip("[]"), int(port)), family=family, backlog=BACKLOG))
    stands("")
    log.info("ops.listening", address=address)


def _retrying(what: str, event: str, stands: Stands) -> AsyncRetrying:
    """For ever, said once: the node goes on without it."""

    def said(state: RetryCallState) -> None:
        if state.outcome is None or state.outcome.exception() is None:
            return
        why = str(state.outcome.exception())
        stands(f"nobody is served at {what}, which cannot be had: {why}")
        if state.attempt_number == 1:
            log.error(event, where=what, error=why)

    return AsyncRetrying(
        retry=retry_if_exception_type(OSError),
        wait=wait_exponential(multiplier=0.2, max=5),
        after=said,
    )
