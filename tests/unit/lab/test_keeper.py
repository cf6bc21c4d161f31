from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from lab.keeper import LINK, Keeper
from lab.wire import Decoder, Frame, Kind, credit, encode


class Guest:
    """The far end of the keeper's line, by hand."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._decoder = Decoder()
        self._frames: list[Frame] = []

    def next(self, *, acknowledge: bool = True) -> Frame:
        while not self._frames:
            data = self._sock.recv(65536)
            assert data, "the keeper has gone"
            if acknowledge:
                self.send(credit(0, len(data)))
            self._frames += self._decoder.feed(data)
        return self._frames.pop(0)

    def send(self, frame: Frame) -> None:
        self._sock.sendall(encode(frame))


class Site:
    def __init__(self) -> None:
        line, far = socket.socketpair()
        self.far = far
        self.guest = Guest(far)
        self.clients: list[socket.socket] = []
        self._line = line
        self.keeper = Keeper(line)
        for _ in range(2):
            ours, theirs = socket.socketpair()
            ours.settimeout(10)
            self.keeper.add(theirs)
            self.clients.append(ours)
        far.settimeout(10)
        self.thread = threading.Thread(target=self.keeper.serve)
        self.thread.start()

    def close(self) -> None:
        self.far.close()
        self.thread.join(10)
        for sock in (*self.clients, self._line):
            sock.close()


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


def test_two_clients_with_the_same_channel_number_stay_apart(site: Site) -> None:
    numbers = []
    for client in site.clients:
        client.sendall(encode(Frame(1, Kind.OPEN, b"{}")))
        numbers.append(site.guest.next().channel)
    assert numbers[0] != numbers[1]
    for number, text in zip(reversed(numbers), (b"second", b"first"), strict=True):
        site.guest.send(Frame(number, Kind.STDOUT, text))
    assert Decoder().feed(site.clients[0].recv(100)) == [Frame(1, Kind.STDOUT, b"first")]
    assert Decoder().feed(site.clients[1].recv(100)) == [Frame(1, Kind.STDOUT, b"second")]


def test_no_more_is_under_way_to_the_guest_than_its_terminal_holds(site: Site) -> None:
    site.clients[0].sendall(encode(Frame(1, Kind.OPEN, b"x" * 3 * LINK)))
    arrived = 0
    while arrived < LINK:
        arrived += len(site.far.recv(65536))
    site.far.settimeout(0.2)
    with pytest.raises(TimeoutError):
        site.far.recv(1)
    site.far.settimeout(10)
    site.guest.send(credit(0, LINK))
    assert site.far.recv(65536)


def test_a_client_that_goes_away_hangs_up_its_commands_and_frees_their_output(site: Site) -> None:
    site.clients[0].sendall(encode(Frame(1, Kind.OPEN, b"{}")))
    channel = site.guest.next().channel
    site.clients[0].close()
    assert site.guest.next() == Frame(channel, Kind.HANGUP)
    site.guest.send(Frame(channel, Kind.STDOUT, b"to nobody"))
    assert site.guest.next() == credit(channel, len(b"to nobody"))


def test_clients_hear_of_the_end_of_the_kernel(site: Site) -> None:
    site.far.shutdown(socket.SHUT_RDWR)
    assert site.clients[0].recv(1) == b""


def test_a_client_that_talks_nonsense_is_dropped_and_the_others_stay(site: Site) -> None:
    site.clients[0].sendall(b"GET / HTTP/1.1\r\n\r\n")
    assert site.clients[0].recv(1) == b""
    site.clients[1].sendall(encode(Frame(1, Kind.OPEN, b"{}")))
    assert site.guest.next().kind is Kind.OPEN
