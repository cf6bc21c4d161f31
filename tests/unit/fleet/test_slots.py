"""What others have written of their turns, and what answers in the place of etcd: none of it ends the process."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from anycast.core.fleet.values import Claim, Holder, Turn
from anycast.core.values.fleet import Etcd
from anycast.fleet import frames
from anycast.fleet.etcd import Client, Entry, UnknownError
from anycast.fleet.receiving import Receiver
from anycast.fleet.slots import Slots

WANTED = Turn(claim=Claim.ASKED, ago=0.0, number=7)
ODD: tuple[Any, ...] = (
    10**400,
    -(10**400),
    10**18,
    "1e999",
    "NaN",
    "-Infinity",
    "x",
    None,
    True,
    [],
    {},
    [[]],
    {"a": []},
)


class Etcds(Client):
    """Answers everything with that."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(Etcd(endpoints=("http://127.0.0.1:1",)))
        self.answer = answer

    async def _call(
        self, path: str, body: dict[str, Any], *, again: bool, at_once: int = 1
    ) -> dict[str, Any]:
        return self.answer


class Kept(Client):
    """One key stands."""

    def __init__(self, value: bytes) -> None:
        super().__init__(Etcd(endpoints=("http://127.0.0.1:1",)))
        self.value = value

    async def below(self, prefix: str) -> list[Entry]:
        return [Entry(key=f"{prefix}0", value=self.value, created=1, modified=1)]


@pytest.mark.parametrize("key", ["since", "number", "node", "by", "reason"])
@pytest.mark.parametrize("odd", ODD)
def test_whatever_stands_in_a_key_it_is_a_holder_and_the_agent_is_told(key: str, odd: object) -> None:
    value = json.dumps({"node": "lb2", "number": 1, "by": "ada", "reason": "", "since": 1.0, key: odd})
    for text in ("1e999", "NaN", "-Infinity"):
        value = value.replace(f'"{text}"', text)  # as numbers
    slots = Slots(Kept(value.encode()), "/a/", "lb1", 1)
    found = asyncio.run(slots.step(None))
    (holder,) = found.holders
    assert holder.node in ("lb2", "0", "x")
    assert abs(holder.number) < 10**18
    (frame,) = frames.packed([frames.turns(found)])
    heard = Receiver().take(frame[frames.LENGTH.size :])
    assert heard is not None
    assert heard.register == found


def test_a_holder_that_is_as_it_should_be_is_taken_as_it_is() -> None:
    number = 2**52 + 1
    value = json.dumps({"node": "lb2", "number": number, "by": "ada", "reason": "disks", "since": 40.0})
    slots = Slots(Kept(value.encode()), "/a/", "lb1", 1, wall=lambda: 100.0)
    (holder,) = asyncio.run(slots.step(None)).holders
    assert holder == Holder(node="lb2", number=number, by="ada", reason="disks", ago=60.0)


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"ID": "x", "TTL": "x", "result": [], "kvs": "x"},
        {"ID": [], "TTL": [], "result": {"TTL": float("inf")}, "kvs": [{}]},
        {"ID": float("inf"), "TTL": 10**400, "result": 1, "kvs": [{"key": "?", "mod_revision": "x"}]},
        {"ID": None, "TTL": None, "result": None, "kvs": None},
    ],
)
def test_what_is_not_etcd_is_told_and_ends_nothing(answer: dict[str, Any]) -> None:
    async def run() -> None:
        client = Etcds(answer)
        asked = (client.grant(10), client.keep_alive(1), client.left(1), client.below("/a/"))
        found = await asyncio.gather(*asked, return_exceptions=True)
        errors = [one for one in found if isinstance(one, BaseException)]
        assert {type(one) for one in errors} == {UnknownError}
        assert {str(one) for one in errors} == {"what answers is not etcd"}
        with pytest.raises(UnknownError):
            await Slots(client, "/a/", "lb1", 1).step(WANTED)

    asyncio.run(run())


class Several(Client):
    """Some have a turn; `created`, by the place of each."""

    def __init__(self, created: dict[str, int]) -> None:
        super().__init__(Etcd(endpoints=("http://127.0.0.1:1",)))
        self.created = created

    async def below(self, prefix: str) -> list[Entry]:
        return [
            Entry(
                key=f"{prefix}{place}",
                value=json.dumps({"node": node}).encode(),
                created=created,
                modified=9,
            )
            for place, (node, created) in enumerate(self.created.items())
        ]


def test_who_has_a_turn_is_told_in_the_order_in_which_they_got_it() -> None:
    slots = Slots(Several({"lb2": 7, "lb3": 5, "lb4": 6}), "/a/", "lb1", 3)
    found = asyncio.run(slots.step(None))
    assert [one.node for one in found.holders] == ["lb3", "lb4", "lb2"]
