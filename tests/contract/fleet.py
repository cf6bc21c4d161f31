"""Agents of one file on addresses of the loopback, which hear one another."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from anycast.cli.client import UnreachableError, read
from lab.waiting import until

ROOT = Path(__file__).parents[2]
NAMES = ("lb1", "lb2", "lb3")
FILE = """\
nodes:
{nodes}
node: {{interface: nowhere0, exabgp_user: root}}
fleet: {{interval: {interval}, token_file: {token}{more}}}
bgp: {{local_as: 65001, neighbors: [{{address: 10.2.1.254, remote_as: 65000}}]}}
vips:
  web: {{address: 192.0.2.1, port: 80, servers: [127.0.0.1]}}
  mail: {{address: 192.0.2.2, port: 25, servers: [127.0.0.1]}}
"""


class Node:
    """One agent."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.process: subprocess.Popen[str] | None = None
        self.events: list[dict[str, Any]] = []

    def start(self, config: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "anycast", "agent", "--config", str(config), "--node", self.name],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reading = threading.Thread(target=self._follow, args=(self.process,), daemon=True)
        self._reading.start()

    def _follow(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        with process.stderr as lines:
            for line in lines:
                if line.startswith("{"):
                    self.events.append(json.loads(line))

    def named(self, event: str) -> list[dict[str, Any]]:
        return [one for one in list(self.events) if one["event"] == event]

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
            self._reading.join()

    @property
    def control(self) -> Path:
        return self.folder / "run" / "control.sock"

    def status(self) -> dict[str, Any]:
        try:
            answer = read(self.control, "/status")
        except UnreachableError:
            return {}
        return answer.body if answer.ok else {}

    def fleet(self) -> dict[str, dict[str, Any]]:
        """What it knows of the others, by name."""
        found = self.status().get("fleet") or {}
        return {one["name"]: one for one in found.get("nodes", ())}

    def beliefs(self) -> dict[str, str]:
        return {name: one["belief"] for name, one in self.fleet().items()}


class Fleet:
    def __init__(self, folder: Path, nodes: dict[str, Node], config: Path) -> None:
        self.folder = folder
        self.nodes = nodes
        self.config = config

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]


def text(
    folder: Path, *, port: int, interval: str, more: str, listen: dict[str, str], names: Sequence[str]
) -> str:
    lines = [
        f'  {name}: {{node: {{listen: "127.0.9.{n}:{port}", runtime_dir: {folder / name / "run"}, state_dir: {folder / name / "state"}}}, '
        f'bgp: {{router_id: 127.0.9.{n}}}, fleet: {{listen: "{listen.get(name, f"127.0.9.{n}:{port + 1}")}"}}}}'
        for n, name in enumerate(names, 1)
    ]
    return FILE.format(
        nodes="\n".join(lines), interval=interval, token=folder / "token", more=f", {more}" if more else ""
    )


@contextlib.contextmanager
def fleet(
    folder: Path,
    *,
    port: int,
    interval: str = "1s",
    more: str = "",
    start: Sequence[str] = NAMES,
    listen: dict[str, str] | None = None,
) -> Iterator[Fleet]:
    """`start`: whose agents run; of the others a test makes what it likes, at `listen`."""
    (folder / "token").write_text("secret-of-the-fleet\n")
    config = folder / "anycast.yaml"
    config.write_text(text(folder, port=port, interval=interval, more=more, listen=listen or {}, names=NAMES))
    nodes = {}
    for name in NAMES:
        (folder / name).mkdir()
        nodes[name] = Node(name, folder / name)
    found = Fleet(folder, nodes, config)
    try:
        for name in start:
            nodes[name].start(config)
        yield found
    finally:
        for node in nodes.values():
            if node.process is not None:
                node.process.send_signal(signal.SIGTERM)
        for node in nodes.values():
            if node.process is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    node.process.wait(10)
            node.kill()


def waits(what: Callable[[], object], patience: float = 30.0) -> float:
    """Seconds until it holds."""
    began = time.monotonic()
    until(what, "what the test waits for", patience, pause=0.05)
    return time.monotonic() - began
