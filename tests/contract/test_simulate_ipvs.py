"""What the simulator says of balancers, against the kernel's IPVS: the flows that break, and the choices that change.

Each balancer is a namespace with a table of its own. A router is not here (`test_simulate.py` has one): the simulator's
rule says to which balancer a flow is thrown. A flow is opened there by a handshake and sends its next packet, after each
step, to the balancer that has it then. What a new flow would be given is asked with datagrams of the same address and port:
under one-packet scheduling each of them is new, and mh and sh go by address and port alone.

`pytest -s -m lab` prints the figures of docs/measurements.md.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

pytest.importorskip("numpy")

import numpy as np

from anycast.analysis.simulate import PATHS, Act, Result, Router, Scheduler, Setup, Step, parsed, simulate
from anycast.core.dataplane.ipvs import ServiceEntry
from anycast.core.dataplane.kernel import StartSync, SyncRole
from anycast.core.values.configuration import Address, ConnectionSync, Protocol, SchedulerFlag
from anycast.kernel import sysctl
from tests.contract.namespaces import entered, made_namespace, run
from tests.contract.tables import played, server
from tests.contract.test_ipvs_behaviours import (
    ACK,
    FIN,
    SYN,
    Flow,
    Seen,
    datagram,
    nodes,
    segment,
    service,
)
from tests.contract.test_ipvs_flows import MH

pytestmark = pytest.mark.lab

FLOWS = 3000
TOLERANCE = 0.02
TCP, ALWAYS_NEW = service(4), service(4, Protocol.UDP)
FLAGS = {
    Scheduler.MH: MH,
    Scheduler.SH: frozenset({SchedulerFlag.SH_PORT, SchedulerFlag.SH_FALLBACK}),
    Scheduler.RR: frozenset[SchedulerFlag](),
    Scheduler.WLC: frozenset[SchedulerFlag](),
}
BY_TABLE = {Scheduler.MH, Scheduler.SH}  # what a new flow is given is known, whatever came before it
SYNC = ConnectionSync(interface="sync0", id=5)


@functools.cache
def packets() -> Mapping[int, Mapping[int, bytes]]:
    """Of each flow, which its port names: the segments by their flags, and a datagram (0)."""
    chance = random.Random(18)  # noqa: S311 - the same in each run
    flows: list[Flow] = [
        (IPv4Address("10.64.0.0") + chance.randrange(1 << 22), port)
        for port in chance.sample(range(10_000, 60_000), FLOWS)
    ]
    found = {
        flags: {flow[1]: segment(flow, TCP.port, flags) for flow in flows} for flags in (SYN, ACK, FIN | ACK)
    }
    return found | {0: {flow[1]: datagram(flow, ALWAYS_NEW.port) for flow in flows}}


class Site:
    """Balancers, by their places in the simulator as are the real servers. `spare`: have just started."""

    def __init__(self, setup: Setup, balancers: list[Seen], spare: list[Seen]) -> None:
        self._setup, self._balancers, self._spare = setup, balancers, spare
        self._chance = random.Random(setup.seed)  # noqa: S311
        self._flows = list(packets()[SYN])
        # Even, so that the share that moves is no matter of luck.
        places = np.arange(FLOWS) + np.random.default_rng(setup.seed).random(FLOWS)
        self._path = PATHS[setup.router](setup, (places * (2**31 / FLOWS)).astype(np.uint32))
        self._up = [True] * setup.nodes
        self._weights = list(setup.weights)
        self._dead: set[int] = set()
        self._removed: set[int] = set()
        self._node = self._thrown()
        self._write()
        self._server = self._opened(self._flows)
        assert self._server.keys() == set(self._flows)
        self._choices = self._new()
        self._until_told()

    def take(self, step: Step) -> Result:
        """The step, and what comes of each flow's next packet."""
        node, had, new = self._node, self._server, self._choices
        self._apply(step)
        self._node = self._thrown()
        gone = {self._address(place) for place in self._dead | self._removed}
        lost = {flow for flow, one in had.items() if one in gone}
        found = self._sent(self._flows, ACK)
        broken = {flow for flow, one in had.items() if flow not in lost and found.get(flow) != one}
        self._choices = self._new()
        other = {flow for flow, one in new.items() if flow not in lost and self._choices[flow] != one}
        again = [flow for flow in self._flows if flow in lost or flow not in found]
        self._sent(again, FIN | ACK)  # what a node still knows of them is over
        self._server = found | self._opened(again)
        self._until_told()
        here = list(self._node.values())
        counts = [here.count(place) for place, up in enumerate(self._up) if up]
        return Result(
            step=str(step),
            nodes=sum(self._up),
            moved=sum(node[flow] != self._node[flow] for flow in self._flows) / FLOWS,
            elsewhere=len(other) / FLOWS,
            broken=len(broken) / FLOWS,
            lost=len(lost) / FLOWS,
            least=min(counts) / FLOWS,
            most=max(counts) / FLOWS,
        )

    def _apply(self, step: Step) -> None:
        places = {one - 1 for one in step.which}
        match step.act:
            case Act.LEAVE:
                for place in places:
                    self._up[place] = False
            case Act.RETURN:
                for place in places:
                    self._balancers[place] = self._spare.pop() if self._spare else self._balancers[place]
                    self._up[place] = True
            case Act.ADD:
                self._weights += [step.weight] * len(places)
            case Act.REMOVE:
                self._removed |= places
            case Act.DIE:
                self._dead |= places
            case Act.BACK:
                self._dead -= places
            case Act.WEIGHT:
                for place in places:
                    self._weights[place] = step.weight
        self._write()

    @staticmethod
    def _address(place: int) -> Address:
        return IPv4Address("10.9.0.1") + place

    def _write(self) -> None:
        """The tables, as the agent writes them; where it has drifted, of a configuration in the opposite order."""
        ones = tuple(
            server(
                str(self._address(place)), weight=0 if place in self._dead else weight, table_weight=weight
            )
            for place, weight in enumerate(self._weights)
            if place not in self._removed
        )
        entry = ServiceEntry(
            scheduler=str(self._setup.scheduler), flags=FLAGS[self._setup.scheduler], destinations=ones
        )
        for place, one in enumerate(self._balancers):
            mine = entry
            if place >= self._setup.nodes - self._setup.drifted:
                mine = replace(entry, destinations=ones[::-1])
            if self._up[place]:
                one.node.become({TCP: mine, ALWAYS_NEW: replace(mine, one_packet=True)})

    def _thrown(self) -> dict[int, int]:
        return dict(zip(self._flows, map(int, self._path.nodes(self._up)), strict=True))

    def _new(self) -> dict[int, Address]:
        """What each flow would be given if it were new."""
        if self._setup.scheduler not in BY_TABLE:
            return {}
        found = self._sent(self._flows, 0)
        assert found.keys() == set(self._flows)
        return found

    def _opened(self, flows: Sequence[int]) -> dict[int, Address]:
        begun = self._sent(flows, SYN)
        assert self._sent(flows, ACK) == begun
        return begun

    def _sent(self, flows: Sequence[int], flags: int) -> dict[int, Address]:
        """The real servers that their packets are sent to, in an order of no meaning: rr and wlc go by it."""
        each: dict[int, list[int]] = {}
        for flow in self._chance.sample(flows, len(flows)):
            each.setdefault(self._node[flow], []).append(flow)
        found: dict[int, Address] = {}
        for place, mine in each.items():
            for one in self._balancers[place].gets(packets()[flags][flow] for flow in mine):
                assert one.flow is not None
                found[one.flow[1]] = one.server
        return found

    def _until_told(self) -> None:
        """All nodes know all connections, if they tell each other."""
        deadline = time.monotonic() + 60
        for place, one in enumerate(self._balancers):
            while self._setup.sync and self._up[place]:
                there = one.node.flows()
                missing = [flow for flow, own in self._server.items() if there.get(flow) != own]
                if not missing:
                    break
                assert time.monotonic() < deadline, f"balancer {place + 1} is not told of {len(missing)}"
                time.sleep(0.5)  # the kernel tells of it in no other way
                self._sent(missing, ACK)  # each packet tells of it again


