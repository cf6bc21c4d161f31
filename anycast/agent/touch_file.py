"""The file that puts the node in maintenance for as long as it exists: for scripts, and while no agent runs."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from anycast.core.maintenance.stages import Maintenance

BY = "file"
LONGEST = 200  # characters of its first line that are told
_READ = 4096  # bytes


def look(path: Path) -> Maintenance | None:
    """None: it is not there. Whatever else is there in its place counts too. Raises OSError: nobody can tell."""
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return Maintenance(reason=_first_line(path), by=BY, since=found.st_mtime)


def _first_line(path: Path) -> str:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return ""  # a pipe would have us wait
        line = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            text = os.read(line, _READ).decode("utf-8", "replace")
        finally:
            os.close(line)
    except OSError:
        return ""
    first = text.splitlines()[0] if text else ""
    return "".join(c for c in first if c.isprintable()).strip()[:LONGEST]
