"""A router (FRR) and a node (ExaBGP with `anycast announce`) in two network namespaces, and the agent's end of the lease.

The agent is played by the test; everything else is the real program. What counts is the router's kernel table.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any

from anycast.agent.leases import LeaseServer
from anycast.core.events import Event, PluginConnected, PluginLost, PluginReported, PluginSaw
from anycast.core.values.lease import Lease, by_prefix, full_lease, next_lease
from anycast.core.values.report import Report
from anycast.core.values.route import Mark, Prefix, Route
from anycast.sockets import bind_unix
from lab import netns, suites
from lab.processes import Process, spawn
from lab.routewatch import RouteTable, RouteWatch

CHECKOUT = Path(__file__).resolve().parents[2]
FRR = Path("/usr/lib/frr")
EXABGP = Path(sys.executable).with_name("exabgp")
PLUGIN = (sys.executable, "-m", "anycast", "announce")

PATIENCE = 15.0  # seconds; an event that takes longer does not come
TTL = 2.0  # seconds
ROUTER_AS, NODE_AS = 65000, 65001
ROUTER4, NODE4 = "10.90.0.1", "10.90.0.2"
ROUTER6, NODE6 = "fd00:90::1", "fd00:90::2"

VIPS4 = tuple(IPv4Network(f"10.99.0.{i}/32") for i in range(1, 65))
VIPS6 = tuple(IPv6Network(f"fd00:99::{i:x}/128") for i in range(1, 9))
MARKERS = (ip_network("10.99.1.1/32"), ip_network("fd00:99:1::1/128"))

BOTH_SESSIONS = ((ROUTER4, NODE4, "ipv4"), (ROUTER6, NODE6, "ipv6"))
ONE_SESSION = ((ROUTER4, NODE4, "ipv4 unicast; ipv6"),)  # both families over the IPv4 transport


def missing() -> str | None:
    """Why these tests cannot run here; None: they can."""
    if os.geteuid() != 0:
        return "real BGP needs root: network namespaces, port 179"
    if not (FRR / "bgpd").exists() or shutil.which("vtysh") is None:
        return "no FRR here: apt install frr"
    return None


class Agent:
    """The agent's end of the lease, in a thread: the real server, with a lease that the test grants and nobody decides."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sequence = 0
        self._granted: tuple[tuple[Route, ...], frozenset[Prefix], float] | None = None
        self._newest: Lease | None = None
        self._renewed = 0.0  # seconds between renewals; 0: never
        self._last: Report | None = None
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self.connections = 0
        self.mark: Mark | None = None  # of this node's paths; with the next lease
        self.heard: list[tuple[float, Event]] = []  # of plugins, with their instants
        self.open()

    def open(self) -> None:
        listener = bind_unix(self._path, mode=0o666)
        self._loop = asyncio.new_event_loop()
        self._stop, self._wake = asyncio.Event(), asyncio.Event()
        self._thread = threading.Thread(
            target=self._loop.run_until_complete, args=(self._serve(listener),), daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """As if the agent had died: its end of every connection goes, and the socket."""
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._end)
            self._thread.join()
            self._loop.close()
            self._thread = None
            self._path.unlink()

    def grant(
        self, *routes: Route, owned: Sequence[Prefix] = (), ttl: float = TTL, renew: bool = True
    ) -> int:
        """From now on the lease is this, sent at once, and again each third of `ttl` with `renew`. Returns its number."""
        with self._changed:
            prefixes = frozenset(owned) or frozenset(route.prefix for route in routes)
            self._granted, self._renewed = (routes, prefixes, ttl), ttl / 3 if renew else 0.0
            number = self._sequence + 1
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._wake.set)
        return number

    def wait(self, what: Callable[[Report], bool], timeout: float = PATIENCE) -> Report:
        """The newest report, as soon as `what` is true of it. Raises TimeoutError with what it says instead."""
        with self._changed:
            self._changed.wait_for(lambda: self._last is not None and what(self._last), timeout)
            if self._last is None or not what(self._last):
                raise TimeoutError(f"after {timeout:g} s the newest report is {self._last}")
            return self._last

    def wait_or_end(self, what: Callable[[Report], bool], process: Process) -> Report | None:
        """The newest report that `what` is true of; None: `process` has ended meanwhile."""
        deadline = time.monotonic() + PATIENCE
        while process.alive():
            with contextlib.suppress(TimeoutError):
                return self.wait(what, 0.05)
            assert time.monotonic() < deadline, "no such report"
        return None

    def settled(self, number: int) -> Report:
        """The report by which ExaBGP has taken everything that lease `number` asked for."""
        return self.wait(lambda report: report.seq >= number and not report.pending and not report.failed)

    def _end(self) -> None:
        self._stop.set()
        self._wake.set()

    async def _serve(self, listener: socket.socket) -> None:
        server = LeaseServer(self._hear, user="root")
        self._server = server
        await server.listen(listener)
        while not self._stop.is_set():
            if (lease := self._next()) is not None:
                server.send(lease)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._renewed or None)
            self._wake.clear()
        await server.close()
        self._newest = None

    def _next(self) -> Lease | None:
        with self._changed:
            if self._granted is None:
                return None
            routes, owned, ttl = self._granted
            self._sequence += 1
            now, before = time.monotonic(), self._newest
            if before is None:
                self._newest = full_lease(
                    seq=self._sequence, issued=now, ttl=ttl, routes=routes, owned=owned, mark=self.mark
                )
            else:
                same = routes == tuple(before.routes.values())
                self._newest = next_lease(
                    base=before.seq,
                    digest=before.digest,
                    before=before.routes,
                    owned_before=before.owned,
                    seq=self._sequence,
                    issued=now,
                    ttl=ttl,
                    routes=before.routes if same else by_prefix(routes),
                    owned=before.owned if owned == before.owned else owned,
                    mark=self.mark,
                )
            return self._newest

    def _hear(self, event: Event) -> None:
        with self._changed:
            if isinstance(event, PluginConnected | PluginReported | PluginSaw | PluginLost):
                self.heard.append((time.monotonic(), event))
            match event:
                case PluginConnected():
                    self.connections += 1
                    self._wake.set()
                case PluginReported(report=report):
                    self._last = report
                case PluginLost():
                    self._last = None
            self._changed.notify_all()


