"""The load against a real server, on loopback."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.client import Load

LAB = Path(__file__).resolve().parents[3] / "lab"
SOURCES = {4: ["127.0.0.2", "127.0.0.3"], 6: ["::1"]}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


class Server:
    """`lab/server.py` as a process."""

    def __init__(self, name: str) -> None:
        self.port, self.udp = free_port(), free_port()
        argv = [sys.executable, "-I", "-S", str(LAB / "server.py"), name, str(self.port), str(self.udp)]
        self.process = subprocess.Popen(argv)
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
            except OSError:
                assert time.monotonic() < deadline, "the server does not listen"
            else:
                return

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server("rs7")
    yield server
    server.end()


def until(load: Load, true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        load.step()
        assert time.monotonic() < deadline


@pytest.fixture
def load(server: Server) -> Iterator[Load]:
    load = Load(["127.0.0.1", "::1"], SOURCES, interval=0.05, port=server.port)
    load.open(20)
    until(load, lambda: load.settled)
    yield load
    load.close()


def test_every_connection_learns_its_server_and_families_are_mixed(load: Load) -> None:
    stats = load.stats()
    assert stats["servers"] == {"rs7": 20}
    assert [stats["by_family"][family]["connections"] for family in "46"] == [10, 10]
    assert stats["broken"] == stats["moved"] == 0


def test_connections_of_a_server_that_dies_are_broken_and_counted_by_its_name(
    load: Load, server: Server
) -> None:
    load.mark()
    server.end()
    until(load, lambda: load.stats()["broken"] == 20)
    stats = load.stats()
    assert stats["lost_by_server"] == {"rs7": 20}
    assert set(stats["errors"]) <= {"closed", "reset"}


def test_what_broke_before_the_mark_is_not_counted_again(load: Load, server: Server) -> None:
    server.end()
    until(load, lambda: load.stats()["broken"] == 20)
    load.mark()
    assert load.stats()["broken"] == 0
    assert load.stats()["connections"] == 0


def test_an_unanswered_question_counts_as_a_pause_while_it_lasts(load: Load, server: Server) -> None:
    server.process.send_signal(signal.SIGSTOP)
    load.mark()
    until(load, lambda: load.stats()["longest_pause"] > 0.3)
    server.process.send_signal(signal.SIGCONT)
    assert load.stats()["broken"] == 0


def test_a_connection_that_is_answered_by_another_server_has_moved(load: Load) -> None:
    connection = load.connections[0]
    connection.server = "rs1"
    until(load, lambda: load.stats()["moved"] == 1)


def test_probes_are_counted_and_a_refused_one_is_a_failure(server: Server) -> None:
    load = Load(["127.0.0.1"], SOURCES, interval=1, probes=50, port=server.port)
    until(load, lambda: load.stats()["probes"]["ok"] >= 3)
    server.end()
    until(load, lambda: load.stats()["probes"]["errors"].get("refused", 0) > 0)
    load.close()


def test_it_is_not_answered_while_a_new_connection_from_before_is_under_way(server: Server) -> None:
    load = Load(["127.0.0.1", "::1"], SOURCES, interval=1, probes=50, port=server.port)
    until(load, lambda: min(load.stats()["probes"]["by_family"].values()) >= 2)
    server.process.send_signal(signal.SIGSTOP)
    load.mark()
    until(load, lambda: any(connection.probe for connection in load._open.values()))
    assert load.answered, "nobody has asked for them"
    load.await_answers()
    assert not load.answered
    server.process.send_signal(signal.SIGCONT)
    until(load, lambda: load.answered)
    assert load.stats()["probes"]["failed"] == 0
    load.close()


def test_as_many_new_connections_are_tried_as_are_due_however_seldom_the_loop_turns(server: Server) -> None:
    load = Load(["127.0.0.1"], SOURCES, interval=1, probes=1000, port=server.port)
    load.step()
    assert len(load._open) > 10
    load.close()


def test_a_server_answers_requests_that_arrive_together_or_in_pieces(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\nGET /health HTTP/1.1\r\n")
        sock.sendall(b"Connection: close\r\n\r\n")
        answer = b""
        while data := sock.recv(4096):
            answer += data
    assert answer.count(b"200 OK") == 2
    assert answer.count(b"rs7\n") == 2


@pytest.mark.parametrize("address", ["127.0.0.5", "::1"])
def test_a_datagram_is_answered_from_the_address_it_was_sent_to(server: Server, address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.connect((address, server.udp))  # a connected socket hears nobody else
        sock.send(b"hello")
        assert sock.recv(100) == b"rs7 hello"
