"""Every line of docs/firewalls.md that is to be typed or loaded, as a newcomer would, in a namespace of its own."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from anycast.config.load import loads
from anycast.render.nftables import nftables_conf
from lab.hosts import Host
from tests.contract.namespaces import network_namespace, run

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="no nft: lab/install brings it"),
]

DOC = Path(__file__).parents[2] / "docs" / "firewalls.md"
_BLOCK = re.compile(r"^```(sh|nft|ini)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CONFIG = """\
node: {name: lb1}
bgp: {local_as: 65001, router_id: 10.2.1.1, neighbors: [{address: 10.2.1.254, remote_as: 65000}]}
vips:
  web: {address: 192.0.2.1, port: 80, servers: [10.9.2.1], check: tcp}
  far: {address: 192.0.2.2, port: 80, servers: [10.9.2.1], check: tcp, forwarding: tunnel}
  cam: {address: 192.0.2.3, port: 80, servers: ['10.9.2.1:8080'], check: tcp, forwarding: nat}
  mark: {address: 192.0.2.4, servers: [10.9.2.1], services: [{mark: 7, check: {type: tcp, port: 80}}]}
"""
TAKES_OUT = "-X ANYCAST-"


def blocks(kind: str) -> list[str]:
    return [text for found, text in _BLOCK.findall(DOC.read_text("utf-8")) if found == kind]


class Node:
    """Where the page's programs and /etc/anycast are."""

    def __init__(self, folder: Path, backend: str) -> None:
        self._etc = folder / "etc"
        self._bin = folder / "bin"
        for one in (self._etc, self._bin):
            one.mkdir()
        (self._etc / "anycast.yaml").write_text(CONFIG)
        (self._bin / "anycast").write_text(f'#!/bin/sh\nexec {sys.executable} -m anycast "$@"\n')
        (self._bin / "anycast").chmod(0o755)
        for family in ("ip", "ip6"):
            for name in ("", "-restore", "-save"):
                real = shutil.which(f"{family}tables-{backend}{name}")
                assert real is not None
                (self._bin / f"{family}tables{name}").symlink_to(real)

    def sh(self, text: str) -> str:
        """Its output. Fails with the first command that fails."""
        before = (
            f"PATH={self._bin}:$PATH ANYCAST_CONFIG={self._etc}/anycast.yaml; export PATH ANYCAST_CONFIG\n"
        )
        return run("sh", "-ec", before + self._here(text))

    def nft(self, text: str) -> None:
        run("nft", "-f", "-", stdin=self._here(text))

    def _here(self, text: str) -> str:
        return text.replace("/etc/anycast", str(self._etc))

    def rules(self) -> list[str]:
        saved = self.sh("iptables-save; ip6tables-save") + run("nft", "list", "ruleset")
        return [line for line in saved.splitlines() if re.search("anycast", line, re.IGNORECASE)]


@pytest.fixture(params=["legacy", "nft"])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Node]:
    with network_namespace():
        yield Node(tmp_path, request.param)


def test_every_block_of_the_page_can_be_typed_in_its_order(node: Node) -> None:
    done = 0
    for kind, text in _BLOCK.findall(DOC.read_text("utf-8")):
        if kind == "ini":
            continue
        if kind == "nft":
            node.nft(text)
        else:
            node.sh(text)
        done += 1
        if "delete table inet anycast" in text or TAKES_OUT in text:
            assert node.rules() == []
        elif "ANYCAST-$chain; done" in text:
            assert len([line for line in node.rules() if re.match("-A [A-Z]+ -j ANYCAST-", line)]) == 10
    assert done == len(blocks("sh")) + len(blocks("nft")) >= 9


def test_what_is_included_in_the_file_of_the_system_is_loaded_at_boot(node: Node, tmp_path: Path) -> None:
    node.sh(blocks("sh")[0])
    system = tmp_path / "nftables.conf"
    system.write_text(f'flush ruleset\ntable inet filter {{ }}\ninclude "{tmp_path}/etc/nftables.conf"\n')
    for _ in range(2):
        run("nft", "-f", str(system))
        assert "table inet anycast {" in node.rules()
    (tmp_path / "etc/nftables.conf").unlink()
    with pytest.raises(AssertionError, match="not found"):
        run("nft", "-c", "-f", str(system))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
def test_the_unit_of_the_page_is_one(tmp_path: Path) -> None:
    (text,) = blocks("ini")
    (unit := tmp_path / "anycast-nftables.service").write_text(text)
    said = run("sh", "-c", f"systemd-analyze verify {unit} 2>&1; echo status $?")
    assert [line for line in said.splitlines() if "anycast-nftables" in line] == []


def test_beside_the_real_firewalld_our_table_stays_and_ports_are_open(machine: Host) -> None:
    def ours() -> str:
        return machine.run("nft", "-s", "list", "table", "inet", "anycast")

    machine.write("/etc/anycast/nftables.conf", nftables_conf(loads(CONFIG).config))
    machine.start("firewalld", "--nofork", "--nopid")
    machine.until("firewall-cmd", "--state")
    page = DOC.read_text("utf-8")
    (start,) = re.findall(r"^ExecStart=(.*)$", page, re.MULTILINE)
    machine.run(*start.split())
    loaded = ours()
    commands = [
        one.replace("--zone=…", "--zone=public") for one in re.findall("`(firewall-cmd [^`]*)`", page)
    ]
    assert len(commands) == 2
    for command in (*commands, "firewall-cmd --complete-reload"):
        machine.run(*command.split())
        assert ours() == loaded
    assert machine.run("firewall-cmd", "--zone=public", "--list-ports").split() == ["80/tcp"]
