"""The whole agent under checks: how late its leases are, and the memory it takes, with its checks and without.

`python -m lab.bench_agent`, as root and with two processors. The real agent with 5,000 real servers, each checked
once a second, on a processor of its own, in a network namespace of its own; on the other processor the one target of
all the checks and, in here, the plugin that takes the leases. The node's kernel alone is a stand-in: see
`lab.memory_agent`. All of them run at a real-time priority: what else is done on the machine is not in the way.
Prints a table; the same in `build/bench-checks.json`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from lab import measuring, netns
from lab.agent_figures import AgentRun, Memory, agent_document, agent_table, rollup
from lab.loaded_agent import Plugin, agent, agent_yaml, ask, lateness, target, vips
from lab.measuring import cpu_time, opens, say

SERVERS = 5000
WINDOW = 60.0  # seconds
SETTLE = 5.0  # seconds before the window: the checks have found their rhythm
CHECKED_PORT = 8080
OPS_PORT = 9644
NETWORK = "10.16.0.0/16"  # all of it is the loopback
FIRST = "10.16.1.0"


class Bench:
    def __init__(self, directory: Path, servers: int, window: float) -> None:
        self._directory = directory
        self._servers = servers
        self._window = window
        self._alone = measuring.apart("bench_agent")
        measuring.first_in_line()

    def run(self, *, checked: bool) -> AgentRun:
        name = "with checks" if checked else "without checks"
        say(f"{name}: starting the agent")
        runtime = self._directory / name.replace(" ", "-")
        config = agent_yaml(
            self._servers, runtime, first=FIRST, checked=CHECKED_PORT, listen=f"127.0.0.1:{OPS_PORT}"
        )
        with (
            agent(config, runtime, self._alone, *([] if checked else ["--unchecked"])) as pid,
            contextlib.closing(Plugin(runtime)) as plugin,
        ):
            run = self._observe(name, pid, plugin)
            ops = _ops(pid)
            asked = {path: _ask(ops, path) for path in ("/status", "/metrics")}
            return replace(run, ops=_memory(ops), asked=asked)

    def _observe(self, name: str, pid: int, plugin: Plugin) -> AgentRun:
        plugin.until_announced(vips(self._servers))
        for _ in plugin.leases(SETTLE):
            pass
        say(f"{name}: everything is announced; watching for {self._window:g} s")
        begun, cpu, began = opens(), cpu_time(pid), time.monotonic()
        found = list(plugin.leases(self._window))
        took = time.monotonic() - began
        checks, cpu = opens() - begun, cpu_time(pid) - cpu
        memory = _memory(pid)
        if {len(lease.routes) for _, lease in found} != {vips(self._servers)}:
            raise RuntimeError("a VIP was withdrawn meanwhile: checks failed")
        run = AgentRun(
            name=name,
            servers=self._servers,
            checks_per_second=checks / took,
            cpu=cpu / took,
            lateness=lateness([(arrived, lease.issued, lease.ttl) for arrived, lease in found]),
            memory=memory,
            ops=memory,
            asked={},
        )
        say(f"{name}: {run.checks_per_second:,.0f} checks/s, {len(run.lateness)} leases")
        return run


def _ask(pid: int, path: str) -> float:
    """Seconds of CPU time that one answer takes the ops process, what it is told meanwhile included."""
    cpu = cpu_time(pid)
    ask(OPS_PORT, path)
    return cpu_time(pid) - cpu


def _ops(agent: int) -> int:
    """The agent's ops process."""
    children = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
    return next(int(pid) for pid in children if Path(f"/proc/{pid}/comm").read_text() == "anycast-ops\n")


def _memory(pid: int) -> Memory:
    return rollup(Path(f"/proc/{pid}/smaps_rollup").read_text())


def main(argv: list[str] | None = None) -> int:
    parser = measuring.options("lab.bench_agent", __doc__, "bench-checks.json")
    parser.add_argument("--servers", type=int, default=SERVERS)
    parser.add_argument("--window", type=float, default=WINDOW, help="seconds of each of both")
    options = parser.parse_args(argv)
    measuring.ready("bench_agent", root=True)
    with tempfile.TemporaryDirectory(prefix="bench-agent-") as name, netns.fresh():
        subprocess.run(["ip", "route", "add", "local", NETWORK, "dev", "lo"], check=True)
        bench = Bench(Path(name), options.servers, options.window)
        with target(CHECKED_PORT):
            runs = [bench.run(checked=True), bench.run(checked=False)]
    found = {"agent": agent_document(runs), "load_average": os.getloadavg()}
    measuring.leave(options.json, found, agent_table(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
