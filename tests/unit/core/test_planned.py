"""What a plan says of routes whose preference, attributes or export a reload changes."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

import pytest

from anycast.core import events as ev
from anycast.core.dataplane.ipvs import ServiceKey
from anycast.core.planned import Plan, RouteChange, Waits, planned
from anycast.core.preference import BACKUP_MED
from anycast.core.rendering import LEARN, RELOAD, Session, digest, sessions, table_digest
from anycast.core.values.configuration import Announce, Bgp, Config, Export, Neighbor, Protocol, Role
from anycast.core.values.fates import Fate, Way
from anycast.core.values.report import Report
from anycast.core.values.route import Origin
from anycast.core.values.speaker import LearnedBy, Speaker, SpeakerType
from tests.fakes import Node, up, vip

FIRST, SECOND = "10.2.1.254", "10.2.1.253"

KEY = ServiceKey(protocol=Protocol.TCP, address=ip_address("192.0.2.1"), port=80)


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


def test_of_a_vip_that_stays_an_address_that_goes_is_told_from_one_that_another_prefix_brings() -> None:
    first, second = ip_address("192.0.2.1"), ip_address("192.0.2.2")
    node = up()
    two = with_vip(node.state.config, addresses=(first, second))
    node.send(ev.Reconfigured(config=two))
    node.wait(30)
    fewer = {str(one.prefix): one for one in plan(node, with_vip(two, addresses=(first,))).routes}
    assert fewer["192.0.2.2/32"].way is Way.WITHDRAWN
    assert fewer["192.0.2.2/32"].what == ("its address is removed",)
    wide = (Announce(prefix=ip_network("192.0.2.0/24")),)
    wider = {str(one.prefix): one for one in plan(node, with_vip(two, announce=wide)).routes}
    assert wider["192.0.2.2/32"].what == ("it is announced by another prefix",)


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


def test_what_of_a_session_is_exabgps_own_is_in_the_plan_and_in_the_digest() -> None:
    node = between_two_fabrics()
    config = node.state.config
    first, second = config.bgp.neighbors
    for changes, what in (
        ({"multihop": 4}, "multihop none -> 4"),
        ({"ttl_security": 1}, "ttl_security none -> 1"),
        ({"port": 1790}, "port 179 -> 1790"),
        ({"interface": "eth0"}, "interface none -> eth0, by a restart"),
        ({"extended_next_hop": True}, "extended_next_hop false -> true"),
    ):
        bgp = replace(config.bgp, neighbors=(replace(first, **changes), second))
        (session,) = plan(node, replace(config, bgp=bgp)).sessions
        assert session == Session(neighbor=str(first.address), change="changed", what=(what,))
        assert digest(bgp) != digest(config.bgp)
    checked = replace(config.bgp, neighbors=(replace(first, ttl_security=1), second))
    (session,) = sessions(checked, config.bgp)
    assert session.what == ("ttl_security 1 -> none, by a restart",), "a listening socket keeps it"
    elsewhere = replace(config.bgp, listen_port=1790)
    found = plan(node, replace(config, bgp=elsewhere)).sessions
    assert {one.what for one in found} == {("listen_port 179 -> 1790, by a restart",)}
    assert digest(elsewhere) != digest(config.bgp)


def test_what_is_written_for_the_router_alone_is_nothing_that_exabgp_has() -> None:
    bgp = between_two_fabrics().state.config.bgp
    reflected = tuple(replace(one, route_reflector=True, remote_interface="swp1") for one in bgp.neighbors)
    assert digest(replace(bgp, neighbors=reflected)) == digest(bgp)


def test_an_exabgp_of_before_there_were_such_settings_is_not_to_be_started_again() -> None:
    bgp = Bgp(
        local_as=65001,
        router_id=IPv4Address("10.2.1.1"),
        neighbors=(Neighbor(address=IPv4Address("10.2.1.254"), remote_as=65000),),
    )
    assert digest(bgp) == "ea76fd837fbe6138"


def test_an_export_is_nothing_that_exabgp_has_of_its_own() -> None:
    bgp = between_two_fabrics().state.config.bgp
    first, second = bgp.neighbors

    def having(one: Neighbor) -> Bgp:
        return replace(bgp, neighbors=(one, second))

    assert digest(having(replace(first, export=(Export(vips=("mail",)),)))) == digest(bgp)
    assert digest(having(replace(first, remote_as=65010))) != digest(bgp)


BIRD = Speaker(type=SpeakerType.KERNEL_TABLE)
BY_BIRD = Waits(who="BIRD", how=LEARN)


def of_table(speaker: Speaker = BIRD) -> Node:
    """Its VIP has no attributes of its own."""
    node = up()
    node.send(ev.Reconfigured(config=replace(with_vip(node.state.config, med=None), speaker=speaker)))
    return node


def with_neighbor(config: Config) -> Config:
    third = Neighbor(address=ip_address("10.2.1.252"), remote_as=65000)
    return replace(config, bgp=replace(config.bgp, neighbors=(*config.bgp.neighbors, third)))


def test_a_session_waits_for_whoever_announces() -> None:
    added = (Session(neighbor="10.2.1.252", change="added"),)
    for node, waits in (
        (up(), Waits(who="ExaBGP", how=RELOAD)),
        (of_table(), BY_BIRD),
        (
            of_table(replace(BIRD, daemon=LearnedBy.OTHER)),
            Waits(who="the routing daemon", how="change its configuration, and have it read that"),
        ),
    ):
        found = plan(node, with_neighbor(node.state.config))
        assert (found.sessions, found.waits) == (added, waits)
        assert plan(node, node.state.config).waits is None


def test_bird_waits_for_what_is_no_session_too() -> None:
    node = of_table()
    config = node.state.config
    bgp = replace(config.bgp, next_hop_v4=IPv4Address("10.2.1.9"))
    for changed_config in (replace(config, bgp=bgp), with_vip(config, med=7)):
        found = plan(node, changed_config)
        assert (found.sessions, found.waits) == ((), BY_BIRD)
    assert plan(up(), replace(up().state.config, bgp=bgp)).waits is None


def test_what_bird_has_counts_once_it_is_known() -> None:
    node = of_table()
    config = node.state.config
    report = Report(seq=node.state.lease.seq, speaker="table 1179", rendered=table_digest(config))
    node.send(ev.PluginReported(source=1, report=report))
    assert plan(node, with_vip(config, med=7)).waits == BY_BIRD
    assert plan(node, with_vip(config, name="other")).waits is None


def test_a_vip_that_gets_attributes_is_away_until_bird_has_them() -> None:
    node = of_table()
    config = with_vip(node.state.config, med=7)
    *what, away = changed(node, config)
    assert what == ["med default -> 7"]
    assert away == f"away until BIRD has its attributes: {LEARN}, before the reload"
    node.send(ev.Reconfigured(config=config))
    assert changed(node, with_vip(config, med=8)) == ("med 7 -> 8",)


def test_real_servers_that_serve_until_others_are_proven_are_named_when_their_service_goes() -> None:
    node = up(vip())
    node.reload(vip(servers=(4, 5)))
    assert {one.up.key[0] for one in node.state.kept[KEY].members} == {
        ip_address(f"10.9.2.{n}") for n in (1, 2, 3)
    }
    found = plan(node, replace(node.state.config, vips=(vip(servers=(4, 5), ports=(81,)),)))
    (gone,) = [one for one in found.services if one.key == KEY]
    drained = {str(one.at[0]) for one in gone.servers if one.fate is Fate.DRAINS}
    assert drained == {f"10.9.2.{n}" for n in (1, 2, 3)}
