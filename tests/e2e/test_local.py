"""A resolver on every node, with a VIP that the nodes themselves serve: real unbound, ExaBGP and FRR, under load.

It needs no IPVS: `ANYCAST_LAB=namespaces python -m lab run -- …` runs it on a kernel without.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
import yaml

from anycast.cli import client
from lab import configs, places, processes, queries
from lab.control import Lab, What
from lab.migrate import healthcheck
from lab.topology import VIP4, VIP6, VIPS, topology
from tests.e2e.site import NODES, PATIENCE, until

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not os.environ.get("ANYCAST_LAB_GUEST"), reason="runs inside the lab"),
    pytest.mark.skipif(shutil.which("unbound") is None, reason="no unbound: lab/install brings it"),
]
# A second. So few that a busy machine, or an emulated kernel, carries them; ANYCAST_LAB_QUERIES=5000 measures.
RATE = int(os.environ.get("ANYCAST_LAB_QUERIES", "300"))
UNBOUND = """\
server:
  directory: "{where}"
  chroot: ""
  username: ""
  pidfile: ""
  use-syslog: no
  interface: {vip4}
  interface: {vip6}
  ip-freebind: yes
  so-rcvbuf: 4m
  access-control: 0.0.0.0/0 allow
  access-control: ::/0 allow
  local-zone: "example.net." static
  local-data: "www.example.net. IN A 10.0.0.{number}"
