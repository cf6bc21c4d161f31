"""Calls that may hang in the kernel (a dead mount): in a thread of their own, one at a time for each key.

Threads of the event loop's pool would do, but an agent that ends waits for those.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Hashable
from errno import EAGAIN
from typing import TypeVar

__all__ = ["HangingError", "aside", "offload"]

_T = TypeVar("_T")

_hanging: set[Hashable] = set()


class HangingError(Exception):
    """An earlier call with this key has not come back."""


async def offload(key: Hashable, call: Callable[[], _T]) -> _T:
    """The result of `call`. A call that is given up goes on by itself. Raises HangingError, and what `call` raises."""
    if key in _hanging:
        raise HangingError
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def settle(result: _T | None, error: BaseException | None) -> None:
        _hanging.discard(key)
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def work() -> None:
        result: _T | None = None
        failure: BaseException | None = None
        try:
            result = call()
        except BaseException as error:  # noqa: BLE001 - handed over, whatever it is
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, result, failure)
            return
        _hanging.discard(key)

    _hanging.add(key)
    try:
        threading.Thread(target=work, daemon=True, name="check").start()
    except RuntimeError as error:
        _hanging.discard(key)
        raise OSError(EAGAIN, str(error)) from error
    return await future


def aside(call: Callable[[], object]) -> None:
    """Runs `call`, which takes its time and whose end nobody waits for; right here where there can be no thread."""
    try:
        threading.Thread(target=call, daemon=True, name="aside").start()
    except RuntimeError:
        call()
