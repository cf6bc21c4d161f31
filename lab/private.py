"""File systems of the lab's own: whatever is written in the lab, the machine's files stay as they are.

In the lab's kernel the machine's directories are read-only. Where programs write, an overlay lies on top whose upper
layer is memory. Standard library only: `lab.guest` runs without site-packages.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

COVERED = ("/etc", "/var", "/root", "/home", "/opt", "/srv", "/usr/local")
MACHINE = Path("/run/machine")  # the machine's COVERED without what the lab has on top
LAYERS = Path("/run/layers")

NOSUID_NODEV = 2 | 4
_BIND = 4096
_RECURSIVE = 16384
_PRIVATE = 1 << 18
_DETACH = 2
_MOUNT_SETATTR = 442
_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000
_READ_ONLY = 1
_OPEN_TREE = 428
_MOVE_MOUNT = 429
_CLONE = 1
_FROM_DESCRIPTOR = 4

_libc = ctypes.CDLL(None, use_errno=True)


def mount(kind: str, target: str | Path, options: str = "", flags: int = NOSUID_NODEV) -> None:
    """Mounts a new file system. Raises OSError."""
    Path(target).mkdir(parents=True, exist_ok=True)
    _mount(kind, str(target), kind, flags, options)


def bind(source: str | Path, target: str | Path) -> None:
    """`source` with what is mounted below it is at `target` too. Raises OSError."""
    _mount(str(source), str(target), "none", _BIND | _RECURSIVE, "")


def make_private() -> None:
    """What this mount namespace mounts from here on is seen in no other. Raises OSError."""
    _mount("none", "/", "none", _PRIVATE | _RECURSIVE, "")


def detach(target: str | Path) -> None:
    """Takes away what is mounted at `target`, for new users at once. Raises OSError."""
    _check(_libc.umount2(str(target).encode(), _DETACH), f"umount {target}")


def read_only(target: str, *, on: bool = True) -> None:
    """Makes everything mounted at `target` and below read-only, or writable, in this mount namespace. Raises OSError."""
    attributes = struct.pack("QQQQ", on * _READ_ONLY, (not on) * _READ_ONLY, 0, 0)
    done = _libc.syscall(
        _MOUNT_SETATTR, _AT_FDCWD, target.encode(), _AT_RECURSIVE, attributes, len(attributes)
    )
    _check(done, f"mount {target} read-only")


def hold(paths: Iterable[str]) -> list[tuple[str, int]]:
    """Descriptors of mounts of these directories, before anything lies on top of them. Others are left out."""
    held = []
    for path in paths:
        if os.path.isdir(path):
            done = _libc.syscall(_OPEN_TREE, _AT_FDCWD, path.encode(), _CLONE | _AT_RECURSIVE | os.O_CLOEXEC)
            _check(done, f"open_tree {path}")
            held.append((path, done))
    return held


def put_back(held: Sequence[tuple[str, int]]) -> None:
    """Mounts what `hold` returned in its old place, shorter paths first. Raises OSError."""
    for path, fd in sorted(held):
        Path(path).mkdir(parents=True, exist_ok=True)
        done = _libc.syscall(_MOVE_MOUNT, fd, b"", _AT_FDCWD, path.encode(), _FROM_DESCRIPTOR)
        os.close(fd)
        _check(done, f"move_mount {path}")


def cover() -> None:
    """Puts a layer in memory over COVERED; what was there stays reachable below MACHINE."""
    for path in COVERED:
        if not os.path.isdir(path) or os.path.islink(path):
            continue
        below = MACHINE / path[1:]
        below.mkdir(parents=True)
        bind(path, below)
        layer(below, LAYERS / path[1:], path)


def layer(below: Path, above: Path, target: str | Path) -> None:
    """`target` shows the files of `below`; what is changed there is kept in the directory `above`.

    Where overlays cannot be stacked any higher (a container in a container), it is a copy of small files.
    """
    for name in ("upper", "work"):
        (above / name).mkdir(parents=True)
    shutil.copystat(below, above / "upper")
    options = f"lowerdir={below},upperdir={above}/upper,workdir={above}/work"
    try:
        mount("overlay", target, options)
    except OSError:
        copy(below, above / "upper")
        bind(above / "upper", target)


def copy(source: Path, target: Path, *, largest: int = 65536) -> None:
    """The directories of `source` with their owners, its links, and its files of up to `largest` bytes."""
    for place, folders, files in os.walk(source):
        here = target / Path(place).relative_to(source)
        here.mkdir(exist_ok=True)
        for name in (*folders, *files):
            one = Path(place, name)
            if one.is_symlink():
                (here / name).symlink_to(os.readlink(one))
            elif one.is_file() and one.stat().st_size <= largest:
                shutil.copy2(one, here / name)
        status = os.stat(place)
        os.chown(here, status.st_uid, status.st_gid)
        shutil.copystat(place, here)


def _mount(source: str, target: str, kind: str, flags: int, options: str) -> None:
    done = _libc.mount(source.encode(), target.encode(), kind.encode(), flags, options.encode())
    _check(done, f"mount {source} on {target}")


def _check(done: int, what: str) -> None:
    if done < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
