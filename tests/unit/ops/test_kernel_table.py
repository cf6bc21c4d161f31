"""What a node says of itself whose routes a routing daemon learns from a table of the kernel."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from anycast.cli.nagios import report as nagios
from anycast.core import events as ev
from anycast.core.rendering import table_digest
from anycast.core.values.report import ATTRIBUTES, FailedRoute, NeighborState, Report
from anycast.core.values.speaker import Speaker, SpeakerType
from anycast.core.values.standing import Condition
from anycast.lease import Decoder, encode
from anycast.ops import why
from anycast.ops.status import document, summary
from tests.fakes import Node, up

TABLE = Speaker(type=SpeakerType.KERNEL_TABLE)


def node(**fields: object) -> Node:
    """A node that serves; its announcer has reported this."""
    one = up()
    one.send(ev.Reconfigured(config=replace(one.state.config, speaker=TABLE)))
    one.wait(1)
    told(one, **fields)
    return one


def told(one: Node, **fields: object) -> None:
    routes = frozenset(one.state.lease.routes or ())
    sessions = tuple(
        NeighborState(address=str(each.address), state="up", changed=one.now)
        for each in one.state.config.bgp.neighbors
    ) or (NeighborState(address="10.0.0.1", state="up", changed=one.now),)
    known: dict[str, Any] = {
        "seq": one.state.lease.seq,
        "announced": routes,
        "neighbors": sessions,
        "speaker": "table 1179",
        "daemon": "BIRD 2.0.12",
        "attributes": ATTRIBUTES,
        "pid": 7,
    }
    report = Report(**known | fields)
    # As it comes over the socket.
    (heard,) = Decoder().feed(encode(report))
    assert heard == report
    one.send(ev.PluginReported(source=1, report=report))


def status(one: Node) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        json.dumps(document(one.state, now=one.now, wall=1e9, version="1", pid=1))
    )
    return found


def kinds(one: Node) -> set[Condition]:
    return {kind for kind, _ in one.state.standing}


def test_what_is_in_the_table_with_a_session_up_is_announced() -> None:
    found = status(node())
    assert all(vip["announced"] for vip in found["vips"])
    (plugin,) = found["plugins"]
    assert (plugin["speaker"], plugin["daemon"], plugin["exabgp_version"]) == (
        "table 1179",
        "BIRD 2.0.12",
        None,
    )
    assert "VIPs announced" in nagios(found)[1]


def test_what_bird_has_not_learned_is_not_announced_and_why_says_so() -> None:
    one = node()
    prefix = next(iter(one.state.lease.routes or ()))
    told(one, failed=(FailedRoute(prefix=prefix, why="BIRD has not learned it from the table 1179"),))
    (vip, *_) = status(one)["vips"]
    assert vip["obstacle"] == f"{prefix}: BIRD has not learned it from the table 1179"
    (first, *_) = one.state.config.vips
    text = json.dumps(why.document(one.state, first, {}, now=one.now, wall=1e9))
    assert "must be taken by the routing daemon: BIRD has not learned it" in text


def test_where_bird_may_not_be_asked_the_table_counts_and_that_stands() -> None:
    one = node(neighbors=(), unseen="permission denied")
    assert all(vip["announced"] for vip in status(one)["vips"])
    assert kinds(one) == {Condition.SPEAKER_UNSEEN}
    told(one)
    assert kinds(one) == set()


def test_a_bird_that_stands_still_is_told_by_its_name() -> None:
    one = node()
    told(one, silent_since=one.now - 4.0)
    one.send(ev.Tick())
    (vip, *_) = status(one)["vips"]
    assert vip["obstacle"].startswith("BIRD 2.0.12 has not answered for 4 s")
    assert "BIRD 2.0.12 does not answer" in next(iter(one.state.standing.values())).text
    assert "BIRD 2.0.12 has not answered" in nagios(status(one))[1]


def test_without_an_announcer_the_unit_is_named() -> None:
    one = node()
    one.send(ev.PluginLost(source=1))
    (vip, *_) = status(one)["vips"]
    missing = "no announcer is connected (`systemctl status anycast-table`)"
    assert vip["obstacle"] == missing
    assert missing in status(one)["ready"]["reasons"]
    assert summary(one.state, one.now).startswith("no announcer is connected, nothing is announced")
    assert {each["reason"] for each in status(one)["neighbors"]} == {"no announcer reports it"}
    vips = {each.name: each for each in one.state.config.vips}
    chain = why.document(one.state, vips["web"], {}, now=one.now, wall=1e9)["chain"]
    (link,) = [each for each in chain if each["link"] == "exabgp"]
    assert link["text"] == "no announcer is connected"


def test_trouble_with_the_table_stands_until_it_is_over() -> None:
    one = node(trouble="the table 1179 has routes of others, which are left alone: x")
    assert kinds(one) == {Condition.TABLE_TROUBLE}
    told(one)
    assert kinds(one) == set()


def test_a_bird_with_another_configuration_is_told_of() -> None:
    one = node(rendered="0123456789abcdef")
    assert kinds(one) == {Condition.EXABGP_OUTDATED}
    assert "anycast render bird" in next(iter(one.state.standing.values())).text
    told(one, rendered=table_digest(one.state.config))
    assert kinds(one) == set()


def test_two_that_announce_are_named_whichever_is_wanted() -> None:
    one = node()
    one.send(ev.PluginConnected(source=2))
    one.send(ev.PluginReported(source=2, report=Report(seq=1, exabgp_pid=47, attributes=ATTRIBUTES)))
    assert kinds(one) == {Condition.TWO_SPEAKERS}
    assert "disable --now anycast-exabgp" in next(iter(one.state.standing.values())).text
    one.send(ev.Reconfigured(config=replace(one.state.config, speaker=Speaker())))
    assert "disable --now anycast-table" in next(iter(one.state.standing.values())).text
    one.send(ev.PluginLost(source=1))
    assert kinds(one) == set()
