"""Threads for an event loop's `to_thread` that end with the process, whatever they wait for. Standard library only."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import ParamSpec, TypeVar

Result = TypeVar("Result")
Parameters = ParamSpec("Parameters")

LIMIT = 32  # threads


class DaemonThreads(ThreadPoolExecutor):
    """For `loop.set_default_executor`, which takes a ThreadPoolExecutor only.

    The loop and the interpreter wait at their end for all threads of a plain one: one look at a dead network file system
    or directory service, and an agent that crashed would stay as a process without a lease.
    """

    def __init__(self) -> None:
        super().__init__(max_workers=1)  # this one never starts
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._threads_left = LIMIT

    def submit(
        self, fn: Callable[Parameters, Result], /, *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Future[Result]:
        """Not from two threads at once: it is for the loop's own."""
        future: Future[Result] = Future()

        def call() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - it is raised where the result is awaited
                future.set_exception(error)
            else:
                future.set_result(result)

        self._calls.put(call)
        if not self._idle.acquire(blocking=False) and self._threads_left:
            self._threads_left -= 1
            threading.Thread(target=self._work, name="aside", daemon=True).start()
        return future

    def _work(self) -> None:
        while True:
            self._calls.get()()
            self._idle.release()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002
        """Waits for nothing."""
