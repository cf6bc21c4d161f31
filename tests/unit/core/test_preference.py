"""Which attributes a role comes to, for routers of another AS and of the node's own."""

from __future__ import annotations

import struct
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.core import events as ev
from anycast.core.health.phase import Outcome
from anycast.core.preference import (
    BACKUP_LOCAL_PREFERENCE,
    BACKUP_MED,
    BACKUP_PREPEND,
    LAST_RESORT_PREPEND,
    USUAL_LOCAL_PREFERENCE,
    Routers,
    needs,
    needs_attributes,
    preference,
    rank,
    spelt,
)
from anycast.core.preference import sent as sent_to
from anycast.core.values.configuration import Bgp, Export, Neighbor, Role, Vip, WhenUnhealthy
from anycast.core.values.report import ATTRIBUTES
from anycast.core.values.route import (
    GRACEFUL_SHUTDOWN,
    WORST_MED,
    Origin,
    Route,
    extended_community,
    link_bandwidth,
)
from tests.fakes import up, vip

ADDRESS = ip_address("192.0.2.1")
PREFIX = ip_network("192.0.2.1/32")
PRIMARY, BACKUP = (replace(vip(), role=role) for role in (Role.PRIMARY, Role.BACKUP))


def bgp(*remote: int) -> Bgp:
    """A node of AS 65001 with routers of these."""
    return Bgp(
        local_as=65001,
        router_id=IPv4Address("10.2.1.1"),
        neighbors=tuple(
            Neighbor(address=ip_address(f"10.2.{n}.254"), remote_as=number) for n, number in enumerate(remote)
        ),
    )


def sent(one: Vip, *remote: int, drain: bool = False) -> Route:
    found = Routers(bgp(*(remote or (65000,)))).route(one, PREFIX, drain=drain)
    assert found is not None
    return found


def test_a_primary_that_says_nothing_sends_what_it_sent_before_there_were_roles() -> None:
    assert sent(PRIMARY) == Route(prefix=PREFIX, med=PRIMARY.med)
    assert sent(PRIMARY, 65001) == Route(prefix=PREFIX, med=PRIMARY.med)
    assert not needs_attributes(PRIMARY)


def test_a_backup_has_a_longer_path_that_begins_with_its_own_as_and_a_higher_med() -> None:
    route = sent(replace(BACKUP, med=None))
    assert route.as_path == (65001,) * (1 + BACKUP_PREPEND)
    assert (route.med, route.local_preference) == (BACKUP_MED, None)


def test_within_one_as_a_backup_has_a_lower_preference_and_no_path_of_its_own() -> None:
    """The node's own number would be a loop for the router."""
    route = sent(BACKUP, 65001)
    assert (route.as_path, route.local_preference) == ((), BACKUP_LOCAL_PREFERENCE)


def test_what_a_vip_says_itself_counts_before_its_role() -> None:
    one = replace(BACKUP, as_path_prepend=1, med=7, local_preference=20)
    assert sent(one).as_path == (65001, 65001)
    assert sent(one).med == 7
    assert sent(one, 65001).local_preference == 20
    assert sent(replace(PRIMARY, as_path_prepend=2)).as_path == (65001,) * 3


@given(
    role=st.sampled_from(Role),
    prepend=st.none() | st.integers(0, 16),
    med=st.none() | st.integers(0, 2**32 - 1),
    local=st.none() | st.integers(0, 2**32 - 1),
    remote=st.lists(st.sampled_from((65000, 65001)), min_size=1, max_size=3),
    drain=st.booleans(),
)
def test_an_as_path_is_empty_or_our_own_number_alone(
    *, role: Role, prepend: int | None, med: int | None, local: int | None, remote: list[int], drain: bool
) -> None:
    """Another number ahead has OpenBGPD end the session, and ours is a loop within our AS."""
    one = replace(vip(), role=role, as_path_prepend=prepend, med=med, local_preference=local)
    whole = sent(one, *remote, drain=drain)
    for neighbor in bgp(*remote).neighbors:
        route = sent_to(whole, str(neighbor.address))
        assert route is not None
        assert set(route.as_path) <= {65001}
        assert bool(route.as_path) == (neighbor.remote_as == 65000 and preference(one).prepend > 0)
        assert route.local_preference is None or 65001 in remote


@given(st.none() | st.integers(0, 2**32 - 1), st.none() | st.integers(0, 2**32 - 1))
def test_a_draining_primary_is_worse_than_a_backup_by_each_thing_that_is_compared(
    med: int | None, local: int | None
) -> None:
    draining = sent(replace(PRIMARY, med=med), drain=True)
    assert GRACEFUL_SHUTDOWN in draining.communities
    assert draining.med == WORST_MED
    inside = sent(replace(PRIMARY, local_preference=local), 65001, drain=True)
    assert inside.local_preference == 0
    assert (sent(BACKUP, 65001).local_preference or 0) > 0


