"""From the death of a service's real servers until the router's kernel has no route to the node, and back again.

Runs inside the lab's kernel: `python -m lab run -- python -m lab.bench_failover`. Two nodes at the same time, each
with a VIP and real servers of its own: one real server, as the peers were measured, and four; then one real server with a
tripwire, and ExaBGP's own healthcheck with the same settings in the place of agent and plugin. All real servers of a
node die at once: their listening sockets are closed, so that connections are refused. When they do is spread evenly
over the interval of the checks, in random order. Prints a table; the same in `build/bench-checks.json`.

With `--without-ipvs` the agents have a kernel in memory (`lab.memory_agent`): on a machine without IPVS this runs in
plain namespaces (ANYCAST_LAB=namespaces), where a system call costs what it costs, as it did for the peers. All has
a real-time priority: what else is done on the machine is not in the way.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from lab import configs, measuring, netns, processes
from lab.control import Lab
from lab.figures import REACHED, Times, delay, delays_document, delays_table
from lab.measuring import say
from lab.peer_healthcheck import process_section, program, replaced, write_check
from lab.topology import HTTP_PORT, VIPS, topology

TRIALS = 32
INTERVAL = 1.0  # seconds
CHECK = {
    "type": "tcp", "interval": "1s", "timeout": "1s", "rise": 3, "fall": 3, "fast_interval": "100ms"
}  # fmt: skip
CALM = 0.1  # seconds at least after a change: the checks are back at their usual interval
PATIENCE = 20.0
BACKLOG = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """`peer`: ExaBGP's own healthcheck in the place of agent and plugin."""

    name: str
    node: str
    prefix: str
    servers: tuple[str, ...]
    tripwire: bool = False
    peer: bool = False


SCENARIOS = (
    Scenario(name="one real server", node="lb1", prefix=VIPS[0], servers=("rs1",)),
    Scenario(name="four real servers", node="lb2", prefix=VIPS[1], servers=("rs2", "rs3", "rs4", "rs5")),
)
TRIPPED = Scenario(name="one, tripwire", node="lb1", prefix=VIPS[0], servers=("rs1",), tripwire=True)
PEER = Scenario(name="one, exabgp healthcheck", node="lb2", prefix=VIPS[1], servers=("rs2",), peer=True)
BATCHES = (SCENARIOS, (TRIPPED, PEER))
"""At the same time, each in a lab of its own."""
AGAINST_PEER = 0.6  # of its median


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Death or return, and what followed: CLOCK_REALTIME, seconds."""

    began: float
    routed: float  # in the router's kernel table


@dataclass(slots=True)
class Story:
    deaths: list[Change] = field(default_factory=list)
    returns: list[Change] = field(default_factory=list)


def phases(count: int, interval: float, rng: random.Random) -> list[float]:
    """Spread evenly over the interval, one in each `count`th of it, in random order."""
    found = [(place + rng.random()) * interval / count for place in range(count)]
    rng.shuffle(found)
    return found


def start_memory_agent(lab: Lab, node: str) -> None:
    """The node's agent with a kernel in memory."""
    processes.spawn(
        [sys.executable, "-m", "lab.memory_agent", "agent", "--config", str(lab.config(node))],
        netns=node,
        env=configs.program_environment(),
        log=lab.log(node, "agent"),
        record=lab.run / node / "agent.pid",
    )


def node_yaml(whole: str, prefix: str, servers: tuple[str, ...], *, tripwire: bool = False) -> str:
    """The lab's configuration of a node, with one address, one service and these real servers only."""
    config: dict[str, Any] = yaml.safe_load(whole)
    wanted = ":" in prefix
    pool = config["pools"]["web"]
    config["bgp"]["neighbors"] = [
        one for one in config["bgp"]["neighbors"] if (":" in one["address"]) == wanted
    ]
    config["pools"] = {
        "web": {
            "check": {**CHECK, "tripwire": tripwire},
            "servers": [
                {"name": one["name"], "addresses": [a for a in one["addresses"] if (":" in a) == wanted]}
                for one in pool["servers"]
                if one["name"] in servers
            ],
        }
    }
    config["vips"] = {
        "web": {
            "addresses": [prefix.partition("/")[0]],
            "services": [{"port": HTTP_PORT, "pool": "web"}],
        }
    }
    return yaml.safe_dump(config, sort_keys=False)


class Service:
    """The listening sockets of a scenario's real servers. Nobody accepts: their queues have room for all the checks."""

    def __init__(self, servers: tuple[str, ...]) -> None:
        self._servers = servers
        self._listeners: list[socket.socket] = []

    def begin(self) -> None:
        made = []
        for server in self._servers:
            listener = netns.open_socket(server, socket.AF_INET6, socket.SOCK_STREAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("::", HTTP_PORT))
            made.append(listener)
        for listener in made:
            listener.listen(BACKLOG)
        self._listeners = made

    def end(self) -> None:
        for listener in self._listeners:
            listener.close()


def tell(lab: Lab, scenario: Scenario, service: Service, story: Story, waits: Iterator[float]) -> None:
    """Death and return, again and again, for as long as there are waits."""
    watch = lab.watch()
    for wait in waits:
        time.sleep(CALM + wait)
        for act, changes, wanted in (
            (service.end, story.deaths, ()),
            (service.begin, story.returns, (scenario.node,)),
        ):
            if act == service.begin:
                time.sleep(CALM + wait)
            began, since = time.time(), time.monotonic()
            act()
            event = watch.wait(scenario.prefix, wanted, PATIENCE, since=since)
            changes.append(Change(began=began, routed=event.t))
        died, back = (changes[-1].routed - changes[-1].began for changes in (story.deaths, story.returns))
        say(f"{scenario.name}: gone after {died:.3f} s, back after {back:.3f} s")


