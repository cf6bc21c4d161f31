from __future__ import annotations

import json
import math
import os
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EMFILE, ENOSPC
from typing import Any, ClassVar

import pytest

from anycast.probes.forker import Forker
from tests.unit.probes.peers import LONG

_epoll = select.epoll


class Asker:
    """The other end of a forker's line."""

    def __init__(self, line: socket.socket) -> None:
        self.line = line
        self._file = line.makefile("rb")

    def ask(self, *what: Any) -> None:
        self.line.sendall(json.dumps(what).encode() + b"\n")

    def sh(self, number: int, script: str) -> None:
        self.ask(number, ["/bin/sh", "-c", script], "", "")

    def answer(self) -> list[Any]:
        found: list[Any] = json.loads(self._file.readline())
        return found

    def end(self) -> list[Any]:
        """What it says next but that a program was started."""
        while (answer := self.answer())[0] == "started":
            pass
        return answer

    def close(self) -> None:
        self._file.close()
        self.line.close()


@pytest.fixture
def asker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Asker]:
    with forking(monkeypatch) as made:
        yield made


@contextmanager
def forking(monkeypatch: pytest.MonkeyPatch) -> Iterator[Asker]:
    """A forker in a thread of this process."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    ours, theirs = socket.socketpair()
    ours.settimeout(LONG)
    thread = threading.Thread(target=Forker(theirs, 200).serve)
    thread.start()
    asker = Asker(ours)
    try:
        assert asker.answer() == ["ready"]
        yield asker
    finally:
        asker.close()
        thread.join(LONG)
        assert not thread.is_alive()


def test_a_program_that_ends_at_once_is_told_once(asker: Asker) -> None:
    asker.sh(1, "echo fine; exit 3")
    what, number, pid, status, _, line = asker.answer()
    assert (what, number, status, line) == ("ended", 1, 3, "fine")
    assert pid > 1


def test_one_that_goes_on_is_told_as_started(asker: Asker) -> None:
    asker.sh(1, "echo fine; exec sleep 1000")
    what, number, pid = asker.answer()
    assert (what, number) == ("started", 1)
    asker.ask(1)
    assert asker.answer()[:4] == ["ended", 1, pid, -9]


def test_one_that_goes_on_is_told_as_started_however_many_others_begin_meanwhile(asker: Asker) -> None:
    number = 0
    while not select.select([asker.line], [], [], 0.005)[0]:
        number += 1
        assert number < 100
        asker.sh(number, "exec sleep 1000")
    assert asker.answer()[:2] == ["started", 1]


def test_what_is_asked_together_is_answered_each_by_its_number(asker: Asker) -> None:
    lines = [json.dumps([n, ["/bin/sh", "-c", f"exit {n}"], "", ""]) for n in range(20)]
    asker.line.sendall("\n".join([*lines, ""]).encode())
    found = [asker.end() for _ in lines]
    assert sorted((number, status) for _, number, _, status, _, _ in found) == [(n, n) for n in range(20)]


def test_to_kill_what_has_ended_does_nothing(asker: Asker) -> None:
    asker.sh(1, "exit 0")
    assert asker.end()[:2] == ["ended", 1]
    asker.ask(1)
    asker.sh(2, "exit 0")
    assert asker.end()[:2] == ["ended", 2]


def test_a_closed_output_is_not_read_again_and_again(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    read = os.read

    def counting(fd: int, size: int) -> bytes:
        reads.append(fd)
        return read(fd, size)

    monkeypatch.setattr("anycast.oom._read", lambda _path: "")
    monkeypatch.setattr(os, "read", counting)
    asker.sh(1, "exec >&- 2>&-; sleep 0.1")
    assert asker.end()[:2] == ["ended", 1]
    assert len(reads) <= 1


def test_a_program_that_cannot_be_watched_is_ended_and_refused(
    asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_pid: int, _flags: int = 0) -> int:
        raise OSError(EMFILE, "")

    with monkeypatch.context() as scarce:
        scarce.setattr(os, "pidfd_open", refused)
        asker.sh(1, "exec sleep 1000")
        assert asker.answer() == ["refused", 1, EMFILE]
    asker.sh(2, "exit 0")
    assert asker.end()[:2] == ["ended", 2]


class Narrow:
    """An epoll that has room for so many more."""

    made: ClassVar[list[Narrow]] = []

    def __init__(self) -> None:
        self._epoll = _epoll()
        self.room = math.inf
        self.refused = threading.Event()
        self.made.append(self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._epoll, name)

    def register(self, fd: int, events: int) -> None:
        if self.room < 1:
            self.refused.set()
            raise OSError(ENOSPC, "")
        self._epoll.register(fd, events)
        self.room -= 1


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Narrow, Asker]]:
    monkeypatch.setattr(select, "epoll", Narrow)
    with forking(monkeypatch) as asker:
        yield Narrow.made.pop(), asker


def test_a_program_whose_end_the_poller_takes_no_more_is_ended_and_refused(
    narrow: tuple[Narrow, Asker],
) -> None:
    poller, asker = narrow
    before = set(os.listdir("/proc/self/fd"))
    poller.room = 0
    asker.sh(1, "exec sleep 1000")
    assert asker.answer() == ["refused", 1, ENOSPC]
    assert set(os.listdir("/proc/self/fd")) == before
    poller.room = math.inf
    asker.sh(2, "exit 0")
    assert asker.end()[:2] == ["ended", 2]


def test_a_program_whose_output_the_poller_takes_no_more_is_seen_to_once_there_is_room(
    narrow: tuple[Narrow, Asker],
) -> None:
    poller, asker = narrow
    poller.room = 1
    asker.sh(1, "echo fine; exec sleep 1000")
    assert poller.refused.wait(LONG)
    asker.sh(2, "exit 0")
    assert asker.answer() == ["refused", 2, ENOSPC]
    poller.room = math.inf
    assert asker.answer()[:2] == ["started", 1]
    asker.ask(1)
    assert asker.answer()[:2] == ["ended", 1]


def test_with_the_line_all_programs_end(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    with forking(monkeypatch) as asker:
        asker.ask(1, ["/bin/sh", "-c", f"exec 3>/proc/{os.getpid()}/fd/{writing}; sleep 1000 & wait"], "", "")
        assert asker.answer()[0] == "started"
    os.close(writing)
    assert os.read(reading, 1) == b""  # nobody has it open any more
    os.close(reading)
