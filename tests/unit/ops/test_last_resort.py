"""A VIP that stays on as the last resort, as operators and programs see it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from anycast.cli import text
from anycast.cli.nagios import State, report
from anycast.core.fleet.values import VipStanding
from anycast.core.values.configuration import WhenUnhealthy
from anycast.core.values.fleet import Fleet, PeerAt, Velocity
from anycast.core.vip.decide import Reason
from anycast.ops import status, why
from anycast.ops.fleet import standing
from tests.unit.ops.node import CONFIG, Node, healthy
from tests.unit.ops.test_documents import validator
from tests.unit.ops.test_metrics import samples
from tests.unit.ops.test_page import parsed

WALL = 1_800_000_000.0
WEB, MAIL = CONFIG.vips
STAYING = replace(CONFIG, vips=(replace(WEB, when_unhealthy=WhenUnhealthy.LAST_RESORT), MAIL))


@pytest.fixture
def node() -> Node:
    """The one VIP stays, the other is withdrawn."""
    node = healthy(STAYING)
    node.probe(*(str(a) for vip in CONFIG.vips for s in vip.services[0].pool.servers for a in s.addresses))
    node.report()
    return node


@pytest.fixture
def limited() -> Node:
    """The limit of a fleet in which nobody is heard keeps both VIPs."""
    fleet = Fleet(velocity=Velocity(nodes=1), peers=(PeerAt(name="lb2", host="10.2.1.2"),))
    node = healthy(replace(CONFIG, fleet=fleet))
    node.probe(*(str(a) for vip in CONFIG.vips for s in vip.services[0].pool.servers for a in s.addresses))
    node.report()
    return node


def document(node: Node) -> dict[str, Any]:
    return status.document(node.state, now=node.now, wall=WALL, version="1", pid=1)


def test_the_status_has_words_that_older_readers_know_and_a_new_one_beside_them(node: Node) -> None:
    whole = document(node)
    validator("status").validate(whole)
    web, mail = whole["vips"]
    assert (web["advertise"], web["reason"], web["announced"]) == ("drain", "below_quorum", True)
    assert (web["last_resort"], web["when_unhealthy"], web["level"]) == (True, "last_resort", "critical")
    assert (mail["advertise"], mail["last_resort"], mail["when_unhealthy"]) == ("no", False, "withdraw")
    weights = {one["kernel_weight"] for service in web["services"] for one in service["servers"]}
    assert weights == {1}
    shown = text.status(whole, colour=False)
    (line,) = [line for line in shown.splitlines() if line.startswith("web ") and "drain" in line]
    assert "below_quorum" in line
    assert "last resort; " in line
    for vip in whole["vips"]:
        del vip["last_resort"], vip["when_unhealthy"]  # of an older agent
    assert "last resort" not in text.status(whole, colour=False)


def test_why_says_that_it_is_announced_all_the_same_and_who_gets_the_clients(node: Node) -> None:
    vip = node.state.config.vips[0]
    body = why.document(node.state, vip, node.tallies, now=node.now, wall=WALL)
    validator("why").validate(body)
    assert body["text"].startswith("web is announced as the last resort: too few real servers are usable (")
    (services,) = [link for link in body["chain"] if link["link"] == "services"]
    assert "so the 2 that only checks are against get clients" in services["items"][0]["text"]
    assert "2 needed to be announced" in services["items"][0]["text"]
    (lease,) = [link for link in body["chain"] if link["link"] == "lease"]
    assert all("as the last resort" in item["text"] for item in lease["items"])
    assert any("must come up" in one for one in body["would_change"])


def test_what_the_limit_of_a_fleet_keeps_is_told_with_the_reason(limited: Node) -> None:
    whole = document(limited)
    validator("status").validate(whole)
    waits = "; the other nodes have not said since how they stand"
    for vip in whole["vips"]:
        assert (vip["advertise"], vip["last_resort"], vip["when_unhealthy"]) == ("drain", True, "withdraw")
        assert vip["detail"].endswith(waits)
    web = limited.state.config.vips[0]
    body = why.document(limited.state, web, limited.tallies, now=limited.now, wall=WALL)
    validator("why").validate(body)
    (services,) = [link for link in body["chain"] if link["link"] == "services"]
    assert "so the 2 that only checks are against get clients (fleet.velocity)" in str(services)


def test_other_nodes_are_told_that_it_is_the_last_resort(node: Node) -> None:
    web, mail = (node.state.vips[vip.name].verdict for vip in CONFIG.vips)
    assert (standing(web), standing(mail)) == (VipStanding.LAST_RESORT, VipStanding.WITHDRAWN)
    drains = replace(web, reason=Reason.VIP_MAINTENANCE)
    assert standing(drains) is VipStanding.DRAINING


def test_programs_are_told(node: Node) -> None:
    found = samples(node)
    assert found['anycast_vip_last_resort{vip="web"}'] == 1
    assert found['anycast_vip_last_resort{vip="mail"}'] == 0
    assert (found['anycast_vip_wanted{vip="web"}'], found['anycast_vip_announced{vip="web"}']) == (1, 1)
    state, line = report(document(node))
    assert state is State.CRITICAL
    assert "web announced as the last resort (below_quorum: " in line
    assert status.summary(node.state, node.now).startswith("announcing 0 of 2 VIPs (web below_quorum, ")


def test_the_page_is_red_and_finds_it_by_its_words(node: Node) -> None:
    assert "✕ last resort" in parsed(node).text
    assert "✕ last resort" in parsed(node, text="state:last").text
