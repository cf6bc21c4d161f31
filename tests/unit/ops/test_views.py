"""What the routers have, wherever it is shown."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from anycast.cli.nagios import report
from anycast.cli.overview import is_wrong
from anycast.cli.text import status as spelt
from anycast.core import events as ev
from anycast.core.prefixes import host_route
from anycast.core.values.configuration import Config
from anycast.core.values.sight import RouterView, Sight, ViewChange
from anycast.core.values.software import Daemon, Software
from anycast.core.values.speaker import Speaker, SpeakerType
from anycast.ops import why
from tests.unit.ops.node import CONFIG, ROUTER, ROUTER6, Node, healthy
from tests.unit.ops.test_metrics import scrape
from tests.unit.ops.test_page import rendered
from tests.unit.ops.test_status import status

V4, V6 = (host_route(address) for address in CONFIG.vips[0].addresses)


def viewed(daemon: Daemon = Daemon.FRR) -> Config:
    neighbors = tuple(
        replace(one, view=True, software=Software(daemon=daemon)) for one in CONFIG.bgp.neighbors
    )
    return replace(CONFIG, bgp=replace(CONFIG.bgp, neighbors=neighbors))


def sees(node: Node, *sights: Sight, router: str = ROUTER, **fields: Any) -> None:
    both = [
        RouterView(neighbor=one, number=1, up=True, since=node.now, complete=node.now, add_path=(4, 6))
        for one in (ROUTER, ROUTER6)
    ]
    views = tuple(replace(one, **fields) if one.neighbor == router else one for one in both)
    node.send(ev.PluginSaw(source=1, change=ViewChange(views=views, sights=((router, sights),))))


def refused() -> Node:
    """One router has everything of the VIP, the other one refuses it."""
    node = healthy(viewed())
    sees(node, Sight(prefix=V6, mine=node.now, others=3), router=ROUTER6)
    sees(node, Sight(prefix=V4, missing=node.now, others=2, last_resort=1), paths=2, dropped=7)
    for _ in range(6):
        node.send(ev.Tick(), after=1.0)
    return node


def routers(node: Node) -> list[dict[str, Any]]:
    return [one for prefix in status(node)["vips"][0]["prefixes"] for one in prefix["routers"]]


def test_the_status_says_of_each_router_whether_it_has_the_vip_and_who_else_does() -> None:
    first, second = routers(refused())
    assert (first["neighbor"], first["receipt"], first["since_s"]) == (ROUTER, "not_received", 6.0)
    assert (first["others"], first["last_resort"], first["at_least"]) == (2, 1, False)
    assert (second["neighbor"], second["receipt"], second["others"]) == (ROUTER6, "received", 3)
    one, other = (each["view"] for each in status(refused())["neighbors"])
    assert (one["complete"], one["received"], one["not_received"]) == (True, 0, 1)
    assert (one["paths"], one["dropped"], other["received"]) == (2, 7, 1)


def test_a_router_that_is_not_asked_has_nothing_said_of_it() -> None:
    node = healthy()
    assert routers(node) == []
    assert [one["view"] for one in status(node)["neighbors"]] == [None, None]
    assert "routers" not in [link["link"] for link in _why(node)["chain"]]
    assert "ROUTERS" not in spelt(status(node), colour=False)


def test_what_is_not_known_has_a_reason_and_is_no_alarm() -> None:
    node = healthy(viewed(Daemon.BIRD))
    sees(node, Sight(prefix=V4, missing=node.now, others=1))
    for _ in range(6):
        node.send(ev.Tick(), after=1.0)
    (first, second) = routers(node)
    assert (first["receipt"], first["reason"], first["others"]) == ("unknown", "never_own", 1)
    assert first["why"] == "BIRD never sends a node its own path"
    assert second["reason"] == "never_own"
    assert status(node)["standing"] == []


def test_with_bird_as_the_speaker_it_is_not_known_and_that_is_said_everywhere() -> None:
    node = healthy(replace(viewed(Daemon.FRR), speaker=Speaker(type=SpeakerType.KERNEL_TABLE)))
    sees(node, Sight(prefix=V4, missing=node.now))  # of an ExaBGP that is on its way out
    for _ in range(6):
        node.send(ev.Tick(), after=1.0)
    (first, _) = routers(node)
    assert (first["receipt"], first["reason"], first["others"]) == ("unknown", "speaker", None)
    assert first["why"].startswith("the speaker is BIRD")
    (one, _) = (each["view"] for each in status(node)["neighbors"])
    assert (one["complete"], one["reason"]) == (False, "speaker")
    (link,) = (link for link in _why(node)["chain"] if link["link"] == "routers")
    assert "not known: the speaker is BIRD" in link["items"][0]["text"]
    assert "the speaker is BIRD" in spelt(status(node), colour=False)
    assert {one["kind"] for one in status(node)["standing"]} <= {"two_speakers"}


def test_an_alarm_stands_and_is_a_warning_of_nagios_and_wants_looking_after() -> None:
    node = refused()
    (condition,) = status(node)["standing"]
    assert (condition["kind"], condition["about"]) == ("advertised_but_not_received", ROUTER)
    assert status(node)["vips"][0]["announced"], "the verdict and the announcement are what they were"
    code, line = report(status(node))
    assert code == 1
    assert "does not have web" in line
    assert is_wrong(status(node)["vips"][0])
    assert not is_wrong(status(node)["vips"][1])


def test_the_command_shows_a_line_for_each_router() -> None:
    text = spelt(status(refused()), colour=False)
    lines = [line for line in text.splitlines() if "received" in line]
    assert any(ROUTER in line and "NOT received" in line and "2, 1 last resort" in line for line in lines)
    assert any(ROUTER6 in line and " received " in line for line in lines)


def _why(node: Node) -> dict[str, Any]:
    return why.document(node.state, node.state.config.vips[0], {}, now=node.now, wall=1_800_000_000.0)


def test_why_has_a_link_for_the_routers() -> None:
    (link,) = [one for one in _why(refused())["chain"] if one["link"] == "routers"]
    assert not link["holds"]
    assert link["text"] == "what the routers have of it, of 2 paths: 1 received, 1 NOT received"
    first, second = link["items"]
    assert first["text"].startswith(f"{V4} at {ROUTER}: NOT received, since ")
    assert first["text"].endswith("; 2 other nodes there, 1 of them as the last resort")
    assert (first["facts"]["receipt"], second["facts"]["receipt"]) == ("not_received", "received")


def samples(node: Node, name: str) -> dict[str, str]:
    return {
        line.partition("}")[0].partition("{")[2]: line.rpartition(" ")[2]
        for line in scrape(node).splitlines()
        if line.startswith(f"{name}{{")
    }


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("anycast_vip_received", "0.0", "1.0"),
        ("anycast_vip_not_received", "1.0", "0.0"),
        ("anycast_vip_other_nodes", "2.0", "3.0"),
        ("anycast_vip_last_resort_nodes", "1.0", "0.0"),
        ("anycast_vip_other_nodes_known", "1.0", "1.0"),
    ],
)
def test_the_metrics_have_it(name: str, first: str, second: str) -> None:
    found = samples(refused(), name)
    assert found[f'vip="web",peer="{ROUTER}"'] == first
    assert found[f'vip="web",peer="{ROUTER6}"'] == second


def test_what_a_router_has_of_others_is_told_from_what_is_not_known() -> None:
    node = healthy(viewed(Daemon.GOBGP))
    sees(node)
    name = f'vip="web",peer="{ROUTER}"'
    assert samples(node, "anycast_vip_other_nodes")[name] == "0.0"
    assert samples(node, "anycast_vip_other_nodes_known")[name] == "0.0"


def test_the_metrics_say_whether_all_is_known() -> None:
    node = refused()
    assert samples(node, "anycast_peer_view_complete") == {
        f'peer="{ROUTER}"': "1.0",
        f'peer="{ROUTER6}"': "1.0",
    }
    assert samples(node, "anycast_peer_view_dropped_total")[f'peer="{ROUTER}"'] == "7.0"
    assert samples(healthy(), "anycast_peer_view_complete") == {}


def test_the_page_names_the_router_and_counts_what_each_has() -> None:
    node = refused()
    text = rendered(node)
    assert f"announced, and not at router {ROUTER}" in text
    assert "0 received, 1 NOT received" in text
    assert "Has of this node" not in rendered(healthy())
