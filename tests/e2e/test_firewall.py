"""A stateful firewall on every balancer, with the rendered rules before it: nothing breaks, and every close arrives."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator

import pytest

from lab import firewall, netns
from lab.topology import HTTP_PORT, VIP4, VIPS
from tests.e2e.site import NODES, Site, until

pytestmark = pytest.mark.lab
CONNECTIONS = 600
RESETS = 40


@pytest.fixture(autouse=True)
def _has_legacy_tables() -> None:
    if not firewall.has_legacy_tables():
        pytest.skip("this kernel has no legacy tables of iptables")


@contextlib.contextmanager
def behind_firewalls(site: Site, *, rendered: bool = True) -> Iterator[firewall.Counter]:
    counter = firewall.Counter(site.lab)
    try:
        for node in NODES:
            firewall.put_up(site.lab, node, rendered=rendered)
        yield counter
    finally:
        for node in NODES:
            firewall.take_down(site.lab, node)
        counter.close()


@contextlib.contextmanager
def connections(count: int) -> Iterator[list[socket.socket]]:
    """To the IPv4 VIP, each after a first answer."""
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(count):
            sock = stack.enter_context(netns.open_socket("cl", socket.AF_INET, socket.SOCK_STREAM))
            sock.settimeout(100)
            sock.connect((VIP4, HTTP_PORT))
            _ask(sock)
            found.append(sock)
        yield found


def _ask(sock: socket.socket) -> None:
    sock.send(b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n")
    assert sock.recv(4096)


def test_behind_stateful_firewalls_nothing_breaks_and_every_close_arrives(site: Site) -> None:
    with behind_firewalls(site) as counter:
        with connections(RESETS) as resets, site.lab.load(CONNECTIONS) as load:
            load.mark()
            site.maintenance("lb1", on=True, reason="firewalls")
            site.routed(["lb2", "lb3"])
            drained = load.wait_answered()
            site.maintenance("lb1", on=False)
            site.routed(NODES)
            load.mark()
            site.lab.kill("lb2", "agent")
            site.lab.kill("lb2", "exabgp")
            site.routed(["lb1", "lb3"])
            killed = load.wait_answered()
            for sock in resets:
                # A reset alone is passed on by a balancer that knows the connection, firewall or none.
                _ask(sock)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        for stats in (drained, killed):
            assert (stats["connections"], stats["broken"], stats["moved"]) == (CONNECTIONS, 0, 0), stats
        sent = counter.sent()
        # A client that ends with an answer unread sends RST in the place of FIN.
        assert sent.fin + sent.rst >= CONNECTIONS + RESETS
        assert sent.rst >= RESETS
        with contextlib.suppress(TimeoutError):
            until(lambda: counter.arrived() == sent, "every FIN and RST to arrive", 30.0)
        assert counter.arrived() == sent
        for vip in VIPS:
            assert site.http_server(vip.partition("/")[0]).startswith("rs")


def test_without_the_rendered_rules_no_close_arrives(site: Site) -> None:
    """What the rules are for: as long as nobody has asked anything else, connections seem to work."""
    with behind_firewalls(site, rendered=False) as counter:
        with connections(10):
            pass
        until(lambda: counter.sent().fin > 10, "the client to send again what nobody has acknowledged")
        assert counter.arrived().fin == 0
