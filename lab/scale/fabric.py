"""A router with FRR and the node it is told routes by, in network namespaces of this machine; BIRD in the node's place too.

Beside them stands a second node, BIRD's always, with routes to the same addresses: a route of the first one is moved
once the router's kernel sends its packets to the second alone.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lab import configs, netns
from lab.processes import Process, child_of, spawn
from lab.routewatch import RTM_DELROUTE, RTM_NEWROUTE, messages, route_of
from lab.scale.builds import Build
from lab.scale.nodes import NeverError
from lab.scale.sites import LOCAL_AS, ROUTER_AS, vip
from lab.waiting import until

NODE, ROUTER = "10.2.1.1", "10.2.1.254"
OTHER, OTHER_ROUTER = "10.2.2.1", "10.2.2.254"
_FRR = Path("/usr/lib/frr")
_PATIENCE = 20.0
_BUFFER = 64 * 2**20
_SO_RCVBUFFORCE = 33
_IPV4_ROUTES = 0x40


def missing() -> str | None:
    """What is not installed here; None: nothing."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    wanted = {"bird": "bird2", str(_FRR / "bgpd"): "frr", "ip": "iproute2"}
    found = [package for program, package in wanted.items() if shutil.which(program, path=path) is None]
    return ", ".join(found) or None


def bgpd_conf() -> str:
    nodes = ((NODE, LOCAL_AS), (OTHER, LOCAL_AS + 1))
    return "\n".join(
        [
            "frr defaults traditional",
            f"router bgp {ROUTER_AS}",
            f" bgp router-id {ROUTER}",
            " no bgp ebgp-requires-policy",
            " no bgp network import-check",
            " bgp bestpath as-path multipath-relax",
            " bgp graceful-restart-disable",
            *(f" neighbor {address} remote-as {asn}" for address, asn in nodes),
            *(f" neighbor {address} timers connect 1" for address, _ in nodes),
            *(f" neighbor {address} advertisement-interval 0" for address, _ in nodes),
            " address-family ipv4 unicast",
            "  maximum-paths 8",
            *(f"  neighbor {address} route-map NOTHING out" for address, _ in nodes),
            " exit-address-family",
            "route-map NOTHING deny 10",
            "",
        ]
    )


def bird_conf(address: str, router: str, asn: int, count: int) -> str:
    """`one` has the first VIP, `rest` all others."""

    def static(name: str, numbers: range) -> str:
        routes = " ".join(f"route {vip(number)}/32 blackhole;" for number in numbers)
        return f"protocol static {name} {{ ipv4; {routes} }}"

    return f"""router id {address};
protocol device {{}}
{static("one", range(1))}
{static("rest", range(1, count))}
protocol bgp session {{
  local {address} as {asn};
  neighbor {router} as {ROUTER_AS};
  connect retry time 1;
  ipv4 {{ import none; export where source = RTS_STATIC; next hop self; }};
}}
"""


