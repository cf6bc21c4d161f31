"""A hook's own thread, with an event loop of its own: nothing waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import structlog
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_result,
    stop_after_attempt,
    wait_exponential_jitter,
)

from anycast import __version__
from anycast.core.hooks import Hook, Tally, Webhook
from anycast.notify.notice import Notice, payload
from anycast.notify.outcome import Outcome
from anycast.notify.run import run
from anycast.notify.waiting import Waiting

FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds between two requests of a webhook that does not answer
AGENT = f"anycast/{__version__}"

log = structlog.get_logger()


MAX_WHY = 200  # characters


class Runner:
    """One hook and what waits for it. Whoever calls does not wait."""

    def __init__(self, hook: Hook, node: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._hook = hook
        self._node = node
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting = Waiting(hook.limit, hook.per, clock())
        self._tally = Tally()
        self._waking = False  # it will look at what waits anyway
        self._missed = 0  # what was not told while it leaves
        self._ends: float | None = None  # the instant by which it must be over
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken: asyncio.Event | None = None
        self._left: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name=f"hook {hook.name}"[:15], daemon=True)
        self._thread.start()

    @property
    def tally(self) -> Tally:
        with self._lock:
            return replace(self._tally, runs=dict(self._tally.runs), waiting=len(self._waiting))

    def configure(self, hook: Hook) -> None:
        """From the next run on. What waits goes on waiting, even what it would not be told any more."""
        with self._lock:
            self._hook = hook
            self._waiting.set_limit(hook.limit, hook.per, self._clock())
        self._wake()

    def put(self, notice: Notice) -> None:
        with self._lock:
            if notice.event not in self._hook.events:
                return
            self._tally.suppressed += self._waiting.put(notice, self._clock())
            wake, self._waking = not self._waking, True
        if wake:
            self._wake()

    def leave(self, patience: float) -> None:
        """Deliver what waits once, without regard to the limit, for `patience` seconds; then the thread ends."""
        with self._lock:
            self._ends = self._clock() + patience
        self._wake()

    def join(self, patience: float) -> None:
        self._thread.join(patience)

    def _wake(self) -> None:
        loop, woken, left = self._loop, self._woken, self._left
        if loop is None or woken is None or left is None:
            return  # it looks before it waits
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(woken.set)
            if self._ends is not None:
                loop.call_soon_threadsafe(left.set)

    def _run(self) -> None:
        try:
            asyncio.run(self._work())
        except Exception:
            log.exception("agent.task_failed")

    async def _work(self) -> None:
        self._woken, self._left = asyncio.Event(), asyncio.Event()
        self._loop = asyncio.get_running_loop()
        telling = asyncio.create_task(self._tell_all())
        leaving = asyncio.create_task(self._left.wait())
        if self._ends is None:
            await asyncio.wait({telling, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if self._ends is not None:
            await asyncio.wait({telling}, timeout=max(0.0, self._ends - self._clock()))
        leaving.cancel()
        telling.cancel()
        await asyncio.wait({telling})
        with self._lock:
            lost = len(self._waiting) + self._missed
            self._tally.dropped += len(self._waiting)
        if lost:
            log.warning("hook.unsent", hook=self._hook.name, notices=lost)
        if not telling.cancelled():
            telling.result()

    async def _tell_all(self) -> None:
        while (notice := await self._next()) is not None:
            try:
                await self._tell(notice)
            except asyncio.CancelledError:
                with self._lock:
                    self._waiting.give_back(notice)
                raise
            except Exception:
                log.exception("agent.task_failed")
                with self._lock:
                    self._tally.dropped += 1

    async def _next(self) -> Notice | None:
        """What is to be told now; None when nothing will come any more."""
        while True:
            assert self._woken is not None  # noqa: S101 - made before
            self._woken.clear()
            with self._lock:
                self._waking = False
                leaving = self._ends is not None
                notice = self._waiting.take(self._clock(), hurry=leaving)
                wait = self._waiting.due_in(self._clock())
            if notice is not None or leaving:
                return notice
            await self._pause(wait)

    async def _pause(self, seconds: float) -> None:
        """Or until there is something new, or it is time to leave."""
        assert self._woken is not None  # noqa: S101 - made before
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if seconds == math.inf else seconds):
                await self._woken.wait()

    async def _tell(self, notice: Notice) -> None:
        with self._lock:
            hook = self._hook
        retries = hook.action.retries if isinstance(hook.action, Webhook) else 0
        attempts = AsyncRetrying(
            retry=retry_if_result(_again),
            stop=_any(stop_after_attempt(1 + retries), lambda _: self._ends is not None),
            wait=_wait,
            sleep=self._sleep,
            retry_error_callback=_last,
        )
        outcome: Outcome = await attempts(self._once, notice)
        if outcome.ok:
            return
        with self._lock:
            if outcome.again and notice.verdict is not None and self._ends is None:
                # Somebody must hear in the end how the VIP is now: until then the others wait, too.
                self._tally.suppressed += self._waiting.give_back(notice)
            else:
                self._tally.dropped += 1
                self._missed += self._ends is not None
                return
        await self._sleep(LONGEST_WAIT)

    async def _once(self, notice: Notice) -> Outcome:
        with self._lock:
            hook = self._hook
        began = self._clock()
        outcome = await run(hook, payload(notice, hook=hook.name, node=self._node), agent=AGENT)
        with self._lock:
            self._tally.runs[outcome.ending] += 1
            self._tally.seconds += self._clock() - began
            turned = self._tally.failing is outcome.ok
            self._tally.failing = not outcome.ok
            self._tally.why = "" if outcome.ok else outcome.why[:MAX_WHY]
            if turned:
                self._tally.since = self._clock()
        if turned and outcome.ok:
            log.info("hook.recovered", hook=hook.name)
        elif turned:
            log.warning("hook.failed", hook=hook.name, action=str(hook.action), why=outcome.why)
        return outcome

    async def _sleep(self, seconds: float) -> None:
        """Unless it is time to leave, or the hook is another."""
        until, hook = self._clock() + seconds, self._hook
        assert self._woken is not None  # noqa: S101 - made before
        while (left := until - self._clock()) > 0:
            self._woken.clear()  # before the look, or a change in between is slept through
            if self._ends is not None or self._hook is not hook:
                return
            await self._pause(left)


def _again(outcome: Outcome) -> bool:
    return outcome.again


def _any(*stops: Callable[[RetryCallState], bool]) -> Callable[[RetryCallState], bool]:
    return lambda state: any(stop(state) for stop in stops)


_backoff = wait_exponential_jitter(initial=FIRST_WAIT, max=LONGEST_WAIT)


def _wait(state: RetryCallState) -> float:
    asked = _last(state).after
    return max(asked, _backoff(state))


def _last(state: RetryCallState) -> Outcome:
    assert state.outcome is not None  # noqa: S101 - asked after a run
    found: Outcome = state.outcome.result()
    return found
