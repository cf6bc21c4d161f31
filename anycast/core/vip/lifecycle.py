"""The life of a VIP in one run of the agent, from its configuration to its route. The machine is the table below.

A life begins as NEW when the agent starts, when the VIP is configured, and when the agent was suspended for longer than
its lease. Nothing is known of the VIP until it has been proven.
"""

from __future__ import annotations

from enum import StrEnum


class Life(StrEnum):
    NEW = "new"  # not proven yet: an agent before this one may have its route announced
    HOLDING = "holding"  # proven, and the hold after a start is running
    WITHDRAWN = "withdrawn"  # has been proven; not announced now
    DRAINING = "draining"  # announced as the last resort, for maintenance
    LAST_RESORT = "last_resort"  # the same, because what all nodes may lose at once is lost
    ANNOUNCED = "announced"

    @property
    def is_started(self) -> bool:
        return self not in {Life.NEW, Life.HOLDING}

    @property
    def is_advertised(self) -> bool:
        return self in {Life.DRAINING, Life.LAST_RESORT, Life.ANNOUNCED}

    @property
    def is_whole(self) -> bool:
        """Advertised, with all that takes."""
        return self in {Life.DRAINING, Life.ANNOUNCED}


class Signal(StrEnum):
    """What the facts and the verdict say."""

    BREAK = "break"  # something that was proven no longer is
    WAIT = "wait"  # not proven yet, and nothing is known to be wrong: what we write ourselves is no break
    HOLD = "hold"  # proven, and not yet for long enough
    PROVE = "prove"  # proven for long enough; something else keeps the route down
    DRAIN = "drain"  # the route stays as the last resort until maintenance withdraws it
    LAST_RESORT = "last_resort"  # the node itself is proven, and what all nodes may lose at once is lost
    ANNOUNCE = "announce"
    SUSPEND = "suspend"  # the agent did not run for longer than its lease lasts


NEXT: dict[tuple[Life, Signal], Life] = {
    (Life.NEW, Signal.BREAK): Life.NEW,
    (Life.NEW, Signal.WAIT): Life.NEW,
    (Life.NEW, Signal.HOLD): Life.HOLDING,
    (Life.NEW, Signal.PROVE): Life.WITHDRAWN,
    (Life.NEW, Signal.DRAIN): Life.NEW,  # a drain keeps a route that stands, and brings none up
    (Life.NEW, Signal.LAST_RESORT): Life.LAST_RESORT,
    (Life.NEW, Signal.ANNOUNCE): Life.ANNOUNCED,
    (Life.NEW, Signal.SUSPEND): Life.NEW,
    (Life.HOLDING, Signal.BREAK): Life.NEW,
    (Life.HOLDING, Signal.WAIT): Life.HOLDING,
    (Life.HOLDING, Signal.HOLD): Life.HOLDING,
    (Life.HOLDING, Signal.PROVE): Life.WITHDRAWN,
    (Life.HOLDING, Signal.DRAIN): Life.HOLDING,
    (Life.HOLDING, Signal.LAST_RESORT): Life.LAST_RESORT,
    (Life.HOLDING, Signal.ANNOUNCE): Life.ANNOUNCED,
    (Life.HOLDING, Signal.SUSPEND): Life.NEW,
    (Life.WITHDRAWN, Signal.BREAK): Life.WITHDRAWN,
    (Life.WITHDRAWN, Signal.WAIT): Life.WITHDRAWN,
    (Life.WITHDRAWN, Signal.HOLD): Life.WITHDRAWN,
    (Life.WITHDRAWN, Signal.PROVE): Life.WITHDRAWN,
    (Life.WITHDRAWN, Signal.DRAIN): Life.WITHDRAWN,
    (Life.WITHDRAWN, Signal.LAST_RESORT): Life.LAST_RESORT,
    (Life.WITHDRAWN, Signal.ANNOUNCE): Life.ANNOUNCED,
    (Life.WITHDRAWN, Signal.SUSPEND): Life.NEW,
    (Life.DRAINING, Signal.BREAK): Life.WITHDRAWN,
    (Life.DRAINING, Signal.WAIT): Life.WITHDRAWN,
    (Life.DRAINING, Signal.HOLD): Life.WITHDRAWN,
    (Life.DRAINING, Signal.PROVE): Life.WITHDRAWN,
    (Life.DRAINING, Signal.DRAIN): Life.DRAINING,
    (Life.DRAINING, Signal.LAST_RESORT): Life.LAST_RESORT,
    (Life.DRAINING, Signal.ANNOUNCE): Life.ANNOUNCED,
    (Life.DRAINING, Signal.SUSPEND): Life.NEW,
    (Life.LAST_RESORT, Signal.BREAK): Life.WITHDRAWN,
    (Life.LAST_RESORT, Signal.WAIT): Life.WITHDRAWN,
    (Life.LAST_RESORT, Signal.HOLD): Life.WITHDRAWN,
    (Life.LAST_RESORT, Signal.PROVE): Life.WITHDRAWN,
    (Life.LAST_RESORT, Signal.DRAIN): Life.DRAINING,
    (Life.LAST_RESORT, Signal.LAST_RESORT): Life.LAST_RESORT,
    (Life.LAST_RESORT, Signal.ANNOUNCE): Life.ANNOUNCED,
    (Life.LAST_RESORT, Signal.SUSPEND): Life.NEW,
    (Life.ANNOUNCED, Signal.BREAK): Life.WITHDRAWN,
    (Life.ANNOUNCED, Signal.WAIT): Life.WITHDRAWN,
    (Life.ANNOUNCED, Signal.HOLD): Life.WITHDRAWN,
    (Life.ANNOUNCED, Signal.PROVE): Life.WITHDRAWN,
    (Life.ANNOUNCED, Signal.DRAIN): Life.DRAINING,
    (Life.ANNOUNCED, Signal.LAST_RESORT): Life.LAST_RESORT,
    (Life.ANNOUNCED, Signal.ANNOUNCE): Life.ANNOUNCED,
    (Life.ANNOUNCED, Signal.SUSPEND): Life.NEW,
}