@contextlib.contextmanager
def site(setup: Setup, spare: int = 0) -> Iterator[Site]:
    with (
        nodes(TCP, ServiceEntry(scheduler="mh", flags=MH), setup.nodes + spare) as found,
        made_namespace() as hub,
    ):
        for one in found:
            with one.node.inside():
                sysctl.write("net.ipv4.vs.sloppy_tcp", str(int(setup.sloppy)))
        if setup.sync:
            _joined(found, hub)
        yield Site(setup, found[: setup.nodes], found[setup.nodes :])


def _joined(found: list[Seen], hub: int) -> None:
    """The nodes tell each other of connections."""
    with entered(hub):
        run("ip", "-batch", "-", stdin="link add hub0 type bridge mcast_snooping 0\nlink set hub0 up\n")
    for number, one in enumerate(found, 1):
        with one.node.inside():
            peer = f"peer name port{number} netns /proc/{os.getpid()}/fd/{hub}"
            lines = (
                f"link add sync0 type veth {peer}\nlink set sync0 up\naddr add 10.3.0.{number}/24 dev sync0\n"
            )
            run("ip", "-batch", "-", stdin=lines)
        with entered(hub):
            run("ip", "link", "set", f"port{number}", "master", "hub0", "up")
    for one in found:
        with one.node.inside():
            # With every packet.
            sysctl.write("net.ipv4.vs.sync_threshold", "0 1")
            sysctl.write("net.ipv4.vs.sync_refresh_period", "0")
            for role in SyncRole:
                assert played(StartSync(role=role, sync=SYNC)) == ()


