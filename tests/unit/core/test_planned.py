"""What a plan says of routes whose preference, attributes or export a reload changes."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from anycast.core import events as ev
from anycast.core.planned import Plan, RouteChange, planned
from anycast.core.preference import BACKUP_MED
from anycast.core.rendering import Session, digest
from anycast.core.values.configuration import Bgp, Config, Export, Neighbor, Role
from anycast.core.values.fates import Way
from anycast.core.values.route import Origin
from tests.fakes import Node, up

FIRST, SECOND = "10.2.1.254", "10.2.1.253"


def plan(node: Node, config: Config) -> Plan:
    return planned(node.state, config, node.now)


def changed(node: Node, config: Config) -> tuple[str, ...]:
    """How the one route of the node differs then."""
    found = plan(node, config)
    (route,) = found.routes
    assert (route.way, found.services, found.sessions) == (Way.CHANGED, (), ())
    return route.what


def with_vip(config: Config, **changes: Any) -> Config:
    (vip,) = config.vips
    return replace(config, vips=(replace(vip, **changes),))


def with_exports(
    config: Config, first: tuple[Export, ...] | None, second: tuple[Export, ...] | None
) -> Config:
    neighbors = tuple(
        Neighbor(address=ip_address(at), remote_as=65000, export=export)
        for at, export in ((FIRST, first), (SECOND, second))
    )
    return replace(config, bgp=replace(config.bgp, neighbors=neighbors))


def between_two_fabrics() -> Node:
    node = up()
    node.send(ev.Reconfigured(config=with_exports(node.state.config, None, None)))
    return node


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"as_path_prepend": 2}, "as_path [] -> [65001, 65001, 65001]"),
        ({"communities": ("65000:1",)}, "communities [] -> [65000:1]"),
        ({"large_communities": ("1:2:3",)}, "large_communities [] -> [1:2:3]"),
        ({"extended_communities": ("target:1:2",)}, "extended_communities [] -> [target:1:2]"),
        ({"origin": Origin.EGP}, "origin default -> egp"),
        ({"med": 7}, "med default -> 7"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_each_attribute_is_named(changes: dict[str, Any], what: str) -> None:
    node = up()
    config = with_vip(node.state.config, med=None)
    node.send(ev.Reconfigured(config=config))
    assert changed(node, with_vip(config, **changes)) == (what,)


def test_a_local_preference_is_a_changed_route_within_one_as() -> None:
    node = up()
    bgp = node.state.config.bgp
    router, *_ = bgp.neighbors
    config = replace(
        node.state.config, bgp=replace(bgp, neighbors=(replace(router, remote_as=bgp.local_as),))
    )
    node.send(ev.Reconfigured(config=config))
    assert changed(node, with_vip(config, local_preference=50)) == ("local_preference default -> 50",)


def test_a_role_is_the_attributes_that_it_comes_to() -> None:
    node = up()
    config = with_vip(node.state.config, med=None)
    node.send(ev.Reconfigured(config=config))
    med, path = changed(node, with_vip(config, role=Role.BACKUP))
    assert med == f"med default -> {BACKUP_MED}"
    assert path.startswith("as_path [] -> [65001, 65001")


def test_of_an_export_it_is_said_which_router_gets_what() -> None:
    node = between_two_fabrics()
    config = node.state.config
    more = with_exports(config, (Export(vips=("*",), med=7),), None)
    (what,) = changed(node, more)
    assert what.startswith(f"{FIRST}: med ")
    assert what.endswith(" -> 7")
    none = with_exports(config, (Export(vips=("mail",)),), None)
    assert changed(node, none) == (f"{FIRST}: no longer sent",)
    node.send(ev.Reconfigured(config=none))
    assert changed(node, config) == (f"{FIRST}: sent",)
    both = with_exports(config, (Export(vips=("*",), med=7),), (Export(vips=("*",), med=7),))
    assert len(changed(node, both)) == 2


def test_routers_that_are_sent_the_same_are_told_together() -> None:
    node = between_two_fabrics()
    mixed = with_exports(node.state.config, (Export(vips=("mail",)),), None)
    node.send(ev.Reconfigured(config=mixed))
    third = Neighbor(address=ip_address("10.2.1.252"), remote_as=65000)
    config = replace(mixed, bgp=replace(mixed.bgp, neighbors=(*mixed.bgp.neighbors, third)))
    found = plan(node, config)
    assert [one.what for one in found.routes] == [("10.2.1.252: sent",)]
    assert found.sessions == (Session(neighbor="10.2.1.252", change="added"),)
    node.send(ev.Reconfigured(config=config))
    (what,) = changed(node, with_vip(config, med=9))
    assert what.startswith(f"{SECOND}, 10.2.1.252: med ")


def test_a_route_that_no_router_gets_any_more_is_withdrawn_for_that_reason() -> None:
    node = between_two_fabrics()
    others = (Export(vips=("mail",)),)
    (route,) = plan(node, with_exports(node.state.config, others, others)).routes
    assert route == RouteChange(
        prefix=node.routes[0], vip="web", way=Way.WITHDRAWN, what=("no router gets it: export",)
    )


def test_an_export_is_nothing_that_exabgp_has_of_its_own() -> None:
    bgp = between_two_fabrics().state.config.bgp
    first, second = bgp.neighbors

    def having(one: Neighbor) -> Bgp:
        return replace(bgp, neighbors=(one, second))

    assert digest(having(replace(first, export=(Export(vips=("mail",)),)))) == digest(bgp)
    assert digest(having(replace(first, remote_as=65010))) != digest(bgp)
