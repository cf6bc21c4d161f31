"""A file that is written in the place of another."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from anycast import whole_file
from tests.disks import files_of_at_most


def test_the_new_text_is_there_with_the_mode_it_was_given(tmp_path: Path) -> None:
    file = tmp_path / "one"
    file.write_text("old")
    whole_file.replace(file, "new", lambda descriptor: os.fchmod(descriptor, 0o640))
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("new", 0o640)
    assert os.listdir(tmp_path) == ["one"]


def test_what_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    def refuse(descriptor: int) -> None:
        assert os.fstat(descriptor).st_mode & 0o777 == 0o600
        raise PermissionError

    file = tmp_path / "one"
    file.write_text("old")
    with pytest.raises(PermissionError):
        whole_file.replace(file, "new", refuse)
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["one"]


def test_a_new_file_takes_the_place_of_none_and_is_whole_or_not_there(tmp_path: Path) -> None:
    file = tmp_path / "one"
    with files_of_at_most(3), pytest.raises(OSError, match="File too large"):
        whole_file.create(file, "new text", 0o640)
    assert os.listdir(tmp_path) == []
    whole_file.create(file, "new", 0o640)
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("new", 0o640)
    with pytest.raises(FileExistsError):
        whole_file.create(file, "newer", 0o640)
    assert file.read_text() == "new"
