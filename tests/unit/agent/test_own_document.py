"""What the agent asks its ops process for before the node leaves: an answer, or why there is none."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from anycast.agent.own_document import UnknownError, told
from anycast.core.fleet.values import VipStanding
from anycast.ops.fleet import Told
from anycast.ops.main import SOCKET
from tests.unit.ops.fleet import MAIL, WEB, in_fleet


@contextmanager
def answering(runtime_dir: Path, answer: Callable[[], bytes]) -> Iterator[None]:
    """One client is answered."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(runtime_dir / SOCKET))
        listening.listen()

        def serve() -> None:
            line, _ = listening.accept()
            with line:
                assert line.recv(4096).startswith(b"GET /fleet HTTP/1.0\r\n")
                line.sendall(answer())

        serving = threading.Thread(target=serve)
        serving.start()
        yield
        serving.join()


def test_it_has_what_the_node_carries_and_all_of_its_vips(tmp_path: Path) -> None:
    node = in_fleet()
    body = Told(node).answer(node.now).body(())
    with answering(tmp_path, lambda: b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\n" + body):
        found = told(tmp_path)
    assert found.node == "lb1"
    assert found.load is not None
    assert found.load.bits == WEB + MAIL
    assert set(found.vips) == {"web", "mail"}
    assert all(one.standing is VipStanding.ANNOUNCED for one in found.vips.values())
    web = found.vips["web"]
    assert web.load is not None
    assert web.load.bits == pytest.approx(WEB)
    assert web.rank == (0, 0, 0, 0)
    assert found.capacity == node.state.config.fleet.capacity  # type: ignore[union-attr]  # it has a fleet


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "the ops process does not tell it"),
        (b"", "the ops process does not tell it"),
        (b"HTTP/1.1 200 OK\r\n\r\nnonsense", "what the ops process tells cannot be used: it is no JSON"),
    ],
)
def test_an_answer_that_says_nothing_is_no_document(tmp_path: Path, answer: bytes, why: str) -> None:
    with answering(tmp_path, lambda: answer), pytest.raises(UnknownError, match=why):
        told(tmp_path)


def test_whoever_does_not_answer_is_waited_for_no_longer_than_that(tmp_path: Path) -> None:
    with pytest.raises(UnknownError, match="does not answer: No such file"):
        told(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as deaf:
        deaf.bind(str(tmp_path / SOCKET))
        deaf.listen()
        with pytest.raises(UnknownError, match=r"has not answered within 0\.05 s"):
            told(tmp_path, patience=0.05)