_READY = {
    "zebra": "zserv.api",
    **{name: f"{name}.vty" for name in ("bgpd", "bfdd", "ospfd", "ospf6d")},
}


def start_frr(
    place: str,
    folder: Path,
    names: Sequence[str],
    debian: Path | None = None,
    *,
    port: int = 179,
    zebra: Sequence[str] = (),
) -> list[Process]:
    """FRR's daemons in namespace `place`, each with `NAME.conf` of the folder if it is there. The folder becomes FRR's.

    `debian`: where the FRR of another Debian is (see `lab.suites`). `port`: bgpd's. `zebra`: what its command line has.
    """
    options = {"zebra": zebra, "bgpd": ("-p", str(port)) if port != 179 else ()}
    os.chown(folder, *_ids("frr", debian))
    daemons: list[Process] = []
    try:
        for name in names:
            daemons.append(_start_frr(place, folder, name, debian, options.get(name, ())))
            _await_path(folder / _READY[name], folder / f"{name}.log")
    except BaseException:
        for daemon in daemons:
            daemon.end()
        raise
    return daemons


def _ids(user: str, debian: Path | None) -> tuple[int, int]:
    for line in ((debian or Path("/")) / "etc/passwd").read_text().splitlines():
        name, _, uid, gid, *_ = line.split(":")
        if name == user:
            return int(uid), int(gid)
    raise LookupError(f"no user {user} in {debian or 'this Debian'}")


def _start_frr(place: str, folder: Path, name: str, debian: Path | None, options: Sequence[str]) -> Process:
    (folder / _READY[name]).unlink(missing_ok=True)  # of a life before
    if not (folder / f"{name}.conf").exists():
        (folder / f"{name}.conf").write_text("frr defaults traditional\n")
    conf, pid, log = (folder / f"{name}.{what}" for what in ("conf", "pid", "log"))
    argv = [str(FRR / name), "-u", "frr", "-g", "frr", "-f", str(conf), "-i", str(pid), "-P", "0"]
    argv += ["-z", str(folder / "zserv.api"), "--vty_socket", str(folder), "--log", "stdout"]
    argv += options
    argv += ["--bfdctl", str(folder / "bfdd.sock")] if name == "bfdd" and _bfdd_has_a_socket(debian) else []
    return spawn(of(debian, argv), netns=place, env=os.environ, log=log, record=folder / f"{name}.record")


