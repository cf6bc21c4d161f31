"""The planner against a model of ExaBGP 5: late answers, refusals, sessions, leases, restarts."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from anycast.core.values.lease import full_lease
from anycast.core.values.route import Prefix, Route
from anycast.plugin import codec, plan
from anycast.plugin.conversation import WINDOW
from anycast.plugin.plan import Planner
from tests.property.exabgp_model import ExaBgp

PREFIXES = tuple(ip_network(f"192.0.2.{n}/32") for n in range(1, 5))
OWN = PREFIXES[:2]
FICKLE = PREFIXES[1:3]  # those that ExaBGP may refuse
MEDS = (None, 100, 200)
TTL = 2.0


def route(prefix: Prefix, med: int | None) -> Route:
    """Of a MED of 200: with everything a backup has."""
    if med != 200:
        return Route(prefix=prefix, med=med)
    return Route(prefix=prefix, med=med, as_path=(65001,) * 4, extended_communities=("target:1:2",))


def prefixes_of(command: str) -> list[str]:
    words = command.split()
    return words[words.index("nlri") + 1 :] if "nlri" in words else words[2:3] if " route " in command else []


class PluginMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.now = 1000.0
        self.exabgp = ExaBgp()
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
            if command.startswith("announce"):
                self.no_announce_without_a_lease_or_a_journal(command)
        self.exabgp.commands += commands
        self.unanswered += commands
        prefixes = [prefix for command in self.unanswered for prefix in prefixes_of(command)]
        if self.plan.ready:  # before that, answers to the life before may have been taken for ours
            assert len(prefixes) == len(set(prefixes)), "two commands for one prefix"
            assert len(self.unanswered) <= WINDOW

    def no_announce_without_a_lease_or_a_journal(self, command: str) -> None:
        assert self.now < self.expires, "announced without a lease"
        known = {codec.announce(route) for route in self.stored}
        attributes = command.split(" nlri ", maxsplit=1)[0].split(maxsplit=2 if " nlri " in command else 3)[
            -1
        ]
        for prefix in prefixes_of(command):
            alone = f"announce route {prefix} {attributes}"
            assert alone in known or (self.told_unwritable and ip_network(prefix) in self.own)

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
            route(prefix, med) for prefix, med in pairs if med is None or isinstance(med, int)
        )
        self.lease()

    @rule()
    def the_agent_renews(self) -> None:
        self.lease()

    @rule(index=st.integers(0, 3), meds=st.lists(st.sampled_from((*MEDS, "absent")), min_size=2, max_size=4))
    def the_agent_changes_its_mind_about_one(self, index: int, meds: list[int | str | None]) -> None:
        for med in meds:
            others = tuple(route for route in self.wanted if route.prefix != PREFIXES[index])
            mine = (route(PREFIXES[index], med),) if med is None or isinstance(med, int) else ()
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

    @rule(up=st.booleans())
    def the_session_changes(self, up: bool) -> None:  # noqa: FBT001
        if up != self.exabgp.up:
            self.exabgp.session(self.now, up=up)

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
        assert all(command.startswith("withdraw") for command in self.exabgp.commands[before:])

    def everything_announced_is_journaled(self) -> bool:
        journaled = {str(route.prefix) for route in self.stored}
        return set(self.exabgp.cache) <= journaled | {str(prefix) for prefix in OWN}

    @invariant()
    def what_is_acknowledged_as_withdrawn_is_in_no_table_and_on_no_way_to_it(self) -> None:
        announced = {str(prefix) for prefix in self.plan.report(pid=1, exabgp_pid=2).announced}
        commands = self.exabgp.commands
        written = {each for one in commands if one.startswith("announce") for each in prefixes_of(one)}
        assert set(self.exabgp.cache) | written <= announced

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
            elif not self.told_unwritable or prefix in self.own:
                assert prefix in report.announced, f"{prefix} is wanted and not announced"
                assert prefix not in report.pending

    @invariant()
    def nothing_is_announced_once_the_withdraws_after_the_lease_are_acknowledged(self) -> None:
        self.work()
        if self.now >= self.expires and self.plan.all_down and not self.strays:
            assert not self.exabgp.cache

    def everything_settles(self) -> None:
        self.exabgp.refuses.clear()
        self.writable = True
        if not self.exabgp.up:
            self.exabgp.session(self.now, up=True)
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
        wanted = {str(r.prefix): codec.announce(r).split(maxsplit=3)[3] for r in self.wanted}
        assert self.exabgp.router == wanted
        assert self.exabgp.cache == wanted
        assert {str(prefix) for prefix in report.announced} == set(wanted)
        assert set(self.stored) == set(self.wanted)

    def teardown(self) -> None:
        try:
            self.everything_settles()
        finally:
            self.patch.undo()


TestPlugin = PluginMachine.TestCase
TestPlugin.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
