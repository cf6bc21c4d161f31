"""What stands is told to the engine from any thread, and what stood before there was one."""

from __future__ import annotations

import asyncio

from anycast.agent.conditions import Conditions
from anycast.core.events import ConditionSet
from anycast.core.values.standing import Condition

FULL = Condition.EVENTS_NOT_SAVED


def test_what_stood_before_the_engine_is_told_first_and_what_is_said_again_is_not_told_again() -> None:
    told: list[ConditionSet] = []

    async def story() -> None:
        conditions = Conditions()
        assert conditions.begin(FULL, "full")
        conditions.begin(Condition.OWNED_DAMAGED, "damaged")
        conditions.end(Condition.OWNED_DAMAGED)
        conditions.bind(told.append)
        assert not conditions.begin(FULL, "full")
        await asyncio.to_thread(conditions.begin, FULL, "fuller")
        await asyncio.to_thread(conditions.end, FULL)
        conditions.end(FULL)
        await asyncio.sleep(0)

    asyncio.run(story())
    assert told == [
        ConditionSet(kind=FULL, text="full"),
        ConditionSet(kind=FULL, text="fuller"),
        ConditionSet(kind=FULL),
    ]


def test_a_thread_that_outlives_the_event_loop_harms_nobody() -> None:
    async def story() -> Conditions:
        conditions = Conditions()
        conditions.bind(lambda _: None)
        return conditions

    conditions = asyncio.run(story())
    conditions.begin(FULL, "full")
    conditions.end(FULL)
