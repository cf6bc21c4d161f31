"""How many examples a dear property test takes."""

from __future__ import annotations

import os

LONG = bool(os.environ.get("ANYCAST_LONG"))


def dear(number: int) -> int:
    """Of `number` examples a third, and all with ANYCAST_LONG=1. For tests that take five seconds and more.

    Each run has new examples, so what a third of them misses comes up in one of the next runs.
    """
    return number if LONG else -(-number // 3)
