"""The agent itself where the node serves its VIPs: on this machine's kernel, which needs no IPVS for that."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from anycast.cli import client
from lab import waiting
from tests.contract.namespaces import network_namespace, run

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a network namespace")

T = TypeVar("T")
PATIENCE = 60.0
VIP, OTHER, PORT = "192.0.2.53", "2001:db8:99::53", 8053
CONFIG = """\
node: {{name: lb1, runtime_dir: {where}/run, state_dir: {where}/state, listen: "127.0.0.1:9644", exabgp_user: root}}
bgp:
  local_as: 65001
  router_id: 10.2.1.1
  neighbors: [{{address: 10.2.1.254, remote_as: 65000, families: [ipv4, ipv6], local_address: 10.2.1.1}}]
  next_hop: "fd00:2:1::1"
timing: {{drain: 500ms, settle: 300ms, quiet_limit: 2s}}
vips:
  dns:
    address: [{vip}, "{other}"]
    local: true
    port: {port}
    check: {{type: tcp, interval: 500ms, fast_interval: 100ms}}
"""


@dataclass(frozen=True)
class Agent:
    where: Path
    process: subprocess.Popen[bytes]

    def ask(self, path: str) -> Any:
        with contextlib.suppress(client.UnreachableError):
            return client.read(self.where / "run/control.sock", path).body
        return None

    def vip(self) -> Any:
        status = self.ask("/status")
        return status and status["vips"][0]

    def is_at(self, reason: str) -> Any:
        """The VIP's status, once its verdict has this reason."""

        def look() -> Any:
            vip = self.vip()
            return vip if vip and vip["reason"] == reason else None

        return until(look, f"the verdict {reason}")


def until(look: Callable[[], T | None], what: str) -> T:
    return waiting.until(look, what, PATIENCE)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    for name in ("run", "state"):
        (tmp_path / name).mkdir()
    file = tmp_path / "anycast.yaml"
    file.write_text(CONFIG.format(where=tmp_path, vip=VIP, other=OTHER, port=PORT))
    with network_namespace(), (tmp_path / "log").open("wb") as log:
        argv = [sys.executable, "-m", "anycast", "agent", "--config", str(file)]
        process = subprocess.Popen(argv, stdout=log, stderr=log)
        try:
            yield Agent(tmp_path, process)
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0, (tmp_path / "log").read_text()


@contextlib.contextmanager
def daemon(*addresses: str) -> Iterator[None]:
    """Listens as a daemon does: at the VIP's addresses."""
    with contextlib.ExitStack() as stack:
        for address in addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            listening = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((address, PORT))
            listening.listen(1000)
        yield


def test_the_agent_runs_without_ipvs_places_the_addresses_and_goes_by_the_daemon(agent: Agent) -> None:
    found = agent.is_at("local_check_failed")
    assert [one["address"] for one in found["local"]] == [VIP, OTHER]
    shown = run("ip", "-br", "address", "show", "lo")
    assert f"{VIP}/32" in shown
    assert f"{OTHER}/128" in shown
    with daemon(VIP):
        until(lambda: [one["phase"] for one in agent.vip()["local"]] == ["up", "down"] or None, "one family")
        assert agent.vip()["reason"] == "local_check_failed"
    with daemon(VIP, OTHER):
        agent.is_at("healthy")
        why = agent.ask("/vips/dns/why")
        assert {link["link"]: link["holds"] for link in why["chain"]}["local"]
        run("ip", "address", "del", f"{VIP}/32", "dev", "lo")
        until(lambda: f"{VIP}/32" in run("ip", "-br", "address", "show", "lo") or None, "the address is back")
        agent.is_at("healthy")
        assert agent.ask("/vips/dns/why")["changes"] == why["changes"], "the route was kept"
    agent.is_at("local_check_failed")
    assert agent.ask("/status")["kernel"]["available"]


def test_a_drain_ends_when_no_more_packets_come_in_by_a_count_of_its_own(agent: Agent) -> None:
    agent.is_at("local_check_failed")  # by then the node has the addresses
    with daemon(VIP, OTHER):
        agent.is_at("healthy")
        body = {"scope": "dns", "on": True}
        assert client.ask(agent.where / "run/control.sock", "POST", "/maintenance", body, timeout=PATIENCE).ok
        until(lambda: agent.vip()["stage"] == "down" or None, "the end of the drain")
    lines = map(json.loads, (agent.where / "log").read_text().splitlines())
    stages = [one for one in lines if one["event"] == "maintenance.stage_changed"]
    assert [(one["stage"], one["why"]) for one in stages][-1] == ("down", "quiet")
    assert stages[-1]["packets_per_s"] == 0.0
