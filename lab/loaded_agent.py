"""An agent with thousands of real servers, the target of all its checks, and the plugin that takes its leases."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import NamedTuple

import yaml

from anycast.core.values.report import NeighborState
from anycast.core.values.route import Prefix
from anycast.lease import NO_REPORT, Ask, Decoder, Hello, Lease, LeaseChange, Report, changes_of, encode
from anycast.plugin.mirror import Mirror
from lab import configs
from lab.measuring import running
from lab.waiting import until

POOL = 100  # real servers of a service
PORTS = 5  # services of a VIP
TTL = 0.5  # seconds: the shortest there is, for a lease in each sixth of a second
PATIENCE = 90.0  # seconds until the agent announces everything


def vips(servers: int) -> int:
    return -(-servers // (POOL * PORTS))


def agent_yaml(servers: int, directory: Path, *, first: str, checked: int, listen: str) -> str:
    """Every VIP is announced only once each of its real servers is up. `first`: the address of the first one."""
    pools: dict[str, object] = {}
    vips: dict[str, dict[str, list[object]]] = {}
    for place, start in enumerate(range(0, servers, POOL)):
        count = min(POOL, servers - start)
        pools[f"p{place}"] = {
            "check": {"type": "tcp", "port": checked, "interval": "1s", "timeout": "1s"},
            "servers": [
                {"name": f"s{number}", "addresses": [str(IPv4Address(first) + number)]}
                for number in range(start, start + count)
            ],
        }
        vip = place // PORTS
        entry = vips.setdefault(f"v{vip}", {"addresses": [f"192.0.2.{vip + 1}"], "services": []})
        quorum = {"low": 1, "high": count}
        entry["services"].append({"port": 8000 + place % PORTS, "pool": f"p{place}", "quorum": quorum})
    return yaml.safe_dump(
        {
            "node": {
                "name": "lb1",
                "runtime_dir": str(directory),
                "state_dir": str(directory / "state"),
                "exabgp_user": "root",
                "listen": listen,
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


@contextlib.contextmanager
def target(port: int, where: Sequence[str] = ()) -> Iterator[None]:
    """What all the checks look at, once it listens. `where`: the words that start it elsewhere."""
    program = [*where, sys.executable, "-I", "-S", str(Path(__file__).with_name("acceptor.py")), str(port)]
    with running(program, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield


@contextlib.contextmanager
def agent(config: str, runtime: Path, alone: Sequence[str], *options: str) -> Iterator[int]:
    """Its process id, once its sockets are there. `alone`: the words that give it a processor."""
    runtime.mkdir()
    file, log = runtime / "anycast.yaml", runtime / "agent.log"
    file.write_text(config)
    argv = [*alone, sys.executable, "-m", "lab.memory_agent", *options, "agent", "--config", str(file)]
    with (
        log.open("wb") as out,
        running(argv, stderr=out, env=configs.program_environment()) as process,
    ):
        try:
            for name in ("lease.sock", "control.sock"):
                until((runtime / name).exists, f"the agent's {name}", PATIENCE, pause=0.05)
            yield process.pid
        except BaseException:
            sys.stderr.write(log.read_text()[-4000:])
            raise
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10.0)


class Leased(NamedTuple):
    """A lease that has arrived."""

    issued: float
    ttl: float
    routes: frozenset[Prefix]


class Plugin:
    """The other end of the leases, without an ExaBGP: says at once that all is announced."""

    def __init__(self, runtime: Path, neighbors: tuple[NeighborState, ...] = ()) -> None:
        """`neighbors`: the sessions that it reports."""
        self._neighbors = neighbors
        self._line = socket.socket(socket.AF_UNIX)
        self._line.connect(str(runtime / "lease.sock"))
        self._decoder = Decoder()
        self._mirror = Mirror()
        self._said = NO_REPORT
        self._line.sendall(encode(Ask()))

    def leases(
        self, seconds: float, meanwhile: Callable[[], None] | None = None
    ) -> Iterator[tuple[float, Leased]]:
        """Those of so many seconds, each with the instant of its arrival; `meanwhile` is called after each."""
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            self._line.settimeout(left)
            try:
                data = self._line.recv(65536)
            except TimeoutError:
                return
            arrived = time.monotonic()
            if not data:
                raise RuntimeError("the agent has ended its connection")
            for message in self._decoder.feed(data):
                if isinstance(message, Hello):
                    continue
                assert isinstance(message, Lease | LeaseChange)
                if not self._mirror.take(message):  # who stopped iterating has thrown some away
                    self._line.sendall(encode(Ask()))
                    continue
                yield arrived, self._done()
                if meanwhile is not None and time.monotonic() < ends:
                    meanwhile()

    def _done(self) -> Leased:
        mirror, before = self._mirror, self._said
        self._said = Report(seq=mirror.seq, announced=frozenset(mirror.routes), neighbors=self._neighbors)
        self._line.sendall(b"".join(map(encode, changes_of(before, self._said))))
        return Leased(mirror.issued, mirror.ttl, self._said.announced)

    def until_announced(self, vips: int) -> None:
        for _, lease in self.leases(PATIENCE):
            if len(lease.routes) == vips:
                return
        raise RuntimeError(f"after {PATIENCE:g} s the agent does not announce everything: see its log")

    def close(self) -> None:
        self._line.close()


def lateness(leases: Sequence[tuple[float, float, float]]) -> list[float]:
    """How much later than due each lease came but the first. Each is (arrived, issued, ttl).

    One is due a third of the TTL after the one before it was issued; one that a change has brought on is early.
    """
    found = [arrived - (issued + ttl / 3) for (_, issued, ttl), (arrived, _, _) in itertools.pairwise(leases)]
    return [late for late in found if late >= 0]


def ask(port: int, path: str, patience: float = PATIENCE) -> float:
    """Seconds until the whole answer is there. Raises RuntimeError for any other status than 200."""
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=patience)
    with contextlib.closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
    if response.status != 200:
        raise RuntimeError(f"{path} is answered with {response.status}")
    return time.perf_counter() - began