@functools.cache
def _bfdd_has_a_socket(debian: Path | None) -> bool:
    """FRR 8 to 10.2 would make it in /run/frr, which is the machine's; later ones have none."""
    argv = of(debian, [str(FRR / "bfdd"), "--help"])
    return "--bfdctl" in subprocess.run(argv, capture_output=True, text=True, check=False).stdout


def of(debian: Path | None, argv: Sequence[str]) -> list[str]:
    """The command that runs the program of that Debian; None: this machine's."""
    return list(argv) if debian is None else suites.enter(debian, argv)


def vtysh(folder: Path, *commands: str, debian: Path | None = None) -> str:
    argv = of(debian, ["vtysh", "--vty_socket", str(folder), *(word for c in commands for word in ("-c", c))])
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=PATIENCE).stdout


class Router:
    """FRR's zebra and bgpd in a namespace of their own, and a view of its kernel table."""

    def __init__(self, place: str, folder: Path) -> None:
        self.place = place
        self._folder = folder
        self._log = folder / "bgpd.log"
        self._daemons: list[Process] = []
        self.table = RouteWatch(RouteTable([str(p) for p in (*VIPS4, *VIPS6, *MARKERS)], {}, place))

    def start(self) -> None:
        (self._folder / "zebra.conf").write_text("frr defaults traditional\nno zebra nexthop kernel enable\n")
        (self._folder / "bgpd.conf").write_text(_bgpd_conf())
        self._daemons += start_frr(self.place, self._folder, ("zebra", "bgpd"))

    def stop(self) -> None:
        self.table.close()
        for daemon in reversed(self._daemons):
            daemon.end()

    def vtysh(self, *commands: str) -> str:
        return vtysh(self._folder, *commands)

    def path(self, prefix: Prefix) -> dict[str, Any]:
        """The only path to `prefix` that bgpd knows."""
        answer = json.loads(self.vtysh(f"show bgp ipv{prefix.version} unicast {prefix} json"))
        (path,) = answer["paths"]
        assert isinstance(path, dict)
        return path

    def now(self) -> int:
        """The place in bgpd's log from which `heard` may read."""
        return self._log.stat().st_size

    def heard(self, prefix: Prefix, since: int) -> str:
        """What bgpd was told of `prefix`, in order: + announced, - withdrawn."""
        with self._log.open("rb") as log:
            log.seek(since)
            told = [
                line for line in log.read().decode().splitlines() if "rcvd" in line and f" {prefix} " in line
            ]
        return "".join("-" if "withdrawn" in line else "+" for line in told)

    def sessions(self, neighbor: str) -> int:
        """How often the session with `neighbor` has been established."""
        return int(self.neighbor(neighbor)["connectionsEstablished"])

    def neighbor(self, address: str) -> dict[str, Any]:
        answer = json.loads(self.vtysh(f"show bgp neighbors {address} json"))[address]
        assert isinstance(answer, dict)
        return answer

    def has(self, prefix: Prefix) -> bool:
        return bool(self.table.routes()[str(prefix)])

    def wait_for(self, *prefixes: Prefix) -> None:
        """Until the kernel forwards to the node. Raises TimeoutError."""
        for prefix in prefixes:
            self.table.wait(str(prefix), [NODE4 if prefix.version == 4 else NODE6], PATIENCE)

    def wait_without(self, *prefixes: Prefix) -> None:
        """Until there is no route. Raises TimeoutError."""
        for prefix in prefixes:
            self.table.wait(str(prefix), [], PATIENCE)


