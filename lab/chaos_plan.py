"""What `lab.chaos` does to the site and what is promised of it: the faults, their bounds, the options, and the order
of random ones. No I/O.
"""

from __future__ import annotations

import random
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

RANDOM = "random"
Peer = Literal["healthcheck", "none"]
Speaker = Literal["exabgp", "bird"]
SPEAKERS: tuple[Speaker, ...] = get_args(Speaker)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """`bound`: seconds until the router's kernel sends the node nothing more; None: no route has to go.

    `path`: the node goes on forwarding until the route has gone. `quiet`: the router's table does not change at all.
    """

    name: str
    text: str
    bound: float | None = None
    path: bool = False
    quiet: bool = False
    where: Literal["", "node", "server", "router", "nodes", "both"] = "node"
    balancers: int = 2  # needed
    alone: bool = False  # one of the random single faults
    said: str = ""  # the promise in words, where they are others
    method: str = ""  # of `lab.fleet_faults.FleetFaults`; empty: as it is named

    @property
    def act(self) -> str:
        return self.method or self.name.replace("-", "_")

    @property
    def promise(self) -> str:
        if self.said:
            return self.said
        words = [f"<= {self.bound:g} s"] if self.bound is not None else []
        words += ["path works"] * self.path + ["table unchanged"] * self.quiet
        return ", ".join(words) or "-"


# In this order: what needs connections of before comes before what replaces them.
FAULTS = (
    Fault(name="steady", text="nothing is broken", where="", quiet=True),
    Fault(name="drain", text="`anycast maintenance on`, later `off`", path=True, alone=True),
    Fault(name="agent-term", text="SIGTERM to the agent", path=True, alone=True),
    Fault(name="agent-kill", text="SIGKILL to the agent", bound=2.5, alone=True),
    Fault(name="agent-stop", text="SIGSTOP to the agent", bound=2.5, alone=True),
    Fault(
        name="plugin-kill", method="writer_kill", text="SIGKILL to `anycast announce`", bound=0.5, alone=True
    ),
    Fault(
        name="plugin-stop",
        method="writer_stop",
        text="SIGSTOP to `anycast announce`: the watchdog ends it",
        bound=3.0,
        alone=True,
    ),
    Fault(
        name="exabgp-term", method="speaker_term", text="SIGTERM to ExaBGP", bound=0.2, path=True, alone=True
    ),
    Fault(name="exabgp-kill", method="speaker_kill", text="SIGKILL to ExaBGP", bound=0.2, alone=True),
    Fault(
        name="exabgp-stop",
        method="speaker_stop",
        text="SIGSTOP to ExaBGP: the hold time of 3 s",
        bound=3.5,
        alone=True,
    ),
    Fault(
        name="freeze-bfd",
        text="all processes of a node stand still, its packets get lost, the link is up; BFD 3 x 100 ms",
        bound=0.6,
        alone=True,
    ),
    Fault(name="freeze-hold", text="the same without BFD: the hold time of 3 s", bound=3.5, alone=True),
    Fault(name="uplink-down", text="a node's link to the router goes down", bound=0.2, alone=True),
    Fault(
        name="server-link-down",
        text="a node's link to the real servers loses its carrier: its checks prove nothing any more",
        bound=5.5,
        alone=True,
    ),
    Fault(
        name="descriptors",
        text="not one descriptor more for an agent whose checks open one each: they prove nothing any more",
        bound=5.5,
        path=True,
    ),
    Fault(
        name="suspension",
        text="SIGSTOP to the agent for 30 s; its real servers are out of reach when it goes on",
        bound=2.5,
        said="<= 2.5 s, does not come back",
    ),
    Fault(name="router-restart", text="the router's BGP daemon stops and starts", where="router"),
    Fault(name="reload", text="another configuration on every node", where="nodes", quiet=True),
    Fault(
        name="two-nodes",
        text="SIGKILL to one node's agent and SIGSTOP to another's ExaBGP",
        bound=3.5,
        where="both",
        balancers=3,
    ),
    Fault(
        name="server-and-node",
        text="a real server dies and a node's ExaBGP is killed",
        bound=0.2,
        where="both",
    ),
    Fault(name="server-death", text="a real server dies", where="server", quiet=True),
    Fault(name="server-return", text="it comes back", where="server", quiet=True),
    Fault(name="server-add", text="reload with one more real server", where="server", quiet=True),
    Fault(
        name="server-remove",
        text="reload without it: its connections have `server_drain` (5 s), then they are lost",
        where="server",
        quiet=True,
    ),
    Fault(
        name="sync",
        text="with `connection_sync`: a real server is added, then a node's ExaBGP is killed",
        bound=0.2,
        where="both",
    ),
    Fault(
        name="server-blink", text="a real server dies and comes back", where="server", quiet=True, alone=True
    ),
    Fault(name=RANDOM, text="single faults in random order for DURATION seconds", where=""),
)
# Where the balancers know one another (`fleet:`), besides: none of it may cost a route.
FLEET_FAULTS = (
    Fault(
        name="drain-refused",
        text="`maintenance on` where the others would stand at 90 % without the node (of two: 45 % each): refused",
        quiet=True,
    ),
    Fault(
        name="two-drains",
        text="`maintenance on` on two nodes in the same instant, five times",
        where="both",
        said="never two out",
    ),
    Fault(
        name="cut-off",
        text="a node and the others do not reach one another, its routers and real servers are reached",
        quiet=True,
    ),
    Fault(
        name="peers-garbage",
        text="in a node's place garbage is answered, no document, an answer without an end, nothing",
        quiet=True,
    ),
    Fault(
        name="clocks-apart",
        text="one node's agent is an hour ahead, another's an hour behind; then both leave, one after the other",
        where="both",
        path=True,
    ),
    Fault(
        name="shared-failure",
        text="with `last_resort`: all checks fail on all nodes; real servers answer clients on",
        where="nodes",
        said="the router is never without a route",
    ),
    Fault(
        name="etcd-lost",
        text="with `view: etcd`: the leader of three is killed, then a second member; both come back",
        where="",
        quiet=True,
    ),
)
BY_NAME = {fault.name: fault for fault in FAULTS}
# Where BIRD announces what `anycast announce-table` writes, these are called otherwise; the bounds are the same.
_BY_BIRD = {
    "plugin-kill": ("announcer-kill", "SIGKILL to `anycast announce-table`: its unit removes the routes"),
    "plugin-stop": (
        "announcer-stop",
        "SIGSTOP to `anycast announce-table`: the watchdog ends it, its unit removes the routes",
    ),
    "exabgp-term": ("bird-term", "SIGTERM to BIRD"),
    "exabgp-kill": ("bird-kill", "SIGKILL to BIRD"),
    "exabgp-stop": ("bird-stop", "SIGSTOP to BIRD: the hold time of 3 s"),
}
# Of ExaBGP's own healthcheck, in the place of agent and plugin; what it does is shown, not judged.
PEER_FAULTS = {
    "drain": "its `--disable` file",
    "plugin-kill": "SIGKILL to the script",
    "plugin-stop": "SIGSTOP to the script",
    "exabgp-kill": "SIGKILL to ExaBGP",
}


