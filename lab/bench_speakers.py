"""What each speaker costs a node with a thousand VIPs: ExaBGP with its plugin, and BIRD with `anycast announce-table`.

`python -m lab.bench_speakers`, as root: one after the other beside the same FRR router, in network namespaces of this machine's
kernel. The agent's end of the lease is played here, and renewed as an agent does. Processor time at rest, of a drain of
every VIP, and of its end. Prints a table; the same in `build/speakers.json`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from ipaddress import ip_network
from pathlib import Path

from anycast.agent.leases import LeaseServer
from anycast.cli.table import table
from anycast.config.load import loads
from anycast.core.events import Event, PluginLost, PluginReported
from anycast.core.values.configuration import Config
from anycast.core.values.lease import Lease, by_prefix, full_lease, next_lease
from anycast.core.values.report import Report
from anycast.core.values.route import Route, drained
from anycast.render.bird import bird_conf
from anycast.render.exabgp import exabgp_conf
from anycast.sockets import bind_unix
from lab import configs, measuring
from lab.measuring import cpu_time, say
from lab.processes import Process
from lab.scale import fabric as fabrics
from lab.scale.fabric import NODE, ROUTER, Fabric
from lab.scale.sites import LOCAL_AS, ROUTER_AS, vip
from lab.waiting import until

TTL = 2.0  # seconds
TABLE = 1179
PATIENCE = 120.0


class Agent:
    """Leases what it is given, and again each third of the time to live; hears what the other end says."""

    def __init__(self, path: Path) -> None:
        self.report: Report | None = None
        self._seq = 0
        self._routes: tuple[Route, ...] = ()
        self._leased: tuple[Route, ...] = ()
        self._loop = asyncio.new_event_loop()
        self._over, self._news = False, asyncio.Event()
        run = self._loop.run_until_complete
        self._thread = threading.Thread(target=run, args=(self._serve(path),), daemon=True)
        self._thread.start()

    def grant(self, routes: Sequence[Route]) -> int:
        """Returns the number of the first lease with them."""
        self._routes = tuple(routes)
        number = self._seq + 1
        self._loop.call_soon_threadsafe(self._news.set)
        return number

    async def _serve(self, path: Path) -> None:
        server = LeaseServer(self._hear, user="root")
        await server.listen(bind_unix(path, mode=0o666))
        lease: Lease | None = None
        while not self._over:
            self._seq += 1
            lease = self._next(lease)
            server.send(lease)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), TTL / 3)
            self._news.clear()
        await server.close()

    def _next(self, before: Lease | None) -> Lease:
        """As a difference to the one before, as an agent does it."""
        now, routes = time.monotonic(), self._routes
        if before is None:
            return full_lease(seq=self._seq, issued=now, ttl=TTL, routes=routes, owned=())
        same = before.routes if routes is self._leased else by_prefix(routes)
        owned = before.owned if routes is self._leased else before.owned | {one.prefix for one in routes}
        self._leased = routes
        return next_lease(
            base=before.seq,
            digest=before.digest,
            before=before.routes,
            owned_before=before.owned,
            seq=self._seq,
            issued=now,
            ttl=TTL,
            routes=same,
            owned=owned,
        )

    def _hear(self, event: Event) -> None:
        match event:
            case PluginReported(report=report):
                self.report = report
            case PluginLost():
                self.report = None

    def settled(self, number: int) -> None:
        def so() -> bool:
            said = self.report
            return said is not None and said.seq >= number and not (said.pending or said.failed)

        until(so, "everything as it is leased", PATIENCE, pause=0.01)

    def close(self) -> None:
        self._over = True
        self._loop.call_soon_threadsafe(self._news.set)
        self._thread.join()


@dataclass(frozen=True, slots=True)
class Row:
    """Of one process. `rest`: percent of a processor; the others are seconds of it. `rss`: MiB at rest."""

    speaker: str
    process: str
    rest: float
    drain: float
    back: float
    rss: float


def config(folder: Path, count: int, *, by_bird: bool) -> Config:
    vips = "\n".join(f"  v{n}: {{address: {vip(n)}, port: 80, servers: [10.9.2.1]}}" for n in range(count))
    speaker = f"speaker: {{type: kernel-table, table: {TABLE}, socket: {folder}/bird.ctl, user: root}}"
    return loads(
        f"""
node: {{name: lb1, runtime_dir: {folder}, exabgp_user: root}}
{speaker if by_bird else ""}
bgp:
  local_as: {LOCAL_AS}
  router_id: {NODE}
  hold_time: 9
  neighbors: [{{address: {ROUTER}, remote_as: {ROUTER_AS}, local_address: {NODE}}}]