def verdicts(log: Path) -> list[tuple[float, str]]:
    """When a node's agent changed its mind, and to what."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return [
        (datetime.fromisoformat(line["timestamp"]).timestamp(), line["advertise"])
        for line in lines
        if line["event"] == "vip.verdict_changed"
    ]


def after_verdict(changes: list[Change], minds: list[tuple[float, str]], advertise: str) -> list[float]:
    """From the agent's verdict to the router's table: what is not the rhythm of the checks."""
    return [
        min(change.routed - at for at, said in minds if said == advertise and at <= change.routed)
        for change in changes
    ]


def figures(scenario: Scenario, story: Story, minds: list[tuple[float, str]]) -> list[Times]:
    took = [change.routed - change.began for change in story.deaths]
    back = [change.routed - change.began for change in story.returns]
    goals = {"median": 0.35, "p95": 0.45} if scenario.tripwire else {"median": 0.6, "p95": 1.1}
    found = [
        delay(f"{scenario.name}: death -> route gone", took, **({} if scenario.peer else goals)),
        delay(f"{scenario.name}: back -> route there", back),
    ]
    if scenario.peer:
        return found
    return [
        *found,
        delay(f"{scenario.name}: verdict -> route gone", after_verdict(story.deaths, minds, "no")),
    ]


def start_peer(lab: Lab, scenario: Scenario) -> None:
    """ExaBGP with its own healthcheck, and the settings that ours has."""
    folder = lab.run / scenario.node
    (server,) = (one for one in lab.topology.servers if one.name in scenario.servers)
    family = 1 if ":" in scenario.prefix else 0
    write_check(folder / "check", server.interfaces["lan0"][family].partition("/")[0])
    options = "--interval 1 --fast-interval 0.1 --rise 3 --fall 3 --timeout 1 --withdraw-on-down --no-ip-setup --no-syslog"
    section = process_section(
        program(), str(folder / "check"), str(folder / "disable"), vips=(scenario.prefix,), options=options
    )
    conf = folder / "exabgp.conf"
    conf.write_text(replaced(conf.read_text(), section))
    lab.start(scenario.node, "exabgp")


def build(lab: Lab, scenarios: tuple[Scenario, ...], *, ipvs: bool) -> None:
    lab.build(daemons=False)
    lab.watch()
    yamls = {b.name: configs.anycast_yaml(lab.topology, b) for b in lab.topology.balancers}
    for scenario in scenarios:
        for server in scenario.servers:
            lab.kill(server, "server")
        node = scenario.node
        lab.config(node).write_text(
            node_yaml(yamls[node], scenario.prefix, scenario.servers, tripwire=scenario.tripwire)
        )
        lab.render(node)
        if scenario.peer:
            start_peer(lab, scenario)
            continue
        lab.start(node, "exabgp")
        if ipvs:
            lab.start(node, "agent")
        else:
            start_memory_agent(lab, node)


def measured(scenarios: tuple[Scenario, ...], trials: int, rng: random.Random, *, ipvs: bool) -> list[Times]:
    """Raises RuntimeError: not every trial has come to its end."""
    stories = [Story() for _ in scenarios]
    services = [Service(scenario.servers) for scenario in scenarios]
    servers = sum(len(scenario.servers) for scenario in scenarios)
    with Lab(topology(balancers=len(scenarios), servers=servers)) as lab, contextlib.ExitStack() as after:
        after.callback(lab.down)  # there may be another
        say(f"building: a router, {len(scenarios)} balancers, {servers} real servers")
        build(lab, scenarios, ipvs=ipvs)
        for service in services:
            service.begin()
        for scenario in scenarios:
            lab.wait_route(scenario.prefix, (scenario.node,), timeout=60.0)
        say(f"announced; {trials} deaths and returns of each service")
        tellers = [
            threading.Thread(
                target=tell, args=(lab, scenario, service, story, iter(phases(trials, INTERVAL, rng)))
            )
            for scenario, service, story in zip(scenarios, services, stories, strict=True)
        ]
        for teller in tellers:
            teller.start()
        for teller in tellers:
            teller.join()
        if any(len(story.returns) < trials for story in stories):
            raise RuntimeError("not every trial came to its end: see above")
        return [
            one
            for scenario, story in zip(scenarios, stories, strict=True)
            for one in figures(
                scenario, story, [] if scenario.peer else verdicts(lab.log(scenario.node, "agent"))
            )
        ]


def against_peer(found: list[Times]) -> str:
    """The medians until the route is gone, ours with a tripwire and the peer's."""
    ours, theirs = (
        next(one for one in found if one.work.startswith(f"{scenario.name}: death"))
        for scenario in (TRIPPED, PEER)
    )
    ratio = ours.at(0.5) / theirs.at(0.5)
    reached = REACHED[ratio <= AGAINST_PEER]
    return f"tripwire : exabgp healthcheck, medians: {ratio:.2f} (goal <= {AGAINST_PEER}: {reached})\n"


def main(argv: list[str] | None = None) -> int:
    parser = measuring.options("lab.bench_failover", __doc__, "bench-checks.json")
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--without-ipvs", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    measuring.first_in_line()
    rng = random.Random(options.seed)  # noqa: S311 - no secret
    delays: list[Times] = []
    for batch in BATCHES:
        try:
            delays += measured(batch, options.trials, rng, ipvs=not options.without_ipvs)
        except RuntimeError as error:
            print(f"bench_failover: {error}", file=sys.stderr)
            return 1
    found = {f"failover{'_without_ipvs' * options.without_ipvs}": delays_document(delays)}
    measuring.leave(options.json, found, delays_table(delays) + against_peer(delays))
    return 0


if __name__ == "__main__":
    sys.exit(main())
