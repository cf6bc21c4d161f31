"""A prefix that two VIPs announce: the real agent, ExaBGP and FRR. What the router has, and what becomes of the rest of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any, TypeVar

import pytest

from anycast.cli import client
from anycast.config.load import load
from anycast.core.dataplane.kernel import AddDiscard, IpvsNeed, RemoveDiscard
from anycast.core.values.table import DISCARD_METRIC
from anycast.render.exabgp import exabgp_conf
from lab import netns, waiting
from lab.processes import Process, spawn
from tests.contract import bgp
from tests.contract.bgp import CHECKOUT, EXABGP, NODE4, NODE6, NODE_AS, ROUTER4, ROUTER6, ROUTER_AS, Site
from tests.contract.namespaces import closing_kernel, network_namespace, run

pytestmark = [pytest.mark.bgp, pytest.mark.skipif(bool(bgp.missing()), reason=bgp.missing() or "")]

T = TypeVar("T")
PATIENCE = 60.0
NET4, NET6 = "10.99.7.0/24", "fd00:99:7::/48"
OTHER4, OTHER6 = "10.99.7.99", "fd00:99:7::99"  # in these, and no VIP


def until(look: Callable[[], T | None], what: str) -> T:
    return waiting.until(look, what, PATIENCE)


def configuration(where: Path, needs: str) -> str:
    vips = "".join(
        f"""\
  {name}:
    address: ["10.99.7.{number}", "fd00:99:7::{number}"]
    announce: [{{prefix: {NET4}, needs: {needs}}}, {{prefix: "{NET6}", needs: {needs}}}]
    local: true
    require: [{{type: file, path: {where}/{name}, interval: 200ms, fast_interval: 100ms, rise: 1, fall: 1}}]
"""
        for name, number in (("ns1", 53), ("ns2", 54))
    )
    return f"""\
node: {{name: lb1, runtime_dir: {where}/run, state_dir: {where}/state, listen: "127.0.0.1:9644", exabgp_user: root}}
bgp:
  local_as: {NODE_AS}
  router_id: {NODE4}
  neighbors:
    - {{address: {ROUTER4}, remote_as: {ROUTER_AS}}}
    - {{address: "{ROUTER6}", remote_as: {ROUTER_AS}, local_address: "{NODE6}"}}
