"""What the kernel announces of a setting for all interfaces, as after `sysctl --system`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from anycast.kernel import interface_watch
from tests.contract.namespaces import network_namespace

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")

PATIENCE = 10.0  # seconds; what takes longer is not announced


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    with network_namespace():
        yield


def told(name: str, value: str) -> bool:
    """Whether a change of the setting is told to whoever watches lo."""
    write = Path("/proc/sys/net", name).write_text
    write("0" if value == "1" else "1")

    async def story() -> bool:
        calls: asyncio.Queue[None] = asyncio.Queue()
        watching = asyncio.create_task(interface_watch.watch("lo", lambda _: calls.put_nowait(None)))
        await calls.get()  # it listens
        write(value)
        try:
            await asyncio.wait_for(calls.get(), PATIENCE)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        return True

    return asyncio.run(story())


@pytest.mark.parametrize("name", ["ipv4/ip_forward", "ipv6/conf/all/forwarding"])
@pytest.mark.parametrize("value", ["0", "1"])
def test_a_change_of_forwarding_is_announced(name: str, value: str) -> None:
    assert told(name, value)
