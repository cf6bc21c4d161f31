"""The lab's stand-in for systemd with the unit of the announcer: real processes and a real notify socket."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import announcer, configs, places
from lab.announcer import Unit
from lab.processes import Process
from lab.waiting import until

# Feeds its watchdog; with --clear it leaves a line.
PROGRAM = """\
import os, socket, sys, time
if sys.argv[1:] == ["--clear"]:
    with open(os.environ["CLEARED"], "a") as out:
        out.write("cleared\\n")
    sys.exit()
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
    while True:
        sock.sendto(b"WATCHDOG=1", os.environ["NOTIFY_SOCKET"])
        time.sleep(0.05)
"""
PATIENCE = 60.0  # seconds


@pytest.fixture
def unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Unit]:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    monkeypatch.setattr(configs, "program", lambda *_: ["python3", str(program)])
    monkeypatch.setattr(places, "entry", lambda _: ["env"])
    monkeypatch.setattr(announcer, "limit", lambda _: 1.0)
    one = Unit("lb1", tmp_path, {**os.environ, "CLEARED": str(tmp_path / "cleared")})
    yield one
    one.stop()


def running(unit: Unit, other: Process | None = None) -> Process:
    return until(
        lambda: one if (one := unit.process) is not None and one != other and one.alive() else None,
        "a process",
        PATIENCE,
    )


def test_after_each_end_what_the_unit_runs_is_run_before_the_next_is_started(
    unit: Unit, tmp_path: Path
) -> None:
    first = running(unit)
    with unit.holding():
        first.send(signal.SIGKILL)
        until(lambda: unit.cleared == 1, "what the unit runs", PATIENCE)
        assert unit.process == first
    assert running(unit, first) != first
    assert (tmp_path / "cleared").read_text() == "cleared\n"


def test_one_that_does_not_feed_its_watchdog_is_ended_unless_the_manager_stands_still_too(unit: Unit) -> None:
    first = running(unit)
    until(lambda: unit.ready, "its first feed", PATIENCE)
    unit.still = True
    first.send(signal.SIGSTOP)
    assert not first.wait(1.5)
    unit.still = False
    assert first.wait(PATIENCE)
    running(unit, first)
