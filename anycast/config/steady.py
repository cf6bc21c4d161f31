"""Files read as they were at one instant. What somebody changes meanwhile is read again, a bounded number of times.

Most programs write in place, in several steps; so a file counts only once nothing has changed it for a moment.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

SETTLED = 0.2  # seconds without a change, after which nobody is writing any more
TRIES = 12  # readings; and so many waits for files that are being written

Stamp: TypeAlias = tuple[int, int, int, int, int] | None
"""What is another once a file was replaced or written to. None: there is none that could be looked at."""


class ChangingError(Exception):
    """The files did not come to rest. `args[0]` is the one that was changed last."""


def read_all(
    find: Callable[[], Sequence[Path]], read: Callable[[Path], bytes]
) -> list[tuple[Path, bytes | OSError]]:
    """The files that `find` names with what `read` gives for each, all as they were at one instant.

    `read` may raise OSError, which stands in the place of the bytes. Raises ChangingError.
    """
    newest = Path()
    for _ in range(TRIES):
        files = find()
        before = {file: _stamp(file) for file in files}
        if (wait := _unsettled(before, time.time())) > 0:
            newest = max(before, key=lambda file: (before[file] or (0,))[-1])
            time.sleep(wait)
            continue
        found = [(file, _read(read, file)) for file in files]
        after = {file: _stamp(file) for file in find()}
        if after == before:
            return found
        newest = next((file for file in (*after, *before) if after.get(file) != before.get(file)), newest)
    raise ChangingError(newest)


class Watched:
    """Files that are read one after another: whether all are still as they were."""

    def __init__(self) -> None:
        self._stamps: dict[Path, Stamp] = {}
        self.newest = Path()  # one that was changed

    def add(self, file: Path) -> None:
        """Before it is read."""
        self._stamps[file] = _stamp(file)

    def at_rest(self) -> bool:
        """Nothing has changed since each was read, nor a moment before; it is waited for until that has passed."""
        time.sleep(_unsettled(self._stamps, time.time()))
        for file, stamp in self._stamps.items():
            if _stamp(file) != stamp:
                self.newest = file
                return False
        return True


def _read(read: Callable[[Path], bytes], file: Path) -> bytes | OSError:
    try:
        return read(file)
    except OSError as error:
        return error


def _stamp(file: Path) -> Stamp:
    try:
        found = os.stat(file)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _unsettled(stamps: Mapping[Path, Stamp], now: float) -> float:
    """Seconds until the last change is long enough ago. Of changes in the future a clock that was set is to blame."""
    ages = [now - stamp[-1] / 1e9 for stamp in stamps.values() if stamp is not None]
    return max((SETTLED - age for age in ages if 0 <= age < SETTLED), default=0.0)
