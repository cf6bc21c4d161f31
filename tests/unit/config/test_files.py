"""Reading what people name: nothing but regular files, nothing larger than asked for, no waiting."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from anycast.config.files import NotRegularError, TooLargeError, read_regular, size


def test_a_file_of_the_limit_is_read_and_one_byte_more_is_not(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 100)
    assert read_regular(file, 100) == b"x" * 100
    with pytest.raises(TooLargeError, match="larger than 99 bytes"):
        read_regular(file, 99)


def test_a_link_to_a_file_is_followed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"text")
    (tmp_path / "link").symlink_to("file")
    assert read_regular(tmp_path / "link", 10) == b"text"


def test_a_file_that_says_it_is_empty_is_read_to_the_limit() -> None:
    assert read_regular(Path("/proc/self/stat"), 1 << 16)
    with pytest.raises(TooLargeError):
        read_regular(Path("/proc/self/stat"), 10)


def test_a_sparse_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "sparse"
    with file.open("wb") as out:
        out.truncate(5 << 30)
    with pytest.raises(TooLargeError, match="16 MiB"):
        read_regular(file, 16 << 20)


def test_a_pipe_nobody_writes_to_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NotRegularError) as error:
        read_regular(tmp_path / "pipe", 10)
    assert error.value.strerror == "it is a pipe (FIFO), not a file"


def test_a_pipe_that_takes_the_place_of_a_file_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"text")
    os.mkfifo(tmp_path / "pipe")
    seen = os.stat(tmp_path / "file")
    monkeypatch.setattr(os, "stat", lambda path: seen)
    with pytest.raises(NotRegularError):
        read_regular(tmp_path / "pipe", 10)


@pytest.mark.parametrize(("name", "words"), [("/dev/zero", "a device"), ("/dev", "a directory")])
def test_devices_and_directories_are_refused(name: str, words: str) -> None:
    with pytest.raises(NotRegularError) as error:
        read_regular(Path(name), 10)
    assert error.value.strerror == f"it is {words}, not a file"


def test_a_socket_is_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        with pytest.raises(NotRegularError, match="a socket"):
            read_regular(tmp_path / "socket", 10)


@pytest.mark.parametrize("name", ["nothing", "nul\0l", "x" * 300])
def test_what_cannot_be_opened_is_an_error_of_the_system(tmp_path: Path, name: str) -> None:
    with pytest.raises(OSError) as error:
        read_regular(tmp_path / name, 10)
    assert error.value.strerror


@pytest.mark.parametrize(
    ("number", "words"), [(16 << 20, "16 MiB"), (64 << 10, "64 KiB"), (1000, "1000 bytes")]
)
def test_sizes_are_told_as_people_write_them(number: int, words: str) -> None:
    assert size(number) == words
