"""All real servers of an announced VIP are replaced in one form after another, under load."""

from __future__ import annotations

import contextlib
import copy
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from lab import configs, places
from lab.control import Load
from lab.topology import VIP4, VIP6
from tests.e2e.site import PATIENCE, Document, Site, until
from tests.e2e.test_replaced import NEW_A_SECOND, says_why, sound, told

pytestmark = pytest.mark.lab
# With ANYCAST_CONNECTIONS=600 it takes minutes: each form by a restart of its own, too, and connections of each form.
WIDE = "ANYCAST_CONNECTIONS" in os.environ
CONNECTIONS = int(os.environ.get("ANYCAST_CONNECTIONS", "60"))
NODE = "lb1"
OLD, NEW = (1, 2), (3, 4)
ADDRESS = {4: "10.9.2.{}", 6: "fd00:9::2:{}"}
MARK, OTHER_MARK = 7, 8
_SERVER = configs.checkout() / "lab" / "server.py"

Change = Callable[[Document], None]


def servers(*numbers: int, families: tuple[int, ...] = (4, 6), **more: object) -> list[Document]:
    return [
        {"name": f"rs{number}", "addresses": [ADDRESS[one].format(number) for one in families], **more}
        for number in numbers
    ]


def pool_of(*numbers: int, families: tuple[int, ...] = (4, 6)) -> Change:
    def change(config: Document) -> None:
        config["pools"]["web"]["servers"] = servers(*numbers, families=families)

    return change


def together(*changes: Change) -> Change:
    def change(config: Document) -> None:
        for one in changes:
            one(config)

    return change


def through_tunnels(config: Document) -> None:
    config["vips"]["web"]["forwarding"] = "tunnel"


def masqueraded(port: int) -> Change:
    """The TCP service alone, at this port of the real servers."""

    def change(config: Document) -> None:
        config["pools"]["behind"] = copy.deepcopy(config["pools"]["web"]) | {
            "servers": servers(*NEW, port=port)
        }
        config["vips"]["web"]["services"][0] |= {"pool": "behind", "forwarding": "nat"}

    return change


def by_mark(mark: int, *, checked_at: int = 80) -> Change:
    """A mark in the place of the TCP service's port, or of its mark."""

    def change(config: Document) -> None:
        check = config["pools"]["web"]["check"] | {"port": checked_at}
        service = {"mark": mark, "pool": "web", "check": check, "forwarding": "dr"}
        config["vips"]["web"]["services"][0] = service
        config["pools"].pop("behind", None)
        pool_of(*NEW)(config)

    return change


def clients_go(site: Site) -> set[str]:
    """Where the node sends new TCP clients: service, real server, forwarding."""
    found = set()
    for line in site.lab.exec(NODE, "ipvsadm", "-Sn").stdout.splitlines():
        words = line.split()
        if words[:1] == ["-a"] and words[1] in ("-t", "-f") and words[words.index("-w") + 1] != "0":
            way = next(one for one in words if one in ("-g", "-i", "-m"))
            found.add(f"{words[2]} {words[words.index('-r') + 1]} {way}")
    return found


def wanted(
    port: int, way: str, *, mark: int = 0, family: int = 0, numbers: tuple[int, ...] = NEW
) -> set[str]:
    """As `clients_go` tells it. `family`: of the real servers, where both VIPs have the same."""
    vips = {4: f"{VIP4}:80", 6: f"[{VIP6}]:80"}
    endpoint = {4: "{}:{}", 6: "[{}]:{}"}
    return {
        f"{mark or vip} {endpoint[family or version].format(ADDRESS[family or version].format(number), port)} {way}"
        for version, vip in vips.items()
        for number in numbers
    }


def goes(site: Site, where: set[str]) -> None:
    until(lambda: clients_go(site) == where, f"{NODE} to send new clients to {sorted(where)}")


def marks(site: Site, mark: int) -> None:
    """From here on what comes from clients to port 80 has this mark, whatever mark it had before."""
    site.lab.exec(NODE, "tc", "qdisc", "replace", "dev", "up0", "clsact")
    for order, (protocol, family) in enumerate((("ip", "ip"), ("ipv6", "ip6"))):
        priority = 100 - 2 * mark + order  # the later mark comes first, and the first that fits counts
        words = f"protocol {protocol} prio {priority} u32 match {family} dport 80 0xffff action skbedit mark {mark}"
        site.lab.exec(NODE, "tc", "filter", "add", "dev", "up0", "ingress", *words.split())


@contextlib.contextmanager
def listening(port: int) -> Iterator[None]:
    """Another program on each of the new real servers, at a port of its own."""
    with ExitStack() as stack:
        for number in NEW:
            name = f"rs{number}"
            argv = [*places.entry(name), sys.executable, "-I", "-S", str(_SERVER), name, str(port), str(port)]
            process = stack.enter_context(subprocess.Popen(argv))
            stack.callback(process.kill)
        yield