def last(one: Vip, *remote: int) -> Route:
    found = Routers(bgp(*(remote or (65000,)))).route(one, PREFIX, drain=True, unwell=True)
    assert found is not None
    return found


def order(route: Route, *, honoured: bool) -> tuple[int, ...]:
    """As routers compare: the least is preferred. `honoured`: 65535:0, with a local preference of 0."""
    preferred = USUAL_LOCAL_PREFERENCE if route.local_preference is None else route.local_preference
    if honoured and GRACEFUL_SHUTDOWN in route.communities:
        preferred = 0
    origin = list(Origin).index(route.origin or Origin.IGP)
    return -preferred, len(route.as_path) or 1, origin, route.med or 0


@given(
    med=st.none() | st.integers(0, WORST_MED - 1),
    origin=st.none() | st.sampled_from(Origin),
    remote=st.sampled_from((65000, 65001)),
    honoured=st.booleans(),
)
def test_a_last_resort_is_behind_whoever_is_healthy_and_a_backups_behind_a_primarys(
    *, med: int | None, origin: Origin | None, remote: int, honoured: bool
) -> None:
    primary, backup = (replace(one, med=med, origin=origin) for one in (PRIMARY, BACKUP))
    places = [order(sent(primary, remote), honoured=honoured), order(sent(backup, remote), honoured=honoured)]
    places += [
        order(last(primary, remote), honoured=honoured),
        order(last(backup, remote), honoured=honoured),
    ]
    assert places == sorted(places)
    draining = order(sent(primary, remote, drain=True), honoured=honoured)
    assert draining <= places[2]
    if origin is None:  # else it may be as bad as can be already
        assert len({*places, draining}) == 5


def test_a_last_resort_may_prepend_more_to_each_router_as_it_is_told() -> None:
    one = replace(PRIMARY, as_path_prepend=2, communities=("65000:7",))
    assert len(last(one).as_path) == 1 + 2 + LAST_RESORT_PREPEND
    assert last(one).communities == ("65000:7", GRACEFUL_SHUTDOWN)
    whole = Routers(with_exports((Export(vips=("web",), as_path_prepend=5, origin=Origin.INCOMPLETE),), None))
    route = whole.route(one, PREFIX, drain=True, unwell=True)
    assert route is not None
    own, other = (sent_to(route, f"10.2.{n}.254") for n in (0, 1))
    assert own is not None
    assert other is not None
    assert (len(own.as_path), own.origin) == (1 + 5 + LAST_RESORT_PREPEND, Origin.INCOMPLETE)
    assert (len(other.as_path), other.origin) == (1 + 2 + LAST_RESORT_PREPEND, Origin.EGP)


def test_routers_of_both_kinds_are_each_sent_a_last_resort_of_their_own() -> None:
    whole = last(PRIMARY, 65000, 65001)
    outside, inside = (sent_to(whole, f"10.2.{n}.254") for n in (0, 1))
    assert outside is not None
    assert inside is not None
    assert (len(outside.as_path), inside.as_path) == (1 + LAST_RESORT_PREPEND, ())
    assert (inside.local_preference, inside.med) == (0, WORST_MED)


def test_attributes_go_along_as_they_are_written() -> None:
    one = replace(PRIMARY, extended_communities=("target:65000:100",), origin=Origin.EGP)
    assert sent(one).extended_communities == ("target:65000:100",)
    assert sent(one).origin is Origin.EGP
    assert needs_attributes(one)


def test_what_is_compared_is_told_in_words() -> None:
    assert spelt(sent(replace(BACKUP, med=None))) == "AS path 65001 65001 65001 65001, MED 1000"
    assert spelt(sent(replace(BACKUP, med=None), 65001)) == "local preference 50, MED 1000"
    assert preference(BACKUP).prepend == BACKUP_PREPEND


@pytest.mark.parametrize(
    ("text", "octets"),
    [
        ("target:65000:100", "0002fde800000064"),
        ("origin:65000:4294967295", "0003fde8ffffffff"),
        ("target:4200000001:7", "0202fa56ea010007"),  # an AS of four bytes leaves two for the number
        ("origin:192.0.2.1:7", "0103c00002010007"),
        ("0x0004FDE84CBEBC20", "0004fde84cbebc20"),
    ],
)
def test_an_extended_community_is_eight_bytes(text: str, octets: str) -> None:
    assert extended_community(text) == bytes.fromhex(octets)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "65000:100",
        "target:65000",
        "target:65000:4294967296",
        "target:4200000001:65536",
        "target:4294967296:1",
        "target:192.0.2.1:65536",
        "target:192.0.2.256:1",
        "target:６５:1",
        "bandwidth:65000:1",
        "0x0004",
        "0x0004fde84cbebc2000",
    ],
)
def test_what_is_none_is_told(text: str) -> None:
    assert extended_community(text) is None


