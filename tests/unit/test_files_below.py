"""Files of the node below a root."""

from __future__ import annotations

import platform
from pathlib import Path

from anycast import files_below
from anycast.files_below import FilesBelow, Unread


def test_what_is_there_and_cannot_be_read_is_noted_and_what_is_not_there_only_where_it_is_needed(
    tmp_path: Path,
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"one\xff")
    files = FilesBelow(tmp_path)
    assert files.text("file") == "one\ufffd"
    assert files.names("") == ["file", "folder"]
    assert [files.text("none"), files.optional("none"), files.optional("folder"), files.link("file")] == [
        None
    ] * 4
    assert files.names("none") == files.names("file") == []
    assert files.unread == []
    assert files.text("folder") is None
    assert files.needed("none", "the table") is None
    assert files.unread == [
        Unread("/folder", "Is a directory"),
        Unread("the table", "/none: No such file or directory"),
    ]


def test_a_drop_in_hides_those_of_its_name_in_later_places(tmp_path: Path) -> None:
    for path in ("usr/lib/x.d/20.conf", "etc/x.d/20.conf", "run/x.d/10.conf", "etc/x.d/30.conf.bak"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    assert list(FilesBelow(tmp_path).drop_ins("x.d")) == ["run/x.d/10.conf", "etc/x.d/20.conf"]


def test_no_file_is_read_without_end() -> None:
    endless = FilesBelow(Path("/dev")).text("zero")
    assert endless is not None
    assert len(endless) == files_below.MOST


def test_a_setting_of_the_kernel_is_read_which_it_refuses_to_whoever_asks_for_millions_of_bytes() -> None:
    files = FilesBelow(Path("/"))
    assert files.needed("proc/sys/kernel/osrelease", "the kernel's release") == f"{platform.release()}\n"
    assert files.unread == []
