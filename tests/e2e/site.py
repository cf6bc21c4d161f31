"""The lab's site with everything running on it, in a test's hands. Waits for what is to be; never for time."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import signal
import socket
import subprocess
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml

from anycast.cli import client
from lab import configs, kernel_view, netns, waiting
from lab.control import Lab, What
from lab.errors import LabError
from lab.kernel_view import Table
from lab.processes import Process
from lab.routewatch import RouteEvent
from lab.topology import CLIENTS4, VIP4, VIP6, VIPS
from tests.scrape import samples

PATIENCE = 100.0  # seconds for anything that has to come: an emulated kernel on a busy machine is slow
PROBLEM_WORDS = ("Traceback", "please report")
NODES = ("lb1", "lb2", "lb3")
OPS_PORT = 9644
# Shorter than by default, where nothing but the waiting is shorter.
TIMING = {
    "drain": "500ms",
    "settle": "300ms",
    "reconcile": "2s",
    "server_drain": "1s",
    "start_hold_limit": "0s",
}

Document = dict[str, Any]
_LINES = 30  # of a log, behind the first that tells of a defect
T = TypeVar("T")


def until(look: Callable[[], T | None], what: str, timeout: float = PATIENCE) -> T:
    """As `lab.waiting.until`, for as long as the emulated kernel may take."""
    return waiting.until(look, what, timeout)


class Site:
    """Three balancers that announce both VIPs, before and after every test."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        # Half as often as in `make chaos`, where waits are measured: 600 connections would take half of the processor.
        lab.interval = 1.0
        self.original: dict[str, str] = {}
        self.table: Table = {}  # of every node when all is well
        self._read: dict[Path, int] = {}  # bytes of a log before the mark
        self._sound: dict[Path, int] = {}  # bytes of a log before the test

    def build(self) -> None:
        self.lab.build(daemons=False)
        self.lab.watch()
        for balancer in self.lab.topology.balancers:
            config = yaml.safe_load(configs.anycast_yaml(self.lab.topology, balancer)) | {"timing": TIMING}
            self.original[balancer.name] = yaml.safe_dump(config, sort_keys=False)
            self.lab.config(balancer.name).write_text(self.original[balancer.name])
            self.lab.render(balancer.name)
            self.lab.start(balancer.name, "exabgp")
            self.lab.start(balancer.name, "agent")
        self.heal()

    def begin(self) -> None:
        """What the logs hold by now is no test's any more."""
        for path in self.lab.run.glob("lb*/*.log"):
            self._read[path] = self._sound[path] = path.stat().st_size

    def restart(self) -> None:
        """When healing does not do: every balancer from its start, so that one defect is one failed test."""
        for node in NODES:
            for what in ("agent", "exabgp"):
                with contextlib.suppress(LabError):
                    self.lab.kill(node, what)
            (self.lab.run / node / "state" / "maintenance.json").unlink(missing_ok=True)
            self.lab.exec(node, "ipvsadm", "-C")
        self.heal()

    def heal(self) -> None:
        """Original files, every daemon, no maintenance; returns when every node announces everything again."""
        changed = [n for n in NODES if self.lab.config(n).read_text() != self.original[n]]
        for node in changed:
            self.lab.config(node).write_text(self.original[node])
        for node, daemons in self.lab.status().items():
            for what, alive in daemons.items():
                if not alive:
                    self.lab.start(node, what)  # type: ignore[arg-type]
        for node in NODES:
            status = self._revived(node)
            if node in changed:
                self.reload(node)
            for entry in status["maintenance"]:
                self.maintenance(node, on=False, vip=entry["scope"])
            if node in changed or not _good(status):
                self.ready(node)
        self.routed(NODES)
        self.table = self.table or self.table_of("lb1")
        for node in NODES:
            self.holds(node, self.table)

    # The nodes' agents, by their unix sockets: the nodes share one file system.

    def ask(self, node: str, method: str, path: str, body: Document | None = None) -> client.Answer:
        control = self.lab.run / node / "control.sock"
        if method == "GET" and path != "/maintenance":
            return client.read(control, path)
        return client.ask(control, method, path, body, timeout=PATIENCE)

    def standing(self, node: str) -> list[str]:
        """The kinds of what stands, but for `overloaded`: how busy this machine is, no test is about."""
        kinds = [one["kind"] for one in self.status(node)["standing"]]
        return [kind for kind in kinds if kind != "overloaded"]

    def status(self, node: str) -> Document:
        answer = self.ask(node, "GET", "/status")
        assert answer.ok, answer
        return answer.body

    def vip(self, node: str, name: str = "web") -> Document:
        return next(vip for vip in self.status(node)["vips"] if vip["name"] == name)

    def answers(self, node: str) -> Document:
        """The node's status, once there is an agent to tell."""

        def look() -> Document | None:
            with contextlib.suppress(client.UnreachableError):
                return self.status(node)
            return None

        return until(look, f"{node}: an agent that answers")

    def _revived(self, node: str) -> Document:
        """The same. An agent that ends because the machine was too busy for its file is started again, as by systemd."""

        def look() -> Document | None:
            with contextlib.suppress(client.UnreachableError):
                return self.status(node)
            if not self.lab.alive(node, "agent"):
                self.lab.start(node, "agent")
            return None

        return until(look, f"{node}: an agent that answers", 3 * PATIENCE)

    def ready(self, node: str) -> Document:
        """The node's status, once it can do its work, announces all it has and is in no maintenance."""

        def look() -> Document | None:
            status = self.answers(node)
            return status if _good(status) else None

        return until(look, f"{node} to be ready")

    def ready_but_for(self, node: str, scope: str) -> None:
        """Until the node announces all it has, with `scope` in maintenance."""

        def look() -> bool:
            status = self.answers(node)
            announced = all(vip["announced"] for vip in status["vips"])
            return announced and [one["scope"] for one in status["maintenance"]] == [scope]

        until(look, f"{node} to announce with {scope} drained")

    def maintenance(
        self, node: str, *, on: bool, vip: str = "", reason: str = "", now: bool = False
    ) -> Document:
        body = {
            "scope": vip,
            "on": on,
            **({"reason": reason} if on else {}),
            **({"now": True} if now else {}),
        }
        answer = self.ask(node, "POST", "/maintenance", body)
        assert answer.ok, answer
        return answer.body

    @contextlib.contextmanager
    def edit(self, node: str) -> Iterator[Document]:
        """Changes the node's configuration file. Nothing reads it before it is told to."""
        config: Document = yaml.safe_load(self.lab.config(node).read_text())
        yield config
        self.lab.config(node).write_text(yaml.safe_dump(config, sort_keys=False))

    def originally(self, node: str) -> Document:
        """The node's configuration as it is before and after every test."""
        config: Document = yaml.safe_load(self.original[node])
        return config

    def reload(self, node: str) -> list[str]:
        """What changed, in words. Asserts that the file was taken."""
        answer = self.ask(node, "POST", "/reload", {"allow_removal": True})
        assert answer.ok, answer
        changes: list[str] = answer.body["changes"]
        return changes

    def http(self, node: str, path: str, port: int = OPS_PORT) -> tuple[int, str]:
        """Status code and body of what a node answers to itself over TCP."""
        with netns.open_socket(node, socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(("127.0.0.1", port))
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.sock = sock
            connection.request("GET", path, headers={"Connection": "close"})
            with connection.getresponse() as response:
                return response.status, response.read().decode()

    def metric(self, node: str, name: str) -> float:
        """A metric of the node, in `name` with its labels in order of their names.

        Waits for an ops process that has not begun to listen yet: it starts after the agent.
        """

        def ask() -> str | None:
            with contextlib.suppress(ConnectionRefusedError):
                return self.http(node, "/metrics")[1]
            return None

        return samples(until(ask, f"the ops process of {node}"))[name]

    # Logs

    def mark(self, node: str) -> None:
        """`logged` tells of what comes from here on, not from the test's beginning."""
        path = self.lab.log(node, "agent")
        self._read[path] = path.stat().st_size

    def logged(self, node: str, event: str, count: int = 1) -> list[Document]:
        """The agent's log events of that name since the mark, once there are `count`: a log comes after the fact."""

        def look() -> list[Document] | None:
            found = [line for line in self.log_of(node) if line["event"] == event]
            return found if len(found) >= count else None

        return until(look, f"{count} of {event} in the log of {node}")

    def log_of(self, node: str) -> list[Document]:
        """The agent's log events since the mark, in their order."""
        path = self.lab.log(node, "agent")
        text = path.read_bytes()[self._read.get(path, 0) :].decode()
        whole = text.rpartition("\n")[0].splitlines()
        return [json.loads(line) for line in whole if line.startswith("{")]

    def complaints(self) -> list[str]:
        """What the nodes have logged since the test began that no fault excuses: the traces of defects."""
        texts = [(path, path.read_bytes()[start:].decode()) for path, start in self._sound.items()]
        return [f"{path}: {part}" for path, text in texts if (part := _first_defect(text))]

    # Processes

    def terminate(self, node: str, what: What) -> int:
        """SIGTERM; the exit status."""
        process = self.lab.process(node, what)
        assert process is not None
        with _pidfd(process) as fd:
            process.send(signal.SIGTERM)
            assert select.select([fd], [], [], PATIENCE)[0], f"{what} on {node} does not end"
            _, status = os.waitpid(process.pid, 0)
        return os.waitstatus_to_exitcode(status)

    # The router

    def routed(self, nodes: Collection[str], *prefixes: str) -> list[RouteEvent]:
        """Until the router's kernel sends the prefixes (all VIPs) to exactly `nodes`."""
        return [self.lab.wait_route(prefix, nodes, PATIENCE) for prefix in prefixes or VIPS]

    def route_events(self) -> int:
        """How often the router's kernel has changed a VIP's next hops so far."""
        return len(self.lab.watch().events)

    def paths(self, prefix: str) -> dict[str, list[str]]:
        """What the router's BGP has for an IPv4 prefix: node to its communities."""
        done = subprocess.run(
            ["vtysh", "-d", "bgpd", "-c", f"show bgp ipv4 unicast {prefix} json"],
            capture_output=True,
            text=True,
            check=True,
        )
        known = self.lab.topology.node_of_next_hop
        return {
            known[path["peer"]["peerId"]]: path.get("community", {}).get("string", "").split()
            for path in json.loads(done.stdout).get("paths", [])
        }

    # The nodes' kernels

    def table_of(self, node: str) -> Table:
        return kernel_view.table_of(node)

    def holds(self, node: str, table: Table) -> None:
        """Until the node's IPVS table is `table`, order included."""
        until(lambda: self.table_of(node) == table, f"{node} to hold {table}")

    def weights(self, node: str, server: int) -> set[int]:
        """The weights of one real server behind every service; empty: it is nowhere."""
        lines = (line for lines in self.table_of(node).values() for line in lines)
        return {int(line.rpartition(" ")[2]) for line in lines if is_server(server, line)}

    def addresses(self, node: str) -> set[str]:
        """What is on `lo`, with prefix lengths."""
        return set(self.lab.exec(node, "ip", "-br", "address", "show", "lo").stdout.split()[2:])

    # The client

    def http_server(self, vip: str) -> str:
        """Which real server answers a new connection."""
        with netns.open_socket("cl", _family(vip), socket.SOCK_STREAM) as sock:
            sock.settimeout(PATIENCE)
            sock.connect((vip, 80))
            sock.send(b"GET / HTTP/1.0\r\n\r\n")
            answer = b""
            while data := sock.recv(4096):
                answer += data
        return answer.rpartition(b"\r\n\r\n")[2].decode().strip()

    def udp_server(self, vip: str) -> str:
        """Which real server answers a datagram."""
        with netns.open_socket("cl", _family(vip), socket.SOCK_DGRAM) as sock:
            sock.settimeout(PATIENCE)
            sock.connect((vip, 514))
            sock.send(b"hello")
            return sock.recv(100).decode().partition(" ")[0]

    def mapping(self, ports: range = range(20000, 20010)) -> dict[tuple[str, int], str]:
        """Which real server answers a datagram to the IPv4 VIP, of each client address and source port."""
        found: dict[tuple[str, int], str] = {}
        for port in ports:
            sources = [f"10.1.0.{number}" for number in range(1, CLIENTS4 + 1)]
            with contextlib.ExitStack() as stack:
                for source in sources:
                    sock = stack.enter_context(netns.open_socket("cl", socket.AF_INET, socket.SOCK_DGRAM))
                    sock.settimeout(PATIENCE)
                    sock.bind((source, port))
                    sock.connect((VIP4, 514))
                    sock.send(b"?")
                    found[source, port] = sock.recv(100).decode().partition(" ")[0]
        return found

    def only(self, node: str) -> None:
        """Until `node` alone announces: the others are in maintenance."""
        for other in NODES:
            self.maintenance(other, on=other != node)
        self.routed([node])

    def live(self) -> set[tuple[str, int]]:
        """Address and port of the client's end of every TCP connection that is established."""
        return kernel_view.live("cl")

    def knows(self, node: str, flows: set[tuple[str, int]]) -> bool:
        """Whether the node's kernel has all of these TCP connections."""
        return kernel_view.knows(node, flows)

    def served(self) -> bool:
        """Whether a new connection to each VIP finds a real server."""
        return all(self.http_server(vip).startswith("rs") for vip in (VIP4, VIP6))


def _first_defect(log: str) -> str:
    """From the line on that tells of one; empty: none does."""
    lines = log.splitlines()
    found = next((at for at, line in enumerate(lines) if any(word in line for word in PROBLEM_WORDS)), None)
    return "" if found is None else "\n".join(lines[found : found + _LINES])


def _good(status: Document) -> bool:
    announced = all(vip["announced"] for vip in status["vips"])
    return announced and status["ready"]["ready"] and not status["maintenance"]


def is_server(number: int, line: str) -> bool:
    """Whether a line of a table is about rs`number`."""
    return line.startswith((f"10.9.2.{number}:", f"[fd00:9::2:{number}]:"))


def _family(vip: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in vip else socket.AF_INET


@contextlib.contextmanager
def _pidfd(process: Process) -> Iterator[int]:
    fd = os.pidfd_open(process.pid)
    try:
        yield fd
    finally:
        os.close(fd)
