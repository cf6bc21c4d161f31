"""A balancer that stands still with its link up: BFD takes it out of the router, and its clients go on.

How soon is measured in tests/contract/test_bfd.py: the lab's kernel may have one slow processor. Here the hold time is
three minutes, so that within a test's patience nothing but BFD can do it.
"""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator

import pytest

from lab.control import What
from tests.e2e.site import NODES, Site, until

pytestmark = pytest.mark.lab

NODE = "lb2"
ENDS = ("10.2.2.1", "fd00:2:2::1")
EVERYTHING: tuple[What, ...] = ("agent", "guardian", "exabgp", "plugin", "zebra", "bfdd")
TIMERS = "timers 60 180"
ROUTER = ("configure terminal", "router bgp 65000")


def test_a_frozen_node_is_out_by_bfd_and_its_connections_go_on(site: Site) -> None:
    with _patient(site), site.lab.bfd(NODE), site.lab.load(120) as load:
        until(lambda: _bfd(site) == {"up"}, f"BFD up with both ends of {NODE}")
        site.routed(NODES)
        load.mark()
        with _frozen(site):
            site.routed(["lb1", "lb3"])
            for end in ENDS:
                assert "BFD" in _last_end(site, end)
            stats = load.wait_answered()
        assert (stats["broken"], stats["moved"]) == (0, 0), stats["errors"]
        until(lambda: _bfd(site) == {"up"}, "BFD up again")
        site.routed(NODES)


@contextlib.contextmanager
def _patient(site: Site) -> Iterator[None]:
    """BFD in the node's file, and a hold time of three minutes for its sessions."""
    with site.edit(NODE) as config:
        config["bgp"] |= {"hold_time": 180, "bfd": {"interval": "500ms", "multiplier": 5}}
    site.lab.vtysh(*ROUTER, *(f"neighbor {end} {TIMERS}" for end in ENDS))
    _restart(site)
    try:
        yield
    finally:
        site.lab.vtysh(*ROUTER, *(f"no neighbor {end} {TIMERS}" for end in ENDS))
        site.lab.config(NODE).write_text(site.original[NODE])
        _restart(site)


def _restart(site: Site) -> None:
    site.lab.render(NODE)
    site.lab.restart(NODE, "exabgp")
    site.reload(NODE)
    site.routed(NODES)


@contextlib.contextmanager
def _frozen(site: Site) -> Iterator[None]:
    for what in EVERYTHING:
        site.lab.kill(NODE, what, signal.SIGSTOP)
    try:
        yield
    finally:
        for what in EVERYTHING:
            site.lab.kill(NODE, what, signal.SIGCONT)


def _bfd(site: Site) -> set[str]:
    peers = json.loads(site.lab.vtysh("show bfd peers json"))
    found = {peer["peer"]: peer["status"] for peer in peers}
    return {found.get(end, "none") for end in ENDS}


def _last_end(site: Site, neighbor: str) -> str:
    told = json.loads(site.lab.vtysh(f"show bgp neighbors {neighbor} json"))[neighbor]
    return f"{told['lastResetDueTo']}: {told.get('lastNotificationReason')}"
