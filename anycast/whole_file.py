"""A file is written in the place of another one, or where there is none: whole, or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def replace(file: Path, text: str, permit: Callable[[int], None]) -> None:
    """The file is whole, old or new, at every moment. `permit` gives the new one (a descriptor) its owner and mode, before
    the text is in it; until then only this user may read it. Raises OSError.
    """
    # Not named *.conf: one that a crash leaves behind is read by nobody.
    descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as new:
            permit(new.fileno())
            new.write(text)
            new.flush()
            os.fsync(new.fileno())
        os.replace(name, file)
    except BaseException:
        os.unlink(name)
        raise


def create(file: Path, text: str, mode: int) -> None:
    """A new file. One that cannot be written whole is not left. Raises OSError; FileExistsError: there is one, it stays."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as new:
            new.write(text)
    except BaseException:
        os.unlink(file)
        raise
