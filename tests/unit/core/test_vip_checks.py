"""Checks to the VIP: which targets there are, and what a real server is that lacks one of the VIP's addresses."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from anycast.core import events as ev
from anycast.core.dataplane.ipvs import ServiceKey
from anycast.core.health.phase import Outcome, Result
from anycast.core.values.checks import TcpCheck
from anycast.core.values.configuration import Address, Check, Target, Vip
from tests.fakes import Node, up, vip

HELD = Check(kind=TcpCheck(), to_vip=True, rise=2, fall=2)
FIRST, SECOND = ip_address("192.0.2.1"), ip_address("192.0.2.2")


def twofold(name: str = "web", ports: tuple[int, ...] = (80,)) -> Vip:
    """Two addresses of one family."""
    return replace(vip(name, check=HELD, ports=ports), addresses=(FIRST, SECOND))


def lacks(node: Node, server: str, address: Address) -> None:
    target = Target(address=ip_address(server), port=80, check=HELD, vip=address)
    assert target in node.state.targets
    for _ in range(2):
        node.send(ev.Probed(results=((target, Result(outcome=Outcome.FAIL, detail="no answer")),)))


def weights(node: Node, server: str) -> dict[str, int]:
    return {
        str(key.address): one.weight
        for key, entry in node.kernel.table.items()
        for one in entry.destinations
        if isinstance(key, ServiceKey) and one.address == ip_address(server)
    }


def test_the_same_server_and_port_is_a_target_for_each_vip() -> None:
    node = up(vip("a", number=1, check=HELD), vip("b", number=2, check=HELD))
    assert len(node.state.targets) == 6
    lacks(node, "10.9.2.1", FIRST)
    assert weights(node, "10.9.2.1") == {"192.0.2.1": 0, "192.0.2.2": 1}


def test_a_server_that_lacks_one_address_of_the_vip_serves_none_of_them() -> None:
    node = up(twofold())
    lacks(node, "10.9.2.1", SECOND)
    assert weights(node, "10.9.2.1") == {"192.0.2.1": 0, "192.0.2.2": 0}
    assert weights(node, "10.9.2.2") == {"192.0.2.1": 1, "192.0.2.2": 1}


def test_the_log_says_which_address_of_the_vip_it_was() -> None:
    node = up(twofold())
    lacks(node, "10.9.2.1", SECOND)
    told = {log.event: log.fields for log in node.logs}
    assert told["check.down"]["vip_address"] == "192.0.2.2"
    assert told["server.down"]["detail"] == "192.0.2.2: no answer"