@dataclass
class Hops:
    """Next hops of prefixes, counted."""

    hops: dict[str, tuple[str, ...]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def put(self, prefix: str, hops: tuple[str, ...]) -> None:
        """In the place of what it had; none: the prefix has no route any more."""
        self.counts.subtract(self.hops.pop(prefix, ()))
        if hops:
            self.hops[prefix] = hops
        self.counts.update(hops)


@dataclass
class Table:
    """The router's kernel routes, kept up to date by what netlink tells."""

    place: str

    def __post_init__(self) -> None:
        self._events = netns.open_socket(self.place, socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._events.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        self._events.bind((0, _IPV4_ROUTES))
        self._stopped, self._stopper = socket.socketpair()
        self._changed = threading.Condition()
        self._hops = Hops()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stopper.send(b".")
        self._thread.join()
        for one in (self._events, self._stopped, self._stopper):
            one.close()

    def count(self, hop: str) -> int:
        """Prefixes with that next hop."""
        return self._hops.counts[hop]

    def wait(self, what: Callable[[], bool], patience: float) -> float:
        """The instant at which it is seen to be true. Raises NeverError."""
        with self._changed:
            if not self._changed.wait_for(what, patience):
                raise NeverError(f"after {patience:g} s the router has {dict(self._hops.counts)}")
            return time.monotonic()

    def _follow(self) -> None:
        while self._stopped not in select.select([self._events, self._stopped], [], [])[0]:
            data = self._events.recv(1 << 20)
            with self._changed:
                for kind, message in messages(data):
                    if kind in (RTM_NEWROUTE, RTM_DELROUTE) and (found := route_of(message)):
                        self._hops.put(found[0], found[1] if kind == RTM_NEWROUTE else ())
                self._changed.notify_all()


@dataclass
class Fabric:
    """Three namespaces. `node`, `router`, `other`: their names."""

    folder: Path
    node: str
    router: str
    other: str
    table: Table

    def spawn(
        self, name: str, argv: Sequence[str], place: str, env: Mapping[str, str] | None = None
    ) -> Process:
        return spawn(
            argv,
            netns=place,
            env=env or {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
            log=self.folder / f"{name}.log",
            record=self.folder / f"{name}.pid",
        )

    def session_up(self) -> None:
        """Until FRR has its session with the node. Raises TimeoutError."""
        argv = ["vtysh", "--vty_socket", str(self.folder), "-c", f"show bgp neighbors {NODE} json"]

        def up() -> bool:
            said = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
            return '"bgpState":"Established"' in said.replace(" ", "")

        until(up, "a session with ExaBGP", 3 * _PATIENCE)

    @contextlib.contextmanager
    def bird(self, place: str, address: str, router: str, asn: int, count: int) -> Iterator[str]:
        """BIRD in a namespace for the block, which has the path of its control socket."""
        name = f"bird-{address}"
        conf, control = self.folder / f"{name}.conf", f"{self.folder}/{name}.ctl"
        conf.write_text(bird_conf(address, router, asn, count))
        argv = ["bird", "-f", "-c", str(conf), "-s", control, "-P", f"{self.folder}/{name}.id"]
        process = self.spawn(name, argv, place)
        try:
            yield control
        finally:
            process.end()

    @contextlib.contextmanager
    def exabgp(self, build: Build, config: Path, lease: Path) -> Iterator[Process]:
        """ExaBGP with the build's plugin, by the configuration that the build renders. `lease`: the plugin's socket."""
        rendered = _render(build, config)
        conf = self.folder / "exabgp.conf"
        conf.write_text(rendered[0].replace(str(config.with_name("lease.sock")), str(lease)))
        env = {**build.environment(), **rendered[1]}
        argv = [str(build.python.parent / "exabgp"), str(conf)]
        process = self.spawn("exabgp", argv, self.node, env)
        try:
            yield process
        finally:
            process.end()


def plugin_of(exabgp: Process) -> int:
    """The process id of the plugin."""
    found = until(lambda: child_of(exabgp), "the plugin", _PATIENCE)
    return found.pid


def _render(build: Build, config: Path) -> tuple[str, dict[str, str]]:
    def rendered(*more: str) -> str:
        argv = build.anycast("render", "exabgp", "--config", str(config), *more)
        return subprocess.run(
            argv, env=build.environment(), capture_output=True, text=True, check=True
        ).stdout

    text, lines = rendered(), rendered("--env").splitlines()
    env = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return text, {**env, "exabgp_daemon_user": "root", "exabgp_daemon_drop": "false"}


@contextlib.contextmanager
def fabric() -> Iterator[Fabric]:
    """FRR runs in it. Needs root."""
    names = [f"scale-{os.getpid()}-{what}" for what in ("lb1", "r1", "lb2")]
    node, router, other = names
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-scale-")))
        shutil.chown(folder, "frr", "frr")
        folder.chmod(0o755)
        for name in names:
            _ip("netns", "add", name)
            stack.callback(_ip, "netns", "del", name)
            _ip("-n", name, "link", "set", "lo", "up")
        for place, inside, address, port, peer in (
            (node, "up0", NODE, "lb1", ROUTER),
            (other, "up0", OTHER, "lb2", OTHER_ROUTER),
        ):
            _ip("link", "add", inside, "netns", place, "type", "veth", "peer", "name", port, "netns", router)
            for where, end, one in ((place, inside, address), (router, port, peer)):
                _ip("-n", where, "addr", "add", f"{one}/24", "dev", end)
                _ip("-n", where, "link", "set", end, "up")
        table = Table(router)
        stack.callback(table.close)
        found = Fabric(folder, node, router, other, table)
        (folder / "zebra.conf").write_text(configs.zebra_conf())
        (folder / "bgpd.conf").write_text(bgpd_conf())
        for name in ("zebra", "bgpd"):
            stack.callback(_frr(found, name).end)
        yield found


def _frr(fabric: Fabric, name: str) -> Process:
    folder = fabric.folder
    if name == "bgpd":
        until((folder / "zserv.api").exists, "zebra", _PATIENCE)
    argv = [str(_FRR / name), "-u", "frr", "-g", "frr", "-P", "0", "--log", "stdout"]
    argv += ["-f", str(folder / f"{name}.conf"), "-i", str(folder / f"{name}.frr")]
    argv += ["-z", str(folder / "zserv.api"), "--vty_socket", str(folder)]
    return fabric.spawn(name, argv, fabric.router)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def birdc(control: str, *words: str) -> None:
    env = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    subprocess.run(["birdc", "-s", control, *words], env=env, check=True, stdout=subprocess.DEVNULL)
