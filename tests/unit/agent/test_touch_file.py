"""The file that means maintenance: there or not, and whatever is in its place."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from anycast.agent.touch_file import LONGEST, look


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "maintenance"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", ""),
        (b"new disks\n", "new disks"),
        (b"  new disks \nsecond line", "new disks"),
        (b"\xff\x1b[2Jred\x00\n", "�[2Jred"),
        (b"x" * 5000, "x" * LONGEST),
        (b"\n\n", ""),
    ],
)
def test_its_first_line_is_the_reason_as_far_as_it_can_be_shown(path: Path, data: bytes, reason: str) -> None:
    path.write_bytes(data)
    os.utime(path, (5.0, 7.0))
    found = look(path)
    assert found is not None
    assert (found.reason, found.by, found.since) == (reason, "file", 7.0)


def test_no_file_or_no_directory_is_no_maintenance(path: Path) -> None:
    assert look(path) is None
    assert look(path / "deeper") is None
    path.write_text("a file, and no directory")
    assert look(path / "deeper") is None


def test_whatever_else_is_there_means_maintenance_and_is_not_waited_for(path: Path) -> None:
    os.mkfifo(path)
    assert look(path) is not None
    path.unlink()
    path.mkdir()
    assert look(path) is not None
    path.rmdir()
    path.symlink_to("nowhere")
    assert look(path) is not None
    path.unlink()
    path.symlink_to(path)
    assert look(path) is not None
    path.unlink()
    with socket.socket(socket.AF_UNIX) as there:
        there.bind(str(path))
        assert look(path) is not None


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user to be refused")
def test_a_file_that_cannot_be_read_is_there_all_the_same_and_a_directory_that_cannot_is_an_error(
    path: Path,
) -> None:
    path.write_text("secret")
    path.chmod(0o600)
    path.parent.chmod(0o755)
    for parent in path.parents:
        parent.chmod(parent.stat().st_mode | 0o011)
    os.seteuid(65534)
    try:
        found = look(path)
    finally:
        os.seteuid(0)
    assert found is not None
    assert found.reason == ""
    path.parent.chmod(0o700)
    os.seteuid(65534)
    try:
        with pytest.raises(PermissionError):
            look(path)
    finally:
        os.seteuid(0)
