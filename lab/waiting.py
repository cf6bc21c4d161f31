"""Waiting for what only looking can tell."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(look: Callable[[], T | None], what: str, timeout: float, *, pause: float = 0.1) -> T:
    """What `look` returns once it is neither None nor false. Raises TimeoutError with `what` was waited for."""
    deadline = time.monotonic() + timeout
    while not (found := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout:g} s: {what}")
        time.sleep(pause)
    return found