vips:
{vips}
""",
        hostname="lb1",
    ).config


@contextlib.contextmanager
def exabgp(fabric: Fabric, folder: Path, count: int) -> Iterator[Callable[[], dict[str, int]]]:
    """What runs for the block, with its process ids once it is asked for them."""
    conf = folder / "exabgp.conf"
    conf.write_text(exabgp_conf(config(folder, count, by_bird=False), command=" ".join(configs.program())))
    env = configs.program_environment() | {"exabgp_daemon_user": "root", "exabgp_log_level": "WARNING"}
    argv = [str(Path(configs.program()[0]).with_name("exabgp")), str(conf)]
    process = fabric.spawn("exabgp", argv, fabric.node, env)
    try:
        yield lambda: {"plugin": fabrics.plugin_of(process), "ExaBGP": process.pid}
    finally:
        process.end()


@contextlib.contextmanager
def bird(fabric: Fabric, folder: Path, count: int) -> Iterator[Callable[[], dict[str, int]]]:
    (folder / "anycast.conf").write_text(bird_conf(config(folder, count, by_bird=True)))
    main, control = folder / "bird.conf", folder / "bird.ctl"
    main.write_text(f'router id {NODE};\nprotocol device {{}}\ninclude "{folder}/anycast.conf";\n')
    argv = ["bird", "-f", "-c", str(main), "-s", str(control), "-P", str(folder / "bird.id")]
    processes: list[Process] = []
    try:
        processes.append(fabric.spawn("bird", argv, fabric.node))
        words = (
            "announce-table",
            "--table",
            str(TABLE),
            "--socket",
            str(folder / "lease.sock"),
            "--bird",
            str(control),
        )
        env = configs.program_environment()
        processes.append(fabric.spawn("announcer", configs.program(*words), fabric.node, env))
        yield lambda: {"announcer": processes[1].pid, "BIRD": processes[0].pid}
    finally:
        for process in reversed(processes):
            process.end()


def measured(fabric: Fabric, speaker: str, count: int, rest: float) -> list[Row]:
    folder = Path(tempfile.mkdtemp(dir=fabric.folder))
    agent = Agent(folder / "lease.sock")
    runs = exabgp if speaker == "exabgp" else bird
    routes = [Route(prefix=ip_network(vip(n))) for n in range(count)]
    with contextlib.closing(agent), runs(fabric, folder, count) as pids:
        agent.settled(agent.grant(routes))
        fabric.table.wait(lambda: fabric.table.count(NODE) == count, PATIENCE)
        say(f"{speaker}: {count:,} routes in the router's kernel")
        time.sleep(5.0)  # what came with the start is over
        known = pids()
        used: dict[str, list[float]] = {name: [] for name in known}
        acts: tuple[Callable[[], None], ...] = (
            lambda: time.sleep(rest),
            lambda: agent.settled(agent.grant([drained(one) for one in routes])),
            lambda: agent.settled(agent.grant(routes)),
        )
        for number, act in enumerate(acts):
            before = {name: cpu_time(pid) for name, pid in known.items()}
            act()
            if number:
                time.sleep(2.0)  # the daemon's part comes after it
            for name, pid in known.items():
                used[name].append(cpu_time(pid) - before[name])
        memory = {name: _rss(pid) for name, pid in known.items()}
    fabric.table.wait(lambda: not fabric.table.count(NODE), PATIENCE)
    return [
        Row(speaker, name, seconds[0] / rest * 100, seconds[1], seconds[2], memory[name])
        for name, seconds in used.items()
    ]


def _rss(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def rows_table(rows: Sequence[Row], count: int) -> str:
    """`count`: of VIPs."""
    head = (f"SPEAKER, {count:,} VIPS", "PROCESS", "AT REST", "DRAIN OF ALL", "ITS END", "RSS")
    found = [
        (
            one.speaker,
            one.process,
            f"{one.rest:.2f} %",
            f"{one.drain * 1000:.0f} ms",
            f"{one.back * 1000:.0f} ms",
            f"{one.rss:.1f} MiB",
        )
        for one in rows
    ]
    return table(head, found, colour=False)


def main() -> None:
    parser = measuring.options("lab.bench_speakers", __doc__, "speakers.json")
    parser.add_argument("--vips", type=int, default=1000)
    parser.add_argument("--rest", type=float, default=60.0, help="seconds at rest")
    given = parser.parse_args()
    measuring.ready("bench_speakers", root=True)
    if missing := fabrics.missing():
        raise SystemExit(f"{missing} is not installed (./lab/install routers)")
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    rows: list[Row] = []
    with fabrics.fabric() as fabric:
        for speaker in ("exabgp", "bird", "exabgp", "bird"):
            rows += measured(fabric, speaker, given.vips, given.rest)
    found = {"speakers": {"vips": given.vips, "rest_s": given.rest, "rows": list(map(asdict, rows))}}
    measuring.leave(given.json, found, rows_table(rows, given.vips))


if __name__ == "__main__":
    main()
