"""Writing that may have to wait, in a thread of its own. Standard library only."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class BackgroundWriter(Generic[Item]):
    """Hands what is put into it to `write`, in order and many at once. A slow disk or reader costs nothing but items.

    `write(items, dropped)` runs in the thread; `dropped`: how many were lost after these items, because `limit` of
    them were waiting. What it raises ends neither the thread nor anything else.
    """

    def __init__(
        self,
        name: str,
        write: Callable[[list[Item], int], None],
        complain: Callable[[str], None],
        *,
        limit: int,
    ) -> None:
        """`complain` is called in the thread, with the reason, for the first of a row of writes that lost something."""
        self._write = write
        self._complain = complain
        self._limit = limit
        self._waiting: list[Item] = []
        self._dropped = 0
        self._idle = True
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def put(self, item: Item) -> None:
        """From any thread; it does not wait."""
        with self._changed:
            if len(self._waiting) < self._limit:
                self._waiting.append(item)
                self._changed.notify_all()
            else:
                self._dropped += 1

    def drain(self, patience: float) -> bool:
        """Waits up to `patience` seconds until all is written, or lost; returns whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: self._idle and not self._waiting, patience)

    def _run(self) -> None:
        complained = False
        while True:
            with self._changed:
                self._idle = True
                self._changed.notify_all()
                self._changed.wait_for(lambda: bool(self._waiting))
                self._idle = False
                items, self._waiting = self._waiting, []
                dropped, self._dropped = self._dropped, 0
            why = ""
            try:
                self._write(items, dropped)
            except Exception as error:  # noqa: BLE001 - the next items may be written
                why = str(error) or type(error).__name__
            if dropped and not why:
                why = f"{dropped} did not fit: {self._limit} were waiting already"
            if why and not complained:
                self._complain(why)
            complained = bool(why)