# Measured on this kernel, not the lab's: `lab.bench_start`.
FIGURES = {
    "cold-start": "ExaBGP and plugin from exec to the router's table, the agent being healthy (median <= 0.45 s)",
    "plugin-restart": "SIGKILL to the plugin until its route has gone (<= 0.5 s)",
    "outcome-wire": "from the last failing outcome of a check to the UPDATE on the wire (median <= 5 ms)",
}

# In a lab of its own, beside keepalived: `lab.silent`.
SILENT = "silent-server"
SILENT_TEXT = (
    "a real server loses its link, its process or itself stands still, under 200 new connections a second: how long "
    "clients wait, and with keepalived (nobody without a server; <= 1.5 s, with checks each second <= 7.5 s)"
)


def faults_of(speaker: Speaker, *, fleet: bool = False) -> tuple[Fault, ...]:
    """Of a site whose balancers announce by that, and know one another."""
    faults = (*FAULTS, *FLEET_FAULTS) if fleet else FAULTS
    return faults if speaker == "exabgp" else tuple(map(_by_bird, faults))


def _by_bird(fault: Fault) -> Fault:
    name, text = _BY_BIRD.get(fault.name, (fault.name, fault.text.replace("ExaBGP", "BIRD")))
    return replace(fault, name=name, text=text, method=fault.act)


class OptionError(Exception):
    """Cannot be run so; the message has every problem on a line of its own, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    faults: tuple[Fault, ...]
    peer_faults: tuple[str, ...]
    figures: tuple[str, ...] = ()
    silent: bool = False
    nodes: int = 3
    servers: int = 4
    connections: int = 600
    new: float = 20.0  # connections a second
    seed: int = 1
    duration: float = 600.0  # seconds of random faults
    firewall: bool = False  # a stateful one on every balancer, with the rendered rules
    fleet: bool = False  # the balancers know one another
    speaker: Speaker = "exabgp"

    @property
    def memory(self) -> int:
        """MiB the lab's kernel needs: agent, ExaBGP and plugin of a node share nothing. In a fleet there is one more."""
        return max(2048, 1024 + (200 if self.fleet else 160) * self.nodes)


