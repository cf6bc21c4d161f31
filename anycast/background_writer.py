"""Writing that may have to wait, in a thread of its own. Standard library only."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class BackgroundWriter(Generic[Item]):
    """Hands what is put into it to `write`, in order and many at once. A slow disk or reader costs nothing but items.

    `write(items, dropped)` runs in the thread; `dropped`: how many were lost after these items, because `limit` of
    them were waiting. What it raises ends neither the thread nor anything else; with `retry` the items are kept, as far
    as `limit` goes, and tried again after so many seconds.
    """

    def __init__(
        self,
        name: str,
        write: Callable[[list[Item], int], None],
        complain: Callable[[str], None],
        *,
        limit: int,
        recovered: Callable[[], None] = lambda: None,
        retry: float | None = None,
    ) -> None:
        """`complain` is called in the thread, with the reason, for the first of a row of writes that lost something.

        `recovered`: for the first write after those.
        """
        self._recovered = recovered
        self._retry = retry
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
        pause = 0.0
        while True:
            items, dropped = self._next(pause)
            why, pause, refused = "", 0.0, False
            try:
                self._write(items, dropped)
            except Exception as error:  # noqa: BLE001 - the next items may be written
                why, refused = str(error) or type(error).__name__, True
                if self._retry is not None:
                    pause = self._retry
                    self._keep(items, dropped)
            if dropped and not why:
                why = f"{dropped} did not fit: {self._limit} were waiting already"
            if why and not complained:
                self._complain(why)
            if complained and not refused:
                self._recovered()
            complained = bool(why)

    def _next(self, pause: float) -> tuple[list[Item], int]:
        """What waits, once something does and `pause` seconds have passed."""
        with self._changed:
            self._idle = True
            self._changed.notify_all()
            if pause:
                self._changed.wait_for(lambda: False, pause)
            self._changed.wait_for(lambda: bool(self._waiting))
            self._idle = False
            items, self._waiting = self._waiting, []
            dropped, self._dropped = self._dropped, 0
        return items, dropped

    def _keep(self, items: list[Item], dropped: int) -> None:
        """For the next time: the newest, for they say most."""
        with self._changed:
            all_items = [*items, *self._waiting]
            self._waiting = all_items[-self._limit :]
            self._dropped += dropped + len(all_items) - len(self._waiting)
