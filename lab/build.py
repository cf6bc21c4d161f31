"""Builds the site in network namespaces. System calls are dear in User-Mode-Linux: one `ip` per namespace."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

from lab import netns
from lab.errors import LabError
from lab.topology import LAN, Topology


def build_network(topology: Topology) -> None:
    """Namespaces, links, addresses, routes, sysctls. Raises LabError with what `ip` said."""
    places = [node.name for node in topology.nodes] + [LAN]
    _ip([f"netns add {name}" for name in places])
    for node in topology.nodes:  # before the links: what stands under `default` counts from their creation
        with netns.inside(node.name):
            for key, value in node.sysctls.items():
                Path("/proc/sys", *key.split(".")).write_text(value)
    _ip([f"link add {a} netns {x} type veth peer name {b} netns {y}" for (x, a), (y, b) in topology.links])
    _ip(bridge_commands(topology), LAN)
    for node in topology.nodes:
        _ip(node_commands(topology, node.name), node.name)


def keep_hashes(client: str) -> None:
    """A connection of the client stays with its next hop, whatever it has to send again.

    The router has the hash from the sender's socket, for both are in one kernel, and Linux gives a socket another one
    when an answer is missing: so clients would leave a dead balancer by themselves. Kernels before 5.19 cannot be told.
    """
    with netns.inside(client), contextlib.suppress(FileNotFoundError):
        Path("/proc/sys/net/core/txrehash").write_text("0")


def bridge_commands(topology: Topology) -> list[str]:
    """`ip` commands that make the LAN one link."""
    ports = [name for ends in topology.links for place, name in ends if place == LAN]
    make = ["link add br0 type bridge mcast_snooping 0", "link set br0 up"]
    return make + [f"link set {port} master br0 up" for port in ports]


def node_commands(topology: Topology, name: str) -> list[str]:
    """`ip` commands that address a node whose links exist, in order."""
    node = topology.node(name)
    commands = ["link set lo up"]
    for interface, addresses in node.interfaces.items():
        commands.append(f"link set {interface} up")
        commands += [f"addr add {a} dev {interface}{' nodad' if ':' in a else ''}" for a in addresses]
    return commands + [f"route replace default via {gateway}" for gateway in node.gateways]


def destroy_network(topology: Topology) -> None:
    """Removes what `build_network` made, as much of it as there is."""
    there = set(netns.PLACE.iterdir()) if netns.PLACE.exists() else set()
    places = [node.name for node in topology.nodes] + [LAN]
    _ip([f"netns del {name}" for name in places if netns.PLACE / name in there])


def _ip(commands: list[str], place: str | None = None) -> None:
    argv = ["ip", *(["-n", place] if place else []), "-batch", "-"]
    done = subprocess.run(argv, input="\n".join(commands), text=True, capture_output=True, check=False)
    if done.returncode != 0:
        raise LabError(f"{' '.join(argv)} of {len(commands)} commands: {done.stderr.strip()}")