@pytest.fixture
def prepared(site: Site) -> Iterator[Site]:
    """One node in service with two of the real servers. The others take tunnels, and answer through it what it masquerades."""
    with ExitStack() as stack:
        for number in NEW:
            name = f"rs{number}"
            script = f"""
                for device in tunl0 ip6tnl0; do ip link set $device up || exit 1; done
                ip -6 tunnel change ip6tnl0 mode any || exit 1
                for name in all tunl0 ip6tnl0; do echo 0 > /proc/sys/net/ipv4/conf/$name/rp_filter; done
                ip rule add from 10.9.2.{number} lookup 100
                ip route add 10.1.0.0/16 via 10.9.1.1 table 100
                ip -6 rule add from fd00:9::2:{number} lookup 100
                ip -6 route add fd00:1::/64 via fd00:9::1:1 table 100
            """
            undone = f"""
                ip rule del from 10.9.2.{number}; ip -6 rule del from fd00:9::2:{number}
                ip route flush table 100; ip -6 route flush table 100
            """
            site.lab.exec(name, "sh", "-c", script)
            stack.callback(site.lab.exec, name, "sh", "-c", undone)
        stack.callback(site.lab.exec, NODE, "tc", "qdisc", "del", "dev", "up0", "clsact", check=False)
        with site.edit(NODE) as config:
            # The lease lasts longer than any start here: a restart is to cost no route.
            config["timing"] |= {"server_drain": "1s", "lease_ttl": "30s"}
            config["node"]["max_removed"] = "100%"
            pool_of(*OLD)(config)
        site.reload(NODE)
        site.only(NODE)
        goes(site, wanted(80, "-g", numbers=OLD))
        with site.edit(NODE) as config:
            config["timing"]["server_drain"] = "1h"
        yield site


def reloaded(site: Site) -> None:
    site.reload(NODE)


def restarted(site: Site) -> None:
    site.lab.kill(NODE, "agent", signal.SIGKILL)
    site.lab.start(NODE, "agent")
    site.ready(NODE)


class Walk:
    """One replacement after another: after each, what clients have noticed since the one before.

    `more`: connections that come by this form, and live on while it is replaced in its turn.
    """

    def __init__(
        self, site: Site, stack: ExitStack, taken: Callable[[Site], None], capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.site, self._stack, self._taken, self._capsys = site, stack, taken, capsys
        self._first = self._open(CONNECTIONS, probes=NEW_A_SECOND)
        self._later: list[Load] = []

    def _open(self, connections: int, probes: float = 0.0) -> Load:
        load = self.site.lab.load(connections, probes=probes, ready_timeout=PATIENCE)
        self._stack.enter_context(load)
        load.mark()
        return load

    def _take(self, change: Change) -> None:
        with self.site.edit(NODE) as config:
            change(config)
        self.site.mark(NODE)
        self._taken(self.site)

    def replaces(self, title: str, change: Change, where: set[str], *, more: bool = True) -> None:
        self._take(change)
        self.ends(title, where, more=more)

    def fails(self, title: str, change: Change) -> None:
        """The new ones are dead."""
        before = clients_go(self.site)
        self._take(change)
        says_why(self.site, NODE)
        assert before <= clients_go(self.site)
        self._sound(f"{title}, nobody there")

    def ends(self, title: str, where: set[str], *, more: bool = True) -> None:
        goes(self.site, where)
        assert self.site.standing(NODE) == []
        self._sound(title)
        if more:
            self._later.append(self._open(CONNECTIONS // 10))

    def _sound(self, title: str) -> None:
        told(self._first, f"{self._taken.__name__}: {title}", self._capsys)
        for load in self._later:
            sound(load)
        assert self.site.vip(NODE)["announced"]


@pytest.mark.parametrize("taken", [reloaded, restarted])
def test_every_form_of_replacement_leaves_no_client_without_a_server(
    prepared: Site, taken: Callable[[Site], None], capsys: pytest.CaptureFixture[str]
) -> None:
    site = prepared
    quiet = site.route_events()
    with ExitStack() as stack:
        walk = Walk(site, stack, taken, capsys)
        if taken is reloaded or WIDE:
            # A record that changes from direct routing has one route for the old connections and the new: docs/reload.md.
            walk.replaces("another pool", pool_of(*NEW), wanted(80, "-g"), more=False)
            walk.replaces("another forwarding", through_tunnels, wanted(80, "-i"), more=WIDE)
            walk.replaces("another family", pool_of(*NEW, families=(6,)), wanted(80, "-i", family=6))
        else:
            walk.replaces(
                "another pool, forwarding and family",
                together(pool_of(*NEW, families=(6,)), through_tunnels),
                wanted(80, "-i", family=6),
            )
        walk.fails("another forwarding and port", masqueraded(8080))
        stack.enter_context(listening(8080))
        walk.ends("another forwarding and port", wanted(8080, "-m"))
        if taken is reloaded or WIDE:
            walk.replaces("another port", masqueraded(80), wanted(80, "-m"), more=WIDE)
        marks(site, MARK)
        walk.replaces("a mark", by_mark(MARK), wanted(0, "-g", mark=MARK))
        if taken is reloaded or WIDE:
            walk.fails("another mark, by another check", by_mark(OTHER_MARK, checked_at=8081))
            marks(site, OTHER_MARK)
            stack.enter_context(listening(8081))
            walk.ends("another mark, by another check", wanted(0, "-g", mark=OTHER_MARK), more=False)
    assert site.lab.watch().events[quiet:] == []