"""
CHECK = {"type": "dns", "name": "www.example.net.", "interval": "500ms", "fast_interval": "200ms", "fall": 2}
DAEMONS: tuple[What, ...] = ("exabgp", "agent")
TIMING = {"drain": "500ms", "settle": "300ms", "reconcile": "2s", "start_hold_limit": "0s"}


class Resolvers:
    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def build(self) -> None:
        self.lab.build(daemons=False)
        self.lab.watch()
        for balancer in self.lab.topology.balancers:
            config = yaml.safe_load(configs.anycast_yaml(self.lab.topology, balancer))
            del config["pools"]
            config["timing"] = TIMING
            ports = ["53/udp", "53/tcp"]
            config["vips"] = {"dns": {"address": [VIP4, VIP6], "local": True, "ports": ports, "check": CHECK}}
            self.lab.config(balancer.name).write_text(yaml.safe_dump(config, sort_keys=False))
            self.lab.render(balancer.name)
            folder = self.lab.run / balancer.name
            text = UNBOUND.format(where=folder, number=balancer.index, vip4=VIP4, vip6=VIP6)
            (folder / "unbound.conf").write_text(text)
            for what in DAEMONS:
                self.lab.start(balancer.name, what)
            self.start_unbound(balancer.name)
        self.routed(NODES)

    def start_unbound(self, node: str) -> None:
        folder = self.lab.run / node
        argv = [shutil.which("unbound") or "", "-d", "-p", "-c", str(folder / "unbound.conf")]
        log, record = folder / "unbound.log", folder / "unbound.pid"
        processes.spawn(argv, netns=node, env=configs.program_environment(), log=log, record=record)

    def kill_unbound(self, node: str) -> None:
        process = processes.recorded(self.lab.run / node / "unbound.pid")
        assert process is not None
        process.send(signal.SIGKILL)
        assert process.wait(5.0)

    def routed(self, nodes: tuple[str, ...]) -> None:
        for prefix in VIPS:
            self.lab.wait_route(prefix, nodes, PATIENCE)

    def gone(self, node: str, since: float) -> float | None:
        """Seconds from then until the router's kernel sent the node nothing more; None: it never stopped."""
        try:
            events = [self.lab.watch().wait_gone(prefix, node, 0.0, since) for prefix in VIPS]
        except TimeoutError:
            return None
        return round(max(event.monotonic for event in events) - since, 2)

    def mended(self, node: str) -> None:
        """Until the node announces again; a daemon that has ended, or is ended by another, is started."""

        def look() -> bool | None:
            for what in DAEMONS:
                if not self.lab.alive(node, what):
                    self.lab.start(node, what)
            whole = all(set(nodes) == set(NODES) for nodes in self.lab.router_routes().values())
            return whole or None

        until(look, f"{node} to announce again")

    def status(self, node: str) -> Any:
        """Once the node's ops process answers."""

        def look() -> Any:
            with contextlib.suppress(client.UnreachableError):
                return client.read(self.lab.run / node / "control.sock", "/status").body
            return None

        return until(look, f"{node} to answer")

    def maintenance(self, node: str, *, on: bool) -> None:
        body = {"scope": "", "on": on}
        assert client.ask(
            self.lab.run / node / "control.sock", "POST", "/maintenance", body, timeout=PATIENCE
        ).ok

    @contextlib.contextmanager
    def out(self, node: str) -> Iterator[None]:
        """It is back afterwards, whatever comes to pass."""
        try:
            yield
        finally:
            self.maintenance(node, on=False)
            self.routed(NODES)

    def to_healthcheck(self, node: str) -> None:
        """ExaBGP's own script takes the node's VIPs over, and puts their addresses on lo."""
        self.maintenance(node, on=True)
        until(lambda: self.stage(node) == "down" or None, f"{node} to be down")
        for what in reversed(DAEMONS):
            self.lab.stop(node, what, PATIENCE)
        (balancer,) = [one for one in self.lab.topology.balancers if one.name == node]
        program = str(Path(sys.executable).with_name(healthcheck.PROGRAM))
        text = healthcheck.exabgp_conf(balancer, program).replace(" --no-ip-setup", "")
        (self.lab.run / node / "exabgp.conf").write_text(text)
        (self.lab.run / node / "check").write_text(f"#!/bin/bash\nexec 3<>/dev/tcp/{VIP4}/53\n")
        self.lab.exec(node, "install", "-Dm755", str(self.lab.run / node / "check"), healthcheck.CHECK)
        for vip in VIPS:
            self.lab.exec(node, "ip", "address", "del", vip, "dev", "lo")
        self.lab.start(node, "exabgp")
        self.routed(NODES)

    def from_healthcheck(self, node: str, load: Load) -> None:
        self.lab.exec(node, "touch", healthcheck.DISABLE)
        self.routed(tuple(one for one in NODES if one != node))
        load.await_answers()  # healthcheck takes the addresses off lo, and a query may be on its way
        self.lab.stop(node, "exabgp", PATIENCE)
        self.lab.exec(node, "rm", healthcheck.DISABLE)
        self.lab.render(node)
        for what in DAEMONS:
            self.lab.start(node, what)
        self.status(node)
        self.maintenance(node, on=False)
        self.routed(NODES)

    def stage(self, node: str) -> str:
        return str(self.status(node)["vips"][0]["stage"])


class Load:
    """`lab.queries` at work in the client."""

    def __init__(self) -> None:
        argv = [*places.entry("cl"), sys.executable, "-I", "-S", queries.__file__]
        argv += ["--rate", str(RATE), "--server", VIP4, "--server", VIP6]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._answer()["event"] == "ready"

    def mark(self) -> None:
        self._do("mark")

    def stats(self, least: int = 0) -> dict[str, Any]:
        """`least`: so many are asked since the mark."""
        return self._do("stats", least)

    def await_answers(self) -> None:
        """Until all that was asked so far is answered, or lost."""
        until(lambda: not self.stats()["waiting"], "queries to be answered")

    def _do(self, what: str, least: int = 0) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": what, "least": least}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()


@pytest.fixture(scope="module")
def site() -> Iterator[Resolvers]:
    lab = Lab(topology(servers=1))
    try:
        resolvers = Resolvers(lab)
        resolvers.build()
        yield resolvers
    finally:
        for log in lab.run.glob("lb*/*.log"):
            kept = Path("build/lab/local") / log.parent.name / log.name
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(log, kept)
        lab.down()


