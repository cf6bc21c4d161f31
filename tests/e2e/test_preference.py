"""Nodes that take over from each other: lb1 has the one address and backs up the other, lb2 the reverse, lb3 both."""

from __future__ import annotations

import time
from copy import deepcopy

import pytest

from lab.control import What
from lab.topology import VIP6, VIPS
from tests.e2e.site import Document, Site

pytestmark = pytest.mark.lab
V4, V6 = VIPS
PRIMARY_OF = {"lb1": "web", "lb2": "web6", "lb3": ""}


def apart(site: Site) -> None:
    """Each address is a VIP of its own, with one primary and two backups."""
    for node, own in PRIMARY_OF.items():
        with site.edit(node) as config:
            vips: Document = config["vips"]
            vips["web"]["addresses"].remove(VIP6)
            vips["web6"] = deepcopy(vips["web"]) | {"addresses": [VIP6]}
            for name, vip in vips.items():
                vip["role"] = "primary" if name == own else "backup"
        site.reload(node)
    site.routed(["lb1"], V4)
    site.routed(["lb2"], V6)


def test_backups_take_over_from_a_primary_and_no_connection_breaks(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    apart(site)
    assert (site.vip("lb1", "web")["role"], site.vip("lb1", "web6")["role"]) == ("primary", "backup")
    assert site.metric("lb3", 'anycast_vip_backup{vip="web"}') == 1
    assert set(site.paths(V4)) == {"lb1", "lb2", "lb3"}, "the router has the backups' routes already"
    figures = []
    with site.lab.load(240) as load:
        load.mark()
        site.maintenance("lb1", on=True)
        site.routed(["lb2", "lb3"], V4)
        site.routed(["lb2"], V6)
        figures.append(("maintenance on", load.wait_answered()))
        load.mark()
        site.maintenance("lb1", on=False)
        site.routed(["lb1"], V4)
        figures.append(("maintenance off", load.wait_answered()))

        took = {}
        whats: tuple[What, ...] = ("exabgp", "agent")
        for what in whats:
            load.mark()
            began = time.monotonic()
            site.lab.kill("lb1", what)
            (event,) = site.routed(["lb2", "lb3"], V4)
            took[what] = event.monotonic - began
            site.routed(["lb2"], V6)
            site.lab.start("lb1", what)
            site.routed(["lb1"], V4)
            figures.append((f"{what} of the primary killed", load.wait_answered()))
    with capsys.disabled():
        print()
        for words, stats in figures:
            print(
                f"{words}: {stats['broken']} of {stats['connections']} connections broken, {stats['moved']} moved"
            )
        print(", ".join(f"{what} killed: the backups are used after {took[what]:.2f} s" for what in took))
    for words, stats in figures:
        assert (stats["broken"], stats["moved"]) == (0, 0), (words, stats["errors"])


def test_what_each_router_gets_is_changed_by_a_reload_alone(site: Site) -> None:
    """The router's sessions with a node are two, one of each family: as if they were two routers."""
    before = {one["address"]: one["since_s"] for one in site.status("lb1")["neighbors"]}
    with site.edit("lb1") as config:
        web = config["vips"]["web"]
        web["addresses"].remove(VIP6)
        config["vips"]["web6"] = deepcopy(web) | {"addresses": [VIP6]}
        for neighbor in config["bgp"]["neighbors"]:
            if ":" not in neighbor["address"]:
                neighbor["export"] = [{"vips": "web", "as_path_prepend": 2, "communities": ["65000:7"]}]
    site.reload("lb1")
    site.routed(["lb2", "lb3"], V4)
    assert site.paths(V4)["lb1"] == ["65000:7"]
    assert site.lab.router_routes()[V6] == ("lb1", "lb2", "lb3")
    after = {one["address"]: one["since_s"] for one in site.status("lb1")["neighbors"]}
    assert all(after[one] >= before[one] for one in before), "a session was reset"
