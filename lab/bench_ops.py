"""The ops surface under load: what hostile clients do to the lease, and how long the documents of 5,000 servers take.

`python -m lab.bench_ops`, best with two processors. The real agent, with a kernel in memory, checks 5,000 real servers
(addresses of the loopback), each once a second; this process is its plugin, and hostile clients and readers are
processes of their own beside it. Prints two tables; the same in `build/bench-ops.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import itertools
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import TypeAlias

import yaml

from anycast.cli import client
from anycast.cli.table import table
from anycast.core.dataplane import ipvs
from anycast.core.dataplane import kernel as kernels
from anycast.lease import Decoder, Lease, Report, encode
from lab import configs
from lab.bench import say

SERVERS = 5000
POOL = 100  # real servers of a service
PORTS = 5  # services of a VIP
HOSTILE = 1000  # connections
WINDOW = 20.0  # seconds of each measurement
TTL = 0.5  # seconds: a lease in each sixth of a second
QUESTIONS = 60  # of each document
PATIENCE = 90.0
PROBE_PATIENCE = 2.0  # seconds, of a health check
DESCRIPTORS = 20_000
FIRST = int(IPv4Address("127.16.0.1"))
_SIXTH = TTL / 3

Times: TypeAlias = list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Seconds, each time. `goal`: of `share` of them."""

    work: str
    share: float = 0.99
    goal: float | None = None
    values: Times = field(default_factory=list)

    def at(self, share: float) -> float:
        values = sorted(self.values)
        return values[min(len(values) - 1, int(share * len(values)))]

    @property
    def reached(self) -> str:
        if self.goal is None:
            return "-"
        return "yes" if self.at(self.share) <= self.goal else "NO"


class MemoryKernel:
    """Does as it is told."""

    def __init__(self, interface: str, *, sysctls_managed: bool) -> None:
        del interface, sysctls_managed
        self._held = kernels.Snapshot(table={}, addresses=frozenset(), sysctls={})

    async def read(self, wanted_sysctls: Iterable[str]) -> kernels.Snapshot:
        """A table of its own each time, as what is parsed from netlink is."""
        del wanted_sysctls
        found: dict[ipvs.Key, ipvs.ServiceEntry] = {}
        for key, entry in self._held.table.items():
            found[key] = replace(entry, destinations=tuple(map(_told, entry.destinations)))
            await asyncio.sleep(0)
        return replace(self._held, table=found)

    async def play(self, ops: Sequence[kernels.KernelOp]) -> tuple[kernels.Failure, ...]:
        self._held = kernels.play(self._held, ops)
        return ()

    async def watch(self, on_change: Callable[[], None]) -> None:
        del on_change
        await asyncio.Event().wait()

    async def close(self) -> None:
        pass


def _told(one: ipvs.Destination) -> ipvs.Destination:
    address = type(one.address)(int(one.address))
    return replace(one, address=address, table_weight=one.table_weight if one.weight else 0)


def run_agent(config: str) -> int:
    from anycast.agent import main

    setattr(main, "Kernel", MemoryKernel)  # noqa: B010
    return main.run(Path(config))


def run_target(port: str) -> int:
    """What all the checks look at."""
    with socket.create_server(("0.0.0.0", int(port)), backlog=4096) as listener:
        print("listening", flush=True)
        while True:
            listener.accept()[0].close()