def shown(what: str, found: dict[str, Any]) -> None:
    print(f"{what}: {json.dumps(found)}")


def test_no_node_has_anything_in_ipvs(site: Resolvers) -> None:
    for node in NODES:
        table = site.lab.exec(node, "cat", "/proc/net/ip_vs", check=False).stdout
        assert "->" not in table.replace("-> RemoteAddress", "")
        assert [one["phase"] for one in site.status(node)["vips"][0]["local"]] == ["up"] * 4


def test_a_drain_of_one_of_three_loses_no_query(site: Resolvers) -> None:
    with Load() as load, site.out("lb2"):
        load.mark()
        site.maintenance("lb2", on=True)
        until(lambda: site.stage("lb2") == "down" or None, "the end of the drain")
        site.routed(("lb1", "lb3"))
        found = load.stats()
        shown("drain", found)
        assert (found["lost"], found["refused"]) == (0, 0)
        load.mark()
        before = load.stats(RATE)
        assert set(before["by"]) == {"10.0.0.1", "10.0.0.3"}, "nobody asks the node that is out"
        load.mark()
        site.maintenance("lb2", on=False)
        site.routed(NODES)
        found = load.stats()
        shown("return", found)
        assert (found["lost"], found["refused"]) == (0, 0)
    lines = (site.lab.run / "lb2/agent.log").read_text().splitlines()
    stages = [one for one in map(json.loads, lines) if one["event"] == "maintenance.stage_changed"]
    assert (stages[-1]["stage"], stages[-1]["why"]) == ("down", "quiet"), "by its own count of packets"


@pytest.mark.parametrize("what", ["agent", "plugin", "exabgp"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM])
def test_a_node_whose_daemon_ends_or_hangs_loses_its_route_and_no_query(
    site: Resolvers, what: What, number: signal.Signals
) -> None:
    before = site.lab.process("lb3", what)
    assert before is not None
    with Load() as load:
        load.mark()
        began = time.monotonic()
        site.lab.kill("lb3", what, number)
        if what == "plugin" and number is not signal.SIGSTOP:  # ExaBGP starts another at once
            until(lambda: site.lab.process("lb3", what) not in (before, None) or None, "another plugin")
        else:
            site.routed(("lb1", "lb2"))
        gone = site.gone("lb3", began)
        if number is signal.SIGSTOP:
            with contextlib.suppress(ProcessLookupError):
                before.send(signal.SIGCONT)
        site.mended("lb3")
        found = load.stats() | {"route gone": gone}
        shown(f"{what} {number.name}", found)
        assert (found["lost"], found["refused"]) == (0, 0)


def test_healthcheck_gives_way_to_anycast_on_one_node_after_the_other_and_no_query_is_lost(
    site: Resolvers,
) -> None:
    with Load() as load:
        load.mark()
        for node in NODES:
            site.to_healthcheck(node)
        shown("to healthcheck, which promises nothing", load.stats())
        load.mark()
        for node in NODES:
            site.from_healthcheck(node, load)
        found = load.stats()
        shown("from healthcheck", found)
        assert (found["lost"], found["refused"]) == (0, 0)


def test_a_resolver_that_dies_costs_its_share_until_its_check_has_failed(site: Resolvers) -> None:
    with Load() as load:
        load.mark()
        began = time.monotonic()
        site.kill_unbound("lb1")
        site.routed(("lb2", "lb3"))
        found = load.stats() | {"route gone": site.gone("lb1", began)}
        shown("unbound killed", found)
        assert site.status("lb1")["vips"][0]["reason"] == "local_check_failed"
        load.mark()
        found = load.stats(RATE)
        assert (found["lost"], found["refused"]) == (0, 0)
        site.start_unbound("lb1")
        site.routed(NODES)
