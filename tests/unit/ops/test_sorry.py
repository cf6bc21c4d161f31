"""A service that its sorry pool serves, as operators and programs see it."""

from __future__ import annotations

from typing import Any

import pytest

from anycast.cli import overview, text
from anycast.cli.nagios import State, report
from anycast.core import events as ev
from anycast.core.fleet.values import VipStanding
from anycast.ops import status, why
from anycast.ops.fleet import standing
from tests.unit.ops.node import Node
from tests.unit.ops.test_documents import validator
from tests.unit.ops.test_metrics import samples
from tests.unit.ops.test_page import rendered
from tests.unit.ops.test_why import sorry

WALL = 1_800_000_000.0


@pytest.fixture
def node() -> Node:
    """Of the VIP web all real servers are dead; its sorry pool answers."""
    return sorry()


def recovered(node: Node) -> Node:
    for _ in range(2):
        node.probe()
    node.report()
    return node


def document(node: Node) -> dict[str, Any]:
    return status.document(node.state, now=node.now, wall=WALL, version="1", pid=1)


def explained(node: Node) -> dict[str, Any]:
    vip = node.state.config.vips[0]
    return why.document(node.state, vip, node.tallies, now=node.now, wall=WALL)


def test_the_status_says_who_serves_and_since_when(node: Node) -> None:
    whole = document(node)
    validator("status").validate(whole)
    web = whole["vips"][0]
    assert (web["reason"], web["advertise"], web["announced"]) == ("sorry", "drain", True)
    service = web["services"][0]
    assert service["sorry_pool"] == "sorry"
    family = service["families"][0]
    assert (family["usable"], family["total"]) == (0, 2)
    assert {**family["sorry"], "since": None} == {
        "serves": True, "usable": 1, "total": 1, "since": None, "since_s": 0.0
    }  # fmt: skip
    page = next(one for one in service["servers"] if one["name"] == "page")
    assert (page["sorry"], page["kernel_weight"]) == (True, 1)
    table = text.status(whole, colour=False)
    assert "of the sorry pool" in next(line for line in table.splitlines() if " page " in line)


def test_why_says_who_serves_since_when_and_what_ends_it(node: Node) -> None:
    body = explained(node)
    validator("why").validate(body)
    assert body["text"].startswith(
        "web is served by the sorry pool since 08:00:00Z, and announced as the last resort: too few real servers are, or "
        "were, usable (tcp/80 IPv4: served by the sorry pool (1 of 1 usable), for 0 of 2 real servers are usable, 2 needed"
    )
    (services,) = [link for link in body["chain"] if link["link"] == "services"]
    assert "; the sorry pool serves since 08:00:00Z (1 of 1 usable)" in services["items"][0]["text"]
    assert any("rs1" in one and "must come up" in one for one in body["would_change"])
    assert not any("page" in one for one in body["would_change"])


def test_why_says_what_keeps_the_sorry_pool_from_serving(node: Node) -> None:
    for _ in range(3):
        node.probe("10.9.2.1", "10.9.2.2", "10.9.2.9")
    body = explained(node)
    assert body["reason"] == "below_quorum"
    (services,) = [link for link in body["chain"] if link["link"] == "services"]
    assert "; its sorry pool cannot serve (0 of 1 usable)" in services["items"][0]["text"]
    one, *_ = [one for one in body["would_change"] if "sorry pool" in one and "IPv4" in one]
    assert one.startswith("tcp/80 IPv4: or its sorry pool serves meanwhile, once one of page (down since")


def test_why_says_what_keeps_the_route_from_being_as_good_as_ever(node: Node) -> None:
    body = explained(recovered(node))
    validator("why").validate(body)
    assert body["text"].startswith(
        "web is served by its real servers again, and announced as the last resort: "
    )
    (services,) = [link for link in body["chain"] if link["link"] == "services"]
    assert "; its sorry pool served until 08:00:00Z, its connections may last until 08:01:00Z" in str(
        services
    )
    assert body["would_change"] == [
        "the connections to the sorry pool must end: the kernel is asked every 5 s, and at 08:01:00Z they are ended"
    ]


def test_it_stands_by_without_a_word_of_trouble(node: Node) -> None:
    recovered(node).send(ev.Tick(), after=6.0)
    body = explained(node)
    assert body["reason"] == "healthy"
    (services,) = [link for link in body["chain"] if link["link"] == "services"]
    assert "; its sorry pool stands by (1 of 1 usable)" in services["items"][0]["text"]
    assert services["holds"]
    whole = document(node)
    assert not any(overview.is_wrong(vip) for vip in whole["vips"])
    assert whole["vips"][0]["services"][0]["families"][0]["sorry"]["serves"] is False
    assert whole["vips"][0]["services"][0]["families"][0]["sorry"]["since_s"] is not None


def test_the_page_names_it(node: Node) -> None:
    assert "served by the sorry pool sorry" in rendered(node)
    assert "(sorry: sorry)" in rendered(recovered(node))


def test_other_nodes_and_programs_are_told(node: Node) -> None:
    assert standing(node.state.vips["web"].verdict) is VipStanding.LAST_RESORT
    found = samples(node)
    labels = '{family="ipv4",service="tcp/80",vip="web"}'
    assert found[f"anycast_service_sorry{labels}"] == 1
    assert found[f"anycast_service_sorry_usable{labels}"] == 1
    assert (found[f"anycast_service_servers{labels}"], found[f"anycast_service_usable{labels}"]) == (2, 0)
    assert found[f"anycast_service_total_weight{labels}"] == 2, "it is no capacity"
    assert found['anycast_vip_verdict{reason="sorry",vip="web"}'] == 1
    mail = '{family="ipv4",service="tcp/80",vip="mail"}'
    assert found[f"anycast_service_sorry{mail}"] == 0
    state, line = report(document(node))
    assert state is State.CRITICAL
    assert "web announced as the last resort (sorry: " in line
    assert samples(recovered(node))[f"anycast_service_sorry{labels}"] == 0
