"""What `anycast status` says of traffic."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest

from anycast.analysis.plan import added
from anycast.cli import overview, text
from anycast.core import events as ev
from anycast.core.dataplane.ipvs import Connections, packed
from anycast.core.dataplane.traffic import RUN_ESTIMATION
from anycast.core.values.configuration import Forwarding
from anycast.core.values.persistent import PersistentMap
from anycast.ops import status
from anycast.ops.amounts import amount, bits, machines, percent
from tests.unit.ops import flows, scenes
from tests.unit.ops.node import CONFIG, Node, healthy

FIRST = int(IPv4Address("10.16.0.0"))


def document(node: Node) -> dict[str, Any]:
    whole = status.document(
        node.state, now=node.now, wall=time.time(), version="1", pid=2, traffic=node.traffic
    )
    plain: dict[str, Any] = json.loads(json.dumps(whole))
    return plain


def shown(node: Node, *names: str) -> list[list[str]]:
    body = document(node)
    found = overview.matching(body["vips"], names) if names else body["vips"]
    view = overview.everything(found) if names else overview.overview(found)
    return [line.split() for line in text.status(body, colour=False, shown=view).splitlines()]


def test_vips_services_and_real_servers_have_their_rates_and_shares() -> None:
    node = healthy()
    flows.carry(node, lambda key, _, __: 3.0 if getattr(key, "port", 0) == 80 else 1.0)
    lines = shown(node)
    carries = "carries 22 new connections/s; in 220 packets/s, 1.1 Mbit/s; answers do not come back this way (over 10 s)"
    assert carries in [" ".join(line) for line in lines]
    assert ["TRAFFIC", "SERVICE", "CONNS/S", "SHARE", "PACKETS/S", "BITS/S"] in lines
    assert ["web", "16", "73%", "of", "node", "160", "768k"] in lines
    assert ["web", "tcp/80", "12", "75%", "of", "VIP", "120", "576k"] in lines
    assert any(line[:5] == ["web", "tcp/443", "rs1", "10.9.2.1:443", "up"] and line[8:11] == ["1", "25%", "48k"] for line in lines)  # fmt: skip
    only = shown(node, "mail")
    assert ["mail", "6", "27%", "of", "node", "60", "288k"] in only
    assert not any(line[:1] == ["web"] for line in only)


def test_a_plan_takes_from_a_status_what_the_node_carries() -> None:
    node = healthy()
    flows.carry(node, flows.steady(1.0))
    (key, entry), *_ = ((key, one) for key, one in node.kernel.table.items() if one.destinations)
    counts = [Connections(active=3, inactive=4), *[Connections()] * (len(entry.destinations) - 1)]
    node.kernel = replace(node.kernel, connections=PersistentMap({key: packed(counts)}))
    flows.carry(node, flows.steady(1.0), steps=1)
    whole = document(node)
    assert added([("lb1.json", whole)]) == {
        "packets": whole["traffic"]["rates"]["packets_in_per_s"],
        "bits": whole["traffic"]["rates"]["bits_in_per_s"],
        "new_connections": whole["traffic"]["rates"]["connections_per_s"],
        "connections": 7,
    }
    with pytest.raises(ValueError, match=f"{whole['node']['name']}'s status, as"):
        added([("lb1.json", whole), ("again.json", whole)])


def test_answers_are_told_of_where_they_come_back_and_nowhere_else() -> None:
    vips = tuple(
        replace(one, services=tuple(replace(each, forwarding=Forwarding.NAT) for each in one.services))
        for one in CONFIG.vips[1:]
    )
    node = healthy(replace(CONFIG, vips=(CONFIG.vips[0], *vips)))
    flows.carry(node, flows.steady(1.0))
    lines = shown(node)
    assert any(line[-6:-4] == ["PACKETS/S", "BITS/S"] for line in lines)
    assert ["web", "8", "80%", "of", "node", "80", "384k", "-", "-"] in lines
    assert ["mail", "2", "20%", "of", "node", "20", "96k", "24", "640k"] in lines


def test_where_the_kernel_does_not_count_that_is_said_and_no_zero() -> None:
    node = healthy()
    node.kernel = replace(node.kernel, sysctls={**node.kernel.sysctls, RUN_ESTIMATION: "0"})
    node.send(ev.Tick(), after=5.0)
    body = document(node)
    assert body["traffic"] == {"counted": False, "over_s": None, "rates": None}
    assert body["vips"][0]["traffic"] is None
    told = text.status(body, colour=False)
    assert text.NOT_COUNTED in told
    assert "TRAFFIC" not in told


def test_of_many_vips_the_busiest_are_shown() -> None:
    node = scenes.large(60, pool=2)
    flows.carry(node, lambda _, one, __: float(int(one.address) - FIRST))
    busy = [line[0] for line in shown(node) if line[-4:-2] == ["of", "node"]]
    assert busy == [f"v{number}" for number in range(29, 29 - overview.BUSY, -1)]


def test_an_answer_of_an_older_agent_is_shown_without() -> None:
    body = document(healthy())
    del body["traffic"]
    for vip in body["vips"]:
        del vip["traffic"]
        for service in vip["services"]:
            del service["traffic"]
            for server in service["servers"]:
                del server["traffic"], server["share"]
    assert "TRAFFIC" not in text.status(body, colour=False)
    assert overview.overview(body["vips"] * 30).busy == []


def test_two_machines_in_several_services_are_two() -> None:
    node = healthy()
    body = document(node)
    (line,) = overview.overview(body["vips"] * 20).head
    assert "2 of 2 real servers are well (200 entries in services)" in line


@pytest.mark.parametrize(
    ("entries", "numbers"),
    [
        ([], []),
        ([("a", 1), ("a", 2), ("b", 3)], [0, 0, 1]),
        ([("a", 1), ("b", 2), ("c", 1)], [0, 1, 0]),  # one address under two names
        ([("a", 1), ("b", 2), ("b", 1)], [0, 0, 0]),
    ],
)
def test_machines(entries: list[tuple[str, int]], numbers: list[int]) -> None:
    assert machines(entries) == numbers


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (0, "0"),
        (0.04, "0"),
        (0.44, "0.4"),
        (9.94, "9.9"),
        (9.96, "10"),
        (999.4, "999"),
        (999.6, "1k"),
        (1234, "1.2k"),
        (999_700, "1M"),
        (5.5e12, "5.5T"),
        (3e15, "3000T"),
    ],
)
def test_amounts(number: float, told: str) -> None:
    assert amount(number) == told


def test_bits_and_percents() -> None:
    assert (bits(12), bits(1_250_000)) == ("12 bit/s", "1.2 Mbit/s")
    assert [percent(one) for one in (0, 0.001, 0.256, 0.999, 1)] == ["0%", "<1%", "26%", ">99%", "100%"]