class Speaker:
    """ExaBGP with the plugin in a namespace, and the agent that the plugin listens to."""

    def __init__(
        self,
        place: str,
        folder: Path,
        conf: str,
        ends: Sequence[str],
        *,
        env: Mapping[str, str],
    ) -> None:
        self.agent = Agent(folder / "lease.sock")
        self.log = folder / "exabgp.log"  # the plugin's too
        self._folder = folder
        self._place = place
        self._argv = [str(EXABGP), str(folder / "exabgp.conf")]
        self._ends = ends
        self._env = env
        (folder / "exabgp.conf").write_text(conf)
        self.start()

    def start(self) -> None:
        env = (
            os.environ
            | self._env
            | {
                "PYTHONPATH": os.pathsep.join([*filter(None, [self._env.get("PYTHONPATH")]), str(CHECKOUT)]),
                # Not `drop=false`: with it ExaBGP drops privileges after the first start, so a second start differs.
                "exabgp_daemon_user": "root",
                "exabgp_api_cli": "false",
                "exabgp_api_terminate": "true",
                "exabgp_log_level": self._env.get("exabgp_log_level", "WARNING"),
                "exabgp_tcp_bind": " ".join(self._ends),
            }
        )
        record = self._folder / "exabgp.record"
        self.exabgp = spawn(self._argv, netns=self._place, env=env, log=self.log, record=record)

    def configure(self, conf: str) -> None:
        """What ExaBGP reads at its next start or reload."""
        (self._folder / "exabgp.conf").write_text(conf)

    def conf(self) -> str:
        return (self._folder / "exabgp.conf").read_text()

    def stop(self) -> None:
        self.exabgp.end(grace=0.0)
        self.agent.close()
        print(self.log.read_text())  # pytest shows it of a test that failed

    def want(self, *routes: Route, ttl: float = TTL, renew: bool = True) -> Report:
        """Leases `routes`; returns once ExaBGP has taken them."""
        return self.agent.settled(self.agent.grant(*routes, ttl=ttl, renew=renew))

    def up(self) -> Report:
        """Once every BGP session is up."""
        count = len(self._ends)
        return self.agent.wait(lambda report: sum(n.state == "up" for n in report.neighbors) == count)


