"""What a scrape has of the fleet: of each other node whether it counts, differs, and is out."""

from __future__ import annotations

import math
from dataclasses import replace

from anycast.core import events as ev
from anycast.core.fleet.values import Claim, Peer, Turn, View
from anycast.core.maintenance.stages import NODE, Maintenance
from anycast.core.values.fleet import FleetView
from tests.unit import fleets
from tests.unit.ops.node import CONFIG, Node, healthy
from tests.unit.ops.test_metrics import samples


def scraped(view: View, *, out: bool = False) -> dict[str, float]:
    node = healthy(replace(CONFIG, fleet=fleets.FIVE), now=fleets.NOW)
    if out:
        node.send(ev.MaintenanceSet(scope=NODE, entry=Maintenance(reason="", by="", since=0.0)))
    node.send(ev.FleetHeard(peers=view.peers, problem=view.problem))
    ours = ("anycast_fleet_view", "anycast_fleet_max", "anycast_fleet_node")
    return {name: value for name, value in samples(node).items() if name.startswith(ours)}


def test_without_a_fleet_there_is_nothing() -> None:
    assert not any(name.startswith("anycast_fleet") for name in samples(Node()))


def test_where_nobody_is_asked_there_is_nothing() -> None:
    node = healthy(replace(CONFIG, fleet=replace(fleets.FIVE, view=FleetView.NONE)), now=fleets.NOW)
    assert not any(name.startswith("anycast_fleet") for name in samples(node))


def test_of_the_view_and_of_the_whole() -> None:
    found = scraped(fleets.ill()[1])
    assert {
        name.removeprefix("anycast_fleet_"): value for name, value in found.items() if "{" not in name
    } == {"view_up": 1, "nodes": 5, "max_out": 1, "nodes_out": 1, "nodes_waiting": 1}
    assert scraped(View(problem="etcd does not answer"))["anycast_fleet_view_up"] == 0


def test_one_that_hears_nobody_of_several_has_no_view() -> None:
    def silent(name: str) -> Peer:
        return fleets.peer(fleets.told(name), ago=60.0, problem="no answer", problem_since=fleets.NOW - 59)

    alone = fleets.view(silent("lb2"), silent("lb3"))
    assert scraped(alone)["anycast_fleet_view_up"] == 0
    assert scraped(fleets.view(silent("lb2"), fleets.peer(fleets.told("lb3"))))["anycast_fleet_view_up"] == 1


def test_this_node_counts_among_those_that_are_out() -> None:
    assert scraped(fleets.ill()[1], out=True)["anycast_fleet_nodes_out"] == 2


def test_the_turn_of_a_vip_is_no_node_that_is_out_or_waits() -> None:
    turns = {"lb2": Claim.HELD, "lb3": Claim.ASKED}
    found = scraped(
        fleets.view(
            *(
                fleets.peer(fleets.told(name, turn=Turn(claim=claim, ago=1.0, number=1, scope="web")))
                for name, claim in turns.items()
            )
        )
    )
    assert (found["anycast_fleet_nodes_out"], found["anycast_fleet_nodes_waiting"]) == (0, 0)
    assert found['anycast_fleet_node_out{node="lb2"}'] == 0


def test_of_each_other_node() -> None:
    found = scraped(fleets.ill()[1])

    def of(name: str) -> list[float]:
        return [found[f'anycast_fleet_node_{name}{{node="{node}"}}'] for node in ("lb2", "lb3", "lb4", "lb5")]

    assert of("heard") == [1, 1, 0, 0]
    assert of("out") == [1, 0, 0, 0]
    assert of("tables_differing") == [0, 2, 0, 0]
    assert of("age_seconds")[2:] == [42, math.inf]
    assert of("same_configuration") == [0, 0, 0, 0]
