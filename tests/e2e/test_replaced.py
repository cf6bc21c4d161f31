"""All real servers of announced VIPs are replaced, under load."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from lab.control import Load
from tests.e2e.site import NODES, PATIENCE, Document, Site, until

pytestmark = pytest.mark.lab
CONNECTIONS = int(os.environ.get("ANYCAST_CONNECTIONS", "600"))
NEW_A_SECOND = 50
OLD, NEW = (1, 2), (3, 4)


def pool_of(site: Site, node: str, *numbers: int, drain: str = "1h") -> None:
    """The node's file has these real servers, of those that it had at first; others drain for `drain` at most."""
    names = {f"rs{number}" for number in numbers}
    whole: Document = site.originally(node)
    with site.edit(node) as config:
        config["pools"]["web"]["servers"] = [
            one for one in whole["pools"]["web"]["servers"] if one["name"] in names
        ]
        config["timing"]["server_drain"] = drain
        config["node"]["max_removed"] = "100%"


@pytest.fixture
def halved(site: Site) -> Iterator[Site]:
    """The site with two of its four real servers in the pool."""
    for node in NODES:
        pool_of(site, node, *OLD, drain="1s")
        site.reload(node)
    for node in NODES:
        shaped(site, node, {1: {1}, 2: {1}, 3: set(), 4: set()})
    yield site
    for server in NEW:
        if not site.lab.status()[f"rs{server}"]["server"]:
            site.lab.start(f"rs{server}", "server")


def shape(site: Site, node: str) -> dict[int, set[int]]:
    """The weights of each real server behind every service."""
    return {server: site.weights(node, server) for server in (*OLD, *NEW)}


def shaped(site: Site, node: str, wanted: dict[int, set[int]]) -> None:
    until(lambda: shape(site, node) == wanted, f"{node} to have the weights {wanted}")


def says_why(site: Site, node: str) -> None:
    until(lambda: site.standing(node) == ["servers_not_replaced"], f"{node} to say that the new ones fail")


def sound(load: Load) -> tuple[int, float]:
    """New connections since the mark, and the longest wait of one, once every connection was asked anew and answered.

    An answer of before what has just changed would say nothing. It is the mark for what comes.
    """
    before = load.stats()
    load.mark()
    after = load.wait_answered(PATIENCE)
    for stats in (before, after):
        assert (stats["broken"], stats["moved"], stats["probes"]["failed"]) == (0, 0, 0), stats
    load.mark()
    probes = [stats["probes"] for stats in (before, after)]
    return sum(one["ok"] for one in probes), max(one["longest"] for one in probes)


def told(load: Load, title: str, capsys: pytest.CaptureFixture[str]) -> None:
    served, longest = sound(load)
    with capsys.disabled():
        print(
            f"\n{title}: 0 of {load.ready['connections']} connections broken or moved; of {served} new ones at "
            f"{NEW_A_SECOND}/s 0 without a server, the longest {longest:.2f} s"
        )


def test_all_real_servers_are_replaced_and_no_client_is_without_one(
    halved: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site = halved
    quiet = site.route_events()
    with site.lab.load(CONNECTIONS, probes=NEW_A_SECOND, ready_timeout=PATIENCE) as load:
        load.mark()
        told(load, "before", capsys)
        load.mark()
        for node in NODES:
            pool_of(site, node, *NEW)
            site.reload(node)
        for node in NODES:
            shaped(site, node, {1: {0}, 2: {0}, 3: {1}, 4: {1}})
        load.wait_answered(PATIENCE)
        told(load, "all real servers replaced", capsys)
    assert site.lab.watch().events[quiet:] == []
    for node in NODES:
        assert len(site.logged(node, "servers.kept", 4)) == 4
        assert len(site.logged(node, "servers.released", 4)) == 4


def test_when_the_new_real_servers_are_dead_the_old_ones_go_on_and_that_is_said(
    halved: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site = halved
    for server in NEW:
        site.lab.kill(f"rs{server}", "server")
    quiet = site.route_events()
    with site.lab.load(CONNECTIONS, probes=NEW_A_SECOND, ready_timeout=PATIENCE) as load:
        load.mark()
        for node in NODES:
            pool_of(site, node, *NEW)
            site.reload(node)
        for node in NODES:
            says_why(site, node)
            assert shape(site, node) == {1: {1}, 2: {1}, 3: {0}, 4: {0}}
        told(load, "all real servers replaced by dead ones", capsys)
        assert site.lab.watch().events[quiet:] == []
        vip = site.vip("lb1")
        assert (vip["advertise"], vip["reason"]) == ("yes", "healthy")
        assert "0 of 2 usable, so 2 that were replaced go on" in vip["detail"]
        why = site.lab.node_cli("lb1", "why", "web")
        assert "2 that were replaced go on until 1 of these are usable" in why.stdout
        status = site.lab.node_cli("lb1", "status", "--all")
        assert "replaced, in use until enough of the new ones are proven" in status.stdout
        load.mark()
        for server in NEW:
            site.lab.start(f"rs{server}", "server")
        for node in NODES:
            shaped(site, node, {1: {0}, 2: {0}, 3: {1}, 4: {1}})
        told(load, "the dead ones come to life", capsys)
    assert site.lab.watch().events[quiet:] == []
    assert site.standing("lb1") == []


def test_an_agent_that_starts_with_other_real_servers_keeps_those_that_the_kernel_has(halved: Site) -> None:
    site = halved
    for server in NEW:
        site.lab.kill(f"rs{server}", "server")
    pool_of(site, "lb1", *NEW, drain="1s")
    site.lab.kill("lb1", "agent", signal.SIGKILL)
    site.lab.start("lb1", "agent")
    site.ready("lb1")
    shaped(site, "lb1", {1: {1}, 2: {1}, 3: {0}, 4: {0}})
    says_why(site, "lb1")
    site.routed(NODES)
    for server in NEW:
        site.lab.start(f"rs{server}", "server")
    shaped(site, "lb1", {1: set(), 2: set(), 3: {1}, 4: {1}})
    assert site.vip("lb1")["announced"]