SHARES = ("moved", "elsewhere", "broken", "lost")
CASES = {
    "mh": (Setup(), "leave:2"),
    "mh, a server more": (Setup(), "server-add leave:2"),
    "mh, two servers more, hrw": (Setup(router=Router.HRW, nodes=4), "server-add:2 leave:2"),
    "mh, a server less": (Setup(weights=(1,) * 5), "server-remove:2 leave:2"),
    "mh, another weight": (Setup(weights=(1, 2, 3, 4)), "weight:1=5 leave:2"),
    "mh, a server dies": (Setup(), "server-dies:1 leave:1"),
    "mh, a server dies and is back": (Setup(), "server-dies:1 server-back:1 leave:3"),
    "mh, a table drifted": (Setup(weights=tuple(range(1, 11)) * 12, drifted=1), "leave:1"),
    "mh, a balancer started anew": (Setup(), "leave:2 server-add return:2"),
    "mh, no sloppy_tcp": (Setup(sloppy=False), "leave:1"),
    "mh, no sloppy_tcp, sync": (Setup(sloppy=False, sync=True), "server-add leave:1"),
    "sh": (Setup(scheduler=Scheduler.SH), "leave:2"),
    "sh, a server more": (Setup(scheduler=Scheduler.SH), "server-add leave:2"),
    "sh, another weight": (Setup(scheduler=Scheduler.SH, weights=(1, 2, 3, 4)), "weight:1=5 leave:2"),
    "sh, a table drifted": (Setup(scheduler=Scheduler.SH, weights=(1,) * 5, drifted=1), "leave:1"),
    "rr": (Setup(scheduler=Scheduler.RR), "leave:2"),
    "rr, weights": (Setup(scheduler=Scheduler.RR, weights=(1, 2, 3, 10)), "weight:1=5 leave:1"),
    "rr, a server dies and is back": (
        Setup(scheduler=Scheduler.RR),
        "server-dies:1 server-back:1 leave:1",
    ),
    "wlc": (Setup(scheduler=Scheduler.WLC, weights=(1, 2, 3, 4)), "leave:1"),
    "wlc, a server more": (Setup(scheduler=Scheduler.WLC), "server-add leave:1"),
    "wlc, a server dies and is back": (
        Setup(scheduler=Scheduler.WLC),
        "server-dies:1 server-back:1 leave:1",
    ),
}


def both(setup: Setup, text: str, *, anew: bool = True) -> tuple[list[Result], list[Result]]:
    """Simulated and measured. `anew`: a balancer that returns has been started anew."""
    servers, steps = len(setup.weights), list[Step]()
    for word in text.split():
        steps.append(parsed(word, setup.nodes, servers))
        servers += len(steps[-1].which) if steps[-1].act is Act.ADD else 0
    returns = sum(len(step.which) for step in steps if step.act is Act.RETURN)
    with site(setup, returns if anew else 0) as one:
        return simulate(setup, steps), [one.take(step) for step in steps]


@pytest.mark.parametrize("name", CASES)
def test_the_kernel_breaks_and_chooses_anew_what_is_simulated(name: str) -> None:
    expected, measured = both(*CASES[name])
    for there, here in zip(expected, measured, strict=True):
        cells = [f"{getattr(there, share):.1%} : {getattr(here, share):.1%}" for share in SHARES]
        print("|", " | ".join((name, f"`{there.step}`", *cells)), "|")
    for share in SHARES:
        assert [getattr(one, share) for one in measured] == pytest.approx(
            [getattr(one, share) for one in expected], abs=TOLERANCE
        ), share


def test_a_balancer_that_returns_before_its_connections_time_out_breaks_fewer_than_are_simulated() -> None:
    """It knows them: the simulator's is started anew, which is the worse case."""
    (*_, expected), (*_, measured) = both(Setup(), "leave:2 server-add return:2", anew=False)
    assert measured.moved == pytest.approx(expected.moved, abs=TOLERANCE)
    assert measured.broken == 0
    assert expected.broken > TOLERANCE
