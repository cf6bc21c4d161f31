"""What BIRD on the node tells a router of a VIP with attributes, of each BIRD there is here (`make routers`)."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_network
from pathlib import Path

import pytest

from anycast.core.preference import Routers
from anycast.core.values.route import Route
from anycast.render.bird import bird_conf
from anycast.render.router import router
from anycast.render.routers import ROUTERS
from tests.contract import bgp, table
from tests.contract.pair import V4, V6
from tests.contract.routers import until

pytestmark = [pytest.mark.bgp, pytest.mark.skipif(bool(table.missing()), reason=table.missing() or "")]


@pytest.mark.parametrize("debian", table.DEBIANS, ids=table.name)
def test_a_prefix_around_a_vip_is_learned_where_the_configuration_has_it(debian: Path | None) -> None:
    wide = ip_network("10.99.0.0/24")
    with bgp.open_folder() as other:
        known = table.config(other, vip=f"    announce: {wide}")
    with table.site(debian=debian) as one:
        assert one.router is not None
        one.agent.grant(Route(prefix=wide), Route(prefix=V6))
        one.forwarded(V6)
        one.agent.wait(lambda report: [failed.prefix for failed in report.failed] == [wide])
        conf = one.folder / "rendered.conf"
        conf.write_text(ROUTERS["frr"](router([known])))
        one.router.load(conf)
        one.bird.load(bird_conf(known))
        until(lambda: one.router.told(wide) or None, f"{wide} at the router")  # type: ignore[union-attr]
        one.agent.wait(lambda report: not report.failed)
        one.agent.grant(Route(prefix=V6), owned=[wide, V6])
        one.agent.wait(lambda report: wide not in report.announced)


@pytest.mark.parametrize("debian", table.DEBIANS, ids=table.name)
def test_a_vip_with_attributes_is_announced_with_them_or_not_at_all(debian: Path | None) -> None:
    with bgp.open_folder() as other:
        known = table.config(
            other,
            vip='    med: 77\n    communities: ["65000:7"]\n    as_path_prepend: 2',
            bgp="  view: true\n  weight: 3",
        )
    route = Routers(known.bgp).route(known.vips[0], V4, drain=False)
    assert route is not None
    with table.site(debian=debian) as one:
        assert one.router is not None
        one.agent.grant(route, Route(prefix=V6))
        one.forwarded(V6)
        one.agent.wait(lambda report: [failed.prefix for failed in report.failed] == [V4])
        assert not one.table.routes()[str(V4)]
        one.bird.load(bird_conf(known))
        one.forwarded(V4)
        path = one.router.told(V4)  # type: ignore[attr-defined]
        assert path["metric"] == 77
        assert path["aspath"]["string"] == "65001 65001 65001"
        assert path["community"]["string"] == "65000:7"
        mark = f"65001:1179:{int(IPv4Address(bgp.NODE4))}"  # whose path it is, for nodes that ask the routers
        assert path["largeCommunity"]["string"] == mark
        assert "LB:65001:3000000" in path["extendedCommunity"]["string"]
        until(lambda: "largeCommunity" in one.router.told(V6) or None, "the mark of the other VIP")  # type: ignore[union-attr]
        one.agent.wait(lambda report: not report.failed)
