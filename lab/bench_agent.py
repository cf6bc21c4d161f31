"""The whole agent under checks: how late its leases are, and the memory it takes, with its checks and without.

`python -m lab.bench_agent`, as root and with two processors. The real agent with 5,000 real servers, each checked
once a second, on a processor of its own, in a network namespace of its own; on the other processor the one target of
all the checks and, in here, the plugin that takes the leases. The node's kernel alone is a stand-in: see
`lab.memory_agent`. All of them run at a real-time priority: what else is done on the machine is not in the way.
Prints a table; the same in `build/bench-checks.json`.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import yaml

from anycast.lease import Decoder, Lease, Report, encode
from lab import configs, netns
from lab.agent_figures import (
    AgentRun,
    Memory,
    agent_document,
    agent_table,
    lateness,
    merge,
    rollup,
)
from lab.bench import say

SERVERS = 5000
POOL = 100  # real servers of a service
PORTS = 5  # services of a VIP
WINDOW = 60.0  # seconds
TTL = 0.5  # seconds: the shortest there is, for a lease in each sixth of a second
SETTLE = 5.0  # seconds before the window: the checks have found their rhythm
CHECKED_PORT = 8080
OPS_PORT = 9644
NETWORK = "10.16.0.0/16"  # all of it is the loopback
FIRST = int(IPv4Address("10.16.1.0"))
DESCRIPTORS = 20000
PATIENCE = 90.0  # seconds until the agent announces everything

_ACTIVE_OPENS = re.compile(r"^Tcp: (.*)$", re.MULTILINE)


def agent_yaml(servers: int, directory: Path) -> str:
    """Every VIP is announced only once each of its real servers is up."""
    pools: dict[str, object] = {}
    vips: dict[str, dict[str, object]] = {}
    for place, first in enumerate(range(0, servers, POOL)):
        count = min(POOL, servers - first)
        pool, vip = f"p{place}", place // PORTS
        pools[pool] = {
            "check": {"type": "tcp", "port": CHECKED_PORT, "interval": "1s", "timeout": "1s"},
            "servers": [
                {"name": f"s{number}", "addresses": [str(IPv4Address(FIRST + number))]}
                for number in range(first, first + count)
            ],
        }
        entry = vips.setdefault(f"v{vip}", {"addresses": [f"192.0.2.{vip + 1}"], "services": []})
        services = entry["services"]
        assert isinstance(services, list)
        services.append(
            {"port": 8000 + place % PORTS, "pool": pool, "quorum": {"low": 1, "high": count}},
        )
    return yaml.safe_dump(
        {
            "node": {
                "name": "lb1",
                "runtime_dir": str(directory),
                "state_dir": str(directory / "state"),
                "exabgp_user": "root",
                "listen": f"127.0.0.1:{OPS_PORT}",
            },
            "bgp": {
                "local_as": 65001,
                "router_id": "10.2.1.1",
                "neighbors": [{"address": "10.2.1.254", "remote_as": 65000}],
            },
            "timing": {"lease_ttl": f"{TTL * 1000:.0f}ms"},
            "pools": pools,
            "vips": vips,
        },
        sort_keys=False,
    )


class Plugin:
    """The other end of the leases, without an ExaBGP: says at once that all is announced."""

    def __init__(self, path: Path) -> None:
        self._line = socket.socket(socket.AF_UNIX)
        self._line.connect(str(path))
        self._decoder = Decoder()

    def leases(self, until: float) -> Iterator[tuple[float, Lease]]:
        """Each with the instant of its arrival, until the monotonic instant `until`."""
        while (left := until - time.monotonic()) > 0:
            self._line.settimeout(left)
            try:
                data = self._line.recv(65536)
            except TimeoutError:
                return
            arrived = time.monotonic()
            if not data:
                raise RuntimeError("the agent has ended its connection")
            for message in self._decoder.feed(data):
                assert isinstance(message, Lease)
                yield arrived, message
                done = Report(seq=message.seq, announced=tuple(route.prefix for route in message.routes))
                self._line.sendall(encode(done))

    def close(self) -> None:
        self._line.close()


class Bench:
    def __init__(self, directory: Path, servers: int, window: float) -> None:
        processors = sorted(os.sched_getaffinity(0))
        if len(processors) < 2:
            raise SystemExit("bench_agent: needs two processors: one for the agent, one for what it checks")
        self._directory = directory
        self._servers = servers
        self._window = window
        self._alone = ("taskset", "-c", str(processors[-1]))
        os.sched_setaffinity(0, processors[:1])
        first_in_line()

    @contextlib.contextmanager
    def target(self) -> Iterator[None]:
        program = [
            sys.executable,
            "-I",
            "-S",
            str(Path(__file__).with_name("acceptor.py")),
            str(CHECKED_PORT),
        ]
        with subprocess.Popen(program, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            try:
                yield
            finally:
                process.kill()

    def run(self, *, checked: bool) -> AgentRun:
        name = "with checks" if checked else "without checks"
        say(f"{name}: starting the agent")
        runtime = self._directory / name.replace(" ", "-")
        runtime.mkdir()
        with self._agent(runtime, checked=checked) as pid:
            lease_socket = runtime / "lease.sock"
            _await(lease_socket.exists)
            with contextlib.closing(Plugin(lease_socket)) as plugin:
                run = self._observe(name, pid, plugin)
                ops = _ops(pid)
                asked = {path: self._ask(ops, path) for path in ("/status", "/metrics")}
                return replace(run, ops=_memory(ops), asked=asked)

    def _ask(self, pid: int, path: str) -> float:
        """Seconds of CPU time that one answer takes the ops process, what it is told meanwhile included."""
        cpu = _cpu(pid)
        connection = http.client.HTTPConnection("127.0.0.1", OPS_PORT, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request("GET", path)
            response = connection.getresponse()
            response.read()
        if response.status != 200:
            raise RuntimeError(f"{path} is answered with {response.status}")
        return _cpu(pid) - cpu

    def _observe(self, name: str, pid: int, plugin: Plugin) -> AgentRun:
        vips = -(-self._servers // (POOL * PORTS))
        for _, lease in plugin.leases(time.monotonic() + PATIENCE):
            if len(lease.routes) == vips:
                break
        else:
            raise RuntimeError(f"after {PATIENCE:g} s the agent does not announce everything: see its log")
        for _ in plugin.leases(time.monotonic() + SETTLE):
            pass
        say(f"{name}: everything is announced; watching for {self._window:g} s")
        opens, cpu, began = _opens(), _cpu(pid), time.monotonic()
        found = list(plugin.leases(began + self._window))
        took = time.monotonic() - began
        checks, cpu = _opens() - opens, _cpu(pid) - cpu
        memory = _memory(pid)
        if {len(lease.routes) for _, lease in found} != {vips}:
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

    @contextlib.contextmanager
    def _agent(self, runtime: Path, *, checked: bool) -> Iterator[int]:
        config, log = runtime / "anycast.yaml", runtime / "agent.log"
        config.write_text(agent_yaml(self._servers, runtime))
        argv = [*self._alone, sys.executable, "-m", "lab.memory_agent"]
        argv += [*([] if checked else ["--unchecked"]), "agent", "--config", str(config)]
        with (
            log.open("wb") as out,
            subprocess.Popen(argv, stderr=out, env=configs.program_environment()) as process,
        ):
            try:
                yield process.pid
            except BaseException:
                sys.stderr.write(log.read_text()[-4000:])
                raise
            finally:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10.0)
                process.kill()


def first_in_line() -> None:
    """This process and what it starts have a real-time priority: niceness counts within a session only."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        say("no real-time priority here: what else is done on the machine counts too")


