"""The memory there is for more: of the machine, and of this process's control group."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from anycast import oom


def meminfo(proc: Path) -> tuple[int, int]:
    """Bytes available and in all. Raises OSError, ValueError."""
    text = (proc / "meminfo").read_text()
    numbers = dict(re.findall(r"^(MemAvailable|MemTotal): +([0-9]+) kB$", text, re.MULTILINE))
    if len(numbers) != 2:
        raise ValueError("/proc/meminfo does not say")
    return int(numbers["MemAvailable"]) * 1024, int(numbers["MemTotal"]) * 1024


def available() -> int | None:
    """Bytes that this process may still take; None: it is not told. Of control groups those of cgroup v2 alone."""
    found = []
    with contextlib.suppress(OSError, ValueError):
        found.append(meminfo(Path("/proc"))[0])
    with contextlib.suppress(OSError, ValueError):
        mount, group = map(Path, oom.group())
        for each in (group, *group.parents):
            if not each.is_relative_to(mount):
                break
            with contextlib.suppress(OSError, ValueError):
                found.append(_left(each))
    return min(found, default=None)


def _left(group: Path) -> int:
    """Below the group's limit. Raises OSError, ValueError: it has none."""
    limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
    cached = re.findall(r"^(?:in)?active_file ([0-9]+)$", (group / "memory.stat").read_text(), re.MULTILINE)
    # What is cached of files goes before a process is killed, as in MemAvailable.
    return max(0, limit - used + sum(map(int, cached)))
