"""The lab in a program's hands: build it, break it, look at it. Runs inside the lab's kernel.

with Lab(topology()) as lab:
    lab.build()
    lab.wait_route("192.0.2.1/32", ["lb1", "lb2", "lb3"])
    with lab.load(connections=600) as load:
        load.mark()
        lab.kill("lb1", "agent")
        print(load.stats()["broken"])
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

from lab import build, configs, places, processes
from lab.client import DEADLINE
from lab.errors import LabError
from lab.processes import Process
from lab.routewatch import RouteEvent, RouteTable, RouteWatch
from lab.topology import ROUTER_AS, RUN, VIP4, VIP6, VIPS, Node, Role, Topology, topology

What = Literal[
    "agent", "exabgp", "plugin", "guardian", "bird", "announcer", "zebra", "bgpd", "bfdd", "staticd", "server"
]
_FRR = Path("/usr/lib/frr")
_FRR_RUN = Path("/run/frr")
_ROUTER = ("configure terminal", f"router bgp {ROUTER_AS}")
_DAEMONS: dict[Role, tuple[What, ...]] = {
    Role.CLIENT: (),
    Role.ROUTER: ("zebra", "bgpd", "bfdd"),
    Role.BALANCER: ("exabgp", "agent"),
    Role.SERVER: ("server",),
}


class Lab:
    """One site. `build` before anything else; without `site` a Lab takes the one another process has built."""

    def __init__(self, site: Topology | None = None) -> None:
        if not os.environ.get("ANYCAST_LAB_GUEST"):
            raise LabError(
                "the site stands in the lab's own kernel only: python -m lab run --topology -- COMMAND"
            )
        self.run = Path(RUN)
        self.topology = site or self._standing() or topology()
        self.interval = 0.5  # seconds between the questions of each connection of a load
        self._routes: RouteWatch | None = None

    def _standing(self) -> Topology | None:
        with contextlib.suppress(FileNotFoundError):
            return topology(**json.loads((self.run / "site.json").read_text()))
        return None

    def build(self, *, daemons: bool = True, logs: Path | None = None) -> None:
        """Network, router, real servers, the nodes' files and, with `daemons`, ExaBGP and agent on every node.

        `logs`: a directory for the logs that outlives the lab; each node has its own below it.
        """
        self.run.mkdir(parents=True, exist_ok=True)
        size = {"balancers": len(self.topology.balancers), "servers": len(self.topology.servers)}
        (self.run / "site.json").write_text(json.dumps(size))
        build.build_network(self.topology)
        build.keep_hashes("cl")
        command = self.run / "bin" / "anycast"
        command.parent.mkdir(exist_ok=True)
        command.write_text(f'#!/bin/sh\nexec {shlex.join(configs.program())} "$@"\n')
        command.chmod(0o755)
        for node in self.topology.nodes:
            self._make_place(node)
            if logs is not None:
                (logs / node.name).mkdir(parents=True, exist_ok=True)
                for what in _DAEMONS[node.role]:
                    self.log(node.name, what).symlink_to(logs / node.name / f"{what}.log")
        (self.run / "r1" / "zebra.conf").write_text(configs.zebra_conf())
        (self.run / "r1" / "bgpd.conf").write_text(configs.bgpd_conf(self.topology))
        (self.run / "r1" / "bfdd.conf").write_text(configs.bfdd_conf())
        self.start("r1", "zebra")
        for server in self.topology.servers:
            self.start(server.name, "server")
        for balancer in self.topology.balancers:
            self.config(balancer.name).write_text(configs.anycast_yaml(self.topology, balancer))
        self.start("r1", "bfdd")
        self.start("r1", "bgpd")
        if daemons:
            for balancer in self.topology.balancers:
                self.render(balancer.name)
                self.start(balancer.name, "exabgp")
                self.start(balancer.name, "agent")

    def _make_place(self, node: Node) -> None:
        """The node's own files. On a balancer its configuration, sockets and state are where a real node has them too."""
        home = self.run / node.name
        frr = self.frr(node.name) if node.role is Role.ROUTER else home / "run-frr"
        for folder in (home, frr):
            folder.mkdir(exist_ok=True)
        shutil.chown(frr, "frr", "frr")
        shared = {"tmp": Path("/run/tmp"), "frr": frr}
        if node.role is Role.BALANCER:
            (home / "state").mkdir(exist_ok=True)
        shared |= {str(one.relative_to("/run")): one for one in (self.run / "bin", home)}
        if (modules := Path("/run/modules")).exists():
            shared["modules"] = modules
        links = {"/etc/anycast": home, "/run/anycast": home, "/var/lib/anycast": home / "state"}
        places.make(node.name, shared, links if node.role is Role.BALANCER else {})

    def down(self) -> None:
        """Ends every process and removes namespaces and files. Harmless where nothing stands."""
        self.close()
        keeper = processes.recorded(self.run / "supervisor" / "supervisor.pid")
        if keeper is not None:  # first: it would start again what is ended here
            keeper.end(0.0)
        ours = [p for p in (processes.recorded(r) for r in self.run.glob("*/*.pid")) if p and p.alive()]
        for process in ours:
            with contextlib.suppress(ProcessLookupError):
                process.send(signal.SIGKILL)
        for process in ours:
            process.wait(5.0)
        for node in self.topology.nodes:
            places.destroy(node.name)
        build.destroy_network(self.topology)
        shutil.rmtree(self.run, ignore_errors=True)
        shutil.rmtree(_FRR_RUN, ignore_errors=True)

    def close(self) -> None:
        """Ends this object's own watching; the site stays."""
        if self._routes is not None:
            self._routes.close()
            self._routes = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def config(self, node: str) -> Path:
        """The node's anycast configuration."""
        return self.run / node / "anycast.yaml"

    def log(self, node: str, what: What) -> Path:
        return self.run / node / f"{what}.log"

    def frr(self, node: str) -> Path:
        """Where the sockets of the node's FRR are. The router's are where `vtysh` looks."""
        return _FRR_RUN if self.topology.node(node).role is Role.ROUTER else self.run / node / "frr"

    def bird(self, node: str) -> Path:
        """Where BIRD on a balancer is asked."""
        return self.run / node / "bird.ctl"

    @contextlib.contextmanager
    def bfd(self, node: str, *, own: bool = False) -> Iterator[None]:
        """FRR's zebra and bfdd on a balancer for the block, as its YAML wants them, and BFD of the router with it.

        `own`: what announces there speaks it itself.
        """
        from anycast.config.load import load  # these take a while in the lab's kernel
        from anycast.render.frr_bfd import frr_bfd_conf

        folder = self.run / node
        configuration = load(self.config(node)).config
        self.frr(node).mkdir(exist_ok=True)
        shutil.chown(self.frr(node), "frr", "frr")
        (folder / "zebra.conf").write_text("frr defaults traditional\n")
        (folder / "bfdd.conf").write_text(frr_bfd_conf(configuration))
        (balancer,) = [one for one in self.topology.balancers if one.name == node]
        settings = configuration.bgp.neighbors[0].bfd
        assert settings is not None
        interval = round(settings.interval * 1000)
        daemons: tuple[What, ...] = () if own else ("zebra", "bfdd")
        try:
            for what in daemons:
                self.start(node, what)
            for end in (balancer.node4, balancer.node6):
                self.vtysh(*_ROUTER, f"neighbor {end} bfd {settings.multiplier} {interval} {interval}")
            yield
        finally:
            for end in (balancer.node4, balancer.node6):
                self.vtysh(*_ROUTER, f"no neighbor {end} bfd")
            for what in reversed(daemons):
                self.stop(node, what)

    def vtysh(self, *commands: str) -> str:
        """What the router's FRR answers. Raises CalledProcessError."""
        argv = ["vtysh", *(word for command in commands for word in ("-c", command))]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout

    def render(self, node: str) -> None:
        """Writes ExaBGP's configuration and environment from the node's YAML."""
        text, environment = configs.render_exabgp(self.config(node))
        (self.run / node / "exabgp.conf").write_text(text)
        (self.run / node / "exabgp.env").write_text("".join(f"{k}={v}\n" for k, v in environment.items()))

    def render_bird(self, node: str) -> None:
        """Writes BIRD's configuration and the announcer's environment from the node's YAML."""
        folder = self.run / node
        text, environment = configs.render_bird(self.config(node))
        (folder / "anycast.conf").write_text(text)
        (folder / "table.env").write_text(environment)
        (balancer,) = [one for one in self.topology.balancers if one.name == node]
        main = f'router id {balancer.node4};\nprotocol device {{}}\ninclude "{folder}/anycast.conf";\n'
        (folder / "bird.conf").write_text(main)

    def start(self, node: str, what: What, more: Mapping[str, str] | None = None) -> Process:
        """Starts a daemon in its node. `more`: of its environment. Raises LabError when it runs already."""
        if self.alive(node, what):
            raise LabError(f"{what} on {node} runs already")
        folder = self.run / node
        argv, env = self._command(node, what)
        env = {**env, **(more or {})}
        if what in ("bgpd", "bfdd", "staticd"):
            # One that comes before zebra tries again only after ten seconds.
            zebra = self.process(node, "zebra")
            _await_file(self.frr(node) / "zserv.api", zebra, self.log(node, "zebra"))
        return processes.spawn(
            argv, netns=node, env=env, log=self.log(node, what), record=folder / f"{what}.pid"
        )

    def _command(self, node: str, what: What) -> tuple[list[str], Mapping[str, str]]:
        folder = self.run / node
        env = configs.program_environment()
        match what:
            case "zebra" | "bgpd" | "bfdd" | "staticd":
                place = self.frr(node)
                return [
                    str(_FRR / what),
                    # Without it 8.4 takes an IPv6 route away to change it.
                    *(["--v6-rr-semantics"] if what == "zebra" else []),
                    *("-u", "frr", "-g", "frr", "-P", "0", "--log", "stdout"),
                    *("-f", str(folder / f"{what}.conf"), "-i", str(place / f"{what}.pid")),
                    *("-z", str(place / "zserv.api"), "--vty_socket", str(place)),
                ], env
            case "server":
                program = str(Path(__file__).with_name("server.py"))
                return [sys.executable, "-I", "-S", program, node], env
            case "agent":
                return configs.program("agent", "--config", str(self.config(node))), env
            case "exabgp":
                lines = (folder / "exabgp.env").read_text().splitlines()
                env |= dict(line.split("=", 1) for line in lines)
                return [str(Path(sys.executable).with_name("exabgp")), str(folder / "exabgp.conf")], env
            case "bird":
                return ["bird", "-f", "-c", str(folder / "bird.conf"), "-s", str(self.bird(node))], env
            case "announcer":
                return configs.program("announce-table"), env | configs.lines(folder / "table.env")
            case "plugin" | "guardian":
                raise LabError(f"the {what} is ExaBGP's to start: restart exabgp")

    def process(self, node: str, what: What) -> Process | None:
        """The daemon as it was started last; None: never. The plugin is ExaBGP's child of this moment, its guardian is its own."""
        if what in ("plugin", "guardian"):
            parent = self.process(node, "exabgp" if what == "plugin" else "plugin")
            return processes.child_of(parent) if parent and parent.alive() else None
        return processes.recorded(self.run / node / f"{what}.pid")

    def alive(self, node: str, what: What) -> bool:
        process = self.process(node, what)
        return process is not None and process.alive()

    def kill(self, node: str, what: What, number: int = signal.SIGKILL) -> None:
        """Sends a signal; waits for the end after SIGKILL. Raises LabError when it does not run."""
        process = self.process(node, what)
        if process is None or not process.alive():
            raise LabError(f"{what} on {node} does not run")
        process.send(number)
        if number == signal.SIGKILL and not process.wait(5.0):
            raise LabError(f"{what} on {node} survives SIGKILL")

    def stop(self, node: str, what: What, grace: float = 10.0) -> None:
        """SIGTERM, after `grace` seconds SIGKILL."""
        process = self.process(node, what)
        if process is not None:
            process.end(grace)

    def restart(self, node: str, what: What) -> None:
        self.stop(node, what)
        self.start(node, what)

    def status(self) -> dict[str, dict[str, bool]]:
        """Per node, which of its daemons run."""
        return {
            node.name: {w: self.alive(node.name, w) for w in _DAEMONS[node.role]}
            for node in self.topology.nodes
        }

    def watch(self) -> RouteWatch:
        """The router's kernel routes with their history, from the first call on."""
        if self._routes is None:
            table = RouteTable(VIPS, self.topology.node_of_next_hop, "r1")
            self._routes = RouteWatch(table)
        return self._routes

    def router_routes(self) -> dict[str, tuple[str, ...]]:
        """VIP prefix to the nodes the router's kernel sends it to, read now."""
        table = RouteTable(VIPS, self.topology.node_of_next_hop, "r1")
        try:
            return dict.fromkeys(VIPS, ()) | table.read()
        finally:
            table.close()

    def wait_route(self, prefix: str, nodes: Collection[str], timeout: float = 30.0) -> RouteEvent:
        """Until the router's kernel sends `prefix` to exactly `nodes`. Raises TimeoutError."""
        return self.watch().wait(prefix, nodes, timeout)

    def set_routes(self, nodes: Collection[str]) -> None:
        """Static routes to the VIPs instead of BGP's, for a site without daemons. No nodes: no route."""
        for family, vip, side in (("-4", VIPS[0], "node4"), ("-6", VIPS[1], "node6")):
            hops = [getattr(b, side) for b in self.topology.balancers if b.name in nodes]
            words = [word for hop in hops for word in ("nexthop", "via", hop)]
            verb = ["replace", vip, *words] if hops else ["del", vip]
            self.exec("r1", "ip", family, "route", *verb)

    def exec(
        self, node: str, *argv: str, check: bool = True, timeout: float = 30.0
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command in a node; `anycast` there speaks to the node's own agent (`ANYCAST_CONFIG`,
        `ANYCAST_SOCKET`). Raises LabError with what it said when it fails and `check` is set.
        """
        self.topology.node(node)
        env = configs.program_environment() | configs.node_environment(node)
        done = subprocess.run(
            [*places.entry(node), *argv],
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            env=env,
        )
        if check and done.returncode != 0:
            raise LabError(f"{node}: {' '.join(argv)}: exit status {done.returncode}: {done.stderr.strip()}")
        return done

    def node_cli(
        self, node: str, *arguments: str, check: bool = False, timeout: float = 30.0
    ) -> subprocess.CompletedProcess[str]:
        """`anycast …` in a node."""
        return self.exec(node, *configs.program(*arguments), check=check, timeout=timeout)

    def ipvs(self, node: str) -> str:
        """The node's IPVS table as `ipvsadm -Sn` saves it."""
        return self.exec(node, "ipvsadm", "-Sn").stdout

    def load(
        self,
        connections: int = 600,
        *,
        interval: float | None = None,
        probes: float = 0.0,
        deadline: float = DEADLINE,
        ready_timeout: float = 30.0,
    ) -> Load:
        """Starts the load in the client's namespace and waits until every connection has had an answer."""
        return Load(
            connections,
            interval=interval or self.interval,
            probes=probes,
            deadline=deadline,
            ready_timeout=ready_timeout,
        )