def agent_yaml(servers: int, directory: Path, listen: int, checked: int) -> str:
    pools: dict[str, object] = {}
    vips: dict[str, dict[str, list[object]]] = {}
    for place, first in enumerate(range(0, servers, POOL)):
        count = min(POOL, servers - first)
        pools[f"p{place}"] = {
            "check": {"type": "tcp", "port": checked, "interval": "1s", "timeout": "1s"},
            "servers": [
                {"name": f"s{number}", "addresses": [str(IPv4Address(FIRST + number))]}
                for number in range(first, first + count)
            ],
        }
        vip = place // PORTS
        entry = vips.setdefault(f"v{vip}", {"addresses": [f"192.0.2.{vip + 1}"], "services": []})
        entry["services"].append(
            {"port": 8000 + place % PORTS, "pool": f"p{place}", "quorum": {"low": 1, "high": 1}}
        )
    return yaml.safe_dump(
        {
            "node": {
                "name": "lb1",
                "runtime_dir": str(directory),
                "state_dir": str(directory / "state"),
                "listen": f"0.0.0.0:{listen}",
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


# Clients that mean no good.


async def _hostile(host: str, port: int, number: int) -> None:
    """One connection that is held open, whatever it takes: when it is closed, the next begins."""
    act = (_silent, _dripping, _greedy, _flooding)[number % 4]
    while True:
        try:
            reader, writer = await asyncio.open_connection(host, port)
        except OSError:
            await asyncio.sleep(0.1)
            continue
        try:
            await act(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()
        await asyncio.sleep(0.05)


async def _silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read(1)


async def _dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"GET /status HTTP/1.1\r\nHost: a\r\n")
    closed = asyncio.ensure_future(reader.read())
    while not closed.done():
        writer.write(b"X-Slow: yes\r\n")
        await asyncio.wait({closed}, timeout=1.0)
    closed.result()


async def _greedy(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Asks for much, again and again, and reads nothing."""
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    while True:
        writer.write(b"GET /status HTTP/1.1\r\nHost: a\r\n\r\n" * 100)
        await asyncio.wait_for(writer.drain(), 30)
        await asyncio.sleep(1.0)


async def _flooding(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As many small requests as it can get in."""
    while True:
        writer.write(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n" * 200)
        await writer.drain()
        if not await reader.read(65536):
            return


def run_hostile(host: str, port: str, count: str) -> int:
    async def all_of_them() -> None:
        await asyncio.gather(*(_hostile(host, int(port), number) for number in range(int(count))))

    asyncio.run(all_of_them())
    return 0


# The measuring.


class Plugin:
    """The other end of the leases, without an ExaBGP: says at once that all is announced."""

    def __init__(self, path: Path) -> None:
        self._line = socket.socket(socket.AF_UNIX)
        self._line.connect(str(path))
        self._decoder = Decoder()

    def leases(self, until: float, meanwhile: Callable[[], None] | None = None) -> Iterator[Lease]:
        """Those that come before the monotonic instant `until`; `meanwhile` is called after each."""
        while (left := until - time.monotonic()) > 0:
            self._line.settimeout(left)
            try:
                data = self._line.recv(65536)
            except TimeoutError:
                return
            if not data:
                raise RuntimeError("the agent has ended its connection")
            for message in self._decoder.feed(data):
                if isinstance(message, Lease):
                    done = Report(seq=message.seq, announced=tuple(route.prefix for route in message.routes))
                    self._line.sendall(encode(done))
                    yield message
                    if meanwhile is not None and time.monotonic() < until:
                        meanwhile()

    def lateness(self, seconds: float, meanwhile: Callable[[], None] | None = None) -> Times:
        """How much later than due each lease was issued."""
        issued = [lease.issued for lease in self.leases(time.monotonic() + seconds, meanwhile)]
        return [max(0.0, after - before - _SIXTH) for before, after in itertools.pairwise(issued)]

    def until_announced(self, vips: int) -> None:
        for lease in self.leases(time.monotonic() + PATIENCE):
            if len(lease.routes) == vips:
                return
        raise RuntimeError(f"after {PATIENCE:g} s the agent does not announce everything")


def ask(port: int, path: str, patience: float = PATIENCE) -> float:
    """Seconds until the whole answer is there."""
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=patience)
    with contextlib.closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
    if response.status != 200:
        raise RuntimeError(f"{path} is answered with {response.status}")
    return time.perf_counter() - began


def ask_control(path: Path) -> float:
    """The same over the control socket."""
    began = time.perf_counter()
    if not client.ask(path, "GET", "/maintenance", timeout=PROBE_PATIENCE).ok:
        raise RuntimeError(f"{path} refuses")
    return time.perf_counter() - began


def probe(question: Callable[[], float], into: Times, failed: list[str]) -> None:
    """As a health check of this node would."""
    try:
        into.append(question())
    except (OSError, http.client.HTTPException, RuntimeError, client.UnreachableError) as error:
        failed.append(repr(error))


def command(socket_path: Path) -> float:
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "anycast", "status", "--socket", str(socket_path)],
        check=True,
        stdout=subprocess.DEVNULL,
        env=configs.program_environment(),
    )
    return time.perf_counter() - began


def own_address() -> str:
    """Of this machine, as others know it; empty: there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        try:
            found.connect(("198.51.100.1", 9))  # nothing is sent
        except OSError:
            return ""
        return str(found.getsockname()[0])


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Bench:
    def __init__(self, directory: Path, servers: int, window: float, questions: int) -> None:
        self._directory = directory
        self._servers = servers
        self._window = window
        self._questions = questions
        self._checked = free_port()
        processors = sorted(os.sched_getaffinity(0))
        self._alone = ("taskset", "-c", str(processors[-1])) if len(processors) > 1 else ()
        if len(processors) > 1:
            os.sched_setaffinity(0, processors[:-1])

    def run(self) -> list[Figure]:
        with self._helper("--target", str(self._checked)):
            return [*self._large(), self._small()]

    def _large(self) -> list[Figure]:
        port = free_port()
        with self._agent("large", self._servers, port) as runtime:
            plugin = Plugin(runtime / "lease.sock")
            plugin.until_announced(-(-self._servers // (POOL * PORTS)))
            plugin.lateness(5.0)
            say(f"{self._servers} servers are up; {self._window:g} s without clients")
            quiet = plugin.lateness(self._window)
            say("documents")
            first = {path: ask(port, path) for path in ("/status", "/metrics")}
            asked: dict[str, Times] = {path: [] for path in first}
            for path, times in asked.items():
                left = iter(range(self._questions))

                def question(path: str = path, times: Times = times, left: Iterator[int] = left) -> None:
                    if next(left, None) is not None:
                        times.append(ask(port, path))

                plugin.lateness(self._questions * _SIXTH + 1, question)
            say("the command")
            commands = Times()
            plugin.lateness(10.0, lambda: commands.append(command(runtime / "control.sock")))
            control = runtime / "control.sock"
            hostile = self._attacked(plugin, "127.0.0.1", port, "from this node", control)
            if host := own_address():
                hostile += self._attacked(plugin, host, port, "from elsewhere", control)
        return [
            Figure(work="lease later than due, no clients", values=quiet),
            *hostile,
            Figure(work=f"/status, {self._servers} servers", values=asked["/status"]),
            Figure(work=f"/metrics, {self._servers} servers", values=asked["/metrics"]),
            Figure(work="/status, the first after the start", values=[first["/status"]]),
            Figure(work="/metrics, the first after the start", values=[first["/metrics"]]),
            Figure(work=f"anycast status, {self._servers} servers", share=0.5, values=commands),
        ]

    def _attacked(self, plugin: Plugin, host: str, port: int, where: str, control: Path) -> list[Figure]:
        say(f"{HOSTILE} hostile connections {where}")
        questions = {
            "/livez over TCP": partial(ask, port, "/livez", PROBE_PATIENCE),
            "the control socket": partial(ask_control, control),
        }
        found, lost = {name: Times() for name in questions}, {name: list[str]() for name in questions}

        def probes() -> None:
            for name, question in questions.items():
                probe(question, found[name], lost[name])

        with self._helper("--hostile", host, str(port), str(HOSTILE), wait=False):
            plugin.lateness(3.0)
            late = plugin.lateness(self._window)
            for _ in plugin.leases(time.monotonic() + self._window, probes):
                pass
        return [
            Figure(work=f"lease, {HOSTILE} hostile connections {where}", goal=0.050, values=late),
            *(
                Figure(
                    work=f"  {name} meanwhile, {len(lost[name])} of {len(values) + len(lost[name])} failed",
                    values=values,
                )
                for name, values in found.items()
                if values
            ),
        ]

    def _small(self) -> Figure:
        with self._agent("small", 4, free_port()) as runtime:
            Plugin(runtime / "lease.sock").until_announced(1)
            times = [command(runtime / "control.sock") for _ in range(20)]
        return Figure(work="anycast status, 4 servers", share=0.5, goal=0.150, values=times)

    @contextlib.contextmanager
    def _agent(self, name: str, servers: int, port: int) -> Iterator[Path]:
        runtime = self._directory / name
        runtime.mkdir()
        config, log = runtime / "anycast.yaml", runtime / "agent.log"
        config.write_text(agent_yaml(servers, runtime, port, self._checked))
        say(f"starting the agent with {servers} servers")
        with log.open("wb") as out, self._helper("--agent", str(config), wait=False, err=out.fileno()):
            until = time.monotonic() + PATIENCE
            while not ((runtime / "control.sock").exists() and (runtime / "lease.sock").exists()):
                if time.monotonic() > until:
                    raise RuntimeError(log.read_text()[-4000:])
                time.sleep(0.05)
            yield runtime

    @contextlib.contextmanager
    def _helper(self, *argv: str, wait: bool = True, err: int | None = None) -> Iterator[None]:
        alone = self._alone if argv[0] == "--agent" else ()
        with subprocess.Popen(
            [*alone, sys.executable, "-m", "lab.bench_ops", *argv],
            stdout=subprocess.PIPE if wait else None,
            stderr=err,
            env=configs.program_environment(),
        ) as process:
            try:
                if wait and process.stdout is not None:
                    process.stdout.readline()
                yield
            finally:
                process.kill()


def summary(figures: Sequence[Figure]) -> str:
    rows = [
        (
            one.work,
            str(len(one.values)),
            *(f"{1000 * one.at(share):.1f} ms" for share in (0.5, 0.99)),
            f"{1000 * max(one.values):.1f} ms",
            "-"
            if one.goal is None
            else f"{'p99' if one.share > 0.5 else 'median'} <= {1000 * one.goal:g} ms",
            one.reached,
        )
        for one in figures
    ]
    return table(("what", "times", "median", "p99", "max", "goal", "reached"), rows, colour=False)


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    match argv:
        case ["--agent", config]:
            return run_agent(config)
        case ["--target", port]:
            return run_target(port)
        case ["--hostile", host, port, count]:
            return run_hostile(host, port, count)
    parser = argparse.ArgumentParser(prog="python -m lab.bench_ops", description=__doc__)
    parser.add_argument("--servers", type=int, default=SERVERS)
    parser.add_argument("--window", type=float, default=WINDOW, help="seconds of each measurement")
    parser.add_argument("--questions", type=int, default=QUESTIONS, help="for each document")
    parser.add_argument("--json", type=Path, default=configs.checkout() / "build" / "bench-ops.json")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was begun is ended on the way out
    hard = max(DESCRIPTORS, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    with contextlib.suppress(ValueError, PermissionError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, hard))
    with tempfile.TemporaryDirectory(prefix="bench-ops-") as name:
        bench = Bench(Path(name), options.servers, options.window, options.questions)
        try:
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        except PermissionError:
            say("no real-time priority here: what else is done on the machine counts too")
        figures = bench.run()
    if missing := [one.work for one in figures if not one.values]:
        raise SystemExit(f"nothing was measured of: {', '.join(missing)}")
    body = {
        one.work: {
            "median": round(one.at(0.5), 5),
            "p99": round(one.at(0.99), 5),
            "max": round(max(one.values), 5),
            "goal": one.goal,
            "reached": one.reached,
            "values": [round(value, 5) for value in one.values],
        }
        for one in figures
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({"figures": body, "load_average": os.getloadavg()}, indent=1) + "\n")
    print(
        f"\n{summary(figures)}\nthe same as JSON: {options.json}",
        flush=True,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
