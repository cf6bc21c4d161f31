"""Keeper of a lab kernel: lets any number of clients run commands over its one line.

It renumbers channels, and it never has more than LINK bytes under way to the guest: User-Mode-Linux 6.1 stops
listening to a serial line for good once the guest's 4 KiB terminal buffer has filled up.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
from dataclasses import dataclass, field

from lab.wire import CHUNK, Decoder, Frame, Kind, WireError, credit, encode

LINK = 2048  # bytes


@dataclass(eq=False)
class Client:
    sock: socket.socket
    decoder: Decoder = field(default_factory=Decoder)
    out: bytearray = field(default_factory=bytearray)
    channels: dict[int, int] = field(default_factory=dict)  # the client's number -> ours


class Keeper:
    """Serves clients until the line ends. `listener`: where clients come from; without one, `add` brings them."""

    def __init__(self, line: socket.socket, listener: socket.socket | None = None) -> None:
        self._line = line
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._decoder = Decoder()
        self._queue = bytearray()  # to the line
        self._under_way = 0
        self._next = 1
        self._owners: dict[
            int, tuple[Client, int] | None
        ] = {}  # None: the client is gone, the command not yet

    def add(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._selector.register(sock, selectors.EVENT_READ, Client(sock))

    def serve(self) -> None:
        """Returns when the lab's kernel is gone."""
        self._line.setblocking(False)
        self._selector.register(self._line, selectors.EVENT_READ)
        if self._listener is not None:
            self._listener.setblocking(False)
            self._selector.register(self._listener, selectors.EVENT_READ)
        try:
            self._loop()
        finally:
            for key in list(self._selector.get_map().values()):
                if isinstance(key.data, Client):
                    key.data.sock.close()
            self._selector.close()

    def _loop(self) -> None:
        while True:
            for key, events in self._selector.select():
                if key.fileobj is self._line:
                    if events & selectors.EVENT_WRITE:
                        self._push()
                    if events & selectors.EVENT_READ and not self._from_line():
                        return
                elif isinstance(key.data, Client):
                    if events & selectors.EVENT_WRITE:
                        self._to_client(key.data)
                    if events & selectors.EVENT_READ:
                        self._from_client(key.data)
                elif self._listener is not None:
                    with contextlib.suppress(OSError):
                        self.add(self._listener.accept()[0])

    def _from_line(self) -> bool:
        try:
            data = self._line.recv(65536)
        except BlockingIOError:
            return True
        except OSError:
            return False
        for frame in self._decoder.feed(data):
            if frame.channel == 0:
                if frame.kind is Kind.CREDIT:
                    self._under_way -= int.from_bytes(frame.body, "big")
                    self._push()
                continue
            owner = self._owners.get(frame.channel)
            if owner is not None:
                client, channel = owner
                client.out += encode(frame._replace(channel=channel))
                self._to_client(client)
            elif frame.kind in (Kind.STDOUT, Kind.STDERR):
                self._send(credit(frame.channel, len(frame.body)))
            if frame.kind is Kind.EXIT:
                self._forget(frame.channel)
        return bool(data)

    def _forget(self, channel: int) -> None:
        owner = self._owners.pop(channel, None)
        if owner is not None:
            owner[0].channels.pop(owner[1], None)

    def _from_client(self, client: Client) -> None:
        try:
            data = client.sock.recv(65536)
            frames = client.decoder.feed(data)
        except BlockingIOError:
            return
        except (OSError, WireError):
            data, frames = b"", []
        for frame in frames:
            if frame.kind is Kind.POWEROFF:
                self._send(frame)
                continue
            if frame.kind is Kind.OPEN:
                client.channels[frame.channel] = self._next
                self._owners[self._next] = (client, frame.channel)
                self._next += 1
            if frame.channel in client.channels:
                self._send(frame._replace(channel=client.channels[frame.channel]))
        if not data:
            self._lose(client)

    def _lose(self, client: Client) -> None:
        if client.sock.fileno() < 0:
            return
        self._selector.unregister(client.sock)
        client.sock.close()
        for channel in client.channels.values():
            self._owners[channel] = None
            self._send(Frame(channel, Kind.HANGUP))

    def _to_client(self, client: Client) -> None:
        if client.sock.fileno() < 0:
            return
        try:
            while client.out:
                del client.out[: client.sock.send(client.out)]
        except BlockingIOError:
            pass
        except OSError:
            self._lose(client)
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.out else 0)
        self._selector.modify(client.sock, events, client)

    def _send(self, frame: Frame) -> None:
        self._queue += encode(frame)
        self._push()

    def _push(self) -> None:
        """As much to the guest as it may have under way."""
        try:
            while self._queue and self._under_way < LINK:
                count = self._line.send(self._queue[: min(CHUNK, LINK - self._under_way)])
                del self._queue[:count]
                self._under_way += count
        except BlockingIOError:
            self._selector.modify(self._line, selectors.EVENT_READ | selectors.EVENT_WRITE)
        except OSError:
            pass  # the line is gone: its reading side says so
        else:
            self._selector.modify(self._line, selectors.EVENT_READ)
