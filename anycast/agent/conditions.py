"""What stands outside the core, from any thread, and before there is an engine: each change becomes one event."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable

from anycast.core.events import ConditionSet
from anycast.core.values.standing import Condition


class Conditions:
    """Tells the engine what begins to stand and what is over; what is said again is not told again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._texts: dict[tuple[Condition, str], str] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._post: Callable[[ConditionSet], None] = lambda _: None

    def bind(self, post: Callable[[ConditionSet], None]) -> None:
        """From now on to `post`, in this event loop: what stands already first."""
        with self._lock:
            self._loop, self._post = asyncio.get_running_loop(), post
            for (kind, about), text in self._texts.items():
                post(ConditionSet(kind=kind, text=text, about=about))

    def begin(self, kind: Condition, text: str, *, about: str = "") -> bool:
        """Whether it did not stand before. From any thread."""
        with self._lock:
            before = self._texts.get((kind, about))
            self._texts[kind, about] = text
            if text != before:
                self._tell(ConditionSet(kind=kind, text=text, about=about))
        return before is None

    def end(self, kind: Condition, *, about: str = "") -> None:
        """From any thread."""
        with self._lock:
            if self._texts.pop((kind, about), None) is not None:
                self._tell(ConditionSet(kind=kind, about=about))

    def _tell(self, event: ConditionSet) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the agent ends
                self._loop.call_soon_threadsafe(self._post, event)
