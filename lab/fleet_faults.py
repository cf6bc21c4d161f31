"""What may fail between balancers that know one another (`fleet:`): none of it may cost a route. Inside the lab's kernel."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from anycast.cli import client
from lab import firewall, liars, netns
from lab.chaos_plan import Fault
from lab.errors import LabError
from lab.faults import FLEET_PORT, Faults
from lab.measuring import say
from lab.topology import VIPS
from lab.trial import PATIENCE, Facts
from lab.waiting import until
from tests.contract.etcd import BINARY, cluster

OVER = 0.9  # of its capacity at which each of the others would stand without the node
PLENTY = 10_000_000_000  # bits a second that no node of the lab carries
NEAR = 0.05  # of the share that is wanted
TRIES = 8
ROUNDS = 5  # of two drains at once
HOUR = 3600  # seconds
LIAR_PORT = FLEET_PORT + 5
_CLOCK = Path(__file__).with_name("clock.c")
# What is answered in a node's place, and what the others say of that.
LIES: tuple[tuple[liars.Bad, str], ...] = (
    (liars.garbage, "is no HTTP"),
    (liars.no_document, "it is no JSON"),
    (liars.other, "lb7 answers where"),
    (liars.for_ever, "larger than 4 MiB"),
    (liars.dripping, "no answer from"),
    (liars.silent, "no answer from"),
)


class FleetFaults(Faults):
    """Those of `Faults`, and of a fleet."""

    def drain_refused(self, fault: Fault, nodes: Sequence[str], _server: str) -> None:
        node = nodes[0]
        with self._reloaded({"fleet": {"capacity": {"bits": PLENTY}}}):
            stand = self._until_full(node)
            with self.trial.count(fault, node) as facts:
                answer = self.site.leave(node)
                said = _said(answer)
                if answer.ok or "would stand at" not in said:
                    facts.wrong.append(f"not refused for what the others can carry: {said}")
                facts.note = f"all stood at {stand}; {said}"
                say(f"  {facts.note}")
                self.trial.settled(facts)
            if answer.ok:
                self.site.come_back(node)

    def _until_full(self, node: str) -> str:
        """Gives the nodes so little capacity that without one the others would stand at `OVER`. How they stand then."""
        count = len(self.site.nodes)
        wanted = OVER * (count - 1) / count
        capacity, mean = float(PLENTY), 0.0
        for _ in range(TRIES):
            carried = self._carried(node)
            mean = sum(carried) / count / capacity
            if abs(mean - wanted) <= NEAR:
                return ", ".join(f"{one / capacity:.0%}" for one in carried)
            capacity = max(1000.0, round(capacity * mean / wanted))
            self.site.reload(more={"fleet": {"capacity": {"bits": int(capacity)}}})
            self._heard_by_all()
        raise LabError(f"what the nodes carry is not steady: {mean:.0%} of what would be {wanted:.0%}")

    def two_drains(self, fault: Fault, nodes: Sequence[str], _server: str) -> None:
        two = nodes[:2]
        with self.trial.count(fault, "+".join(two)) as facts:
            left = []
            for _ in range(ROUNDS):
                for node in two:
                    self.site.may_leave(node)
                with ThreadPoolExecutor(2) as pool:
                    answers = list(pool.map(self.site.leave, two))
                left.append(sum(answer.ok for answer in answers))
                for node in two:
                    self.site.come_back(node)
                self.trial.everywhere()
            facts.note = f"left at once: {', '.join(map(str, left))}"
            say(f"  {facts.note}")
            if max(left) > 1:
                facts.wrong.append("two were out at once")
            if not any(left):
                facts.wrong.append("nobody ever left")
            self.trial.settled(facts)

    def cut_off(self, fault: Fault, nodes: Sequence[str], _server: str) -> None:
        node = nodes[0]
        others = [other for other in self.site.nodes if other != node]
        self._heard_by_all()
        with self.trial.count(fault, node) as facts:
            with self.site.cut_off(node):
                for other in others:
                    self._believes(other, node, "gone", "no answer")
                    self._believes(node, other, "gone", "no answer")
                facts.note = f"all know after {time.monotonic() - facts.began:.1f} s"
                answer = self.site.leave(node)
                if answer.ok:
                    facts.wrong.append("it may leave though it hears nobody")
                    self.site.come_back(node)
                self.trial.settled(facts)
                self.trial.healing(facts)
            self._heard_by_all()

    def peers_garbage(self, fault: Fault, nodes: Sequence[str], _server: str) -> None:
        node = nodes[0]
        others = [other for other in self.site.nodes if other != node]
        elsewhere = {"nodes": {node: {"fleet": {"listen": self.site.door(node, LIAR_PORT)}}}}
        with self._reloaded({}), self.trial.count(fault, node) as facts:
            # The node itself stays where it is: the liar has its place for the others.
            for other in others:
                self.site.configure(other, more=elsewhere)
                self.site.ask(other, "POST", "/reload", {"allow_removal": True})
            for bad, why in LIES:
                with liars.serving(self._listener(node), bad):
                    for other in others:
                        self._believes(other, node, "", why)
            facts.note = f"{len(LIES)} lies, each named by {', '.join(others)}"
            self.trial.settled(facts)
            self.trial.healing(facts)

    def clocks_apart(self, fault: Fault, nodes: Sequence[str], _server: str) -> None:
        clocks = dict(zip(nodes[:2], (HOUR, -HOUR), strict=True))
        with tempfile.TemporaryDirectory() as folder:
            library = f"{folder}/clock.so"
            argv = ["gcc", "-O1", "-shared", "-fPIC", "-o", library, str(_CLOCK)]
            subprocess.run(argv, check=True, timeout=PATIENCE)
            try:
                for node, wrong in clocks.items():
                    self._again(node, {"LD_PRELOAD": library, "ANYCAST_LAB_CLOCK": str(wrong)})
                self._heard_by_all()
                with self.trial.count(fault, "+".join(clocks)) as facts:
                    for node, wrong in clocks.items():
                        self._leaves_and_comes_back(facts, node)
                        told = self.site.logged(node, "maintenance.began") - time.time()
                        if abs(told - wrong) > HOUR / 2:
                            facts.wrong.append(f"the clock of {node} is wrong by {told:.0f} s, not {wrong} s")
                    self.trial.settled(facts)
            finally:
                for node in clocks:
                    self._again(node, {})

    def shared_failure(self, fault: Fault, _nodes: Sequence[str], _server: str) -> None:
        if not firewall.has_legacy_tables():
            raise LabError("this kernel has no legacy tables of iptables, which this row needs")
        with (
            self._reloaded({"vips": {"web": {"when_unhealthy": "last_resort"}}}),
            self.trial.count(fault, "all") as facts,
        ):
            seen = len(self.lab.watch().events)
            with firewall.checks_dropped(self.lab, self.site.nodes):
                self._last_resort(on=True)
                facts.note = f"all are the last resort after {time.monotonic() - facts.began:.1f} s"
                self.trial.everywhere()
                self.trial.settled(facts)
                self.trial.healing(facts)
            self._last_resort(on=False)
            self.trial.everywhere()
            events = self.lab.watch().events[seen:]
            if not all(one.next_hops for one in events):
                facts.wrong.append("the router was without a route")

    def etcd_lost(self, fault: Fault, nodes: Sequence[str], _server: str) -> None:
        """The members run on the router's machine."""
        if BINARY is None:
            say("etcd-lost is left out: there is no etcd here (apt-get install etcd-server)")
            return
        node = nodes[0]
        others = [other for other in self.site.nodes if other != node]
        host = self.lab.topology.node("r1").interfaces["lan0"][0].partition("/")[0]
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            stack.enter_context(netns.inside("r1"))
            members = stack.enter_context(cluster(Path(folder), host=host))
            view = {"view": "etcd", "etcd": {"endpoints": list(members.endpoints)}}
            stack.enter_context(self._reloaded({"fleet": view}))
            facts = stack.enter_context(self.trial.count(fault, "etcd"))
            first = members.leader()
            members.kill(first)
            killed = time.monotonic()
            until(partial(self._read_since, node, killed), f"{node} to hear the others by etcd", PATIENCE)
            facts.note = f"heard again {time.monotonic() - killed:.1f} s after the leader was killed"
            say(f"  {facts.note}")
            members.kill((first + 1) % 3)
            for other in others:
                self._believes(node, other, "unknown", "etcd cannot be asked")
            answer = self.site.leave(node)
            if answer.ok:
                facts.wrong.append("it may leave though etcd has no majority")
                self.site.come_back(node)
            self.trial.settled(facts)
            self.trial.healing(facts)
            members.start(first)
            members.start((first + 1) % 3)
            self._heard_by_all()

    def _read_since(self, node: str, instant: float) -> bool:
        """Whether the node has heard every other one since."""
        past = time.monotonic() - instant
        found = self._beliefs(node).values()
        return all(one["belief"] == "heard" and one["age_s"] < past for one in found)

    def _leaves_and_comes_back(self, facts: Facts, node: str) -> None:
        self.site.may_leave(node)
        answer = self.site.leave(node)
        if not answer.ok:
            raise LabError(f"{node} may not leave: {_said(answer)}")
        rest = [other for other in self.site.nodes if other != node]
        for prefix in VIPS:
            self.lab.wait_route(prefix, rest, PATIENCE)
        self._works(facts, node)
        self.site.come_back(node)
        self.trial.everywhere()

    def _again(self, node: str, environment: Mapping[str, str]) -> None:
        """The node's agent ends and starts in that environment."""
        self.lab.stop(node, "agent", PATIENCE)
        self.lab.start(node, "agent", environment)
        self.trial.everywhere()

    def _listener(self, node: str) -> socket.socket:
        host, _, port = self.site.door(node, LIAR_PORT).rpartition(":")
        listener = netns.open_socket(node, socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, int(port)))
        listener.listen()
        return listener

    @contextlib.contextmanager
    def _reloaded(self, more: Mapping[str, Any]) -> Iterator[None]:
        """With that besides on every node, and without it afterwards."""
        self.site.reload(more=more)
        self._heard_by_all()
        try:
            yield
        finally:
            self.site.reload()
            self._heard_by_all()

    def _beliefs(self, node: str) -> dict[str, dict[str, Any]]:
        return {one["name"]: one for one in self._status(node)["fleet"]["nodes"]}

    def _status(self, node: str) -> dict[str, Any]:
        return self.site.ask(node, "GET", "/status")

    def _believes(self, node: str, other: str, belief: str, why: str) -> None:
        """Until it does; an empty `belief` is any but `heard`."""

        def look() -> bool:
            found = self._beliefs(node).get(other, {})
            now = found.get("belief")
            return (now == belief if belief else now != "heard") and why in found.get("why", "")

        until(look, f"{node} to say of {other}: {belief} {why}", PATIENCE)

    def _heard_by_all(self) -> None:
        everybody = set(self.site.nodes)
        for node in self.site.nodes:

            def look(node: str = node) -> bool:
                found = self._beliefs(node)
                return everybody - {node} == {
                    name
                    for name, one in found.items()
                    if one["belief"] == "heard" and node in (one["hears"] or ())
                }

            until(look, f"{node} and the others to hear one another", PATIENCE)

    def _carried(self, node: str) -> Sequence[float]:
        """Bits a second, by each node, once all have told a figure over the load alone: two that are about alike."""
        before: list[float] = []

        def look() -> list[float] | None:
            nonlocal before
            found = self._status(node)["headroom"]
            if not found or not found["complete"] or not all(one["today"] for one in found["nodes"]):
                return None
            now = [one["today"]["load"] for one in found["nodes"]]
            if len(now) != len(self.site.nodes) or now == before:
                return None
            alike = len(before) == len(now) and abs(sum(now) - sum(before)) <= 0.1 * sum(before)
            before = now
            return now if alike else None

        return until(look, f"{node} to know what all nodes carry", PATIENCE)

    def _last_resort(self, *, on: bool) -> None:
        for node in self.site.nodes:
            until(
                lambda node=node: self._status(node)["vips"][0]["last_resort"] is on,  # type: ignore[misc]
                f"{node} to be {'' if on else 'no longer '}the last resort",
                PATIENCE,
            )


def _said(answer: client.Answer) -> str:
    return str(answer.body.get("error", answer.body))[:300]
