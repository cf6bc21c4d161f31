from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from anycast.config.load import load
from lab.control import Lab
from lab.errors import LabError
from lab.faults import Site
from lab.topology import topology


class Node:
    """A lab with one balancer, whose agent has left its socket behind. `alive`: another one is on its way."""

    def __init__(self, run: Path, *, alive: bool) -> None:
        self.run = run
        self.topology = SimpleNamespace(balancers=[SimpleNamespace(name="lb1")])
        self.answers: threading.Thread | None = None
        self._alive = alive
        self._path = run / "lb1" / "control.sock"
        self._path.parent.mkdir()
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(self._path))

    def alive(self, _node: str, _what: str) -> bool:
        """Once somebody has asked in vain, the new agent listens."""
        if self._alive and self.answers is None:
            self._path.unlink()
            listening = socket.socket(socket.AF_UNIX)
            listening.bind(str(self._path))
            listening.listen()
            self.answers = threading.Thread(target=self._answer, args=[listening])
            self.answers.start()
        return self._alive

    @staticmethod
    def _answer(listening: socket.socket) -> None:
        with listening, listening.accept()[0] as asked:
            asked.recv(65536)
            asked.sendall(b'HTTP/1.0 200 OK\r\n\r\n{"ok": true}')


@contextmanager
def site(run: Path, *, alive: bool) -> Iterator[Site]:
    lab = Node(run, alive=alive)
    yield Site(cast(Lab, lab), servers=4, watchdog=cast(Any, None))
    if lab.answers is not None:
        lab.answers.join()


def test_an_agent_that_announces_and_does_not_listen_yet_is_asked_again(tmp_path: Path) -> None:
    with site(tmp_path, alive=True) as one:
        assert one.ask("lb1", "POST", "/reload") == {"ok": True}


def test_an_agent_that_has_ended_is_what_a_row_cannot_be_done_for(tmp_path: Path) -> None:
    with site(tmp_path, alive=False) as one, pytest.raises(LabError, match=r"lb1: POST /reload: no agent"):
        one.ask("lb1", "POST", "/reload")


def test_in_a_fleet_each_node_asks_the_others_by_the_link_to_the_real_servers(tmp_path: Path) -> None:
    lab = SimpleNamespace(topology=topology(), config=lambda node: tmp_path / f"{node}.yaml", run=tmp_path)
    one = Site(cast(Lab, lab), servers=4, watchdog=cast(Any, None), fleet=True)
    one.configure("lb1", more={"nodes": {"lb3": {"fleet": {"listen": one.door("lb3", 9650)}}}})
    found = load(tmp_path / "lb1.yaml").config.fleet
    assert found is not None
    assert found.listen == "10.9.1.1:9645"
    assert [(peer.name, peer.host, peer.port) for peer in found.peers] == [
        ("lb2", "10.9.1.2", 9645),
        ("lb3", "10.9.1.3", 9650),
    ]
    assert found.capacity.bits is None
    one.configure("lb1", more={"fleet": {"capacity": {"bits": 5000}}})
    again = load(tmp_path / "lb1.yaml").config.fleet
    assert again is not None
    assert (again.capacity.bits, [peer.port for peer in again.peers]) == (5000, [9645, 9645])
