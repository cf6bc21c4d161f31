"""The agent's end of the lease protocol: plugins connect, get every lease, and report."""

from __future__ import annotations

import asyncio
import itertools
import os
import pwd
import socket
from collections.abc import Callable

import structlog

from anycast.core.events import Event, PluginConnected, PluginLost, PluginReported
from anycast.lease import Decoder, Lease, ProtocolError, Report, encode
from anycast.sockets import peer_uid

# A plugin that has not read this much does not read at all: it connects again when it can.
MAX_BACKLOG = 1024 * 1024  # bytes
READ_SIZE = 65536
# More than a thousand VIPs need, and read within a quarter of a second: the lease must not wait longer.
MAX_REPORT = 512 * 1024  # bytes
CLOSE_PATIENCE = 1.0  # seconds to hand over what is in the buffers

log = structlog.get_logger()


class LeaseServer:
    """Hands leases to every connected plugin and never waits for one."""

    def __init__(self, post: Callable[[Event], None], *, user: str) -> None:
        """`user`: whom the plugin may run as, besides root and the agent's own user."""
        self._post = post
        self._user = user
        self._numbers = itertools.count(1)
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self._closing = False
        self._complaints: set[str] = (
            set()
        )  # what was logged: a plugin that is refused comes again five times a second

    async def listen(self, listener: socket.socket) -> None:
        """Accept on `listener` instead of the one before; connections that stand stay."""
        old, self._server = self._server, None
        if old is not None:
            old.close()
        self._server = await asyncio.start_unix_server(self._serve, sock=listener)

    def send(self, lease: Lease) -> None:
        """A plugin that is too far behind to take it is disconnected: what it holds runs out by itself."""
        data = encode(lease)
        for writer in self._writers.values():
            transport = writer.transport
            if transport.is_closing():
                continue
            if transport.get_write_buffer_size() > MAX_BACKLOG:
                log.warning(
                    "plugin.dropped", why=f"it has not read its leases: {MAX_BACKLOG} bytes are unread"
                )
                transport.abort()
            else:
                writer.write(data)

    async def close(self) -> None:
        self._closing = True
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers.values()):
            writer.close()
        if self._serving:
            await asyncio.wait(self._serving, timeout=CLOSE_PATIENCE)
        for writer in list(self._writers.values()):
            writer.transport.abort()
        # The event loop would cancel what still runs at its end, and log that as an error.
        if self._serving:
            await asyncio.wait(self._serving)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        try:
            if not await self._may_connect(writer) or self._closing:
                return
            source = next(self._numbers)
            self._writers[source] = writer
            self._post(PluginConnected(source=source))
            try:
                await self._read(source, reader)
            finally:
                del self._writers[source]
                self._post(PluginLost(source=source))
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def _read(self, source: int, reader: asyncio.StreamReader) -> None:
        decoder = Decoder(max_line=MAX_REPORT)
        while data := await reader.read(READ_SIZE):
            try:
                messages = decoder.feed(data)
            except ProtocolError as error:
                self._complain("protocol", str(error))
                return
            for message in messages:
                if isinstance(message, Report):
                    self._complaints.discard("protocol")
                    self._post(PluginReported(source=source, report=message))

    async def _may_connect(self, writer: asyncio.StreamWriter) -> bool:
        uid = peer_uid(writer.get_extra_info("socket"))
        if uid in (0, os.geteuid()):
            return True
        # A thread: the name may be asked of a directory service, and that must not hold the lease up.
        if uid == await asyncio.to_thread(_uid_of, self._user):
            return True
        self._complain(
            f"uid {uid}", f"uid {uid} is neither root, the agent's user nor node.exabgp_user ({self._user})"
        )
        return False

    def _complain(self, about: str, why: str) -> None:
        if about not in self._complaints:
            self._complaints.add(about)
            log.error("plugin.refused", why=why)


def _uid_of(user: str) -> int | None:
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None
