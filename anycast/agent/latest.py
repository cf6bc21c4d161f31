"""Writing what is only of use in its newest form: one write at a time, and of what comes meanwhile the last alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Latest(Generic[T]):
    """Hands values to `write`, in a thread: a slow disk must not hold the lease up."""

    def __init__(self, write: Callable[[T], None], failed: Callable[[OSError], str]) -> None:
        """`write` may raise OSError; `failed` tells of it, and returns the words for whoever waits."""
        self._write = write
        self._failed = failed
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
        if self._next is None:
            self._next = asyncio.create_task(self._run(self._writing))

    async def _run(self, before: asyncio.Task[str] | None) -> str:
        if before is not None:
            await asyncio.wait({before})
        value, self._writing, self._next = self._value, self._next, None
        try:
            await asyncio.to_thread(self._write, value)
        except OSError as error:
            return self._failed(error)
        return ""
