from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator

import pytest

from anycast.probes.sweep.sockets import Sockets, local_ports
from tests.unit.probes.peers import open_descriptors, time_waits


@pytest.fixture
def poller() -> Iterator[select.epoll]:
    with select.epoll() as poller:
        yield poller


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def connected(sockets: Sockets, listener: socket.socket) -> tuple[socket.socket, socket.socket]:
    sock = sockets.take(socket.AF_INET, speaks=True)
    sock.connect_ex(listener.getsockname())
    return sock, listener.accept()[0]


def test_a_socket_that_is_given_back_resets_and_can_be_connected_again(
    poller: select.epoll, listener: socket.socket
) -> None:
    sockets = Sockets(poller, idle=4)
    sock, peer = connected(sockets, listener)
    sockets.give(sock, sock.fileno(), socket.AF_INET, speaks=True)
    with peer, pytest.raises(ConnectionResetError):
        peer.recv(1)
    again, peer = connected(sockets, listener)
    assert again is sock
    with peer:
        again.send(b"x")
        assert peer.recv(1) == b"x"
        sockets.give(again, again.fileno(), socket.AF_INET, speaks=True)
    assert time_waits(listener.getsockname()[1]) == 0
    sockets.close()


def test_no_more_are_kept_than_asked_for_and_the_others_reset_too(
    poller: select.epoll, listener: socket.socket
) -> None:
    before = open_descriptors()
    sockets = Sockets(poller, idle=1)
    pairs = [connected(sockets, listener) for _ in range(3)]
    for sock, _ in pairs:
        sockets.give(sock, sock.fileno(), socket.AF_INET, speaks=True)
    for _, peer in pairs:
        with peer, pytest.raises(ConnectionResetError):
            peer.recv(1)
    assert open_descriptors() == before + 1
    sockets.close()
    assert open_descriptors() == before


def test_a_closed_socket_is_no_longer_watched_even_if_a_child_still_holds_it(
    poller: select.epoll, listener: socket.socket
) -> None:
    sockets = Sockets(poller, idle=0)
    sock, peer = connected(sockets, listener)
    held = os.dup(sock.fileno())
    sockets.give(sock, sock.fileno(), socket.AF_INET, speaks=True)
    peer.close()
    assert poller.poll(0) == []
    os.close(held)


def test_the_ports_of_the_kernel_are_a_range_of_ports() -> None:
    ports = local_ports()
    assert len(ports) > 0
    assert 0 < ports[0] <= ports[-1] < 65536
