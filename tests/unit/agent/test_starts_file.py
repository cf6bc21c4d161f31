"""Crashes on disk: counted over any number of agents, whatever is in the file."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from anycast.agent import starts_file
from anycast.agent.starts_file import StartsFile, load, save
from anycast.core.vip.hold import DAMAGED, Starts

BOOT = "0b7f4c0e-boot"


def begin(path: Path, now: float, boot: str = BOOT) -> tuple[StartsFile, int]:
    file = StartsFile(path, boot=boot)
    return file, file.begin(now)


def test_agents_that_crash_are_counted_and_a_clean_stop_clears_them(tmp_path: Path) -> None:
    path = tmp_path / "state" / "starts.json"
    assert [begin(path, now)[1] for now in (1.0, 2.0, 3.0)] == [0, 1, 2]
    begin(path, 4.0)[0].end()
    assert begin(path, 5.0)[1] == 0


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    starts = Starts(boot=BOOT, running=True, crashes=(1.5, 7.0))
    save(tmp_path / "f", starts)
    assert load(tmp_path / "f") == starts
    assert list(tmp_path.iterdir()) == [tmp_path / "f"]


@given(content=st.binary(max_size=80))
@example(content=b"")
@example(content=b"null")
@example(content=b'{"version": 2, "boot": "b", "running": true, "crashes": []}')
@example(content=b'{"version": 1, "boot": "b", "running": 1, "crashes": []}')
@example(content=b'{"version": 1, "boot": "b", "running": true, "crashes": [NaN]}')
@example(content=b'{"version": 1, "boot": "b", "running": true, "crashes": [-1]}')
@example(content=b'{"version": 1, "boot": "b", "running": true, "crashes": [1' + b"0" * 400 + b"]}")
@example(content=b"[" * 100_000)
def test_a_damaged_file_counts_as_crashes_is_told_and_written_anew(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "starts.json"
        path.write_bytes(content)
        with capture_logs() as logs:
            assert begin(path, 9.0)[1] == DAMAGED
        assert [log["event"] for log in logs] == ["starts.damaged"]
        file, count = begin(path, 10.0)
        assert count == DAMAGED + 1
        file.end()
        assert begin(path, 11.0)[1] == 0


def test_a_file_that_cannot_be_written_is_told_and_stops_nobody(tmp_path: Path) -> None:
    path = tmp_path / "starts.json"
    path.mkdir()
    with capture_logs() as logs:
        file, count = begin(path, 9.0)
        file.end()
    assert count == DAMAGED
    assert [log["event"] for log in logs] == ["starts.damaged", "starts.not_saved"]


def test_what_could_not_be_written_at_the_start_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starts_file, "RETRY", 0.0)
    beside = tmp_path / "starts.json.new"
    beside.mkdir()
    file, _ = begin(tmp_path / "starts.json", 9.0)
    assert not file.saved
    beside.rmdir()
    asyncio.run(file.keep())
    assert load(tmp_path / "starts.json") == Starts(boot=BOOT, running=True)


@pytest.mark.parametrize("written", [b'{"version": 1', b'{"version": 1, "boot": "b", "running": true'])
def test_a_save_that_was_cut_leaves_the_file_as_it_was(tmp_path: Path, written: bytes) -> None:
    path = tmp_path / "starts.json"
    begin(path, 1.0)
    (tmp_path / "starts.json.new").write_bytes(written)
    assert begin(path, 2.0)[1] == 1
