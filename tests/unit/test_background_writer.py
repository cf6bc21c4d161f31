"""What waits for a disk must cost nothing but what cannot be written, and that is said once."""

from __future__ import annotations

import threading

import pytest

from anycast.background_writer import BackgroundWriter


class Disk:
    """Takes what is written; while it is `shut` it waits, and while it is `full` it refuses."""

    def __init__(self) -> None:
        self.written: list[int] = []
        self.dropped = 0
        self.full = False
        self.entered = threading.Event()
        self.open = threading.Event()
        self.open.set()

    def write(self, items: list[int], dropped: int) -> None:
        self.entered.set()
        assert self.open.wait(60)
        if self.full:
            raise OSError("full")
        self.written += items
        self.dropped += dropped


def test_everything_is_written_in_its_order() -> None:
    disk = Disk()
    writer: BackgroundWriter[int] = BackgroundWriter("test", disk.write, pytest.fail, limit=1000)
    for number in range(1000):
        writer.put(number)
    assert writer.drain(60)
    assert disk.written == list(range(1000))


def test_what_does_not_fit_is_dropped_counted_and_said_once_while_nobody_waits() -> None:
    disk, said = Disk(), list[str]()
    writer: BackgroundWriter[int] = BackgroundWriter("test", disk.write, said.append, limit=3)
    disk.open.clear()
    writer.put(0)
    assert disk.entered.wait(60)
    for number in range(1, 10):
        writer.put(number)
    assert not writer.drain(0)
    assert not said
    disk.open.set()
    assert writer.drain(60)
    assert disk.written == [0, 1, 2, 3]
    assert disk.dropped == 6
    assert said == ["6 did not fit: 3 were waiting already"]


def test_a_row_of_failures_is_said_once_and_the_next_row_again() -> None:
    disk, said = Disk(), list[str]()
    writer: BackgroundWriter[int] = BackgroundWriter("test", disk.write, said.append, limit=3)
    for full in (True, True, False, True):
        disk.full = full
        writer.put(1)
        assert writer.drain(60)
    assert said == ["full", "full"]
    assert disk.written == [1]


def test_what_a_full_disk_refused_is_kept_as_far_as_there_is_room_and_written_in_its_order() -> None:
    disk, said, over = Disk(), list[str](), threading.Event()
    writer: BackgroundWriter[int] = BackgroundWriter(
        "test", disk.write, said.append, limit=3, recovered=over.set, retry=0.01
    )
    disk.full = True
    for number in range(4):
        writer.put(number)
        disk.entered.clear()
        assert disk.entered.wait(60)
    disk.full = False
    assert over.wait(60)
    assert writer.drain(60)
    assert said == ["full"]
    assert len(disk.written) == 3
    assert disk.written == sorted(disk.written)
    assert disk.dropped == 1
