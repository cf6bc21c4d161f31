"""What the routers' view costs a node: a router that sends every path of a thousand VIPs of sixteen nodes, one that restarts,
and one that sends 100,000 routes of others by mistake.

`python -m lab.bench_view`: root, on loopback, port 179 of 127.9.0.2. The real ExaBGP with the rendered configuration and the
real plugin; router and agent's end of the lease are played here. Processor time at rest is compared with the same plugin
without a view, in the same run. Prints a table; the same in `build/view.json`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address, ip_network
from pathlib import Path
from typing import Any

from anycast.agent.leases import LeaseServer
from anycast.cli.table import table
from anycast.config.load import loads
from anycast.core.events import Event, PluginLost, PluginReported, PluginSaw
from anycast.core.preference import Routers
from anycast.core.values.configuration import Config
from anycast.core.values.lease import full_lease, next_lease
from anycast.core.values.report import Report
from anycast.core.values.route import Prefix, Route
from anycast.core.values.sight import RouterView
from anycast.render.exabgp import exabgp_conf
from anycast.sockets import bind_unix
from lab import configs, measuring
from lab.measuring import cpu_time, say

NODES, VIPS, FLOOD, REST = 16, 1000, 100_000, 30.0
ROUTER, NODE = "127.9.0.2", "127.9.0.1"
ROUTER_AS, NODE_AS = 65000, 65001
PATIENCE = 120.0  # seconds
CPU_GOAL, MEMORY_GOAL = 1.0, 30.0  # percent of a processor, MiB
_MARKER = b"\xff" * 16
_EXABGP = Path(sys.executable).with_name("exabgp")


def config(folder: Path, count: int, *, view: bool) -> Config:
    vips = "\n".join(
        f"  v{n}: {{address: 10.50.{n // 250}.{n % 250 + 1}, port: 80, servers: [10.9.2.1]}}"
        for n in range(count)
    )
    return loads(
        f"""
node: {{name: lb1, runtime_dir: {folder}, exabgp_user: root}}
bgp:
  local_as: {NODE_AS}
  router_id: {NODE}
  hold_time: 9
  view: {str(view).lower()}
  software: frr
  neighbors: [{{address: {ROUTER}, remote_as: {ROUTER_AS}}}]
