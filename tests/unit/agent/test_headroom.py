"""What the agent says of the load of its node, by what its ops process answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anycast.agent.conditions import Conditions
from anycast.agent.headroom import MOST, Headroom
from anycast.core.events import ConditionSet
from anycast.core.fleet.strained import LASTS
from anycast.core.fleet.values import Capacity
from anycast.core.values.configuration import Config
from anycast.core.values.configuration import Node as NodeName
from anycast.core.values.fleet import Fleet, FleetView, PeerAt
from tests.fakes import Node, vip
from tests.unit.ops.fleet import in_fleet

FLEET = Fleet(peers=(PeerAt(name="lb2"),), capacity=Capacity(bits=10e9))


class Here:
    """A node whose ops process answers `body` for as long as it is wanted, which it is asked each `LASTS` / 2 seconds."""

    def __init__(self, directory: Path, fleet: Fleet | None = FLEET) -> None:
        node = NodeName(name="lb1", runtime_dir=str(directory))
        self.config: Config = replace(Node(vip("web"), fleet=fleet).state.config, node=node)
        self.now = 0.0
        self.asked = 0
        self.standing: dict[str, str] = {}
        self._conditions = Conditions()
        self._headroom = Headroom(lambda: self.config, self._conditions, lambda: self.now)
        self._path = directory / "ops.sock"

    def _told(self, event: ConditionSet) -> None:
        self.standing[str(event.kind)] = event.text
        if not event.text:
            del self.standing[str(event.kind)]

    async def look(self, body: bytes | None, times: int = 3) -> set[str]:
        """What stands afterwards. `body`: None: nobody listens."""
        self._conditions.bind(self._told)
        for _ in range(times):
            if body is None:
                await self._headroom.look()
            else:
                async with await asyncio.start_unix_server(self._serve(body), self._path):
                    await self._headroom.look()
            self.now += LASTS / 2
        await asyncio.sleep(0)
        return set(self.standing)

    def _serve(self, body: bytes) -> Any:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked = await reader.readuntil(b"\r\n\r\n")
            assert asked.startswith(b"GET /fleet/headroom HTTP/1.0\r\n")
            self.asked += 1
            writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + body)
            writer.close()

        return serve


def figure(share: float) -> Mapping[str, Any]:
    return {"share": share, "limit": 0.7, "text": f"{share:.0%} of 10 Gbit/s, limit 70%"}


def told(today: float, one_less: float, *, complete: bool = True) -> bytes:
    words = "if lb2 fails now, lb1 would stand at too much"
    less = [{"nodes": 1, "gone": ["lb2"], "figure": figure(one_less), "text": words}]
    return json.dumps({"complete": complete, "today": figure(today), "less": less}).encode()


OVER = told(0.9, 1.4)
WELL = told(0.2, 0.4)
BOTH = {"node_over_limit", "fleet_headroom_low"}


def test_what_is_over_the_limit_stands_until_it_is_over(tmp_path: Path) -> None:
    async def run() -> None:
        here = Here(tmp_path)
        assert await here.look(OVER, times=2) == set()
        assert await here.look(OVER, times=1) == BOTH
        assert here.standing["node_over_limit"].startswith(
            "lb1 stands at 90% of 10 Gbit/s, limit 70% (over it"
        )
        assert here.standing["fleet_headroom_low"].startswith(
            "if lb2 fails now, lb1 would stand at too much ("
        )
        assert await here.look(WELL, times=2) == BOTH
        assert await here.look(WELL, times=1) == set()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("body", "stands"),
    [
        (told(0.5, 1.0), {"fleet_headroom_low"}),
        (told(0.5, 1.0, complete=False), set()),  # others may carry more or less than is known
        (told(0.9, 1.0, complete=False), {"node_over_limit"}),  # which is measured here
    ],
)
def test_of_one_node_less_only_complete_figures_tell(tmp_path: Path, body: bytes, stands: set[str]) -> None:
    assert asyncio.run(Here(tmp_path).look(body)) == stands


@pytest.mark.parametrize(
    "body",
    [
        None,
        b"",
        b"[]",
        b"{}",
        b"[" * (MOST - 100),
        b'{"complete": true, "today": {"share": "9", "limit": 0.7}, "less": [3]}',
        b'{"complete": true, "today": {"share": 1e999, "limit": NaN}, "less": {}}',
        b'{"today": {"share": 1' + b"0" * 400 + b', "limit": 0.7}, "less": []}',
        json.dumps({"complete": True, "today": None, "less": []}).encode(),
        OVER + b" " * MOST,
    ],
)
def test_what_is_not_known_begins_nothing_and_ends_what_stands(tmp_path: Path, body: bytes | None) -> None:
    async def run() -> None:
        here = Here(tmp_path)
        assert await here.look(body) == set()
        assert await here.look(OVER) == BOTH
        assert await here.look(body) == set()

    asyncio.run(run())


@pytest.mark.parametrize(
    "fleet", [None, replace(FLEET, view=FleetView.NONE), replace(FLEET, capacity=Capacity())]
)
def test_without_a_capacity_and_others_nobody_is_asked_and_nothing_stands(
    tmp_path: Path, fleet: Fleet | None
) -> None:
    async def run() -> None:
        here = Here(tmp_path)
        assert await here.look(OVER) == BOTH
        here.config, here.asked = replace(here.config, fleet=fleet), 0
        assert await here.look(OVER, times=1) == set()
        assert here.asked == 0

    asyncio.run(run())


def test_what_the_ops_process_tells_is_what_the_agent_reads(tmp_path: Path) -> None:
    node = in_fleet()  # at 48 %, and at 96 % with one node less
    found = node.headroom.read(node.now)
    assert found is not None
    here = Here(tmp_path)
    assert asyncio.run(here.look(json.dumps(found.own()).encode())) == {"fleet_headroom_low"}
    assert here.standing["fleet_headroom_low"].startswith(
        "if lb2 fails now, lb1 would stand at 96% of 10 Mbit/s, limit 70% (take no node out now"
    )