class Load:
    """`lab.client` at work. Use as a context manager or `stop` it. Seconds everywhere."""

    def __init__(
        self, connections: int, *, interval: float, probes: float, deadline: float, ready_timeout: float
    ) -> None:
        program = str(Path(__file__).with_name("client.py"))
        self._process = subprocess.Popen(
            [
                *places.entry("cl"), sys.executable, "-I", "-S", program, f"--connections={connections}",
                f"--interval={interval}", f"--probes={probes}", f"--deadline={deadline}", "--vip", VIP4, "--vip", VIP6,
            ],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._ask: IO[bytes] = self._process.stdin
        self._answers: IO[bytes] = self._process.stdout
        self._rest = b""
        try:
            self.ready = self._read(ready_timeout)  # the counts when all were connected
        except BaseException:
            self.stop()
            raise

    def mark(self) -> None:
        """Starts a new count."""
        self._do("mark")

    def stats(self) -> dict[str, Any]:
        """Counts since the mark: see `lab.client.Load.stats`."""
        return self._do("stats")

    def fill(self) -> None:
        """Opens a new connection for every one that is broken; returns when they have had an answer."""
        self._do("fill", 30.0)

    def wait_answered(self, timeout: float = 20.0) -> dict[str, Any]:
        """The counts as soon as every connection has asked and been answered since the mark, or is broken."""
        return self._do("answered", timeout)

    def _do(self, what: str, timeout: float = 10.0) -> dict[str, Any]:
        self._ask.write(json.dumps({"do": what}).encode() + b"\n")
        self._ask.flush()
        return self._read(timeout)

    def _read(self, timeout: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout
        while b"\n" not in self._rest:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._answers], [], [], left)[0]:
                raise TimeoutError(f"the load said nothing for {timeout:g} s")
            data = os.read(self._answers.fileno(), 65536)
            if not data:
                raise LabError("the load has ended")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._ask, self._answers):
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _await_file(path: Path, owner: Process | None, log: Path) -> None:
    """Until `owner` has made it. Raises LabError when it ends instead, or takes minutes."""
    deadline = time.monotonic() + 180.0
    while not path.exists():
        if owner is None or not owner.alive() or time.monotonic() > deadline:
            raise LabError(f"{path} has not appeared: read {log}")
        time.sleep(0.02)