vips:
{vips}
""",
        hostname="lb1",
    ).config


def _message(kind: int, body: bytes) -> bytes:
    return _MARKER + struct.pack("!HB", 19 + len(body), kind) + body


def _open() -> bytes:
    capabilities = (
        struct.pack("!BBHBB", 1, 4, 1, 0, 1)  # IPv4 unicast
        + struct.pack("!BBI", 65, 4, ROUTER_AS)
        + struct.pack("!BBHBB", 69, 4, 1, 1, 2)  # add-path: it sends
    )
    parameters = struct.pack("!BB", 2, len(capabilities)) + capabilities
    fixed = struct.pack("!BHH4sB", 4, ROUTER_AS, 9, IPv4Address(ROUTER).packed, len(parameters))
    return _message(1, fixed + parameters)


def _updates(prefixes: Sequence[Prefix], first: int, owner: int | None) -> Iterator[bytes]:
    """Paths with identifiers from `first` on, marked as those of the node `owner`; None: without a mark."""
    asn = NODE_AS + (owner or 0)
    attributes = b"\x40\x01\x01\x00" + b"\x40\x02\x0a\x02\x02" + struct.pack("!II", ROUTER_AS, asn)
    attributes += b"\x40\x03\x04" + IPv4Address(ROUTER).packed
    if owner is not None:
        number = int(IPv4Address(NODE)) + owner
        attributes += b"\xc0\x20\x0c" + struct.pack("!III", asn, 1179, number)
    room = (4096 - 19 - 4 - len(attributes)) // 9
    for start in range(0, len(prefixes), room):
        some = b"".join(
            struct.pack("!IB4s", first + start + n, one.prefixlen, one.network_address.packed)
            for n, one in enumerate(prefixes[start : start + room])
        )
        yield _message(2, struct.pack("!HH", 0, len(attributes)) + attributes + some)


END_OF_RIB = _message(2, b"\0\0\0\0")


class Router:
    """Sends what it is given at each session, End-of-RIB behind it; takes everything."""

    def __init__(self) -> None:
        self._listener = socket.create_server((ROUTER, 179))
        self._session: socket.socket | None = None
        self.table: list[bytes] = []
        self.longest = 0.0  # seconds between two messages of the node
        self.sessions = 0
        self.closing = False
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while not self.closing:
            with contextlib.suppress(OSError):
                session, _ = self._listener.accept()
                self._speak(session)

    def _speak(self, session: socket.socket) -> None:
        session.sendall(_open())
        self._session, keeper = session, threading.Event()
        threading.Thread(target=self._keep, args=(session, keeper), daemon=True).start()
        sent, heard = False, time.monotonic()
        with contextlib.suppress(OSError):
            while data := session.recv(65536):
                now = time.monotonic()
                self.longest, heard = max(self.longest, now - heard), now
                if not sent and b"\x00\x13\x04" in data:  # its first KEEPALIVE: the session is up
                    sent, self.sessions = True, self.sessions + 1
                    threading.Thread(target=self.send, args=([*self.table, END_OF_RIB],), daemon=True).start()
        keeper.set()
        session.close()

    def _keep(self, session: socket.socket, over: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while True:
                session.sendall(_message(4, b""))
                if over.wait(3.0):
                    return

    def send(self, messages: Sequence[bytes]) -> None:
        if self._session is not None:
            with contextlib.suppress(OSError):
                for message in messages:
                    self._session.sendall(message)

    def reset(self) -> None:
        """As if it had died: it takes the next session."""
        if self._session is not None:
            with contextlib.suppress(OSError):
                self._session.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.closing = True
        self._listener.shutdown(socket.SHUT_RDWR)  # else who waits for a connection keeps the address
        self._listener.close()
        self.reset()


class Agent:
    """Leases every VIP for as long as it lasts, and hears what the plugin says."""

    def __init__(self, path: Path, one: Config) -> None:
        routers = Routers(one.bgp)
        routes: dict[Prefix, Route] = {}
        for vip in one.vips:
            for address in vip.addresses:
                prefix = ip_network(address)
                if (route := routers.route(vip, prefix, drain=False)) is not None:
                    routes[prefix] = route
        self._routes, self._mark = routes, one.bgp.mark
        self.report: Report | None = None
        self.view: RouterView | None = None
        self.sights = self.messages = 0
        self._path = path
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._thread = threading.Thread(
            target=self._loop.run_until_complete, args=(self._serve(),), daemon=True
        )
        self._thread.start()

    async def _serve(self) -> None:
        server = LeaseServer(self._hear, user="root")
        await server.listen(bind_unix(self._path, mode=0o666))
        owned = frozenset(self._routes)
        lease = full_lease(
            seq=1,
            issued=time.monotonic(),
            ttl=2.0,
            routes=self._routes.values(),
            owned=owned,
            mark=self._mark,
        )
        while not self._over.is_set():
            server.send(lease)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), 2 / 3)
            lease = next_lease(
                base=lease.seq,
                digest=lease.digest,
                before=lease.routes,
                owned_before=lease.owned,
                seq=lease.seq + 1,
                issued=time.monotonic(),
                ttl=2.0,
                routes=lease.routes,
                owned=lease.owned,
                mark=lease.mark,
            )
        await server.close()

    def _hear(self, event: Event) -> None:
        match event:
            case PluginReported(report=report):
                self.report = report
            case PluginSaw(change=change):
                self.messages += 1
                self.sights += sum(len(some) for _, some in change.sights)
                self.view = next(iter(change.views), None)
            case PluginLost():
                self.report = self.view = None

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()


def _until(what: Any, about: str) -> float:
    """Seconds until it is true. Raises TimeoutError."""
    began = time.monotonic()
    while not what():
        if time.monotonic() - began > PATIENCE:
            raise TimeoutError(about)
        time.sleep(0.02)
    return time.monotonic() - began


def rss(pid: int) -> float:
    """MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


class Pipe:
    """How much waits on a process's standard input, looked at a hundred times a second."""

    def __init__(self, pid: int) -> None:
        self._fd = os.open(f"/proc/{pid}/fd/0", os.O_RDONLY | os.O_NONBLOCK)
        self.most = 0  # bytes
        self.longest = 0.0  # seconds without an empty pipe
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        since = None
        while not self._over.wait(0.01):
            waits = struct.unpack("i", fcntl.ioctl(self._fd, termios.FIONREAD, bytes(4)))[0]
            now = time.monotonic()
            self.most = max(self.most, waits)
            since = (since or now) if waits else None
            self.longest = max(self.longest, 0.0 if since is None else now - since)

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        os.close(self._fd)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """`cpu`: seconds of the plugin, or percent at rest. `silent`: the longest time without a word from ExaBGP."""

    what: str
    seconds: float
    cpu: float
    exabgp: float
    rss: float
    exabgp_rss: float
    waits: float = 0.0
    silent: float = 0.0
    late: int = 0
    resting: bool = False


