"""A router that takes nothing of what it is sent, and the connection that is ended for it."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_address

import pytest
from structlog.testing import capture_logs

from anycast.agent.conditions import Conditions
from anycast.agent.send_hold import FIND, NOTICED, SendHold
from anycast.core.events import ConditionSet
from anycast.core.values.configuration import Bgp, Neighbor
from anycast.core.values.standing import Condition
from anycast.kernel.tcp_codec import Connection, Sending

NODE, ROUTER = ip_address("10.2.1.1"), ip_address("10.2.1.254")
HOLD = 9


def connection(number: int = 1, *, remote_port: int = 179) -> Connection:
    return Connection(NODE, 40_000 + number, ROUTER, remote_port, 0, number.to_bytes(8, "little"))


@dataclass
class Kernel:
    """The connections that there are, and what was done to them."""

    there: dict[bytes, Sending] = field(default_factory=dict)
    ended: list[Connection] = field(default_factory=list)
    finds: int = 0
    refuses: int = 0

    def put(self, one: Connection, waiting: int = 0, taken: int = 0) -> None:
        self.there[one.cookie] = Sending(one, waiting, taken)

    async def find(self, families: Iterable[int], ports: Iterable[int]) -> list[Sending]:
        assert (list(families), list(ports)) == ([4], [179])
        self.finds += 1
        return list(self.there.values())

    async def look(self, one: Connection) -> Sending | None:
        return self.there.get(one.cookie)

    async def end(self, one: Connection) -> None:
        if self.refuses:
            raise OSError(self.refuses, "refused")
        self.ended.append(one)
        del self.there[one.cookie]


class Told(Conditions):
    def __init__(self) -> None:
        super().__init__()
        self.told: list[ConditionSet] = []

    def _tell(self, event: ConditionSet) -> None:
        self.told.append(event)


class Node:
    def __init__(self) -> None:
        self.now = 100.0
        self.up = frozenset({str(ROUTER)})
        self.kernel = Kernel()
        self.conditions = Told()
        bgp = Bgp(
            local_as=65001,
            router_id=IPv4Address("10.2.1.1"),
            hold_time=HOLD,
            neighbors=(Neighbor(address=ROUTER, remote_as=65000),),
        )
        self.guard = SendHold(
            bgp=lambda: bgp,
            up=lambda: self.up,
            tcp=self.kernel,
            conditions=self.conditions,
            clock=lambda: self.now,
        )

    @property
    def told(self) -> list[ConditionSet]:
        return self.conditions.told

    def after(self, seconds: float) -> None:
        self.now += seconds
        asyncio.run(self.guard.look())


@pytest.fixture
def node() -> Node:
    return Node()


def test_what_a_router_takes_keeps_its_session_for_ever(node: Node) -> None:
    for turn in range(100):
        node.kernel.put(connection(), waiting=7_000, taken=turn)
        node.after(1.0)
    node.kernel.put(connection(), waiting=0, taken=100)
    node.after(1000.0)
    assert node.kernel.ended == []
    assert node.told == []
    assert node.kernel.finds == 1


def test_a_router_that_takes_nothing_for_the_hold_time_loses_its_session(node: Node) -> None:
    node.kernel.put(connection(), waiting=7_000, taken=5)
    node.after(0.0)
    node.after(NOTICED)
    (told,) = node.told
    assert (told.kind, told.about) == (Condition.ROUTER_DEAF, str(ROUTER))
    assert f"{HOLD} s after the last byte" in told.text
    node.kernel.put(connection(), waiting=8_000, taken=5)  # a keepalive more
    node.after(HOLD - NOTICED - 0.1)
    assert node.kernel.ended == []
    with capture_logs() as logs:
        node.after(0.1)
    assert node.kernel.ended == [connection()]
    assert logs == [
        {"event": "session.ended", "neighbor": str(ROUTER), "seconds": HOLD, "log_level": "error"}
    ]
    assert node.told[-1] == ConditionSet(kind=Condition.ROUTER_DEAF, about=str(ROUTER))


def test_a_router_that_reads_again_is_left_alone(node: Node) -> None:
    node.kernel.put(connection(), waiting=7_000, taken=5)
    node.after(0.0)
    node.after(HOLD - 1.0)
    node.kernel.put(connection(), waiting=6_999, taken=6)
    node.after(1.0)
    node.after(HOLD - 1.0)
    assert node.kernel.ended == []
    assert [bool(one.text) for one in node.told] == [True, False, True]


def test_the_connection_of_a_new_session_is_looked_for_and_not_all_the_time(node: Node) -> None:
    for _ in range(10):
        node.after(FIND / 10)
    assert node.kernel.finds == 1
    node.kernel.put(connection(2), waiting=1, taken=0)
    node.after(FIND)
    node.after(HOLD)
    assert node.kernel.ended == [connection(2)]
    node.up = frozenset()
    node.after(FIND)
    assert node.kernel.finds == 2


def test_connections_of_others_are_none_of_ours(node: Node) -> None:
    other = connection()._replace(remote=ip_address("10.2.1.253"))
    node.kernel.put(other, waiting=1)
    node.kernel.put(connection(2, remote_port=8080), waiting=1)
    node.after(0.0)
    node.after(HOLD)
    assert node.kernel.ended == []


def test_where_it_cannot_be_ended_that_stands(node: Node) -> None:
    node.kernel.refuses = errno.EOPNOTSUPP
    node.kernel.put(connection(), waiting=1)
    node.after(0.0)
    node.after(HOLD)
    node.after(1.0)
    assert "cannot be ended from here (refused): restart ExaBGP" in node.told[-1].text
    del node.kernel.there[connection().cookie]
    node.after(1.0)
    assert node.told[-1].text == ""
