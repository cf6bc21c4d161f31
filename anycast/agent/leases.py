"""The agent's end of the lease protocol: plugins connect, get every lease, and report."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import os
import pwd
import socket
from collections.abc import Callable, Iterable
from dataclasses import replace

import structlog

from anycast.agent.door import Door, Guest, Limits
from anycast.core.events import Event, PluginConnected, PluginLost, PluginReported, PluginSaw
from anycast.core.values.report import SILENT
from anycast.core.values.sight import ViewChange
from anycast.lease import (
    NO_REPORT,
    Ask,
    Decoder,
    Hello,
    Lease,
    Message,
    ProtocolError,
    Report,
    ReportChange,
    change_of,
    encode,
    report_after,
    told_together,
)
from anycast.sockets import Peer

# What may wait for a plugin behind a full set: it gets one new full set once it has read, and no queue of leases.
MAX_BACKLOG = 64 * 1024  # bytes
STALLED = 15.0  # seconds in which a plugin that is behind reads nothing: it connects again when it can
# Whatever a plugin sends, it is read in pieces of a few milliseconds, and the lease goes out between them.
READ_SIZE = 16 * 1024  # bytes
PACE = 0.01  # seconds between two of them
# Of a plugin that does not know differences: what five thousand VIPs need, and more.
MAX_REPORT = 512 * 1024  # bytes
MUTE = SILENT  # seconds of leases without a report: a plugin answers each
CLOSE_PATIENCE = 1.0  # seconds to hand over what is in the buffers
# A plugin needs one connection; who has one and says nothing makes way for another.
LIMITS = Limits(process=4, user=16, others=32)
MAX_COMPLAINTS = 100  # that are remembered
ASK_PATIENCE = 1.0  # seconds that the first leases wait for it: a plugin that is refused comes again
ASKED_AGAIN = (
    5.0  # seconds until the number of the plugin's user is looked up again, for somebody who is refused
)

log = structlog.get_logger()


class _Outgoing:
    """A lease in the forms in which it goes out, each made once and only where it is needed."""

    def __init__(self, lease: Lease, before: Lease | None) -> None:
        self.lease = lease
        stands = before is not None and lease.base == before.seq
        self._owned_before = before.owned if before is not None and stands else None
        self._whole = self._change = b""

    def stands_on(self, seq: int | None) -> bool:
        return self._owned_before is not None and seq == self.lease.base

    def whole(self) -> bytes:
        self._whole = self._whole or encode(self.lease)
        return self._whole

    def change(self) -> bytes:
        assert self._owned_before is not None  # noqa: S101 - the caller has looked
        self._change = self._change or encode(change_of(self.lease, self._owned_before))
        return self._change


class _Connection:
    """One plugin: what it was given, and what it has reported."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.transport = writer.transport
        self.transport.set_write_buffer_limits(high=0)  # so that `drain` waits until all is read
        self.knows_changes = False
        self.seq: int | None = None  # of the lease it was given last; None: it is owed the full set
        self.whole_seq: int | None = None  # of the full set it was given last
        self.report = NO_REPORT
        self.unanswered: float | None = None  # when it got the first lease that it has not answered
        self.waiting: asyncio.Task[None] | None = None
        self._told_mute = False
        self._room = MAX_BACKLOG
        self._unread = 0
        self._stalled_since = 0.0

    def give(self, out: _Outgoing) -> bool:
        """Whether it has the lease now, or what it still has to read of the ones before."""
        unread = self.transport.get_write_buffer_size()
        if self.knows_changes and out.stands_on(self.seq) and unread <= self._room:
            self.writer.write(out.change())
        elif unread:
            self.seq = None
            return False
        else:
            self.writer.write(out.whole())
            self.whole_seq = out.lease.seq
            self._room = self.transport.get_write_buffer_size() + MAX_BACKLOG
        self.seq = out.lease.seq
        return True

    def is_stalled(self, now: float) -> bool:
        """It is behind, and has read nothing for too long."""
        unread = self.transport.get_write_buffer_size()
        if unread != self._unread:
            self._unread, self._stalled_since = unread, now
        return bool(unread) and now - self._stalled_since >= STALLED

    def fell_silent(self, now: float) -> Report | None:
        """Once for each silence: what it has said, as of a plugin that does not answer. To be asked at each lease."""
        if self.unanswered is None:
            self.unanswered, self._told_mute = now, False
        if self._told_mute or now - self.unanswered < MUTE or self.report is NO_REPORT:
            return None
        self._told_mute = True
        since = self.unanswered if self.report.silent_since is None else self.report.silent_since
        return replace(self.report, silent_since=since, mute=True, touched=frozenset())

    def hear(self, messages: Iterable[Message]) -> Report | None:
        """The newest report that they make, if any. Raises ProtocolError."""
        heard: Report | None = None
        for message in messages:
            match message:
                case Report():
                    new = _whole_report(self.report, message)
                case ReportChange():
                    new = report_after(self.report, message)
                case _:
                    continue
            self.report, self.unanswered = new, None
            heard = new if heard is None else told_together(heard, new)
        return heard


