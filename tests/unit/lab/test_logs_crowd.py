"""Senders of the crowd against receivers of a few lines: what arrives, and what is sent again over another connection."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from lab import logs_crowd
from lab.logs_crowd import Crowd
from lab.waiting import until


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.settimeout(20)
        monkeypatch.setattr(logs_crowd, "AGAIN", 0.01)
        yield made


@pytest.fixture
def crowd_of(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Crowd]]:
    made = []

    def make(kind: str) -> Crowd:
        monkeypatch.setattr(logs_crowd, "PORTS", {kind: listener.getsockname()[1]})
        made.append(Crowd("127.0.0.1", 1, "127.0.0.1"))
        return made[0]

    yield make
    made[0].close()


def stepping(crowd: Crowd, done: Callable[[], bool]) -> None:
    until(lambda: crowd.step() or done(), "the crowd", 20, pause=0)


def taken(listener: socket.socket) -> socket.socket:
    connection, _ = listener.accept()
    connection.settimeout(20)
    return connection


def test_messages_over_tcp_are_counted_in_octets(
    listener: socket.socket, crowd_of: Callable[[str], Crowd]
) -> None:
    crowd = crowd_of("tcp")
    stepping(crowd, lambda: crowd.senders[0].up)
    with taken(listener) as connection:
        crowd.every(0.01)
        stepping(crowd, lambda: crowd.senders[0].last >= 2)
        length, _, rest = connection.recv(4096).partition(b" ")
    assert rest[: int(length)].startswith(b"<13>1 - c0 log - - - numbered c0 1 ")
    assert rest[int(length) :].split(b" ")[0].isdigit()


def test_what_relp_has_not_answered_is_sent_again(
    listener: socket.socket, crowd_of: Callable[[str], Crowd]
) -> None:
    crowd = crowd_of("relp")
    (sender,) = crowd.senders
    stepping(crowd, lambda: sender.up)
    with taken(listener) as first:
        crowd.every(1000.0)
        stepping(crowd, lambda: sender.last == 1)
        assert first.recv(4096).startswith(b"1 open ")
        first.sendall(b"1 rsp 6 200 OK\n2 rs")  # the message itself is not answered
    stepping(crowd, lambda: sender.up and crowd.lost == 1)
    with taken(listener) as second:
        got = b""
        while b"numbered c0 1 " not in got:
            got += second.recv(4096)
        second.sendall(b"1 rsp 6 200 OK\n2 rsp 0\n")
        stepping(crowd, lambda: not sender.pending)
    assert sender.last == 1


def test_a_receiver_that_is_away_is_tried_again(
    listener: socket.socket, crowd_of: Callable[[str], Crowd], monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd = crowd_of("tcp")
    port = listener.getsockname()[1]
    listener.close()
    tries = []
    monkeypatch.setattr(socket.socket, "bind", lambda sock, at: tries.append((sock, at)))
    stepping(crowd, lambda: len(tries) > 2)
    monkeypatch.undo()
    with socket.create_server(("127.0.0.1", port)):
        monkeypatch.setattr(logs_crowd, "PORTS", {"tcp": port})
        stepping(crowd, lambda: crowd.senders[0].up)
    assert crowd.lost == 0
