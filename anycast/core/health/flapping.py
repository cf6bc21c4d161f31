"""Hold-down of targets that flap, as in RFC 2439: a penalty for each fall, which halves in each half-life.

At `suppress` the target is held down until the penalty has decayed to `reuse`. Going down is never delayed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from anycast.core.values.configuration import HoldDown

__all__ = ["CALM", "Flaps", "fallen"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flaps:
    """The penalty as it was at `at`, and the instant until which the target is held down."""

    penalty: float = 0.0
    at: float = 0.0
    held_until: float = -math.inf

    def decayed(self, now: float, half_life: float) -> float:
        return self.penalty * math.exp2(-max(0.0, now - self.at) / half_life)

    def held_for(self, now: float) -> float:
        """Seconds that are left; 0: not held down."""
        return max(0.0, self.held_until - now)


CALM = Flaps()


def fallen(flaps: Flaps, now: float, rule: HoldDown) -> Flaps:
    """The penalty after one more fall. It has a ceiling, so no hold lasts longer than `max_hold`."""
    penalty = min(flaps.decayed(now, rule.half_life) + 1.0, rule.ceiling)
    if penalty < rule.suppress:
        return Flaps(penalty=penalty, at=now)
    hold = min(rule.half_life * math.log2(penalty / rule.reuse), rule.max_hold)
    return Flaps(penalty=penalty, at=now, held_until=now + hold)
