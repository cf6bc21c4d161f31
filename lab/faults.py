"""Breaking the lab's site in every way `lab.chaos_plan` names, and mending it. Runs inside the lab's kernel."""

from __future__ import annotations

import contextlib
import fcntl
import json
import resource
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Self

import yaml
from pyroute2 import IPRoute

from anycast.cli import client
from lab import configs, kernel_view, netns, places, turns
from lab.announcer import Announcers
from lab.chaos_plan import BY_NAME, Fault
from lab.control import Lab, What
from lab.errors import LabError
from lab.measuring import say
from lab.processes import Process
from lab.topology import HTTP_PORT, LAN, VIPS, Node, topology
from lab.trial import PATIENCE, Facts, Trial, patience
from lab.waiting import until
from lab.watchdog import Watchdog

TABLE = 1179
FLEET_PORT = 9645
BFD = {"interval": "100ms", "multiplier": 3}
GROUP = 4  # nodes that are started at once: the processor is one
NOBODY = "02:00:00:00:00:99"  # a link address that nothing answers to
RESUMED = 10.0  # seconds for which a route must not come back to an agent that goes on
_NUD_PERMANENT = 0x80
_IFF_UP, _SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x1, 0x8913, 0x8914


class Site:
    """The balancers' configurations and daemons. `servers`: real servers in the configuration at first."""

    def __init__(
        self, lab: Lab, servers: int, watchdog: Watchdog | Announcers, *, fleet: bool = False
    ) -> None:
        """With `Announcers` the balancers announce by BIRD, else by ExaBGP. `fleet`: they know one another."""
        self.lab = lab
        self.watchdog = watchdog
        self.speaker: What = "bird" if isinstance(watchdog, Announcers) else "exabgp"
        self.writer: What = "announcer" if isinstance(watchdog, Announcers) else "plugin"
        self.servers = servers
        self.fleet = fleet
        self.nodes = [balancer.name for balancer in lab.topology.balancers]
        self.daemons: tuple[What, ...] = (self.speaker, "agent")  # of a balancer, that nobody starts again

    def build(self) -> None:
        """Until every balancer announces both VIPs."""
        up: list[str] = []
        for at in range(0, len(self.nodes), GROUP):
            for node in self.nodes[at : at + GROUP]:
                self.configure(node)
                self.render(node)
                with netns.inside(node):  # what comes back with the link comes with its addresses
                    Path("/proc/sys/net/ipv6/conf/up0/keep_addr_on_down").write_text("1")
                for what in self.daemons:
                    self.lab.start(node, what)
                if isinstance(self.watchdog, Announcers):
                    self.watchdog.start(node)
                up.append(node)
            for prefix in VIPS:  # those that run already take their share of the one processor
                self.lab.wait_route(prefix, up, PATIENCE * 3 * (1 + at // GROUP))
            if len(self.nodes) > GROUP:
                say(f"  {len(up)} of {len(self.nodes)} balancers announce")

    def configure(
        self,
        node: str,
        *,
        servers: int = 0,
        interval: float = 0.0,
        sync: bool = False,
        check: Mapping[str, Any] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """Writes the node's configuration: with that many real servers, the first ones. `check`: of another kind; `more`:
        laid over it.
        """
        balancer = next(one for one in self.lab.topology.balancers if one.name == node)
        site = topology(balancers=len(self.nodes), servers=servers or self.servers)
        config: dict[str, Any] = yaml.safe_load(configs.anycast_yaml(site, balancer))
        config["bgp"]["bfd"] = BFD
        config["timing"] = {"server_drain": "5s"}
        # The checks of many nodes would fill the one processor.
        if check is not None:
            config["pools"]["web"]["check"] = {**check, "timeout": "1s"}
        config["pools"]["web"]["check"]["interval"] = interval or max(1.0, len(self.nodes) / 4)
        if sync:
            config["connection_sync"] = {"interface": "lan0", "id": 9}
        if self.speaker == "bird":
            config["speaker"] = {
                "type": "kernel-table",
                "table": TABLE,
                "socket": str(self.lab.bird(node)),
                "user": "root",
            }
        if self.fleet:
            config["nodes"] = {name: {"fleet": {"listen": self.door(name)}} for name in self.nodes}
            # Every node asks every other one: 16 with the default interval would fill the one processor with that alone.
            config["fleet"] = {"view": "peers", "interval": f"{max(2.0, len(self.nodes) / 2):g}s"}
        _lay_over(config, more or {})
        self.lab.config(node).write_text(yaml.safe_dump(config, sort_keys=False))

    def door(self, node: str, port: int = FLEET_PORT) -> str:
        """Where the others ask the node: by the link to the real servers, which the routers are not on."""
        return f"{self.lab.topology.node(node).interfaces['lan0'][0].partition('/')[0]}:{port}"

    def render(self, node: str) -> None:
        if isinstance(self.watchdog, Announcers):
            self.lab.render_bird(node)
            return
        self.lab.render(node)
        with (self.lab.run / node / "exabgp.env").open("a") as file:
            file.write(self.watchdog.environment(node))

    def reload(
        self,
        *,
        servers: int = 0,
        interval: float = 0.0,
        sync: bool = False,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """Another configuration on every node, also one that guards the fleet less."""
        for node in self.nodes:
            self.configure(node, servers=servers, interval=interval, sync=sync, more=more)
            self.ask(node, "POST", "/reload", {"allow_removal": True} if self.fleet else None)

    def leave(self, node: str) -> client.Answer:
        """`anycast maintenance on`; in a fleet the answer that is no longer "not yet". Raises UnreachableError."""
        return turns.leave(self.commands(node), {"reason": "chaos"})

    def come_back(self, node: str) -> None:
        self.ask(node, "POST", "/maintenance", {"scope": "", "on": False})

    def commands(self, node: str) -> turns.Command:
        control = self.lab.run / node / "control.sock"
        return partial(client.command, control, "/maintenance", timeout=PATIENCE)

    def may_leave(self, node: str) -> None:
        """In a fleet: until the others would not refuse it at once. Raises TimeoutError."""
        if self.fleet:
            until(lambda: turns.may_leave(self.commands(node)), f"{node} to be one that may leave", PATIENCE)

    def ask(
        self,
        node: str,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        patience: float = PATIENCE,
    ) -> dict[str, Any]:
        """What the node's agent says. Raises LabError.

        One that has just been started announces its routes before it listens here, in the emulated kernel by seconds.
        """
        end = time.monotonic() + patience
        while True:
            try:
                answer = self._asked(node, method, path, body, patience)
            except client.UnreachableError as error:
                if time.monotonic() >= end or not self.lab.alive(node, "agent"):
                    raise LabError(f"{node}: {method} {path}: {error}") from error
                time.sleep(0.2)
                continue
            if not answer.ok:
                raise LabError(f"{node}: {method} {path}: {answer.body}")
            return answer.body

    def _asked(
        self, node: str, method: str, path: str, body: dict[str, Any] | None, patience: float
    ) -> client.Answer:
        """Raises UnreachableError."""
        control = self.lab.run / node / "control.sock"
        if method == "GET" and path != "/maintenance":
            return client.read(control, path)
        return client.ask(control, method, path, body, timeout=patience)

    def weight(self, server: str, wanted: set[int]) -> None:
        """Until every balancer's kernel has `server` with that weight; an empty set: not at all."""
        addresses = [one.partition("/")[0] for one in self.lab.topology.node(server).interfaces["lan0"]]
        for node in self.nodes:
            until(
                lambda node=node: kernel_view.weights(node, addresses) == wanted,  # type: ignore[misc]
                f"{node} to have {server} with weight {wanted or 'none'}",
                PATIENCE,
            )

    def forwards(self, node: str) -> bool:
        """Its kernel holds real servers behind the VIPs, and the VIPs."""
        lines = [line for table in kernel_view.table_of(node).values() for line in table]
        held = self.lab.exec(node, "ip", "-br", "address", "show", "lo").stdout.split()
        return any(not line.endswith(" 0") for line in lines) and set(VIPS) <= set(held)

    def all_usable(self, node: str) -> bool:
        status = self.ask(node, "GET", "/status")
        return all(
            family["usable"] == family["total"]
            for vip in status["vips"]
            for service in vip["services"]
            for family in service["families"]
        )

    def logged(self, node: str, event: str) -> float:
        """When the node's agent logged `event` last: seconds since the epoch, 0 when it never did."""
        lines = self.lab.log(node, "agent").read_text().splitlines()
        found = [line for line in lines if line.startswith("{") and f'"{event}"' in line]
        return datetime.fromisoformat(json.loads(found[-1])["timestamp"]).timestamp() if found else 0.0

    def tend(self) -> None:
        """Starts what has ended on the balancers."""
        for node in self.nodes:
            for what in self.daemons:
                if not self.lab.alive(node, what):
                    self.lab.start(node, what)

    def mend(self) -> None:
        """Every daemon runs and every balancer announces both VIPs. Raises TimeoutError."""
        whats: tuple[What, ...] = ("agent", self.speaker, self.writer)
        for node in self.nodes:
            for what in whats:
                with contextlib.suppress(LabError):
                    self.lab.kill(node, what, signal.SIGCONT)
        self.tend()
        for prefix in VIPS:
            self.lab.wait_route(prefix, self.nodes, patience(len(self.nodes)))

    def process(self, node: str, what: What) -> Process:
        """Looked for before the clock runs: that alone takes a while here. Raises LabError when it does not run."""
        process = self.lab.process(node, what)
        if process is None or not process.alive():
            raise LabError(f"{what} on {node} does not run")
        return process

    def uplink(self, node: str, *, up: bool) -> None:
        """The node's link to the router. Down, it loses the default routes, not the addresses."""
        set_link(node, "up0", up=up)
        if up:
            for gateway in self.lab.topology.node(node).gateways:
                self.lab.exec(node, "ip", "route", "replace", "default", "via", gateway)

    def server_link(self, node: str, *, up: bool) -> None:
        """The carrier of the node's link to the real servers. It keeps addresses and routes, as with a pulled cable."""
        set_link(LAN, node, up=up)

    def out_of_reach(self, node: str) -> contextlib.AbstractContextManager[None]:
        """What the node sends to the real servers gets lost, though its link is up."""
        return self._lost(node, self.lab.topology.servers)

    def cut_off(self, node: str) -> contextlib.AbstractContextManager[None]:
        """What the node sends to the other balancers gets lost, and so every answer to them too."""
        others = [self.lab.topology.node(other) for other in self.nodes if other != node]
        return self._lost(node, others)

    @contextlib.contextmanager
    def _lost(self, node: str, receivers: Sequence[Node]) -> Iterator[None]:
        """What the node sends to these by its link to the real servers."""
        with netns.inside(node):
            kernel = IPRoute()
        with kernel:
            (link,) = kernel.link_lookup(ifname="lan0")
            servers = [
                {"dst": address.partition("/")[0], "ifindex": link}
                for server in receivers
                for address in server.interfaces["lan0"]
            ]
            for server in servers:
                kernel.neigh("replace", **server, lladdr=NOBODY, state=_NUD_PERMANENT)
            try:
                yield
            finally:
                for server in servers:
                    kernel.neigh("delete", **server)


def _lay_over(config: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Keys of `more` replace those of `config`, at any depth."""
    for key, value in more.items():
        if isinstance(value, Mapping) and isinstance(config.get(key), dict):
            _lay_over(config[key], value)
        else:
            config[key] = value


def set_link(place: str, name: str, *, up: bool) -> None:
    """An interface `name` in the namespace `place`."""
    with netns.open_socket(place, socket.AF_INET, socket.SOCK_DGRAM) as sock:
        asked = fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("16sH14x", name.encode(), 0))
        flags: int = struct.unpack_from("H", asked, 16)[0]
        flags = flags | _IFF_UP if up else flags & ~_IFF_UP
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH14x", name.encode(), flags))


class Freeze:
    """A node's processes stand still and what the router sends it gets lost, for its kernel would go on forwarding.

    All that takes time is done when it is made. Use it as a context manager.
    """

    def __init__(self, site: Site, node: str, whats: Sequence[What]) -> None:
        balancer = next(one for one in site.lab.topology.balancers if one.name == node)
        self._ends = (balancer.node4, balancer.node6)
        self._processes = [site.process(node, what) for what in whats]
        with netns.inside("r1"):
            self._router = IPRoute()
        (self._link,) = self._router.link_lookup(ifname=node)

    def begin(self) -> None:
        for end in self._ends:
            self._router.neigh("replace", dst=end, ifindex=self._link, lladdr=NOBODY, state=_NUD_PERMANENT)
        for process in self._processes:
            process.send(signal.SIGSTOP)

    def end(self) -> None:
        for end in self._ends:
            self._router.neigh("delete", dst=end, ifindex=self._link)
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                process.send(signal.SIGCONT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._router.close()


class Faults:
    """One method for each fault but `random` and those of a fleet, by its `act`; takes the nodes and the real server."""

    def __init__(self, site: Site, trial: Trial) -> None:
        self.site = site
        self.lab = site.lab
        self.trial = trial
        self.added = f"rs{site.servers + 1}"

    def run(self, fault: Fault, nodes: Sequence[str], server: str) -> None:
        """`nodes`: those that are hit, as many as it needs."""
        act: Callable[[Fault, Sequence[str], str], None] = getattr(self, fault.act)
        act(fault, nodes, server)

    def steady(self, fault: Fault, _nodes: Sequence[str], _server: str) -> None:
        with self.trial.count(fault) as facts:
            self.trial.settled(facts)

    def drain(self, fault: Fault, nodes: Sequence[str], _server: str) -> None:
        node = nodes[0]
        self.site.may_leave(node)
        with self.trial.count(fault, node) as facts:
            answer = self.site.leave(node)
            if not answer.ok:
                raise LabError(f"{node} may not leave: {answer.body}")
            began = self.site.logged(node, "maintenance.began")
            moved = self.trial.gone(facts, node)
            withdrawn = until(
                lambda: max(0.0, self.site.logged(node, "route.withdrawn") - began),
                f"{node} to withdraw",
                PATIENCE,
            )
            facts.note = f"withdrawn after {withdrawn:.2f} s"
            if moved is None or moved > began + withdrawn:
                facts.wrong.append(f"withdrawn after {withdrawn:.2f} s, before the router had moved")
            self._works(facts, node)
            self.trial.settled(facts)
            self.trial.healing(facts)
            self.site.come_back(node)
            self.trial.everywhere()

    def agent_term(self, fault: Fault, nodes: Sequence[str], _server: str) -> None:
        self._signalled(fault, nodes[0], "agent", signal.SIGTERM)

    def agent_kill(self, fault: Fault, nodes: Sequence[str], _server: str) -> None:
        self._signalled(fault, nodes[0], "agent", signal.SIGKILL)

    def agent_stop(self, fault: Fault, nodes: Sequence[str], _server: str) -> None:
        self._stopped(fault, nodes[0], "agent")

    def writer_kill(self, fault: Fault, nodes: Sequence[str], _server: str) -> None:
        """ExaBGP starts its plugin again by itself. Where it is back within the router's own delay, no route goes: then it
        counts until somebody answers for the route again. The announcer's unit removes the routes, and starts it again.
        """
        node = nodes[0]
        plugin = self.site.process(node, self.site.writer)
        fault = self._with_start(fault, node)
        with self.trial.count(fault, node) as facts:
            began = time.time()
            plugin.send(signal.SIGKILL)
            self.trial.healing(facts)
            back = until(
                lambda: max(0.0, self.site.logged(node, "plugin.connected") - began),
                f"another plugin on {node}",
                PATIENCE,
            )
            self.trial.everywhere()
            self.trial.settled(facts)
            if not self.trial.went(facts, node):
                facts.gone = round(back, 3)
                facts.note = "the next plugin was there before the router had let go"
            say(f"  another plugin after {back:.2f} s")

    def _with_start(self, fault: Fault, node: str) -> Fault:
        """In the emulated kernel the start of what removes the routes takes several times what it takes elsewhere."""
        start = self._start_of_writer(node) if emulated() else 0.0
        if not start:
            return fault
        words = f"{fault.promise} + {start:.2f} s (its start here)"
        return replace(fault, bound=round((fault.bound or 0.0) + start, 2), said=words)

    def _start_of_writer(self, node: str) -> float:
        """Seconds. The slower of two, under load."""
        took = []
        # Without a pipe the plugin loads everything, says so and ends. The announcer looks into an empty table.
        words = ["announce", "--socket", "/nowhere"]
        if self.site.writer == "announcer":
            words = ["announce-table", "--clear", "--table", str(TABLE + 1)]
        for _ in range(2):
            began = time.monotonic()
            argv = [*places.entry(node), *configs.program(*words)]
            subprocess.run(
                argv, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=PATIENCE,
                env=configs.program_environment(),
            )  # fmt: skip
            took.append(time.monotonic() - began)
        return max(took)

    def writer_stop(self, fault: Fault, nodes: Sequence[str], _server: str) -> None:
        node = nodes[0]
        plugin = self.site.process(node, self.site.writer)
        if self.site.writer == "announcer":  # it is its unit that removes the routes
            fault = self._with_start(fault, node)
        with self.trial.count(fault, node) as facts:
            plugin.send(signal.SIGSTOP)
            self.trial.gone(facts, node)
            self.trial.settled(facts)
            self.trial.healing(facts)
            plugin.end(0.0)
            self.trial.everywhere()

    def speaker_term(self, fault: Fault, nodes: Sequence[str], _server: str) -> None:
        self._signalled(fault, nodes[0], self.site.speaker, signal.SIGTERM)

    def speaker_kill(self, fault: Fault, nodes: Sequence[str], _server: str) -> None:
        self._signalled(fault, nodes[0], self.site.speaker, signal.SIGKILL)

    def speaker_stop(self, fault: Fault, nodes: Sequence[str], _server: str) -> None:
        self._stopped(fault, nodes[0], self.site.speaker)

    def freeze_bfd(self, fault: Fault, nodes: Sequence[str], _server: str) -> None:
        node = nodes[0]
        own = self.site.speaker == "bird"
        beside: tuple[What, ...] = () if own else ("bfdd", "zebra")
        with self.lab.bfd(node, own=own):
            until(lambda: self._bfd_up(node), f"BFD up with both ends of {node}", PATIENCE)
            self._frozen(fault, node, (*beside, self.site.speaker, "agent", self.site.writer))

    def freeze_hold(self, fault: Fault, nodes: Sequence[str], _server: str) -> None:
        self._frozen(fault, nodes[0], (self.site.speaker, "agent", self.site.writer))

    def uplink_down(self, fault: Fault, nodes: Sequence[str], _server: str) -> None:
        self._without(fault, nodes[0], self.site.uplink)

    def server_link_down(self, fault: Fault, nodes: Sequence[str], _server: str) -> None:
        with self._checked_each_second(nodes[0]):
            self._without(fault, nodes[0], self.site.server_link)

    def descriptors(self, fault: Fault, nodes: Sequence[str], _server: str) -> None:
        """The checks of HTTP go on over the sockets they have: so others take their place for this row."""
        node = nodes[0]
        agent = self.site.process(node, "agent").pid
        limit = resource.prlimit(agent, resource.RLIMIT_NOFILE)
        others = self._checked_each_second(node, {"type": "syslog", "port": HTTP_PORT})
        with others, self.trial.count(fault, node) as facts:
            resource.prlimit(agent, resource.RLIMIT_NOFILE, (0, limit[1]))
            try:
                self.trial.gone(facts, node)
                self._works(facts, node)
                self.trial.settled(facts)
            finally:
                self.trial.healing(facts)
                resource.prlimit(agent, resource.RLIMIT_NOFILE, limit)
            self.trial.everywhere()

    def suspension(self, fault: Fault, nodes: Sequence[str], _server: str) -> None:
        node = nodes[0]
        agent = self.site.process(node, "agent")
        with self.trial.count(fault, node) as facts:
            agent.send(signal.SIGSTOP)
            self.trial.gone(facts, node)
            with self.site.out_of_reach(node):
                time.sleep(max(0.0, facts.began + 30.0 - time.monotonic()))
                resumed = time.monotonic()
                agent.send(signal.SIGCONT)
                time.sleep(RESUMED)
                back = [e for e in self.lab.watch().events if e.monotonic >= resumed and node in e.next_hops]
            facts.wrong += [
                f"{event.prefix} came back {event.monotonic - resumed:.2f} s after SIGCONT" for event in back
            ]
            self.trial.settled(facts)
            self.trial.healing(facts)
            self.trial.everywhere()

    def router_restart(self, fault: Fault, _nodes: Sequence[str], _server: str) -> None:
        with self.trial.count(fault, "r1") as facts:
            self.lab.stop("r1", "bgpd")
            self.trial.healing(facts)
            self.lab.start("r1", "bgpd")
            self.trial.everywhere()
            facts.note = f"all routes back {time.monotonic() - facts.began:.2f} s after the fault"
            say(f"  {facts.note}")
            self.trial.settled(facts)

    def reload(self, fault: Fault, _nodes: Sequence[str], _server: str) -> None:
        with self.trial.count(fault, "all") as facts:
            self.site.reload(interval=1.5)
            self.trial.settled(facts)
            self.trial.healing(facts)
            self.site.reload()

    def two_nodes(self, fault: Fault, nodes: Sequence[str], _server: str) -> None:
        first, second = nodes[:2]
        agent, speaker = self.site.process(first, "agent"), self.site.process(second, self.site.speaker)
        with self.trial.count(fault, f"{first}+{second}") as facts:
            agent.send(signal.SIGKILL)
            speaker.send(signal.SIGSTOP)
            self.trial.gone(facts, first)
            bound = BY_NAME["agent-kill"].bound or 0.0
            if facts.gone is not None and facts.gone > bound:
                facts.wrong.append(f"the route of {first} was gone after {facts.gone:.2f} s, not {bound:g} s")
            self.trial.gone(facts, second)
            self.trial.settled(facts)
            self.trial.healing(facts)
            _continue(speaker)
            self._start(first, "agent")

    def server_and_node(self, fault: Fault, nodes: Sequence[str], server: str) -> None:
        node = nodes[0]
        victims = self.site.process(server, "server"), self.site.process(node, self.site.speaker)
        with self.trial.count(fault, f"{server}+{node}", server=server) as facts:
            for process in victims:
                process.send(signal.SIGKILL)
            self.trial.gone(facts, node)
            self.trial.new_clients_served(facts)
            self.trial.settled(facts)
            self.trial.healing(facts)
            self.lab.start(server, "server")
            self.site.weight(server, {1})
            self._start(node, self.site.speaker)
        self.trial.worn()

    def server_death(self, fault: Fault, _nodes: Sequence[str], server: str) -> None:
        with self.trial.count(fault, server, server=server) as facts:
            self.lab.kill(server, "server")
            self.site.weight(server, {0})
            self.trial.new_clients_served(facts)
            self.trial.settled(facts)

    def server_return(self, fault: Fault, _nodes: Sequence[str], server: str) -> None:
        dead = not self.lab.alive(server, "server")
        if not dead:
            self.lab.kill(server, "server")
            self.site.weight(server, {0})
            self.trial.load.fill()
        with self.trial.count(fault, server, server=server) as facts:
            self.lab.start(server, "server")
            self.site.weight(server, {1})
            self.trial.settled(facts)
        self.trial.worn()  # those that were opened without it are where it would not have let them be

    def server_blink(self, fault: Fault, _nodes: Sequence[str], server: str) -> None:
        with self.trial.count(fault, server, server=server) as facts:
            self.lab.kill(server, "server")
            self.site.weight(server, {0})
            self.trial.new_clients_served(facts)
            self.trial.settled(facts)
            self.trial.healing(facts)
            self.lab.start(server, "server")
            self.site.weight(server, {1})
        self.trial.load.fill()

    def server_add(self, fault: Fault, _nodes: Sequence[str], _server: str) -> None:
        with self.trial.count(fault, self.added) as facts:
            self._add()
            self.trial.settled(facts)
        self.trial.worn()

    def server_remove(self, fault: Fault, _nodes: Sequence[str], _server: str) -> None:
        addresses = [one.partition("/")[0] for one in self.lab.topology.node(self.added).interfaces["lan0"]]
        if not kernel_view.weights(self.site.nodes[0], addresses):
            self._add()
            self.trial.fresh()
        with self.trial.count(fault, self.added, server=self.added) as facts:
            self.site.reload()
            self.site.weight(self.added, set())
            facts.note = f"out of every kernel after {time.monotonic() - facts.began:.2f} s"
            self.trial.settled(facts)
        self.trial.worn()

    def sync(self, fault: Fault, nodes: Sequence[str], _server: str) -> None:
        node = nodes[0]
        self.trial.calm()  # reading a configuration is a process of its own, and takes its time beside 600 connections that retry
        self.site.reload(sync=True)
        for each in self.site.nodes:
            until(
                lambda each=each: (
                    len(self.site.ask(each, "GET", "/status")["kernel"]["connection_sync"]) == 2
                ),  # type: ignore[misc]
                f"both daemons of connection sync on {each}",
                PATIENCE,
            )
        self.trial.fresh()
        flows = kernel_view.live("cl")
        for each in self.site.nodes:
            until(partial(kernel_view.knows, each, flows), f"{each} to know every connection", PATIENCE)
        self.site.reload(servers=self.site.servers + 1, sync=True)
        self.site.weight(self.added, {1})
        with self.trial.count(fault, f"{self.added}+{node}") as facts:
            self.lab.kill(node, self.site.speaker)
            self.trial.gone(facts, node)
            self.trial.settled(facts)
            self.trial.healing(facts)
            self._start(node, self.site.speaker)
        self.site.reload()
        self.site.weight(self.added, set())
        self.trial.worn()

    def _add(self) -> None:
        self.site.reload(servers=self.site.servers + 1)
        self.site.weight(self.added, {1})

    def _signalled(self, fault: Fault, node: str, what: What, number: int) -> None:
        """A process ends; later it is started again."""
        process = self.site.process(node, what)
        with self.trial.count(fault, node) as facts:
            process.send(number)
            self.trial.gone(facts, node)
            if fault.path:
                self._works(facts, node)
            if not process.wait(PATIENCE):
                facts.wrong.append(f"{what} did not end")
            self.trial.settled(facts)
            self.trial.healing(facts)
            self._start(node, what)

    @contextlib.contextmanager
    def _checked_each_second(self, node: str, check: Mapping[str, Any] | None = None) -> Iterator[None]:
        """The bound is that of checks every second, which many nodes do not have. `check`: of another kind."""
        self.site.configure(node, interval=1.0, check=check)
        self.site.ask(node, "POST", "/reload")
        until(lambda: self.site.all_usable(node), f"{node} to find every real server well", PATIENCE)
        yield
        self.site.configure(node)
        self.site.ask(node, "POST", "/reload")

    def _without(self, fault: Fault, node: str, link: Callable[..., None]) -> None:
        """A link of the node goes down; later it comes up."""
        with self.trial.count(fault, node) as facts:
            link(node, up=False)
            self.trial.gone(facts, node)
            self.trial.settled(facts)
            self.trial.healing(facts)
            link(node, up=True)
            self.trial.everywhere()

    def _stopped(self, fault: Fault, node: str, what: What) -> None:
        """A process stands still; later it goes on."""
        process = self.site.process(node, what)
        with self.trial.count(fault, node) as facts:
            process.send(signal.SIGSTOP)
            self.trial.gone(facts, node)
            self.trial.settled(facts)
            self.trial.healing(facts)
            _continue(process)
            self.trial.everywhere()

    def _frozen(self, fault: Fault, node: str, whats: Sequence[What]) -> None:
        with Freeze(self.site, node, whats) as freeze, self.trial.count(fault, node) as facts:
            with self.site.watchdog.standing_still(node):
                freeze.begin()
                try:
                    self.trial.gone(facts, node)
                    self.trial.settled(facts)
                finally:
                    self.trial.healing(facts)
                    freeze.end()
            self.trial.everywhere()

    def _start(self, node: str, what: What) -> None:
        self.lab.start(node, what)
        self.trial.everywhere()

    def _works(self, facts: Facts, node: str) -> None:
        if not self.site.forwards(node):
            facts.wrong.append(f"{node} does not forward any more")

    def _bfd_up(self, node: str) -> bool:
        balancer = next(one for one in self.lab.topology.balancers if one.name == node)
        up = {
            peer["peer"]
            for peer in json.loads(self.lab.vtysh("show bfd peers json"))
            if peer["status"] == "up"
        }
        return {balancer.node4, balancer.node6} <= up


def emulated() -> bool:
    return "User Mode Linux" in Path("/proc/cpuinfo").read_text("ascii", "replace")


def _continue(process: Process) -> None:
    """Unless it has been ended: an ExaBGP that does not answer is, by its plugin."""
    with contextlib.suppress(ProcessLookupError):
        process.send(signal.SIGCONT)
