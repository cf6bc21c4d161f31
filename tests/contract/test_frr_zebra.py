"""A router whose zebra dies while its bgpd goes on: what BGP withdraws, the kernel keeps. docs/failures.md.

A node sees its session up and its withdraw acknowledged; the packets that still come are all it can notice.
"""

from __future__ import annotations

import signal

import pytest

from anycast.core.values.route import Route
from tests.contract import bgp
from tests.contract.pair import V4, V6, pair
from tests.contract.routers import Frr, every, until

pytestmark = [pytest.mark.bgp, pytest.mark.skipif(bool(bgp.missing()), reason=bgp.missing() or "")]


@pytest.mark.parametrize("frr", every([Frr]), ids=lambda one: one.id())
def test_without_zebra_a_withdrawn_route_stays_in_the_routers_kernel(frr: type[Frr]) -> None:
    with pair(frr) as one:
        one.accepted(Route(prefix=V4), Route(prefix=V6))
        one.forwarded(V4)
        zebra, *_ = one.router.processes
        zebra.send(signal.SIGKILL)  # at SIGTERM it would take its routes along
        assert zebra.wait(bgp.PATIENCE)
        report = one.node.want(Route(prefix=V6))
        assert V4 not in report.announced
        until(lambda: not one.router.path(V4), "the withdraw at bgpd")
        assert one.router.up()
        one.forwarded(V4)