@given(st.text(max_size=30))
def test_any_text_is_an_answer(text: str) -> None:
    found = extended_community(text)
    assert found is None or len(found) == 8


def test_a_reload_changes_the_role_and_nothing_else() -> None:
    node = up()
    since = node.state.vips["web"].since
    node.reload(replace(vip(), role=Role.BACKUP))
    assert node.lease is not None
    (route,) = node.lease.routes.values()
    assert len(route.as_path) == 1 + BACKUP_PREPEND
    assert node.state.vips["web"].since == since
    node.checks(Outcome.FAIL)
    assert node.routes == []


def with_exports(*exports: tuple[Export, ...] | None, remote: tuple[int, ...] = ()) -> Bgp:
    """A neighbor for each."""
    plain = bgp(*(remote or (65000,) * len(exports)))
    neighbors = zip(plain.neighbors, exports, strict=True)
    return replace(plain, neighbors=tuple(replace(one, export=export) for one, export in neighbors))


def routed(one: Bgp, vip: Vip = PRIMARY, *, drain: bool = False) -> Route | None:
    return Routers(one).route(vip, PREFIX, drain=drain)


def test_routers_that_all_get_the_same_need_no_variants() -> None:
    everything = (Export(vips=("*",)),)
    assert routed(with_exports(everything, None)) == sent(PRIMARY)
    same = (Export(vips=("web",), med=7),)
    assert routed(with_exports(same, same)) == replace(sent(PRIMARY), med=7)


def test_a_router_gets_what_its_first_line_for_the_vip_says_and_the_rest_as_the_vip_says() -> None:
    exports = (Export(vips=("w*",), med=7, communities=("65000:1",)), Export(vips=("web",), med=9))
    whole = routed(with_exports(exports, None), replace(PRIMARY, med=5, large_communities=("1:2:3",)))
    assert whole is not None
    first, second = (sent_to(whole, f"10.2.{n}.254") for n in (0, 1))
    assert first is not None
    assert second is not None
    assert (first.med, first.communities, first.large_communities) == (7, ("65000:1",), ("1:2:3",))
    assert (second.med, second.communities) == (5, ())


def test_a_vip_that_no_line_names_is_not_announced_to_that_router() -> None:
    whole = routed(with_exports((Export(vips=("mail",)),), None))
    assert whole is not None
    assert sent_to(whole, "10.2.0.254") is None
    assert sent_to(whole, "10.2.1.254") == sent(PRIMARY)
    assert routed(with_exports((Export(vips=("mail",)),))) is None


def test_routers_of_the_own_as_and_of_others_are_each_sent_what_they_compare() -> None:
    whole = sent(BACKUP, 65000, 65001)
    outside, inside = (sent_to(whole, f"10.2.{n}.254") for n in (0, 1))
    assert outside is not None
    assert inside is not None
    assert len(outside.as_path) == 1 + BACKUP_PREPEND
    assert (inside.as_path, inside.local_preference) == ((), BACKUP_LOCAL_PREFERENCE)
    drained = sent(BACKUP, 65000, 65001, drain=True)
    assert all(GRACEFUL_SHUTDOWN in one.route.communities for one in drained.variants)
    assert GRACEFUL_SHUTDOWN in drained.communities


@pytest.mark.parametrize(
    ("number", "weight", "text"),
    [
        (65001, 1, "0x0004fde949742400"),
        (65001, 1000, "0x0004fde94e6e6b28"),
        (4200000001, 3, "0x00045ba04a371b00"),
    ],
)
def test_a_weight_is_a_link_bandwidth_in_its_transitive_form(number: int, weight: int, text: str) -> None:
    """The other form is ignored by FRR 10.3. An AS of four bytes does not fit in it: AS_TRANS stands for it."""
    assert link_bandwidth(number, weight) == text
    whole = extended_community(text)
    assert whole is not None
    assert struct.unpack("!f", whole[4:]) == (weight * 1_000_000,)
    assert weight * 1_000_000 < 2**32, "FRR 8.4 and 10.3 keep it in four bytes"


