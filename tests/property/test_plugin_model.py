"""The planner against a model of ExaBGP 5: late answers, refusals, sessions, leases, restarts."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_network
from typing import ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from anycast.core.values.lease import full_lease
from anycast.core.values.route import Prefix, Route, Variant
from anycast.plugin import codec, plan
from anycast.plugin.conversation import WINDOW
from anycast.plugin.plan import Planner
from tests.property.exabgp_model import ROUTER, ExaBgp, Peer

PREFIXES = tuple(ip_network(f"192.0.2.{n}/32") for n in range(1, 5))
OWN = PREFIXES[:2]
FICKLE = PREFIXES[1:3]  # those that ExaBGP may refuse
MEDS = (None, 100, 200)
TTL = 2.0


def prefixes_of(command: str) -> list[str]:
    words = alone(command).split()
    return words[words.index("nlri") + 1 :] if "nlri" in words else words[2:3] if " route " in command else []


def alone(command: str) -> str:
    """Without the neighbors that it is for."""
    return command[max(0, *(command.find(f"{word} ") for word in ("announce", "withdraw"))) :]


def neighbors_of(command: str) -> list[str]:
    """Those that it is for; an empty name: all."""
    words = command.removesuffix(alone(command)).split()
    return words[1::3] or [""]


def is_announce(command: str) -> bool:
    return alone(command).startswith("announce")


def told(one: Route, neighbor: str) -> str | None:
    """The attributes by which this neighbor is sent it; None: it is not."""
    if not one.variants:
        return codec.announce(one).split(maxsplit=3)[3]
    for variant in one.variants:
        if neighbor in variant.neighbors:
            return codec.announce(variant.route).split(maxsplit=3)[3]
    return None


class PluginMachine(RuleBasedStateMachine):
    NEIGHBORS: ClassVar[tuple[str, ...]] = (ROUTER,)

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.now = 1000.0
        self.exabgp = ExaBgp(self.NEIGHBORS)
        self.stored: tuple[Route, ...] = ()
        self.writable = True
        self.told_unwritable = False
        self.own = frozenset[Prefix]()
        self.wanted: tuple[Route, ...] = ()
        self.expires = 0.0
        self.seq = 0
        self.plan = Planner(own=OWN, now=self.now)
        self.unanswered: list[str] = []
        self.strays = 0
        self.reloaded = False  # ExaBGP has read its configuration again
        self.inherited = False  # this life gets answers that were for the one before

    @initialize(own=st.sampled_from((OWN, PREFIXES)), batches=st.booleans())
    def start(self, own: tuple[Prefix, ...], *, batches: bool) -> None:
        self.patch.setattr(plan, "BATCH_FROM", 2 if batches else 100)
        self.own, self.plan = frozenset(own), Planner(own=own, now=self.now)
        self.work()

    def work(self) -> None:
        """What the plugin does in each pass."""
        self.plan.tick(self.now)
        content = self.plan.journal(self.now)
        if content is not None and self.writable:
            self.stored = content.routes if content.whole else (*self.stored, *content.routes)
            self.told_unwritable = False
            self.plan.journaled(content, self.now)
        elif content is not None:
            self.told_unwritable = True
            self.plan.journal_failed("read-only", self.now)
        commands = self.plan.commands(self.now)
        assert self.plan.stuck is None, self.plan.stuck
        for command in commands:
            if is_announce(command):
                self.no_announce_without_a_lease_or_a_journal(command)
        self.exabgp.commands += commands
        self.unanswered += commands
        for neighbor in self.exabgp.peers:
            prefixes = [
                prefix
                for command in self.unanswered
                if not {"", neighbor}.isdisjoint(neighbors_of(command))
                for prefix in prefixes_of(command)
            ]
            if self.plan.ready:  # before that, answers to the life before may have been taken for ours
                assert len(prefixes) == len(set(prefixes)), "two commands for one prefix"
        if self.plan.ready:
            assert len(self.unanswered) <= WINDOW

    def no_announce_without_a_lease_or_a_journal(self, command: str) -> None:
        assert self.now < self.expires, "announced without a lease"
        known = {
            codec.announce(each)
            for route in self.stored
            for each in (route, *(variant.route for variant in route.variants))
        }
        words = alone(command)
        attributes = words.split(" nlri ", maxsplit=1)[0].split(maxsplit=2 if " nlri " in words else 3)[-1]
        for prefix in prefixes_of(command):
            by_itself = f"announce route {prefix} {attributes}"
            assert by_itself in known or (self.told_unwritable and ip_network(prefix) in self.own)

    def route(self, prefix: Prefix, med: int | None) -> Route:
        """With a MED of 200: with everything a backup has."""
        if med != 200:
            return Route(prefix=prefix, med=med)
        return Route(prefix=prefix, med=med, as_path=(65001,) * 4, extended_communities=("target:1:2",))

    def hear(self, count: int) -> None:
        """The plugin reads `count` lines. ExaBGP has sent what it could by then."""
        self.exabgp.send(self.now)
        for _ in range(min(count, len(self.exabgp.output))):
            line = codec.parse(self.exabgp.output.pop(0).encode())
            if isinstance(line, codec.Done | codec.Refused):
                if self.strays:
                    self.strays -= 1
                else:
                    del self.unanswered[0]
            self.plan.line(line, self.now)
            self.work()

    def lease(self) -> None:
        self.seq += 1
        self.expires = self.now + TTL
        lease = full_lease(seq=self.seq, issued=self.now, ttl=TTL, routes=self.wanted, owned=PREFIXES)
        self.plan.lease([lease], self.now)
        self.work()

    def exchange(self) -> None:
        while self.exabgp.commands or self.exabgp.output:
            while self.exabgp.commands:
                self.exabgp.read_one()
            self.hear(1000)

    @rule(meds=st.lists(st.sampled_from((*MEDS, "absent")), min_size=4, max_size=4))
    def the_agent_wants(self, meds: list[int | str | None]) -> None:
        pairs = zip(PREFIXES, meds, strict=True)
        self.wanted = tuple(
            self.route(prefix, med) for prefix, med in pairs if med is None or isinstance(med, int)
        )
        self.lease()

    @rule()
    def the_agent_renews(self) -> None:
        self.lease()

    @rule(index=st.integers(0, 3), meds=st.lists(st.sampled_from((*MEDS, "absent")), min_size=2, max_size=4))
    def the_agent_changes_its_mind_about_one(self, index: int, meds: list[int | str | None]) -> None:
        for med in meds:
            others = tuple(route for route in self.wanted if route.prefix != PREFIXES[index])
            mine = (self.route(PREFIXES[index], med),) if med is None or isinstance(med, int) else ()
            self.wanted = (*others, *mine)
            self.lease()
            self.exchange()

    @rule(count=st.integers(1, 5))
    def exabgp_reads(self, count: int) -> None:
        for _ in range(min(count, len(self.exabgp.commands))):
            self.exabgp.read_one()

    @rule(count=st.integers(1, 5))
    def answers_arrive(self, count: int) -> None:
        self.hear(count)

    @rule(seconds=st.sampled_from((0.01, 0.3, 0.9)))
    def time_passes(self, seconds: float) -> None:
        since = self.plan.report(pid=1, exabgp_pid=2).silent_since
        if since is not None and self.now - since + seconds > 3.0:
            self.exchange()
        self.now += seconds
        self.exabgp.send(self.now)
        self.work()

    @rule(up=st.booleans(), which=st.integers(0, 2))
    def the_session_changes(self, up: bool, which: int) -> None:  # noqa: FBT001
        names = list(self.exabgp.peers)
        name = names[which % len(names)]
        if up != self.exabgp.peers[name].up:
            self.exabgp.session(self.now, up=up, neighbor=name)

    @rule(prefix=st.sampled_from(FICKLE))
    def exabgp_starts_or_ends_refusing(self, prefix: Prefix) -> None:
        self.exabgp.refuses ^= {str(prefix)}

    @rule()
    def the_journal_breaks_or_mends(self) -> None:
        self.writable = not self.writable

    # A life takes longer to start than ExaBGP takes to answer: what it owes comes from one life only.
    @precondition(lambda self: self.writable and (self.plan.ready or not self.inherited))
    @rule(survives=st.booleans(), read=st.integers(0, 4))
    def the_plugin_is_killed(self, survives: bool, read: int) -> None:  # noqa: FBT001
        for _ in range(min(read, len(self.exabgp.commands))):
            self.exabgp.read_one()
        self.exabgp.commands.clear()
        self.unanswered.clear()
        self.strays = sum(line in {"done", "error"} for line in self.exabgp.output)
        self.inherited = bool(self.strays)
        # Without its journal the next life must own every prefix by its command line.
        own = OWN if survives and self.everything_announced_is_journaled() else PREFIXES
        self.stored = self.stored if survives else ()
        self.own, self.told_unwritable = frozenset(own), False
        self.plan = Planner(own=own, journal=self.stored, now=self.now)
        self.expires = 0.0
        before = len(self.exabgp.commands)
        self.work()
        assert not any(map(is_announce, self.exabgp.commands[before:]))

    def everything_announced_is_journaled(self) -> bool:
        journaled = {str(route.prefix) for route in self.stored}
        return self.cached() <= journaled | {str(prefix) for prefix in OWN}

    def cached(self) -> set[str]:
        return {prefix for peer in self.exabgp.peers.values() for prefix in peer.cache}

    @invariant()
    def what_is_acknowledged_as_withdrawn_is_in_no_table_and_on_no_way_to_it(self) -> None:
        announced = {str(prefix) for prefix in self.plan.report(pid=1, exabgp_pid=2).announced}
        commands = self.exabgp.commands
        written = {each for one in commands if is_announce(one) for each in prefixes_of(one)}
        assert self.cached() | written <= announced

    @invariant()
    def the_report_names_the_lease_that_is_followed(self) -> None:
        seq = self.plan.report(pid=1, exabgp_pid=2).seq
        assert seq == (self.seq if self.expires else 0)

    @rule()
    def once_exabgp_has_answered_all_no_prefix_waits_for_another(self) -> None:
        self.lease()
        self.exchange()
        if not self.plan.ready:  # an answer owed to the life before is waited out
            return
        report = self.plan.report(pid=1, exabgp_pid=2)
        wanted = {route.prefix for route in self.wanted}
        for prefix in PREFIXES:
            if prefix in FICKLE:
                continue  # it may wait until it is tried again
            if prefix not in wanted:
                assert prefix not in report.announced, f"{prefix} is withdrawn, and that is not acknowledged"
            elif self.reloaded:
                continue  # it may wait until the neighbors are known
            elif not self.told_unwritable or prefix in self.own:
                assert prefix in report.announced, f"{prefix} is wanted and not announced"
                assert prefix not in report.pending

    @invariant()
    def nothing_is_announced_once_the_withdraws_after_the_lease_are_acknowledged(self) -> None:
        self.work()
        if self.now >= self.expires and self.plan.all_down and not self.strays:
            assert not self.cached()

    @invariant()
    def what_counts_as_settled_is_what_exabgp_holds_for_each_neighbor(self) -> None:
        self.work()
        # A neighbor that is new is known later; an answer owed to the life before may count as ours.
        if self.plan.settled and not self.reloaded and not self.inherited:
            wanted = self.wanted if self.now < self.expires else ()
            for name, peer in self.exabgp.peers.items():
                assert peer.cache == self.sent_to(name, wanted), name

    @staticmethod
    def sent_to(neighbor: str, routes: tuple[Route, ...]) -> dict[str, str]:
        return {str(r.prefix): words for r in routes if (words := told(r, neighbor)) is not None}

    def everything_settles(self) -> None:
        self.exabgp.refuses.clear()
        self.writable = True
        for name, peer in self.exabgp.peers.items():
            if not peer.up:
                self.exabgp.session(self.now, up=True, neighbor=name)
        for passes in range(60):
            self.lease()
            self.exchange()
            self.now += 0.9
            self.exabgp.send(self.now)
            if passes > 5 and self.plan.settled:  # the pile is sent, all has been said once more
                break
        self.exchange()
        assert self.plan.settled
        report = self.plan.report(pid=1, exabgp_pid=2)
        assert report.seq == self.seq
        assert not report.failed
        assert not report.pending
        for name, peer in self.exabgp.peers.items():
            wanted = self.sent_to(name, self.wanted)
            assert peer.router == wanted, name
            assert peer.cache == wanted, name
        assert report.announced == {one.prefix for one in self.wanted}
        assert set(self.stored) == set(self.wanted)

    def teardown(self) -> None:
        try:
            self.everything_settles()
        finally:
            self.patch.undo()


class VariantsMachine(PluginMachine):
    """Neighbors that are not sent the same, and come and go."""

    NEIGHBORS = (ROUTER, "192.0.2.253", "2001:db8::fe")

    def route(self, prefix: Prefix, med: int | None) -> Route:
        first, second, third = self.NEIGHBORS
        plain = Route(prefix=prefix, med=med)
        other = Route(prefix=prefix, med=7, as_path=(65001,) * 2)
        variants: tuple[Variant, ...]
        match med:
            case 100:
                variants = (
                    Variant(neighbors=(first, third), route=plain),
                    Variant(neighbors=(second,), route=other),
                )
            case 200:
                variants = (Variant(neighbors=(second,), route=plain),)
            case _:
                return plain
        return replace(plain, variants=variants)

    @rule(which=st.integers(1, 2))
    def exabgp_reads_its_configuration_again(self, which: int) -> None:
        """With a neighbor more, or without one; never without the first. One that is new has not been sent anything."""
        self.reloaded = True
        name = self.NEIGHBORS[which]
        if name in self.exabgp.peers:
            del self.exabgp.peers[name]
        else:
            self.exabgp.peers[name] = Peer()
        # A route that goes to every neighbor is what a new one is owed by ExaBGP itself.
        self.exabgp.output.append(json.dumps({"type": "signal", "neighbor": {"name": "SIGUSR1"}}))


TestVariants = VariantsMachine.TestCase
TestVariants.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestPlugin = PluginMachine.TestCase
TestPlugin.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
