"""Writing what is only of use in its newest form: one write at a time, and of what comes meanwhile the last alone.

What could not be written is tried again until it is.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

RETRY = 5.0  # seconds until what could not be written is tried again


class Latest(Generic[T]):
    """Hands values to `write`, in a thread: a slow disk must not hold the lease up."""

    def __init__(
        self,
        write: Callable[[T], None],
        failed: Callable[[OSError], str],
        written: Callable[[], None] = lambda: None,
        *,
        retry: float = RETRY,
    ) -> None:
        """`write` may raise OSError; `failed` tells of it, and returns the words for whoever waits.

        `written` is called when the newest value is on disk.
        """
        self._write = write
        self._failed = failed
        self._written = written
        self._retry = retry
        self._again: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[str] | None = None
        self._next: asyncio.Task[str] | None = None
        self._value: T

    @property
    def last(self) -> asyncio.Task[str] | None:
        """Done once the newest value is written; its result is empty then, or says why it is not. None: there is none."""
        return self._next or self._writing

    def put(self, value: T) -> None:
        """To be written in place of one that waits still. Inside the event loop."""
        self._value = value
        if self._again is not None:
            self._again.cancel()
        if self._next is None:
            self._next = asyncio.create_task(self._run(self._writing))

    def close(self) -> None:
        """Try nothing again."""
        self._retry = math.inf
        if self._again is not None:
            self._again.cancel()

    async def _run(self, before: asyncio.Task[str] | None) -> str:
        if before is not None:
            await asyncio.wait({before})
        value, self._writing, self._next = self._value, self._next, None
        try:
            await asyncio.to_thread(self._write, value)
        except OSError as error:
            if self._next is None and self._retry < math.inf:
                self._again = asyncio.get_running_loop().call_later(self._retry, self._put_again)
            return self._failed(error)
        if self._next is None:
            self._written()
        return ""

    def _put_again(self) -> None:
        if self._next is None:
            self.put(self._value)
