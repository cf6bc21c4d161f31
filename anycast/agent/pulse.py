"""Whether this process was suspended, or only busy: a thread that looks at the clock a few times in the life of a lease.

It runs also while the event loop works for long, but not while the process is stopped, or its machine paused.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import pairwise

_KEPT = 1024  # looks


class Pulse:
    """Begins to beat when it is made, and goes on to the end of the process."""

    def __init__(
        self,
        period: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`period`: seconds between two looks."""
        self._period = period
        self._clock = clock
        self._sleep = sleep
        self._looks: deque[float] = deque(maxlen=_KEPT)
        threading.Thread(target=self._run, name="pulse", daemon=True).start()

    def _run(self) -> None:
        while True:
            self._looks.append(self._clock())
            self._sleep(self._period)

    def longest(self, since: float, until: float) -> float:
        """The longest time between two looks, in seconds, within these instants; a look at each end is assumed."""
        looks = [at for at in self._looks.copy() if since < at < until]
        return max(after - before for before, after in pairwise((since, *looks, until)))
