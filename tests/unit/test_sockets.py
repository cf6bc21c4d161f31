"""The runtime directory: made, swept, fought for."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from anycast.sockets import HeldError, InstanceLock, bind_unix, identity, peer_of


@pytest.fixture(params=[0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def connect(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(path))
    return client


@pytest.mark.usefixtures("umask")
def test_others_reach_a_socket_in_a_directory_that_was_missing_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "run" / "lease.sock"
    with bind_unix(path, mode=0o666):
        assert mode(path.parent) == 0o755
        assert mode(path) == 0o666


def test_a_directory_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir(mode=0o710)
    with bind_unix(directory / "lease.sock", mode=0o666):
        assert mode(directory) == 0o710


def test_a_socket_takes_the_place_of_what_a_dead_agent_left(tmp_path: Path) -> None:
    path = tmp_path / "lease.sock"
    bind_unix(path, mode=0o600).close()
    assert path.exists()
    with bind_unix(path, mode=0o600) as listener, connect(path):
        listener.accept()[0].close()


def test_what_cannot_be_bound_leaves_no_descriptor_open(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="too long"):
        bind_unix(tmp_path / ("x" * 120), mode=0o600)
    assert os.listdir("/proc/self/fd") == before


def test_a_socket_that_was_swept_has_no_identity_and_a_new_one_another(tmp_path: Path) -> None:
    path = tmp_path / "lease.sock"
    with bind_unix(path, mode=0o600):
        first = identity(path)
        path.rename(tmp_path / "away")  # its inode stays taken
        assert identity(path) is None
        with bind_unix(path, mode=0o600):
            assert identity(path) not in (None, first)


def test_the_other_end_is_known_by_its_process_and_its_user() -> None:
    left, right = socket.socketpair()
    with left, right:
        assert peer_of(left) == (os.getpid(), os.geteuid())


def test_only_one_holds_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "run" / "agent.lock"
    with InstanceLock(path) as first, InstanceLock(path) as second:
        first.hold()
        with pytest.raises(HeldError, match=r"agent\.lock"):
            second.hold()
        first.release()
        second.hold()


def test_the_lock_is_taken_again_after_the_directory_was_swept(tmp_path: Path) -> None:
    path = tmp_path / "run" / "agent.lock"
    with InstanceLock(path) as lock, InstanceLock(path) as other:
        lock.hold()
        shutil.rmtree(path.parent)
        lock.hold()
        with pytest.raises(HeldError):
            other.hold()


def test_whoever_takes_the_lock_after_a_sweep_has_it(tmp_path: Path) -> None:
    path = tmp_path / "run" / "agent.lock"
    with InstanceLock(path) as lock, InstanceLock(path) as faster:
        lock.hold()
        path.unlink()
        faster.hold()
        with pytest.raises(HeldError):
            lock.hold()


def test_a_lock_that_is_refused_or_held_again_leaves_no_descriptor_open(tmp_path: Path) -> None:
    path = tmp_path / "agent.lock"
    with InstanceLock(path) as lock, InstanceLock(path) as other:
        lock.hold()
        before = len(os.listdir("/proc/self/fd"))
        lock.hold()
        with pytest.raises(HeldError):
            other.hold()
        path.rename(tmp_path / "away")
        lock.hold()
        assert len(os.listdir("/proc/self/fd")) == before
