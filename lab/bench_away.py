"""An agent whose configuration is away when it starts: from the return of the file until it is ready, in seconds and in
processor time of the agent and what it starts.

`python -m lab.bench_away`, without root. The agent has a kernel in memory; who starts it is a socket that hears its
READY, as systemd would. Prints a table; the same in `build/away.json`.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from lab import measuring
from lab.figures import Times, times_table
from lab.measuring import say

ROUNDS = 11
PATIENCE = 60.0  # seconds for READY
CONFIG = """\
node: {{name: lb1, runtime_dir: {0}/run, state_dir: {0}/state}}
bgp: {{local_as: 65001, router_id: 10.2.1.1, neighbors: [{{address: 10.2.1.254, remote_as: 65000}}]}}
vips: {{web: {{address: 192.0.2.1, port: 80, servers: [10.9.2.1]}}}}
"""
_TICK = os.sysconf("SC_CLK_TCK")


class Node:
    """Its files, and the socket of who starts its agent."""

    def __init__(self, place: Path) -> None:
        self.file, self.aside = place / "anycast.yaml", place / "aside.yaml"
        self._notify = place / "notify"
        for name in ("run", "state"):
            (place / name).mkdir()
        self.file.write_text(CONFIG.format(place))
        self._manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._manager.bind(str(self._notify))
        self._manager.settimeout(PATIENCE)

    @contextlib.contextmanager
    def agent(self) -> Iterator[subprocess.Popen[Any]]:
        argv = [sys.executable, "-m", "lab.memory_agent", "--unchecked", "agent", "--config", str(self.file)]
        environ = {**os.environ, "NOTIFY_SOCKET": str(self._notify)}
        with measuring.running(argv, env=environ, stderr=subprocess.PIPE, text=True) as running:
            yield running

    def ready(self) -> None:
        while self._manager.recv(4096) != b"READY=1":
            pass

    def close(self) -> None:
        self._manager.close()


def processor_time(pid: int) -> float:
    """Seconds, of the process, its children that run, and those that it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    spent = measuring.cpu_time(pid) + (int(fields[13]) + int(fields[14])) / _TICK
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # they come and go
            spent += sum(processor_time(int(child)) for child in (task / "children").read_text().split())
    return spent


def started(node: Node) -> tuple[float, float]:
    """Exec to READY, in seconds and in processor time."""
    began = time.monotonic()
    with node.agent() as agent:
        node.ready()
        return time.monotonic() - began, processor_time(agent.pid)


def returned(node: Node) -> tuple[float, float]:
    """The same from the return of the file, for which the agent waits."""
    node.file.rename(node.aside)
    with node.agent() as agent:
        assert agent.stderr is not None
        next(line for line in agent.stderr if "s to come" in line)
        time.sleep(2.5 + random.random() / 2)  # noqa: S311 - so that it meets every moment between two looks
        spent, began = processor_time(agent.pid), time.monotonic()
        node.aside.rename(node.file)
        node.ready()
        return time.monotonic() - began, processor_time(agent.pid) - spent


def rendered(node: Node) -> tuple[float, float]:
    """ExaBGP's two files, as its unit has them written before each start."""
    words = ["-o", str(node.aside.with_name("exabgp.conf")), "--env", str(node.aside.with_name("exabgp.env"))]
    began, before = time.monotonic(), os.times()
    argv = [sys.executable, "-m", "anycast", "render", "exabgp", "--config", str(node.file), *words]
    subprocess.run(argv, check=True, stderr=subprocess.DEVNULL)
    now = os.times()
    spent = now.children_user + now.children_system - before.children_user - before.children_system
    return time.monotonic() - began, spent


def main(argv: list[str] | None = None) -> int:
    parser = measuring.options("lab.bench_away", __doc__, "away.json")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args(argv)
    works = {
        "exec of the agent -> ready, the file is there": started,
        "the file comes back -> ready": returned,
        "ExaBGP's files rendered": rendered,
    }
    seconds, spent = [Times(work=work) for work in works], [Times(work=f"{work}: CPU") for work in works]
    for number in range(options.rounds):
        say(f"round {number + 1} of {options.rounds}")
        for work, one, cpu in zip(works.values(), seconds, spent, strict=True):
            with tempfile.TemporaryDirectory() as place:
                node = Node(Path(place))
                for times, value in zip((one, cpu), work(node), strict=True):
                    times.values.append(value)
                node.close()
    found = [*seconds, *spent]
    document = {one.work: [round(value, 3) for value in one.values] for one in found}
    table = times_table("seconds", found, 0.0, 0.5, 1.0, show=lambda value: f"{value:.3f}")
    share = median(spent[1].values) / median(spent[0].values)
    measuring.leave(options.json, document, f"{table}\nof a start's processor time: {share:.2f}", anew=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