def _await(ready: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not ready():
        if time.monotonic() > until:
            raise RuntimeError(f"not there after {PATIENCE:g} s")
        time.sleep(0.05)


def _opens() -> int:
    """Connections begun in this namespace so far."""
    names, values = (
        found.split() for found in _ACTIVE_OPENS.findall(Path("/proc/thread-self/net/snmp").read_text())
    )
    return int(values[names.index("ActiveOpens")])


def _cpu(pid: int) -> float:
    """Seconds of CPU time a process has had, exact to the microsecond."""
    return time.clock_gettime((~pid << 3) | 2)  # its CPUCLOCK_SCHED, see clock_getcpuclockid(3)


def _ops(agent: int) -> int:
    """The agent's ops process."""
    children = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
    return next(int(pid) for pid in children if Path(f"/proc/{pid}/comm").read_text() == "anycast-ops\n")


def _memory(pid: int) -> Memory:
    return rollup(Path(f"/proc/{pid}/smaps_rollup").read_text())


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.bench_agent", description=__doc__)
    parser.add_argument("--servers", type=int, default=SERVERS)
    parser.add_argument("--window", type=float, default=WINDOW, help="seconds of each of both")
    parser.add_argument("--json", type=Path, default=configs.checkout() / "build" / "bench-checks.json")
    options = parser.parse_args(argv)
    if os.geteuid() != 0:
        raise SystemExit("bench_agent: needs root, for a network namespace (sudo make bench-checks)")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was begun is ended on the way out
    hard = max(DESCRIPTORS, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, hard))
    with tempfile.TemporaryDirectory(prefix="bench-agent-") as name, netns.fresh():
        subprocess.run(["ip", "route", "add", "local", NETWORK, "dev", "lo"], check=True)
        bench = Bench(Path(name), options.servers, options.window)
        with bench.target():
            runs = [bench.run(checked=True), bench.run(checked=False)]
    merge(options.json, {"agent": agent_document(runs), "load_average": os.getloadavg()})
    print(f"\n{agent_table(runs)}\nthe same as JSON: {options.json}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