timing: {{drain: 1s, settle: 300ms, quiet_limit: 1s, reconcile: 1s}}
vips:
{vips}"""


@dataclass
class Node:
    site: Site
    where: Path
    agent: Process | None = None

    def start(self) -> None:
        argv = [sys.executable, "-m", "anycast", "agent", "--config", str(self.where / "anycast.yaml")]
        env = os.environ | {"PYTHONPATH": str(CHECKOUT)}
        log, record = self.where / "agent.log", self.where / "agent.record"
        self.agent = spawn(argv, netns=self.site.place, env=env, log=log, record=record)

    def stop(self, grace: float = 5.0) -> None:
        if self.agent is not None:
            self.agent.end(grace=grace)

    def anycast(self, *words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "anycast", *words, "--socket", str(self.where / "run/control.sock")]
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=PATIENCE)

    def vip(self, name: str) -> Any:
        with contextlib.suppress(client.UnreachableError):
            status = client.read(self.where / "run/control.sock", "/status").body
            return next((one for one in status["vips"] if one["name"] == name), None)
        return None

    def is_at(self, name: str, reason: str) -> Any:
        def look() -> Any:
            vip = self.vip(name)
            return vip if vip and vip["reason"] == reason else None

        return until(look, f"{name} at {reason}")

    def routes(self) -> dict[str, list[str]]:
        """Of the two prefixes and the host routes of VIPs, that bgpd has: their communities."""
        found: dict[str, list[str]] = {}
        for family in ("ipv4", "ipv6"):
            shown = json.loads(self.site.router.vtysh(f"show bgp {family} unicast json"))
            for prefix in shown["routes"]:
                detail = json.loads(self.site.router.vtysh(f"show bgp {family} unicast {prefix} json"))
                for path in detail.get("paths", ()):  # it may have gone meanwhile
                    found[prefix] = path.get("community", {}).get("list", [])
        return found

    def announced(self, *, draining: bool = False) -> None:
        wanted = {prefix: ["gracefulShutdown"] if draining else [] for prefix in (NET4, NET6)}
        until(lambda: self.routes() == wanted or None, f"{wanted} at the router")

    def gone(self) -> None:
        until(lambda: not self.routes() or None, "no route at the router")

    def discards(self) -> list[str]:
        shown = run("ip", "-n", self.site.place, "route", "show", "type", "unreachable")
        return (
            shown + run("ip", "-n", self.site.place, "-6", "route", "show", "type", "unreachable")
        ).splitlines()


def ping(place: str, address: str) -> str:
    """What comes of one packet."""
    argv = ["ip", "netns", "exec", place, "ping", "-c", "1", "-W", "2", address]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=PATIENCE).stdout


@contextlib.contextmanager
def beyond(router: str) -> Iterator[str]:
    """A namespace behind the router, with a client in it."""
    place = f"{router}-client"
    run("ip", "netns", "add", place)
    try:
        run("ip", "link", "add", "c0", "netns", place, "type", "veth", "peer", "name", "c1", "netns", router)
        for where, link, v4, v6 in (
            (place, "c0", "10.90.1.2", "fd00:91::2"),
            (router, "c1", "10.90.1.1", "fd00:91::1"),
        ):
            run("ip", "-n", where, "link", "set", link, "up")
            run("ip", "-n", where, "address", "add", f"{v4}/30", "dev", link)
            run("ip", "-n", where, "address", "add", f"{v6}/64", "dev", link, "nodad")
        run("ip", "-n", place, "route", "add", "default", "via", "10.90.1.1")
        run("ip", "-n", place, "-6", "route", "add", "default", "via", "fd00:91::1")
        yield place
    finally:
        run("ip", "netns", "del", place)


def forwarding(*places: str) -> None:
    for place in places:
        with netns.inside(place):
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
            Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")


@pytest.fixture
def node(request: pytest.FixtureRequest) -> Iterator[Node]:
    with contextlib.ExitStack() as undo:
        site = undo.enter_context(bgp.site())
        where = site.folder / "node"
        for name in ("", "run", "state", "exabgp"):
            (where / name).mkdir()
        for name in ("ns1", "ns2"):
            (where / name).touch()
        (where / "anycast.yaml").write_text(configuration(where, request.param))
        forwarding(site.place, site.router.place)
        run("ip", "-n", site.place, "route", "add", "default", "via", ROUTER4)
        run("ip", "-n", site.place, "-6", "route", "add", "default", "via", ROUTER6)
        one = Node(site, where)
        conf = exabgp_conf(load(where / "anycast.yaml").config, command=f"{sys.executable} -m anycast")
        (where / "exabgp/exabgp.conf").write_text(conf)
        one.start()
        undo.callback(one.stop)
        env = os.environ | {
            "PYTHONPATH": str(CHECKOUT),
            "exabgp_daemon_user": "root",
            "exabgp_api_cli": "false",
            "exabgp_api_terminate": "true",
            "exabgp_log_level": "WARNING",
            "exabgp_tcp_bind": f"{NODE4} {NODE6}",
        }
        exabgp = spawn(
            [str(EXABGP), str(where / "exabgp/exabgp.conf")],
            netns=site.place,
            env=env,
            log=where / "exabgp.log",
            record=where / "exabgp.record",
        )
        undo.callback(exabgp.end, grace=0.0)
        try:
            yield one
        finally:
            for name in ("agent.log", "exabgp.log"):
                print((where / name).read_text())


@pytest.mark.parametrize("node", ["any"], indirect=True)
def test_with_any_the_prefix_stays_while_one_of_its_vips_holds_it(node: Node) -> None:
    node.announced()
    (node.where / "ns1").unlink()
    assert [one["shared"]["held_by"] for one in node.is_at("ns1", "vip_check_failed")["prefixes"]] == [
        ["ns2"],
        ["ns2"],
    ]
    done = node.anycast("maintenance", "on", "--vip", "ns2", "--reason", "racks", "--wait")
    assert (done.returncode, NET4 in done.stdout) == (0, False), done.stdout + done.stderr
    node.gone()
    node.anycast("maintenance", "off", "--vip", "ns2")
    node.announced()
    (node.where / "ns1").touch()
    node.is_at("ns1", "healthy")
    done = node.anycast("maintenance", "on", "--vip", "ns2", "--reason", "racks", "--wait")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{NET4} stays announced, for ns1" in done.stdout
    node.announced()
    node.anycast("maintenance", "on", "--reason", "racks")
    node.announced(draining=True)
    node.gone()


@pytest.mark.parametrize("node", ["all"], indirect=True)
def test_with_all_the_prefix_goes_with_the_first_of_its_vips(node: Node) -> None:
    node.announced()
    (node.where / "ns1").unlink()
    node.gone()
    found = node.is_at("ns2", "healthy")
    assert "ns1" in found["obstacle"]
    (node.where / "ns1").touch()
    node.announced()
    done = node.anycast("maintenance", "on", "--vip", "ns2", "--reason", "racks")
    assert f"{NET4} goes with it, and ns1 with that" in done.stdout, done.stdout + done.stderr
    node.announced(draining=True)
    node.gone()
    node.is_at("ns1", "healthy")


@pytest.mark.parametrize("node", ["any"], indirect=True)
def test_what_comes_for_the_rest_of_the_prefix_ends_at_the_node_and_does_not_go_round(node: Node) -> None:
    node.announced()
    with beyond(node.site.router.place) as place:
        for address, vip in ((OTHER4, "10.99.7.53"), (OTHER6, "fd00:99:7::53")):
            # The kernel limits how many ICMP errors it sends.
            said = until(lambda at=address: said if "rom" in (said := ping(place, at)) else None, address)  # type: ignore[misc]
            assert "nreachable" in said or "No route" in said, said
            assert " 1 received" in ping(place, vip)
    mine = node.discards()
    assert [line.split()[1] for line in mine] == [NET4, NET6]
    # Somebody flushes them, and has made another one: that stays, as does a route of his for the same prefix.
    run("ip", "-n", node.site.place, "route", "add", "unreachable", NET4, "metric", "77")
    for family, prefix in (("-4", NET4), ("-6", NET6)):
        run("ip", "-n", node.site.place, family, "route", "del", "unreachable", prefix, "proto", "178")
    until(lambda: len(node.discards()) == 3 or None, "the routes are back")
    # A crash leaves them, and so does the end of the agent: the addresses are there, too.
    node.stop(grace=0.0)
    assert len(node.discards()) == 3
    # The one that starts with host routes alone removes those that are ours.
    text = configuration(node.where, "any")
    alone = text.partition("    announce")[0]
    (node.where / "anycast.yaml").write_text(
        f"{alone}    local: true\n    require: [{{type: file, path: {node.where}/ns1}}]\n"
    )
    node.start()
    until(lambda: len(node.discards()) == 1 or None, "ours are gone")
    assert "metric 77" in node.discards()[0]


def test_without_that_route_the_packet_goes_round_until_its_time_to_live_ends() -> None:
    """The trap itself: a router and a node, each with a route by the other."""
    with bgp.places() as found, beyond(found.router) as place:
        forwarding(found.router, found.node)
        run("ip", "-n", found.router, "route", "add", NET4, "via", NODE4)
        run("ip", "-n", found.node, "route", "add", "default", "via", ROUTER4)
        until(lambda: "Time to live exceeded" in ping(place, OTHER4) or None, "a loop")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a network namespace")
def test_a_route_of_another_with_our_metric_is_left_alone_and_told() -> None:
    prefixes = [ip_network(NET4), ip_network(NET6)]

    async def story() -> None:
        async with closing_kernel() as kernel:
            failures = await kernel.play([AddDiscard(prefix=one) for one in prefixes])
            assert ["metric" in one.text for one in failures] == [True]
            there = (await kernel.read((), need=IpvsNeed.NONE, discards=True)).discards
            assert there == frozenset(prefixes[1:])
            assert (await kernel.read((), need=IpvsNeed.NONE)).discards is None
            assert await kernel.play([RemoveDiscard(prefix=one) for one in prefixes]) == ()
            assert (await kernel.read((), need=IpvsNeed.NONE, discards=True)).discards == frozenset()

    with network_namespace():
        run("ip", "route", "add", "unreachable", NET4, "metric", str(DISCARD_METRIC))
        asyncio.run(story())
        assert NET4 in run("ip", "route", "show", "type", "unreachable")
