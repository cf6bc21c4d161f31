"""The memory there is for more, by files as the kernel writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from anycast import memory, oom

MIB = 2**20


def test_this_machine_says_how_much_memory_it_has() -> None:
    available, total = memory.meminfo(Path("/proc"))
    assert 0 < available <= total
    assert 0 < (memory.available() or 0) <= total


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This process is in it; the group above it has no limit, and the mount has none of these files."""
    folder = tmp_path / "system.slice/tool.service"
    folder.mkdir(parents=True)
    (tmp_path / "membership").write_text("0::/system.slice/tool.service\n")
    monkeypatch.setattr(oom, "_MOUNT", str(tmp_path))
    monkeypatch.setattr(oom, "_CGROUP", str(tmp_path / "membership"))
    limit(folder, "max", 0)
    limit(folder.parent, "max", 0)
    return folder


def limit(folder: Path, most: str, used: int, *, cached: int = 0) -> None:
    (folder / "memory.max").write_text(f"{most}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(
        f"anon 7\nfile {cached}\ninactive_anon 3\nactive_anon 4\ninactive_file {cached - 1}\nactive_file 1\n"
        if cached
        else "anon 7\nfile 0\ninactive_anon 3\nactive_anon 4\ninactive_file 0\nactive_file 0\n"
    )


def test_the_limit_of_the_control_group_and_of_those_above_it_counts_less_what_is_used(group: Path) -> None:
    of_the_machine = memory.available()
    assert of_the_machine is not None
    assert of_the_machine > 3 * MIB
    limit(group, str(3 * MIB), MIB)
    assert memory.available() == 2 * MIB
    limit(group.parent, str(3 * MIB), 2 * MIB)
    assert memory.available() == MIB
    limit(group.parent, str(3 * MIB), 4 * MIB)  # a limit that was lowered
    assert memory.available() == 0


def test_what_is_cached_of_files_is_available(group: Path) -> None:
    limit(group, str(3 * MIB), 3 * MIB, cached=2 * MIB)
    assert memory.available() == 2 * MIB


def test_where_nothing_is_told_nothing_is_known(group: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> tuple[int, int]:
        raise PermissionError

    monkeypatch.setattr(memory, "meminfo", refuse)
    assert memory.available() is None
    limit(group, str(3 * MIB), MIB)
    assert memory.available() == 2 * MIB