class Node(Speaker):
    """A speaker beside FRR's router."""

    def __init__(
        self,
        around: Site,
        folder: Path,
        *,
        own: Sequence[Prefix] = (),
        sessions: Sequence[tuple[str, str, str]] = BOTH_SESSIONS,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.router = around.router
        self.journal = folder / "plugin" / "journal.json"
        self._routes: tuple[Route, ...] = ()
        self._own = tuple(own)
        run = [*PLUGIN, "--socket", str(folder / "lease.sock"), "--journal", str(self.journal)]
        run += [word for prefix in own for word in ("--own", str(prefix))]
        ends = [session[1] for session in sessions]
        super().__init__(around.place, folder, _exabgp_conf(run, sessions), ends, env=dict(env or {}))

    def want(self, *routes: Route, ttl: float = TTL, renew: bool = True) -> Report:
        self._routes = routes
        return self.agent.settled(self._grant(*routes, ttl=ttl, renew=renew))

    def _grant(self, *routes: Route, ttl: float = TTL, renew: bool = True) -> int:
        """What the node owns it owns whatever it announces."""
        owned = [*self._own, *(route.prefix for route in routes)]
        return self.agent.grant(*routes, owned=owned, ttl=ttl, renew=renew)

    def barrier(self) -> None:
        """Until everything ExaBGP has taken so far is through the router and in its kernel table.

        Neither ExaBGP nor FRR overtakes: a route announced now arrives after all that went before.
        """
        ends = [marker for marker in MARKERS if any(_version(end) == marker.version for end in self._ends)]
        self.agent.settled(self._grant(*self._routes, *(Route(prefix=marker) for marker in ends)))
        self.router.wait_for(*ends)
        self.agent.settled(self._grant(*self._routes))
        self.router.wait_without(*ends)


@dataclass(frozen=True, slots=True)
class Site:
    router: Router
    place: str  # the namespace beside the router, for a node
    folder: Path


@dataclass(frozen=True, slots=True)
class Places:
    """Namespaces for a router and a node that share a link of both families, and for the switch between them."""

    router: str
    node: str
    switch: str = ""

    def cut(self) -> None:
        """The switch carries nothing any more; both ends keep their carrier."""
        _ip("link set n1 nomaster", place=self.switch)

    def mend(self) -> None:
        _ip("link set n1 master br0", place=self.switch)


# Of this run alone. Not its process number: two runs in PID namespaces have the same, and a run that was killed leaves its
# names to the next.
MARK = f"anycast-bgp{uuid.uuid4().hex[:8]}"


@contextlib.contextmanager
def places(*, switch: bool = False) -> Iterator[Places]:
    names = (f"{MARK}-{name}" for name in ("router", "node", "switch"))
    found = Places(next(names), next(names), next(names) if switch else "")
    with contextlib.ExitStack() as undo:
        for place in (found.router, found.node, *([found.switch] if switch else [])):
            _ip(f"netns add {place}")
            undo.callback(_ip, f"netns del {place}")
            with netns.inside(place):  # FRR takes no IPv6 session before the link-local address is ready
                Path("/proc/sys/net/ipv6/conf/default/accept_dad").write_text("0")
        if switch:
            _ip(f"link add r0 netns {found.router} type veth peer name r1 netns {found.switch}")
            _ip(f"link add n0 netns {found.node} type veth peer name n1 netns {found.switch}")
            _ip("link add br0 type bridge mcast_snooping 0", "link set br0 up", place=found.switch)
            _ip(*(f"link set {port} master br0 up" for port in ("r1", "n1")), place=found.switch)
        else:
            _ip(f"link add r0 netns {found.router} type veth peer name n0 netns {found.node}")
        for place, link, v4, v6 in (
            (found.router, "r0", ROUTER4, ROUTER6),
            (found.node, "n0", NODE4, NODE6),
        ):
            _ip("link set lo up", f"link set {link} up", place=place)
            _ip(f"addr add {v4}/30 dev {link}", f"addr add {v6}/64 dev {link} nodad", place=place)
        yield found


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A folder for daemons that give up root and must still reach their sockets: not pytest's."""
    folder = Path(tempfile.mkdtemp(prefix="anycast-bgp-"))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def site() -> Iterator[Site]:
    """A router that runs, and beside it room for one node at a time."""
    with contextlib.ExitStack() as undo:
        folder = undo.enter_context(open_folder())
        frr = folder / "frr"
        frr.mkdir()
        found = undo.enter_context(places())
        router = Router(found.router, frr)
        undo.callback(router.stop)
        router.start()
        yield Site(router, found.node, folder)


_numbers = itertools.count(1)


@contextlib.contextmanager
def node(
    around: Site,
    *,
    own: Sequence[Prefix] = (),
    sessions: Sequence[tuple[str, str, str]] = BOTH_SESSIONS,
    env: Mapping[str, str] | None = None,
) -> Iterator[Node]:
    """A node at the site, from a clean state; the sessions are not yet up."""
    folder = around.folder / f"node{next(_numbers)}"
    folder.mkdir()
    with contextlib.ExitStack() as undo:
        one = Node(around, folder, own=own, sessions=sessions, env=env)
        undo.callback(one.stop)
        yield one
    around.router.wait_without(*VIPS4, *VIPS6, *MARKERS)


def _bgpd_conf() -> str:
    return f"""\
frr defaults traditional
debug bgp updates in
route-map NOTHING deny 10
exit
router bgp {ROUTER_AS}
 bgp router-id 192.0.2.1
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 bgp graceful-restart-disable
 timers bgp 1 3
 neighbor NODES peer-group
 neighbor NODES remote-as {NODE_AS}
 neighbor NODES timers connect 1
 neighbor {NODE4} peer-group NODES
 neighbor {NODE6} peer-group NODES
 address-family ipv4 unicast
  neighbor {NODE4} activate
  neighbor {NODE4} route-map NOTHING out
 exit-address-family
 address-family ipv6 unicast
  neighbor {NODE4} activate
  neighbor {NODE4} route-map NOTHING out
  neighbor {NODE6} activate
  neighbor {NODE6} route-map NOTHING out
 exit-address-family
"""


def _exabgp_conf(run: Sequence[str], sessions: Sequence[tuple[str, str, str]]) -> str:
    neighbors = "".join(
        f"""\
neighbor {router} {{
    description "anycast 0";
    router-id {NODE4};
    local-address {node};
    local-as {NODE_AS};
    peer-as {ROUTER_AS};
    hold-time 3;
    family {{ {family} unicast; }}
    api {{ processes [ anycast ]; neighbor-changes; signal; receive {{ packets; notification; }} }}
}}
"""
        for router, node, family in sessions
    )
    return f"process anycast {{\n    run {' '.join(run)};\n    encoder json;\n}}\n{neighbors}"


def _version(address: str) -> int:
    return 6 if ":" in address else 4


def _ip(*commands: str, place: str | None = None) -> None:
    argv = ["ip", *(["-n", place] if place else []), "-batch", "-"]
    subprocess.run(argv, input="\n".join(commands), text=True, check=True)


def _await_path(path: Path, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} has not appeared: {log.read_text()}")
        time.sleep(0.02)
