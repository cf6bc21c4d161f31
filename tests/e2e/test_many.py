"""Hundreds of VIPs come and go by a reload, and what stays notices nothing."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from anycast.cli import client
from lab.control import Load
from lab.routewatch import RouteTable
from lab.topology import VIPS
from tests.e2e.site import NODES, Site, until
from tests.scrape import samples

pytestmark = [pytest.mark.lab, pytest.mark.timeout(2000)]
MANY = {f"many{n:03}": f"10.98.{n // 250}.{n % 250 + 1}" for n in range(300)}
PREFIXES = {f"{address}/32" for address in MANY.values()}
PASS = 800.0  # seconds: thousands of operations in an emulated kernel that has other work


@pytest.fixture
def table(site: Site) -> Iterator[RouteTable]:
    """What the router has of the many, which it accepts for so long."""
    accept = "ip prefix-list VIP4 seq 10 permit 10.98.0.0/16 ge 32"
    site.lab.vtysh("configure terminal", accept)
    one = RouteTable(PREFIXES, site.lab.topology.node_of_next_hop, "r1")
    yield one
    one.close()
    site.lab.vtysh("configure terminal", f"no {accept}")


def _reload(site: Site, done: Callable[[], bool], what: str) -> None:
    """Reloads lb1; until then and until `done`, its control socket has to answer within the time of any command."""
    control = site.lab.run / "lb1" / "control.sock"
    with ThreadPoolExecutor() as pool:
        reload = pool.submit(site.reload, "lb1")

        def look() -> bool:
            assert client.ask(control, "GET", "/summary").ok
            return reload.done() and done()

        until(look, what, PASS)
        reload.result()


def _late(site: Site) -> float:
    """How many leases came so late by now that a little more would have let the one before run out."""
    found = samples(site.http("lb1", "/metrics")[1])
    name = "anycast_lease_lateness_seconds"
    return found[f"{name}_count"] - found[f'{name}_bucket{{le="1.0"}}']


def _stands(site: Site, load: Load, quiet: int, late: float) -> None:
    """Nothing that was there before and is there now has noticed."""
    stats = load.wait_answered()
    assert (stats["broken"], stats["moved"]) == (0, 0), stats["errors"]
    assert site.lab.watch().events[quiet:] == []
    assert site.lab.router_routes() == dict.fromkeys(VIPS, NODES)
    assert _late(site) == late
    log = site.log_of("lb1")
    changes = [line for line in log if line["event"] == "vip.verdict_changed" and line["vip"] == "web"]
    assert not changes, [(line.get("reason"), line.get("detail")) for line in changes]
    assert "kernel_unavailable" not in json.dumps(log)
    assert not [
        line for line in log if line["event"] in ("kernel.unavailable", "kernel.drifted", "plugin.lost")
    ]


def test_hundreds_of_vips_come_one_after_another_and_go_and_the_one_that_stays_notices_nothing(
    site: Site, table: RouteTable
) -> None:
    quiet, late = site.route_events(), _late(site)
    with site.lab.load(120) as load:
        load.mark()
        site.mark("lb1")
        with site.edit("lb1") as config:
            services = config["vips"]["web"]["services"]
            for name, address in MANY.items():
                config["vips"][name] = {"addresses": [address], "services": copy.deepcopy(services)}
        _reload(site, lambda: set(table.read()) == PREFIXES, "all of them at the router")
        events = [line["event"] for line in site.log_of("lb1")]
        programs = [n for n, event in enumerate(events) if event == "kernel.programmed"]
        assert events.index("route.announced") < programs[-1], (
            "the first is announced before the last is written"
        )
        # By netlink: with other namespaces' services beside them, /proc/net/ip_vs leaves some out where it is long.
        services = [line for line in site.lab.ipvs("lb1").splitlines() if line.startswith("-A ")]
        assert len(services) == len(site.table) + 2 * len(MANY)
        _stands(site, load, quiet, late)

        load.mark()
        site.mark("lb1")
        site.lab.config("lb1").write_text(site.original["lb1"])
        _reload(site, lambda: site.table_of("lb1") == site.table, "all of them to be gone from the kernel")
        until(lambda: not table.read(), "none of them at the router")
        assert not site.addresses("lb1") & PREFIXES
        _stands(site, load, quiet, late)
