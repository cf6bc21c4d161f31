from __future__ import annotations

import asyncio
import threading

from anycast.agent.latest import Latest


def test_while_one_is_written_the_newest_alone_waits() -> None:
    written: list[int] = []

    async def story() -> None:
        loop, begun, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

        def write(value: int) -> None:
            written.append(value)
            loop.call_soon_threadsafe(begun.set)
            go_on.wait(60)

        latest = Latest(write, str)
        latest.put(0)
        await begun.wait()
        for value in range(1, 100):
            latest.put(value)
        go_on.set()
        assert latest.last is not None
        assert await latest.last == ""

    asyncio.run(story())
    assert written == [0, 99]


def test_who_waits_is_told_why_it_was_not_written_and_the_next_is() -> None:
    async def story() -> None:
        broken = True

        def write(_: int) -> None:
            if broken:
                raise OSError(28, "No space left on device")

        latest = Latest(write, lambda error: f"not written: {error.strerror}")
        assert latest.last is None
        latest.put(1)
        assert latest.last is not None
        assert await latest.last == "not written: No space left on device"
        broken = False
        latest.put(2)
        assert await latest.last == ""

    asyncio.run(story())


def test_what_could_not_be_written_is_tried_again_until_it_is_and_then_that_is_told() -> None:
    written: list[int] = []

    async def story() -> None:
        tries, done = 0, asyncio.Event()

        def write(value: int) -> None:
            nonlocal tries
            tries += 1
            if tries < 3:
                raise OSError(28, "No space left on device")
            written.append(value)

        latest = Latest(write, str, done.set, retry=0.0)
        latest.put(7)
        async with asyncio.timeout(60):
            await done.wait()
        assert tries == 3

    asyncio.run(story())
    assert written == [7]


def test_once_it_is_closed_nothing_is_tried_again() -> None:
    async def story() -> None:
        def write(_: int) -> None:
            raise OSError(28, "No space left on device")

        latest = Latest(write, str, retry=0.0)
        latest.close()
        latest.put(7)
        assert latest.last is not None
        await latest.last
        for _ in range(10):
            await asyncio.sleep(0)
        assert latest.last is not None
        assert latest.last.done()

    asyncio.run(story())