class LeaseServer:
    """Hands leases to every connected plugin and never waits for one."""

    def __init__(
        self, post: Callable[[Event], None], *, user: str, refused: Callable[[str], None] = lambda _: None
    ) -> None:
        """`user`: whom the plugin may run as, besides root and the agent's own user. `refused`: is told why one was."""
        self._post = post
        self._refused = refused
        self._user = user
        self._numbers = itertools.count(1)
        self._connections: dict[int, _Connection] = {}
        self._newest: _Outgoing | None = None
        self._sent_at = -math.inf
        self._uid: int | None = None  # of the user, once it is known
        self._asked_at = -ASKED_AGAIN  # when it was looked up
        self._asking: asyncio.Task[None] | None = None
        self._door = Door(LIMITS, self._serve, farewell=self._turned_away, refusal=self._refusal)
        self._closing = False
        self._complaints: set[str] = (
            set()
        )  # what was logged: a plugin that is refused comes again five times a second

    async def listen(self, listener: socket.socket) -> None:
        """Accept on `listener` instead of the one before; connections that stand stay."""
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask_who())
        await asyncio.wait({self._asking}, timeout=ASK_PATIENCE)
        self._door.listen(listener)

    def send(self, lease: Lease) -> None:
        """A plugin that stands on the lease before it gets what has changed, any other the full set.

        One that is behind gets the newest when it has read. What it holds until then runs out by itself.
        """
        self._newest = _Outgoing(lease, None if self._newest is None else self._newest.lease)
        now = asyncio.get_running_loop().time()
        late, self._sent_at = now - self._sent_at > MUTE / 2 + lease.ttl / 3, now
        for source, connection in self._connections.items():
            if late:
                # We did not run ourselves, and what it said may wait to be read.
                connection.unanswered = None
            self._give(connection)
            if (mute := connection.fell_silent(now)) is not None:
                self._post(PluginReported(source=source, report=mute))

    def _give(self, connection: _Connection) -> None:
        if self._newest is None or connection.transport.is_closing() or connection.give(self._newest):
            return
        if connection.is_stalled(asyncio.get_running_loop().time()):
            log.warning("plugin.dropped", why=f"it has read nothing for {STALLED:g} s")
            connection.transport.abort()
        elif connection.waiting is None:
            connection.waiting = asyncio.create_task(self._give_later(connection))

    async def _give_later(self, connection: _Connection) -> None:
        with contextlib.suppress(ConnectionError):
            await connection.writer.drain()
        connection.waiting = None
        if connection.seq is None:
            self._give_again(connection)

    def _give_again(self, connection: _Connection) -> None:
        """The newest lease, unless it is over: then the next one comes in full."""
        if self._newest is not None:
            now = asyncio.get_running_loop().time()
            if self._newest.lease.expires(now) > now:
                self._give(connection)

    async def close(self) -> None:
        self._closing = True
        self._door.leave()
        for connection in list(self._connections.values()):
            connection.writer.close()
        if self._door.serving:
            await asyncio.wait(self._door.serving, timeout=CLOSE_PATIENCE)
        for connection in list(self._connections.values()):
            connection.transport.abort()
        # The event loop would cancel what still runs at its end, and log that as an error.
        if self._door.serving:
            await asyncio.wait(self._door.serving)
        if self._asking is not None:
            self._asking.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, guest: Guest) -> None:
        try:
            if self._closing:
                return
            source, connection = next(self._numbers), _Connection(writer)
            self._connections[source] = connection
            writer.write(encode(Hello()))
            self._post(PluginConnected(source=source))
            try:
                await self._read(source, connection, reader, guest)
            finally:
                del self._connections[source]
                if connection.waiting is not None:
                    connection.waiting.cancel()
                self._post(PluginLost(source=source))
        except (ConnectionError, asyncio.CancelledError):
            pass  # it has gone, or says nothing and makes way
        finally:
            writer.close()

    async def _read(
        self, source: int, connection: _Connection, reader: asyncio.StreamReader, guest: Guest
    ) -> None:
        decoder = Decoder(max_line=MAX_REPORT)
        while data := await reader.read(READ_SIZE):
            try:
                messages = decoder.feed(data)
                report = connection.hear(messages)
            except ProtocolError as error:
                self._complain("protocol", str(error))
                return
            if messages:
                guest.waits = False  # it is a plugin, and stays
            if report is not None:
                self._complaints.discard("protocol")
                self._post(PluginReported(source=source, report=report))
            for message in messages:
                if isinstance(message, ViewChange):
                    self._post(PluginSaw(source=source, change=message))
            if any(isinstance(message, Ask) for message in messages):
                self._asked(connection)
            await asyncio.sleep(PACE)

    def _asked(self, connection: _Connection) -> None:
        """It gets the full set, once for each lease: nothing on its connection is ever lost."""
        connection.knows_changes = True
        if self._newest is not None and connection.whole_seq != self._newest.lease.seq:
            connection.seq = None
            self._give_again(connection)

    def _refusal(self, peer: Peer) -> str:
        if peer.uid in (0, os.geteuid(), self._uid):
            return ""
        if self._asking is None and asyncio.get_running_loop().time() >= self._asked_at + ASKED_AGAIN:
            self._asking = asyncio.create_task(self._ask_who())
        return f"uid {peer.uid} is neither root, the agent's user nor node.exabgp_user ({self._user})"

    async def _ask_who(self) -> None:
        """A thread: the name may be asked of a directory service, and that must not hold the lease up."""
        found = await asyncio.to_thread(_uid_of, self._user)
        self._uid = self._uid if found is None else found
        self._asked_at, self._asking = asyncio.get_running_loop().time(), None

    def _turned_away(self, why: str) -> bytes:
        self._complain(why, why)
        return b""

    def _complain(self, about: str, why: str) -> None:
        if about not in self._complaints:
            if len(self._complaints) >= MAX_COMPLAINTS:
                self._complaints.clear()
            self._complaints.add(about)
            log.error("plugin.refused", why=why)
            self._refused(why)


def _uid_of(user: str) -> int | None:
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None


def _whole_report(old: Report, new: Report) -> Report:
    """A report in full, sharing what is as before, with what is not."""
    return replace(
        new,
        announced=old.announced if new.announced == old.announced else new.announced,
        pending=old.pending if new.pending == old.pending else new.pending,
        failed=old.failed if new.failed == old.failed else new.failed,
        touched=(old.announced ^ new.announced) | (old.pending ^ new.pending),
    )
