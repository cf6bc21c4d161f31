"""A prefix that several VIPs announce: what the status, the explanation and the answer to a maintenance say of it."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest

from anycast.cli import text
from anycast.core import events as ev
from anycast.core.fleet.values import VipStanding
from anycast.core.maintenance.stages import Maintenance
from anycast.core.values.configuration import Announce, Config, Needs
from anycast.ops import page, status, why
from anycast.ops.board import Boards
from anycast.ops.fleet import FRESH, Told
from anycast.ops.shared import of_maintenance
from tests.unit.ops.node import CONFIG, Node, healthy, vip

WALL = 1_800_000_000.0
NET = ip_network("192.0.2.0/24")


def config(needs: Needs) -> Config:
    announce = (Announce(prefix=NET, needs=needs),)
    vips = (vip("web", "192.0.2.1"), vip("mail", "192.0.2.2"))
    return replace(CONFIG, vips=tuple(replace(one, announce=announce) for one in vips))


def body(node: Node, name: str) -> dict[str, Any]:
    document = status.document(node.state, now=node.now, wall=WALL, version="1.2.3", pid=42)
    found: dict[str, Any] = next(one for one in document["vips"] if one["name"] == name)
    return found


def out(node: Node, name: str) -> None:
    entry = Maintenance(reason="racks", by="op", since=WALL)
    node.send(ev.MaintenanceSet(scope=name, entry=entry, skip_drain=True))


def lease_of(node: Node, name: str) -> str:
    found = why.document(node.state, node.state.index.vips[name].vip, node.tallies, now=node.now, wall=WALL)
    (link,) = [one for one in found["chain"] if one["link"] == "lease"]
    (item,) = link["items"]
    return str(item["text"])


def test_one_prefix_stands_once_and_tells_who_holds_it() -> None:
    node = healthy(config(Needs.ANY))
    (prefix,) = body(node, "web")["prefixes"]
    assert prefix["prefix"] == "192.0.2.0/24"
    assert prefix["shared"] == {
        "needs": "any",
        "vips": 2,
        "held_by": ["web", "mail"],
        "against": [],
        "stays": "",
    }
    assert lease_of(node, "web") == "192.0.2.0/24: in it, by any of 2 VIPs: web, mail"
    (alone, *_) = body(healthy(), "web")["prefixes"]
    assert alone["shared"] is None


def test_with_any_a_vip_that_is_out_is_said_to_be_announced_for_the_other() -> None:
    node = healthy(config(Needs.ANY))
    out(node, "web")
    (prefix,) = body(node, "web")["prefixes"]
    assert (prefix["wanted"], prefix["shared"]["held_by"], prefix["shared"]["against"]) == (
        True,
        ["mail"],
        ["web"],
    )
    assert (
        lease_of(node, "web") == "192.0.2.0/24: in it, by any of 2 VIPs: mail, whatever becomes of this one"
    )
    assert body(node, "mail")["obstacle"] == ""
    document = status.document(node.state, now=node.now, wall=WALL, version="1.2.3", pid=42)
    assert "192.0.2.0/24 stays announced, for mail" in text.status(document, colour=False)
    shown = page.page(
        node, Boards().of(node.state), version="1.2.3", now=node.now, wall=WALL, asked=page.asked("", "", "")
    )
    assert "192.0.2.0/24 stays announced, for mail" in shown


def test_with_all_a_vip_that_is_well_says_for_whom_it_waits() -> None:
    node = healthy(config(Needs.ALL))
    out(node, "web")
    node.report()
    found = body(node, "mail")
    assert found["reason"] == "healthy"
    assert found["obstacle_reason"] == "not_in_lease"
    assert (
        found["obstacle"]
        == "192.0.2.0/24 is not announced: it needs all of 2 VIPs, and web cannot be announced"
    )
    assert lease_of(node, "mail").endswith("not in it: it needs all of 2 VIPs, and web cannot be announced")


@pytest.mark.parametrize(
    ("needs", "line"),
    [
        (Needs.ANY, "192.0.2.0/24 stays announced, for mail: packets for web go on coming to this node"),
        (Needs.ALL, "192.0.2.0/24 goes with it, and mail with that"),
    ],
)
def test_the_answer_to_a_maintenance_says_what_becomes_of_the_prefix(needs: Needs, line: str) -> None:
    node = healthy(config(needs))
    (told,) = of_maintenance(node.state, "web")
    answer = {
        "scope": "web", "on": True, "changed": True, "temporary": False, "saved": True, "drain_s": 2.0, "vips": [],
        "maintenance": [], "shared": [told],
    }  # fmt: skip
    assert line in text.maintenance_set(answer).splitlines()
    assert line not in text.maintenance_set({**answer, "shared": []})
    assert list(of_maintenance(node.state, "node")) == []
    assert list(of_maintenance(healthy().state, "web")) == []


def test_with_any_nothing_is_said_where_nobody_else_holds_it() -> None:
    node = healthy(config(Needs.ANY))
    out(node, "mail")
    assert list(of_maintenance(node.state, "web")) == []


def test_other_nodes_are_told_that_a_vip_is_out_whose_prefix_another_keeps_from_the_routers() -> None:
    node = healthy(config(Needs.ALL))
    told = Told(node)

    def standings() -> dict[str, VipStanding]:
        node.now += FRESH
        return {name: one.standing for name, one in told.whole(node.now).vips.items()}

    assert set(standings().values()) == {VipStanding.ANNOUNCED}
    out(node, "web")
    assert standings() == {"web": VipStanding.WITHDRAWN, "mail": VipStanding.WITHDRAWN}
    node.send(ev.MaintenanceSet(scope="web", entry=None))
    assert set(standings().values()) == {VipStanding.ANNOUNCED}


def test_other_nodes_are_told_that_a_vip_is_worse_off_than_it_says_by_a_prefix_that_another_drains() -> None:
    node = healthy(config(Needs.ALL))
    told = Told(node)

    def standings() -> dict[str, VipStanding]:
        node.now += FRESH
        return {name: one.standing for name, one in told.whole(node.now).vips.items()}

    assert set(standings().values()) == {VipStanding.ANNOUNCED}
    node.send(ev.MaintenanceSet(scope="web", entry=Maintenance(reason="racks", by="op", since=WALL)))
    assert standings() == {"web": VipStanding.DRAINING, "mail": VipStanding.DRAINING}
    node.send(ev.MaintenanceSet(scope="web", entry=None))
    assert set(standings().values()) == {VipStanding.ANNOUNCED}