def options(
    *,
    faults: str = "",
    nodes: int = 3,
    connections: int = 600,
    seed: int = 1,
    duration: float = 600.0,
    peer: str = "",
    most_nodes: int = 32,
    firewall: bool = False,
    speaker: str = "exabgp",
    fleet: bool = False,
) -> Options:
    """Raises OptionError. `faults`: names with commas; empty: all. `peer` empty: with all of them, else not."""
    wrong = []
    by_bird = speaker == "bird"
    known = faults_of("bird" if by_bird else "exabgp", fleet=fleet)
    others = () if by_bird else (*FIGURES, SILENT)  # that are of ExaBGP, or of no speaker
    names = [name for name in (word.strip() for word in faults.split(",")) if name]
    unknown = [name for name in names if name not in others and all(name != one.name for one in known)]
    if speaker not in SPEAKERS:
        wrong.append(f"SPEAKER={speaker}: {' or '.join(SPEAKERS)}")
    wanting = [name for name in unknown if any(name == one.name for one in FLEET_FAULTS)]
    unknown = [name for name in unknown if name not in wanting]
    if wanting:
        wrong.append(f"FAULTS: of a fleet alone, with FLEET=1: {', '.join(wanting)}")
    if unknown:
        wrong.append(f"FAULTS: no such fault: {', '.join(unknown)} (FAULTS=help lists them)")
    if not 2 <= nodes <= most_nodes:
        wrong.append(f"NODES={nodes}: 2 to {most_nodes}")
    if not 1 <= connections <= 5000:
        wrong.append(f"CONNECTIONS={connections}: 1 to 5000")
    if not 0 <= duration <= 86400:
        wrong.append(f"DURATION={duration:g}: 0 to 86400 seconds")
    if peer not in ("", "healthcheck", "none"):
        wrong.append(f"PEER={peer}: healthcheck or none")
    elif peer == "healthcheck" and by_bird:
        wrong.append("PEER=healthcheck: it is ExaBGP's, and SPEAKER=bird has none")
    # In the order of the table, whatever the order on the command line: some rest on others.
    chosen = [fault for fault in known if fault.name in names or not names]
    if not names:
        chosen = [fault for fault in chosen if fault.name != "server-blink"]
        chosen = [fault for fault in chosen if fault.balancers <= nodes]
    wrong += [
        f"NODES={nodes}: {fault.name} needs {fault.balancers}"
        for fault in chosen
        if 2 <= nodes < fault.balancers
    ]
    if not duration:
        chosen = [fault for fault in chosen if fault.name != RANDOM]
    shown = not by_bird and (peer == "healthcheck" or (not peer and not names))
    peers = tuple(name for name in PEER_FAULTS if shown and any(fault.name == name for fault in chosen))
    if peer == "healthcheck" and not by_bird and not peers and not unknown:
        wrong.append(f"PEER=healthcheck: nothing to compare: it has {', '.join(PEER_FAULTS)}")
    if wrong:
        raise OptionError("\n".join(wrong))
    return Options(
        faults=tuple(chosen),
        peer_faults=peers,
        figures=tuple(name for name in FIGURES if name in names or not (names or by_bird)),
        silent=SILENT in names or not (names or by_bird),
        nodes=nodes,
        connections=connections,
        seed=seed,
        duration=duration,
        firewall=firewall,
        fleet=fleet,
        speaker="bird" if by_bird else "exabgp",
    )


def listing(speaker: Speaker = "exabgp", *, fleet: bool = False) -> str:
    """For FAULTS=help."""
    by_exabgp = speaker == "exabgp"
    texts = {}
    for fault in faults_of(speaker, fleet=fleet):
        promise = f" ({fault.promise})" if fault.promise != "-" else ""
        beside = " [PEER=healthcheck too]" if by_exabgp and fault.name in PEER_FAULTS else ""
        texts[fault.name] = f"{fault.text}{promise}{beside}"
    if by_exabgp:
        texts |= {**FIGURES, SILENT: SILENT_TEXT}
    width = max(map(len, texts))
    lines = []
    for name in texts:
        indent = " " * (width + 2)
        lines += textwrap.wrap(f"{name.ljust(width)}  {texts[name]}", 110, subsequent_indent=indent)
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Turn:
    """One of the random faults: to which node or real server, and how long to wait before it."""

    fault: Fault
    where: str
    wait: float


def turns(
    seed: int, nodes: Sequence[str], servers: Sequence[str], speaker: Speaker = "exabgp"
) -> Iterator[Turn]:
    """Without end; the same for the same arguments. Every fault has come once before any comes again."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    singles = [fault for fault in faults_of(speaker) if fault.alone]
    while True:
        for fault in rng.sample(singles, len(singles)):
            where = rng.choice(servers if fault.where == "server" else nodes)
            yield Turn(fault, where, round(rng.uniform(0.0, 2.0), 3))
