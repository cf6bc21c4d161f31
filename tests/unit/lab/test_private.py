from __future__ import annotations

import os
import stat
from pathlib import Path

from lab import private


def test_a_copy_has_directories_links_and_small_files(tmp_path: Path) -> None:
    source, target = tmp_path / "etc", tmp_path / "copy"
    (source / "ssl" / "private").mkdir(parents=True)
    (source / "ssl" / "private").chmod(0o700)
    (source / "ssl" / "key").write_text("secret")
    (source / "big").write_bytes(bytes(11))
    (source / "link").symlink_to("ssl/key")
    (source / "folder").symlink_to("ssl")
    os.mkfifo(source / "pipe")
    private.copy(source, target, largest=10)
    assert (target / "link").read_text() == "secret"
    assert (target / "folder").is_symlink()
    assert stat.S_IMODE((target / "ssl" / "private").stat().st_mode) == 0o700
    assert not (target / "big").exists()
    assert not (target / "pipe").exists()
