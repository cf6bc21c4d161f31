"""Delays that need no IPVS: ExaBGP and plugin from their start to the router's table, from the last failing outcome of a
check to the UPDATE on the wire, and from the death of the plugin until its route has gone.

Runs in plain namespaces, where a system call costs what it costs: `ANYCAST_LAB=namespaces python -m lab run -- python
-m lab.bench_start`. The agent has a kernel in memory (`lab.memory_agent`), all else is as it is. Prints a table; the
same in `build/chaos.json`. Exit status 1: a goal was missed.
"""

from __future__ import annotations

import json
import select
import signal
import socket
import struct
import sys
import time
from datetime import datetime
from pathlib import Path

from lab import configs, measuring, netns
from lab.bench_failover import CALM, INTERVAL, Scenario, Service, node_yaml, start_memory_agent
from lab.control import Lab
from lab.figures import Times, delay, delays_document, delays_table
from lab.measuring import say
from lab.packets import BGP_PORT, BGP_UPDATE, RST, bgp_types, segment
from lab.topology import HTTP_PORT, VIPS, topology

ROUNDS = 11
DEATHS = 5
START_GOAL, WIRE_GOAL = 0.45, 0.005  # seconds, medians
DEATH_GOAL = 0.5  # seconds, 95th percentile
PATIENCE = 30.0
PAUSE = 15.0  # seconds: ExaBGP gives up on a plugin that dies more than five times in 64 s
NODE = "lb1"
SCENARIO = Scenario(name="one real server", node=NODE, prefix=VIPS[0], servers=("rs1",))
_ETH_P_ALL = 3
_SO_TIMESTAMPNS = 35


class Capture:
    """What passes an interface of a node, with the kernel's time of it: CLOCK_REALTIME, seconds."""

    def __init__(self, node: str, interface: str) -> None:
        self.socket = netns.open_socket(node, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        self.socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self.socket.bind((interface, _ETH_P_ALL))

    def next(self) -> tuple[float, bytes]:
        frame, ancillary, *_ = self.socket.recvmsg(65536, socket.CMSG_SPACE(16))
        seconds, nanoseconds = struct.unpack("=qq", ancillary[0][2][:16])
        return seconds + nanoseconds / 1e9, frame


def cold_start(lab: Lab, rounds: int) -> Times:
    """The agent is healthy and has somebody to answer for; ExaBGP and plugin are started."""
    values = []
    for _ in range(rounds):
        lab.kill(NODE, "exabgp")
        lab.watch().wait(SCENARIO.prefix, (), PATIENCE)
        time.sleep(1.0)  # the router may dial again
        began = time.monotonic()
        lab.start(NODE, "exabgp")
        values.append(lab.watch().wait(SCENARIO.prefix, (NODE,), PATIENCE, since=began).monotonic - began)
        say(f"exec -> route at the router: {values[-1]:.3f} s")
    return delay("exec of ExaBGP and plugin -> route at the router", values, median=START_GOAL)


def outcome_to_wire(lab: Lab, service: Service, rounds: int) -> Times:
    """The last refusal of a check's connection, as it passes the node's interface, to the UPDATE that follows it."""
    checks, wire = Capture(NODE, "lan0"), Capture(NODE, "up0")
    values = []
    for number in range(rounds):
        time.sleep(CALM + INTERVAL * number / rounds)
        began, since = time.time(), time.monotonic()
        service.end()
        lab.watch().wait(SCENARIO.prefix, (), PATIENCE, since=since)
        updated = next(at for at in _updates(wire) if at >= began)
        values.append(updated - max(at for at in _refusals(checks) if began <= at <= updated))
        say(f"last failing outcome -> UPDATE: {values[-1] * 1e3:.1f} ms")
        since = time.monotonic()
        service.begin()
        lab.watch().wait(SCENARIO.prefix, (NODE,), PATIENCE, since=since)
    return delay("last failing outcome -> UPDATE on the wire", values, median=WIRE_GOAL)


def plugin_killed(lab: Lab, rounds: int) -> Times:
    """ExaBGP starts it again, and its first words withdraw. Back before the router acts, it costs no route: then it
    counts until the agent has it again.
    """
    values = []
    for _ in range(rounds):
        plugin = lab.process(NODE, "plugin")
        assert plugin is not None
        began, since = time.time(), time.monotonic()
        plugin.send(signal.SIGKILL)
        while not (back := connected(lab.log(NODE, "agent"), began)):
            time.sleep(0.02)
        lab.watch().wait(SCENARIO.prefix, (NODE,), PATIENCE)
        try:
            gone = lab.watch().wait_gone(SCENARIO.prefix, NODE, 0.0, since).monotonic - since
        except TimeoutError:
            gone = back - began
        values.append(gone)
        say(f"plugin killed -> route gone: {gone:.3f} s")
        time.sleep(PAUSE)
    return delay("SIGKILL to the plugin -> route gone", values, p95=DEATH_GOAL)


def connected(log: Path, since: float) -> float:
    """When the agent of that log had a plugin again: seconds since the epoch; 0: not yet."""
    lines = [line for line in log.read_text().splitlines() if '"plugin.connected"' in line]
    at = datetime.fromisoformat(json.loads(lines[-1])["timestamp"]).timestamp() if lines else 0.0
    return at if at > since else 0.0


def _refusals(capture: Capture) -> list[float]:
    """When the real server refused a connection, of what has been captured so far."""
    found = [(at, segment(frame)) for at, frame in _all(capture)]
    return [at for at, one in found if one and one.source == HTTP_PORT and one.flags & RST]


def _updates(capture: Capture) -> list[float]:
    found = [(at, segment(frame)) for at, frame in _all(capture)]
    return [
        at
        for at, one in found
        if one and BGP_PORT in (one.source, one.destination) and BGP_UPDATE in bgp_types(one.payload)
    ]


def _all(capture: Capture) -> list[tuple[float, bytes]]:
    found = []
    while select.select([capture.socket], [], [], 0)[0]:
        found.append(capture.next())
    return found


def build(lab: Lab) -> None:
    lab.build(daemons=False)
    lab.watch()
    lab.kill("rs1", "server")
    (balancer,) = lab.topology.balancers
    text = configs.anycast_yaml(lab.topology, balancer)
    lab.config(NODE).write_text(node_yaml(text, SCENARIO.prefix, SCENARIO.servers))
    lab.render(NODE)
    start_memory_agent(lab, NODE)
    lab.start(NODE, "exabgp")


def main(argv: list[str] | None = None) -> int:
    parser = measuring.options("lab.bench_start", __doc__, "chaos.json")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--figures", default="cold-start,outcome-wire,plugin-restart", help="with commas")
    options = parser.parse_args(argv)
    wanted = options.figures.split(",")
    service = Service(SCENARIO.servers)
    with Lab(topology(balancers=1, servers=1)) as lab:
        try:
            say("building: a router, a balancer whose kernel is in memory, a real server")
            build(lab)
            service.begin()
            lab.watch().wait(SCENARIO.prefix, (NODE,), PATIENCE * 2)
            delays = [cold_start(lab, options.rounds)] if "cold-start" in wanted else []
            delays += [outcome_to_wire(lab, service, options.rounds)] if "outcome-wire" in wanted else []
            delays += [plugin_killed(lab, min(options.rounds, DEATHS))] if "plugin-restart" in wanted else []
        finally:
            lab.down()
    measuring.leave(options.json, {"figures": delays_document(delays)}, delays_table(delays))
    missed = [one for one in delays if one.reached is False]
    for one in missed:
        print(f"NOT AS PROMISED: {one.work}: see the median", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
