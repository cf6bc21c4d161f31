"""What lies in the place of a file of the agent or the plugin, and is none, keeps nobody waiting."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from anycast.agent import events_file, files, last_good, maintenance_file, owned_file, starts_file
from anycast.ops.hub import Event
from anycast.plugin import journal
from anycast.sockets import InstanceLock


def pipe(path: Path) -> None:
    os.mkfifo(path)


def zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def refused(read: Callable[[], object]) -> bool:
    try:
        read()
    except (OSError, ValueError, maintenance_file.DamagedError, owned_file.DamagedError):
        return True
    return False


@pytest.mark.parametrize("put", [pipe, zeros])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, put: Callable[[Path], None]) -> None:
    path = tmp_path / "state"
    put(path)
    assert refused(lambda: maintenance_file.load(path))
    assert refused(lambda: owned_file.load(path, "boot"))
    assert refused(lambda: starts_file.load(path))
    assert refused(lambda: journal.load(str(path)))
    assert events_file.load(path) == []
    put(tmp_path / last_good.MARK)
    assert last_good.is_marked(tmp_path, "any")


def test_a_pipe_is_no_place_to_write_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "state.new")
    with pytest.raises(OSError, match="No such device"):
        files.replace(tmp_path / "state", ("{}\n",), synced=False)
    os.mkfifo(tmp_path / "lock")
    with InstanceLock(tmp_path / "lock") as lock:
        lock.hold()  # as good as any other file
    told: list[str] = []
    events, refused = tmp_path / "events.jsonl", threading.Event()

    def complain(why: str) -> None:
        told.append(why)
        refused.set()

    os.mkfifo(events)
    writer = events_file.EventsFile(events, complain, retry=0.01)
    writer.put(Event(id=1, time=1.0, name="agent.started", level="info", fields={}))
    assert refused.wait(60)
    assert "it is not a file" in told[0]
    # Its thread would open the pipe again and again, in the tests that come after too.
    events.unlink()
    assert writer.drain(60)


def test_a_mark_in_which_a_bit_was_flipped_may_be_of_any_configuration(tmp_path: Path) -> None:
    last_good.mark(tmp_path, "a" * 64)
    assert last_good.is_marked(tmp_path, "a" * 64)
    assert not last_good.is_marked(tmp_path, "b" * 64)
    file = tmp_path / last_good.MARK
    file.write_bytes(file.read_bytes().replace(b"aaa", b"aba", 1))
    assert last_good.is_marked(tmp_path, "a" * 64)
