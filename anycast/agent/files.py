"""Files of the agent that are whole, old or new, at every moment."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path


def replace(path: Path, text: str | Iterable[str], *, synced: bool) -> None:
    """Written beside and renamed; its directory is made. Raises OSError, and then the old one stands.

    `synced`: it outlives a loss of power from here on. Without it nothing but such a loss takes it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.writelines((text,) if isinstance(text, str) else text)
            if synced:
                file.flush()
                os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()  # on a full disk it would lie there for good
        raise
    if synced:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
