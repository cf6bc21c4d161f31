"""The last good configuration on disk, in the state directory, and the mark of one that is on trial."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import structlog

from anycast.agent import files
from anycast.config.kept import FILE, DamagedError, Head, Texts, head
from anycast.sealed import opened

MARK = "on-trial.json"
_KEYS = ("version", "digest")
DEFAULT_DIRECTORY = Path("/var/lib/anycast")
_STATE_DIR = re.compile(rb"""\bstate_dir["']?\s*:\s*["']?(/[!-~]*?)["']?\s*[,}#\r\n]""")
_LOOKED_THROUGH = 65536  # bytes of a file that cannot be read, for its state_dir

log = structlog.get_logger()


class Found(NamedTuple):
    path: Path
    head: Head


def directories(file: Path, *, given: Path | None, environ: str) -> Iterator[Path]:
    """Where the state of the agent of a file may be that cannot be used. The first that has something counts.

    `given`: on the command line; then nowhere else. `environ`: STATE_DIRECTORY, as systemd sets it.
    """
    if given is not None:
        yield given
        return
    if (written := _written(file)) is not None:
        yield written
    yield from (Path(one) for one in environ.split(":") if one)
    yield DEFAULT_DIRECTORY


def _written(file: Path) -> Path | None:
    """The state_dir in a file that is no configuration, where it can be made out."""
    try:
        if not file.is_file():
            return None
        with file.open("rb") as text:
            found = _STATE_DIR.search(text.read(_LOOKED_THROUGH))
    except (OSError, ValueError):
        return None
    return None if found is None else Path(os.fsdecode(found[1]))


def find(file: Path, places: Iterable[Path], damaged: Callable[[str], None]) -> Found | None:
    """The last good configuration that came from `file` on this machine. `damaged` is told of any that cannot be used."""
    for directory in dict.fromkeys(places):
        path = directory / FILE
        try:
            found = head(path)
        except DamagedError as error:
            damaged(str(error))
            continue
        if found is not None and found.is_of(str(file)):
            return Found(path, found)
    return None


def save(directory: Path, texts: Texts) -> None:
    """Replaces the file at once and for good. Only the owner may read it: it may hold passwords. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    beside = directory / f"{FILE}.new"
    with contextlib.suppress(FileNotFoundError):
        beside.unlink()
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            texts.copy(descriptor)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        beside.replace(directory / FILE)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
    files.sync(directory)


def mark(directory: Path, digest: str) -> None:
    """The configuration with this digest is not to be started with. Raises OSError: it is not marked."""
    text = json.dumps({"version": 1, "digest": digest}) + "\n"
    files.replace(directory / MARK, (text,), synced=True)


def is_marked(directory: Path, digest: str) -> bool:
    """A mark that cannot be read may be of any: the last good configuration is the safe side."""
    try:
        return bool(opened(files.read(directory / MARK), _KEYS)["digest"] == digest)
    except FileNotFoundError:
        return False
    except (OSError, ValueError, TypeError, KeyError) as error:
        log.error("config.last_good_damaged", error=f"{directory / MARK}: {error}")
        return True


def unmark(directory: Path) -> None:
    """Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        (directory / MARK).unlink()
        files.sync(directory)
