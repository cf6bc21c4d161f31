"""A reload that lowers a guard of the fleet is told, in words that say what would be possible then."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from anycast.core.fleet.guards import Guards, guards, lowered
from anycast.core.fleet.values import Capacity
from anycast.core.hooks import Secret
from anycast.core.removal import census, suspicions
from anycast.core.values.configuration import Neighbor, Vip, WhenUnhealthy
from anycast.core.values.described import Percent
from anycast.core.values.fleet import Certificates, Etcd, Fleet, FleetView, Velocity
from tests.fakes import vip
from tests.property.worlds import config

FLEET = Fleet(max_out=2, min_announcing=2, capacity=Capacity(bits=1e10, packets=1e6, limit=0.7))
LIMITED = replace(FLEET, velocity=Velocity(nodes=1, window=60.0))
TRUSTING = replace(FLEET, token=Secret(file="/t"), tls=Certificates(), etcd=Etcd())
IN_PERCENT = replace(FLEET, velocity=Velocity(percent=Percent(40), window=60.0))


def told(before: Fleet | None, after: Fleet | None) -> list[str]:
    return list(lowered(guards(before), guards(after)))


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (FLEET, None, "the file has no `fleet:` any more"),
        (FLEET, replace(FLEET, view=FleetView.NONE), "fleet.view would be none (it is peers)"),
        (FLEET, replace(FLEET, max_out=3), "fleet.max_out would go up from 2 to 3"),
        (FLEET, replace(FLEET, min_announcing=1), "fleet.min_announcing would go down from 2 to 1"),
        (
            FLEET,
            replace(FLEET, capacity=replace(FLEET.capacity, limit=0.9)),
            "fleet.capacity.limit would go up from 70% to 90%",
        ),
        (
            FLEET,
            replace(FLEET, capacity=Capacity()),
            "fleet.capacity would not say packets and bits any more",
        ),
        (LIMITED, FLEET, "fleet.velocity would be gone"),
        (
            LIMITED,
            replace(LIMITED, velocity=Velocity(nodes=2)),
            "fleet.velocity would go up from 1 nodes to 2",
        ),
        (
            IN_PERCENT,
            replace(FLEET, velocity=Velocity(percent=Percent(60))),
            "fleet.velocity would go up from 40% to 60%",
        ),
        (
            LIMITED,
            replace(FLEET, velocity=Velocity(nodes=1, window=10.0)),
            "fleet.velocity.window would go down from 60 s to 10 s",
        ),
        (LIMITED, IN_PERCENT, "fleet.velocity would count in another way"),
        (TRUSTING, replace(TRUSTING, token=None), "fleet.token would be gone"),
        (TRUSTING, replace(TRUSTING, tls=None), "fleet.tls would be gone"),
        (TRUSTING, replace(TRUSTING, etcd=None), "fleet.etcd would be gone"),
    ],
)
def test_a_guard_that_is_lowered_is_told(before: Fleet, after: Fleet | None, said: str) -> None:
    (found,) = told(before, after)
    assert found.startswith(said)
    if after is not None:
        assert not any(said in one for one in told(after, before)) or before == LIMITED


@pytest.mark.parametrize(
    "after",
    [
        FLEET,
        LIMITED,
        replace(FLEET, max_out=1),
        replace(FLEET, min_announcing=9),
        replace(FLEET, view=FleetView.ETCD),
        replace(FLEET, interval=30.0),
        replace(FLEET, capacity=replace(FLEET.capacity, limit=0.5, bits=1e11)),
    ],
)
def test_what_is_as_strict_or_stricter_is_not(after: Fleet) -> None:
    assert told(FLEET, after) == []


def test_a_fleet_that_is_new_lowers_nothing() -> None:
    assert told(None, FLEET) == told(None, None) == []


def test_all_that_would_be_lowered_is_told_at_once() -> None:
    assert len(told(LIMITED, Fleet(max_out=9, min_announcing=1))) == 4


def test_guards_are_of_plain_values() -> None:
    assert guards(IN_PERCENT) == Guards(
        view="peers",
        max_out=2,
        min_announcing=2,
        limit=0.7,
        capacity=("packets", "bits"),
        percent=40.0,
        window=60.0,
    )


WEB, DNS = vip("web"), vip("dns", number=2)
STAYING = replace(WEB, when_unhealthy=WhenUnhealthy.LAST_RESORT)
ROUTER = Neighbor(address=ip_address("10.2.1.254"), remote_as=65000)


def of(fleet: Fleet | None, *vips: Vip, routers: tuple[Neighbor, ...] = ()) -> Guards | None:
    return guards(fleet, vips, routers)


def test_a_vip_that_stayed_and_would_be_withdrawn_is_told_and_one_that_is_gone_is_another_matter() -> None:
    before = of(FLEET, STAYING, DNS)
    (said,) = lowered(before, of(FLEET, WEB, DNS))
    assert said.startswith("when_unhealthy would be withdraw of 192.0.2.1: ")
    (said,) = lowered(before, of(FLEET, replace(WEB, name="www"), DNS))
    assert "192.0.2.1" in said, "by another name it is the same"
    assert list(lowered(before, of(FLEET, DNS))) == []
    assert list(lowered(of(FLEET, WEB, DNS), before)) == []


def test_a_router_that_is_still_there_and_shows_no_paths_any_more_is_told() -> None:
    seen = replace(ROUTER, view=True)
    before = of(FLEET, routers=(seen,))
    (said,) = lowered(before, of(FLEET, routers=(ROUTER,)))
    assert said.startswith("bgp.view would be gone of 10.2.1.254: ")
    assert list(lowered(before, of(FLEET))) == []
    assert list(lowered(of(FLEET, routers=(ROUTER,)), before)) == []


def test_another_prefix_in_etcd_is_told() -> None:
    here, there = (replace(TRUSTING, etcd=Etcd(prefix=prefix)) for prefix in ("/a/", "/b/"))
    (said,) = told(here, there)
    assert said.startswith("fleet.etcd.prefix would be /b/ (it is /a/)")
    assert told(FLEET, here) == []


def test_names_are_bounded() -> None:
    many = [vip(f"v{n}", number=n) for n in range(1, 9)]
    before = of(FLEET, *(replace(one, when_unhealthy=WhenUnhealthy.LAST_RESORT) for one in many))
    (said,) = lowered(before, of(FLEET, *many))
    assert "and 3 more: " in said


def test_a_configuration_is_compared_with_its_vips_and_routers() -> None:
    of_before, of_after = (replace(config(one), fleet=FLEET) for one in (STAYING, WEB))
    (said,) = suspicions(census(of_before), census(of_after))
    assert said.startswith("when_unhealthy would be")