def test_a_weight_goes_with_every_vip_to_every_router_beside_what_else_is_sent() -> None:
    one = replace(bgp(65000), weight=3)
    mine = link_bandwidth(65001, 3)
    vip = replace(PRIMARY, extended_communities=("target:65001:1",))
    route = Routers(one).route(vip, PREFIX, drain=False)
    assert route is not None
    assert route.extended_communities == ("target:65001:1", mine)
    export = (Export(vips=("*",), extended_communities=()),)
    other = Routers(replace(with_exports(export), weight=3)).route(vip, PREFIX, drain=True)
    assert other is not None
    assert sent_to(other, "10.2.0.254") is not None
    assert mine in other.extended_communities
    assert needs(replace(up().state.config, bgp=one)) == 2


def over_ipv6(*, next_hop: str | None = None, **changes: object) -> Bgp:
    """A node with a router over IPv4, and one over IPv6 that carries both families."""
    six = Neighbor(
        address=ip_address("fd00::fe"),
        remote_as=65000,
        local_address=ip_address("fd00::1"),
        families=frozenset({4, 6}),
    )
    hop = None if next_hop is None else IPv6Address(next_hop)
    return replace(
        bgp(65000),
        neighbors=(*bgp(65000).neighbors, replace(six, **changes)),  # type: ignore[arg-type]
        next_hop_v4=IPv4Address("10.2.1.1"),
        next_hop_v6=hop,
    )


@pytest.mark.parametrize("next_hop", [None, "fd00:1::1"])
def test_an_extended_next_hop_is_of_ipv6_and_for_the_router_that_has_it_alone(next_hop: str | None) -> None:
    one = over_ipv6(next_hop=next_hop, extended_next_hop=True)
    route = Routers(one).route(PRIMARY, PREFIX, drain=False)
    assert route is not None
    four, six = (sent_to(route, at) for at in ("10.2.0.254", "fd00::fe"))
    assert four is not None
    assert four.next_hop == IPv4Address("10.2.1.1")
    assert six == replace(four, next_hop=IPv6Address(next_hop or "fd00::1"))
    plain = Routers(over_ipv6(next_hop=next_hop)).route(PRIMARY, PREFIX, drain=False)
    assert plain is not None
    assert plain.variants == ()


def test_an_ipv6_vip_has_the_next_hop_that_it_has_without_an_extended_one() -> None:
    prefix = ip_network("2001:db8::1/128")
    plain, extended = (
        Routers(over_ipv6(extended_next_hop=wanted)).route(PRIMARY, prefix, drain=False)
        for wanted in (False, True)
    )
    assert plain == extended


def test_the_rank_of_a_vip_is_the_smaller_the_better_its_path_is() -> None:
    external = bgp(65000)
    best = rank(PRIMARY, external)
    worse = (
        BACKUP,
        replace(PRIMARY, as_path_prepend=1),
        replace(PRIMARY, origin=Origin.INCOMPLETE),
        replace(PRIMARY, med=10),
    )
    assert all(rank(one, external) > best for one in worse)
    assert rank(replace(PRIMARY, local_preference=90), external) == best
    inside = bgp(65001)
    assert rank(replace(PRIMARY, local_preference=90), inside) > rank(PRIMARY, inside)
    assert rank(replace(PRIMARY, local_preference=110, med=10), inside) < rank(PRIMARY, inside)


def test_what_a_plugin_must_know_follows_from_the_configuration() -> None:
    config = up().state.config
    assert needs(config) == 1
    assert needs(replace(config, vips=(BACKUP,))) == 2
    assert needs(replace(config, bgp=with_exports((Export(vips=("*",)),)))) == 3
    assert needs(replace(config, bgp=bgp(65000, 65001), vips=(BACKUP,))) == 3
    assert needs(replace(config, bgp=over_ipv6(extended_next_hop=True))) == ATTRIBUTES
    assert needs(replace(config, bgp=bgp(65000, 65001))) == 1
    staying = replace(PRIMARY, when_unhealthy=WhenUnhealthy.LAST_RESORT)
    assert needs(replace(config, vips=(staying,))) == 2
    assert needs(replace(config, bgp=bgp(65000, 65001), vips=(staying,))) == 3


def test_a_reload_of_an_export_changes_the_route_and_takes_away_one_that_nobody_gets() -> None:
    node = up()

    def exported(*exports: tuple[Export, ...] | None) -> None:
        node.send(ev.Reconfigured(config=replace(node.state.config, bgp=with_exports(*exports))))

    exported(None, (Export(vips=("mail",)),))
    assert node.lease is not None
    (route,) = node.lease.routes.values()
    assert [one.neighbors for one in route.variants] == [("10.2.0.254",)]
    exported((Export(vips=("mail",)),))
    assert node.routes == []
    exported(None)
    assert node.routes == [PREFIX]
