"""What a service manager hears, on a datagram socket of its own."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from anycast.service_manager import STATUS_EVERY, ServiceManager


class Manager:
    """The manager's end. `heard` gives what has come so far: a datagram is there once it was sent."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    def heard(self) -> list[str]:
        messages = []
        while True:
            try:
                messages.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return messages


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    one = Manager(str(tmp_path / "notify"))
    with one.socket:
        yield one


def told(manager: Manager, **environ: str) -> ServiceManager:
    return ServiceManager({"NOTIFY_SOCKET": manager.socket.getsockname(), **environ})


def test_ready_is_said_once_and_not_before_it_is_so(manager: Manager) -> None:
    process = told(manager)
    process.passed(0.0, ready=False)
    assert manager.heard() == []
    process.passed(1.0, ready=True)
    process.passed(2.0, ready=True)
    assert manager.heard() == ["READY=1"]


def test_the_watchdog_is_fed_five_times_within_its_limit_and_by_passes_only(manager: Manager) -> None:
    process = told(manager, WATCHDOG_USEC="10000000")
    assert process.interval == 2.0
    for now in (0.0, 1.0, 1.9, 2.0, 3.9, 30.0, 31.0):
        process.passed(now, ready=False)
    assert manager.heard() == ["WATCHDOG=1"] * 3


def test_the_status_is_one_line_asked_for_once_a_second_and_said_where_it_changed(manager: Manager) -> None:
    process = told(manager)
    asked: list[float] = []

    def at(now: float, text: str) -> None:
        def status() -> str:
            asked.append(now)
            return text

        process.passed(now, ready=False, status=status)

    at(0.0, "one\nREADY=1")
    at(STATUS_EVERY / 2, "never seen")
    at(STATUS_EVERY, "one\nREADY=1")
    at(STATUS_EVERY * 2, "two")
    assert manager.heard() == ["STATUS=one READY=1", "STATUS=two"]
    assert asked == [0.0, STATUS_EVERY, STATUS_EVERY * 2]


def test_the_end_is_announced(manager: Manager) -> None:
    told(manager).stopping()
    assert manager.heard() == ["STOPPING=1"]


def test_an_abstract_socket_is_as_good() -> None:
    name = f"anycast-test-{id(object())}"
    one = Manager(f"\0{name}")
    with one.socket:
        ServiceManager({"NOTIFY_SOCKET": f"@{name}"}).passed(0.0, ready=True)
        assert one.heard() == ["READY=1"]


def test_a_manager_that_is_gone_and_came_back_hears_ready_then(tmp_path: Path) -> None:
    process = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "notify")})
    process.passed(0.0, ready=True, status=lambda: "up")
    one = Manager(str(tmp_path / "notify"))
    with one.socket:
        process.passed(5.0, ready=True, status=lambda: "up")
        assert one.heard() == ["READY=1", "STATUS=up"]


@pytest.mark.parametrize("usec", ["", "x", "-5", "\u0665"])
def test_without_a_limit_or_a_manager_nothing_is_fed(usec: str, manager: Manager) -> None:
    assert told(manager, WATCHDOG_USEC=usec).interval is None
    alone = ServiceManager({"WATCHDOG_USEC": "1000000"})
    assert alone.interval is None
    alone.passed(0.0, ready=True, status=lambda: pytest.fail("nobody reads it"))
    alone.stopping()
    assert manager.heard() == []
