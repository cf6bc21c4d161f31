"""What the routers have of other nodes' paths, where a node wants to leave."""

from __future__ import annotations

from anycast.core.fleet.routed import lacking
from anycast.core.maintenance.stages import NODE
from anycast.core.values.configuration import Export
from anycast.core.values.fleet import Fleet
from anycast.core.values.sight import Sight
from tests.fakes import Node
from tests.unit.core.test_view import BIRD, PREFIX, reload, sees, viewed

FLEET = Fleet()


def told(node: Node, scope: str = NODE, fleet: Fleet = FLEET) -> list[str]:
    return [*lacking(node.state, scope, fleet)]


def test_a_router_without_another_nodes_path_is_in_the_way_whatever_the_nodes_say() -> None:
    node = viewed()
    sees(node, Sight(prefix=PREFIX, mine=node.now, others=0))
    (reason,) = told(node)
    assert "has fewer than 1 healthy paths of other nodes" in reason
    assert reason.endswith("for web (0)")
    assert told(node, "web") == [reason]
    assert told(node, "another") == []
    sees(node, Sight(prefix=PREFIX, mine=node.now, others=1))
    assert told(node) == []


def test_paths_of_the_last_resort_do_not_count() -> None:
    node = viewed()
    sees(node, Sight(prefix=PREFIX, mine=node.now, others=2, last_resort=2))
    assert told(node)[0].endswith("for web (0)")
    sees(node, Sight(prefix=PREFIX, mine=node.now, others=2, last_resort=1))
    assert told(node) == []
    assert told(node, fleet=Fleet(min_announcing=2))[0].endswith("for web (1)")


def test_a_router_that_does_not_show_all_its_paths_is_in_nobodys_way() -> None:
    assert told(viewed()) == []  # nothing has come yet
    node = viewed()
    sees(node, Sight(prefix=PREFIX, mine=node.now), add_path=())
    assert told(node) == []
    sees(node, complete=None, first=True)
    assert told(node) == []
    without = viewed(view=False)
    assert told(without) == []


def test_bird_shows_the_others_paths_though_not_the_nodes_own() -> None:
    node = viewed(BIRD)
    sees(node)
    assert told(node)[0].endswith("for web (0)")
    sees(node, Sight(prefix=PREFIX, others=2))
    assert told(node) == []


def test_a_router_that_is_not_sent_the_vip_is_in_nobodys_way() -> None:
    node = viewed()
    reload(node, export=(Export(vips=("other",)),))
    sees(node, first=True)
    assert told(node) == []


def test_a_vip_that_is_not_announced_would_not_be_missed() -> None:
    node = viewed()
    sees(node, Sight(prefix=PREFIX, mine=node.now))
    node.maintain("web", skip_drain=True)
    assert told(node) == []
