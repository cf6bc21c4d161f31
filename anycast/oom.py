"""The kernel's OOM killer: how often it took a process of this service, and whom it is to take first."""

from __future__ import annotations

import contextlib
import os

_CGROUP = "/proc/self/cgroup"
_MOUNT = "/sys/fs/cgroup"
_ENOUGH = 4096  # bytes of such a file
_OWN_SCORE = "/proc/self/oom_score_adj"


def group() -> tuple[str, str]:
    """Where control groups are mounted, and the folder of this process's. Raises OSError; ValueError: cgroup v1."""
    return _MOUNT, f"{_MOUNT}{_unified(_read(_CGROUP))}"


def kills() -> int | None:
    """Processes of this control group, and of those below it, that were taken. None: it is not told (cgroup v1).

    The kernel counts before it kills: whoever sees a process dead finds it counted.
    """
    try:
        events = _read(f"{group()[1]}/memory.events")
        return sum(int(line.split()[1]) for line in events.splitlines() if line.startswith("oom_kill "))
    except (OSError, ValueError):
        return None


def give_up_protection(pid: int) -> None:
    """A child of a protected service (OOMScoreAdjust= below 0) counts like any program: it is not what is protected.

    No more than that: where another program takes the memory of the machine, a small check is not to pay for it.
    """
    with contextlib.suppress(OSError, ValueError):
        if int(_read(_OWN_SCORE)) < 0:
            fd = os.open(f"/proc/{pid}/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, b"0")
            finally:
                os.close(fd)


def _unified(text: str) -> str:
    """The group in the one hierarchy of cgroup v2. Raises ValueError."""
    for line in text.splitlines():
        if line.startswith("0::"):
            return line[3:].rstrip("/")
    raise ValueError(text)


def _read(path: str) -> str:
    # No file object: it would have to find a codec, which takes descriptors that a node in trouble has not got.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, _ENOUGH).decode("utf-8", "replace")
    finally:
        os.close(fd)
