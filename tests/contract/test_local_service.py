"""A service on the node itself: what a check on the node at the VIP proves, and what a client gets."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from anycast.core.health.phase import Outcome, Result
from anycast.core.values.checks import DnsCheck
from tests.contract import peers
from tests.contract.namespaces import entered, made_namespace, run
from tests.unit.probes.peers import run as asked

MISSING = peers.missing("unbound")
pytestmark = [pytest.mark.peers, pytest.mark.skipif(bool(MISSING), reason=MISSING or "")]

VIP, NODE, CLIENT = "192.0.2.53", "10.255.0.1", "198.51.100.7"
UNBOUND = """\
server:
  directory: "{where}"
  chroot: ""
  username: ""
  pidfile: "{where}/unbound.pid"
  use-syslog: no
  interface: {listens}
  access-control: {allowed} allow
  local-zone: "example.net." static
  local-data: "www.example.net. IN A 192.0.2.80"
"""
ALL = "0.0.0.0/0"


@dataclass(frozen=True)
class Place:
    node: int  # namespaces
    client: int


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """The client is as docs/checks.md makes it: behind a link, in a network that is not the node's."""
    with made_namespace() as node, made_namespace() as client:
        with entered(node):
            there = f"/proc/{os.getpid()}/fd/{client}"
            run("ip", "link", "add", "client0", "type", "veth", "peer", "name", "node0", "netns", there)
            run("ip", "addr", "add", f"{NODE}/32", "dev", "client0")
            run("ip", "link", "set", "client0", "up")
            run("ip", "route", "add", f"{CLIENT}/32", "dev", "client0")
            run("ip", "addr", "add", f"{VIP}/32", "dev", "lo")
        with entered(client):
            run("ip", "addr", "add", f"{CLIENT}/32", "dev", "node0")
            run("ip", "link", "set", "node0", "up")
            run("ip", "route", "add", f"{NODE}/32", "dev", "node0")
            run("ip", "route", "add", "default", "via", NODE)
        yield Place(node, client)


@contextlib.contextmanager
def resolver(place: Place, where: Path, *, listens: str, allowed: str = ALL) -> Iterator[None]:
    text = UNBOUND.format(where=where, listens=listens, allowed=allowed)
    (where / "unbound.conf").write_text(text + f"  interface: 127.0.0.1\n  access-control: {VIP}/32 allow\n")
    argv = ("unbound", "-d", "-p", "-c", str(where / "unbound.conf"))
    with entered(place.node), peers.running(*argv, log=where / "output", tcp=(53,)):
        yield


def ask(namespace: int, *, timeout: float = 10.0) -> Result:
    with entered(namespace):
        return asked(DnsCheck(name="www.example.net."), 53, address=VIP, timeout=timeout)


def test_a_resolver_on_the_vip_answers_the_node_and_a_client(place: Place, tmp_path: Path) -> None:
    with resolver(place, tmp_path, listens=VIP):
        assert ask(place.node).outcome is Outcome.OK
        assert ask(place.client).outcome is Outcome.OK


def test_a_resolver_on_the_wildcard_answers_the_node_and_no_client(place: Place, tmp_path: Path) -> None:
    with resolver(place, tmp_path, listens="0.0.0.0"):
        assert ask(place.node).outcome is Outcome.OK
        found = ask(place.client, timeout=0.5)
    assert (found.outcome, found.detail) == (Outcome.FAIL, "no answer within 0.5 s")


def test_an_access_list_with_the_vip_alone_refuses_clients(place: Place, tmp_path: Path) -> None:
    with resolver(place, tmp_path, listens=VIP, allowed=f"{VIP}/32"):
        assert ask(place.node).outcome is Outcome.OK
        found = ask(place.client)
    assert (found.outcome, found.detail) == (Outcome.FAIL, "REFUSED, expected NOERROR")