class Site:
    def __init__(self, folder: Path, count: int, *, view: bool) -> None:
        self.config = config(folder, count, view=view)
        self.router = Router()
        self.agent = Agent(folder / "lease.sock", self.config)
        (folder / "exabgp.conf").write_text(exabgp_conf(self.config, command=f"{sys.executable} -m anycast"))
        env = os.environ | {
            "PYTHONPATH": str(configs.checkout()),
            "exabgp_daemon_user": "root",
            "exabgp_api_cli": "false",
            "exabgp_log_level": "WARNING",
        }
        self._exabgp = subprocess.Popen(
            [_EXABGP, folder / "exabgp.conf"], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    @property
    def exabgp(self) -> int:
        return self._exabgp.pid

    @property
    def plugin(self) -> int:
        assert self.agent.report is not None
        return self.agent.report.pid

    def is_settled(self) -> bool:
        report = self.agent.report
        if report is None or not report.seq or report.pending:
            return False
        up = any(one.state == "up" for one in report.neighbors)
        return up and len(report.announced) == len(self.config.vips)

    def measured(self, what: str, act: Any, over: Any) -> Row:
        pipe = Pipe(self.plugin)
        ours, theirs = cpu_time(self.plugin), cpu_time(self.exabgp)
        self.router.longest = 0.0
        act()
        took = _until(over, what)
        pipe.close()
        report = self.agent.report
        return Row(
            what=what,
            seconds=took,
            cpu=cpu_time(self.plugin) - ours,
            exabgp=cpu_time(self.exabgp) - theirs,
            rss=rss(self.plugin),
            exabgp_rss=rss(self.exabgp),
            waits=pipe.longest,
            silent=self.router.longest,
            late=0 if report is None else report.late_leases,
        )

    def rest(self, what: str, seconds: float) -> Row:
        ours, theirs = cpu_time(self.plugin), cpu_time(self.exabgp)
        time.sleep(seconds)
        share, other = (
            100 * (now - then) / seconds
            for now, then in ((cpu_time(self.plugin), ours), (cpu_time(self.exabgp), theirs))
        )
        return Row(
            what=what,
            seconds=seconds,
            cpu=share,
            exabgp=other,
            rss=rss(self.plugin),
            exabgp_rss=rss(self.exabgp),
            resting=True,
        )

    def close(self) -> None:
        self._exabgp.kill()
        self._exabgp.wait()
        self.agent.close()
        self.router.close()


@contextlib.contextmanager
def site(count: int, *, view: bool) -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="anycast-view-") as place:
        one = Site(Path(place), count, view=view)
        try:
            _until(one.is_settled, "no session, or not all is announced")
            yield one
        finally:
            one.close()


def whole_table(one: Config, nodes: int) -> list[bytes]:
    """Every path that the router has: one of each node for each VIP."""
    prefixes = [ip_network(address) for vip in one.vips for address in vip.addresses]
    return [
        message for owner in range(nodes) for message in _updates(prefixes, 1 + owner * len(prefixes), owner)
    ]


def run(nodes: int, vips: int, flood: int, rest: float) -> list[Row]:
    rows = []
    say("without a view")
    with site(vips, view=False) as one:
        rows.append(one.rest("at rest, without a view", rest))
    say("with a view")
    with site(vips, view=True) as one:
        paths = nodes * vips

        def has_all() -> bool:
            view = one.agent.view
            return view is not None and view.paths == paths and view.complete is not None

        one.router.table = whole_table(one.config, nodes)
        rows.append(one.measured(f"router restarts, {paths:,} paths come", one.router.reset, has_all))
        say("at rest")
        time.sleep(5.0)
        rows.append(one.rest(f"at rest, {paths:,} paths", rest))
        say("the flood")
        others = [ip_network((int(IPv4Address("172.16.0.0")) + n, 32)) for n in range(flood)]
        messages = list(_updates(others, 10_000_000, None))

        def dropped_all() -> bool:
            view = one.agent.view
            return view is not None and view.dropped >= flood

        rows.append(
            one.measured(f"{flood:,} routes of others come", lambda: one.router.send(messages), dropped_all)
        )
        view, sessions = one.agent.view, one.router.sessions
        assert view is not None
        assert (view.paths, sessions, one.is_settled()) == (paths, 2, True), (view, sessions)
        rows.append(one.rest("at rest after it", rest))
    return rows


def shown(rows: Sequence[Row]) -> str:
    def of(row: Row) -> tuple[str, ...]:
        resting = row.resting
        unit = "%" if resting else "s"
        moving = ("-", "-", "-") if resting else (f"{row.waits:.2f} s", f"{row.silent:.2f} s", str(row.late))
        return (
            row.what,
            f"{row.seconds:.1f} s",
            f"{row.cpu:.2f} {unit}",
            f"{row.rss:.1f} MiB",
            *moving,
            f"{row.exabgp:.2f} {unit}",
            f"{row.exabgp_rss:.1f} MiB",
        )

    head = (
        "what",
        "for",
        "plugin's cpu",
        "its memory",
        "stdin waits",
        "exabgp silent",
        "late leases",
        "exabgp's cpu",
        "exabgp's memory",
    )
    return table(head, [of(row) for row in rows], colour=False)


def main() -> int:
    parser = measuring.options("lab.bench_view", __doc__, "view.json")
    parser.add_argument("--nodes", type=int, default=NODES)
    parser.add_argument("--vips", type=int, default=VIPS)
    parser.add_argument("--flood", type=int, default=FLOOD)
    parser.add_argument("--seconds", type=float, default=REST, help="of rest")
    options = parser.parse_args()
    measuring.ready("bench_view", root=True)
    rows = run(options.nodes, options.vips, options.flood, options.seconds)
    measuring.leave(options.json, {"rows": [asdict(row) for row in rows]}, shown(rows))
    before, after = rows[0], next(row for row in rows[1:] if row.resting)
    return int(after.cpu - before.cpu > CPU_GOAL or after.rss > MEMORY_GOAL)


if __name__ == "__main__":
    sys.exit(main())
