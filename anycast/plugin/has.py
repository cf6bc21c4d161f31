"""What ExaBGP has read, in a file beside the journal: the plugin writes it, `anycast exabgp-reload` reads it."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass

NAME = "has.json"
_LARGEST = 64 * 1024  # bytes
_AT_ONCE = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # what stands there may be a link or a pipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Has:
    """`mark`: of the file that this ExaBGP has read; empty: not known, or it has none. `down`: neighbors without a session."""

    exabgp: int  # its process
    mark: str = ""
    down: tuple[str, ...] = ()


def path_beside(journal: str) -> str:
    return os.path.join(os.path.dirname(journal), NAME)


def store(path: str, has: Has) -> None:
    """Raises OSError."""
    new = f"{path}.new"
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    try:
        beside = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _AT_ONCE, 0o666)
        with open(beside, "w", encoding="utf-8") as file:
            json.dump(asdict(has), file)
        os.replace(new, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise


def load(path: str) -> Has | None:
    """None: there is none, or it says nothing. Raises OSError where it cannot be read."""
    try:
        with open(os.open(path, os.O_RDONLY | _AT_ONCE), encoding="utf-8") as file:
            found = json.loads(file.read(_LARGEST))
        return Has(
            exabgp=int(found["exabgp"]),
            mark=str(found["mark"]),
            down=tuple(str(one) for one in found["down"]),
        )
    except (FileNotFoundError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
