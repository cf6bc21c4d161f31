"""What is told of real servers that were replaced and serve on."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from jsonschema import Draft202012Validator

from anycast import __version__
from anycast.cli import nagios, text
from anycast.core import events as ev
from anycast.ops import why
from anycast.ops.feed import Message, bare, decode, encode
from anycast.ops.mirror import Mirror
from anycast.ops.paths import schema
from anycast.ops.status import document
from tests.unit.ops.node import CONFIG, Node, healthy
from tests.unit.ops.test_metrics import samples
from tests.unit.ops.test_page import rendered

WALL = 1_800_000_000.0
NEW = ("10.9.2.3", "10.9.2.4", "fd00:9:2::3", "fd00:9:2::4")
OLD = {("rs1", "10.9.2.1"), ("rs2", "10.9.2.2"), ("rs1", "fd00:9:2::1"), ("rs2", "fd00:9:2::2")}


def replaced() -> Node:
    """The real servers of `web` were replaced by two that fail."""
    node = healthy()
    web, *others = CONFIG.vips
    pool = web.services[0].pool
    servers = tuple(
        replace(one, name=f"rs{n}", addresses=(ip_address(f"10.9.2.{n}"), ip_address(f"fd00:9:2::{n}")))
        for n, one in enumerate(pool.servers, 3)
    )
    services = tuple(replace(one, pool=replace(pool, servers=servers)) for one in web.services)
    node.send(ev.Reconfigured(config=replace(CONFIG, vips=(replace(web, services=services), *others))))
    node.probe(*NEW)
    node.report()
    return node


def status(node: Node) -> dict[str, Any]:
    return document(node.state, now=node.now, wall=WALL, version=__version__, pid=1)


def test_the_status_has_the_old_ones_and_says_why_they_are_there() -> None:
    node = replaced()
    found = status(node)
    Draft202012Validator(schema("status")).validate(found)
    web = found["vips"][0]
    assert (web["advertise"], web["reason"]) == ("yes", "healthy")
    assert web["detail"].startswith("tcp/80 IPv4: 0 of 2 usable, so 2 that were replaced go on; ")
    service = web["services"][0]
    assert {(one["name"], one["address"]) for one in service["kept"]} == OLD
    assert {(one["phase"], one["weight"]) for one in service["kept"]} == {("up", 1)}
    assert [(one["usable"], one["kept"]) for one in service["families"]] == [(0, 2), (0, 2)]
    shown = text.status(found, colour=False)
    assert shown.count("replaced, in use until enough of the new ones are proven") == 8
    state, line = nagios.report(found)
    assert state is nagios.State.WARNING
    assert "too few of the new real servers of web tcp/80 IPv4, web tcp/443 IPv4" in line


def test_why_says_it_too() -> None:
    node = replaced()
    told = why.document(node.state, node.state.config.vips[0], {}, now=node.now, wall=WALL)
    Draft202012Validator(schema("why")).validate(told)
    shown = text.why(told, colour=False)
    assert (
        "0 of 2 real servers usable, 1 needed to stay announced; 2 that were replaced go on until 1" in shown
    )
    assert (
        "2 real servers that were replaced go on until 1 of the 2 new ones are usable (0 now): 1 more may"
        in shown
    )


def test_the_metrics_count_them() -> None:
    labels = '{family="ipv4",service="tcp/80",vip="web"}'
    found = samples(replaced())
    assert found[f"anycast_service_kept{labels}"] == 2
    assert found[f"anycast_service_usable{labels}"] == 2
    assert found[f"anycast_service_headroom_ratio{labels}"] == 0.5
    assert found['anycast_standing_condition{kind="servers_not_replaced"}'] == 1


def test_the_page_names_them() -> None:
    shown = rendered(replaced())
    assert "replaced, and in use until enough of the new ones are proven: 10.9.2.1 port 80 up" in shown
    assert "so 2 that were replaced go on" in shown


def test_the_ops_process_shows_what_the_agent_would() -> None:
    node = replaced()
    mirror = Mirror()
    mirror.take(decode(encode(Message(revision=1, facts=bare(node.facts)))[4:]))
    found = document(mirror.facts.state, now=node.now, wall=WALL, version=__version__, pid=1)
    assert found["vips"] == status(node)["vips"]
